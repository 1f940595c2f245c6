//! Takes a request's body off the connection, within a time and a size.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::Version;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::http::problem::{Problem, ProblemCode};

/// Longest time that a refusal waits for the end of its request, over HTTP/2. For a few MiB over an ordinary line; a client
/// that waits for the answer before it sends the rest gets it after this.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Refuses what is not declared as JSON in UTF-8 (which is the only JSON there is, RFC 8259 section 8.1), and what is
/// compressed.
pub(crate) fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let mut declared = headers
        .get_all(CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or_default());
    let json = declared.next().is_some_and(is_json) && declared.next().is_none();
    let plain = headers
        .get_all(CONTENT_ENCODING)
        .all(|value| value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if json && plain {
        Ok(())
    } else {
        Err(Problem::new(ProblemCode::UnsupportedMediaType))
    }
}

fn is_json(content_type: &str) -> bool {
    content_type
        .parse::<actix_web::mime::Mime>()
        .is_ok_and(|media_type| {
            media_type.essence_str() == "application/json"
                && media_type
                    .params()
                    .all(|(name, value)| name == "charset" && value.as_str().eq_ignore_ascii_case("utf-8"))
        })
}

/// Refuses a body that is declared as too large, before any of it is read.
pub(crate) fn check_declared_length(headers: &HeaderMap, max_body: usize) -> Result<(), Problem> {
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > max_body) {
        return Err(too_large(max_body));
    }
    Ok(())
}

/// Reads the whole body.
pub(crate) async fn read_body(
    payload: &mut Payload,
    max_body: usize,
    body_timeout: Duration,
) -> Result<Bytes, Problem> {
    match timeout(body_timeout, collect(payload, max_body)).await {
        Ok(read) => read,
        Err(_) => Err(Problem::invalid(format!(
            "the body did not arrive within {} s",
            body_timeout.as_secs_f64()
        ))),
    }
}

/// Takes in and forgets what is left of a body whose request is refused, if it came over HTTP/2: at most `max_body` bytes,
/// and for 2 s. An answer that overtakes its request ends the stream there, and curl then tells of a broken stream
/// (7.88: error 92) instead of the answer. On HTTP/1.1 the answer says that the connection closes, and nothing is in the way.
pub(crate) async fn discard_body(request: &HttpRequest, payload: &mut Payload, max_body: usize) {
    if request.version() != Version::HTTP_2 {
        return;
    }
    let discarding = async {
        let mut discarded = 0;
        while let Some(Ok(chunk)) = payload.next().await {
            discarded += chunk.len();
            if discarded > max_body {
                return;
            }
        }
    };
    // Whether all of it came makes no difference to the answer.
    timeout(DISCARD_TIME, discarding).await.ok();
}

async fn collect(payload: &mut Payload, max_body: usize) -> Result<Bytes, Problem> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk =
            chunk.map_err(|_| Problem::invalid("the body ended early or was not well-formed HTTP"))?;
        if body.len() + chunk.len() > max_body {
            return Err(too_large(max_body));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn too_large(max_body: usize) -> Problem {
    Problem::new(ProblemCode::BodyTooLarge)
        .with_detail(format!("the request body is larger than {max_body} bytes"))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};

    use super::check_media_type;

    #[test]
    fn json_in_utf_8_and_nothing_else() {
        let table: [(&[&str], bool); 10] = [
            (&["application/json"], true),
            (&["Application/JSON"], true),
            (&["application/json; charset=utf-8"], true),
            (&["application/json;charset=\"UTF-8\""], true),
            (&["application/json; charset=latin1"], false),
            (&["application/json; version=1"], false),
            (&["text/plain"], false),
            (&["application/problem+json"], false),
            (&[], false),
            (&["application/json", "text/plain"], false),
        ];
        for (values, accepted) in table {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_TYPE, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(check_media_type(&headers).is_ok(), accepted, "{values:?}");
        }
    }

    #[test]
    fn compressed_bodies_are_refused() {
        for (encoding, accepted) in [("gzip", false), ("identity", true)] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            assert_eq!(check_media_type(&headers).is_ok(), accepted, "{encoding}");
        }
    }
}
