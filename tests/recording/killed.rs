//! `kill -9` of the service under load, again and again.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

use crate::load::{Ledger, Load};
use crate::support::site::Site;
use crate::support::store::TestStore;
use crate::support::wait;
use crate::truth;

const CALLERS: usize = 64;

#[tokio::test]
async fn nothing_is_lost_or_told_wrong_with_postgres() {
    killed_at_random_moments(TestStore::postgres().await, 20).await;
}

#[tokio::test]
async fn nothing_is_lost_or_told_wrong_with_sqlite() {
    killed_at_random_moments(TestStore::sqlite(), 5).await;
}

async fn killed_at_random_moments(store: TestStore, kills: usize) {
    let seed: u64 = rand::random();
    println!("seed of the moments: {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::start(store).await;
    let ledger = Ledger::new();
    let load = Load::start(CALLERS, site.seed.workspace(), &ledger);
    for _ in 0..kills {
        let service = site.serve().await;
        load.point_at(&[service.address()]);
        // However fast the machine is: after so many commands, and then somewhere within one.
        let more = ledger.begun().len() + random.random_range(0..120);
        wait::until_true("commands run", async || ledger.begun().len() >= more).await;
        sleep(Duration::from_micros(random.random_range(0..50_000))).await;
        load.point_at(&[]);
        service.kill().await;
    }
    let service = site.serve().await;
    load.point_at(&[service.address()]);
    let heard = load.stop().await;
    assert_eq!(service.terminate().await, Some(0));

    // What the killed ones left behind is settled once it is old enough, which is minutes.
    site.store.age_running_rows().await;
    let service = site.serve().await;
    let rows = truth::all_final(&site.store).await;
    let totals = truth::check(&rows, &ledger.begun(), &heard);
    println!("{totals}");
    assert!(
        totals.swept > 0,
        "no kill came while an exec was under way: {totals}"
    );
    assert!(totals.promised > kills, "{totals}");
    assert_eq!(service.terminate().await, Some(0));
    site.emulator.stop().await;
}
