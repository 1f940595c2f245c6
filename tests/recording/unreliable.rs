//! One statement in ten fails: refused for serialization or a deadlock, or its connection breaks before or after it was
//! executed.

use crate::load::{Ledger, Load};
use crate::support::postgres::Database;
use crate::support::postgres_cluster::Cluster;
use crate::support::site::Site;
use crate::support::store::TestStore;
use crate::support::unreliable_proxy::UnreliableProxy;
use crate::support::wait;
use crate::truth;

const CALLERS: usize = 32;
const EXECS: usize = 400;

#[tokio::test]
async fn every_exec_has_one_true_row() {
    let seed: u64 = rand::random();
    println!("seed of the faults: {seed}");
    let cluster = Cluster::start().await;
    let proxy = UnreliableProxy::start(cluster.port(), seed).await;
    let database = Database::create_on(&cluster.url()).await;
    let port = |port: u16| format!(":{port}/");
    let url = database.url().replace(&port(cluster.port()), &port(proxy.port()));
    let mut site = Site::start(TestStore::Postgres(Box::new(database))).await;
    site.set("ADIT__STORE__URL", &url);
    let service = site.serve().await;
    let ledger = Ledger::new();
    let load = Load::start(CALLERS, site.seed.workspace(), &ledger);
    load.point_at(&[service.address()]);
    proxy.fail_one_in(10);
    wait::until_true("enough has run", async || ledger.begun().len() >= EXECS).await;
    load.point_at(&[]);
    let heard = load.stop().await;

    // Final rows are tried until they are in, however often they fail.
    let rows = truth::all_final(&site.store).await;
    let totals = truth::check(&rows, &ledger.begun(), &heard);
    let counts = proxy.counts();
    println!("{totals} {counts:?}");
    assert_eq!(totals.swept, 0, "nothing crashed: {totals}");
    assert!(totals.promised > EXECS / 2, "{totals}");
    assert!(
        counts.refused > 5 && counts.lost_before > 0 && counts.lost_after > 0,
        "{counts:?}"
    );
    assert_eq!(service.terminate().await, Some(0));
    site.emulator.stop().await;
}
