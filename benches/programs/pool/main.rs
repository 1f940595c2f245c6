//! How long the pool takes to answer when it knows one instance and when it knows ten thousand: the core alone
//! (`adit_actors::engine`), with an AWS that answers at once and a store that keeps nothing.
//!
//! Two engines take turns, so that whatever else the machine does falls on both. Prints one JSON object; `pool.py` makes a
//! table of it. Its two arguments are the number of instances and the number of rounds.

mod world;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_actors::clock::Clock;
use adit_actors::engine::{Engine, EngineSettings, ExecEvent};
use adit_actors::exec::{Caller, CallerKind, ErrorCode, Exec, ExecRequest, ExecRequestParts, ExecSpec};
use futures_util::future::try_join_all;
use tokio::time::Instant;
use uuid::Uuid;

use world::World;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Refusals of one kind in one round.
const REFUSALS: usize = 100;

/// Execs on the ready tunnel in one round.
const EXECS: usize = 25;

/// Instances made known at a time.
const REGISTERED_AT_A_TIME: usize = 500;

/// Between two warm asks: the spare channel is open again by then.
const PAUSE: Duration = Duration::from_millis(3);

/// Samples by name, in microseconds, a list for each round.
type Samples = BTreeMap<String, Vec<Vec<f64>>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(instances), Some(rounds)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pool INSTANCES ROUNDS".into());
    };
    let (instances, rounds) = (instances.parse()?, rounds.parse()?);
    actix_rt::System::new().block_on(measure(instances, rounds))
}

async fn measure(instances: usize, rounds: usize) -> Outcome<()> {
    let world = Arc::new(World::start().await?);
    let few = Rig::start(&world);
    few.register(1).await?;
    let before = resident_kib()?;
    let many = Rig::start(&world);
    many.register(instances).await?;
    let after = resident_kib()?;

    let mut samples = Samples::new();
    for _ in 0..rounds {
        for (name, rig, known) in [("few", &few, 1), ("many", &many, instances)] {
            let mut keep = |what: &str, taken| {
                samples.entry(format!("{what}_{name}")).or_default().push(taken);
            };
            keep("refusal_one", rig.refusals(0, 1).await?);
            keep("refusal_spread", rig.refusals(REFUSALS, known).await?);
            keep("warm", rig.warm().await?);
            keep("list", vec![rig.list(known).await?]);
        }
    }
    let report = serde_json::json!({
        "instances": instances,
        "kib_before": before,
        "kib_after": after,
        "microseconds": samples,
    });
    println!("{report}");
    Ok(())
}

/// One engine.
struct Rig {
    engine: Engine,
    world: Arc<World>,
}

impl Rig {
    fn start(world: &Arc<World>) -> Self {
        let settings = EngineSettings {
            execs_per_token: 1_024,
            ..EngineSettings::default()
        };
        Self {
            engine: Engine::start(settings, world.boundaries(), Clock::system()),
            world: Arc::clone(world),
        }
    }

    /// Makes the pool know so many instances that can't be reached, and opens the tunnel to the one that can.
    async fn register(&self, instances: usize) -> Outcome<()> {
        let numbers: Vec<usize> = (1..=instances).collect();
        for chunk in numbers.chunks(REGISTERED_AT_A_TIME) {
            for exec in try_join_all(chunk.iter().map(|number| self.run(*number))).await? {
                let code = exec.error.as_ref().map(|error| error.code);
                if code != Some(ErrorCode::TargetUnreachable) {
                    return Err(format!("an instance should be out of reach: {exec:?}").into());
                }
            }
        }
        self.run(World::REACHABLE).await?;
        Ok(())
    }

    /// From an ask to its refusal while the instance is in back-off, over `known` instances in turn, beginning with the
    /// `first`. What lies around the ask is in it: the exec's actor, and two rows for a store that answers at once.
    async fn refusals(&self, first: usize, known: usize) -> Outcome<Vec<f64>> {
        let mut taken = Vec::with_capacity(REFUSALS);
        for step in 0..REFUSALS {
            // A stride that meets many of them, on both arbiters.
            let number = 1 + (first + step * 47) % known;
            // Its last back-off may be over: this one begins another.
            self.run(number).await?;
            let dials = self.world.dials.load(Ordering::Relaxed);
            let start = Instant::now();
            self.run(number).await?;
            let took = microseconds(start.elapsed());
            if self.world.dials.load(Ordering::Relaxed) == dials {
                taken.push(took);
            }
        }
        if taken.len() < REFUSALS / 2 {
            return Err("most asks were not refused by the back-off".into());
        }
        Ok(taken)
    }

    /// `timing_ms.queued` of execs on a ready tunnel: from the exec's admission to its channel.
    async fn warm(&self) -> Outcome<Vec<f64>> {
        let mut taken = Vec::with_capacity(EXECS);
        for _ in 0..EXECS {
            let exec = self.run(World::REACHABLE).await?;
            match (exec.exit_code, exec.timing_ms.queued) {
                (Some(0), Some(milliseconds)) => taken.push(milliseconds * 1_000.0),
                _ => return Err(format!("a warm exec did not run: {exec:?}").into()),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(taken)
    }

    /// What `GET /admin/tunnels` asks for and writes.
    async fn list(&self, known: usize) -> Outcome<f64> {
        let start = Instant::now();
        let snapshots = self.engine.tunnels().await;
        let body = serde_json::to_vec(&serde_json::json!({ "data": snapshots }))?;
        let took = microseconds(start.elapsed());
        if snapshots.len() != known + 1 || body.is_empty() {
            return Err(format!("{} of {} instances were listed", snapshots.len(), known + 1).into());
        }
        Ok(took)
    }

    async fn run(&self, number: usize) -> Outcome<Exec> {
        let spec = ExecSpec {
            exec_id: Uuid::new_v4(),
            workspace_id: Uuid::nil(),
            target: World::target(number),
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
                return Ok(*exec);
            }
        }
        Err("an exec never ended".into())
    }
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000_000.0
}

/// Resident memory of this process.
fn resident_kib() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
