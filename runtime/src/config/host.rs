//! Hosts, as grants name them and as guests call them, in one canonical form: so that `EXAMPLE.com.`, `127.1` and
//! `[::ffff:127.0.0.1]` are what they mean, on both sides of the comparison.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Longer than any host in any spelling (a name has up to 253 characters, of which each may be percent-encoded), and little
/// enough to look at, whoever sends it.
const TEXT_BYTES_MAX: usize = 1024;
/// What DNS allows.
const NAME_BYTES_MAX: usize = 253;

/// A domain name or an IP address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// In lower case and ASCII (an international name in Punycode), without the root's dot at its end.
    Name(String),
    /// An IPv6 address that only wraps an IPv4 address is that IPv4 address.
    Address(IpAddr),
}

impl Host {
    /// Reads a host as URLs write it: IPv6 addresses stand in brackets, and what only looks like a name (`127.1`,
    /// `0x7f.0.0.1`, `2130706433`) is the IPv4 address that the resolver would take it for. `None` if it is no host.
    pub fn parse(text: &str) -> Option<Host> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        match url::Host::parse(text).ok()? {
            url::Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(&name);
                (1..=NAME_BYTES_MAX).contains(&name.len()).then(|| Host::Name(name.to_owned()))
            }
            url::Host::Ipv4(address) => Some(Host::Address(address.into())),
            url::Host::Ipv6(address) => Some(Host::address(address)),
        }
    }

    /// As [`Host::parse`]; an IPv6 address may also stand without brackets, as resolvers take it.
    pub fn parse_bare(text: &str) -> Option<Host> {
        match text.parse::<Ipv6Addr>() {
            Ok(address) => Some(Host::address(address)),
            Err(_) => Host::parse(text),
        }
    }

    /// The host that an address is.
    pub fn address(address: impl Into<IpAddr>) -> Host {
        Host::Address(address.into().to_canonical())
    }
}

impl fmt::Display for Host {
    /// As in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_host_is_one_host() {
        for (text, host) in [
            ("api.example", "api.example"),
            ("API.Example.", "api.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("%6cocalhost", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("0177.0.0.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[::ffff:127.0.0.1]", "127.0.0.1"),
            ("[::ffff:7f00:1]", "127.0.0.1"),
        ] {
            assert_eq!(Host::parse(text).unwrap().to_string(), host, "{text}");
        }
        assert_eq!(Host::parse_bare("::ffff:10.0.0.1"), Host::parse("10.0.0.1"));
        for wrong in ["", ".", "a b", "a/b", "a@b", "a:1", "1.2.3.4.5", "256.1.1.1", "[::1", "::1", "fe80::1%eth0"] {
            assert_eq!(Host::parse(wrong), None, "{wrong}");
        }
        let long = |parts| vec!["abcdefghi"; parts].join(".");
        assert!(Host::parse(&long(25)).is_some_and(|host| host.to_string().len() == 249));
        assert_eq!(Host::parse(&long(26)), None);
        assert_eq!(Host::parse(&long(1_000_000)), None);
    }
}
