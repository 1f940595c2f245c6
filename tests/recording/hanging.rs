//! That the store answers within its deadlines whatever the server does, and recovers by itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit::store::{self, Authorization, NewToken, NewWorkspace, Store, TargetDefaults, TokenScope};
use adit_actors::audit::{AuditRow, Half, RowStatus};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _};
use time::macros::datetime;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::postgres::Database;
use crate::support::postgres_cluster::Cluster;
use crate::support::wait;

const CONNECTIONS: u32 = 3;

/// Longer than any deadline of the store, whatever else the machine does. A call that takes longer hangs.
const FOREVER: Duration = Duration::from_secs(60);

/// A store with a workspace and a token that opens it.
struct Opened {
    store: Arc<dyn Store>,
    workspace: Uuid,
    token: [u8; 32],
}

impl Opened {
    async fn at(url: &str) -> Self {
        store::migrate(url).await.unwrap();
        let defaults = TargetDefaults {
            region: "us-east-2".to_owned(),
            os_user: "ubuntu".to_owned(),
            port: 22,
        };
        let store = store::connect(url, CONNECTIONS, defaults).await.unwrap();
        let workspace = NewWorkspace {
            id: Uuid::new_v4(),
            name: "mine".to_owned(),
            org_id: None,
            tier: 3,
            instance_id: None,
            region: None,
            os_user: None,
            address: None,
            endpoint_id: None,
            endpoint_dns_name: None,
        };
        store.add_workspace(&workspace).await.unwrap();
        let token = NewToken {
            id: Uuid::new_v4(),
            scope: TokenScope::Workspace(workspace.id),
            hash: [7; 32],
            prefix: "prefix".to_owned(),
            name: None,
            expires_at: None,
        };
        store.add_token(&token).await.unwrap();
        Self {
            store,
            workspace: workspace.id,
            token: token.hash,
        }
    }

    /// Whether a request would get through.
    async fn authorizes(&self) -> bool {
        let org = Some(Uuid::nil());
        let answer = self.store.authorize(self.token, Some(self.workspace), org);
        let answer = timeout(FOREVER, answer).await.expect("it answers");
        matches!(
            answer,
            Ok(Authorization::Known {
                workspace: Some(_),
                ..
            })
        )
    }

    /// Whether as many requests at once get through as there are connections, and one more.
    async fn authorizes_many(&self) -> bool {
        let asks = (0..=CONNECTIONS).map(|_| self.authorizes());
        let answers = futures_util::future::join_all(asks).await;
        answers.into_iter().all(|got_through| got_through)
    }

    async fn writes(&self, half: Half, row: &AuditRow) -> bool {
        let write = self.store.write(half, std::slice::from_ref(row));
        let written = timeout(FOREVER, write).await.expect("it answers");
        written.is_ok_and(|of_others| of_others.is_empty())
    }

    fn row(&self) -> AuditRow {
        AuditRow {
            id: Uuid::new_v4(),
            attempt_nonce: Uuid::new_v4(),
            body_hmac: None,
            workspace_id: self.workspace,
            status: RowStatus::Running,
            summary: "exec true: running".to_owned(),
            request_body: json!({"cmd": ["true"]}),
            response_body: None,
            duration_ms: None,
            error_detail: None,
            created_at: datetime!(2026-01-02 03:04:05 UTC),
        }
    }

    /// What it does when all is well; each lane has a connection afterwards.
    async fn warm_up(&self) {
        assert!(self.authorizes_many().await);
        let row = self.row();
        assert!(self.writes(Half::Begin, &row).await);
        assert!(self.writes(Half::Finish, &row).await);
    }
}

#[tokio::test]
async fn a_frozen_server_is_answered_for_and_its_return_noticed() {
    let server = Cluster::start().await;
    let opened = Opened::at(&server.url()).await;
    opened.warm_up().await;
    let row = opened.row();

    server.freeze();
    // More than once, as what was given up must not cost those who come later.
    for _ in 0..2 {
        let (authorized, begun, finished, probed) = tokio::join!(
            opened.authorizes_many(),
            opened.writes(Half::Begin, &row),
            opened.writes(Half::Finish, &row),
            timeout(FOREVER, opened.store.ping()),
        );
        assert!(!authorized && !begun && !finished);
        probed.expect("it answers").unwrap_err();
    }
    server.thaw();

    wait::until_true("requests get through again", async || {
        opened.authorizes_many().await
    })
    .await;
    assert!(opened.writes(Half::Begin, &row).await);
    assert!(opened.writes(Half::Finish, &row).await);
    let rows = opened.store.exec(row.id, None).await.unwrap();
    assert_eq!(rows.map(|row| row.status), Some(RowStatus::Running));
}

#[tokio::test]
async fn a_server_that_was_restarted_costs_nobody_an_error() {
    let mut server = Cluster::start().await;
    let opened = Opened::at(&server.url()).await;
    opened.warm_up().await;
    server.stop().await;
    server.start_again().await;
    opened.warm_up().await;

    server.stop().await;
    assert!(!opened.authorizes().await);
    assert!(!opened.writes(Half::Begin, &opened.row()).await);
    server.start_again().await;
    opened.warm_up().await;
}

/// What becomes of connections when a host vanishes or a firewall forgets them: they are open, and nothing comes.
#[tokio::test]
async fn connections_that_fell_silent_are_given_up() {
    let server = Cluster::start().await;
    let proxy = Proxy::start(server.port()).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.address.port());
    let opened = Opened::at(&url).await;
    opened.warm_up().await;
    let row = opened.row();

    proxy.silence_the_present();
    // The first one finds out for all.
    assert!(!opened.authorizes().await);
    assert!(opened.authorizes_many().await);
    for half in [Half::Begin, Half::Finish] {
        assert!(!opened.writes(half, &row).await);
        assert!(opened.writes(half, &row).await);
    }
}

#[tokio::test]
async fn a_write_that_was_given_up_may_still_come_and_is_its_own() {
    let database = Database::create().await;
    let opened = Opened::at(&database.url()).await;
    opened.warm_up().await;
    let row = opened.row();
    let mut other = database.connect().await;
    let mut watch = database.connect().await;

    let mut held = other.begin().await.unwrap();
    let lock = sqlx::query("LOCK TABLE activity_logs IN SHARE MODE");
    lock.execute(&mut *held).await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'adit' AND wait_event_type = 'Lock'";
    tokio::select! {
        _ = opened.store.write(Half::Begin, std::slice::from_ref(&row)) => panic!("the table is locked"),
        () = wait::until_true("the batch waits", async || {
            let waiting: i64 = sqlx::query_scalar(AssertSqlSafe(waits)).fetch_one(&mut watch).await.unwrap();
            waiting == 1
        }) => {}
    }
    assert!(
        opened.authorizes_many().await,
        "nobody else waits for a lock on rows"
    );
    held.rollback().await.unwrap();

    // The server knows nothing of the client that has gone.
    wait::until_true("the batch is committed all the same", async || {
        opened.store.exec(row.id, None).await.unwrap().is_some()
    })
    .await;
    assert!(
        opened.writes(Half::Begin, &row).await,
        "and is recognised as one's own"
    );
    let another_try = AuditRow {
        attempt_nonce: Uuid::new_v4(),
        ..row.clone()
    };
    assert!(!opened.writes(Half::Begin, &another_try).await);
    assert!(opened.writes(Half::Finish, &row).await);
}

/// Between the store and a server.
struct Proxy {
    address: SocketAddr,
    /// How often it was told to silence the connections that it had.
    silenced: watch::Sender<u32>,
}

impl Proxy {
    async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silenced, _) = watch::channel(0);
        let sender = silenced.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(relay(client, server_port, sender.subscribe()));
            }
        });
        Self { address, silenced }
    }

    /// Relays nothing more on any connection that is there, and closes none.
    fn silence_the_present(&self) {
        self.silenced.send_modify(|times| *times += 1);
    }
}

async fn relay(mut client: TcpStream, server_port: u16, mut silenced: watch::Receiver<u32>) {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port))
        .await
        .unwrap();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {
            // Either side may have gone first.
            client.shutdown().await.ok();
            server.shutdown().await.ok();
        }
        _ = silenced.changed() => std::future::pending().await,
    }
}
