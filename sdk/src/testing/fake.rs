//! Stands in for the runtime: takes what is sent on this thread while a handler runs.

use std::cell::RefCell;

use super::{Run, Sent};
use crate::queues::{Outgoing, SendError};
use crate::{Message, Outcome};

thread_local! {
    /// The delivery that is being handled on this thread. Tests run on threads of their own, so each has its own.
    static CURRENT: RefCell<Option<Delivery>> = const { RefCell::new(None) };
}

struct Delivery {
    /// The queues that may be sent to; `None` is every one.
    granted: Option<Vec<String>>,
    sent: Vec<Sent>,
}

/// Puts back what was there before, also when the handler panics.
struct Restore(Option<Delivery>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

pub(crate) fn run(granted: Option<Vec<String>>, handler: impl FnOnce(Message) -> Outcome, message: Message) -> Run {
    let _restore = Restore(CURRENT.replace(Some(Delivery { granted, sent: Vec::new() })));
    let outcome = handler(message);
    let sent = CURRENT.take().map(|delivery| delivery.sent).unwrap_or_default();
    match outcome {
        Ok(()) => Run { outcome, sends: sent, dropped: Vec::new() },
        Err(_) => Run { outcome, sends: Vec::new(), dropped: sent },
    }
}

pub(crate) fn send(queue: &str, message: Outgoing) -> Result<(), SendError> {
    CURRENT.with_borrow_mut(|current| {
        let Some(delivery) = current else {
            panic!(
                "a message was sent to {queue:?} outside of a delivery: call the handler by \
                 linecook_sdk::testing::run, which takes what it sends"
            );
        };
        check(queue, &message)?;
        if delivery.granted.as_ref().is_some_and(|granted| !granted.iter().any(|each| each == queue)) {
            return Err(SendError::NotGranted {
                queue: queue.into(),
                detail: format!("it is not granted; add {queue:?} to `send` in the consumer's grants in queue.toml"),
            });
        }
        delivery.sent.push(Sent {
            queue: queue.into(),
            body: message.body,
            content_type: message.content_type,
            key: message.key,
            attributes: message.attributes,
            delay: message.delay,
        });
        Ok(())
    })
}

/// The runtime's checks that don't depend on its settings, so that a test finds what would fail there.
fn check(queue: &str, message: &Outgoing) -> Result<(), SendError> {
    let invalid = |detail: String| Err(SendError::Invalid { queue: queue.into(), detail });
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let starts_well = queue.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if queue.len() > 128 || !starts_well || !queue.split('.').all(part) {
        return invalid(
            "a queue name has 1 to 128 ASCII letters, digits, '-' and '_', in parts separated by single dots, and \
             starts with a letter or a digit"
                .into(),
        );
    }
    if let Some((name, _)) = message.attributes.iter().find(|(name, _)| name.starts_with("linecook-")) {
        return invalid(format!("the attribute {name:?}: names that start with \"linecook-\" are the runtime's"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::queues::{self, SendError};
    use crate::testing::{self, Sent};
    use crate::{Failure, Message, Outcome};

    fn send_twice(_: Message) -> Outcome {
        queues::send("audit", "first")?;
        queues::message("second")
            .content_type("text/plain")
            .key("k")
            .attribute("a", "1")
            .delay(Duration::from_millis(1500))
            .send("mails")?;
        Ok(())
    }

    #[test]
    fn everything_about_a_send_is_seen() {
        let run = testing::run(send_twice, testing::message(""));
        assert_eq!(run.outcome, Ok(()));
        assert_eq!(run.dropped, []);
        let first = Sent {
            queue: "audit".into(),
            body: br#""first""#.into(),
            content_type: Some("application/json".into()),
            key: None,
            attributes: vec![],
            delay: Duration::ZERO,
        };
        let second = Sent {
            queue: "mails".into(),
            body: b"second".into(),
            content_type: Some("text/plain".into()),
            key: Some("k".into()),
            attributes: vec![("a".into(), "1".into())],
            delay: Duration::from_millis(1500),
        };
        assert_eq!(run.sends, [first, second]);
    }

    #[test]
    fn what_is_not_granted_fails_with_what_to_do_and_drops_the_rest() {
        let run = testing::granting(["audit"]).run(send_twice, testing::message(""));
        let Err(Failure::Retry { reason, .. }) = run.outcome else { panic!("must be a retry: {run:?}") };
        assert_eq!(
            reason,
            "can't send to \"mails\": it is not granted; add \"mails\" to `send` in the consumer's grants in queue.toml"
        );
        assert_eq!(run.sends, []);
        assert_eq!(run.dropped.len(), 1);
    }

    #[test]
    fn a_name_that_cannot_be_is_refused() {
        for name in ["", ".", "a.", "a..b", "-a", "_a", "a b", "ä", &"x".repeat(129)] {
            let run = testing::run(
                |_| {
                    assert!(matches!(queues::send(name, "x"), Err(SendError::Invalid { .. })), "{name}");
                    Ok(())
                },
                testing::message(""),
            );
            assert_eq!(run.sends, []);
        }
        let reserved = |_| Ok(queues::message("").attribute("linecook-reason", "x").send("a")?);
        assert!(testing::run(reserved, testing::message("")).outcome.is_err());
    }

    #[test]
    fn what_cannot_be_json_is_an_error_that_says_so() {
        let odd = std::collections::BTreeMap::from([((1, 2), 3)]);
        let error = queues::json(&odd).unwrap_err();
        assert_eq!(error.to_string(), "can't write the value as JSON: key must be a string");
    }

    #[test]
    #[should_panic(expected = "outside of a delivery: call the handler by linecook_sdk::testing::run")]
    fn a_send_outside_of_a_delivery_panics() {
        let _ = queues::send("audit", "x");
    }

    #[test]
    fn a_handler_that_panics_leaves_nothing_behind() {
        let panicking = |_| {
            queues::send("audit", "x")?;
            panic!("on purpose")
        };
        std::panic::catch_unwind(|| testing::run(panicking, testing::message(""))).unwrap_err();
        assert_eq!(testing::run(|_| Ok(()), testing::message("")).sends, []);
        std::panic::catch_unwind(|| queues::send("audit", "x")).unwrap_err();
    }
}
