//! Every limit of a delivery: what goes over it fails with a reason that names its key in `queue.toml`, and another value
//! there moves it.

use std::sync::Arc;
use std::time::Duration;

use linecook::config::Limits;
use linecook::delivery::Outcome;
use linecook::sandbox::{InstanceSettings, LoadError, Report};

#[path = "support/by_hand.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod by_hand;
#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/kitchen.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod kitchen;
#[path = "support/log.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod log;

use by_hand::component_of;
use kitchen::{Kitchen, component, reason, retry, settings};

fn with(limits: Limits) -> InstanceSettings {
    InstanceSettings { limits, ..settings() }
}

fn deliver(component: &[u8], settings: InstanceSettings, body: &str) -> Report {
    let (kitchen, settings) = (Kitchen::new(1), Arc::new(settings));
    let module = kitchen.load(component, &settings).unwrap();
    kitchen.call(&module, &settings, body)
}

fn behave(limits: Limits, body: &str) -> Report {
    deliver(&component("behave"), with(limits), body)
}

fn outside(limits: Limits, body: &str) -> Report {
    deliver(&component("outside"), with(limits), body)
}

fn load(component: &[u8], limits: Limits) -> Result<(), LoadError> {
    Kitchen::new(1).load(component, &Arc::new(with(limits))).map(drop)
}

#[test]
fn memory() {
    let strict = InstanceSettings { memory_bytes_max: 4 << 20, ..settings() };
    let report = deliver(&component("behave"), strict, r#"{"do":"allocate"}"#);
    assert_eq!(report.outcome, retry("exceeded memory_limit (4 MiB)"));
}

#[test]
fn wall_time() {
    let strict = InstanceSettings { timeout: Duration::from_millis(100), ..settings() };
    let report = deliver(&component("behave"), strict, r#"{"do":"sleep","ms":60000}"#);
    assert_eq!(report.outcome, retry("timed out after 100ms"));
}

#[test]
fn cpu_time_is_what_was_computed_not_what_was_waited() {
    let limits = Limits { cpu_time: Some(Duration::from_millis(100)), ..Limits::default() };
    let report = behave(limits.clone(), r#"{"do":"loop"}"#);
    assert_eq!(report.outcome, retry("exceeded limits.cpu_time (100ms)"));
    assert!(report.elapsed >= Duration::from_millis(90), "{:?}", report.elapsed);
    let report = behave(limits, r#"{"do":"sleep","ms":300}"#);
    assert_eq!(report.outcome, Outcome::Ack);
    // Without a limit of its own, the timeout is the limit.
    let strict = InstanceSettings { timeout: Duration::from_millis(200), ..settings() };
    let report = deliver(&component("behave"), strict, r#"{"do":"loop"}"#);
    assert_eq!(report.outcome, retry("timed out after 200ms"));
}

#[test]
fn a_delivery_that_uses_less_than_its_cpu_time_never_fails() {
    let limits = Limits { cpu_time: Some(Duration::from_millis(5)), ..Limits::default() };
    let (kitchen, settings) = (Kitchen::new(1), Arc::new(with(limits)));
    // Loading may take its time.
    let module = kitchen.load(&component("behave"), &Arc::new(with(Limits::default()))).unwrap();
    // An epoch ends within every second or third of them.
    for _ in 0..100 {
        let report = kitchen.call(&module, &settings, r#"{"do":"compute","ms":2}"#);
        assert_eq!(report.outcome, Outcome::Ack);
    }
    let report = kitchen.call(&module, &settings, r#"{"do":"loop"}"#);
    assert_eq!(report.outcome, retry("exceeded limits.cpu_time (5ms)"));
}

#[test]
fn core_instances() {
    let noop = component("noop");
    let mut refused = 0;
    // What a component is made of depends on its target; the default is enough for all.
    for core_instances in 1..=Limits::default().core_instances {
        let Err(error) = load(&noop, Limits { core_instances, ..Limits::default() }) else { break };
        assert!(matches!(error, LoadError::TooComplex { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("exceeded limits.core_instances ({core_instances})")), "{error}");
        refused = core_instances;
    }
    assert!((1..Limits::default().core_instances).contains(&refused), "{refused}");
}

#[test]
fn tables() {
    let five = component_of(&format!("{} (func $f)", "(table 1 funcref)".repeat(5)));
    let error = load(&five, Limits::default()).unwrap_err();
    assert!(matches!(error, LoadError::TooComplex { .. }), "{error:?}");
    assert!(error.to_string().contains("exceeded limits.tables (4)"), "{error}");
    assert_eq!(deliver(&five, with(Limits { tables: 5, ..Limits::default() }), "").outcome, Outcome::Ack);
}

#[test]
fn table_elements() {
    // Grows a table by 10,000 elements, and traps if it can't.
    let grow = component_of(
        "(table $t 1 funcref) (func $f (if (i32.eq (table.grow $t (ref.null func) (i32.const 10000)) (i32.const -1)) \
         (then unreachable)))",
    );
    assert_eq!(deliver(&grow, settings(), "").outcome, Outcome::Ack);
    let limits = Limits { table_elements: 10_000, ..Limits::default() };
    assert_eq!(deliver(&grow, with(limits), "").outcome, retry("exceeded limits.table_elements (10000)"));
    let large = component_of("(table 20001 funcref) (func $f)");
    let error = load(&large, Limits::default()).unwrap_err().to_string();
    assert!(error.contains("exceeded limits.table_elements (20000)"), "{error}");
    assert!(load(&large, Limits { table_elements: 20_001, ..Limits::default() }).is_ok());
}

#[test]
fn deep_recursion_is_a_trap() {
    let endless = component_of("(func $f (call $f) (call $f))");
    let report = deliver(&endless, settings(), "");
    assert!(reason(&report).contains("call stack exhausted"), "{}", reason(&report));
}

#[test]
fn host_call_bytes() {
    let body = r#"{"do":"send","to":"audit","bytes":500000}"#;
    assert_eq!(behave(Limits::default(), body).outcome, Outcome::Ack);
    let limits = Limits { host_call_bytes: 100 << 10, ..Limits::default() };
    assert_eq!(behave(limits, body).outcome, retry("exceeded limits.host_call_bytes (100 KiB)"));
    let huge = r#"{"do":"send","to":"audit","bytes":17000000}"#;
    assert_eq!(behave(Limits::default(), huge).outcome, retry("exceeded limits.host_call_bytes (16 MiB)"));
}

#[test]
fn random_bytes() {
    for insecure in [false, true] {
        let ask = |bytes: u64| format!(r#"{{"do":"random","bytes":{bytes},"insecure":{insecure}}}"#);
        let limits = Limits { random_bytes: 1000, ..Limits::default() };
        assert_eq!(outside(limits.clone(), &ask(900)).outcome, Outcome::Ack);
        assert_eq!(outside(limits, &ask(1001)).outcome, retry("exceeded limits.random_bytes (1000 B)"));
        assert_eq!(outside(Limits::default(), &ask(u64::MAX)).outcome, retry("exceeded limits.random_bytes (1 MiB)"));
    }
}

#[test]
fn log_bytes() {
    let print = |then: &str| format!(r#"{{"do":"print","lines":["{}"],"then":{then}}}"#, "x".repeat(2000));
    let limits = Limits { log_bytes: 1000, ..Limits::default() };
    assert_eq!(
        behave(limits.clone(), &print(r#"{"do":"ok"}"#)).outcome,
        Outcome::Ack,
        "it is lost, which is no failure"
    );
    let lost = "on purpose (and exceeded limits.log_bytes (1000 B): the rest of its output is lost)";
    assert_eq!(behave(limits.clone(), &print(r#"{"do":"retry"}"#)).outcome, retry(lost));
    let dead = behave(limits.clone(), &print(r#"{"do":"dead-letter"}"#)).outcome;
    assert_eq!(dead, Outcome::DeadLetter { reason: lost.into() });
    assert_eq!(behave(Limits::default(), &print(r#"{"do":"retry"}"#)).outcome, retry("on purpose"));
}

#[test]
fn sends_and_their_bytes() {
    let limits = Limits { sends: 2, send_bytes: 1000, ..Limits::default() };
    let call = |body: &str| behave(limits.clone(), body);
    assert_eq!(call(r#"{"do":"send","to":"audit","count":2}"#).sends.len(), 2);
    let report = call(r#"{"do":"send","to":"audit","count":3}"#);
    assert!(reason(&report).contains("a delivery may send 2 messages (limits.sends)"), "{}", reason(&report));
    assert!(call(r#"{"do":"send","to":"audit","bytes":900}"#).outcome == Outcome::Ack);
    let report = call(r#"{"do":"send","to":"audit","bytes":1001}"#);
    assert!(reason(&report).contains("a delivery may send 1000 B in all (limits.send_bytes)"), "{}", reason(&report));
}
