//! `region` in operators' queries.

use actix_web::HttpRequest;
use serde::Deserialize;

use crate::http::paging::query;
use crate::http::problem::Problem;

/// Longest region; the longest of AWS's is 14 characters (`ap-northeast-1`).
const MAX_REGION: usize = 32;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionQuery {
    region: Option<String>,
}

/// `region` of a query that may hold nothing else.
///
/// # Errors
/// `invalid_request`, with the field.
pub(super) fn region(request: &HttpRequest) -> Result<Option<String>, Problem> {
    query::<RegionQuery>(request)?
        .region
        .map(valid_region)
        .transpose()
}

/// # Errors
/// `invalid_request` for what can't be an AWS region.
pub(super) fn valid_region(text: String) -> Result<String, Problem> {
    let is_valid = (1..=MAX_REGION).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    is_valid
        .then_some(text)
        .ok_or_else(|| Problem::invalid("`region`: must be an AWS region, as in `us-east-2`"))
}

#[cfg(test)]
mod tests {
    use super::valid_region;

    #[test]
    fn regions_are_aws_s() {
        for (text, is_valid) in [
            ("us-east-2", true),
            ("", false),
            ("US-EAST-2", false),
            ("us_east", false),
        ] {
            assert_eq!(valid_region(text.to_owned()).is_ok(), is_valid, "{text:?}");
        }
    }
}
