//! `/admin/hostkeys`: which key each instance must show, and an operator's word on it.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::HostKey;
use serde::Deserialize;

use super::region::{region, valid_region};
use super::{Operator, admit};
use crate::http::admin_wire::{ForgetAnswer, HostKeyListing, HostKeyPin, PinAnswer, PinRequest};
use crate::http::options::HttpState;
use crate::http::paging::{self, PageLength};
use crate::http::problem::{Problem, ProblemCode};
use crate::http::read_body::{check_declared_length, check_media_type, discard_body, read_body};
use crate::http::respond;
use crate::store::{HostKeyQuery, StoreError};

/// Pins on a page unless asked otherwise, and at most; a pin is about 400 bytes.
const PAGE: PageLength = PageLength {
    default: 100,
    max: 1_000,
};
/// Largest body of a pin in bytes: OpenSSH's longest RSA key, of 16,384 bits, is 2,752 characters of base64; the rest is room
/// for a comment and escapes.
const MAX_BODY: usize = 16_384;
/// Length of an instance id: InstanceId of SendSSHPublicKey in AWS's API model.
const INSTANCE_ID_LENGTH: std::ops::RangeInclusive<usize> = 10..=32;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    region: Option<String>,
    instance_id: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// `GET /admin/hostkeys`.
pub(crate) async fn list(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    match page(&request, &state).await {
        Ok(listing) => respond::json(&listing),
        Err(problem) => problem.into_response(),
    }
}

async fn page(request: &HttpRequest, state: &HttpState) -> Result<HostKeyListing, Problem> {
    admit(request, state).await?;
    let asked = host_key_query(paging::query(request)?)?;
    let limit = asked.limit;
    let query = HostKeyQuery {
        // One more shows whether there is another page.
        limit: limit + 1,
        ..asked
    };
    let mut pins = state.store.list_host_keys(&query).await.map_err(unavailable)?;
    let last = paging::cut_to_page(&mut pins, limit);
    Ok(HostKeyListing {
        next_cursor: last.map(|pin| cursor_after(&pin.instance)),
        data: pins.into_iter().map(Into::into).collect(),
    })
}

/// `GET /admin/hostkeys/{instance_id}`.
pub(crate) async fn show(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    match shown(&request, &state).await {
        Ok(pin) => respond::json(&pin),
        Err(problem) => problem.into_response(),
    }
}

async fn shown(request: &HttpRequest, state: &HttpState) -> Result<HostKeyPin, Problem> {
    admit(request, state).await?;
    let instance = named_instance(request, state)?;
    let pin = state.store.host_key(&instance).await.map_err(unavailable)?;
    pin.map(HostKeyPin::from).ok_or_else(|| no_pin(&instance))
}

/// `PUT /admin/hostkeys/{instance_id}`: whatever was pinned, this is the key from now on.
pub(crate) async fn pin(request: HttpRequest, mut payload: Payload, state: Data<HttpState>) -> HttpResponse {
    let (operator, instance) = match admit_pin(&request, &state).await {
        Ok(admitted) => admitted,
        // The body is not read, so the connection can't go on.
        Err(problem) => {
            discard_body(&request, &mut payload, MAX_BODY).await;
            return problem.into_closing_response();
        }
    };
    match pin_key(&state, &operator, &instance, payload).await {
        Ok(answer) => respond::json(&answer),
        Err(problem) => problem.into_response(),
    }
}

async fn admit_pin(request: &HttpRequest, state: &HttpState) -> Result<(Operator, InstanceKey), Problem> {
    let operator = admit(request, state).await?;
    let instance = named_instance(request, state)?;
    check_media_type(request.headers())?;
    check_declared_length(request.headers(), MAX_BODY)?;
    Ok((operator, instance))
}

async fn pin_key(
    state: &HttpState,
    operator: &Operator,
    instance: &InstanceKey,
    mut payload: Payload,
) -> Result<PinAnswer, Problem> {
    let key = key_of(&read_body(&mut payload, MAX_BODY, state.options.body_timeout).await?)?;
    let pinned = state
        .store
        .pin_host_key(instance, &key, &operator.to_string())
        .await
        .map_err(unavailable)?;
    state.engine.host_key_was_changed(instance);
    tracing::warn!(
        %instance,
        %operator,
        fingerprint = key.fingerprint(),
        replaced = pinned.replaced.as_ref().and_then(|pin| pin.key.fingerprint()),
        "an operator pinned a host key"
    );
    Ok(PinAnswer {
        pinned: pinned.pin.into(),
        replaced: pinned.replaced.map(Into::into),
    })
}

/// `DELETE /admin/hostkeys/{instance_id}`: the next login pins whatever it is shown.
pub(crate) async fn forget(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    match forget_key(&request, &state).await {
        Ok(answer) => respond::json(&answer),
        Err(problem) => problem.into_closing_response(),
    }
}

async fn forget_key(request: &HttpRequest, state: &HttpState) -> Result<ForgetAnswer, Problem> {
    let operator = admit(request, state).await?;
    let instance = named_instance(request, state)?;
    let forgotten = state
        .store
        .forget_host_key(&instance)
        .await
        .map_err(unavailable)?;
    let pin = forgotten.ok_or_else(|| no_pin(&instance))?;
    state.engine.host_key_was_changed(&instance);
    tracing::warn!(
        %instance,
        %operator,
        fingerprint = pin.key.fingerprint(),
        provenance = pin.provenance.as_str(),
        "an operator forgot a host key; the next login pins anew"
    );
    Ok(ForgetAnswer {
        forgotten: pin.into(),
    })
}

// === What is asked for ===

fn host_key_query(query: ListQuery) -> Result<HostKeyQuery, Problem> {
    Ok(HostKeyQuery {
        region: query.region.map(valid_region).transpose()?,
        instance_id: query.instance_id.map(valid_instance_id).transpose()?,
        after: query.cursor.as_deref().map(after_cursor).transpose()?,
        limit: PAGE.asked_for(query.limit.as_deref())?,
    })
}

fn named_instance(request: &HttpRequest, state: &HttpState) -> Result<InstanceKey, Problem> {
    Ok(InstanceKey {
        region: region(request)?.unwrap_or_else(|| state.options.default_region.clone()),
        instance_id: valid_instance_id(request.match_info().query("instance_id").to_owned())?,
    })
}

/// A pin for a name that is mistyped would protect nothing, and nobody would see it.
fn valid_instance_id(text: String) -> Result<String, Problem> {
    let is_hexadecimal = |rest: &str| rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_valid =
        INSTANCE_ID_LENGTH.contains(&text.len()) && text.strip_prefix("i-").is_some_and(is_hexadecimal);
    is_valid.then_some(text).ok_or_else(|| {
        Problem::invalid("`instance_id`: must be an EC2 instance id, as in `i-0123456789abcdef0`")
    })
}

fn key_of(body: &[u8]) -> Result<HostKey, Problem> {
    // serde would take the field from an array too.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Problem::invalid("the body must be a JSON object"));
    }
    let request: PinRequest = serde_json::from_slice(body)
        .map_err(|error| Problem::invalid(format!("the body must be `{{\"key\": \"...\"}}`: {error}")))?;
    HostKey::from_line(&request.key).map_err(|error| Problem::invalid(format!("`key`: {error}")))
}

fn cursor_after(instance: &InstanceKey) -> String {
    paging::cursor(format!("{}/{}", instance.region, instance.instance_id).as_bytes())
}

fn after_cursor(cursor: &str) -> Result<InstanceKey, Problem> {
    paging::place(cursor, |place| {
        let (region, instance_id) = std::str::from_utf8(place).ok()?.split_once('/')?;
        Some(InstanceKey {
            region: region.to_owned(),
            instance_id: instance_id.to_owned(),
        })
    })
}

// === What goes wrong ===

fn no_pin(instance: &InstanceKey) -> Problem {
    Problem::new(ProblemCode::NotFound).with_detail(format!("no host key is pinned for `{instance}`"))
}

fn unavailable(error: StoreError) -> Problem {
    Problem::store_unavailable(&error, "host keys can't be read or changed")
}

#[cfg(test)]
mod tests {
    use adit_actors::instance::InstanceKey;

    use super::{after_cursor, cursor_after, key_of, valid_instance_id};

    #[test]
    fn instances_are_aws_s() {
        for (text, is_valid) in [
            ("i-0123456789abcdef0", true),
            ("i-01234567", true),
            ("i-0123456", false),
            ("i-0123456789ABCDEF0", false),
            ("i-0123456789abcdefg", false),
            ("mi-0123456789abcdef0", false),
            ("10.0.0.10", false),
            ("", false),
        ] {
            assert_eq!(valid_instance_id(text.to_owned()).is_ok(), is_valid, "{text:?}");
        }
    }

    #[test]
    fn a_cursor_is_read_back_and_anything_else_is_refused() {
        let instance = InstanceKey {
            region: "us-east-2".to_owned(),
            instance_id: "i-0123456789abcdef0".to_owned(),
        };
        assert_eq!(after_cursor(&cursor_after(&instance)).unwrap(), instance);
        for text in ["", "!", "aGk", "_-8"] {
            assert!(after_cursor(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_an_object_with_a_key_is_a_body() {
        for body in [
            "",
            "[]",
            r#"["ssh-ed25519 AAAA"]"#,
            "{}",
            r#"{"key":1}"#,
            r#"{"key":"ssh-ed25519 AAAA","region":"us-east-2"}"#,
            r#"{"key":"ssh-ed25519 AAAA"}"#,
            r#"{"key":"ssh-ed25519 AAAA"} {}"#,
        ] {
            assert!(key_of(body.as_bytes()).is_err(), "{body}");
        }
    }
}
