//! SIGTERM under load.

use rustix::process::Signal;
use serde_json::json;

use crate::load::{Heard, Ledger, Load, hold};
use crate::support::site::Site;
use crate::support::store::TestStore;
use crate::support::wait;
use crate::truth;

const CALLERS: usize = 64;
const HELD: usize = 8;

#[tokio::test]
async fn every_row_is_final_with_postgres() {
    every_row_is_final(TestStore::postgres().await).await;
}

#[tokio::test]
async fn every_row_is_final_with_sqlite() {
    every_row_is_final(TestStore::sqlite()).await;
}

async fn every_row_is_final(store: TestStore) {
    let mut site = Site::start(store).await;
    site.set("ADIT__SHUTDOWN__GRACE_S", "5");
    let service = site.serve().await;
    let who = site.seed.workspace();
    // Longer than the grace, and shorter.
    let (long, short) = (Ledger::new(), Ledger::new());
    let mut long_ones = hold(HELD, service.address(), who, &long).await;
    let mut short_ones = hold(HELD, service.address(), who, &short).await;
    let ledger = Ledger::new();
    let load = Load::start(CALLERS, who, &ledger);
    load.point_at(&[service.address()]);
    wait::until_true("every caller has been served", async || {
        load.heard().iter().all(|heard| heard.len() > 1)
    })
    .await;

    service.signal(Signal::TERM);
    short.let_go();
    wait::until_true("every caller is refused", async || {
        load.heard().iter().all(|heard| heard.iter().any(is_refusal))
    })
    .await;
    assert_eq!(service.ended().await, Some(0));
    // It takes nothing any more, and says so before it is gone.
    let of_callers = load.heard();
    load.point_at(&[]);
    let mut heard = load.stop().await;
    for of_caller in &of_callers {
        let refused = of_caller.iter().skip_while(|heard| !is_refusal(heard));
        assert!(
            refused.clone().all(is_refusal),
            "{:?}",
            refused.collect::<Vec<_>>()
        );
    }
    while let Some(ended) = short_ones.join_next().await {
        let ended = ended.unwrap();
        assert_eq!(ended.exec.as_ref().unwrap().exit_code, Some(7), "{ended:?}");
        heard.push(ended);
    }
    while let Some(ended) = long_ones.join_next().await {
        let ended = ended.unwrap();
        let exec = json!(ended.exec);
        assert_eq!(
            (&exec["outcome"], &exec["ended_by"], &exec["audit"]["committed"]),
            (&json!("cancelled"), &json!("shutdown"), &json!(true)),
            "{ended:?}"
        );
        heard.push(ended);
    }

    let rows = site.store.rows().await;
    let mut begun = ledger.begun();
    begun.extend(long.begun());
    begun.extend(short.begun());
    let totals = truth::check(&rows, &begun, &heard);
    println!("{totals}");
    assert_eq!(totals.swept, 0, "{totals}");
    site.emulator.stop().await;
}

/// Not connected any more, or told so.
fn is_refusal(heard: &Heard) -> bool {
    heard.status.is_none() || heard.code.as_deref() == Some("shutting_down")
}
