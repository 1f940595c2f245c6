//! That the server breaks as the tests around this one need it to.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::timeout;

use crate::support::postgres::Database;
use crate::support::postgres_cluster::{Cluster, ClusterOptions};
use crate::support::unreliable_proxy::UnreliableProxy;

async fn connect(url: &str) -> Result<PgConnection, sqlx::Error> {
    url.parse::<PgConnectOptions>()?.connect().await
}

async fn insert(connection: &mut PgConnection, number: i64) -> Result<(), sqlx::Error> {
    let insert = sqlx::query("INSERT INTO numbers VALUES ($1)").bind(number);
    insert.execute(connection).await.map(drop)
}

async fn create_table(connection: &mut PgConnection) {
    let create = sqlx::query("CREATE TABLE numbers (number BIGINT PRIMARY KEY)");
    create.execute(connection).await.unwrap();
}

async fn numbers(connection: &mut PgConnection) -> Vec<i64> {
    let select = sqlx::query_scalar("SELECT number FROM numbers ORDER BY number");
    select.fetch_all(connection).await.unwrap()
}

#[tokio::test]
async fn a_database_goes_with_its_test() {
    let other = Database::create().await;
    let mut connection = other.connect().await;
    let database = Database::create().await;
    let url = database.url();
    let mut left_open = connect(&url).await.unwrap();
    create_table(&mut left_open).await;
    drop(database);
    assert!(insert(&mut left_open, 1).await.is_err());
    assert!(connect(&url).await.is_err());
    let one: i32 = sqlx::query_scalar("SELECT 1")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(one, 1, "the other one is still there");
}

#[tokio::test]
async fn a_server_is_stopped_frozen_killed_and_started_again() {
    let mut server = Cluster::start_with(ClusterOptions { waits_for_disk: true }).await;
    let url = server.url();
    let mut connection = connect(&url).await.unwrap();
    create_table(&mut connection).await;
    insert(&mut connection, 1).await.unwrap();

    server.stop().await;
    assert!(insert(&mut connection, 2).await.is_err());
    assert!(connect(&url).await.is_err());
    server.start_again().await;
    let mut connection = connect(&url).await.unwrap();
    insert(&mut connection, 3).await.unwrap();

    server.freeze();
    let mut inserting = Box::pin(insert(&mut connection, 4));
    let frozen = timeout(Duration::from_millis(200), &mut inserting).await;
    assert!(frozen.is_err(), "{frozen:?}");
    server.thaw();
    inserting.await.unwrap();

    server.kill().await;
    assert!(insert(&mut connection, 5).await.is_err());
    server.start_again().await;
    assert_eq!(numbers(&mut connect(&url).await.unwrap()).await, [1, 3, 4]);
}

#[tokio::test]
async fn statements_fail_as_they_are_counted() {
    let server = Cluster::start().await;
    let mut direct = connect(&server.url()).await.unwrap();
    create_table(&mut direct).await;
    let proxy = UnreliableProxy::start(server.port(), 7).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let mut through = connect(&url).await.unwrap();
    insert(&mut through, 0).await.unwrap();

    let (mut refused, mut lost, mut committed) = (0, 0, vec![0]);
    proxy.fail_one_in(5);
    for number in 1..400 {
        match insert(&mut through, number).await {
            Ok(()) => committed.push(number),
            Err(sqlx::Error::Database(error)) => {
                assert!(
                    matches!(error.code().as_deref(), Some("40001" | "40P01")),
                    "{error:?}"
                );
                refused += 1;
            }
            Err(error) => {
                assert!(matches!(error, sqlx::Error::Io(_)), "{error:?}");
                lost += 1;
                proxy.fail_one_in(0);
                through = connect(&url).await.unwrap();
                proxy.fail_one_in(5);
            }
        }
    }
    let counts = proxy.counts();
    assert_eq!(
        (refused, lost),
        (counts.refused, counts.lost_before + counts.lost_after)
    );
    assert!(
        counts.refused > 10 && counts.lost_before > 5 && counts.lost_after > 5,
        "{counts:?}"
    );
    let stored = numbers(&mut direct).await;
    assert!(committed.iter().all(|number| stored.contains(number)));
    assert_eq!(
        stored.len(),
        committed.len() + usize::try_from(counts.lost_after).unwrap()
    );
}

#[tokio::test]
async fn a_transaction_fails_with_its_statement() {
    let server = Cluster::start().await;
    let mut direct = connect(&server.url()).await.unwrap();
    create_table(&mut direct).await;
    let proxy = UnreliableProxy::start(server.port(), 7).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let is_refused = || proxy.counts().refused > 0;
    while !is_refused() {
        let mut through = connect(&url).await.unwrap();
        let mut transaction = through.begin().await.unwrap();
        insert(&mut transaction, 1).await.unwrap();
        proxy.fail_one_in(1);
        assert!(insert(&mut transaction, 2).await.is_err());
        proxy.fail_one_in(0);
        if is_refused() {
            let error = insert(&mut transaction, 3).await.unwrap_err();
            let code = error.as_database_error().unwrap().code();
            assert_eq!(
                code.as_deref(),
                Some("25P02"),
                "the server itself has given the transaction up"
            );
        }
    }
    assert!(numbers(&mut direct).await.is_empty());
}
