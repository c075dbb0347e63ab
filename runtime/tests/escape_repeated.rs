//! Sixteen thousand hostile deliveries, of all kinds in turn, each by a component and by a core module for `wasm32-wasip1`:
//! the last ones leave the process the memory and the files that it had after the first. It is the only test of its process,
//! so that nothing else moves them.

use std::collections::VecDeque;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use linecook::config::{Host, Hosts, HttpGrant, Scheme, TcpGrant};
use linecook::delivery::Outcome;
use linecook::sandbox::{DurableState, StateReader};
use serde_json::{Value, json};

#[path = "support/by_hand.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod by_hand;
#[path = "support/cell.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod cell;
#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/kitchen.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod kitchen;
#[path = "support/log.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod log;

use cell::Cell;
use kitchen::{LONG, delivery, reason, sent};

/// So many are made in each quarter.
const DELIVERIES: usize = 4000;
/// Less than 1 KiB for each delivery. What leaks, leaks in each quarter; what only moves by chance does not grow by so much
/// in two of them that follow each other.
const GROWTH_KIB_MAX: u64 = 3 << 10;

/// A hostile call.
struct Call {
    guest: &'static str,
    body: String,
    /// It ends by the timeout and by nothing else: so it gets a short one.
    is_cut: bool,
}

/// State with one large value.
struct Large;

impl StateReader for Large {
    fn get(&self, key: &str) -> Result<Option<Bytes>, String> {
        static VALUE: [u8; 1 << 20] = [b'v'; 1 << 20];
        Ok((key == "large").then(|| Bytes::from_static(&VALUE)))
    }

    fn keys(&self, _after: Option<&str>, _limit: usize) -> Result<Vec<Box<str>>, String> {
        Ok(Vec::new())
    }

    fn bytes(&self) -> Result<u64, String> {
        Ok(1 << 20)
    }
}

/// A server that takes connections and says nothing. It keeps the newest ones.
fn silent_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut kept = VecDeque::new();
        for stream in listener.incoming() {
            kept.push_back(stream.unwrap());
            kept.drain(..kept.len().saturating_sub(4));
        }
    });
    address
}

/// Hostile calls.
fn hostile(silent: SocketAddr) -> Vec<Call> {
    let path =
        |to: &str, paths: &[&str]| paths.iter().map(|path| json!({ "do": to, "path": path })).collect::<Vec<_>>();
    let escape = [
        path(
            "read",
            &[
                "/read/../secret",
                "/read/up/secret",
                "/read/absolute",
                "/read/itself",
                "/etc/passwd",
                "/proc/self/environ",
            ],
        ),
        path("list", &["/read/..", "/write/up", "/"]),
        path("stat", &["/read/../secret"]),
        path("write", &["/read/menu", "/write/../secret", "/dev/null"]),
        path("remove", &["/read/menu", "/write/../secret"]),
        path("remove-dir", &["/write", "/write/.."]),
        path("make-dir", &["/read/new", "/write/../new"]),
        path("truncate", &["/read/menu", "/write/absolute"]),
        path("open-many", &["/read/menu"]),
        ["read-bytes", "write-bytes"].map(|to| json!({ "do": to, "path": b"/write/\xff\xfe" })).into(),
        ["symlink", "link", "rename"].map(|to| json!({ "do": to, "from": "/write/menu", "to": "/read/new" })).into(),
        [
            "timers",
            "fields",
            "bodies",
            "abort",
            "recurse",
            "clock",
            "flood",
            "sends",
            "huge",
            "poll-nothing",
            "spawn",
            "thread",
        ]
        .map(|to| json!({ "do": to }))
        .into(),
    ];
    let behave = [
        json!({ "do": "loop" }),
        json!({ "do": "allocate" }),
        json!({ "do": "panic" }),
        json!({ "do": "exit" }),
        json!({ "do": "exit-zero" }),
        json!({ "do": "send", "to": "secret" }),
        json!({ "do": "send", "to": "../audit" }),
        json!({ "do": "send", "to": "audit", "bytes": 3_000_000 }),
    ];
    let mut outside = vec![
        json!({ "do": "sockets", "count": 1000 }),
        json!({ "do": "bind", "to": "0.0.0.0:0" }),
        json!({ "do": "udp" }),
        json!({ "do": "look-up", "name": "localhost" }),
        json!({ "do": "random", "bytes": u64::MAX }),
        json!({ "do": "connect", "to": "127.0.0.1:1", "send": "" }),
        json!({ "do": "connect", "to": "[::1]:1", "send": "" }),
    ];
    // Port 1 is granted to every public server, and to nobody else; 2 to nobody.
    let hosts = [
        "127.0.0.1:1",
        "2130706433:1",
        "0x7f000001:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
        "localhost:1",
        "127.0.0.1:2",
    ];
    outside.extend(hosts.map(|host| json!({ "do": "http", "url": format!("http://{host}/") })));
    outside.push(json!({ "do": "hold", "url": "http://localhost:1/", "count": 10 }));
    let state = [
        json!({ "do": "get-many", "key": "large", "count": 100 }),
        json!({ "do": "set", "key": "k", "bytes": 1_100_000 }),
        json!({ "do": "get", "key": "k".repeat(1000) }),
        json!({ "do": "count", "key": "large" }),
    ];
    let escape = escape.into_iter().flatten().map(|command| ("escape", command));
    let all = escape
        .chain(behave.map(|command| ("behave", command)))
        .chain(outside.into_iter().map(|command| ("outside", command)))
        .chain(state.map(|command| ("state", command)));
    let call = |guest, command: Value| Call { guest, body: command.to_string(), is_cut: false };
    let mut all: Vec<_> = all.map(|(guest, command)| call(guest, command)).collect();
    all.extend(["table", "memory"].map(|guest| call(guest, Value::Null)));
    all.extend(["hoard", "keep 9000000", "metadata 100000", "trap"].map(|body| Call {
        guest: "messaging",
        body: body.to_owned(),
        is_cut: false,
    }));
    let cut = [
        ("escape", json!({ "do": "wait" })),
        ("escape", json!({ "do": "sleep" })),
        ("outside", json!({ "do": "http", "url": format!("http://{silent}/") })),
        ("outside", json!({ "do": "hold", "url": format!("http://{silent}/"), "count": 3 })),
        ("outside", json!({ "do": "connect", "to": silent.to_string(), "send": "soup" })),
    ];
    all.extend(cut.map(|(guest, command)| Call { is_cut: true, ..call(guest, command) }));
    all
}

#[test]
fn thousands_of_hostile_deliveries_leave_nothing_behind() {
    let silent = silent_server();
    // Loading has all the time that a busy machine needs for it; the deliveries have not.
    let cell = Cell::new("escape", |settings| {
        settings.limits.cpu_time = None;
        let http = |hosts, port| HttpGrant { scheme: Scheme::Http, hosts, port };
        let host = Host::address(silent.ip());
        settings.grants.http = vec![http(Hosts::All, 1), http(Hosts::One(host.clone()), silent.port())];
        settings.grants.tcp = vec![TcpGrant { host, port: silent.port() }];
    });
    for (name, to) in [("up", ".."), ("absolute", "/etc/passwd"), ("itself", "itself")] {
        for folder in ["read", "write"] {
            std::os::unix::fs::symlink(to, cell.path(folder).join(name)).unwrap();
        }
    }
    let mut strict = (*cell.settings).clone();
    strict.memory_bytes_max = 4 << 20;
    strict.timeout = Duration::from_millis(500);
    strict.limits.cpu_time = Some(Duration::from_millis(5));
    strict.limits.log_bytes = 1000;
    strict.limits.host_call_bytes = 1 << 20;
    strict.state = Some(DurableState { space: "consumer/cook".into(), reader: Arc::new(Large) });
    let mut brief = strict.clone();
    brief.timeout = Duration::from_millis(20);
    let (strict, brief) = (Arc::new(strict), Arc::new(brief));
    let grow = |what: &str| {
        let endless = format!(
            "(table $t 1 funcref) (func $f (loop $again {what} (i32.const -1) (br_if $again (i32.ne)) unreachable))"
        );
        by_hand::component_of(&endless)
    };
    let load = |wasm: &[u8]| cell.kitchen.load(wasm, &cell.settings).unwrap();
    let mut modules = vec![
        ("table", load(&grow("(table.grow $t (ref.null func) (i32.const 100))"))),
        ("memory", load(&grow("(memory.grow (i32.const 1))"))),
    ];
    for name in ["escape", "behave", "outside", "state", "messaging"] {
        for path in [guests::component(name), guests::core_module(name)] {
            modules.push((name, load(&fs::read(path).unwrap())));
        }
    }
    let calls = hostile(silent);
    assert!(calls.len() >= 60, "{}", calls.len());
    let hostile: Arc<[_]> = calls
        .iter()
        .flat_map(|call| {
            let of_guest = modules.iter().filter(|(name, _)| *name == call.guest);
            let settings = if call.is_cut { &brief } else { &strict };
            of_guest.map(move |(_, module)| (module.clone(), settings.clone(), call.body.clone()))
        })
        .collect();
    assert_eq!(hostile.len(), 2 * calls.len() - 2, "all but what is made by hand is called in both kinds");

    // Each is refused or contained.
    for (module, settings, body) in &*hostile {
        let report = cell.kitchen.call(module, settings, body);
        let told = report.outcome == Outcome::Ack
            && sent(&report).iter().all(|(_, answer)| !answer["error"].is_null() || harmless(answer));
        assert!(report.outcome != Outcome::Ack || told, "{body}: {report:?}");
        let unknown = ["the body is not", "what is "];
        let why = if report.outcome == Outcome::Ack { "" } else { reason(&report) };
        assert!(!unknown.iter().any(|unknown| why.starts_with(unknown)), "no guest knows {body}: {why}");
        let is_cut = Arc::ptr_eq(settings, &brief);
        assert_eq!(why == "timed out after 20ms", is_cut, "{body}: {report:?}");
    }

    let round = || {
        let running: Vec<_> = (0..2)
            .map(|worker| {
                let hostile = hostile.clone();
                cell.kitchen.start(worker, async move |worker| {
                    for number in 0..DELIVERIES / 2 {
                        let (module, settings, body) = &hostile[number % hostile.len()];
                        let slot = worker.slots(1).await.pop().unwrap();
                        module.call(&worker, slot, settings, &delivery(body)).await;
                    }
                    worker.slots(9).await.len()
                })
            })
            .collect();
        for slots in running {
            assert_eq!(slots.recv_timeout(10 * LONG).unwrap(), 4, "every slot is free again");
        }
        (open_files(), resident_kib())
    };
    // The first ones fill caches and pools.
    let quarters = [round(), round(), round(), round()];
    let [_, (files, second), (_, third), (files_now, fourth)] = quarters;
    // A connection or a lookup that was just given up may still be on its way.
    assert!(files_now <= files + 2, "{files} files were open, now {files_now}");
    let growth = third.saturating_sub(second).min(fourth.saturating_sub(third));
    assert!(growth <= GROWTH_KIB_MAX, "files and KiB after each quarter: {quarters:?}");
    assert_eq!(fs::read_to_string(cell.path("secret")).unwrap(), "recipe");
    assert_eq!(fs::read_to_string(cell.path("read/menu")).unwrap(), "soup");
}

/// What a guest got without harm: as many sockets or answers as are none.
fn harmless(answer: &Value) -> bool {
    answer["results"].as_array().is_some_and(|results| results.iter().all(|result| result != "ok"))
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
