//! Who may see what, and what an operator adds, lists and revokes.

use adit_actors::clock::Clock;
use adit_actors::exec::CallerKind;
use adit_actors::instance::EndpointHint;
use uuid::Uuid;

use super::{Harness, added, issued, token, workspace};
use crate::store::{Authorization, NewWorkspace, StoreError, TokenHash, TokenScope, Workspace};

async fn seen(
    harness: &Harness,
    hash: TokenHash,
    id: Option<Uuid>,
    guard: Option<Uuid>,
) -> Option<Workspace> {
    match harness.store.authorize(hash, id, guard).await.unwrap() {
        Authorization::Known { workspace, .. } => workspace,
        Authorization::UnknownToken => panic!("the token must be known"),
    }
}

pub(in crate::store) async fn authorises_by_token_and_workspace(harness: Harness) {
    let org = added(&harness, workspace("root", None)).await;
    let other_org = added(&harness, workspace("other root", None)).await;
    let mine = added(&harness, workspace("mine", Some(org))).await;
    let sibling = added(&harness, workspace("sibling", Some(org))).await;
    let foreign = added(&harness, workspace("foreign", Some(other_org))).await;
    let orgless = added(&harness, workspace("orgless", None)).await;
    let workspace_token = issued(&harness, TokenScope::Workspace(mine), 1).await;
    let org_token = issued(&harness, TokenScope::Org(Some(org)), 2).await;
    let loose_token = issued(&harness, TokenScope::Org(None), 3).await;
    let orgless_token = issued(&harness, TokenScope::Workspace(orgless), 4).await;

    for (what, token, asked, visible) in [
        (
            "a workspace token opens its workspace",
            &workspace_token,
            Some(mine),
            true,
        ),
        (
            "a workspace token opens no sibling",
            &workspace_token,
            Some(sibling),
            false,
        ),
        (
            "an org token opens one workspace of its org",
            &org_token,
            Some(mine),
            true,
        ),
        (
            "an org token opens another of its org",
            &org_token,
            Some(sibling),
            true,
        ),
        (
            "an org token opens no other org's",
            &org_token,
            Some(foreign),
            false,
        ),
        (
            "an org token opens none without an org",
            &org_token,
            Some(orgless),
            false,
        ),
        (
            "a token without an org opens nothing",
            &loose_token,
            Some(mine),
            false,
        ),
        (
            "a token without an org opens nothing without one",
            &loose_token,
            Some(orgless),
            false,
        ),
        (
            "a workspace without an org is invisible to its own token",
            &orgless_token,
            Some(orgless),
            false,
        ),
        ("an unknown id", &org_token, Some(Uuid::new_v4()), false),
        ("no id at all", &org_token, None, false),
    ] {
        let found = seen(&harness, token.hash, asked, None).await;
        assert_eq!(
            found.map(|workspace| workspace.id),
            asked.filter(|_| visible),
            "{what}"
        );
    }

    let Authorization::Known { caller, org_id, .. } = harness
        .store
        .authorize(org_token.hash, Some(foreign), None)
        .await
        .unwrap()
    else {
        panic!("the org token must be known");
    };
    assert_eq!(
        (caller.kind, caller.id, caller.prefix),
        (CallerKind::Org, org_token.id, org_token.prefix)
    );
    assert_eq!((caller.name.as_deref(), org_id), (Some("ci"), Some(org)));
    let Authorization::Known { caller, org_id, .. } = harness
        .store
        .authorize(workspace_token.hash, Some(mine), None)
        .await
        .unwrap()
    else {
        panic!("the workspace token must be known");
    };
    assert_eq!(
        (caller.kind, caller.name, org_id),
        (CallerKind::Workspace, None, Some(org))
    );
    assert!(matches!(
        harness.store.authorize([9; 32], Some(mine), None).await.unwrap(),
        Authorization::UnknownToken
    ));
}

pub(in crate::store) async fn a_guard_opens_the_whole_store_to_org_tokens(harness: Harness) {
    let guard = Uuid::new_v4();
    let one = added(&harness, workspace("one", None)).await;
    let two = added(&harness, workspace("two", None)).await;
    let org_token = issued(&harness, TokenScope::Org(None), 1).await;
    let workspace_token = issued(&harness, TokenScope::Workspace(one), 2).await;

    for (token, asked, visible) in [
        (&org_token, one, true),
        (&org_token, two, true),
        (&workspace_token, one, true),
        (&workspace_token, two, false),
    ] {
        let found = seen(&harness, token.hash, Some(asked), Some(guard)).await;
        assert_eq!(found.is_some(), visible, "{:?} asks for {asked}", token.scope);
    }
    let Authorization::Known { org_id, .. } = harness
        .store
        .authorize(org_token.hash, Some(one), Some(guard))
        .await
        .unwrap()
    else {
        panic!("the org token must be known");
    };
    assert_eq!(org_id, Some(guard));
}

pub(in crate::store) async fn revoked_tokens_are_unknown_at_once(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    for (scope, first) in [(TokenScope::Workspace(id), 1), (TokenScope::Org(None), 2)] {
        let token = issued(&harness, scope, first).await;
        assert!(seen(&harness, token.hash, Some(id), Some(id)).await.is_some());
        assert!(harness.store.revoke_token(token.id).await.unwrap());
        let after = harness
            .store
            .authorize(token.hash, Some(id), Some(id))
            .await
            .unwrap();
        assert!(matches!(after, Authorization::UnknownToken));
        assert!(
            !harness.store.revoke_token(token.id).await.unwrap(),
            "it is revoked already"
        );
    }
    assert!(
        !harness.store.revoke_token(Uuid::new_v4()).await.unwrap(),
        "there is none"
    );
    assert!(
        harness
            .store
            .list_tokens()
            .await
            .unwrap()
            .iter()
            .all(|token| token.revoked_at.is_some())
    );
}

pub(in crate::store) async fn removed_workspaces_are_invisible(harness: Harness) {
    let guard = Some(Uuid::new_v4());
    let id = added(&harness, workspace("mine", None)).await;
    let tokens = [
        issued(&harness, TokenScope::Workspace(id), 1).await,
        issued(&harness, TokenScope::Org(None), 2).await,
    ];
    for (status, visible) in [
        ("failed", true),
        ("paused", true),
        ("offline", true),
        ("removed", false),
        ("online", true),
    ] {
        harness
            .database
            .execute(&format!(
                "UPDATE workspaces SET status = '{status}' WHERE id = '{id}'"
            ))
            .await;
        for token in &tokens {
            let found = seen(&harness, token.hash, Some(id), guard).await;
            assert_eq!(
                found.map(|workspace| workspace.status),
                visible.then(|| status.to_owned())
            );
        }
        assert_eq!(
            harness.store.list_workspaces().await.unwrap().len(),
            usize::from(visible),
            "{status}"
        );
    }
}

pub(in crate::store) async fn a_bare_workspace_takes_the_defaults(harness: Harness) {
    let bare = added(&harness, workspace("bare", None)).await;
    let full = NewWorkspace {
        region: Some("eu-west-1".to_owned()),
        os_user: Some("admin".to_owned()),
        address: Some("10.1.2.3".parse().unwrap()),
        endpoint_id: Some("eice-0123456789abcdef0".to_owned()),
        endpoint_dns_name: Some("eice.example".to_owned()),
        ..workspace("full", None)
    };
    let full = added(&harness, full).await;
    let without_instance = NewWorkspace {
        instance_id: None,
        ..workspace("none", None)
    };
    let none = added(&harness, without_instance).await;
    let token = issued(&harness, TokenScope::Org(None), 1).await;
    harness
        .database
        .execute(&format!("UPDATE workspaces SET tier = NULL WHERE id = '{bare}'"))
        .await;
    let guard = Some(Uuid::new_v4());

    let bare = seen(&harness, token.hash, Some(bare), guard).await.unwrap();
    assert_eq!(bare.tier, 1, "an absent tier is the lowest");
    let target = bare.target.unwrap();
    assert_eq!(
        (target.instance.region.as_str(), target.os_user.as_str()),
        ("us-east-2", "ubuntu")
    );
    assert_eq!(
        (target.address, target.port, target.endpoint),
        (None, Some(22), None)
    );

    let target = seen(&harness, token.hash, Some(full), guard)
        .await
        .unwrap()
        .target
        .unwrap();
    assert_eq!(
        (target.instance.region.as_str(), target.os_user.as_str()),
        ("eu-west-1", "admin")
    );
    assert_eq!(target.address, Some("10.1.2.3".parse().unwrap()));
    let endpoint = EndpointHint {
        endpoint_id: "eice-0123456789abcdef0".to_owned(),
        dns_name: "eice.example".to_owned(),
    };
    assert_eq!(target.endpoint, Some(endpoint));

    assert_eq!(
        seen(&harness, token.hash, Some(none), guard)
            .await
            .unwrap()
            .target,
        None
    );
}

pub(in crate::store) async fn lists_and_refusals_for_operators(harness: Harness) {
    harness.store.ping().await.unwrap();
    let zebra = workspace("zebra", None);
    let id = added(&harness, zebra.clone()).await;
    added(&harness, workspace("ant", None)).await;
    let names: Vec<_> = harness
        .store
        .list_workspaces()
        .await
        .unwrap()
        .into_iter()
        .map(|found| found.name)
        .collect();
    assert_eq!(names, ["ant", "zebra"]);

    let one = issued(&harness, TokenScope::Workspace(id), 1).await;
    let two = issued(&harness, TokenScope::Org(Some(id)), 2).await;
    let listed = harness.store.list_tokens().await.unwrap();
    for token in [&one, &two] {
        let found = listed.iter().find(|found| found.id == token.id).unwrap();
        assert_eq!(
            (found.scope, &found.prefix, &found.name),
            (token.scope, &token.prefix, &token.name)
        );
        assert_eq!(found.revoked_at, None);
        assert!((Clock::system().now() - found.created_at).abs() < time::Duration::HOUR);
    }

    let nobody = Uuid::new_v4();
    for refused in [
        harness.store.add_workspace(&zebra).await,
        harness
            .store
            .add_workspace(&NewWorkspace {
                tier: 5,
                ..workspace("tier", None)
            })
            .await,
        harness
            .store
            .add_token(&token(TokenScope::Workspace(nobody), 3))
            .await,
        harness
            .store
            .add_token(&token(TokenScope::Org(Some(nobody)), 3))
            .await,
        harness
            .store
            .add_token(&token(TokenScope::Workspace(id), 1))
            .await,
    ] {
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
}
