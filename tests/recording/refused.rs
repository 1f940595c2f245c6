//! What the host does in its own database: a row that it locks, a rule that it adds. What meets one tenant's rows holds up
//! no other's, and a service that could record nothing says so by itself.

use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::task::JoinHandle;

use crate::load::{Heard, Ledger, Load, ask, client};
use crate::support::postgres::Database;
use crate::support::site::{Service, Site};
use crate::support::store::TestStore;
use crate::support::wait;
use crate::truth;

const CALLERS: usize = 8;
/// What each caller is to hear meanwhile: enough for dozens of batches, and for the pauses to grow.
const EXECS: usize = 400;

struct World {
    site: Site,
    service: Service,
    ledger: Ledger,
    /// The host's own.
    host: PgConnection,
}

impl World {
    async fn start() -> Self {
        let database = Database::create().await;
        let host = database.connect().await;
        let site = Site::start(TestStore::Postgres(Box::new(database))).await;
        Self {
            service: site.serve().await,
            site,
            ledger: Ledger::new(),
            host,
        }
    }

    async fn does(&mut self, statements: &str) {
        let statements = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
        self.host.execute(statements).await.unwrap();
    }

    /// One exec of the tenant beside the one whose rows are in trouble.
    async fn asks(&self, script: &str) -> Heard {
        let who = &self.site.seed.other_org;
        let body = json!({"cmd": self.ledger.command(script)});
        ask(&client(), self.service.address(), who, &body).await
    }

    /// One that runs until the ledger lets it go.
    async fn holds(&self) -> JoinHandle<Heard> {
        let before = self.ledger.begun().len();
        let (address, who) = (self.service.address(), self.site.seed.other_org.clone());
        let body = json!({"cmd": self.ledger.held_command(), "timeout_s": 120});
        let held = tokio::spawn(async move { ask(&client(), address, &who, &body).await });
        wait::until_true("the held one runs", async || self.ledger.begun().len() > before).await;
        held
    }

    async fn readiness(&self) -> u16 {
        self.service.api.get("/readyz", None).await.status
    }

    async fn ends(self, heard: &[Heard]) -> truth::Totals {
        let rows = truth::all_final(&self.site.store).await;
        let totals = truth::check(&rows, &self.ledger.begun(), heard);
        assert_eq!(totals.swept, 0, "nothing crashed: {totals}");
        assert_eq!(self.service.terminate().await, Some(0));
        self.site.emulator.stop().await;
        totals
    }
}

fn is_committed(heard: &Heard) -> bool {
    heard.status == Some(200) && heard.exec.as_ref().is_some_and(|exec| exec.audit.committed)
}

/// One tenant's trouble, made by `trouble` and ended by `end`: it is refused, and its exec that runs ends with its final row
/// or without, while the other's go on as if nothing were. `{workspace}` is the tenant in trouble.
async fn others_go_on(trouble: &str, end: &str, final_row_is_written: bool) {
    let mut world = World::start().await;
    let in_trouble = world.site.seed.other_org.id.to_string();
    let statements = |text: &str| text.replace("{workspace}", &in_trouble);
    let held = world.holds().await;
    world.does(&statements(trouble)).await;
    world.ledger.let_go();

    let load = Load::start(CALLERS, world.site.seed.workspace(), &world.ledger);
    load.point_at(&[world.service.address()]);
    let refused = world.asks("exit 0").await;
    assert_eq!(
        (refused.status, refused.code.as_deref(), refused.may_retry),
        (Some(503), Some("audit_unavailable"), true),
        "{refused:?}"
    );
    let held = held.await.unwrap();
    let exec = held.exec.as_ref().unwrap();
    assert_eq!(
        (held.status, exec.exit_code, exec.audit.committed),
        (Some(200), Some(7), final_row_is_written),
        "{held:?}"
    );
    wait::until_true("the others have run", async || {
        load.heard().iter().map(Vec::len).sum::<usize>() > EXECS
    })
    .await;
    assert_eq!(world.readiness().await, 200);
    load.point_at(&[]);
    let mut heard = load.stop().await;
    let others: Vec<&Heard> = heard.iter().filter(|heard| !is_committed(heard)).collect();
    assert!(others.is_empty(), "{others:#?}");

    world.does(&statements(end)).await;
    wait::until("its tenant is served again", async || {
        let again = world.asks("exit 0").await;
        let is_served = is_committed(&again);
        heard.push(again);
        is_served.then_some(())
    })
    .await;
    heard.extend([refused, held]);
    println!("{}", world.ends(&heard).await);
}

#[tokio::test]
async fn a_locked_workspace_holds_up_no_other() {
    others_go_on(
        "BEGIN; SELECT 1 FROM workspaces WHERE id = '{workspace}' FOR UPDATE",
        "ROLLBACK",
        true, // it leaves the workspace's id in its row as it was
    )
    .await;
}

#[tokio::test]
async fn a_trigger_against_one_workspace_holds_up_no_other() {
    others_go_on(
        "CREATE FUNCTION refuse() RETURNS TRIGGER LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'this workspace is suspended'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON activity_logs FOR EACH ROW
             WHEN (NEW.workspace_id = '{workspace}') EXECUTE FUNCTION refuse()",
        "DROP TRIGGER refuse ON activity_logs",
        false,
    )
    .await;
}

/// Not even a request is needed to see it.
#[tokio::test]
async fn a_table_that_takes_no_row_of_ours_is_no_readiness() {
    let mut world = World::start().await;
    let before = world.asks("exit 0").await;
    assert!(is_committed(&before), "{before:?}");
    let (refuse, allow) = (
        "ALTER TABLE activity_logs ADD region TEXT NOT NULL DEFAULT 'x';
         ALTER TABLE activity_logs ALTER region DROP DEFAULT",
        "ALTER TABLE activity_logs DROP region",
    );

    let held = world.holds().await;
    world.does(refuse).await;
    world.ledger.let_go();
    let held = held.await.unwrap();
    assert!(
        held.status == Some(200) && !is_committed(&held),
        "its end is told and not recorded: {held:?}"
    );
    let refused = world.asks("exit 0").await;
    assert_eq!(refused.code.as_deref(), Some("audit_unavailable"), "{refused:?}");
    wait::until_true("`/readyz` is red", async || world.readiness().await == 503).await;
    world.does(allow).await;
    wait::until_true("`/readyz` is green", async || world.readiness().await == 200).await;
    truth::all_final(&world.site.store).await;

    world.does(refuse).await;
    let another = world.site.serve().await;
    wait::until_true("`/readyz` of one that starts is red", async || {
        another.api.get("/readyz", None).await.status == 503
    })
    .await;
    world.does(allow).await;
    wait::until_true("and green again", async || {
        another.api.get("/readyz", None).await.status == 200
    })
    .await;
    assert_eq!(another.terminate().await, Some(0));
    let after = wait::until("it is served again", async || {
        let after = world.asks("exit 0").await;
        is_committed(&after).then_some(after)
    })
    .await;
    assert!(world.ledger.begun().len() == 3, "what was refused did not run");
    println!("{}", world.ends(&[before, held, refused, after]).await);
}
