//! Host key pins: the first one holds for everybody.

use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::HostKey;

use super::Harness;

pub(in crate::store) async fn the_first_host_key_holds(harness: Harness) {
    let instance = |region: &str| InstanceKey {
        region: region.to_owned(),
        instance_id: "i-01".to_owned(),
    };
    let key = |body: &str| HostKey {
        key_type: "ssh-ed25519".to_owned(),
        key_base64: body.to_owned(),
    };
    let (here, there) = (instance("us-east-2"), instance("us-west-2"));
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
