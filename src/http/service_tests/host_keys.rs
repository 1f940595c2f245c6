//! The host key pins: what is answered, what is refused, and what of it the store keeps.

use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::HostKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ADMIN, Answer, BOUND, Service};
use crate::store::TokenScope;

const PATH: &str = "/admin/hostkeys/i-0123456789abcdef0";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
/// Public key lines and what `ssh-keygen -l` says of them.
const KEYS: [(&str, &str); 2] = [
    (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPr9DaewY4HjcMGP3eZdvmdn6k6qz5033UZkO7YggZjR",
        "SHA256:janITmdJo+WvxNJkdsgNFluFGB8K4BKaSuY5oTtiB/Q",
    ),
    (
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBKWH/b5n6nUv9/8PWiMt6lB68i+1vFf9DHvarqraFeAP/K6v7IpVVPMs6IFTnMIidsF2UAQF/1W5D//ozE9gdo=",
        "SHA256:R+ZUaahuM3S+CRxTTaNTA5i5nBhFCXM2XDUaIMTBEPQ",
    ),
];

fn instance(region: &str, instance_id: &str) -> InstanceKey {
    InstanceKey {
        region: region.to_owned(),
        instance_id: instance_id.to_owned(),
    }
}

async fn ask(service: &Service, method: &str, path: &str) -> Answer {
    service.ask(method, path, Some(ADMIN), &[], "").await
}

async fn pin(service: &Service, path: &str, key: &str) -> Answer {
    let body = json!({ "key": key }).to_string();
    service.ask("PUT", path, Some(ADMIN), &JSON, &body).await
}

/// What must hold of a pin in an answer, besides its time and its author's address.
fn said_of(pin: &Value) -> (Value, Value, Value, Value) {
    assert!(pin["pinned_at"].as_str().unwrap().ends_with('Z'), "{pin}");
    (
        pin["region"].clone(),
        pin["key"].clone(),
        pin["fingerprint"].clone(),
        pin["provenance"].clone(),
    )
}

fn said(region: &str, (key, fingerprint): (&str, &str), provenance: &str) -> (Value, Value, Value, Value) {
    (region.into(), key.into(), fingerprint.into(), provenance.into())
}

#[actix_web::test]
async fn a_pin_is_set_shown_replaced_and_forgotten() {
    let service = Service::plain().await;
    let absent = ask(&service, "GET", PATH).await;
    assert_eq!((absent.status, absent.code().as_str()), (404, "not_found"));
    let detail = absent.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("`us-east-2/i-0123456789abcdef0`"), "{detail}");

    let shown_at_first_login = HostKey::from_line(KEYS[0].0).unwrap();
    let here = instance("us-east-2", "i-0123456789abcdef0");
    service
        .store
        .pin_first_use(&here, &shown_at_first_login)
        .await
        .unwrap();
    let shown = ask(&service, "GET", PATH).await;
    assert_eq!(shown.status, 200);
    assert_eq!(said_of(&shown.json()), said("us-east-2", KEYS[0], "first_use"));
    assert_eq!(shown.json()["pinned_by"], Value::Null);

    let answer = pin(&service, PATH, &format!("{} root@host", KEYS[1].0)).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(said_of(&answer["pinned"]), said("us-east-2", KEYS[1], "operator"));
    assert_eq!(answer["replaced"], shown.json());
    let author = answer["pinned"]["pinned_by"].as_str().unwrap();
    // printf %s the-admin-token | sha256sum
    assert_eq!(author, "admin token sha256:ae663fb0 from 127.0.0.1");
    assert_eq!(ask(&service, "GET", PATH).await.json(), answer["pinned"]);
    assert_eq!(
        service.store.pinned(&here).await.unwrap().unwrap().line(),
        KEYS[1].0,
        "without the comment"
    );

    let elsewhere = format!("{PATH}?region=us-west-2");
    let answer = pin(&service, &elsewhere, KEYS[0].0).await.json();
    assert_eq!(said_of(&answer["pinned"]), said("us-west-2", KEYS[0], "operator"));
    assert_eq!(answer["replaced"], Value::Null);

    let forgotten = ask(&service, "DELETE", PATH).await;
    assert_eq!(forgotten.status, 200);
    assert_eq!(
        said_of(&forgotten.json()["forgotten"]),
        said("us-east-2", KEYS[1], "operator")
    );
    for method in ["GET", "DELETE"] {
        assert_eq!(ask(&service, method, PATH).await.status, 404, "{method}");
        let answer = ask(&service, "GET", &elsewhere).await;
        assert_eq!(answer.status, 200, "a region apart");
    }
    service.stop().await;
}

#[actix_web::test]
async fn what_is_no_key_or_no_instance_is_refused_by_its_field() {
    let service = Service::plain().await;
    let body = |key: &str| json!({ "key": key }).to_string();
    let good = body(KEYS[0].0);
    let large = body(&format!("{} {}", KEYS[0].0, "x".repeat(20_000)));
    let json = JSON.as_slice();
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);
    let table: [Row<'_>; 13] = [
        (PATH, json, "", 400, "JSON object"),
        (PATH, json, "{}", 400, "`key`"),
        (PATH, json, r#"{"key":"ssh-ed25519 AAAA","by":"me"}"#, 400, "`by`"),
        (
            PATH,
            json,
            &body("ssh-ed25519 AAAA"),
            400,
            "`key`: is not a public key",
        ),
        (
            PATH,
            json,
            &body("10.0.0.7 ssh-ed25519 AAAA"),
            400,
            "`key`: is not a public key",
        ),
        (
            PATH,
            json,
            &body("ssh-ed25519-cert-v01@openssh.com AAAA"),
            400,
            "`key`: is a certificate",
        ),
        (PATH, &[], &good, 415, "application/json"),
        (PATH, json, &large, 413, "16384 bytes"),
        ("/admin/hostkeys/10.0.0.7", json, &good, 400, "`instance_id`"),
        (
            "/admin/hostkeys/i-0123456789ABCDEF0",
            json,
            &good,
            400,
            "`instance_id`",
        ),
        (&format!("{PATH}?region="), json, &good, 400, "`region`"),
        (&format!("{PATH}?regoin=us-east-2"), json, &good, 400, "`regoin`"),
        (&format!("{PATH}?region=a&region=b"), json, &good, 400, "`region`"),
    ];
    for (path, headers, body, status, detail) in table {
        let answer = service.ask("PUT", path, Some(ADMIN), headers, body).await;
        let text = answer.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, status, "{path} {body}: {text}");
        assert!(text.contains(detail), "{path} {body}: {text}");
    }
    let listed = ask(&service, "GET", "/admin/hostkeys").await.json();
    assert_eq!(
        listed,
        json!({ "data": [], "next_cursor": null }),
        "nothing is pinned"
    );
    service.stop().await;
}

#[actix_web::test]
async fn pins_are_listed_page_by_page_and_filtered() {
    let service = Service::plain().await;
    let key = HostKey::from_line(KEYS[0].0).unwrap();
    let all: Vec<InstanceKey> = ["eu-west-1", "us-east-2"]
        .iter()
        .flat_map(|region| ["i-00000001", "i-00000002"].map(|id| instance(region, id)))
        .collect();
    for instance in &all {
        service.store.pin_first_use(instance, &key).await.unwrap();
    }
    let instances = |listing: &Value| -> Vec<InstanceKey> {
        let data = listing["data"].as_array().unwrap();
        let names = data.iter().map(|pin| {
            let text = |name: &str| pin[name].as_str().unwrap();
            instance(text("region"), text("instance_id"))
        });
        names.collect()
    };
    for (limit, pages) in [(1, 4), (2, 2), (3, 2), (4, 1), (1_000, 1)] {
        let (mut seen, mut cursor, mut asked) = (Vec::new(), String::new(), 0);
        loop {
            let path = format!("/admin/hostkeys?limit={limit}{cursor}");
            let page = ask(&service, "GET", &path).await.json();
            seen.extend(instances(&page));
            asked += 1;
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!((seen, asked), (all.clone(), pages), "{limit} a page");
    }
    for (query, expected) in [
        ("region=us-east-2", vec![2, 3]),
        ("instance_id=i-00000002", vec![1, 3]),
        ("region=us-east-2&instance_id=i-00000002", vec![3]),
        ("region=us-east-1", vec![]),
    ] {
        let listing = ask(&service, "GET", &format!("/admin/hostkeys?{query}"))
            .await
            .json();
        let expected: Vec<InstanceKey> = expected
            .into_iter()
            .map(|number: usize| all[number].clone())
            .collect();
        assert_eq!(instances(&listing), expected, "{query}");
    }
    for (query, detail) in [
        ("limit=0", "`limit`"),
        ("limit=1001", "`limit`"),
        ("limit=x", "`limit`"),
        ("cursor=!", "`cursor`"),
        ("instance_id=x", "`instance_id`"),
        ("page=2", "`page`"),
    ] {
        let answer = ask(&service, "GET", &format!("/admin/hostkeys?{query}")).await;
        let text = answer.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 400, "{query}: {text}");
        assert!(text.contains(detail), "{query}: {text}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn who_may_not_pin_is_refused_before_a_body_is_waited_for() {
    let service = Service::plain().await;
    let workspace = service.workspace(4, Some(service.org().await), true).await;
    let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
    for (path, token, length, status) in [
        (PATH, "unknown", 1_000, "401"),
        (PATH, token.as_str(), 1_000, "403"),
        ("/admin/hostkeys/x", ADMIN, 1_000, "400"),
        (PATH, ADMIN, 20_000, "413"),
    ] {
        let mut connection = TcpStream::connect(service.address).await.unwrap();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        // To its end: the answer closes the connection, as the body is not read.
        let mut answer = String::new();
        timeout(BOUND, connection.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    service.stop().await;
}
