//! HTTPS: both versions of HTTP, both listeners, and nothing in the clear.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::app::ADMIN_TOKEN;
use crate::support::certificate::Certificate;
use crate::support::{Backend, TestApp};

/// What curl says of an answer behind its body.
const REPORT: &str = "%{stderr}%{http_version} %{http_code}";

/// Runs curl, which trusts nothing but the certificate. Gives the body and the version and status of the answer.
async fn curl(certificate: &Certificate, arguments: &[&str]) -> (String, String) {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "--noproxy", "*", "--write-out", REPORT, "--cacert"])
        .arg(certificate.file())
        .args(arguments);
    let output = actix_rt::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

#[actix_rt::test]
async fn curl_is_served_by_either_version_of_http() {
    let certificate = Certificate::make();
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        certificate.show(&mut setup.settings);
        setup.settings.admin.listen = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let workspace = app.seed.workspace();
    let exec = format!("{}/workspaces/{}/exec", app.api.base(), workspace.id);
    let authorization = format!("Authorization: Bearer {}", workspace.token);
    // Longer than a window of HTTP/2 at first, so that windows have to be opened.
    let stdin = "x".repeat(1_000_000);
    let body = json!({"cmd": ["sh", "-c", "wc -c; echo error >&2"], "stdin": stdin}).to_string();
    let body_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body_file.path(), body).unwrap();
    let from_file = format!("@{}", body_file.path().display());
    let json_type = "Content-Type: application/json";
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let request = [
            flag,
            &exec,
            "-H",
            &authorization,
            "-H",
            json_type,
            "-d",
            &from_file,
        ];
        let (body, report) = curl(&certificate, &request).await;
        assert_eq!(report, format!("{version} 200"), "{body}");
        let frames: Vec<Value> = body
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(
            frames.contains(&json!({"type": "stdout", "data": "1000000\n"})),
            "{body}"
        );
        assert_eq!(frames.last().unwrap()["exit_code"], 0, "{body}");

        let admin = format!("{}/admin/tunnels", app.admin_api.as_ref().unwrap().base());
        let admin_authorization = format!("Authorization: Bearer {ADMIN_TOKEN}");
        let (body, report) = curl(&certificate, &[flag, &admin, "-H", &admin_authorization]).await;
        assert_eq!(report, format!("{version} 200"), "{body}");
        assert!(body.contains("i-0123456789abcdef0"), "{body}");

        // Refused before the body has come.
        for body in ["{}", &from_file] {
            let unread = [flag, &exec, "-H", json_type, "-d", body];
            let (body, report) = curl(&certificate, &unread).await;
            assert_eq!(report, format!("{version} 401"), "{body}");
        }
    }
    for row in app.rows().await {
        let request = row.request_body;
        assert_eq!(request["remote_addr"], "127.0.0.1", "{request}");
    }

    let in_the_clear = app.api.base().replace("https://", "http://");
    let (body, report) = curl(&certificate, &[&in_the_clear]).await;
    assert!(body.is_empty() && report.ends_with(" 000"), "{body} {report}");
    app.finish().await;
}

/// `adit exec` as a caller types it.
async fn adit_exec(app: &TestApp, roots: Option<&Certificate>) -> Output {
    let workspace = app.seed.workspace();
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command
        .args(["exec", "--", "echo", "over TLS"])
        .env("ADIT_URL", app.api.base())
        .env("ADIT_TOKEN", &workspace.token)
        .env("ADIT_WORKSPACE", workspace.id.to_string())
        .env_remove("ADIT_CA_FILE");
    if let Some(roots) = roots {
        command.env("ADIT_CA_FILE", roots.file());
    }
    actix_rt::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

#[actix_rt::test]
async fn adit_exec_trusts_the_roots_that_it_is_given() {
    let certificate = Certificate::make();
    let app = TestApp::start_with(Backend::InProcess, |setup| certificate.show(&mut setup.settings)).await;
    let trusting = adit_exec(&app, Some(&certificate)).await;
    assert_eq!(
        (trusting.status.code(), &trusting.stdout[..]),
        (Some(0), &b"over TLS\n"[..]),
        "{trusting:?}"
    );
    for roots in [None, Some(&Certificate::make())] {
        let distrusting = adit_exec(&app, roots).await;
        assert_is_distrusted(&distrusting, "ADIT_CA_FILE");
    }
    assert_eq!(app.rows().await.len(), 1);
    app.finish().await;
}

fn assert_is_distrusted(output: &Output, advice: &str) {
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("adit: the service's certificate is refused: ") && said.lines().count() == 1,
        "{said}"
    );
    assert!(said.contains(advice), "{said}");
}

/// `openssl req -x509` makes certificates that sign others unless it is told not to.
#[actix_rt::test]
async fn a_certificate_of_openssl_is_good_once_it_signs_nothing() {
    for (options, is_good) in [
        (&[][..], false),
        (&["-addext", "basicConstraints=critical,CA:FALSE"][..], true),
    ] {
        let certificate = Certificate::make_by_openssl(options);
        let app =
            TestApp::start_with(Backend::InProcess, |setup| certificate.show(&mut setup.settings)).await;
        let output = adit_exec(&app, Some(&certificate)).await;
        if is_good {
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            app.finish().await;
        } else {
            assert_is_distrusted(&output, "`basicConstraints=critical,CA:FALSE`");
            // The tests' own client would not trust it either.
            assert!(app.stop_under_way().await.is_empty());
        }
    }
}
