//! Whose request it is, by address: the peer of the connection, unless that is a trusted proxy.

use std::net::{IpAddr, SocketAddr};

use actix_web::http::header::{HeaderMap, HeaderValue, X_FORWARDED_FOR};
use ipnet::IpNet;

/// Most entries of `X-Forwarded-For` that are looked at: more proxies than that in a row are no one's network.
const MAX_HOPS: usize = 32;

/// The address that an audit row names. `X-Forwarded-For` is read from its end, where the nearest proxy wrote, for as
/// long as the writer is trusted; the first address that is not a trusted proxy's is the caller.
pub(crate) fn remote_addr(
    peer: Option<SocketAddr>,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> Option<IpAddr> {
    let mut nearest = peer?.ip().to_canonical();
    // As bytes: what a client puts before a proxy's own entry may be anything, and must not hide that entry.
    let values: Vec<&[u8]> = headers
        .get_all(X_FORWARDED_FOR)
        .map(HeaderValue::as_bytes)
        .collect();
    for hop in values
        .iter()
        .rev()
        .flat_map(|value| value.rsplit(|byte| *byte == b','))
        .take(MAX_HOPS)
    {
        if !trusted.iter().any(|network| network.contains(&nearest)) {
            break;
        }
        let Some(address) = std::str::from_utf8(hop)
            .ok()
            .and_then(|hop| parse_hop(hop.trim()))
        else {
            break;
        };
        nearest = address.to_canonical();
    }
    Some(nearest)
}

/// Some proxies write the port too.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    hop.parse()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderMap, HeaderValue, X_FORWARDED_FOR};

    use super::remote_addr;

    #[test]
    fn forwarded_addresses_count_only_from_trusted_proxies() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let table: [(&str, &[&str], &str); 9] = [
            ("192.0.2.1:5", &["198.51.100.7"], "192.0.2.1"),
            ("10.0.0.1:5", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1:5", &["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1:5", &["198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1:5", &["198.51.100.7", "10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1:5", &["198.51.100.7:443"], "198.51.100.7"),
            ("10.0.0.1:5", &["unknown"], "10.0.0.1"),
            ("10.0.0.1:5", &[], "10.0.0.1"),
            ("[::ffff:10.0.0.1]:5", &["2001:db8::1"], "2001:db8::1"),
        ];
        for (peer, forwarded, expected) in table {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
            }
            let found = remote_addr(Some(peer.parse().unwrap()), &headers, &trusted);
            assert_eq!(found, Some(expected.parse().unwrap()), "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn a_client_cannot_hide_behind_bytes_that_are_no_text() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.append(
            X_FORWARDED_FOR,
            HeaderValue::from_bytes(b"\xe9, 203.0.113.9").unwrap(),
        );
        let found = remote_addr(Some("10.0.0.1:5".parse().unwrap()), &headers, &trusted);
        assert_eq!(found, Some("203.0.113.9".parse().unwrap()));
    }
}
