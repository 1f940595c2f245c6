//! Whose request it is, by address: the peer of the connection, unless that is a trusted proxy.

use std::net::{IpAddr, SocketAddr};

use actix_web::http::header::{HeaderMap, HeaderValue, X_FORWARDED_FOR};
use ipnet::IpNet;

/// Most entries of `X-Forwarded-For` that are looked at: more proxies than that in a row are no one's network.
const MAX_HOPS: usize = 32;

/// The address that an audit row names. `X-Forwarded-For` is read from its end, where the nearest proxy wrote, for as
/// long as the writer is trusted; the first address that is not a trusted proxy's is the caller. A hop that is no
/// address ends the walk at the proxy that wrote it. Hops are cut from the raw bytes: a caller can put any byte into the
/// header that its proxy then appends to, and must not hide what the proxy wrote by it.
pub(crate) fn remote_addr(
    peer: Option<SocketAddr>,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> Option<IpAddr> {
    let mut nearest = peer?.ip().to_canonical();
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
        let Some(address) = parse_hop(hop) else {
            break;
        };
        nearest = address.to_canonical();
    }
    Some(nearest)
}

/// Some proxies write the port too.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop.trim_ascii()).ok()?;
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
        let table: [(&str, &[&[u8]], &str); 15] = [
            ("192.0.2.1:5", &[b"198.51.100.7"], "192.0.2.1"),
            ("10.0.0.1:5", &[b"198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1:5", &[b"203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1:5", &[b"198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1:5", &[b"198.51.100.7", b"10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1:5", &[b"198.51.100.7:443"], "198.51.100.7"),
            ("10.0.0.1:5", &[b"unknown"], "10.0.0.1"),
            ("10.0.0.1:5", &[], "10.0.0.1"),
            ("10.0.0.1:5", &[b"\xff, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1:5", &[b"\xe9", b"198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1:5", &[b"198.51.100.7, \xff,10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1:5", &[b"198.51.100.7 \xc3\xa9"], "10.0.0.1"),
            ("10.0.0.1:5", &[b"198.51.100.7,\t10.0.0.2 "], "198.51.100.7"),
            ("10.0.0.1:5", &[b"198.51.100.7,,10.0.0.2"], "10.0.0.2"),
            ("[::ffff:10.0.0.1]:5", &[b"2001:db8::1"], "2001:db8::1"),
        ];
        for (peer, forwarded, expected) in table {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(value).unwrap());
            }
            let found = remote_addr(Some(peer.parse().unwrap()), &headers, &trusted);
            assert_eq!(found, Some(expected.parse().unwrap()), "{peer} {forwarded:?}");
        }
    }
}
