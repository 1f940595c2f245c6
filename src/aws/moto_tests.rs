//! DescribeInstances against moto's EC2. `tests/moto/check.sh` starts moto and runs this.

use adit_actors::clock::Clock;
use adit_actors::instance::{InstanceKey, InstanceTarget};
use adit_actors::tunnel::{LocateError, Locator, chain};
use serde_json::Value;

use super::test_support;
use super::{AwsConnection, AwsOptions, Way};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("`{name}` is not set; run tests/moto/check.sh"))
}

fn target(region: &str, instance_id: &str) -> InstanceTarget {
    let instance = InstanceKey {
        region: region.to_owned(),
        instance_id: instance_id.to_owned(),
    };
    InstanceTarget {
        instance,
        ..test_support::target()
    }
}

#[tokio::test]
#[ignore = "needs moto's server: tests/moto/check.sh"]
async fn moto_says_where_instances_are() {
    let made: Value =
        serde_json::from_str(&std::fs::read_to_string(variable("ADIT_TEST_MOTO_INSTANCES")).unwrap())
            .unwrap();
    let text = |name: &str| made[name].as_str().unwrap();
    let options = AwsOptions {
        ec2_endpoint: Some(variable("ADIT_TEST_MOTO_URL")),
        way: Way::Direct,
        ..AwsOptions::new("us-east-1")
    };
    let locator = AwsConnection::open(options, Clock::system())
        .await
        .unwrap()
        .locator();
    let region = text("region");
    for (instance, address) in [("running", "running_address"), ("stopped", "stopped_address")] {
        let location = locator.locate(&target(region, text(instance))).await.unwrap();
        assert_eq!(location.address.to_string(), text(address), "{instance}");
    }
    let gone = [
        (region, text("terminated"), "`terminated`"),
        (region, "i-00000000000000000", "InvalidInstanceID.NotFound"),
        ("us-west-2", text("running"), "InvalidInstanceID.NotFound"),
    ];
    for (region, instance_id, says) in gone {
        let error = locator.locate(&target(region, instance_id)).await.unwrap_err();
        assert!(matches!(error, LocateError::InstanceNotFound(_)), "{error:?}");
        let cause = chain(&error);
        assert!(cause.contains(says), "{cause}");
        println!("{cause}");
    }
}
