//! What consumers may call: HTTP and TCP servers that are granted, at the addresses that are granted, and no others.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use linecook::config::{Grants, Host, Hosts, HttpGrant, Scheme, TcpGrant};
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

use crate::log::LOG;
use kitchen::{Kitchen, component, reason, retry, sent, settings};
use web::{Authority, Web};

/// A consumer with grants, and its name.
struct Caller {
    kitchen: Kitchen,
    settings: Arc<InstanceSettings>,
    module: Module,
}

impl Caller {
    fn new(consumer: &str, http: &[HttpGrant], tcp: &[TcpGrant]) -> Caller {
        Caller::of(Kitchen::new(1), consumer, http, tcp)
    }

    fn of(kitchen: Kitchen, consumer: &str, http: &[HttpGrant], tcp: &[TcpGrant]) -> Caller {
        let grants = Grants { http: http.to_vec(), tcp: tcp.to_vec(), ..settings().grants };
        let settings = Arc::new(InstanceSettings { consumer: consumer.into(), grants, ..settings() });
        let module = kitchen.load(&component("outside"), &settings).unwrap();
        Caller { kitchen, settings, module }
    }

    /// What the guest reports.
    fn ask(&self, command: &Value) -> Value {
        let report = self.kitchen.call(&self.module, &self.settings, &command.to_string());
        assert_eq!(report.outcome, Outcome::Ack, "{command}: {}", report.stderr_tail);
        sent(&report).remove(0).1
    }

    fn get(&self, url: &str) -> Value {
        self.ask(&json!({ "do": "http", "url": url }))
    }

    /// The denials in the log, in order.
    fn denials(&self) -> Vec<String> {
        let lines = LOG.of(&self.settings.consumer);
        let texts = lines.iter().map(|line| line["fields"]["message"].as_str().unwrap().trim_end().to_owned());
        texts.filter(|text| text.contains("was refused")).collect()
    }
}

fn grant(scheme: Scheme, host: &str, port: u16) -> HttpGrant {
    let hosts = match host {
        "*" => Hosts::All,
        host => Hosts::One(Host::parse(host).unwrap()),
    };
    HttpGrant { scheme, hosts, port }
}

fn tcp(host: &str, port: u16) -> TcpGrant {
    TcpGrant { host: Host::parse(host).unwrap(), port }
}

#[test]
fn a_granted_server_is_called() {
    let web = Web::http();
    let port = web.port();
    let caller = Caller::new("granted", &[grant(Scheme::Http, "127.0.0.1", port)], &[]);
    let answer = caller.ask(&json!({
        "do": "http", "method": "POST", "url": format!("http://127.0.0.1:{port}/echo?a=b"), "body": "soup",
    }));
    assert_eq!(
        (&answer["status"], &answer["body"]),
        (&json!(200), &json!(format!("POST /echo?a=b 127.0.0.1:{port}\nsoup")))
    );
    let answer = caller.get(&format!("http://127.0.0.1:{port}/large"));
    assert_eq!(answer["body"].as_str().unwrap().len(), 512 << 10);
    assert_eq!(caller.get(&format!("http://127.0.0.1:{port}/none"))["status"], 404);
    assert_eq!(web.requests(), 3);
    assert!(caller.denials().is_empty());
}

#[test]
fn every_way_to_write_a_granted_address_is_that_address() {
    let web = Web::http();
    let port = web.port();
    let caller = Caller::new("spelled", &[grant(Scheme::Http, "127.0.0.1", port)], &[]);
    for host in ["127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"] {
        let answer = caller.get(&format!("http://{host}:{port}/echo"));
        assert_eq!(answer["status"], 200, "{host}: {answer}");
    }
    assert!(caller.denials().is_empty());
}

#[test]
fn a_server_that_is_not_granted_is_refused_before_anything_is_sent() {
    let web = Web::http();
    let port = web.port();
    let caller =
        Caller::new("refused", &[grant(Scheme::Https, "localhost", port), grant(Scheme::Http, "localhost", 1)], &[]);
    for host in
        ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::127.0.0.1]"]
    {
        for _ in 0..2 {
            let answer = caller.get(&format!("http://{host}:{port}/echo"));
            assert_eq!(answer["error"], "ErrorCode::HttpRequestDenied", "{host}");
        }
    }
    // A user name hides the host from a reader.
    let answer = caller.get(&format!("http://localhost:1@127.0.0.1:{port}/echo"));
    assert_eq!(answer["error"], "ErrorCode::HttpRequestUriInvalid");
    assert_eq!((web.connections(), web.requests()), (0, 0));
    // Each spelling is the same server, and is told once: localhost, 127.0.0.1, ::1 and the address that is only like one.
    let denials = caller.denials();
    assert_eq!(denials.len(), 4, "{denials:#?}");
    let toml = format!(
        "[consumers.refused.grants]\nhttp = [\"https://localhost:{port}\", \"http://localhost:1\", \"http://localhost:{port}\"]"
    );
    assert!(denials[0].ends_with(&toml), "{}", denials[0]);
}

#[test]
fn the_lines_in_the_log_are_what_grants_it() {
    let web = Web::http();
    let url = format!("http://localhost:{}/echo", web.port());
    let caller = Caller::new("asking", &[], &[]);
    assert_eq!(caller.get(&url)["error"], "ErrorCode::HttpRequestDenied");
    let denial = caller.denials().remove(0);
    let (_, lines) = denial.split_once('\n').unwrap();
    let text = format!("[queues.orders]\n[consumers.asking]\nqueue = \"orders\"\ncomponent = \"a.wasm\"\n{lines}\n");
    let config = linecook::config::parse(&text, std::path::Path::new("queue.toml")).unwrap();
    let granted = Caller::new("granted-from-the-log", &config.consumers["asking"].grants.http, &[]);
    assert_eq!(granted.get(&url)["status"], 200);
}

#[test]
fn http_that_is_imported_and_not_granted_is_told_when_the_component_is_loaded() {
    let told = |consumer: &str, component: &[u8], http: &[HttpGrant]| {
        let grants = Grants { http: http.to_vec(), ..settings().grants };
        let settings = Arc::new(InstanceSettings { consumer: consumer.into(), grants, ..settings() });
        let kitchen = Kitchen::new(1);
        let module = kitchen.load(component, &settings).unwrap();
        let lines = LOG.of(consumer).len();
        kitchen.relink(&module, &settings).unwrap();
        let lines_again = LOG.of(consumer).len();
        assert_eq!(lines_again, 2 * lines, "it is told with each edit that the grant is missing in");
        LOG.of(consumer).iter().map(|line| line["fields"]["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let expected = "the component imports wasi:http/outgoing-handler, and nothing of that is granted: its calls will be \
                    refused. In queue.toml, `grants.http = [\"https://api.example\"]` in [consumers.hopeful] grants it";
    assert_eq!(told("hopeful", &component("outside"), &[]), [expected; 2]);
    assert_eq!(told("served", &component("outside"), &[grant(Scheme::Https, "api.example", 443)]), [""; 0]);
    assert_eq!(told("indifferent", &component("behave"), &[]), [""; 0]);
}

#[test]
fn a_star_does_not_reach_private_addresses() {
    let web = Web::http();
    let port = web.port();
    let caller = Caller::new("starry", &[grant(Scheme::Http, "*", port)], &[]);
    let prohibited = json!("ErrorCode::DestinationIpProhibited");
    assert_eq!(caller.get(&format!("http://localhost:{port}/echo"))["error"], prohibited);
    for host in
        ["127.0.0.1", "2130706433", "[::1]", "[::ffff:7f00:1]", "0.0.0.0", "169.254.169.254", "10.0.0.1", "[fd00::1]"]
    {
        let answer = caller.get(&format!("http://{host}:{port}/echo"));
        assert_eq!(answer["error"], "ErrorCode::HttpRequestDenied", "{host}");
    }
    assert_eq!(web.connections(), 0);
    assert!(caller.denials()[0].contains("it is not at a public address"), "{:?}", caller.denials());

    // At an address that is granted by itself, if scheme and port are those of its grant, too.
    let addressed = |name: &str, scheme, port_granted| {
        let grants = [grant(Scheme::Http, "*", port), grant(scheme, "127.0.0.1", port_granted)];
        let grants = [&grants[..], &[grant(Scheme::Http, "[::1]", port_granted)]].concat();
        Caller::new(name, &grants, &[]).get(&format!("http://localhost:{port}/echo"))
    };
    assert_eq!(addressed("addressed", Scheme::Http, port)["status"], 200);
    assert_eq!(addressed("addressed-elsewhere", Scheme::Http, port ^ 1)["error"], prohibited);
    assert_eq!(web.requests(), 1);

    // By its very name, it is reached where it is.
    let named = [grant(Scheme::Http, "*", port), grant(Scheme::Http, "localhost", port)];
    let caller = Caller::new("named", &named, &[]);
    assert_eq!(caller.get(&format!("http://localhost:{port}/echo"))["status"], 200);
}

#[test]
fn each_hop_of_a_redirect_is_checked() {
    let (first, second) = (Web::http(), Web::http());
    let caller = Caller::new("redirected", &[grant(Scheme::Http, "127.0.0.1", first.port())], &[]);
    let follow = |to: String| {
        caller.ask(&json!({ "do": "http", "follow": true, "url": format!("http://{}/redirect?{to}", first.address) }))
    };
    assert_eq!(follow(format!("http://{}/echo", first.address))["status"], 200);
    let answer = follow(format!("http://{}/echo", second.address));
    assert_eq!(answer["error"], "ErrorCode::HttpRequestDenied");
    assert_eq!(answer["url"], format!("http://{}/echo", second.address));
    assert_eq!(second.connections(), 0);
}

#[test]
fn https_checks_the_certificate() {
    let authority = Authority::new();
    let web = Web::https(&authority);
    let port = web.port();
    let grants = [
        grant(Scheme::Https, "localhost", port),
        grant(Scheme::Https, "127.0.0.1", port),
        grant(Scheme::Http, "localhost", port),
    ];
    let url = format!("https://localhost:{port}/echo");

    let caller = Caller::new("distrustful", &grants, &[]);
    assert_eq!(caller.get(&url)["error"], "ErrorCode::TlsCertificateError");

    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    authority.write(&ca_file);
    let trusting = || Kitchen::trusting(1, ca_file.clone());
    let caller = Caller::of(trusting(), "trusting", &grants, &[]);
    assert_eq!(caller.get(&url)["body"], format!("GET /echo localhost:{port}\n"));
    assert_eq!(caller.get(&format!("https://127.0.0.1:{port}/echo"))["status"], 200);
    // Right authority, other name.
    let other = [HttpGrant { hosts: Hosts::One(Host::parse("[::ffff:127.0.0.1]").unwrap()), ..grants[1].clone() }];
    let caller = Caller::of(trusting(), "mapped", &other, &[]);
    assert_eq!(caller.get(&format!("https://127.0.0.1:{port}/echo"))["status"], 200);
    let plain = Web::http();
    let caller = Caller::of(trusting(), "downgraded", &[grant(Scheme::Https, "localhost", plain.port())], &[]);
    assert_eq!(
        caller.get(&format!("https://localhost:{}/echo", plain.port()))["error"],
        "ErrorCode::ConnectionTerminated"
    );
    let error = caller.get(&format!("http://localhost:{}/echo", plain.port()));
    assert_eq!(error["error"], "ErrorCode::HttpRequestDenied", "the scheme is part of the grant");
}

#[test]
fn a_file_without_certificates_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, "no certificate\n").unwrap();
    let options = linecook::sandbox::SandboxOptions {
        workers: 1,
        slots: 1,
        cache_dir: folder.path().join("cache"),
        ca_file: Some(ca_file.clone()),
    };
    let error = linecook::sandbox::Sandbox::start(options).unwrap_err().to_string();
    assert!(error.contains(ca_file.to_str().unwrap()) && error.contains("no certificate in it"), "{error}");
}

#[test]
fn a_server_that_does_not_answer_costs_the_delivery_and_no_more() {
    let web = Web::http();
    let caller = Caller::new("patient", &[grant(Scheme::Http, "127.0.0.1", web.port())], &[]);
    let strict = Arc::new(InstanceSettings { timeout: Duration::from_millis(300), ..(*caller.settings).clone() });
    let slow = json!({ "do": "http", "url": format!("http://{}/slow", web.address) }).to_string();
    let report = caller.kitchen.call(&caller.module, &strict, &slow);
    assert_eq!(report.outcome, retry("timed out after 300ms"));
    assert_eq!(caller.get(&format!("http://{}/echo", web.address))["status"], 200);

    // Nobody listens on a port that was just given back.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let caller = Caller::new("rejected", &[grant(Scheme::Http, "127.0.0.1", free.port())], &[]);
    assert_eq!(caller.get(&format!("http://{free}/echo"))["error"], "ErrorCode::ConnectionRefused");
    let caller = Caller::new("unnamed", &[grant(Scheme::Http, "no-such-host.invalid", 80)], &[]);
    let error = caller.get("http://no-such-host.invalid/")["error"].to_string();
    assert!(error.contains("DnsError"), "{error}");
}

#[test]
fn connections_of_one_delivery_are_limited() {
    let web = Web::http();
    let caller = Caller::new("greedy", &[grant(Scheme::Http, "127.0.0.1", web.port())], &[]);
    let held = caller.ask(&json!({ "do": "hold", "url": format!("http://{}/large", web.address), "count": 80 }));
    let results = held["results"].as_array().unwrap();
    let granted = results.iter().filter(|result| **result == "ok").count();
    assert_eq!(granted, 64, "{results:?}");
    assert_eq!(results[79], "ErrorCode::ConnectionLimitReached");
    // They are gone with the delivery.
    assert_eq!(caller.get(&format!("http://{}/echo", web.address))["status"], 200);
}

/// Sends back what it gets, with a `>` before it.
fn tcp_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 100];
            let count = stream.read(&mut bytes).unwrap_or(0);
            _ = stream.write_all(&[b">", &bytes[..count]].concat());
        }
    });
    port
}

#[test]
fn a_granted_port_is_connected_to_by_address_and_by_name() {
    let port = tcp_server();
    let connect = |caller: &Caller, host: &str| {
        caller.ask(&json!({ "do": "connect", "to": format!("{host}:{port}"), "send": "soup" }))
    };
    let caller = Caller::new("by-address", &[], &[tcp("127.0.0.1", port)]);
    assert_eq!(connect(&caller, "127.0.0.1")["received"], ">soup");
    // The name leads to a granted address, but it is not granted to look it up.
    assert!(connect(&caller, "localhost")["error"].is_string());

    let caller = Caller::new("by-name", &[], &[tcp("localhost", port)]);
    assert_eq!(connect(&caller, "localhost")["received"], ">soup");
    // In a delivery that has not looked it up, the address is any address.
    assert!(connect(&caller, "127.0.0.1")["error"].is_string());
}

#[test]
fn sockets_do_nothing_but_connect_where_it_is_granted() {
    let (granted, port) = (tcp_server(), tcp_server());
    let caller = Caller::new("closed-in", &[], &[tcp("127.0.0.1", granted), tcp("localhost", granted)]);
    for command in [
        json!({ "do": "connect", "to": format!("127.0.0.1:{port}"), "send": "soup" }),
        json!({ "do": "connect", "to": format!("127.0.0.1:{port}"), "send": "soup" }),
        json!({ "do": "connect", "to": format!("localhost:{port}"), "send": "soup" }),
        json!({ "do": "connect", "to": format!("127.0.0.2:{granted}"), "send": "soup" }),
        json!({ "do": "connect", "to": format!("[::1]:{granted}"), "send": "soup" }),
        json!({ "do": "connect", "to": format!("[::ffff:127.0.0.1]:{port}"), "send": "soup" }),
        json!({ "do": "bind", "to": "127.0.0.1:0" }),
        json!({ "do": "bind", "to": "0.0.0.0:0" }),
        json!({ "do": "udp" }),
        json!({ "do": "look-up", "name": "no-such-host.invalid" }),
    ] {
        let answer = caller.ask(&command);
        assert!(answer["error"].is_string(), "{command}: {answer}");
    }
    assert_eq!(caller.ask(&json!({ "do": "look-up", "name": "127.0.0.1" }))["ok"], "1", "it is looked up nowhere");
    let denials = caller.denials();
    let toml = format!(
        "[consumers.closed-in.grants]\ntcp = [\"127.0.0.1:{granted}\", \"localhost:{granted}\", \"127.0.0.1:{port}\"]"
    );
    assert_eq!(denials.iter().filter(|denial| denial.ends_with(&toml)).count(), 1, "{denials:#?}");
    let looked_up = denials.iter().find(|denial| denial.contains("no-such-host.invalid:PORT")).unwrap();
    assert!(looked_up.contains("for PORT, put the number"), "{looked_up}");
}

#[test]
fn without_a_grant_there_is_no_connection_and_no_lookup() {
    let port = tcp_server();
    let caller = Caller::new("offline", &[], &[]);
    for to in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        assert!(caller.ask(&json!({ "do": "connect", "to": to, "send": "soup" }))["error"].is_string());
    }
    let toml = format!("[consumers.offline.grants]\ntcp = [\"127.0.0.1:{port}\"]");
    assert!(caller.denials()[0].ends_with(&toml), "{:?}", caller.denials());
    // Sockets that go nowhere are limited like all handles.
    let report = caller.kitchen.call(&caller.module, &caller.settings, r#"{"do":"sockets","count":1000}"#);
    assert!(reason(&report).contains("held more than 256 files"), "{}", reason(&report));
}
