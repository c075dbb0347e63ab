//! `wasi:keyvalue` in the sandbox: what a delivery sees of its state, what it takes along, and what is denied.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use linecook::delivery::Outcome;
use linecook::sandbox::{DurableState, InstanceSettings, StateReader};
use serde_json::json;

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
use kitchen::{Kitchen, component, reason, sent, settings};

struct Fixed(BTreeMap<&'static str, &'static str>);

impl StateReader for Fixed {
    fn get(&self, key: &str) -> Result<Option<Bytes>, String> {
        Ok(self.0.get(key).map(|value| Bytes::from_static(value.as_bytes())))
    }

    fn keys(&self, after: Option<&str>, limit: usize) -> Result<Vec<Box<str>>, String> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.0.range::<str, _>((from, Bound::Unbounded)).take(limit).map(|(key, _)| Box::from(*key)).collect())
    }

    fn bytes(&self) -> Result<u64, String> {
        Ok(self.0.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }
}

fn with_state(consumer: &str, entries: &[(&'static str, &'static str)]) -> InstanceSettings {
    let reader = Arc::new(Fixed(entries.iter().copied().collect()));
    let space = format!("consumer/{consumer}").into();
    InstanceSettings { consumer: consumer.into(), state: Some(DurableState { space, reader }), ..settings() }
}

#[test]
fn state_that_is_imported_and_not_granted_is_told_when_the_component_is_loaded() {
    let kitchen = Kitchen::new(1);
    let told = |settings: InstanceSettings| {
        let settings = Arc::new(settings);
        kitchen.load(&component("state"), &settings).unwrap();
        let lines = LOG.of(&settings.consumer);
        lines.iter().map(|line| line["fields"]["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let expected = "the component imports wasi:keyvalue, and nothing of that is granted: its calls will be refused. In \
                    queue.toml, `grants.state = true` in [consumers.forgetful] grants it";
    assert_eq!(told(InstanceSettings { consumer: "forgetful".into(), ..settings() }), [expected]);
    assert_eq!(told(with_state("mindful", &[])), [""; 0]);
}

#[test]
fn a_delivery_sees_its_own_writes_by_every_way() {
    let kitchen = Kitchen::new(1);
    let settings = Arc::new(with_state("own", &[("gone", "x"), ("kept", "y")]));
    let module = kitchen.load(&component("state"), &settings).unwrap();
    let report = kitchen.call(&module, &settings, r#"{"do":"own-writes"}"#);
    assert_eq!(report.outcome, Outcome::Ack);
    assert_eq!(
        sent(&report),
        [(
            "report".to_owned(),
            json!({
                "first": "1", "incremented": 7, "many": ["7", "3", null, "5", null], "exists": [true, false],
                "keys": ["a", "b", "d", "kept"],
            })
        )]
    );
    let writes: Vec<_> = report.state.writes.iter().map(|write| (&*write.key, write.value.as_deref())).collect();
    let gone = ["e", "gone", "none"].map(|key| (key, None));
    let kept = [("a", Some(&b"7"[..])), ("b", Some(&b"3"[..])), ("c", None), ("d", Some(&b"5"[..]))];
    assert_eq!(writes, [&kept[..], &gone].concat());
    assert!(report.state.writes.iter().all(|write| &*write.space == "consumer/own"));
    // It read nothing that it had not written.
    assert_eq!(report.state.reads, []);
    // What a failed delivery wrote, nobody sees.
    let report = kitchen.call(&module, &settings, r#"{"do":"count","key":"n","panics":9}"#);
    assert!(reason(&report).starts_with("trapped"), "{report:?}");
}

#[test]
fn without_the_grant_it_is_denied_and_the_log_says_what_would_grant_it() {
    LOG.of("stateless");
    let kitchen = Kitchen::new(1);
    let settings = Arc::new(InstanceSettings { consumer: "stateless".into(), ..settings() });
    let module = kitchen.load(&component("state"), &settings).unwrap();
    for _ in 0..3 {
        let report = kitchen.call(&module, &settings, r#"{"do":"get","key":"k"}"#);
        let expected = "state is not granted; add `state = true` to the consumer's grants in queue.toml";
        assert_eq!(report.outcome, kitchen::retry(expected));
        assert_eq!(report.state.writes, []);
    }
    let report = kitchen.call(&module, &settings, r#"{"do":"open","name":"other"}"#);
    assert_eq!(sent(&report)[0].1, json!({ "opened": "Error::AccessDenied" }));
    let told: Vec<_> = LOG.of("stateless").into_iter().filter(|line| line["level"] == "WARN").collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    let text = told[0]["fields"]["message"].as_str().unwrap();
    assert!(text.ends_with("[consumers.stateless.grants]\nstate = true\n"), "{text}");
}

#[test]
fn a_value_that_is_asked_for_a_hundred_times_at_once_is_not_copied_a_hundred_times() {
    let kitchen = Kitchen::new(1);
    let value = Box::leak("v".repeat(1 << 20).into_boxed_str());
    let settings = Arc::new(with_state("greedy", &[("large", value)]));
    let module = kitchen.load(&component("state"), &settings).unwrap();
    let ask = |count: u32| {
        let command = json!({ "do": "get-many", "key": "large", "count": count });
        kitchen.call(&module, &settings, &command.to_string())
    };
    assert_eq!(sent(&ask(3))[0].1, json!({ "bytes": 3 << 20 }));
    for count in [100, 10_000] {
        let report = ask(count);
        assert!(reason(&report).contains("16 MiB of state may be read at once"), "{report:?}");
    }
}
