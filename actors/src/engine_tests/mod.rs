//! The engine whole, on the current thread and under paused time: real actors and real SSH over an in-memory pipe,
//! with a scripted instance, AWS and store around them.

mod audit;
mod execs;
mod failures;
mod fakes;
mod instance;
mod look;
mod pool;
mod store;
mod wardens;

use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::task::LocalSet;
use tokio::time::Instant;

use self::fakes::{World, boundaries, target};
use self::instance::Instance;
use self::store::Store;
use super::*;
use crate::audit::{AuditRow, RowStatus};
use crate::exec::{
    Caller, CallerKind, ErrorCode, Exec, ExecRequest, ExecRequestParts, Outcome, OutputStream, Ran,
    TunnelTemperature,
};

struct Rig {
    engine: Engine,
    world: Arc<World>,
    store: Arc<Store>,
}

impl Rig {
    fn new(world: World) -> Self {
        Self::with(world, EngineSettings::default())
    }

    fn with(world: World, settings: EngineSettings) -> Self {
        Self::on(world, Arc::default(), settings)
    }

    /// One more process on the same store.
    fn on(world: World, store: Arc<Store>, settings: EngineSettings) -> Self {
        let world = Arc::new(world);
        let settings = EngineSettings {
            execs_per_token: 10_000,
            ..settings
        };
        let clock = Clock::from_fn(|| OffsetDateTime::UNIX_EPOCH);
        let engine = Engine::start_on(Arbiters::Current, settings, boundaries(&world, &store), clock);
        Self { engine, world, store }
    }

    fn start(&self, program: &str, timeout_s: u64) -> RunningExec {
        self.start_on(0, program, timeout_s)
    }

    fn start_on(&self, instance: usize, program: &str, timeout_s: u64) -> RunningExec {
        self.start_spec(spec(instance, program, timeout_s))
    }

    /// An exec whose id an Idempotency-Key has made.
    fn start_idempotent(&self, exec_id: Uuid, program: &str) -> RunningExec {
        self.start_spec(ExecSpec {
            exec_id,
            body_hmac: Some([7; 32]),
            ..spec(0, program, 0)
        })
    }

    fn start_spec(&self, spec: ExecSpec) -> RunningExec {
        let permit = self.engine.admit(Uuid::nil(), None).unwrap();
        self.engine.run(spec, permit)
    }

    /// Execs that hold a place in flight.
    fn in_flight(&self) -> usize {
        self.engine.live.ids().len()
    }

    /// Waits until both halves have asked the store whether it takes rows.
    async fn first_probes(&self) {
        while self.store.writes.load(Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until the audit commits again, and says for how long.
    async fn recovers(&self) -> Duration {
        let asked = Instant::now();
        while self.engine.audit_failing_for().is_some() {
            assert!(asked.elapsed() < Duration::from_secs(60), "it stays red");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        asked.elapsed()
    }

    async fn run(&self, program: &str) -> Exec {
        finish(self.start(program, 0)).await
    }

    fn row(&self, exec: &Exec) -> AuditRow {
        self.store.rows.lock().unwrap()[&exec.exec_id].clone()
    }

    fn requests(&self) -> usize {
        self.world.instance.lock().unwrap().seen.requests.load(Relaxed)
    }

    async fn tunnel(&self) -> crate::tunnel::TunnelSnapshot {
        self.engine.tunnels().await.remove(0).tunnels.remove(0)
    }
}

fn spec(instance: usize, program: &str, timeout_s: u64) -> ExecSpec {
    let parts = ExecRequestParts {
        cmd: vec![program.to_owned()],
        timeout_s,
        ..ExecRequestParts::default()
    };
    ExecSpec {
        exec_id: Uuid::new_v4(),
        workspace_id: Uuid::from_u128(1),
        target: target(instance),
        request: ExecRequest::validate(parts).unwrap(),
        caller: Caller {
            kind: CallerKind::Workspace,
            id: Uuid::nil(),
            prefix: "12345678".to_owned(),
            name: None,
        },
        remote_addr: None,
        request_id: None,
        body_hmac: None,
    }
}

async fn finish(running: RunningExec) -> Exec {
    gather(running).await.0
}

/// The end, and what was printed on each stream.
async fn gather(mut running: RunningExec) -> (Exec, Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut end = None;
    while let Some(event) = running.next().await {
        match event {
            ExecEvent::Output {
                stream: OutputStream::Stdout,
                data,
            } => stdout.extend(data),
            ExecEvent::Output {
                stream: OutputStream::Stderr,
                data,
            } => stderr.extend(data),
            ExecEvent::Started | ExecEvent::Truncated { .. } => {}
            ExecEvent::Ended { exec, .. } => end = Some(*exec),
        }
    }
    (end.unwrap(), stdout, stderr)
}

fn world() -> World {
    World::new(Instance::new())
}

fn code(exec: &Exec) -> Option<ErrorCode> {
    exec.error.as_ref().map(|error| error.code)
}

/// Runs a test on one thread with paused time: when nothing can go on, time jumps to the next timer.
fn paused<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(LocalSet::new().run_until(test))
}
