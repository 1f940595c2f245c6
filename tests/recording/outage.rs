//! PostgreSQL goes away under load and comes back: stopped, frozen with its connections open, or there and taking no rows.

use std::collections::HashSet;
use std::time::Duration;

use adit_actors::exec::Outcome;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::load::{Heard, Ledger, Load, ask, client, hold};
use crate::support::postgres::Database;
use crate::support::postgres_cluster::Cluster;
use crate::support::site::{Service, Site};
use crate::support::store::TestStore;
use crate::support::wait;
use crate::truth;

const CALLERS: usize = 64;
const HELD: usize = 8;

/// More than the program needs for what is in flight, and less than it would have after an outage in which every request
/// left something behind.
const MEMORY_LIMIT: u64 = 192 * 1024 * 1024;

/// Least seconds of an outage, for a look by hand. Without it an outage lasts until all has been seen that there is to see.
const LASTS: &str = "ADIT_TEST_OUTAGE_S";

#[tokio::test]
async fn stopped() {
    let mut world = World::start().await;
    world.cluster.stop().await;
    world.endures().await;
    // While the service is halted, the rows are those that it had committed before.
    world.service.signal(Signal::STOP);
    world.cluster.start_again().await;
    let rows: HashSet<Uuid> = world.site.store.rows().await.iter().map(|row| row.id).collect();
    for id in world.begun() {
        assert!(rows.contains(&id), "`{id}` ran before its begin was committed");
    }
    world.service.signal(Signal::CONT);
    world.recovers().await;
}

#[tokio::test]
async fn frozen() {
    let mut world = World::start().await;
    world.cluster.freeze();
    world.endures().await;
    world.cluster.thaw();
    world.recovers().await;
}

/// Callers are known all the same, so that nothing but the row stands between them and their command.
#[tokio::test]
async fn locked() {
    let mut world = World::start().await;
    let held = world.site.store.hold_writers().await;
    world.endures().await;
    held.let_go().await;
    world.recovers().await;
}

struct World {
    site: Site,
    service: Service,
    ledger: Ledger,
    load: Option<Load>,
    held_ledger: Ledger,
    held: tokio::task::JoinSet<Heard>,
    heard: Vec<Heard>,
    /// How much each caller had heard when all was well.
    heard_before: Vec<usize>,
    // Last, as the database is on it.
    cluster: Cluster,
}

impl World {
    /// A service under load with a server of its own, and some execs that will end only when they are told to.
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let database = Database::create_on(&cluster.url()).await;
        let site = Site::start(TestStore::Postgres(Box::new(database))).await;
        let service = site.serve().await;
        let (ledger, held_ledger) = (Ledger::new(), Ledger::new());
        let who = site.seed.workspace();
        let held = hold(HELD, service.address(), who, &held_ledger).await;
        let load = Load::start(CALLERS, who, &ledger);
        load.point_at(&[service.address()]);
        wait::until_true("every caller has been served", async || {
            load.heard().iter().all(|heard| heard.len() > 1)
        })
        .await;
        let heard_before = load.heard().iter().map(Vec::len).collect();
        Self {
            site,
            service,
            ledger,
            load: Some(load),
            held_ledger,
            held,
            heard: Vec::new(),
            heard_before,
            cluster,
        }
    }

    fn begun(&self) -> Vec<Uuid> {
        let mut begun = self.ledger.begun();
        begun.extend(self.held_ledger.begun());
        begun
    }

    async fn readiness(&self) -> u16 {
        self.service.api.get("/readyz", None).await.status
    }

    /// What holds during the outage, from its beginning to its end.
    async fn endures(&mut self) {
        let until = Instant::now() + least_duration();
        let load = self.load.take().unwrap();
        self.held_ledger.let_go();
        wait::until_true("every caller is refused", async || {
            let mut callers = load.heard().into_iter().zip(&self.heard_before);
            callers.all(|(heard, before)| heard[*before..].iter().any(is_refusal))
        })
        .await;
        // Each caller asks for one at a time, so all that was admitted before has ended.
        let begun = self.begun();
        while let Some(heard) = self.held.join_next().await {
            let heard = heard.unwrap();
            let exec = heard.exec.as_ref().unwrap_or_else(|| panic!("{heard:?}"));
            assert_eq!(
                (exec.outcome, exec.exit_code, exec.audit.committed),
                (Some(Outcome::Exited), Some(7), false),
                "{exec:?}"
            );
            self.heard.push(heard);
        }
        wait::until_true("`/readyz` is red", async || self.readiness().await == 503).await;
        sleep_until(until).await;
        assert_eq!(self.begun(), begun, "a command began without a committed row");
        let peak = self.service.peak_memory();
        println!("at most {} KiB", peak / 1024);
        assert!(peak < MEMORY_LIMIT, "{} MiB", peak / 1024 / 1024);
        load.point_at(&[]);
        self.heard.extend(load.stop().await);
        let longest = self
            .heard
            .iter()
            .filter(|heard| is_refusal(heard))
            .map(|heard| heard.took)
            .max();
        println!(
            "{} answers, the slowest refusal after {longest:?}",
            self.heard.len()
        );
    }

    /// What holds after it, although nobody asks for anything.
    async fn recovers(self) {
        wait::until_true("`/readyz` is green", async || self.readiness().await == 200).await;
        let rows = truth::all_final(&self.site.store).await;
        for id in self.held_ledger.begun() {
            let row = rows.iter().find(|row| row.id == id).unwrap();
            let exec = row.response_body.as_ref().unwrap();
            assert_eq!(
                (row.status.as_str(), &exec["exit_code"]),
                ("ok", &7.into()),
                "{row:?}"
            );
        }
        let mut heard = self.heard.clone();
        let body = serde_json::json!({"cmd": self.ledger.command("exit 0")});
        let after = ask(
            &client(),
            self.service.address(),
            self.site.seed.workspace(),
            &body,
        )
        .await;
        assert!(
            after.exec.as_ref().is_some_and(|exec| exec.audit.committed),
            "{after:?}"
        );
        heard.push(after);
        let rows = truth::all_final(&self.site.store).await;
        let totals = truth::check(&rows, &self.begun(), &heard);
        println!("{totals}");
        assert_eq!(totals.swept, 0, "nothing crashed: {totals}");
        assert_eq!(self.service.terminate().await, Some(0));
        self.site.emulator.stop().await;
    }
}

fn is_refusal(heard: &Heard) -> bool {
    (heard.status, heard.code.as_deref(), heard.may_retry) == (Some(503), Some("audit_unavailable"), true)
}

fn least_duration() -> Duration {
    let seconds = std::env::var(LASTS).map_or(0, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}
