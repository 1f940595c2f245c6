//! Host key pins: the first one holds for everybody, until an operator says otherwise.

use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::HostKey;

use super::Harness;
use crate::store::{HostKeyPin, HostKeyQuery, PinnedByOperator, Provenance};

fn instance(region: &str, instance_id: &str) -> InstanceKey {
    InstanceKey {
        region: region.to_owned(),
        instance_id: instance_id.to_owned(),
    }
}

fn key(body: &str) -> HostKey {
    HostKey {
        key_type: "ssh-ed25519".to_owned(),
        key_base64: body.to_owned(),
    }
}

/// What must hold of a pin besides its time.
fn said_of(pin: &HostKeyPin) -> (&InstanceKey, &HostKey, Provenance, Option<&str>) {
    (&pin.instance, &pin.key, pin.provenance, pin.pinned_by.as_deref())
}

pub(in crate::store) async fn the_first_host_key_holds(harness: Harness) {
    let (here, there) = (instance("us-east-2", "i-01"), instance("us-west-2", "i-01"));
    assert_eq!(harness.store.pinned(&here).await.unwrap(), None);

    let candidates: Vec<_> = (0..16).map(|number| key(&format!("AAAA{number}"))).collect();
    let pins = candidates
        .iter()
        .map(|candidate| harness.store.pin_first_use(&here, candidate));
    let pins: Vec<_> = futures_util::future::join_all(pins)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let pinned = harness.store.pinned(&here).await.unwrap().unwrap();
    assert!(
        pins.iter().all(|pin| *pin == pinned),
        "everybody gets the same pin"
    );

    assert_eq!(
        harness.store.pin_first_use(&here, &key("late")).await.unwrap(),
        pinned
    );
    assert_eq!(
        harness.store.pin_first_use(&there, &key("other")).await.unwrap(),
        key("other"),
        "a region apart"
    );
}

pub(in crate::store) async fn an_operators_pin_replaces_and_first_use_does_not(harness: Harness) {
    let (store, here) = (harness.store, instance("us-east-2", "i-01"));
    let (first, second, third) = (key("first"), key("second"), key("third"));
    store.pin_first_use(&here, &first).await.unwrap();
    let shown = store.host_key(&here).await.unwrap().unwrap();
    assert_eq!(said_of(&shown), (&here, &first, Provenance::FirstUse, None));

    let PinnedByOperator { pin, replaced } = store.pin_host_key(&here, &second, "me").await.unwrap();
    assert_eq!(said_of(&pin), (&here, &second, Provenance::Operator, Some("me")));
    assert_eq!(replaced.as_ref(), Some(&shown));
    assert!(
        pin.pinned_at >= shown.pinned_at,
        "the time of this pin, not of the old one"
    );
    assert_eq!(store.host_key(&here).await.unwrap().as_ref(), Some(&pin));

    assert_eq!(store.pin_first_use(&here, &first).await.unwrap(), second);
    assert_eq!(store.host_key(&here).await.unwrap().as_ref(), Some(&pin));

    let again = store.pin_host_key(&here, &third, "you").await.unwrap();
    assert_eq!(
        said_of(&again.pin),
        (&here, &third, Provenance::Operator, Some("you"))
    );
    assert_eq!(again.replaced, Some(pin));
    let elsewhere = store
        .pin_host_key(&instance("us-west-2", "i-01"), &third, "me")
        .await
        .unwrap();
    assert_eq!(elsewhere.replaced, None, "a region apart");
}

pub(in crate::store) async fn a_forgotten_pin_makes_room(harness: Harness) {
    let (store, here, there) = (
        harness.store,
        instance("us-east-2", "i-01"),
        instance("us-east-2", "i-02"),
    );
    let (old, new) = (key("old"), key("new"));
    assert_eq!(store.forget_host_key(&here).await.unwrap(), None);
    store.pin_first_use(&here, &old).await.unwrap();
    store.pin_first_use(&there, &old).await.unwrap();
    let forgotten = store.forget_host_key(&here).await.unwrap().unwrap();
    assert_eq!(said_of(&forgotten), (&here, &old, Provenance::FirstUse, None));
    assert_eq!(store.host_key(&here).await.unwrap(), None);
    assert_eq!(store.pinned(&here).await.unwrap(), None);
    assert_eq!(store.pin_first_use(&here, &new).await.unwrap(), new);
    assert_eq!(store.pinned(&there).await.unwrap(), Some(old), "another instance");
}

pub(in crate::store) async fn pins_are_listed_page_by_page(harness: Harness) {
    let store = harness.store;
    let instances: Vec<InstanceKey> = ["eu-west-1", "us-east-2"]
        .iter()
        .flat_map(|region| ["i-01", "i-02", "i-03"].map(|id| instance(region, id)))
        .collect();
    for instance in instances.iter().rev() {
        store.pin_first_use(instance, &key("k")).await.unwrap();
    }
    let list = async |query: HostKeyQuery| -> Vec<InstanceKey> {
        let pins = store.list_host_keys(&query).await.unwrap();
        pins.into_iter().map(|pin| pin.instance).collect()
    };
    for limit in 1..=7 {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = list(HostKeyQuery {
                after,
                limit,
                ..HostKeyQuery::default()
            })
            .await;
            assert!(page.len() <= limit as usize);
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.clone());
            seen.extend(page);
        }
        assert_eq!(seen, instances, "{limit} a page");
    }
    let text = |text: &str| Some(text.to_owned());
    let table = [
        (None, text("i-02"), None, vec![1, 4]),
        (text("us-east-2"), None, None, vec![3, 4, 5]),
        (text("us-east-2"), text("i-02"), None, vec![4]),
        (text("us-east-1"), None, None, vec![]),
        (None, text("i-02"), Some(instance("eu-west-1", "i-02")), vec![4]),
        (None, None, Some(instance("eu-west-1", "i-99")), vec![3, 4, 5]),
    ];
    for (region, instance_id, after, expected) in table {
        let query = HostKeyQuery {
            region,
            instance_id,
            after,
            limit: 10,
        };
        let expected: Vec<InstanceKey> = expected
            .into_iter()
            .map(|number: usize| instances[number].clone())
            .collect();
        assert_eq!(list(query.clone()).await, expected, "{query:?}");
    }
}

pub(in crate::store) async fn only_an_operators_pin_has_an_author(harness: Harness) {
    let insert = |instance_id: &str, provenance: &str, pinned_by: &str| {
        format!(
            "INSERT INTO adit_host_keys (region, instance_id, key_type, key_base64, provenance, pinned_by)
             VALUES ('r', '{instance_id}', 'ssh-ed25519', 'k', '{provenance}', {pinned_by})"
        )
    };
    for (instance_id, provenance, pinned_by, is_taken) in [
        ("i-1", "operator", "'me'", true),
        ("i-2", "operator", "NULL", true),
        ("i-3", "first_use", "NULL", true),
        ("i-4", "first_use", "'me'", false),
        ("i-5", "somebody", "NULL", false),
    ] {
        let statement = insert(instance_id, provenance, pinned_by);
        let taken = harness.database.try_execute(&statement).await;
        assert_eq!(taken, is_taken, "{statement}");
    }
}
