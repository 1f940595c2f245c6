//! EC2's Query protocol: a signed form out, XML back. Two read-only operations do not pay for EC2's SDK, which takes
//! minutes and gigabytes to build.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_actors::clock::Clock;
use adit_actors::instance::InstanceKey;
use async_trait::async_trait;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::header::{CONTENT_TYPE, USER_AGENT};
use percent_encoding::utf8_percent_encode;
use rand::RngExt;
use reqwest::Client;
use tokio::time::{Instant, sleep, timeout_at};

use super::super::credentials::CachedCredentials;
use super::super::sign::ESCAPED;
use super::super::{AGENT, REQUEST_ID_HEADER};
use super::answers;
use super::failure::DiscoveryError;
use super::service_url::ServiceUrl;
use super::{Describe, EndpointFound, InstancePlace};

/// Signing name of the service.
const SIGNING_NAME: &str = "ec2";

/// The API version whose answers are read; EC2 has no later one.
const VERSION: &str = "2016-11-15";

/// Connecting to EC2, TLS included.
pub(in crate::aws) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One request. EC2 answers these in a few hundred milliseconds.
pub(in crate::aws) const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(2_500);

/// One operation, its retries and pages included. A cold instance needs both operations, and its supervisor waits 10 s
/// for the way: so it hears the cause.
pub(super) const OPERATION_TIMEOUT: Duration = Duration::from_millis(4_500);

/// Requests for one page, the first included.
const MAX_ATTEMPTS: u32 = 4;

/// Pause before the second request at most; each further one doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Of one answer. An instance with many interfaces, disks and tags takes some 100 KiB.
const MAX_ANSWER: usize = 1024 * 1024;

/// Endpoints asked for at a time: EC2 takes 1 to 50.
const PAGE_SIZE: usize = 50;

/// Pages at most. A subnet has one endpoint, and a VPC 200 subnets unless its quota was raised.
const MAX_PAGES: usize = 8;

/// The states in which the AWS CLI uses an endpoint.
const USABLE_STATES: [&str; 4] = [
    "create-complete",
    "update-in-progress",
    "update-failed",
    "update-complete",
];

/// EC2, with the process's credentials.
#[derive(Debug)]
pub(in crate::aws) struct Ec2Query {
    http: Client,
    credentials: Arc<CachedCredentials>,
    clock: Clock,
    service_url: ServiceUrl,
}

impl Ec2Query {
    /// `http` brings TLS, proxies and the timeouts above.
    pub(in crate::aws) fn new(
        http: Client,
        credentials: Arc<CachedCredentials>,
        clock: Clock,
        service_url: ServiceUrl,
    ) -> Self {
        Self {
            http,
            credentials,
            clock,
            service_url,
        }
    }

    /// Sends one request until it is answered or not worth another try.
    async fn call(&self, region: &str, body: &str, deadline: Instant) -> Result<String, DiscoveryError> {
        tried_again(deadline, || self.attempt(region, body)).await
    }

    async fn attempt(&self, region: &str, body: &str) -> Result<String, DiscoveryError> {
        let url = self.service_url.of(region).await?;
        let request = self.signed(region, &url, body).await?;
        // Its own text would repeat the URL that the endpoint's settings name.
        let no_answer = |error: reqwest::Error| DiscoveryError::NoAnswer(error.without_url());
        let request = reqwest::Request::try_from(request).map_err(no_answer)?;
        let mut answer = self.http.execute(request).await.map_err(no_answer)?;
        let status = answer.status();
        let request_id = answer
            .headers()
            .get(REQUEST_ID_HEADER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(no_answer)? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(DiscoveryError::TooLong { limit: MAX_ANSWER });
            }
            bytes.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(answers::refusal(status, request_id, &bytes));
        }
        // XML 1.0 has nothing else in UTF-8 either; quick-xml reads text.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn signed(
        &self,
        region: &str,
        url: &str,
        body: &str,
    ) -> Result<http::Request<String>, DiscoveryError> {
        const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
        let credentials = self
            .credentials
            .get()
            .await
            .map_err(DiscoveryError::Credentials)?;
        let mut request = http::Request::post(url)
            .header(CONTENT_TYPE, FORM)
            .header(USER_AGENT, AGENT)
            .body(body.to_owned())
            .map_err(DiscoveryError::Request)?;
        let identity = credentials.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(SIGNING_NAME)
            .time(SystemTime::from(self.clock.now()))
            .settings(SigningSettings::default())
            .build()
            .map_err(DiscoveryError::Parameters)?
            .into();
        let signable = SignableRequest::new(
            "POST",
            url,
            std::iter::once((CONTENT_TYPE.as_str(), FORM)),
            SignableBody::Bytes(body.as_bytes()),
        )
        .map_err(DiscoveryError::Sign)?;
        let (instructions, _signature) = sign(signable, &parameters)
            .map_err(DiscoveryError::Sign)?
            .into_parts();
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

/// Makes an attempt, and further ones while they fail in passing, until the deadline of the operation.
async fn tried_again<A>(deadline: Instant, make: impl Fn() -> A) -> Result<String, DiscoveryError>
where
    A: Future<Output = Result<String, DiscoveryError>>,
{
    let mut attempt = 0;
    let mut before = None;
    loop {
        let error = match timeout_at(deadline, make()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_elapsed) => {
                return Err(DiscoveryError::Deadline {
                    limit: OPERATION_TIMEOUT,
                    before,
                });
            }
        };
        attempt += 1;
        let pause = pause(attempt, rand::rng().random_range(0.5..1.0));
        if attempt == MAX_ATTEMPTS || !error.is_passing() || Instant::now() + pause >= deadline {
            return Err(error);
        }
        before = Some(Box::new(error));
        sleep(pause).await;
    }
}

/// How long to wait after the `attempt`th request, which is at least 1; `share` is 0.5 to 1, so that many that were
/// throttled together do not come back together.
fn pause(attempt: u32, share: f64) -> Duration {
    FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)))
        .mul_f64(share)
}

fn form(action: &str, parameters: &[(String, &str)]) -> String {
    let mut form = format!("Action={action}&Version={VERSION}");
    for (name, value) in parameters {
        form.push('&');
        form.push_str(name);
        form.push('=');
        form.extend(utf8_percent_encode(value, ESCAPED));
    }
    form
}

fn describe_instances(instance_id: &str) -> String {
    form("DescribeInstances", &[("InstanceId.1".to_owned(), instance_id)])
}

/// The filters and their order are the AWS CLI's.
fn describe_endpoints(vpc_id: &str, next_token: Option<&str>) -> String {
    let page_size = PAGE_SIZE.to_string();
    let mut parameters = vec![("Filter.1.Name".to_owned(), "state")];
    for (index, state) in USABLE_STATES.into_iter().enumerate() {
        parameters.push((format!("Filter.1.Value.{}", index + 1), state));
    }
    parameters.push(("Filter.2.Name".to_owned(), "vpc-id"));
    parameters.push(("Filter.2.Value.1".to_owned(), vpc_id));
    parameters.push(("MaxResults".to_owned(), &page_size));
    if let Some(token) = next_token {
        parameters.push(("NextToken".to_owned(), token));
    }
    form("DescribeInstanceConnectEndpoints", &parameters)
}

#[async_trait]
impl Describe for Ec2Query {
    async fn instance(&self, instance: &InstanceKey) -> Result<InstancePlace, DiscoveryError> {
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        let body = describe_instances(&instance.instance_id);
        let xml = self.call(&instance.region, &body, deadline).await?;
        answers::instance(&xml, &instance.instance_id)
    }

    async fn endpoints(&self, region: &str, vpc_id: &str) -> Result<Vec<EndpointFound>, DiscoveryError> {
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        let mut found = Vec::new();
        let mut next_token: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let body = describe_endpoints(vpc_id, next_token.as_deref());
            let page = answers::endpoints(&self.call(region, &body, deadline).await?)?;
            found.extend(page.found);
            next_token = page.next_token;
            if next_token.is_none() {
                return Ok(found);
            }
        }
        Err(DiscoveryError::TooManyPages { pages: MAX_PAGES })
    }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
