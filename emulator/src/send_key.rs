//! `SendSSHPublicKey`: awsJson1.1, its validation and its errors.
//!
//! Limits and names are those of AWS's API model (ec2-instance-connect 2018-04-02). It must know nothing of SSH logins.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, StatusCode};
use russh::keys::{Algorithm, PublicKey};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use crate::authorized_keys::{self, AuthorizedKeysError};
use crate::clock::WallClock;
use crate::http::{Answer, json};
use crate::keys::{Login, TooManyKeys};
use crate::settings::{InstanceBackend, InstanceState};
use crate::shared::{InstanceEntry, Shared};
use crate::sigv4::{SignatureError, Verifier};

const TARGET: &str = "AWSEC2InstanceConnectService.SendSSHPublicKey";
const MEDIA_TYPE: &str = "application/x-amz-json-1.1";

/// Service name in credential scopes, of this API and of `openTunnel`.
pub(crate) const SIGNING_NAME: &str = "ec2-instance-connect";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Input {
    instance_id: Option<String>,
    #[serde(rename = "InstanceOSUser")]
    instance_os_user: Option<String>,
    #[serde(rename = "SSHPublicKey")]
    ssh_public_key: Option<String>,
    availability_zone: Option<String>,
}

/// Why a push is refused. The texts go to the caller.
#[derive(Debug, Error)]
enum Refusal {
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("The operation is not known.")]
    UnknownOperation,
    #[error("The body is not the JSON of a SendSSHPublicKey request.")]
    Serialization(#[source] serde_json::Error),
    #[error("Invalid input parameter received for {0}")]
    InvalidArgs(String),
    #[error("The specified instance was not found.")]
    InstanceNotFound,
    #[error(
        "Unable to connect because the instance is not in a valid state. Connecting to a stopped or terminated \
         instance is not supported. If the instance is stopped, start your instance, and try to connect again."
    )]
    InstanceState,
    #[error(
        "User: {caller} is not authorized to perform: ec2-instance-connect:SendSSHPublicKey on resource: {resource} \
         because no identity-based policy allows the ec2-instance-connect:SendSSHPublicKey action"
    )]
    AccessDenied { caller: String, resource: String },
    #[error("Server is busy! Please retry after a moment.")]
    Throttling,
    #[error("The service encountered an error. Follow the instructions in the error message and try again.")]
    Service(#[source] AuthorizedKeysError),
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::Signature(error) => error.code(),
            Self::UnknownOperation => "UnknownOperationException",
            Self::Serialization(_) => "SerializationException",
            Self::InvalidArgs(_) => "InvalidArgsException",
            Self::InstanceNotFound => "EC2InstanceNotFoundException",
            Self::InstanceState => "EC2InstanceStateInvalidException",
            Self::AccessDenied { .. } => "AccessDeniedException",
            Self::Throttling => "ThrottlingException",
            Self::Service(_) => "ServiceException",
        }
    }

    /// The answer as AWS words it: what the service says has `Message`, what its front end says has `message`.
    fn answer(&self) -> Answer {
        let status = match self {
            Self::Service(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        let text = self.to_string();
        let body = match self {
            Self::Signature(_) | Self::UnknownOperation | Self::Serialization(_) => {
                json!({"__type": self.code(), "message": text})
            }
            Self::InvalidArgs(_)
            | Self::InstanceNotFound
            | Self::InstanceState
            | Self::AccessDenied { .. }
            | Self::Throttling
            | Self::Service(_) => json!({"__type": self.code(), "Message": text}),
        };
        let mut answer = json(status, MEDIA_TYPE, &body);
        if matches!(self, Self::Throttling) {
            answer
                .headers_mut()
                .insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// Answers one request to the API's only path.
pub(crate) async fn answer(head: &Parts, body: &[u8], shared: &Shared, request_id: &str) -> Answer {
    shared.tally.push_attempts.add();
    match push(head, body, shared).await {
        Ok(login) => {
            shared.tally.pushes.add();
            tracing::info!(
                instance.id = login.instance_id,
                user.name = login.os_user,
                aws.request_id = request_id,
                "a key was pushed"
            );
            json(
                StatusCode::OK,
                MEDIA_TYPE,
                &json!({"RequestId": request_id, "Success": true}),
            )
        }
        Err(refusal) => {
            tracing::info!(
                error = &refusal as &dyn std::error::Error,
                aws.request_id = request_id,
                "a key push was refused with {}",
                refusal.code()
            );
            refusal.answer()
        }
    }
}

async fn push(head: &Parts, body: &[u8], shared: &Shared) -> Result<Login, Refusal> {
    let settings = &shared.settings;
    Verifier {
        credentials: &settings.credentials,
        region: &settings.region,
        service: SIGNING_NAME,
        now: WallClock::real_now(),
    }
    .verify_header(head, body)?;
    if head
        .headers
        .get("x-amz-target")
        .is_none_or(|target| target != TARGET)
    {
        return Err(Refusal::UnknownOperation);
    }
    let input: Input = serde_json::from_slice(body).map_err(Refusal::Serialization)?;
    let (login, key) = validate(&input)?;
    let entry = shared
        .instance(&login.instance_id)
        .ok_or(Refusal::InstanceNotFound)?;
    disturb(&login, entry, shared).await?;
    admit(&input, &login, entry, shared)?;
    store(&login, key, entry, shared).await?;
    Ok(login)
}

fn validate(input: &Input) -> Result<(Login, PublicKey), Refusal> {
    let field = |name: &str, value: &Option<String>, minimum: usize, maximum: usize| {
        let invalid =
            || Refusal::InvalidArgs(format!("{name}: {minimum} to {maximum} characters are required"));
        let value = value.clone().ok_or_else(invalid)?;
        if (minimum..=maximum).contains(&value.chars().count()) {
            Ok(value)
        } else {
            Err(invalid())
        }
    };
    let instance_id = field("InstanceId", &input.instance_id, 10, 32)?;
    if !is_instance_id(&instance_id) {
        return Err(Refusal::InvalidArgs(
            "InstanceId: it must match ^i-[a-f0-9]+$".to_owned(),
        ));
    }
    let os_user = field("InstanceOSUser", &input.instance_os_user, 1, 32)?;
    if !is_os_user(&os_user) {
        return Err(Refusal::InvalidArgs(
            "InstanceOSUser: it is not a login name".to_owned(),
        ));
    }
    let key = field("SSHPublicKey", &input.ssh_public_key, 80, 4096)?;
    if input.availability_zone.is_some() {
        let zone = field("AvailabilityZone", &input.availability_zone, 6, 32)?;
        if !is_availability_zone(&zone) {
            return Err(Refusal::InvalidArgs(
                "AvailabilityZone: it is not an availability zone".to_owned(),
            ));
        }
    }
    Ok((Login { instance_id, os_user }, parse_key(&key)?))
}

fn is_instance_id(text: &str) -> bool {
    text.strip_prefix("i-").is_some_and(|digits| {
        !digits.is_empty()
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// A login name by the pattern of AWS's API model: a letter or `_` first, or digits and then something else; a `$` at the
/// end only. It leaves no way to name another directory, which matters because the name becomes a file name.
pub(crate) fn is_os_user(text: &str) -> bool {
    let within = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'@' | b'.' | b'_' | b'-'))
    };
    let name = text.strip_suffix('$').unwrap_or(text);
    let begins_well = match name.bytes().next() {
        Some(b'0'..=b'9') => !name.bytes().all(|byte| byte.is_ascii_digit()),
        Some(byte) => byte.is_ascii_alphabetic() || byte == b'_',
        None => false,
    };
    begins_well && within(name)
}

/// `^(\w+-){2,3}\d+\w+$`, the pattern of AWS's API model: `us-east-1a`, `us-gov-west-1b`.
fn is_availability_zone(text: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let parts: Vec<&str> = text.split('-').collect();
    let ends_well = parts
        .last()
        .is_some_and(|last| last.len() >= 2 && last.starts_with(|c: char| c.is_ascii_digit()));
    matches!(parts.len(), 3 | 4) && ends_well && parts.into_iter().all(word)
}

/// RSA and ed25519 keys: all that the instance's own script takes (aws-ec2-instance-connect-config).
fn parse_key(text: &str) -> Result<PublicKey, Refusal> {
    let invalid = || Refusal::InvalidArgs("Illegal argument exception: SSH Public key is invalid".to_owned());
    let mut key = PublicKey::from_openssh(text.trim_end()).map_err(|_| invalid())?;
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Rsa { .. } => {
            key.set_comment("");
            Ok(key)
        }
        _ => Err(invalid()),
    }
}

/// The faults that a key push for this instance meets.
async fn disturb(login: &Login, entry: &InstanceEntry, shared: &Shared) -> Result<(), Refusal> {
    let latency = entry.faults.read(|faults| faults.grant_latency);
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    if entry.faults.take(|faults| &mut faults.throttled_pushes) {
        return Err(Refusal::Throttling);
    }
    if entry.faults.take(|faults| &mut faults.denied_pushes) {
        return Err(denied(login, shared));
    }
    Ok(())
}

fn denied(login: &Login, shared: &Shared) -> Refusal {
    Refusal::AccessDenied {
        caller: "arn:aws:iam::000000000000:user/emulator".to_owned(),
        resource: format!(
            "arn:aws:ec2:{}:000000000000:instance/{}",
            shared.settings.region, login.instance_id
        ),
    }
}

fn admit(input: &Input, login: &Login, entry: &InstanceEntry, shared: &Shared) -> Result<(), Refusal> {
    let instance = &entry.instance;
    if instance
        .allowed_os_users
        .as_ref()
        .is_some_and(|allowed| !allowed.contains(&login.os_user))
    {
        return Err(denied(login, shared));
    }
    if let (Some(given), Some(actual)) = (&input.availability_zone, &instance.availability_zone)
        && given != actual
    {
        return Err(Refusal::InstanceNotFound);
    }
    match entry.state() {
        InstanceState::Running => Ok(()),
        InstanceState::Stopped => Err(Refusal::InstanceState),
    }
}

async fn store(
    login: &Login,
    key: PublicKey,
    entry: &Arc<InstanceEntry>,
    shared: &Shared,
) -> Result<(), Refusal> {
    // Held over the write, so that of two pushes for one login the file of the later one stays.
    let _in_order = entry.pushing.lock().await;
    let valid = shared
        .keys
        .push(login, key)
        .map_err(|TooManyKeys| Refusal::Throttling)?;
    match &entry.instance.backend {
        InstanceBackend::InProcess { .. } => Ok(()),
        InstanceBackend::External {
            authorized_keys_dir, ..
        } => authorized_keys::write(
            authorized_keys_dir,
            &login.os_user,
            &valid,
            shared.settings.clock.offset(),
        )
        .await
        .map_err(Refusal::Service),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_names_are_those_of_the_api_model() {
        for good in [
            "a",
            "ec2-user",
            "_x",
            "a.b@c",
            "machine$",
            "A23456789012345678901234567890zz",
        ] {
            assert!(is_os_user(good), "{good}");
        }
        for bad in [
            "", ".", "..", "../x", "a/b", "$", "-x", "12", "1$", "a b", "a$b", "a\n", "ä", "a\0",
        ] {
            assert!(!is_os_user(bad), "{bad:?}");
        }
    }

    #[test]
    fn availability_zones_are_those_of_the_api_model() {
        for good in ["us-east-1a", "us-gov-west-1b", "ap-southeast-10ab"] {
            assert!(is_availability_zone(good), "{good}");
        }
        for bad in [
            "",
            "us-east-1",
            "useast1a",
            "us-east-a",
            "us--1a",
            "us-east-1a-",
            "us-east-1/a",
        ] {
            assert!(!is_availability_zone(bad), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_login_name_is_never_a_path(text in "\\PC{0,40}") {
            if is_os_user(&text) {
                let path = std::path::Path::new("/keys").join(&text);
                proptest::prop_assert_eq!(path.parent(), Some(std::path::Path::new("/keys")));
                proptest::prop_assert_eq!(path.file_name(), Some(std::ffi::OsStr::new(&text)));
            }
        }
    }

    #[test]
    fn the_throttling_answer_is_byte_for_byte_as_long_as_the_one_seen_from_aws() {
        let body = json!({"__type": "ThrottlingException", "Message": Refusal::Throttling.to_string()});
        assert_eq!(body.to_string().len(), 89);
    }
}
