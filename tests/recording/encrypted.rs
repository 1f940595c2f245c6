//! That `sslmode` in the store's URL means what it means to `psql`.

use std::io::Write as _;

use adit::store::{self, ConnectError, TargetDefaults};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use tempfile::NamedTempFile;

use crate::support::postgres_cluster::Cluster;

/// Certificates of an authority, and one that it gave to a server of that name, with its key.
struct Certificates {
    authority: NamedTempFile,
    server: String,
    key: String,
}

impl Certificates {
    fn of(server_name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![server_name.to_owned()]).unwrap();
        let server = params.signed_by(&key, &authority).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(authority.pem().as_bytes()).unwrap();
        Self {
            authority: file,
            server: server.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// The server writes the file itself, as PostgreSQL wants its key to be its own and nobody else's.
async fn write_file(connection: &mut PgConnection, name: &str, text: &str) {
    let copy = format!(
        "COPY (SELECT unnest(string_to_array('{text}', E'\\n'))) TO PROGRAM 'umask 077; cat > {name}'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(copy))
        .execute(connection)
        .await
        .unwrap();
}

async fn encrypt(server: &mut Cluster, certificates: &Certificates) {
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    write_file(&mut connection, "server.crt", &certificates.server).await;
    write_file(&mut connection, "server.key", &certificates.key).await;
    sqlx::query("ALTER SYSTEM SET ssl = on")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    server.stop().await;
    server.start_again().await;
}

async fn open(url: &str) -> Result<(), ConnectError> {
    store::migrate(url).await?;
    let defaults = TargetDefaults {
        region: "us-east-2".to_owned(),
        os_user: "ubuntu".to_owned(),
        port: 22,
    };
    let store = store::connect(url, 1, defaults).await?;
    store.ping().await.unwrap();
    let watched: Vec<_> = sqlx::query(
        "SELECT ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE application_name = 'adit'",
    )
    .fetch_all(&mut PgConnection::connect(url).await.unwrap())
    .await
    .unwrap();
    assert_eq!(watched.len(), 1);
    assert!(watched[0].get::<bool, _>(0), "it is encrypted");
    store.close().await;
    Ok(())
}

#[tokio::test]
async fn a_server_must_show_the_certificate_that_the_url_asks_for() {
    let mut server = Cluster::start().await;
    let plain = server.url();
    let (right, wrong) = (Certificates::of("localhost"), Certificates::of("localhost"));
    let by_name = plain.replace("127.0.0.1", "localhost");
    let refused = open(&format!("{plain}?sslmode=require")).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::Open(_)),
        "no TLS yet: {refused:?}"
    );

    encrypt(&mut server, &right).await;
    let verified = |url: &str, mode: &str, certificates: &Certificates| {
        let path = certificates.authority.path().display();
        format!("{url}?sslmode={mode}&sslrootcert={path}")
    };
    for (what, url, is_taken) in [
        ("by default where there is TLS", plain.clone(), true),
        ("whoever it is", format!("{plain}?sslmode=require"), true),
        (
            "the right authority and name",
            verified(&by_name, "verify-full", &right),
            true,
        ),
        ("the right authority", verified(&plain, "verify-ca", &right), true),
        ("another name", verified(&plain, "verify-full", &right), false),
        (
            "another authority",
            verified(&by_name, "verify-full", &wrong),
            false,
        ),
        (
            "an authority that nobody knows",
            format!("{by_name}?sslmode=verify-full"),
            false,
        ),
    ] {
        let opened = open(&url).await;
        assert_eq!(opened.is_ok(), is_taken, "{what}: {opened:?}");
    }
}
