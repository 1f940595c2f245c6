//! One Idempotency-Key from many callers at once, on two services that share the database.

use adit_actors::exec::{Outcome, Ran};
use adit_emulator::InstanceState;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::load::{Heard, Ledger, ask_with, client};
use crate::support::seed::INSTANCE;
use crate::support::site::{Service, Site};
use crate::support::store::TestStore;
use crate::support::wait;
use crate::truth;

const CALLERS: usize = 50;

/// Two services and what they share.
struct World {
    site: Site,
    services: [Service; 2],
    ledger: Ledger,
}

impl World {
    async fn start() -> Self {
        let site = Site::start(TestStore::postgres().await).await;
        let services = [site.serve().await, site.serve().await];
        Self {
            site,
            services,
            ledger: Ledger::new(),
        }
    }

    /// Asks the services in turn, all at once.
    fn ask(&self, key: &'static str, body: &Value) -> JoinSet<Heard> {
        let client = client();
        let mut asking = JoinSet::new();
        for caller in 0..CALLERS {
            let service = self.services[caller % 2].address();
            let (client, who, body) = (client.clone(), self.site.seed.workspace().clone(), body.clone());
            asking.spawn(async move {
                ask_with(&client, service, &who, &body, |request| {
                    request.header("idempotency-key", key)
                })
                .await
            });
        }
        asking
    }

    /// The same, and all that they hear.
    async fn ask_all(&self, key: &'static str, body: &Value) -> Vec<Heard> {
        self.ask(key, body).join_all().await
    }

    /// Asks with a held command and, while it runs, gives the one who waits for it and what the others have heard.
    async fn ask_held(&self, key: &'static str) -> (JoinSet<Heard>, Vec<Heard>) {
        let mut asking = self.ask(key, &self.held());
        let mut heard = Vec::new();
        while asking.len() > 1 {
            heard.push(asking.join_next().await.unwrap().unwrap());
        }
        (asking, heard)
    }

    fn held(&self) -> Value {
        json!({"cmd": self.ledger.held_command(), "timeout_s": 120})
    }

    async fn finish(self, heard: &[Heard]) {
        let rows = truth::all_final(&self.site.store).await;
        truth::check(&rows, &self.ledger.begun(), heard);
        for service in self.services {
            assert_eq!(service.terminate().await, Some(0));
        }
        self.site.emulator.stop().await;
    }
}

fn is(heard: &Heard, status: u16, code: &str) -> bool {
    (heard.status, heard.code.as_deref()) == (Some(status), Some(code))
}

fn assert_all_are(heard: &[Heard], status: u16, code: &str) {
    assert!(heard.iter().all(|heard| is(heard, status, code)), "{heard:#?}");
}

#[tokio::test]
async fn one_runs_and_the_others_are_told_of_it() {
    let world = World::start().await;
    let (mut running, others) = world.ask_held("once").await;
    assert_eq!(others.len(), CALLERS - 1);
    assert_all_are(&others, 409, "exec_in_progress");
    wait::until_true("the command runs", async || !world.ledger.begun().is_empty()).await;
    let changed = json!({"cmd": ["true"]});
    assert_all_are(
        &world.ask_all("once", &changed).await,
        422,
        "idempotency_mismatch",
    );

    world.ledger.let_go();
    let first = running.join_next().await.unwrap().unwrap();
    let exec = first.exec.clone().unwrap();
    assert_eq!(
        (exec.exit_code, exec.audit.committed, first.is_replayed),
        (Some(7), true, false)
    );
    let repeated = world.ask_all("once", &world.held()).await;
    for heard in &repeated {
        assert_eq!((heard.status, heard.is_replayed), (Some(200), true), "{heard:?}");
        let again = heard.exec.as_ref().unwrap();
        assert_eq!(
            (again.exec_id, again.outcome, again.exit_code),
            (exec.exec_id, Some(Outcome::Exited), Some(7)),
            "{heard:?}"
        );
    }
    assert_all_are(
        &world.ask_all("once", &changed).await,
        422,
        "idempotency_mismatch",
    );
    assert_eq!(world.ledger.begun(), [exec.exec_id]);
    assert_eq!(world.site.store.rows().await.len(), 1);
    world.finish(&[repeated, vec![first]].concat()).await;
}

#[tokio::test]
async fn what_never_ran_is_tried_again_once() {
    let world = World::start().await;
    assert!(
        world
            .site
            .emulator
            .set_instance_state(INSTANCE, InstanceState::Stopped)
    );
    let refused = world.ask_all("again", &world.held()).await;
    assert!(
        refused
            .iter()
            .all(|heard| is(heard, 409, "instance_not_running") || is(heard, 409, "exec_in_progress")),
        "{refused:#?}"
    );
    let attempts = world.site.store.rows().await;
    assert!(!attempts.is_empty());
    let changed = json!({"cmd": ["true"]});
    assert_all_are(
        &world.ask_all("again", &changed).await,
        422,
        "idempotency_mismatch",
    );

    assert!(
        world
            .site
            .emulator
            .set_instance_state(INSTANCE, InstanceState::Running)
    );
    // A service that has just failed to get in backs off for a moment, and says so.
    let (mut running, others) = wait::until("one gets in", async || {
        let (mut running, others) = world.ask_held("again").await;
        // The last one is not given up before it is known what becomes of it: its end would be that of its command.
        let is_over = wait::until("it runs or is refused too", async || {
            let has_begun = !world.ledger.begun().is_empty();
            (has_begun || running.try_join_next().is_some()).then_some(!has_begun)
        });
        (!is_over.await).then_some((running, others))
    })
    .await;
    world.ledger.let_go();
    let ran = running.join_next().await.unwrap().unwrap();
    let exec = ran.exec.clone().unwrap();
    assert_eq!((exec.ran, exec.exit_code), (Ran::Yes, Some(7)));
    assert_eq!(world.ledger.begun(), [exec.exec_id]);
    for heard in world.ask_all("again", &world.held()).await {
        assert_eq!((heard.status, heard.is_replayed), (Some(200), true), "{heard:?}");
        assert_eq!(heard.exec.unwrap().exec_id, exec.exec_id);
    }
    let rows = world.site.store.rows().await;
    let not_run = |row: &&crate::support::rows::Row| row.response_body.as_ref().unwrap()["ran"] == "no";
    assert!(rows.iter().filter(not_run).count() >= attempts.len());
    assert_eq!(rows.iter().filter(|row| !not_run(row)).count(), 1);
    world.finish(&[refused, others, vec![ran]].concat()).await;
}

#[tokio::test]
async fn what_a_crash_left_unknown_is_not_run_again() {
    let world = World::start().await;
    let (running, others) = world.ask_held("crashed").await;
    wait::until_true("the command runs", async || !world.ledger.begun().is_empty()).await;
    let World {
        site,
        services,
        ledger,
    } = world;
    for service in services {
        service.kill().await;
    }
    drop(running);
    let world = World {
        services: [site.serve().await, site.serve().await],
        site,
        ledger,
    };
    let repeated = world.ask_all("crashed", &world.held()).await;
    assert_all_are(&repeated, 409, "exec_in_progress");
    world.site.store.age_running_rows().await;
    let [first, second] = world.services;
    assert_eq!(first.terminate().await, Some(0));
    let world = World {
        services: [world.site.serve().await, second],
        site: world.site,
        ledger: world.ledger,
    };
    truth::all_final(&world.site.store).await;
    let settled = world.ask_all("crashed", &world.held()).await;
    for heard in &settled {
        assert_eq!((heard.status, heard.is_replayed), (Some(200), true), "{heard:?}");
    }
    assert_eq!(world.ledger.begun().len(), 1);
    world.ledger.let_go();
    world.finish(&others).await;
}
