//! What the SDK puts over the standard interfaces: its HTTP client and its values, in a real sandbox.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linecook::config::{Grants, Host, Hosts, HttpGrant, Scheme};
use linecook::delivery::Outcome;
use linecook::sandbox::{InstanceSettings, Module};
use serde_json::{Value, json};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/kitchen.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod kitchen;
#[path = "support/log.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod log;
#[path = "support/web.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod web;

use kitchen::{Kitchen, LONG, component, reason, sent, settings};
use web::{Authority, Web};

struct Client {
    kitchen: Kitchen,
    settings: Arc<InstanceSettings>,
    module: Module,
}

impl Client {
    fn new(http: &[(Scheme, &str, u16)], config: &[(&str, &str)]) -> Client {
        Client::of(Kitchen::new(1), http, config)
    }

    fn of(kitchen: Kitchen, http: &[(Scheme, &str, u16)], config: &[(&str, &str)]) -> Client {
        let grant = |&(scheme, host, port): &(Scheme, &str, u16)| {
            let hosts = if host == "*" { Hosts::All } else { Hosts::One(Host::parse(host).unwrap()) };
            HttpGrant { scheme, hosts, port }
        };
        let grants = Grants { http: http.iter().map(grant).collect(), ..settings().grants };
        let config: BTreeMap<_, _> =
            config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let settings = Arc::new(InstanceSettings { grants, config, ..settings() });
        let module = kitchen.load(&component("client"), &settings).unwrap();
        Client { kitchen, settings, module }
    }

    #[track_caller]
    fn ask(&self, command: &Value) -> Value {
        let report = self.kitchen.call(&self.module, &self.settings, &command.to_string());
        assert_eq!(report.outcome, Outcome::Ack, "{command}: {}", report.stderr_tail);
        sent(&report).remove(0).1
    }

    #[track_caller]
    fn refused(&self, command: &Value) -> String {
        let report = self.kitchen.call(&self.module, &self.settings, &command.to_string());
        assert!(matches!(report.outcome, Outcome::DeadLetter { .. }), "{command}: {report:?}");
        reason(&report).to_owned()
    }
}

#[test]
fn a_request_goes_out_and_its_response_comes_back() {
    let web = Web::http();
    let client = Client::new(&[(Scheme::Http, "127.0.0.1", web.port())], &[]);
    let base = format!("http://{}", web.address);
    let answer = client.ask(&json!({ "method": "GET", "url": format!("{base}/echo") }));
    assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!(format!("GET /echo {}\n", web.address))));
    let answer = client.ask(&json!({ "method": "POST", "url": format!("{base}/echo"), "body": "soup" }));
    assert_eq!(answer["body"], format!("POST /echo {}\nsoup", web.address));
    let answer = client.ask(&json!({ "method": "PUT", "url": format!("{base}/echo"), "json": { "a": 1 } }));
    assert_eq!(answer["body"], format!("PUT /echo {}\n{{\"a\":1}}", web.address));
    let answer = client.ask(&json!({ "method": "BREW", "url": format!("{base}/echo") }));
    assert_eq!(answer["body"], format!("BREW /echo {}\n", web.address));
    // More than fits into any buffer on the way.
    let answer = client.ask(&json!({ "method": "POST", "url": format!("{base}/echo"), "body_bytes": 2_000_000 }));
    assert_eq!(answer["body"], 2_000_000 + format!("POST /echo {}\n", web.address).len());
    // A redirect is not followed, and its address is there.
    let answer = client.ask(&json!({ "method": "GET", "url": format!("{base}/redirect?http://b.example/") }));
    assert_eq!((&answer["status"], &answer["headers"]["location"]), (&json!(302), &json!("http://b.example/")));
    let error = client.refused(&json!({ "method": "GET", "url": format!("{base}/nowhere?key=hidden") }));
    assert!(error.starts_with(&format!("GET {base}/nowhere was answered with 404")), "{error}");
    assert!(!error.contains("hidden"), "{error}");
}

#[test]
fn https_is_spoken_and_its_certificates_are_checked() {
    let authority = Authority::new();
    let web = Web::https(&authority);
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    authority.write(&ca_file);
    let grants = [(Scheme::Https, "localhost", web.port())];
    let command = json!({ "method": "GET", "url": format!("https://localhost:{}/echo", web.port()) });
    let trusting = Client::of(Kitchen::trusting(1, ca_file), &grants, &[]);
    assert_eq!(trusting.ask(&command)["status"], 200);
    let error = Client::new(&grants, &[]).refused(&command);
    assert!(error.ends_with("/echo: the server's certificate is not trusted"), "{error}");
}

#[test]
fn what_is_not_granted_names_the_grant() {
    let web = Web::http();
    let client = Client::new(&[(Scheme::Http, "*", web.port())], &[]);
    for (url, grant) in [
        ("https://api.example/charges?key=hidden", "https://api.example"),
        ("https://API.example:443/", "https://api.example"),
        ("http://10.0.0.1:8080/", "http://10.0.0.1:8080"),
        (&*format!("http://localhost:{}/echo", web.port()), &*format!("http://localhost:{}", web.port())),
    ] {
        let error = client.refused(&json!({ "method": "GET", "url": url }));
        let says = format!(": it is not granted; add {grant:?} to `http` in the consumer's grants in queue.toml");
        assert!(error.starts_with("can't GET http") && error.ends_with(&says), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    }
    assert_eq!(web.connections(), 0);
    let error = client.refused(&json!({ "method": "GET", "url": "ftp://api.example/" }));
    assert_eq!(error, "can't GET ftp://api.example/: a URL starts with http:// or https://");
}

#[test]
fn a_response_is_read_to_its_bound_and_not_beyond() {
    let web = Web::http();
    let client = Client::new(&[(Scheme::Http, "127.0.0.1", web.port())], &[]);
    let large = |max: Option<usize>| json!({ "method": "GET", "url": format!("http://{}/large", web.address), "response_bytes_max": max });
    assert_eq!(client.ask(&large(None))["body"], 512 << 10);
    assert_eq!(client.ask(&large(Some(512 << 10)))["body"], 512 << 10);
    let error = client.refused(&large(Some((512 << 10) - 1)));
    let says = "/large has more than 524287 bytes; `response_bytes_max` allows more";
    assert!(error.ends_with(says), "{error}");
}

#[test]
fn a_server_that_takes_too_long_is_an_error_and_not_the_end_of_the_delivery() {
    let web = Web::http();
    // Nobody listens on a port that was just given back.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let grants = [
        (Scheme::Http, "127.0.0.1", web.port()),
        (Scheme::Http, "127.0.0.1", free.port()),
        (Scheme::Http, "no-such-host.invalid", 80),
    ];
    let client = Client::new(&grants, &[]);
    let began = Instant::now();
    let slow = format!("http://{}/slow", web.address);
    let error = client.refused(&json!({ "method": "GET", "url": slow, "timeout_ms": 300 }));
    assert_eq!(error, format!("GET {slow} timed out: there was no whole response after 300ms"));
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < LONG);
    let error = client.refused(&json!({ "method": "GET", "url": format!("http://{free}/") }));
    assert_eq!(error, format!("can't GET http://{free}/: the connection was refused"));
    let error = client.refused(&json!({ "method": "GET", "url": "http://no-such-host.invalid/" }));
    assert!(error.contains("the host's name does not resolve"), "{error}");
}

#[test]
fn values_are_those_of_the_configuration() {
    let client = Client::new(&[], &[("greeting", "Hello"), ("empty", "")]);
    let all = json!({ "greeting": "Hello", "empty": "" });
    assert_eq!(client.ask(&json!({ "config": "greeting" })), json!({ "value": "Hello", "all": all }));
    assert_eq!(client.ask(&json!({ "config": "absent" })), json!({ "value": null, "all": all }));
    assert_eq!(client.ask(&json!({ "config": "empty", "must": true })), json!({ "value": "" }));
    assert_eq!(
        client.refused(&json!({ "config": "absent", "must": true })),
        "the consumer has no value for \"absent\"; add it to [consumers.NAME.config] in queue.toml"
    );
}
