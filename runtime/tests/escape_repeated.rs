//! Ten thousand hostile deliveries, of all kinds in turn, each by a component and by a core module for `wasm32-wasip1`:
//! afterwards the process has the memory and the files that it had. It is the only test of its process, so that nothing else
//! moves them.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use linecook::config::{Hosts, HttpGrant, Scheme};
use linecook::delivery::Outcome;
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
use kitchen::{LONG, delivery, sent};

/// So many are made.
const DELIVERIES: usize = 10_000;

/// Hostile calls, and the guest that makes them.
fn hostile() -> Vec<(&'static str, Value)> {
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
    let escape = escape.into_iter().flatten().map(|command| ("escape", command));
    let all = escape
        .chain(behave.map(|command| ("behave", command)))
        .chain(outside.into_iter().map(|command| ("outside", command)));
    all.chain([("table", Value::Null), ("memory", Value::Null)]).collect()
}

#[test]
fn ten_thousand_hostile_deliveries_leave_nothing_behind() {
    // Loading has all the time that a busy machine needs for it; the deliveries have not.
    let cell = Cell::new("escape", |settings| {
        settings.limits.cpu_time = None;
        settings.grants.http = vec![HttpGrant { scheme: Scheme::Http, hosts: Hosts::All, port: 1 }];
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
    let strict = Arc::new(strict);
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
    for name in ["escape", "behave", "outside"] {
        for path in [guests::component(name), guests::core_module(name)] {
            modules.push((name, load(&fs::read(path).unwrap())));
        }
    }
    let calls = hostile();
    assert!(calls.len() >= 40, "{}", calls.len());
    let hostile: Arc<[_]> = calls
        .iter()
        .flat_map(|(guest, command)| {
            let of_guest = modules.iter().filter(move |(name, _)| name == guest);
            of_guest.map(move |(_, module)| (module.clone(), command.to_string()))
        })
        .collect();
    assert_eq!(hostile.len(), 2 * calls.len() - 2, "all but what is made by hand is called in both kinds");

    // Each is refused or contained.
    for (module, body) in &*hostile {
        let report = cell.kitchen.call(module, &strict, body);
        let told = report.outcome == Outcome::Ack
            && sent(&report).iter().all(|(_, answer)| !answer["error"].is_null() || harmless(answer));
        assert!(report.outcome != Outcome::Ack || told, "{body}: {report:?}");
    }

    let round = |calls: usize| {
        let running: Vec<_> = (0..2)
            .map(|worker| {
                let (settings, hostile) = (strict.clone(), hostile.clone());
                cell.kitchen.start(worker, async move |worker| {
                    for number in 0..calls / 2 {
                        let (module, body) = &hostile[number % hostile.len()];
                        let slot = worker.slots(1).await.pop().unwrap();
                        module.call(&worker, slot, &settings, &delivery(body)).await;
                    }
                    worker.slots(9).await.len()
                })
            })
            .collect();
        for slots in running {
            assert_eq!(slots.recv_timeout(10 * LONG).unwrap(), 4, "every slot is free again");
        }
    };
    // The first ones fill caches and pools.
    round(1000);
    let (files, memory) = (open_files(), resident_kib());
    round(DELIVERIES);
    // A connection or a lookup that was just given up may still be on its way.
    assert!(open_files() <= files + 2, "{files} files were open, now {}", open_files());
    assert!(resident_kib() <= memory + (32 << 10), "{memory} KiB were resident, now {}", resident_kib());
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
