//! Who may run what where: tokens, orgs, tiers. What is refused is not dispatched, and leaves no row.

use serde_json::json;
use uuid::Uuid;

use crate::support::TestApp;
use crate::support::api::Answer;
use crate::support::app::ADMIN_TOKEN;

over_every_instance!(
    tiers_1_and_2_may_not,
    tiers_3_and_4_may,
    all_that_a_caller_may_not_know_of_looks_the_same,
    a_token_that_opens_nothing_looks_the_same,
    an_org_token_opens_its_workspaces,
    a_workspace_without_an_instance,
    admins_only,
);

const COMMAND: &[u8] = br#"{"cmd": ["true"]}"#;

/// Nothing has reached the instance, and no row says that something was to.
async fn assert_nothing_dispatched(app: &TestApp) {
    let counters = app.emulator.counters();
    assert_eq!(
        (
            counters.pushes,
            counters.tunnels_opened,
            counters.commands_started
        ),
        (0, 0, 0),
        "{counters:?}"
    );
    assert!(app.rows().await.is_empty());
}

/// An answer without what differs from request to request by its nature.
fn comparable(answer: &Answer) -> String {
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["date", "traceparent", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value:?}\n"))
        .collect();
    headers.sort();
    format!("{}\n{}\n{:?}", answer.status, headers.concat(), answer.body)
}

async fn tiers_1_and_2_may_not(app: &TestApp) {
    for workspace in &app.seed.tiers[..2] {
        for token in [&workspace.token, &app.seed.org_token] {
            app.api
                .exec_json(workspace.id, token, &json!({"cmd": ["true"]}))
                .await
                .problem(403, "tier_forbidden");
        }
    }
    assert_nothing_dispatched(app).await;
}

async fn tiers_3_and_4_may(app: &TestApp) {
    for workspace in &app.seed.tiers[2..] {
        let exec = app
            .api
            .exec_json(workspace.id, &workspace.token, &json!({"cmd": ["true"]}))
            .await
            .exec();
        assert_eq!(exec.exit_code, Some(0));
    }
    let workspaces: Vec<Uuid> = app.rows().await.iter().map(|row| row.workspace_id).collect();
    assert_eq!(workspaces, [app.seed.tiers[2].id, app.seed.tiers[3].id]);
}

async fn all_that_a_caller_may_not_know_of_looks_the_same(app: &TestApp) {
    let seed = &app.seed;
    let (own, other) = (seed.workspace(), &seed.other_org);
    let unknown = Uuid::new_v4().to_string();
    let simple = own.id.simple().to_string();
    let table = [
        ("unknown id", unknown.as_str(), own.token.as_str()),
        ("no id at all", "my-workspace", own.token.as_str()),
        (
            "another way to write one's own id",
            simple.as_str(),
            own.token.as_str(),
        ),
        ("another org's id", &other.id.to_string(), own.token.as_str()),
        (
            "another org's id, by an org token",
            &other.id.to_string(),
            seed.org_token.as_str(),
        ),
        (
            "another workspace's token",
            &seed.tiers[2].id.to_string(),
            own.token.as_str(),
        ),
        ("another org's token", &own.id.to_string(), other.token.as_str()),
        (
            "a low tier of somebody else",
            &seed.tiers[0].id.to_string(),
            other.token.as_str(),
        ),
    ];
    let reference = app
        .api
        .exec_as("application/json", table[0].1, Some(table[0].2), COMMAND.to_vec())
        .await;
    reference.problem(404, "not_found");
    for (what, workspace, token) in table {
        // The form of the answer and whether the body makes sense must not matter either.
        for (accept, body) in [
            ("application/json", COMMAND),
            ("*/*", COMMAND),
            ("*/*", b"{ no JSON".as_slice()),
        ] {
            let answer = app
                .api
                .exec_as(accept, workspace, Some(token), body.to_vec())
                .await;
            assert_eq!(comparable(&answer), comparable(&reference), "{what}, {accept}");
        }
    }
    assert_nothing_dispatched(app).await;
}

async fn a_token_that_opens_nothing_looks_the_same(app: &TestApp) {
    let workspace = app.seed.workspace().id.to_string();
    let unknown = "0".repeat(43);
    let table = [
        ("none", None),
        ("unknown", Some(unknown.as_str())),
        ("revoked", Some(app.seed.revoked_token.as_str())),
        ("an admin's", Some(ADMIN_TOKEN)),
        ("empty", Some("")),
        ("part of a live one", Some(&app.seed.workspace().token[..42])),
    ];
    let reference = app
        .api
        .exec_as("application/json", &workspace, None, COMMAND.to_vec())
        .await;
    reference.problem(401, "unauthenticated");
    assert!(
        reference
            .header("www-authenticate")
            .is_some_and(|value| value.starts_with("Bearer")),
        "{reference:?}"
    );
    for (what, token) in table {
        let answer = app.api.exec_as("*/*", &workspace, token, COMMAND.to_vec()).await;
        assert_eq!(comparable(&answer), comparable(&reference), "{what}");
        // Nor does it tell whether there is such a workspace.
        let elsewhere = app
            .api
            .exec_as("*/*", &Uuid::new_v4().to_string(), token, COMMAND.to_vec())
            .await;
        assert_eq!(
            comparable(&elsewhere),
            comparable(&reference),
            "{what}, elsewhere"
        );
    }
    assert_nothing_dispatched(app).await;
}

async fn an_org_token_opens_its_workspaces(app: &TestApp) {
    for workspace in &app.seed.tiers[2..] {
        let exec = app
            .api
            .exec_json(workspace.id, &app.seed.org_token, &json!({"cmd": ["true"]}))
            .await
            .exec();
        assert_eq!(exec.exit_code, Some(0));
    }
    for row in app.rows().await {
        let actor = &row.request_body["actor"];
        assert_eq!(
            (&actor["kind"], &actor["name"]),
            (&json!("org"), &json!("tests")),
            "{row:?}"
        );
        assert_eq!(actor["prefix"], app.seed.org_token[..8], "{row:?}");
    }
}

async fn a_workspace_without_an_instance(app: &TestApp) {
    let workspace = &app.seed.without_instance;
    app.api
        .exec_json(workspace.id, &workspace.token, &json!({"cmd": ["true"]}))
        .await
        .problem(409, "no_instance");
    assert_nothing_dispatched(app).await;
}

async fn admins_only(app: &TestApp) {
    app.api
        .get("/admin/tunnels", None)
        .await
        .problem(401, "unauthenticated");
    app.api
        .get("/admin/tunnels", Some("wrong"))
        .await
        .problem(401, "unauthenticated");
    let token = &app.seed.workspace().token;
    app.api
        .get("/admin/tunnels", Some(token))
        .await
        .problem(403, "not_admin");
    assert_eq!(app.tunnels().await["data"], json!([]));
    assert_eq!(app.api.get("/healthz", None).await.status, 200);
    assert_eq!(app.api.get("/readyz", None).await.status, 200);
}
