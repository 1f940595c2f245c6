//! Choice, keeping and forgetting, with an EC2 of this test's own and under paused time.

use std::collections::VecDeque;
use std::sync::Mutex;

use futures_util::future::join_all;
use tokio::time::advance;

use super::*;

const LIFE: Duration = Duration::from_secs(300);

/// Answers from a script, the last answer for ever, and counts.
#[derive(Default)]
struct Script {
    instances: Mutex<VecDeque<Result<InstancePlace, DiscoveryError>>>,
    endpoints: Mutex<Vec<EndpointFound>>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Describe for Script {
    async fn instance(&self, instance: &InstanceKey) -> Result<InstancePlace, DiscoveryError> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.asked.lock().unwrap().push(instance.to_string());
        let mut instances = self.instances.lock().unwrap();
        match instances.pop_front().unwrap() {
            Ok(place) => {
                if instances.is_empty() {
                    instances.push_front(Ok(place.clone()));
                }
                Ok(place)
            }
            Err(error) => Err(error),
        }
    }

    async fn endpoints(&self, region: &str, vpc_id: &str) -> Result<Vec<EndpointFound>, DiscoveryError> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.asked.lock().unwrap().push(format!("{region}/{vpc_id}"));
        Ok(self.endpoints.lock().unwrap().clone())
    }
}

fn place(address: Option<&str>) -> InstancePlace {
    InstancePlace {
        vpc_id: Some("vpc-1".to_owned()),
        subnet_id: Some("subnet-1".to_owned()),
        address: address.map(|text| text.parse().unwrap()),
    }
}

fn endpoint(id: &str, subnet: &str, fips: Option<&str>) -> EndpointFound {
    EndpointFound {
        endpoint_id: id.to_owned(),
        dns_name: Some(format!("{id}.example")),
        fips_dns_name: fips.map(str::to_owned),
        subnet_id: Some(subnet.to_owned()),
    }
}

fn key(instance_id: &str) -> InstanceKey {
    InstanceKey {
        region: "eu-north-1".to_owned(),
        instance_id: instance_id.to_owned(),
    }
}

fn discovery(use_fips: bool) -> (Arc<Script>, Discovery) {
    let script = Arc::new(Script::default());
    script
        .instances
        .lock()
        .unwrap()
        .push_back(Ok(place(Some("10.0.0.7"))));
    *script.endpoints.lock().unwrap() = vec![endpoint("eice-1", "subnet-1", None)];
    let discovery = Discovery::with(script.clone(), use_fips, LIFE);
    (script, discovery)
}

impl Script {
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[test]
fn the_endpoint_in_the_subnet_goes_before_the_first_of_the_vpc() {
    let other = || endpoint("eice-other", "subnet-2", Some("fips.other.example"));
    let own = || endpoint("eice-own", "subnet-1", Some("fips.own.example"));
    let no_fips = || endpoint("eice-old", "subnet-1", None);
    let nowhere = || EndpointFound {
        subnet_id: None,
        ..endpoint("eice-nowhere", "", None)
    };
    let table = [
        (
            vec![other(), own()],
            Some("subnet-1"),
            false,
            Some("eice-own.example"),
        ),
        (
            vec![other(), own()],
            Some("subnet-3"),
            false,
            Some("eice-other.example"),
        ),
        (vec![other()], Some("subnet-1"), false, Some("eice-other.example")),
        (vec![own(), nowhere()], None, false, Some("eice-own.example")),
        (
            vec![other(), own()],
            Some("subnet-1"),
            true,
            Some("fips.own.example"),
        ),
        (vec![other(), no_fips()], Some("subnet-1"), true, None),
        (Vec::new(), Some("subnet-1"), false, None),
    ];
    for (endpoints, subnet_id, use_fips, expected) in table {
        let chosen = choose(&endpoints, subnet_id, use_fips);
        assert_eq!(
            chosen.as_ref().ok().map(|endpoint| endpoint.dns_name.as_str()),
            expected,
            "{endpoints:?} {subnet_id:?} {use_fips}"
        );
        match chosen {
            Ok(_) => {}
            Err(LocateError::NoFipsName(id)) => assert_eq!(id, "eice-old"),
            Err(error) => assert!(
                endpoints.is_empty() && matches!(error, LocateError::NoEndpoint),
                "{error:?}"
            ),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_cold_starts_in_a_vpc_ask_once_for_each_instance_and_once_for_the_endpoint() {
    let (script, discovery) = discovery(false);
    let ids = ["i-1", "i-2"];
    let cold = (0..100).map(|number| {
        let key = key(ids[number % 2]);
        let discovery = &discovery;
        async move {
            let found = tokio::join!(discovery.address(&key), discovery.endpoint(&key));
            (found.0.unwrap().to_string(), found.1.unwrap().endpoint_id)
        }
    });
    for found in join_all(cold).await {
        assert_eq!(found, ("10.0.0.7".to_owned(), "eice-1".to_owned()));
    }
    let mut asked = script.asked();
    asked.sort();
    assert_eq!(asked, ["eu-north-1/i-1", "eu-north-1/i-2", "eu-north-1/vpc-1"]);

    advance(LIFE).await;
    discovery.endpoint(&key("i-1")).await.unwrap();
    assert_eq!(script.asked(), ["eu-north-1/i-1", "eu-north-1/vpc-1"]);
}

#[tokio::test(start_paused = true)]
async fn forgetting_an_instance_forgets_its_vpcs_endpoints_unless_they_are_just_known() {
    let (script, discovery) = discovery(false);
    for id in ["i-1", "i-2"] {
        discovery.endpoint(&key(id)).await.unwrap();
    }
    script.asked();
    // Both fail at once: each is looked up again, their endpoint is too young to be at fault.
    for id in ["i-1", "i-2"] {
        discovery.forget(&key(id));
        discovery.endpoint(&key(id)).await.unwrap();
    }
    assert_eq!(script.asked(), ["eu-north-1/i-1", "eu-north-1/i-2"]);

    advance(ENDPOINTS_LEAST_AGE).await;
    discovery.forget(&key("i-1"));
    discovery.endpoint(&key("i-1")).await.unwrap();
    discovery.endpoint(&key("i-2")).await.unwrap();
    assert_eq!(script.asked(), ["eu-north-1/i-1", "eu-north-1/vpc-1"]);
    discovery.forget(&key("i-3"));
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_or_refused_is_named_and_asked_for_again() {
    let (script, discovery) = discovery(false);
    let refused = |code: &str| DiscoveryError::Refused {
        status: http::StatusCode::FORBIDDEN,
        code: Some(code.to_owned()),
        message: "no".to_owned(),
        request_id: None,
    };
    *script.instances.lock().unwrap() = VecDeque::from([
        Err(refused("UnauthorizedOperation")),
        Err(refused("RequestLimitExceeded")),
        Err(DiscoveryError::Terminated {
            instance_id: "i-1".to_owned(),
            state: "terminated".to_owned(),
        }),
        Err(DiscoveryError::GivenUp),
        Ok(place(None)),
    ]);
    let error = discovery.address(&key("i-1")).await.unwrap_err();
    assert!(matches!(error, LocateError::Denied(_)), "{error:?}");
    let error = discovery.address(&key("i-1")).await.unwrap_err();
    assert!(matches!(error, LocateError::Throttled(_)), "{error:?}");
    let error = discovery.address(&key("i-1")).await.unwrap_err();
    assert!(matches!(error, LocateError::InstanceNotFound(_)), "{error:?}");
    let cause = adit_actors::tunnel::chain(&error);
    assert!(cause.contains("instance `i-1` is `terminated`"), "{cause}");
    let error = discovery.address(&key("i-1")).await.unwrap_err();
    assert!(matches!(error, LocateError::Unreachable(_)), "{error:?}");
    let error = discovery.address(&key("i-1")).await.unwrap_err();
    assert!(matches!(error, LocateError::NoAddress), "{error:?}");
    discovery.endpoint(&key("i-1")).await.unwrap();

    script.endpoints.lock().unwrap().clear();
    advance(LIFE).await;
    let error = discovery.endpoint(&key("i-1")).await.unwrap_err();
    assert!(matches!(error, LocateError::NoEndpoint), "{error:?}");
}
