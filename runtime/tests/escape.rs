//! Guests that try to get out of the sandbox, or to use up what is outside: each is refused or contained, the others on
//! its worker go on. `escape_repeated.rs` shows that they leave nothing behind.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use linecook::config::{Grants, Host, Hosts, HttpGrant, Scheme, TcpGrant};
use linecook::delivery::Outcome;
use linecook::sandbox::InstanceSettings;
use serde_json::{Value, json};

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
#[path = "support/web.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod web;

use crate::log::LOG;
use cell::Cell;
use kitchen::{LONG, component, reason, sent};
use web::Web;

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
        json!({ "do": "set-size", "path": "/read/menu" }),
        json!({ "do": "set-times", "path": "/read/menu" }),
        json!({ "do": "set-times-at", "path": "/read/menu" }),
    ] {
        cell.refused(&command);
    }
    assert_eq!(cell.call(&json!({ "do": "set-times", "path": "/write/menu" })).outcome, Outcome::Ack);
    assert_eq!(cell.call(&json!({ "do": "set-times-at", "path": "/write/menu" })).outcome, Outcome::Ack);
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

/// Why `queue.toml` may grant no folder below one that may be written: what is there when the folder is opened next is the
/// guest's to choose.
#[test]
fn a_folder_in_a_folder_to_write_is_not_granted_as_it_would_lead_out() {
    let cell = Cell::new("escape", |_| {});
    let granted = |folders: [&str; 2]| {
        let [outer, inner] = folders;
        format!(
            "[queues.orders]\n[queues.report]\n[consumers.cook]\nqueue = \"orders\"\ncomponent = \"a.wasm\"\n\
             grants.send = [\"report\"]\ngrants.dirs = [{{ host = {outer:?}, guest = \"/out\", access = \"read-write\" }}, \
             {{ host = {inner:?}, guest = \"/in\", access = \"read\" }}]\n"
        )
    };
    let file = cell.path("queue.toml");
    let text = granted(["write", "write/templates"]);
    let refused = linecook::config::parse_to_run(&text, &file).unwrap_err();
    assert_eq!(refused.errors().len(), 1, "{refused}");
    assert!(refused.to_string().contains("this folder lies in one that guests may write"), "{refused}");
    let beside = linecook::config::parse_to_run(&granted(["write", "templates"]), &file);
    assert!(beside.is_ok(), "{beside:?}");

    // With the grants of that file, and another consumer that may write the outer folder.
    let mut config = linecook::config::parse(&text, &file).unwrap();
    let grants = config.consumers.remove("cook").unwrap().grants;
    let settings = Arc::new(InstanceSettings { grants, ..(*cell.settings).clone() });
    fs::create_dir_all(cell.path("write/templates")).unwrap();
    let module = cell.kitchen.load(&component("escape"), &settings).unwrap();
    let call = |command: Value| cell.kitchen.call(&module, &settings, &command.to_string());
    assert!(matches!(call(json!({ "do": "read", "path": "/in/secret" })).outcome, Outcome::DeadLetter { .. }));
    for command in [
        json!({ "do": "rename", "from": "/write/templates", "to": "/write/away" }),
        json!({ "do": "symlink", "from": "..", "to": "/write/templates" }),
    ] {
        assert_eq!(cell.call(&command).outcome, Outcome::Ack, "{command}");
    }
    let report = call(json!({ "do": "read", "path": "/in/secret" }));
    assert_eq!(sent(&report)[0].1["read"], "recipe", "the check of queue.toml is what keeps it from that");
}

#[test]
fn names_that_are_no_text_harm_nobody() {
    let cell = Cell::new("escape", |_| {});
    fs::write(cell.path("read").join(OsStr::from_bytes(b"\xff\xfe")), "soup").unwrap();
    // Whether it is left out or an error, it is the guest's own.
    let report = cell.call(&json!({ "do": "list", "path": "/read" }));
    assert!(matches!(report.outcome, Outcome::Ack | Outcome::DeadLetter { .. }), "{report:?}");
    // Names that the guest makes up: an error or a trap, and no file.
    for bytes in
        [&b"/read/\xff\xfe"[..], b"/write/\xff", b"/read/\xc0\xae\xc0\xae/secret", b"/read/..\xc0\xafsecret", b"\xff"]
    {
        for command in ["read-bytes", "write-bytes"] {
            let report = cell.call(&json!({ "do": command, "path": bytes }));
            assert!(report.outcome != Outcome::Ack && report.sends.is_empty(), "{bytes:?}: {report:?}");
        }
    }
    assert_eq!(cell.read("/read/menu"), "soup");
    assert_eq!(fs::read_dir(cell.path("write")).unwrap().count(), 1);
}

#[test]
fn nothing_is_written_but_in_the_folder_to_write() {
    let cell = Cell::new("escape", |_| {});
    for path in [
        "/read/menu",
        "/read/new",
        "/new",
        "/etc/passwd",
        "/dev/null",
        "/write/../secret",
        "/write/../new",
        "new",
        "/write",
    ] {
        cell.refused(&json!({ "do": "write", "path": path }));
    }
    for path in ["/write", "/write/", "/write/.", "/read", "/write/..", "/write/../read", "/"] {
        cell.refused(&json!({ "do": "remove-dir", "path": path }));
    }
    for (from, to) in
        [("/write", "/write/new"), ("/write", "/read/new"), ("/read", "/write/new"), ("/write/menu", "/new")]
    {
        cell.refused(&json!({ "do": "rename", "from": from, "to": to }));
    }
    assert_eq!(fs::read_to_string(cell.path("read/menu")).unwrap(), "soup");
    assert_eq!(fs::read_to_string(cell.path("secret")).unwrap(), "recipe");
    assert!(!cell.path("new").exists() && cell.path("write/menu").exists());
    assert_eq!(cell.call(&json!({ "do": "write", "path": "/write/new" })).outcome, Outcome::Ack);
}

#[test]
fn a_write_below_a_folder_to_read_is_told_once() {
    let cell = Cell::new("escape", |_| {});
    fs::create_dir(cell.path("read/below")).unwrap();
    let below = |to: &str, path: &str| json!({ "do": to, "path": path });
    let from_to = |to: &str, from: &str, into: &str| json!({ "do": to, "from": from, "to": into });
    let told = |consumer: &str, commands: &[Value]| {
        let settings = Arc::new(InstanceSettings { consumer: consumer.into(), ..(*cell.settings).clone() });
        let module = cell.kitchen.load(&component("escape"), &settings).unwrap();
        for command in commands {
            let report = cell.kitchen.call(&module, &settings, &command.to_string());
            assert!(matches!(report.outcome, Outcome::DeadLetter { .. }), "{command}: {report:?}");
        }
        LOG.of(consumer).iter().map(|line| line["fields"]["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let writes = [
        below("write", "/read/menu"),
        below("write", "/read/below/new"),
        below("truncate", "/read/menu"),
        below("remove", "/read/menu"),
        below("remove-dir", "/read/below"),
        below("make-dir", "/read/new"),
        from_to("symlink", "menu", "/read/new"),
        from_to("link", "/write/menu", "/read/new"),
        from_to("rename", "/write/menu", "/read/new"),
        from_to("rename", "/read/menu", "/write/new"),
        below("set-size", "/read/menu"),
        below("set-times", "/read/menu"),
        below("set-times-at", "/read/menu"),
    ];
    let host = cell.kitchen.folder.path().display();
    for (number, command) in writes.iter().enumerate() {
        let consumer = format!("reader-{number}");
        let expected = format!(
            "a write below /read was refused: it is granted for reading. In queue.toml, this grants it:\n\
             [consumers.{consumer}.grants]\ndirs = [{{ host = \"{host}/read\", guest = \"/read\", access = \"read-write\" }}, \
             {{ host = \"{host}/write\", guest = \"/write\", access = \"read-write\" }}]\n"
        );
        assert_eq!(told(&consumer, &[command.clone(), command.clone()]), [expected], "{command}");
    }
    // What no grant of the folder would allow.
    let others = [below("read", "/read/none"), below("read", "/read/../secret"), below("write", "/write/../secret")];
    assert_eq!(told("another-reader", &others), Vec::<String>::new());
}

#[test]
fn there_are_no_other_programs_and_no_threads() {
    let cell = Cell::new("escape", |_| {});
    for command in ["spawn", "thread", "stdin"] {
        let report = cell.call(&json!({ "do": command }));
        assert!(report.outcome != Outcome::Ack && report.sends.is_empty(), "{command}: {report:?}");
    }
}

#[test]
fn a_guest_has_no_environment_but_what_is_granted() {
    let cell = Cell::new("escape", |_| {});
    assert!(std::env::vars().count() > 0);
    let report = cell.call(&json!({ "do": "environment" }));
    assert_eq!(sent(&report)[0].1["read"], "{}");
}

#[test]
fn a_guest_does_not_see_the_variables_and_secrets_of_another() {
    // `PATH` stands for a secret: it is in the environment of every test.
    let owner = Cell::new("escape", |settings| {
        settings.grants.secrets = vec!["PATH".into()];
        settings.grants.env.insert("RECIPE".into(), "soup".into());
    });
    let seen = |cell: &Cell| sent(&cell.call(&json!({ "do": "environment" })))[0].1["read"].to_string();
    assert!(seen(&owner).contains("PATH") && seen(&owner).contains("soup"));
    // Another consumer of the same component, on the same worker, right after it.
    let settings =
        InstanceSettings { consumer: "thief".into(), grants: kitchen::settings().grants, ..(*owner.settings).clone() };
    let settings = Arc::new(settings);
    let thief = owner.kitchen.load(&component("escape"), &settings).unwrap();
    for _ in 0..20 {
        assert!(seen(&owner).contains("soup"));
        let report = owner.kitchen.call(&thief, &settings, &json!({ "do": "environment" }).to_string());
        assert_eq!(sent(&report)[0].1["read"], "{}");
        for path in ["/read/menu", "/write/menu", "/proc/self/environ"] {
            let report = owner.kitchen.call(&thief, &settings, &json!({ "do": "read", "path": path }).to_string());
            assert!(matches!(report.outcome, Outcome::DeadLetter { .. }), "{path}: {report:?}");
        }
    }
}

#[test]
fn no_spelling_of_an_address_leads_to_a_server_that_is_not_granted() {
    let (granted, web) = (Web::http(), Web::http());
    let port = web.port();
    let grant = |hosts, port| HttpGrant { scheme: Scheme::Http, hosts, port };
    let cell = Cell::new("outside", |settings| {
        let host = Host::parse("127.0.0.1").unwrap();
        let http = vec![grant(Hosts::All, port), grant(Hosts::One(host.clone()), granted.port())];
        settings.grants =
            Grants { http, tcp: vec![TcpGrant { host, port: granted.port() }], ..settings.grants.clone() };
    });
    let error = |command: Value| {
        let report = cell.call(&command);
        assert_eq!(report.outcome, Outcome::Ack, "{command}: {report:?}");
        let answer = sent(&report).remove(0).1;
        answer["error"].as_str().unwrap_or_else(|| panic!("{command} was answered: {answer}")).to_owned()
    };
    // A `*` is every public server at this port; these are none.
    for host in [
        "127.0.0.1",
        "127.1",
        "127.255.255.254",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "0.0.0.0",
        "0",
        "[::]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "[fe80::1]",
        "[fd00::1]",
        "224.0.0.1",
        "255.255.255.255",
        "api.example@127.0.0.1",
        "127.0.0.1%00.api.example",
        "127.0.0.1#.api.example",
        "127。0。0。1",
    ] {
        let told = error(json!({ "do": "http", "url": format!("http://{host}:{port}/echo") }));
        let refused =
            ["HttpRequestDenied", "DestinationIpProhibited", "HttpRequestUriInvalid", "DnsError", "authority", "path"];
        assert!(refused.iter().any(|code| told.contains(code)), "{host}: {told}");
    }
    // An address that is granted at one port is not at another, nor by another scheme, nor after a redirect.
    for url in [
        format!("http://127.0.0.1:{}/echo", granted.port() ^ 1),
        "http://127.0.0.1/echo".into(),
        "http://127.0.0.1:22/".into(),
        format!("https://127.0.0.1:{}/echo", granted.port()),
        format!("ftp://127.0.0.1:{}/echo", granted.port()),
        format!("http://localhost:{}/echo", granted.port()),
        format!("http://127.0.0.1:{}/redirect?http://127.0.0.1:{port}/echo", granted.port()),
    ] {
        error(json!({ "do": "http", "url": url, "follow": true }));
    }
    for to in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{}", granted.port()),
        format!("[::1]:{}", granted.port()),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("0.0.0.0:{port}"),
        format!("127.0.0.2:{}", granted.port()),
        "127.0.0.1:0".into(),
        "169.254.169.254:80".into(),
    ] {
        error(json!({ "do": "connect", "to": to, "send": "x" }));
    }
    for to in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "0.0.0.0:80"] {
        error(json!({ "do": "bind", "to": to }));
    }
    error(json!({ "do": "udp" }));
    for name in ["localhost", "no-such-host.invalid", "secret.of.mine.example", ""] {
        error(json!({ "do": "look-up", "name": name }));
    }
    assert_eq!(web.connections(), 0);
    assert_eq!(granted.connections(), 1, "the one that asks for the redirect");
}

#[test]
fn a_guest_sends_only_where_it_is_granted() {
    let cell = Cell::new("behave", |_| {});
    for queue in
        ["orders", "secret", "orders.dead", "consumer/cook", "../audit", "audit\u{0}", "AUDIT", "audit ", "", "*", ">"]
    {
        let report = cell.call(&json!({ "do": "send", "to": queue }));
        assert!(report.outcome != Outcome::Ack && report.sends.is_empty(), "{queue:?}: {report:?}");
    }
}

/// What uses something up: the command, and what the failure says.
fn hogs() -> Vec<(&'static str, Value, &'static str)> {
    // The adapter for wasip1 has a table of its own, which is full sooner.
    let open_files = if guests::WASIP1 { "Out of memory" } else { "held more than 256 files" };
    vec![
        ("behave", json!({ "do": "loop" }), "exceeded limits.cpu_time"),
        ("behave", json!({ "do": "allocate" }), "exceeded memory_limit (32 MiB)"),
        ("behave", json!({ "do": "panic" }), "trapped"),
        ("behave", json!({ "do": "exit" }), "the handler called exit with code 1"),
        ("behave", json!({ "do": "exit-zero" }), "the handler called exit with code 0"),
        ("behave", json!({ "do": "send", "to": "audit", "bytes": 20_000_000 }), "exceeded limits.host_call_bytes"),
        ("escape", json!({ "do": "abort" }), "trapped"),
        ("escape", json!({ "do": "recurse" }), "trapped"),
        ("escape", json!({ "do": "open-many", "path": "/read/menu" }), open_files),
        ("escape", json!({ "do": "timers" }), "held more than 256 files"),
        ("escape", json!({ "do": "clock" }), "exceeded limits.cpu_time"),
        ("escape", json!({ "do": "fields" }), "total size of fields exceeds limit"),
        ("escape", json!({ "do": "bodies" }), "held more than 256 files"),
        ("escape", json!({ "do": "wait" }), "timed out after"),
        ("escape", json!({ "do": "sleep" }), "timed out after"),
        ("escape", json!({ "do": "poll-nothing" }), "empty poll list"),
        ("escape", json!({ "do": "huge" }), "exceeded memory_limit (32 MiB)"),
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
