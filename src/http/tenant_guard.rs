//! The tenant guard: in a service that serves one org, a request that names another does not find anything.

use actix_web::http::header::HeaderMap;
use uuid::Uuid;

use super::options::HttpOptions;

/// Whether the request may go on. Without a tenant org in the settings every request may.
pub(crate) fn admits(options: &HttpOptions, headers: &HeaderMap) -> bool {
    let Some(tenant) = options.tenant_org else {
        return true;
    };
    let mut named = headers.get_all(&options.org_header);
    let org = named
        .next()
        .and_then(|value| value.to_str().ok())
        .and_then(|text| Uuid::try_parse(text.trim()).ok());
    // Two headers could be read one way by a proxy and another way here.
    org == Some(tenant) && named.next().is_none()
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
    use uuid::Uuid;

    use super::admits;
    use crate::http::options::HttpOptions;

    #[test]
    fn only_the_tenants_own_org_passes() {
        let org = Uuid::from_u128(7);
        let (own, other) = (org.to_string(), Uuid::from_u128(8).to_string());
        let table: [(&[&str], bool); 5] = [
            (&[own.as_str()], true),
            (&[other.as_str()], false),
            (&[], false),
            (&["not a uuid"], false),
            (&[own.as_str(), other.as_str()], false),
        ];
        let guarded = HttpOptions {
            tenant_org: Some(org),
            org_header: HeaderName::from_static("x-org"),
            ..HttpOptions::default()
        };
        for (values, passes) in table {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(
                    HeaderName::from_static("x-org"),
                    HeaderValue::from_str(value).unwrap(),
                );
            }
            assert_eq!(admits(&guarded, &headers), passes, "{values:?}");
            assert!(admits(&HttpOptions::default(), &headers));
        }
    }
}
