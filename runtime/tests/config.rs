//! `queue.toml`: what is refused and how it is said, what is accepted and what it means.
//!
//! Each `tests/config/bad/*.toml` has the text that people get beside it. After a change that is meant, write them anew
//! with `UPDATE_GOLDEN=1 cargo test --release -p linecook --test config`, and read the difference.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linecook::auth::TokenHash;
use linecook::config::producers::{After, CatchUp, LongLines, ProducerKind, SignatureStyle, Start, Target, WatchBody};
use linecook::config::{
    self, Canary, Config, ConfigErrors, DirGrant, Grants, Host, Hosts, HttpGrant, Limits, Reuse, Scheme, Source,
    TcpGrant,
};
use linecook::delivery::QueueName;
use proptest::prelude::*;

const GOOD: &str = include_str!("config/good/every-key.toml");

/// The `.toml` files of a folder, by name; relative, so that the golden texts don't depend on where the checkout is.
fn cases(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    cases.sort();
    cases
}

fn assert_golden(folder: &str, cases_min: usize, load: fn(&Path) -> Result<Config, ConfigErrors>) {
    let cases = cases(folder);
    assert!(cases.len() >= cases_min, "only {} files in {folder}", cases.len());
    let mut different = Vec::new();
    for case in cases {
        let errors = load(&case).expect_err(&format!("{} must be refused", case.display()));
        for error in errors.errors() {
            assert!(error.position.is_some(), "{}: {:?} has no place", case.display(), error.message);
            assert!(error.hint.is_some(), "{}: {:?} has no hint", case.display(), error.message);
        }
        let (golden, rendered) = (case.with_extension("stderr"), errors.render(false));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &rendered).unwrap();
        }
        if fs::read_to_string(&golden).unwrap_or_default() != rendered {
            different.push(format!("{}:\n{rendered}", golden.display()));
        }
    }
    assert!(different.is_empty(), "these texts differ from their golden files:\n\n{}", different.join("\n"));
}

#[test]
fn bad_files_are_refused_with_the_place_and_a_hint() {
    assert_golden("tests/config/bad", 30, config::load);
}

#[test]
fn check_also_looks_for_what_the_file_names() {
    for case in cases("tests/config/absent") {
        assert!(config::load(&case).is_ok(), "{} is right in itself", case.display());
    }
    assert_golden("tests/config/absent", 5, config::check);
}

#[test]
fn every_good_file_is_accepted() {
    for case in cases("tests/config/good") {
        if let Err(errors) = config::load(&case) {
            panic!("{errors}");
        }
    }
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

#[test]
fn every_key_says_what_it_says() {
    let config = config::parse(GOOD, Path::new("etc/queue.toml")).unwrap();
    assert_eq!(config.path, Path::new("etc/queue.toml"));
    assert_eq!(config.runtime.data_dir, Path::new("/var/lib/linecook"));
    assert_eq!(config.runtime.listen, "[::1]:0".parse::<SocketAddr>().unwrap());
    assert_eq!(config.runtime.drain_timeout, Duration::ZERO);
    assert_eq!(config.runtime.workers, 3);
    assert_eq!(config.runtime.log_bytes_max, 64 << 20);
    assert_eq!(config.runtime.ca_file.as_deref(), Some(Path::new("etc/internal-ca.pem")));
    assert_eq!(config.runtime.host_names, ["queues.internal"]);
    let token = &config.runtime.auth.as_ref().unwrap()[0];
    assert_eq!((token.name.as_str(), token.hash), ("ci", TokenHash::of("hello")));
    assert_eq!(token.scopes, ["send:orders.*", "admin:>"].map(|text| text.parse().unwrap()));
    assert_eq!(token.expires_at_ms, Some(1_801_353_600_000));
    let tls = config.runtime.tls.as_ref().unwrap();
    assert_eq!((&*tls.files.cert, &*tls.files.key), (Path::new("etc/cert.pem"), Path::new("/etc/key.pem")));
    assert_eq!(tls.name, "queues.example");
    assert_eq!(config.queues.keys().map(QueueName::as_str).collect::<Vec<_>>(), ["a.b", "audit", "signups"]);
    assert_eq!(config.queues["signups"].bytes_max, 5_000_000);
    assert_eq!(config.queues["audit"].bytes_max, 10 << 30);
    assert_eq!(config.queues["signups"].subscribe, ["orders.placed", "logs.>"].map(|text| text.parse().unwrap()));
    let subscribers = config.subscriptions().queues(&"orders.placed".parse().unwrap());
    assert_eq!(subscribers, [queue("signups")]);

    assert_eq!(config.consumers.len(), 1);
    let mail = &config.consumers["mail"];
    assert_eq!(mail.name, "mail");
    assert_eq!(mail.queue, queue("signups"));
    assert_eq!(mail.source, Source::Component("etc/mail.wasm".into()));
    assert_eq!(mail.max_concurrency, 1000);
    assert_eq!(mail.max_batch_size, 1000);
    assert_eq!(mail.max_batch_timeout, Duration::ZERO);
    assert_eq!(mail.timeout, Duration::from_millis(1));
    assert_eq!(mail.max_retries, 0);
    assert_eq!(mail.retry_delay, Duration::from_millis(250));
    assert_eq!(mail.retry_delay_max, Duration::from_secs(24 * 3600));
    assert_eq!(mail.dead_letter_queue, queue("graveyard"));
    assert_eq!(mail.memory_bytes_max, 1 << 20);
    assert_eq!(mail.canary, Some(Canary { share_percent: 25, deliveries: 500 }));
    assert_eq!(mail.reuse, Some(Reuse { max_deliveries: 7, idle_timeout: Duration::from_secs(5) }));
    assert_eq!(
        mail.limits,
        Limits {
            cpu_time: Some(Duration::from_secs(2)),
            core_instances: 32,
            tables: 8,
            table_elements: 100_000,
            host_call_bytes: 1 << 20,
            random_bytes: 0,
            log_bytes: 1000,
            sends: 7,
            send_bytes: 1 << 10,
            state_bytes: 1 << 30,
        }
    );
    assert_eq!(mail.config, BTreeMap::from([("greeting", "Hello"), ("empty", "")].map(|(k, v)| (k.into(), v.into()))));
    let host = |text| Host::parse(text).unwrap();
    assert_eq!(
        mail.grants,
        Grants {
            send: ["audit", "graveyard", "a.b", "signups"].map(queue).into(),
            // What names no queue is a subject.
            send_subjects: ["orders.*", "logs.app"].map(|text| text.parse().unwrap()).into(),
            http: vec![
                HttpGrant { scheme: Scheme::Https, hosts: Hosts::One(host("api.mail.example")), port: 443 },
                HttpGrant { scheme: Scheme::Http, hosts: Hosts::One(host("[::1]")), port: 8080 },
                HttpGrant { scheme: Scheme::Https, hosts: Hosts::Below("mail.example".into()), port: 8443 },
                HttpGrant { scheme: Scheme::Http, hosts: Hosts::All, port: 80 },
            ],
            tcp: vec![
                TcpGrant { host: host("smtp.mail.example"), port: 25 },
                TcpGrant { host: host("127.0.0.1"), port: 1025 },
            ],
            secrets: vec!["SMTP_PASSWORD".into()],
            env: BTreeMap::from([("EMPTY", ""), ("FROM", "hello@example.com")].map(|(k, v)| (k.into(), v.into()))),
            dirs: vec![
                DirGrant { host: "etc/templates".into(), guest: "/templates".into(), write: false },
                DirGrant { host: "/srv/outbox".into(), guest: "/".into(), write: true },
            ],
            state: true,
        }
    );
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let text = include_str!("config/good/defaults.toml");
    let config = config::parse(text, Path::new("queue.toml")).unwrap();
    assert_eq!(config.runtime.data_dir, Path::new("data"));
    assert_eq!(config.runtime.listen, "127.0.0.1:7878".parse::<SocketAddr>().unwrap());
    assert_eq!(config.runtime.drain_timeout, Duration::from_secs(25));
    assert!(config.runtime.workers >= 1);
    assert_eq!(config.runtime.log_bytes_max, 768 << 20);
    assert_eq!(config.runtime.ca_file, None);
    let mail = &config.consumers["mail"];
    assert_eq!(mail.source, Source::Package("plugins/mail".into()));
    assert_eq!(mail.max_concurrency, 8);
    assert_eq!(mail.max_batch_size, 1);
    assert_eq!(mail.max_batch_timeout, Duration::from_secs(1));
    assert_eq!(mail.timeout, Duration::from_secs(30));
    assert_eq!(mail.max_retries, 4);
    assert_eq!(mail.retry_delay, Duration::from_secs(1));
    assert_eq!(mail.retry_delay_max, Duration::from_secs(600));
    assert_eq!(mail.dead_letter_queue, queue("signups.dead"));
    assert_eq!(mail.memory_bytes_max, 128 << 20);
    assert_eq!(mail.reuse, None);
    assert_eq!(mail.canary, None);
    assert_eq!(mail.limits, Limits::default());
    assert_eq!(mail.config, BTreeMap::new());
    assert_eq!(mail.grants, Grants::default());
}

#[test]
fn a_canary_has_a_share_and_an_end_by_default() {
    let text = "[queues.a]\n[consumers.b]\nqueue = \"a\"\ncomponent = \"b.wasm\"\n[consumers.b.canary]\n";
    let config = config::parse(text, Path::new("queue.toml")).unwrap();
    assert_eq!(config.consumers["b"].canary, Some(Canary { share_percent: 10, deliveries: 200 }));
}

#[test]
fn a_reused_instance_has_limits_by_default() {
    let text = "[queues.a]\n[consumers.b]\nqueue = \"a\"\ncomponent = \"b.wasm\"\ninstance = \"reused\"\n";
    let config = config::parse(text, Path::new("queue.toml")).unwrap();
    let limits = Reuse { max_deliveries: 1000, idle_timeout: Duration::from_secs(60) };
    assert_eq!(config.consumers["b"].reuse, Some(limits));
    let config = config::parse(&text.replace("reused", "fresh"), Path::new("queue.toml")).unwrap();
    assert_eq!(config.consumers["b"].reuse, None);
}

#[test]
fn every_key_of_a_producer_says_what_it_says() {
    let text = include_str!("config/good/producers.toml");
    let config = config::parse(text, Path::new("[etc]/queue.toml")).unwrap();
    assert_eq!(config.producers.keys().collect::<Vec<_>>(), ["github", "inbox", "logs", "nightly", "open", "stripe"]);
    assert!(
        config.producers.iter().all(|(name, one)| one.name == *name && one.target == Target::Queue(queue("events")))
    );

    let nightly = &config.producers["nightly"];
    assert_eq!(nightly.content_type.as_deref(), Some("application/json"));
    assert_eq!(nightly.key.as_deref(), Some("reports"));
    assert_eq!(nightly.attributes, [("source".to_owned(), "cron".to_owned())]);
    let ProducerKind::Cron(cron) = &nightly.kind else { panic!("{nightly:?}") };
    assert_eq!((cron.schedule.text(), cron.schedule.timezone()), ("0 3 * * *", "Europe/Paris"));
    assert_eq!((cron.body.as_str(), cron.catch_up), ("{\"report\":\"daily\"}", CatchUp::All));

    let ProducerKind::Tail(tail) = &config.producers["logs"].kind else { panic!() };
    assert_eq!(tail.files, ["[[]etc[]]/logs/*.log", "/var/log/app/**/*.log"], "the folder's own name is no pattern");
    assert_eq!((tail.start, tail.line_bytes_max, tail.long_lines), (Start::End, 16 << 10, LongLines::Refuse));

    let ProducerKind::Watch(watch) = &config.producers["inbox"].kind else { panic!() };
    assert_eq!((watch.folder.as_path(), watch.recursive), (Path::new("[etc]/inbox"), true));
    assert_eq!((&watch.files[..], watch.settle), (&["*.csv".to_owned()][..], Duration::from_secs(2)));
    assert_eq!((watch.body, &watch.after), (WatchBody::Path, &After::Move("[etc]/done".into())));

    let webhook = |name: &str| match &config.producers[name].kind {
        ProducerKind::Webhook(webhook) => webhook.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(webhook("github").path, "/hooks/github");
    let secret_env = vec!["GITHUB_WEBHOOK_SECRET".into(), "GITHUB_WEBHOOK_SECRET_OLD".into()];
    assert_eq!(webhook("github").signature, SignatureStyle::Github { secret_env });
    assert_eq!(webhook("github").headers, ["x-github-event"]);
    let (secret_env, tolerance) = (vec!["STRIPE_WEBHOOK_SECRET".into()], Duration::from_secs(600));
    assert_eq!(webhook("stripe").signature, SignatureStyle::Stripe { secret_env, tolerance });
    assert_eq!(webhook("open").signature, SignatureStyle::None);
    assert_eq!(webhook("open").id_header.as_deref(), Some("x-request-id"));
}

#[test]
fn a_producer_may_send_to_a_subject() {
    let text = "[queues.a]\nsubscribe = [\"orders.*\"]\n\
                [producers.c]\nkind = \"cron\"\nsubject = \"orders.due\"\nschedule = \"@hourly\"\n";
    let config = config::parse(text, Path::new("queue.toml")).unwrap();
    assert_eq!(config.producers["c"].target, Target::Subject("orders.due".parse().unwrap()));
}

#[test]
fn a_producer_has_defaults() {
    let text = "[queues.a]\n[producers.c]\nkind = \"cron\"\nqueue = \"a\"\nschedule = \"@hourly\"\n\
                [producers.t]\nkind = \"tail\"\nqueue = \"a\"\nfiles = \"*.log\"\n\
                [producers.w]\nkind = \"watch\"\nqueue = \"a\"\nfolder = \"in\"\n";
    let config = config::parse(text, Path::new("queue.toml")).unwrap();
    let ProducerKind::Cron(cron) = &config.producers["c"].kind else { panic!() };
    assert_eq!((cron.schedule.timezone(), cron.body.as_str(), cron.catch_up), ("UTC", "", CatchUp::One));
    let ProducerKind::Tail(tail) = &config.producers["t"].kind else { panic!() };
    assert_eq!((tail.start, tail.line_bytes_max, tail.long_lines), (Start::Beginning, 64 << 10, LongLines::Split));
    let ProducerKind::Watch(watch) = &config.producers["w"].kind else { panic!() };
    assert_eq!((&watch.files[..], watch.recursive), (&["*".to_owned()][..], false));
    assert_eq!((watch.settle, watch.body), (Duration::from_millis(500), WatchBody::Content));
    assert_eq!(watch.after, After::Keep);
}

#[test]
fn the_example_has_a_producer_of_each_kind() {
    let config = config::load(Path::new("../examples/producers/queue.toml")).unwrap();
    let mut kinds: Vec<_> = config.producers.values().map(|producer| producer.kind.name()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["cron", "cron", "tail", "watch", "webhook"]);
}

#[test]
fn the_demo_is_right_in_itself() {
    let config = config::load(Path::new("../queue.toml")).unwrap();
    assert_eq!(
        config.queues.keys().map(QueueName::as_str).collect::<Vec<_>>(),
        ["audit", "images", "signups", "thumbnails-done"]
    );
    assert_eq!(config.consumers.keys().collect::<Vec<_>>(), ["thumbnail", "welcome-email"]);
}

#[test]
fn no_example_lets_guests_write_what_the_runtime_goes_by() {
    let examples = fs::read_dir("../examples").unwrap().map(|entry| entry.unwrap().path().join("queue.toml"));
    for path in examples.filter(|path| path.is_file()).chain(["../queue.toml".into()]) {
        // Their secrets need not be in this environment.
        let text = fs::read_to_string(&path).unwrap();
        let errors = config::parse_to_run(&text, &path).err();
        let errors = errors.iter().flat_map(ConfigErrors::errors);
        let other: Vec<_> = errors.filter(|error| !error.message.starts_with("the secret ")).collect();
        assert!(other.is_empty(), "{}: {other:?}", path.display());
    }
}

#[test]
fn files_that_cannot_be_read_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| config::load(path).unwrap_err().errors()[0].message.clone();
    let path = folder.path().join("queue.toml");
    assert_eq!(message(&path), format!("there is no {}", path.display()));
    assert_eq!(message(folder.path()), format!("{} is a folder", folder.path().display()));
    fs::write(&path, "# ".repeat(2 << 20)).unwrap();
    assert!(config::load(&path).is_ok(), "4 MiB is the limit");
    fs::write(&path, "# ".repeat(2 << 20) + "x").unwrap();
    assert!(message(&path).ends_with("is larger than 4 MiB, which no queue.toml needs"));
}

#[test]
fn a_byte_order_mark_is_no_error() {
    assert!(config::parse(&format!("\u{feff}{GOOD}"), Path::new("queue.toml")).is_ok());
}

/// Must neither panic nor point outside the text.
fn assert_told_well(text: &str) {
    let Err(errors) = config::parse(text, Path::new("queue.toml")) else { return };
    assert!(!errors.errors().is_empty());
    for error in errors.errors() {
        let span = error.span.clone().expect("an error about a text has a span");
        assert!(text.get(span.clone()).is_some(), "{span:?} is no span of the text: {}", error.message);
        let position = error.position.expect("an error with a span has a position");
        assert!(position.line <= text.split('\n').count(), "{position:?}: {}", error.message);
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{:?}", error.message);
    }
    for colours in [false, true] {
        assert!(errors.render(colours).contains("error"));
    }
}

#[derive(Debug, Clone)]
enum Change {
    Remove { at: usize, length: usize },
    Insert { at: usize, text: String },
    Copy { from: usize, length: usize, to: usize },
}

/// What is likely to matter to a TOML reader.
const PIECES: &[&str] = &[
    "[",
    "]",
    "{",
    "}",
    "=",
    "\"",
    "'",
    "\n",
    "\r",
    ".",
    "#",
    "-",
    "\\",
    "\\u0000",
    "ä",
    "漢",
    "\u{0}",
    "\u{1b}[31m",
    "[[queues]]",
    "x = 1",
    "18446744073709551616",
    "1979-05-27",
    "\"\"\"\n",
    "true",
    "inf",
];

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), 0..40usize).prop_map(|(at, length)| Change::Remove { at, length }),
        (any::<usize>(), prop_oneof![proptest::sample::select(PIECES).prop_map(str::to_owned), any::<String>()])
            .prop_map(|(at, text)| Change::Insert { at, text }),
        (any::<usize>(), 0..60usize, any::<usize>()).prop_map(|(from, length, to)| Change::Copy { from, length, to }),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let place = |at: usize| text.floor_char_boundary(at % (text.len() + 1));
    let end = |at: usize, length: usize| text.floor_char_boundary((at + length).min(text.len()));
    match change {
        Change::Remove { at, length } => {
            let at = place(*at);
            format!("{}{}", &text[..at], &text[end(at, *length)..])
        }
        Change::Insert { at, text: piece } => {
            let at = place(*at);
            format!("{}{piece}{}", &text[..at], &text[at..])
        }
        Change::Copy { from, length, to } => {
            let (from, to) = (place(*from), place(*to));
            format!("{}{}{}", &text[..to], &text[from..end(from, *length)], &text[to..])
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_a_good_file_breaks_the_reader(changes in proptest::collection::vec(change(), 1..6)) {
        let text = changes.iter().fold(GOOD.to_owned(), |text, change| apply(&text, change));
        assert_told_well(&text);
    }

    #[test]
    fn no_text_breaks_the_reader(text in any::<String>()) {
        assert_told_well(&text);
    }
}
