//! Guests that try to get out of the sandbox, or to use up what is outside: each is refused or contained, the others on
//! its worker go on, and afterwards the process has the memory and the files that it had.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use linecook::config::{DirGrant, Grants, Limits};
use linecook::delivery::Outcome;
use linecook::sandbox::{InstanceSettings, Module, Report};
use serde_json::{Value, json};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/kitchen.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod kitchen;

use kitchen::{Kitchen, LONG, component, delivery, reason, sent, settings};

/// A guest with a folder to read and one to write, beside a file that it must not see.
struct Cell {
    kitchen: Kitchen,
    settings: Arc<InstanceSettings>,
    module: Module,
}

impl Cell {
    fn new(guest: &str, change: impl FnOnce(&mut InstanceSettings)) -> Cell {
        let kitchen = Kitchen::new(2);
        let root = kitchen.folder.path();
        fs::write(root.join("secret"), "recipe").unwrap();
        for name in ["read", "write"] {
            fs::create_dir(root.join(name)).unwrap();
            fs::write(root.join(name).join("menu"), "soup").unwrap();
        }
        let dirs = [("read", false), ("write", true)].map(|(name, write)| DirGrant {
            host: root.join(name),
            guest: format!("/{name}"),
            write,
        });
        let grants = Grants { dirs: dirs.into(), ..settings().grants };
        let limits = Limits { cpu_time: Some(Duration::from_secs(1)), ..Limits::default() };
        let mut settings = InstanceSettings { grants, limits, timeout: Duration::from_secs(10), ..settings() };
        change(&mut settings);
        let settings = Arc::new(settings);
        let module = kitchen.load(&component(guest), &settings).unwrap();
        Cell { kitchen, settings, module }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.kitchen.folder.path().join(name)
    }

    fn call(&self, command: &Value) -> Report {
        self.kitchen.call(&self.module, &self.settings, &command.to_string())
    }

    #[track_caller]
    fn refused(&self, command: &Value) {
        let report = self.call(command);
        assert!(matches!(report.outcome, Outcome::DeadLetter { .. }), "{command}: {report:?}");
        assert!(report.sends.is_empty(), "{command}: {:?}", sent(&report));
    }

    #[track_caller]
    fn read(&self, path: &str) -> String {
        let report = self.call(&json!({ "do": "read", "path": path }));
        assert_eq!(report.outcome, Outcome::Ack, "{path}");
        sent(&report)[0].1["read"].as_str().unwrap().to_owned()
    }
}

#[test]
fn no_path_leads_out_of_a_granted_folder() {
    let cell = Cell::new("escape", |_| {});
    let root = cell.kitchen.folder.path().to_owned();
    // Links that somebody has put into the folders from outside.
    for name in ["read", "write"] {
        symlink("../secret", root.join(name).join("relative")).unwrap();
        symlink(root.join("secret"), root.join(name).join("absolute")).unwrap();
        symlink("..", root.join(name).join("up")).unwrap();
        symlink("/", root.join(name).join("root")).unwrap();
        symlink("chain-2", root.join(name).join("chain-1")).unwrap();
        symlink("../secret", root.join(name).join("chain-2")).unwrap();
        symlink("itself", root.join(name).join("itself")).unwrap();
        symlink("menu", root.join(name).join("inside")).unwrap();
    }
    assert_eq!(cell.read("/read/menu"), "soup");
    assert_eq!(cell.read("/read/inside"), "soup", "a link that stays inside is followed");

    let secret = root.join("secret");
    for path in [
        "/read/../secret",
        "/read/./../secret",
        "/read/menu/../../secret",
        "/write/../secret",
        "/read//..//secret",
        "/read/up/secret",
        "/read/relative",
        "/read/absolute",
        "/read/root/etc/passwd",
        "/read/chain-1",
        "/read/itself",
        "/write/relative",
        "/write/absolute",
        "/write/up/secret",
        "/write/chain-1",
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "../secret",
        "secret",
        "",
        "/",
        "/read/menu\u{0}",
        "/read/\u{2025}/secret",
        secret.to_str().unwrap(),
    ] {
        cell.refused(&json!({ "do": "read", "path": path }));
    }
    for path in ["/read/..", "/read/up", "/write/up", "/write/root", "/", "/proc", "."] {
        cell.refused(&json!({ "do": "list", "path": path }));
    }
    for path in ["/read/../secret", "/read/relative", "/write/absolute"] {
        cell.refused(&json!({ "do": "stat", "path": path }));
        cell.refused(&json!({ "do": "truncate", "path": path }));
    }
    assert_eq!(fs::read_to_string(secret).unwrap(), "recipe");
}

#[test]
fn a_folder_to_read_is_not_changed() {
    let cell = Cell::new("escape", |_| {});
    for command in [
        json!({ "do": "remove", "path": "/read/menu" }),
        json!({ "do": "truncate", "path": "/read/menu" }),
        json!({ "do": "make-dir", "path": "/read/new" }),
        json!({ "do": "symlink", "from": "menu", "to": "/read/new" }),
        json!({ "do": "link", "from": "/read/menu", "to": "/read/new" }),
        json!({ "do": "link", "from": "/read/menu", "to": "/write/new" }),
        json!({ "do": "rename", "from": "/read/menu", "to": "/read/new" }),
        json!({ "do": "rename", "from": "/read/menu", "to": "/write/new" }),
        json!({ "do": "rename", "from": "/write/menu", "to": "/read/new" }),
    ] {
        cell.refused(&command);
    }
    assert_eq!(fs::read_to_string(cell.path("read/menu")).unwrap(), "soup");
    assert_eq!(fs::read_dir(cell.path("read")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(cell.path("write")).unwrap().count(), 1);
}

#[test]
fn a_folder_to_write_gives_no_way_out() {
    let cell = Cell::new("escape", |_| {});
    symlink("..", cell.path("write/up")).unwrap();
    for command in [
        json!({ "do": "symlink", "from": "/etc", "to": "/write/etc" }),
        json!({ "do": "remove", "path": "/write/../secret" }),
        json!({ "do": "remove", "path": "/write/up/secret" }),
        json!({ "do": "make-dir", "path": "/write/../new" }),
        json!({ "do": "make-dir", "path": "/write/up/new" }),
        json!({ "do": "link", "from": "/write/../secret", "to": "/write/new" }),
        json!({ "do": "link", "from": "/write/up/secret", "to": "/write/new" }),
        json!({ "do": "rename", "from": "/write/../secret", "to": "/write/new" }),
        json!({ "do": "rename", "from": "/write/menu", "to": "/write/../new" }),
        json!({ "do": "rename", "from": "/write/menu", "to": "/write/up/new" }),
    ] {
        cell.refused(&command);
    }
    // A link to the outside may be made by its text, and leads nowhere.
    let made = cell.call(&json!({ "do": "symlink", "from": "../secret", "to": "/write/link" }));
    if made.outcome == Outcome::Ack {
        cell.refused(&json!({ "do": "read", "path": "/write/link" }));
        cell.refused(&json!({ "do": "truncate", "path": "/write/link" }));
    }
    assert_eq!(fs::read_to_string(cell.path("secret")).unwrap(), "recipe");
    assert!(!cell.path("new").exists());
    assert!(cell.path("write/menu").exists());
}

#[test]
fn names_that_are_no_text_harm_nobody() {
    let cell = Cell::new("escape", |_| {});
    fs::write(cell.path("read").join(OsStr::from_bytes(b"\xff\xfe")), "soup").unwrap();
    // Whether it is left out or an error, it is the guest's own.
    let report = cell.call(&json!({ "do": "list", "path": "/read" }));
    assert!(matches!(report.outcome, Outcome::Ack | Outcome::DeadLetter { .. }), "{report:?}");
    assert_eq!(cell.read("/read/menu"), "soup");
}

#[test]
fn a_guest_has_no_environment_but_what_is_granted() {
    let cell = Cell::new("escape", |_| {});
    assert!(std::env::vars().count() > 0);
    let report = cell.call(&json!({ "do": "environment" }));
    assert_eq!(sent(&report)[0].1["read"], "{}");
}

/// What uses something up: the command, and what the failure says.
fn hogs() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("behave", json!({ "do": "loop" }), "exceeded limits.cpu_time"),
        ("behave", json!({ "do": "allocate" }), "exceeded memory_limit (32 MiB)"),
        ("behave", json!({ "do": "panic" }), "trapped"),
        ("behave", json!({ "do": "exit" }), "the handler called exit with code 1"),
        ("behave", json!({ "do": "exit-zero" }), "the handler called exit with code 0"),
        ("behave", json!({ "do": "send", "to": "audit", "bytes": 20_000_000 }), "exceeded limits.host_call_bytes"),
        ("escape", json!({ "do": "abort" }), "trapped"),
        ("escape", json!({ "do": "recurse" }), "trapped"),
        ("escape", json!({ "do": "open-many", "path": "/read/menu" }), "held more than 256 files"),
        ("escape", json!({ "do": "timers" }), "held more than 256 files"),
        ("escape", json!({ "do": "clock" }), "exceeded limits.cpu_time"),
        ("escape", json!({ "do": "fields" }), "total size of fields exceeds limit"),
        ("escape", json!({ "do": "bodies" }), "held more than 256 files"),
        ("escape", json!({ "do": "wait" }), "timed out after"),
        ("escape", json!({ "do": "flood" }), "exceeded limits."),
        ("escape", json!({ "do": "sends" }), "limits.sends"),
        ("outside", json!({ "do": "sockets", "count": 100_000 }), "held more than 256 files"),
        ("outside", json!({ "do": "random", "bytes": u64::MAX }), "exceeded limits.random_bytes"),
        ("messaging", json!("keep 100000000"), "exceeded limits.send_bytes"),
    ]
}

#[test]
fn what_uses_something_up_ends_with_its_delivery_while_others_go_on() {
    // Time enough to use up the CPU's, however little of it this process gets.
    let quick = |settings: &mut InstanceSettings| {
        settings.timeout = LONG;
        settings.limits.cpu_time = Some(Duration::from_millis(300));
    };
    let cells = ["behave", "escape", "outside", "messaging"].map(|guest| (guest, Cell::new(guest, quick)));
    for (guest, command, says) in hogs() {
        let (_, cell) = cells.iter().find(|(name, _)| *name == guest).unwrap();
        let body = command.as_str().map_or_else(|| command.to_string(), str::to_owned);
        let waits = says.starts_with("timed out");
        let timeout = if waits { Duration::from_millis(300) } else { cell.settings.timeout };
        let settings = Arc::new(InstanceSettings { timeout, ..(*cell.settings).clone() });
        let hog = cell.kitchen.calling(&cell.module, &settings, &body);
        // On the same worker.
        let (_, neighbour) = &cells[0];
        let beside = neighbour.call(&json!({ "do": "ok" }));
        assert_eq!(beside.outcome, Outcome::Ack);
        let report = hog.recv_timeout(2 * LONG).unwrap();
        assert!(reason(&report).contains(says), "{command}: {}", reason(&report));
        assert!(reason(&report).len() <= 4500 && report.stderr_tail.len() <= 4 << 10, "{command}");
        assert!(report.sends.len() <= 1000, "{command}");
    }
}

#[test]
fn ten_thousand_hostile_deliveries_leave_nothing_behind() {
    // Loading has all the time that a busy machine needs for it; the deliveries have not.
    let cell = Cell::new("escape", |settings| settings.limits.cpu_time = None);
    let mut strict = (*cell.settings).clone();
    strict.memory_bytes_max = 4 << 20;
    strict.timeout = Duration::from_millis(500);
    strict.limits.cpu_time = Some(Duration::from_millis(5));
    strict.limits.log_bytes = 1000;
    let strict = Arc::new(strict);
    let behave = cell.kitchen.load(&component("behave"), &cell.settings).unwrap();
    let outside = cell.kitchen.load(&component("outside"), &cell.settings).unwrap();
    let modules = [cell.module.clone(), behave, outside];
    let hostile: Arc<[(usize, String)]> = [
        (0, json!({ "do": "open-many", "path": "/read/menu" })),
        (0, json!({ "do": "read", "path": "/read/../secret" })),
        (0, json!({ "do": "timers" })),
        (0, json!({ "do": "fields" })),
        (0, json!({ "do": "bodies" })),
        (0, json!({ "do": "abort" })),
        (0, json!({ "do": "recurse" })),
        (1, json!({ "do": "allocate" })),
        (1, json!({ "do": "panic" })),
        (1, json!({ "do": "exit" })),
        (2, json!({ "do": "sockets", "count": 1000 })),
        (2, json!({ "do": "http", "url": "http://127.0.0.1:1/" })),
        (2, json!({ "do": "connect", "to": "127.0.0.1:1", "send": "" })),
    ]
    .map(|(module, command)| (module, command.to_string()))
    .into();

    let round = |calls: usize| {
        let running: Vec<_> = (0..2)
            .map(|worker| {
                let (modules, settings, hostile) = (modules.clone(), strict.clone(), hostile.clone());
                cell.kitchen.start(worker, async move |worker| {
                    for number in 0..calls / 2 {
                        let (module, body) = &hostile[number % hostile.len()];
                        let slot = worker.slots(1).await.pop().unwrap();
                        modules[*module].call(&worker, slot, &settings, &delivery(body)).await;
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
    round(500);
    let (files, memory) = (open_files(), resident_kib());
    round(10_000);
    // Other tests of this process open a few, and hold a little.
    assert!(open_files() <= files + 100, "{files} files were open, now {}", open_files());
    assert!(resident_kib() <= memory + (64 << 10), "{memory} KiB were resident, now {}", resident_kib());
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string(Path::new("/proc/self/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
