//! The standard interfaces of hosts: values, log records, and guests of `wasi:messaging` that know nothing of Linecook.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use linecook::delivery::{Delivery, Message, MessageId, Outcome};
use linecook::sandbox::{InstanceSettings, Module, Report};
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

use crate::log::LOG;
use kitchen::{Kitchen, component, delivery, queue, reason, retry, sent, settings};

fn outside(settings: InstanceSettings, command: &Value) -> Report {
    let (kitchen, settings) = (Kitchen::new(1), Arc::new(settings));
    let module = kitchen.load(&component("outside"), &settings).unwrap();
    kitchen.call(&module, &settings, &command.to_string())
}

#[test]
fn wasi_config_gives_the_configured_values_and_no_others() {
    let ask = |config: &[(&str, &str)], key: &str| {
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let grants = linecook::config::Grants {
            env: BTreeMap::from([("IN_ENV".to_owned(), "not here".to_owned())]),
            ..settings().grants
        };
        let settings = InstanceSettings { config, grants, ..settings() };
        sent(&outside(settings, &json!({ "do": "config", "key": key }))).remove(0).1
    };
    let values = [("greeting", "Hello"), ("empty", "")];
    assert_eq!(ask(&values, "greeting"), json!({ "value": "Hello", "all": { "greeting": "Hello", "empty": "" } }));
    assert_eq!(ask(&values, "empty")["value"], "");
    for other in ["IN_ENV", "PATH", "Greeting"] {
        assert_eq!(ask(&values, other)["value"], Value::Null, "{other}");
    }
    assert_eq!(ask(&[], "greeting"), json!({ "value": null, "all": {} }));
}

#[test]
fn wasi_logging_reaches_the_log_with_its_level_and_the_message() {
    for (level, shown) in [
        ("trace", None),
        ("debug", None),
        ("info", Some("INFO")),
        ("warn", Some("WARN")),
        ("error", Some("ERROR")),
        ("critical", Some("ERROR")),
    ] {
        let settings = InstanceSettings { consumer: format!("logging-{level}"), ..settings() };
        outside(settings, &json!({ "do": "log", "level": level, "context": "billing", "text": "two\nlines" }));
        let mut lines = LOG.of(&format!("logging-{level}"));
        lines.retain(|line| line["target"] == "guest");
        let Some(shown) = shown else {
            assert!(lines.is_empty(), "the log of this test shows nothing below info");
            continue;
        };
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (line, text) in lines.iter().zip(["two", "lines"]) {
            assert_eq!((&line["level"], &line["target"]), (&json!(shown), &json!("guest")));
            assert_eq!(line["fields"]["message"], text);
            assert_eq!(line["fields"]["context"], "billing");
            assert_eq!(line["fields"]["message_id"], MessageId::new(7, 42).to_string());
            assert_eq!(line["fields"]["attempt"], 3);
        }
    }
}

#[test]
fn the_wall_clock_is_that_of_the_host() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let before = now();
    let report = Kitchen::new(1).behave(settings(), r#"{"do":"time"}"#);
    let told = sent(&report)[0].1["ms"].as_u64().unwrap();
    assert!((before..=now()).contains(&told), "{told}");
}

/// A guest of `wasi:messaging`.
struct Guest {
    kitchen: Kitchen,
    settings: Arc<InstanceSettings>,
    module: Module,
}

impl Guest {
    fn new(name: &str) -> Guest {
        let (kitchen, settings) = (Kitchen::new(1), Arc::new(settings()));
        let module = kitchen.load(&component(name), &settings).unwrap();
        Guest { kitchen, settings, module }
    }

    fn call(&self, body: &str) -> Report {
        self.kitchen.call(&self.module, &self.settings, body)
    }
}

#[test]
fn a_messaging_guest_acks_with_ok_and_is_retried_otherwise() {
    let guest = Guest::new("messaging");
    assert_eq!(guest.call("ok").outcome, Outcome::Ack);
    assert_eq!(guest.call("error no such user").outcome, retry("no such user"));
    let report = guest.call("trap");
    assert!(reason(&report).starts_with("trapped: "), "{}", reason(&report));
    assert!(report.stderr_tail.contains("on purpose"), "{}", report.stderr_tail);
}

#[test]
fn a_messaging_guest_sees_the_message_and_sends_with_its_grants() {
    let guest = Guest::new("messaging");
    let report = guest.call("send audit");
    assert_eq!(report.outcome, Outcome::Ack);
    let [send] = &report.sends[..] else { panic!("{:?}", report.sends) };
    assert_eq!(send.queue, queue("audit"));
    let id = MessageId::new(7, 42);
    let seen = format!(
        "Some(\"orders\") Some(\"application/json\") Some([(\"waiter\", \"Ann\"), (\"linecook-message-id\", \"{id}\"), \
         (\"linecook-attempt\", \"3\"), (\"linecook-key\", \"table-7\")])"
    );
    assert_eq!(String::from_utf8_lossy(&send.message.body), seen);
    assert_eq!(send.message.content_type.as_deref(), Some("text/plain"));
    let attributes = [("a", "1"), ("b", "two")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!((&send.message.attributes[..], &send.message.key), (&attributes[..], &None));

    let report = guest.call("send secret");
    assert!(
        reason(&report).starts_with("permission denied: cook has no grant to send to secret"),
        "{}",
        reason(&report)
    );
    assert!(report.sends.is_empty());
    assert!(reason(&guest.call("send no such name")).contains("is not a queue name"));
}

#[test]
fn a_message_that_a_messaging_guest_passes_on_keeps_what_is_its_own() {
    let guest = Guest::new("messaging");
    let report = guest.call("forward audit");
    assert_eq!(report.outcome, Outcome::Ack);
    let message = &report.sends[0].message;
    assert_eq!(&message.body[..], b"forward audit");
    assert_eq!(message.content_type.as_deref(), Some("application/json"));
    assert_eq!(message.key.as_deref(), Some("table-7"));
    assert_eq!(&message.attributes[..], &[("waiter".into(), "Ann".into())]);
}

#[test]
fn messages_that_a_guest_only_keeps_are_limited_too() {
    let guest = Guest::new("messaging");
    assert_eq!(guest.call(&format!("keep {}", 8 << 20)).outcome, Outcome::Ack);
    assert_eq!(guest.call(&format!("keep {}", 9 << 20)).outcome, retry("exceeded limits.send_bytes (8 MiB)"));
}

#[test]
fn metadata_without_a_byte_are_limited_too() {
    let guest = Guest::new("messaging");
    assert_eq!(guest.call("metadata 64").outcome, Outcome::Ack);
    for count in [100, 100_000] {
        let report = guest.call(&format!("metadata {count}"));
        assert_eq!(
            report.outcome,
            retry("failed: the messages that a guest keeps may have 16384 metadata in all"),
            "{count}"
        );
    }
}

#[test]
fn both_editions_of_the_messaging_draft_run() {
    let guest = Guest::new("messaging-other-edition");
    let report = guest.call("audit");
    assert_eq!(report.outcome, Outcome::Ack);
    let message = &report.sends[0].message;
    assert_eq!((&message.body[..], message.content_type.as_deref()), (&b"other"[..], Some("text/plain")));
    let attributes = [("a", "1"), ("b", "2")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(&message.attributes[..], &attributes);
}

#[test]
fn a_message_without_attributes_has_only_the_facts() {
    let guest = Guest::new("messaging");
    let plain = delivery("send audit");
    let message = Message { attributes: Vec::new(), key: None, content_type: None, ..plain.message };
    let plain = Delivery { message, ..plain };
    let (module, settings) = (guest.module.clone(), guest.settings.clone());
    let report = guest.kitchen.on(0, async move |worker| {
        let slot = worker.slots(1).await.pop().unwrap();
        module.call(&worker, slot, &settings, &plain).await
    });
    let body = String::from_utf8_lossy(&report.sends[0].message.body).into_owned();
    assert!(body.starts_with("Some(\"orders\") None Some([(\"linecook-message-id\""), "{body}");
    assert!(!body.contains("linecook-key"), "{body}");
}
