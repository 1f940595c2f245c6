//! What the queries of all routes have in common, and lists in pages.
//!
//! A parameter that is not known, or stands there twice, is refused by name: whoever mistypes a filter must not get what it
//! would have left out.

use actix_web::HttpRequest;
use actix_web::web::Query;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The query as `T`, which refuses fields that it does not know.
///
/// # Errors
/// `invalid_request`, with the field.
pub(crate) fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    Query::<T>::from_query(request.query_string())
        .map(Query::into_inner)
        .map_err(|error| Problem::invalid(format!("the query is not valid: {error}")))
}

/// How long the pages of a list are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageLength {
    /// Unless asked otherwise.
    pub(crate) default: u32,
    /// At most.
    pub(crate) max: u32,
}

impl PageLength {
    /// The length that the parameter `limit` asks for.
    ///
    /// # Errors
    /// `invalid_request` for what is not 1 to the maximum.
    pub(crate) fn asked_for(self, limit: Option<&str>) -> Result<u32, Problem> {
        let Some(text) = limit else {
            return Ok(self.default);
        };
        text.parse()
            .ok()
            .filter(|limit| (1..=self.max).contains(limit))
            .ok_or_else(|| Problem::invalid(format!("`limit`: must be 1 to {}", self.max)))
    }
}

/// Cuts what was found, asked for with a limit of one more, to the page. Gives the page's last entry if another page follows.
pub(crate) fn cut_to_page<T>(found: &mut Vec<T>, limit: u32) -> Option<&T> {
    let length = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = found.len() > length;
    found.truncate(length);
    found.last().filter(|_| has_more)
}

/// A cursor out of the place where a page ended: opaque to callers.
pub(crate) fn cursor(place: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(place)
}

/// The place that a cursor names, which `parse` reads out of its bytes.
///
/// # Errors
/// `invalid_request` for what no page gave.
pub(crate) fn place<T>(cursor: &str, parse: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, Problem> {
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|place| parse(&place))
        .ok_or_else(|| Problem::invalid("`cursor`: is none that a page before gave"))
}

#[cfg(test)]
mod tests {
    use super::{PageLength, cut_to_page};

    #[test]
    fn a_limit_has_its_bounds() {
        let length = PageLength {
            default: 50,
            max: 200,
        };
        for (limit, expected) in [
            (None, Some(50)),
            (Some("1"), Some(1)),
            (Some("200"), Some(200)),
            (Some("0"), None),
            (Some("201"), None),
            (Some("-1"), None),
            (Some("1.0"), None),
            (Some("99999999999"), None),
            (Some(""), None),
            (Some("all"), None),
        ] {
            assert_eq!(length.asked_for(limit).ok(), expected, "{limit:?}");
        }
    }

    #[test]
    fn the_one_more_says_that_a_page_follows() {
        for (found, page, last) in [(0, 0, None), (1, 1, None), (2, 2, None), (3, 2, Some(1))] {
            let mut found: Vec<u32> = (0..found).collect();
            assert_eq!(cut_to_page(&mut found, 2).copied(), last);
            assert_eq!(found.len(), page);
        }
    }
}
