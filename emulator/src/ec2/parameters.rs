//! The form of an EC2 Query request: numbered lists, filters and pages.
//!
//! It must know nothing of instances or endpoints.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Refusal;

/// Values by name.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<String, String>);

/// One filter: it keeps what has one of these values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) name: String,
    pub(super) values: Vec<String>,
}

impl Parameters {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        std::str::from_utf8(body).map_err(|_| Refusal::NotAForm)?;
        Ok(Self(
            form_urlencoded::parse(body)
                .map(|(name, value)| (Cow::into_owned(name), Cow::into_owned(value)))
                .collect(),
        ))
    }

    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The values of `NAME.1`, `NAME.2` and so on, up to the first number that is not there.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        (1..)
            .map_while(|number: usize| self.0.get(&format!("{name}.{number}")).cloned())
            .collect()
    }

    pub(super) fn filters(&self) -> Vec<Filter> {
        (1..)
            .map_while(|number: usize| {
                Some(Filter {
                    name: self.0.get(&format!("Filter.{number}.Name"))?.clone(),
                    values: self.list(&format!("Filter.{number}.Value")),
                })
            })
            .collect()
    }

    /// The page of `all` that the request asks for, and the token of the next one.
    pub(super) fn page<T>(
        &self,
        all: Vec<T>,
        (minimum, maximum): (usize, usize),
    ) -> Result<(Vec<T>, Option<String>), Refusal> {
        let start = match self.one("NextToken") {
            None => 0,
            Some(token) => decode(token).ok_or(Refusal::PaginationToken)?,
        };
        let length = match self.one("MaxResults") {
            None => usize::MAX,
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| (minimum..=maximum).contains(number))
                .ok_or_else(|| Refusal::Value {
                    name: "maxResults",
                    value: text.to_owned(),
                    rule: format!("Expecting a value between {minimum} and {maximum}."),
                })?,
        };
        let end = start.saturating_add(length);
        let next = (end < all.len()).then(|| URL_SAFE_NO_PAD.encode(format!("from {end}")));
        Ok((all.into_iter().skip(start).take(length).collect(), next))
    }
}

fn decode(token: &str) -> Option<usize> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    text.strip_prefix("from ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_filters_are_numbered_from_one() {
        let parameters = Parameters::parse(
            b"InstanceId.1=i-1&InstanceId.2=i-2&InstanceId.4=i-4&Filter.1.Name=state&Filter.1.Value.1=a+b&\
              Filter.1.Value.2=c%2Bd&Filter.2.Name=vpc-id",
        )
        .unwrap();
        assert_eq!(parameters.list("InstanceId"), ["i-1", "i-2"]);
        let filters = parameters.filters();
        assert_eq!(filters[0].name, "state");
        assert_eq!(filters[0].values, ["a b", "c+d"]);
        assert_eq!(filters[1].values, Vec::<String>::new());
        assert_eq!(filters.len(), 2);
    }

    #[test]
    fn pages_follow_one_another_to_the_end() {
        let mut body = "MaxResults=2".to_owned();
        let mut pages = Vec::new();
        loop {
            let parameters = Parameters::parse(body.as_bytes()).unwrap();
            let (page, next) = parameters.page(vec![1, 2, 3, 4, 5], (1, 50)).unwrap();
            pages.push(page);
            let Some(next) = next else { break };
            body = format!("MaxResults=2&NextToken={next}");
        }
        assert_eq!(pages, [vec![1, 2], vec![3, 4], vec![5]]);
        for bad in ["MaxResults=0", "MaxResults=51", "MaxResults=x", "NextToken=x"] {
            let parameters = Parameters::parse(bad.as_bytes()).unwrap();
            parameters.page(vec![1], (1, 50)).unwrap_err();
        }
    }
}
