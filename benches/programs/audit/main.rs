//! How many execs a second can be recorded: by Adit's group commit, and by what a service would do that commits each row
//! by itself, on the same PostgreSQL.
//!
//! An exec is two commits in both cases, the row before it runs and the row after its end. Adit's are those of its core
//! (`adit_actors::engine`), actors and all, with an instance that nobody answers for, so that nothing but its rows takes
//! time. Peers take turns. Prints one JSON object; `audit.py` makes a table of it. The arguments are the URL of an empty
//! database, the number of rounds and the seconds of each turn.

#[path = "../pool/world.rs"]
mod world;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use adit::store::{self, NewWorkspace, Store, TargetDefaults};
use adit_actors::clock::Clock;
use adit_actors::engine::{Boundaries, Engine, EngineSettings, ExecEvent};
use adit_actors::exec::{Caller, CallerKind, ExecRequest, ExecRequestParts, ExecSpec};
use futures_util::future::try_join_all;
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::time::Instant;
use uuid::Uuid;

use world::World;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Callers at once, each with one exec at a time: the limit of one org.
const CALLERS: usize = 256;

/// Connections of the peers that commit each row by itself: what one connection can do, and what a service would have.
const CONNECTIONS: [u32; 2] = [1, 16];

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, rounds, seconds] = arguments.as_slice() else {
        return Err("usage: audit URL ROUNDS SECONDS".into());
    };
    let (rounds, turn) = (rounds.parse()?, Duration::from_secs(seconds.parse()?));
    actix_rt::System::new().block_on(measure(url, rounds, turn))
}

async fn measure(url: &str, rounds: usize, turn: Duration) -> Outcome<()> {
    let workspace_id = Uuid::new_v4();
    let store = prepare(url, workspace_id).await?;
    let group = GroupCommit::start(store, workspace_id).await?;
    let mut group_commit = Vec::new();
    let mut peers = Vec::new();
    for connections in CONNECTIONS {
        let peer = SingleRows::connect(url, connections, workspace_id).await?;
        peers.push((connections, peer, Vec::new()));
    }
    for _ in 0..rounds {
        group_commit.push(rate(turn, || group.record()).await?);
        for (_, peer, rates) in &mut peers {
            rates.push(rate(turn, || peer.record()).await?);
        }
    }
    let single_rows: Vec<Value> = peers
        .iter()
        .map(|(connections, _, rates)| serde_json::json!({"connections": connections, "rates": rates}))
        .collect();
    let report = serde_json::json!({
        "callers": CALLERS,
        "group_commit": group_commit,
        "single_rows": single_rows,
    });
    println!("{report}");
    Ok(())
}

/// Execs a second that are recorded while all callers go on for that long.
async fn rate<Recorded>(turn: Duration, record: impl Fn() -> Recorded) -> Outcome<f64>
where
    Recorded: Future<Output = Outcome<()>>,
{
    let begun = Instant::now();
    let callers = (0..CALLERS).map(|_| async {
        let mut recorded = 0_u32;
        while begun.elapsed() < turn {
            record().await?;
            recorded += 1;
        }
        Ok::<u32, Box<dyn Error>>(recorded)
    });
    let recorded: u32 = try_join_all(callers).await?.into_iter().sum();
    Ok(f64::from(recorded) / begun.elapsed().as_secs_f64())
}

async fn prepare(url: &str, workspace_id: Uuid) -> Outcome<Arc<dyn Store>> {
    store::migrate(url).await?;
    let defaults = TargetDefaults {
        region: World::REGION.to_owned(),
        os_user: "bench".to_owned(),
        port: 22,
    };
    let store = store::connect(url, 1, defaults).await?;
    store
        .add_workspace(&NewWorkspace {
            id: workspace_id,
            name: "bench".to_owned(),
            org_id: None,
            tier: 4,
            instance_id: None,
            region: None,
            os_user: None,
            address: None,
            endpoint_id: None,
            endpoint_dns_name: None,
        })
        .await?;
    Ok(store)
}

/// Adit's own way.
struct GroupCommit {
    engine: Engine,
    workspace_id: Uuid,
    /// Its emulator ends with it.
    _world: World,
}

impl GroupCommit {
    async fn start(store: Arc<dyn Store>, workspace_id: Uuid) -> Outcome<Self> {
        let world = World::start().await?;
        let settings = EngineSettings {
            execs_per_token: 2 * CALLERS,
            execs_per_org: 2 * CALLERS,
            ..EngineSettings::default()
        };
        let boundaries = Boundaries {
            audit_store: store,
            ..world.boundaries()
        };
        let group = Self {
            engine: Engine::start(settings, boundaries, Clock::system()),
            workspace_id,
            _world: world,
        };
        // From now on the instance is backed off from, and refused at once.
        group.record().await?;
        Ok(group)
    }

    async fn record(&self) -> Outcome<()> {
        let spec = ExecSpec {
            exec_id: Uuid::new_v4(),
            workspace_id: self.workspace_id,
            target: World::target(World::REACHABLE + 1),
            request: ExecRequest::validate(ExecRequestParts {
                cmd: vec!["/bin/true".to_owned()],
                ..ExecRequestParts::default()
            })?,
            caller: Caller {
                kind: CallerKind::Workspace,
                id: Uuid::nil(),
                prefix: "bench".to_owned(),
                name: None,
            },
            remote_addr: None,
            request_id: None,
            body_hmac: None,
        };
        let mut running = self.engine.run(spec, self.engine.admit(Uuid::nil(), None)?);
        while let Some(event) = running.next().await {
            if let ExecEvent::Ended { exec, .. } = event {
                if exec.audit.committed {
                    return Ok(());
                }
                return Err(format!("an exec was not recorded: {exec:?}").into());
            }
        }
        Err("an exec never ended".into())
    }
}

/// The same rows, each of the two halves a statement and a commit of its own.
struct SingleRows {
    pool: PgPool,
    workspace_id: Uuid,
    request_body: Value,
    response_body: Value,
}

impl SingleRows {
    /// Takes the bodies from a row of Adit's, so that both write the same amount.
    async fn connect(url: &str, connections: u32, workspace_id: Uuid) -> Outcome<Self> {
        let pool = PgPoolOptions::new()
            .min_connections(connections)
            .max_connections(connections)
            // Callers wait their turn, all of them for as long as it takes.
            .acquire_timeout(Duration::from_secs(60))
            .test_before_acquire(false)
            .connect(url)
            .await?;
        let (request_body, response_body) = sqlx::query_as(
            "SELECT request_body, response_body FROM activity_logs WHERE status = 'error' LIMIT 1",
        )
        .fetch_one(&pool)
        .await?;
        Ok(Self {
            pool,
            workspace_id,
            request_body,
            response_body,
        })
    }

    async fn record(&self) -> Outcome<()> {
        let id = Uuid::new_v4();
        sqlx::query(
            "INSERT INTO activity_logs (id, workspace_id, activity_type, method, summary, request_body, status)
             VALUES ($1, $2, 'exec', 'POST /workspaces/:id/exec', 'a row of a bench', $3, 'running')",
        )
        .bind(id)
        .bind(self.workspace_id)
        .bind(&self.request_body)
        .execute(&self.pool)
        .await?;
        sqlx::query(
            "UPDATE activity_logs SET response_body = $2, duration_ms = 1, status = 'error' WHERE id = $1",
        )
        .bind(id)
        .bind(&self.response_body)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
