//! The life of a token: from when on it opens nothing, and when it was used last.

use std::time::Duration;

use adit_actors::clock::Clock;
use adit_actors::exec::CallerKind;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Harness, added, issued, token, workspace};
use crate::store::{Authorization, NewToken, TokenScope};

const MINUTE: Duration = Duration::from_secs(60);

/// To the microsecond, as stores keep times.
fn now() -> OffsetDateTime {
    let now = Clock::system().now();
    now.replace_microsecond(now.microsecond()).unwrap()
}

pub(in crate::store) async fn an_expired_token_is_unknown(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let mut first = 0;
    for scope in [TokenScope::Workspace(id), TokenScope::Org(None)] {
        for (what, expires_at, is_known) in [
            ("never expires", None, true),
            ("expires later", Some(now() + MINUTE), true),
            ("has expired", Some(now() - Duration::from_millis(2)), false),
            ("expired long ago", Some(now() - 1_000_000 * MINUTE), false),
        ] {
            first += 1;
            let new = NewToken {
                expires_at,
                ..token(scope, first)
            };
            harness.store.add_token(&new).await.unwrap();
            let answer = harness
                .store
                .authorize(new.hash, Some(id), Some(id))
                .await
                .unwrap();
            assert_eq!(
                matches!(
                    answer,
                    Authorization::Known {
                        workspace: Some(_),
                        ..
                    }
                ),
                is_known,
                "{scope:?} {what}"
            );
            assert_eq!(matches!(answer, Authorization::UnknownToken), !is_known);
            let listed = harness.store.list_tokens().await.unwrap();
            let listed = listed.iter().find(|listed| listed.id == new.id).unwrap();
            assert_eq!(listed.expires_at, expires_at, "{scope:?} {what}");
        }
    }
}

async fn last_used_at(harness: &Harness, id: Uuid) -> Option<OffsetDateTime> {
    let listed = harness.store.list_tokens().await.unwrap();
    listed.iter().find(|token| token.id == id).unwrap().last_used_at
}

pub(in crate::store) async fn uses_are_noted_coarsely(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let of_workspace = issued(&harness, TokenScope::Workspace(id), 1).await.id;
    let of_org = issued(&harness, TokenScope::Org(None), 2).await.id;
    let unused = issued(&harness, TokenScope::Org(None), 3).await.id;
    let uses = [
        (CallerKind::Workspace, of_workspace),
        (CallerKind::Org, of_org),
        (CallerKind::Org, Uuid::new_v4()),
        // An id is looked for among its own kind only.
        (CallerKind::Workspace, unused),
    ];
    let note = async |coarseness| harness.store.note_token_uses(&uses, coarseness).await.unwrap();
    harness.store.note_token_uses(&[], MINUTE).await.unwrap();
    note(MINUTE).await;
    let before = [
        last_used_at(&harness, of_workspace).await,
        last_used_at(&harness, of_org).await,
    ];
    assert!(
        before
            .iter()
            .all(|used| used.is_some_and(|used| (now() - used).abs() < time::Duration::HOUR))
    );
    assert_eq!(last_used_at(&harness, unused).await, None);

    note(MINUTE).await;
    assert_eq!(
        [
            last_used_at(&harness, of_workspace).await,
            last_used_at(&harness, of_org).await
        ],
        before,
        "it was noted a moment ago"
    );
    for table in ["workspace_auth_tokens", "org_api_tokens"] {
        let age = format!(
            "UPDATE {table} SET last_used_at = '2020-01-01T00:00:00.000000Z' WHERE last_used_at IS NOT NULL"
        );
        harness.database.execute(&age).await;
    }
    note(MINUTE).await;
    for id in [of_workspace, of_org] {
        assert!(last_used_at(&harness, id).await >= before[0], "it was long ago");
    }
}
