//! The address of a client behind proxies, by `Forwarded` (RFC 7239) and `X-Forwarded-For`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use warp::http::{HeaderMap, HeaderName, header};

/// The networks of proxies that are trusted to name a client's address.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client's address: the last address in the chain that is not a trusted proxy. Anything
    /// before it may be forged.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.contains(peer) {
            return peer;
        }
        let forwarded = values(headers, &header::FORWARDED);
        let x_forwarded_for = values(headers, &X_FORWARDED_FOR);
        let from_forwarded = (!forwarded.is_empty()).then(|| self.last_untrusted(peer, forwarded.split(',').map(forwarded_for)));
        let from_x_forwarded_for =
            (!x_forwarded_for.is_empty()).then(|| self.last_untrusted(peer, x_forwarded_for.split(',').map(address)));
        match (from_forwarded, from_x_forwarded_for) {
            // A proxy sets one of the two, and passes the other on from the client: if they differ,
            // neither can be trusted.
            (Some(first), Some(x_forwarded_for)) if first != x_forwarded_for => peer,
            (Some(client), _) | (None, Some(client)) => client,
            (None, None) => peer,
        }
    }

    fn last_untrusted<'a>(&self, peer: IpAddr, hops: impl DoubleEndedIterator<Item = Option<IpAddr>> + 'a) -> IpAddr {
        let mut nearest = peer;
        for hop in hops.rev() {
            // A hidden or invalid address: the nearest known proxy is used instead.
            let Some(hop) = hop else { return nearest };
            nearest = hop;
            if !self.contains(hop) {
                break;
            }
        }
        nearest
    }
}

/// Not a constant of the http crate.
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Joins the values of a header, each of which may be a list.
fn values(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",")
}

/// The `for` of an element of `Forwarded`. A quoted string with a comma is split into two elements,
/// neither of which has a valid address.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| address(value.trim().trim_matches('"')))?
    })
}

/// Parses an address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

/// The address or network that counts as one client: the holder of an IPv6 address has all 2^64
/// addresses of its network.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[(&str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48"].map(|network| network.parse().unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        TrustedProxies::new(trusted.to_vec()).client(peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn the_last_address_that_is_not_trusted_is_the_clients() {
        let (forwarded, x_forwarded_for) = ("Forwarded", "X-Forwarded-For");
        for (peer, headers, expected) in [
            ("192.0.2.9", vec![(x_forwarded_for, "198.51.100.1")], "192.0.2.9"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("::ffff:10.0.0.1", vec![(x_forwarded_for, "198.51.100.1")], "198.51.100.1"),
            ("10.0.0.1", vec![(x_forwarded_for, "203.0.113.7, 198.51.100.1 , 10.1.1.1")], "198.51.100.1"),
            ("10.0.0.1", vec![(x_forwarded_for, "203.0.113.7"), (x_forwarded_for, "198.51.100.1")], "198.51.100.1"),
            ("10.0.0.1", vec![(x_forwarded_for, "198.51.100.1:5000")], "198.51.100.1"),
            ("10.0.0.1", vec![(x_forwarded_for, "10.0.0.7, 10.0.0.8")], "10.0.0.7"),
            ("10.0.0.1", vec![(x_forwarded_for, "198.51.100.1, unknown, 10.0.0.8")], "10.0.0.8"),
            ("10.0.0.1", vec![(x_forwarded_for, "")], "10.0.0.1"),
            ("10.0.0.1", vec![(forwarded, "for=198.51.100.1;proto=http;by=203.0.113.43")], "198.51.100.1"),
            ("10.0.0.1", vec![(forwarded, "for=203.0.113.7, FOR=\"[2001:db8:2::1]:4711\"")], "2001:db8:2::1"),
            ("2001:db8:1::5", vec![(forwarded, "proto=https; for=\"[2001:db8:2::1]\"")], "2001:db8:2::1"),
            ("10.0.0.1", vec![(forwarded, "for=_hidden"), (forwarded, "for=10.0.0.3")], "10.0.0.3"),
            // One of them is forged by the client.
            ("10.0.0.1", vec![(forwarded, "for=203.0.113.7"), (x_forwarded_for, "198.51.100.1")], "10.0.0.1"),
            ("10.0.0.1", vec![(forwarded, "for=198.51.100.1"), (x_forwarded_for, "198.51.100.1")], "198.51.100.1"),
        ] {
            assert_eq!(client(peer, &headers), expected, "{peer} {headers:?}");
        }
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        for (address, expected) in
            [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::")]
        {
            assert_eq!(network(address.parse().unwrap()).to_string(), expected);
        }
    }
}
