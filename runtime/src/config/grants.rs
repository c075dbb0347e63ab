//! What a consumer may do beside handling its messages.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use linecook_store::QueueName;

use super::host::Host;
use crate::subjects::Pattern;

/// `[consumers.NAME.grants]`: nothing is granted that is not here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Queues that it may send to.
    pub send: Vec<QueueName>,
    /// Subjects that it may send to.
    pub send_subjects: Vec<Pattern>,
    /// Servers that it may call over HTTP.
    pub http: Vec<HttpGrant>,
    /// Servers that it may connect to.
    pub tcp: Vec<TcpGrant>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Variables of the runtime's own environment that it gets as well. Only their names are here: the values are read
    /// when its component is loaded, and kept nowhere else.
    pub secrets: Vec<String>,
    /// Folders that it sees.
    pub dirs: Vec<DirGrant>,
    /// Whether it has durable state of its own.
    pub state: bool,
}

/// One granted folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirGrant {
    /// The folder outside.
    pub host: PathBuf,
    /// Its name inside.
    pub guest: String,
    /// Whether the guest may change it (`access = "read-write"`).
    pub write: bool,
}

/// A server, or several, that may be called over HTTP. Written as `"https://api.example"`, `"http://localhost:8080"`,
/// `"https://*.example"` (every name below `example`) or `"https://*"` (every host).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpGrant {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Which hosts.
    pub hosts: Hosts,
    /// 80 or 443 unless it is written.
    pub port: u16,
}

/// How HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// The hosts of one grant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hosts {
    /// This one, whatever address it has.
    One(Host),
    /// The names below this one. Only at public addresses.
    Below(String),
    /// All of them. Only at public addresses.
    All,
}

/// A server that may be connected to. Written as `"mail.example:25"`, `"127.0.0.1:1025"` or `"[::1]:1025"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TcpGrant {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// Why a text grants nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InvalidGrant {
    /// What is wrong with it; the text itself is to be put before.
    pub(super) problem: &'static str,
    /// What to write instead.
    pub(super) hint: String,
}

impl Scheme {
    /// The port of a URL that names none.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl HttpGrant {
    pub(super) fn parse(text: &str) -> Result<HttpGrant, InvalidGrant> {
        const EXAMPLE: &str = "write it as \"https://api.example\" or \"http://localhost:8080\"";
        let refuse = |problem, hint: String| Err(InvalidGrant { problem, hint });
        let Some((scheme, rest)) = text.split_once("://") else {
            return refuse("has no scheme", EXAMPLE.to_owned());
        };
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return refuse("has another scheme than http or https", EXAMPLE.to_owned()),
        };
        if rest.contains('@') {
            return refuse("names a user", "a grant is a scheme, a host and a port".to_owned());
        }
        if let Some(end) = rest.find(['/', '?', '#']) {
            let hint = format!("what is granted is the whole server: write \"{scheme}://{}\"", &rest[..end]);
            return refuse("has a path", hint);
        }
        let (host, port) = match split_port(rest) {
            (host, None) => (host, scheme.default_port()),
            (host, Some(port)) => match parse_port(port) {
                Some(port) => (host, port),
                None => return refuse("has no valid port", "a port is a number from 1 to 65535".to_owned()),
            },
        };
        let hosts = match (host, host.strip_prefix("*.")) {
            ("*", _) => Some(Hosts::All),
            (_, Some(above)) => match Host::parse(above) {
                Some(Host::Name(name)) if !name.contains('*') => Some(Hosts::Below(name)),
                _ => None,
            },
            _ => Host::parse(host).filter(|host| !has_star(host)).map(Hosts::One),
        };
        match hosts {
            Some(hosts) => Ok(HttpGrant { scheme, hosts, port }),
            None if host.contains('*') => {
                let hint = "`*` stands for whole parts at the beginning: \"https://*.example\", or \"https://*\"";
                refuse("has a `*` where it means nothing", hint.to_owned())
            }
            None => refuse("has no valid host", EXAMPLE.to_owned()),
        }
    }
}

impl Hosts {
    /// Whether this is one of them, its address aside.
    pub fn contain(&self, host: &Host) -> bool {
        match self {
            Hosts::One(one) => one == host,
            Hosts::Below(above) => match host {
                Host::Name(name) => name.strip_suffix(above.as_str()).is_some_and(|below| below.ends_with('.')),
                Host::Address(_) => false,
            },
            Hosts::All => true,
        }
    }
}

impl TcpGrant {
    pub(super) fn parse(text: &str) -> Result<TcpGrant, InvalidGrant> {
        const EXAMPLE: &str = "write it as \"mail.example:25\" or \"127.0.0.1:1025\"";
        let refuse = |problem, hint: &str| Err(InvalidGrant { problem, hint: hint.to_owned() });
        if text.contains("://") {
            return refuse("has a scheme", "a TCP grant is a host and a port; HTTP is granted with `http`");
        }
        let (host, Some(port)) = split_port(text) else {
            return refuse("has no port", EXAMPLE);
        };
        let Some(port) = parse_port(port) else {
            return refuse("has no valid port", "a port is a number from 1 to 65535");
        };
        match Host::parse(host) {
            Some(host) if !has_star(&host) => Ok(TcpGrant { host, port }),
            Some(_) => refuse("has a `*`", "name each host: what a guest connects to is an address, which has no name"),
            None => refuse("has no valid host", EXAMPLE),
        }
    }
}

/// URLs allow it in a name; no resolver does.
fn has_star(host: &Host) -> bool {
    matches!(host, Host::Name(name) if name.contains('*'))
}

/// The host, and what is behind the colon after it.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        // A colon within the brackets belongs to the address.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        })
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hosts::One(host) => host.fmt(f),
            Hosts::Below(name) => write!(f, "*.{name}"),
            Hosts::All => f.write_str("*"),
        }
    }
}

impl fmt::Display for HttpGrant {
    /// As in `queue.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HttpGrant { scheme, hosts, port } = self;
        if *port == scheme.default_port() {
            write!(f, "{scheme}://{hosts}")
        } else {
            write!(f, "{scheme}://{hosts}:{port}")
        }
    }
}

impl fmt::Display for TcpGrant {
    /// As in `queue.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_grants_are_read_and_written_the_same() {
        for text in [
            "https://api.example",
            "http://localhost:8080",
            "https://*.example",
            "http://*",
            "https://*:8443",
            "http://127.0.0.1",
            "http://[::1]:80443",
        ] {
            match HttpGrant::parse(text) {
                Ok(grant) => assert_eq!(grant.to_string(), text),
                Err(error) => assert_eq!((text, error.problem), ("http://[::1]:80443", "has no valid port")),
            }
        }
        let port = |text| HttpGrant::parse(text).unwrap().port;
        assert_eq!([port("http://a"), port("https://a"), port("https://a:80")], [80, 443, 80]);
        assert_eq!(HttpGrant::parse("http://A.Example.:80").unwrap().to_string(), "http://a.example");
    }

    #[test]
    fn hosts_contain_what_they_name() {
        let hosts = |text| HttpGrant::parse(&format!("https://{text}")).unwrap().hosts;
        let contains = |text, host| hosts(text).contain(&Host::parse(host).unwrap());
        assert!(contains("api.example", "API.example."));
        assert!(!contains("api.example", "api.example.evil.example"));
        assert!(!contains("api.example", "x.api.example"));
        assert!(contains("*.example", "api.example") && contains("*.example", "a.b.example"));
        for host in ["example", "badexample", "example.com", "127.0.0.1"] {
            assert!(!contains("*.example", host), "{host}");
        }
        assert!(contains("*", "anything") && contains("*", "10.0.0.1"));
        assert!(contains("127.0.0.1", "2130706433"));
    }

    #[test]
    fn tcp_grants_are_a_host_and_a_port() {
        for text in ["mail.example:25", "127.0.0.1:1025", "[::1]:1025"] {
            assert_eq!(TcpGrant::parse(text).unwrap().to_string(), text);
        }
        for (text, problem) in [
            ("mail.example", "has no port"),
            ("[::1]", "has no port"),
            ("mail.example:", "has no valid port"),
            ("mail.example:0", "has no valid port"),
            ("mail.example:+25", "has no valid port"),
            ("tcp://mail.example:25", "has a scheme"),
            ("*.example:25", "has a `*`"),
            (":25", "has no valid host"),
        ] {
            assert_eq!(TcpGrant::parse(text).unwrap_err().problem, problem, "{text}");
        }
    }
}
