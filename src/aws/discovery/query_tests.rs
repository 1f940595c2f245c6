//! The real client against an EC2 that answers over a real socket.

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;

use super::super::super::test_support::{Asked, INSTANCE, Service, target};
use super::*;

async fn client(service: &Service) -> Ec2Query {
    let provider = Credentials::new("AKIDEXAMPLE", "secret", Some("TOKEN".into()), None, "test");
    let fixed = Some(format!("http://{}", service.address));
    let now = time::OffsetDateTime::from_unix_timestamp(1_577_840_461).unwrap();
    let clock = Clock::from_fn(move || now);
    Ec2Query::new(
        Client::builder()
            .no_proxy()
            .timeout(ATTEMPT_TIMEOUT)
            .build()
            .unwrap(),
        Arc::new(CachedCredentials::new(
            SharedCredentialsProvider::new(provider),
            clock.clone(),
        )),
        clock,
        ServiceUrl::new(&SdkConfig::builder().build(), fixed),
    )
}

fn error(code: &str) -> String {
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>no</Message></Error></Errors>\
         <RequestID>request-2</RequestID></Response>"
    )
}

fn page(id: &str, next_token: &str) -> String {
    format!(
        "<DescribeInstanceConnectEndpointsResponse><instanceConnectEndpointSet><item>\
         <instanceConnectEndpointId>{id}</instanceConnectEndpointId></item></instanceConnectEndpointSet>\
         <nextToken>{next_token}</nextToken></DescribeInstanceConnectEndpointsResponse>"
    )
}

const EMPTY: &str = "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>";

async fn ask(service: &Service) -> DiscoveryError {
    client(service)
        .await
        .instance(&target().instance)
        .await
        .unwrap_err()
}

/// What is signed over, and for whom. That the signature is right, only a server that verifies it can say.
#[tokio::test]
async fn a_request_is_a_signed_form() {
    let service = Service::start(None, |_, _| (200, EMPTY.to_owned())).await;
    let found = ask(&service).await;
    assert!(matches!(found, DiscoveryError::NoInstance { .. }), "{found:?}");
    let [Asked { headers, body }] = &service.asked()[..] else {
        panic!("{:?}", service.asked());
    };
    assert_eq!(
        body,
        &format!("Action=DescribeInstances&Version=2016-11-15&InstanceId.1={INSTANCE}")
    );
    let text = |name: &str| headers[name].to_str().unwrap();
    assert_eq!(
        text("content-type"),
        "application/x-www-form-urlencoded; charset=utf-8"
    );
    assert_eq!(text("host"), service.address.to_string());
    assert_eq!(text("x-amz-date"), "20200101T010101Z");
    assert_eq!(text("x-amz-security-token"), "TOKEN");
    assert!(text("user-agent").starts_with("adit/"));
    let authorization = text("authorization");
    assert!(
        authorization.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20200101/eu-north-1/ec2/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature="
        ),
        "{authorization}"
    );
}

#[tokio::test]
async fn throttling_and_faults_are_tried_again_and_nothing_else_is() {
    let table = [
        (503, error("RequestLimitExceeded"), MAX_ATTEMPTS),
        (500, error("InternalError"), MAX_ATTEMPTS),
        (502, "<html>".to_owned(), MAX_ATTEMPTS),
        (403, error("UnauthorizedOperation"), 1),
        (400, error("InvalidInstanceID.NotFound"), 1),
        (400, error("InvalidParameterValue"), 1),
        (200, "<html>".to_owned(), 1),
        (200, "x".repeat(MAX_ANSWER + 1), 1),
        (302, String::new(), 1),
    ];
    for (status, answer, attempts) in table {
        let shown: String = answer.chars().take(100).collect();
        let answer_is_short = answer.len() <= MAX_ANSWER;
        let service = Service::start(None, move |_, _| (status, answer.clone())).await;
        // Longer than a busy machine takes for all of them.
        let deadline = Instant::now() + Duration::from_secs(60);
        let called = client(&service)
            .await
            .call("eu-north-1", &describe_instances(INSTANCE), deadline)
            .await;
        assert_eq!(
            called.is_ok(),
            status == 200 && answer_is_short,
            "{status} {shown}"
        );
        assert_eq!(service.asked().len(), attempts as usize, "{status} {shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_a_later_attempt_says_how_the_one_before_failed() {
    let attempts = std::sync::atomic::AtomicUsize::new(0);
    let make = || {
        let number = attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            if number == 0 {
                let body = error("RequestLimitExceeded");
                let status = http::StatusCode::SERVICE_UNAVAILABLE;
                return Err(answers::refusal(status, None, body.as_bytes()));
            }
            std::future::pending().await
        }
    };
    let found = tried_again(Instant::now() + OPERATION_TIMEOUT, make)
        .await
        .unwrap_err();
    assert!(
        matches!(found, DiscoveryError::Deadline { before: Some(_), .. }),
        "{found:?}"
    );
    assert_eq!(found.kind(), super::super::failure::Kind::Throttled);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_first_attempt_is_no_answer() {
    let found = tried_again(Instant::now() + OPERATION_TIMEOUT, std::future::pending)
        .await
        .unwrap_err();
    assert!(
        matches!(found, DiscoveryError::Deadline { before: None, .. }),
        "{found:?}"
    );
    assert_eq!(found.kind(), super::super::failure::Kind::Unreachable);
}

#[tokio::test]
async fn a_throttled_request_succeeds_in_the_end() {
    let service = Service::start(None, |_, number| match number {
        1 | 2 => (503, error("RequestLimitExceeded")),
        _ => (200, page("eice-1", "")),
    })
    .await;
    let found = client(&service)
        .await
        .endpoints("eu-north-1", "vpc-1")
        .await
        .unwrap();
    assert_eq!((found.len(), service.asked().len()), (1, 3));
}

#[tokio::test]
async fn endpoints_are_asked_for_as_the_cli_does_page_after_page() {
    let service = Service::start(None, |asked, _| {
        let next = if asked.body.contains("NextToken=") {
            ""
        } else {
            "a+b/c="
        };
        (200, page(if next.is_empty() { "eice-2" } else { "eice-1" }, next))
    })
    .await;
    let found = client(&service)
        .await
        .endpoints("eu-north-1", "vpc-1")
        .await
        .unwrap();
    let ids: Vec<_> = found
        .iter()
        .map(|endpoint| endpoint.endpoint_id.as_str())
        .collect();
    assert_eq!(ids, ["eice-1", "eice-2"]);
    let bodies: Vec<_> = service.asked().into_iter().map(|asked| asked.body).collect();
    let first = "Action=DescribeInstanceConnectEndpoints&Version=2016-11-15&Filter.1.Name=state\
                 &Filter.1.Value.1=create-complete&Filter.1.Value.2=update-in-progress\
                 &Filter.1.Value.3=update-failed&Filter.1.Value.4=update-complete\
                 &Filter.2.Name=vpc-id&Filter.2.Value.1=vpc-1&MaxResults=50";
    assert_eq!(
        bodies,
        [first.to_owned(), format!("{first}&NextToken=a%2Bb%2Fc%3D")]
    );
}

#[tokio::test]
async fn a_list_without_an_end_has_one() {
    let service = Service::start(None, |_, _| (200, page("eice-1", "again"))).await;
    let error = client(&service)
        .await
        .endpoints("eu-north-1", "vpc-1")
        .await
        .unwrap_err();
    assert!(matches!(error, DiscoveryError::TooManyPages { .. }), "{error:?}");
    assert_eq!(service.asked().len(), MAX_PAGES);
}

#[tokio::test]
async fn nobody_listening_is_no_answer() {
    let service = Service::start(None, |_, _| (200, String::new())).await;
    let client = client(&service).await;
    drop(service);
    let error = client.instance(&target().instance).await.unwrap_err();
    assert!(matches!(error, DiscoveryError::NoAnswer(_)), "{error:?}");
}

#[test]
fn pauses_double_and_are_spread() {
    let milliseconds = |attempt, share| pause(attempt, share).as_millis();
    assert_eq!(
        [1, 2, 3].map(|attempt| milliseconds(attempt, 1.0)),
        [200, 400, 800]
    );
    assert_eq!(milliseconds(1, 0.5), 100);
}
