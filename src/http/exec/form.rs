//! Which of the two forms an answer takes.

use actix_web::http::header::{ACCEPT, HeaderMap};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One object, when it is over.
    Json,
    /// Frames as they come.
    Stream {
        /// Whether the head leaves when the program starts, with a `started` frame.
        announce: bool,
    },
}

impl Form {
    /// JSON when `Accept` prefers `application/json` to NDJSON; all else gets the stream.
    pub(crate) fn asked_for(headers: &HeaderMap, announce: bool) -> Self {
        let mut json: f32 = 0.0;
        let mut ndjson: f32 = 0.0;
        for item in headers
            .get_all(ACCEPT)
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
        {
            let mut parts = item.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let quality = parts.find_map(quality).unwrap_or(1.0);
            if media_type.eq_ignore_ascii_case("application/json") {
                json = json.max(quality);
            } else if media_type.eq_ignore_ascii_case(crate::http::wire::NDJSON) {
                ndjson = ndjson.max(quality);
            }
        }
        if json > ndjson {
            Self::Json
        } else {
            Self::Stream { announce }
        }
    }
}

/// The weight of a media range, RFC 9110 section 12.4.2.
fn quality(parameter: &str) -> Option<f32> {
    let (name, value) = parameter.split_once('=')?;
    let quality = name
        .trim()
        .eq_ignore_ascii_case("q")
        .then(|| value.trim().parse::<f32>().ok())??;
    (0.0..=1.0).contains(&quality).then_some(quality)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{ACCEPT, HeaderMap, HeaderValue};

    use super::Form;

    #[test]
    fn json_only_for_who_prefers_it() {
        let stream = Form::Stream { announce: false };
        let table: [(&[&str], Form); 11] = [
            (&[], stream),
            (&["*/*"], stream),
            (&["application/json"], Form::Json),
            (&["Application/JSON; q=0.5"], Form::Json),
            (&["text/html, application/json"], Form::Json),
            (&["text/html", "application/json"], Form::Json),
            (&["application/json;q=0"], stream),
            (&["application/x-ndjson"], stream),
            (&["application/json, application/x-ndjson"], stream),
            (&["application/json, application/x-ndjson;q=0.5"], Form::Json),
            (&["application/jsonp"], stream),
        ];
        for (accepts, form) in table {
            let mut headers = HeaderMap::new();
            for accept in accepts {
                headers.append(ACCEPT, HeaderValue::from_str(accept).unwrap());
            }
            assert_eq!(Form::asked_for(&headers, false), form, "{accepts:?}");
        }
    }
}
