//! What other whole tests stand on too.

#[path = "../support/aging.rs"]
mod aging;
#[path = "../support/api.rs"]
#[expect(dead_code, reason = "other tests ask for more")]
pub(crate) mod api;
#[path = "../support/background.rs"]
mod background;
#[path = "../support/holdings.rs"]
mod holdings;
#[path = "../support/postgres.rs"]
pub(crate) mod postgres;
#[path = "../support/postgres_cluster.rs"]
pub(crate) mod postgres_cluster;
#[path = "../support/processes.rs"]
#[expect(dead_code, reason = "other tests ask for more")]
pub(crate) mod processes;
#[path = "../support/rows.rs"]
#[expect(dead_code, reason = "other tests ask for more")]
pub(crate) mod rows;
#[path = "../support/seed.rs"]
#[expect(dead_code, reason = "other tests have more tenants")]
pub(crate) mod seed;
#[path = "../support/site.rs"]
pub(crate) mod site;
#[path = "../support/sshd.rs"]
#[expect(dead_code, reason = "other tests ask for more")]
pub(crate) mod sshd;
#[path = "../support/store.rs"]
#[expect(dead_code, reason = "other tests ask for more")]
pub(crate) mod store;
#[path = "../support/unreliable_proxy.rs"]
pub(crate) mod unreliable_proxy;
#[path = "../support/wait.rs"]
pub(crate) mod wait;
