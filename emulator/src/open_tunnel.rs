//! `openTunnel`: the signed websocket upgrade, its checks and its refusals.
//!
//! Parameters and texts are those that the AWS CLI sends and that users' logs show; statuses and the other codes are
//! not published, so they are the nearest fit. It must know nothing of what flows through a tunnel.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use thiserror::Error;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::clock::WallClock;
use crate::faults::TunnelRefusal;
use crate::http::{Answer, HungUp, json};
use crate::relay::{self, Tunnel};
use crate::send_key::SIGNING_NAME;
use crate::shared::{InstanceEntry, Shared};
use crate::sigv4::{SignatureError, Verifier, decoded_query, single};
use crate::tunnels::{TooMany, TunnelSlot};

/// Longest tunnel that a URL may ask for, in seconds (AWS CLI, `--max-tunnel-duration`).
const MAX_TUNNEL_SECONDS: u64 = 3600;

/// Why a tunnel is refused. The texts go to the caller.
#[derive(Debug, Error)]
enum Refusal {
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("The request is not a websocket upgrade (RFC 6455, version 13).")]
    NotWebsocket,
    #[error("The specified {name} is not valid. {rule} and retry your request.")]
    Parameter { name: &'static str, rule: &'static str },
    #[error("The EC2 Instance Connect Endpoint ID '{id}' does not exist")]
    NoEndpoint { id: String },
    #[error("The EC2 Instance Connect Endpoint has reached its maximum of {limit} concurrent connections.")]
    TooManyConnections { limit: usize },
    #[error("{}", .0.message)]
    Told(TunnelRefusal),
}

impl Refusal {
    fn code(&self) -> &str {
        match self {
            Self::Told(refusal) => &refusal.code,
            Self::Signature(error) => error.code(),
            Self::NotWebsocket | Self::Parameter { .. } => "InvalidParameter",
            Self::NoEndpoint { .. } => "InvalidInstanceConnectEndpointId.NotFound",
            Self::TooManyConnections { .. } => "ServiceQuotaExceededException",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Signature(_) => StatusCode::FORBIDDEN,
            Self::NotWebsocket | Self::Parameter { .. } => StatusCode::BAD_REQUEST,
            Self::NoEndpoint { .. } => StatusCode::NOT_FOUND,
            Self::TooManyConnections { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Told(refusal) => refusal.status,
        }
    }
}

/// What a valid request asks for.
struct Asked {
    endpoint_id: String,
    entry: Arc<InstanceEntry>,
    port: u16,
    duration: Duration,
}

/// Answers one request: 101 and a relay that runs on, a refusal, or the end of the connection.
pub(crate) async fn answer(
    mut request: Request<Incoming>,
    shared: &Arc<Shared>,
    request_id: &str,
) -> Result<Answer, HungUp> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, _) = request.into_parts();
    let checked = check(&head, shared).and_then(|asked| {
        let accept_key = websocket_accept(&head.headers)?;
        Ok((asked, accept_key))
    });
    let opened = match checked {
        Ok((asked, accept_key)) => {
            disturb(&asked.entry).await?;
            admit(&asked, shared).map(|slot| (asked, accept_key, slot))
        }
        Err(refusal) => Err(refusal),
    };
    match opened {
        Ok((asked, accept_key, slot)) => {
            tracing::info!(
                instance.id = asked.entry.instance.id,
                aws.request_id = request_id,
                "a tunnel was opened"
            );
            let tunnel = Tunnel {
                entry: asked.entry,
                port: asked.port,
                duration: asked.duration,
                slot,
                shared: Arc::clone(shared),
            };
            shared.spawn(relay::run(upgrade, tunnel));
            Ok(switching_protocols(accept_key))
        }
        Err(refusal) => {
            shared.tally.tunnels_refused.add();
            tracing::info!(
                error = &refusal as &dyn std::error::Error,
                aws.request_id = request_id,
                "a tunnel was refused with {}",
                refusal.code()
            );
            let body = json!({"ErrorCode": refusal.code(), "Message": refusal.to_string()});
            Ok(json(refusal.status(), "application/json", &body))
        }
    }
}

/// The faults before the answer.
async fn disturb(entry: &InstanceEntry) -> Result<(), HungUp> {
    if entry.faults.take(|faults| &mut faults.cut_upgrades) {
        return Err(HungUp);
    }
    if entry.faults.take(|faults| &mut faults.unanswered_upgrades) {
        // Until the client leaves or the emulator stops: both drop this.
        std::future::pending::<()>().await;
    }
    let round_trip = entry.faults.read(|faults| faults.round_trip);
    if !round_trip.is_zero() {
        tokio::time::sleep(round_trip).await;
    }
    Ok(())
}

fn admit(asked: &Asked, shared: &Shared) -> Result<TunnelSlot, Refusal> {
    let faults = &asked.entry.faults;
    if faults.take(|faults| &mut faults.refused_tunnels) {
        return Err(Refusal::Told(faults.read(|faults| faults.tunnel_refusal.clone())));
    }
    shared
        .tunnels
        .admit(&asked.endpoint_id, &asked.entry.instance.id)
        .map_err(|TooMany { limit }| Refusal::TooManyConnections { limit })
}

fn check(head: &http::request::Parts, shared: &Shared) -> Result<Asked, Refusal> {
    let settings = &shared.settings;
    Verifier {
        credentials: &settings.credentials,
        region: &settings.region,
        service: SIGNING_NAME,
        now: WallClock::real_now(),
    }
    .verify_query(head)?;
    let query = decoded_query(head.uri.query().unwrap_or_default())?;
    let endpoint_id = single(&query, "instanceConnectEndpointId")?.unwrap_or_default();
    let endpoint = settings
        .endpoints
        .iter()
        .find(|endpoint| endpoint.id == endpoint_id)
        .ok_or_else(|| Refusal::NoEndpoint {
            id: endpoint_id.to_owned(),
        })?;
    let port = match single(&query, "remotePort")? {
        Some("22") => 22,
        Some("3389") => 3389,
        _ => {
            let rule = "Specify either 22 or 3389 as the RemotePort";
            return Err(Refusal::Parameter {
                name: "RemotePort",
                rule,
            });
        }
    };
    let entry = single(&query, "privateIpAddress")?
        .and_then(|text| text.parse::<IpAddr>().ok())
        .and_then(|address| shared.instance_at(&endpoint.vpc_id, address))
        .ok_or(Refusal::Parameter {
            name: "PrivateIpAddress",
            rule: "Specify the private IP address of an instance in the VPC",
        })?;
    let duration = match single(&query, "maxTunnelDuration")?.map(str::parse::<u64>) {
        None => settings.max_tunnel_duration,
        Some(Ok(seconds @ 1..=MAX_TUNNEL_SECONDS)) => Duration::from_secs(seconds),
        Some(_) => {
            let rule = "Specify a value from 1 to 3600 as the MaxTunnelDuration";
            return Err(Refusal::Parameter {
                name: "MaxTunnelDuration",
                rule,
            });
        }
    };
    Ok(Asked {
        endpoint_id: endpoint.id.clone(),
        entry: Arc::clone(entry),
        port,
        duration,
    })
}

/// The accept key (RFC 6455, 4.2.2) of a request that is a websocket upgrade.
fn websocket_accept(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let has = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(token))
    };
    if !(has(UPGRADE, "websocket") && has(CONNECTION, "upgrade") && has(SEC_WEBSOCKET_VERSION, "13")) {
        return Err(Refusal::NotWebsocket);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(Refusal::NotWebsocket)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Refusal::NotWebsocket)
}

fn switching_protocols(accept_key: HeaderValue) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept_key);
    answer
}
