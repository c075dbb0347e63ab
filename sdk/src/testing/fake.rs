//! Stands in for the runtime: takes what is sent on this thread while a handler runs.

use std::cell::RefCell;

use super::{BatchRun, Run, Sent, state};
use crate::__rt::BatchOutput;
use crate::queues::{Outgoing, SendError};
use crate::{Failure, Message, Outcome};

thread_local! {
    /// The delivery that is being handled on this thread. Tests run on threads of their own, so each has its own.
    static CURRENT: RefCell<Option<Delivery>> = const { RefCell::new(None) };
}

struct Delivery {
    /// The queues that may be sent to; `None` is every one.
    granted: Option<Vec<String>>,
    /// The messages that are being handled.
    ids: Vec<String>,
    sent: Vec<Sent>,
}

/// Puts back what was there before, also when the handler panics.
struct Restore(Option<Delivery>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Calls the handler, and takes what it sends.
fn deliver<T>(granted: Option<Vec<String>>, ids: Vec<String>, handler: impl FnOnce() -> T) -> (T, Vec<Sent>) {
    let _restore = Restore(CURRENT.replace(Some(Delivery { granted, ids, sent: Vec::new() })));
    let answer = handler();
    (answer, CURRENT.take().map(|delivery| delivery.sent).unwrap_or_default())
}

pub(crate) fn run(granted: Option<Vec<String>>, handler: impl FnOnce(Message) -> Outcome, message: Message) -> Run {
    let ids = vec![message.id.clone()];
    let state = state::begin(&ids);
    let (outcome, sent) = deliver(granted, ids, || handler(message));
    state.end(|_| outcome.is_ok());
    match outcome {
        Ok(()) => Run { outcome, sends: sent, dropped: Vec::new() },
        Err(_) => Run { outcome, sends: Vec::new(), dropped: sent },
    }
}

pub(crate) fn run_batch<O: BatchOutput>(
    granted: Option<Vec<String>>,
    handler: impl FnOnce(Vec<Message>) -> O,
    mut messages: Vec<Message>,
) -> BatchRun {
    make_ids_unique(&mut messages);
    let ids: Vec<String> = messages.iter().map(|message| message.id.clone()).collect();
    let state = state::begin(&ids);
    let (answers, sent) = deliver(granted, ids.clone(), || handler(messages).outcomes(ids.len()));
    let mut outcomes = answers;
    outcomes.resize(ids.len(), Err(Failure::retry("the handler gave no answer for this message")));
    state.end(|place| outcomes[place].is_ok());
    let acked = |sent: &Sent| match &sent.with_ack_of {
        Some(id) => ids.iter().zip(&outcomes).any(|(each, outcome)| each == id && outcome.is_ok()),
        None => outcomes.iter().any(Result::is_ok),
    };
    let (sends, dropped) = sent.into_iter().partition(acked);
    BatchRun { outcomes, sends, dropped }
}

/// Messages that were made alike still are different messages.
fn make_ids_unique(messages: &mut [Message]) {
    for index in 1..messages.len() {
        let (before, rest) = messages.split_at_mut(index);
        if before.iter().any(|message| message.id == rest[0].id) {
            rest[0].id = format!("{index:026}");
        }
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
        if let Some(id) = message.with_ack_of.as_ref().filter(|id| !delivery.ids.contains(id)) {
            let detail = format!("{id:?} is not the id of a message that is being handled");
            return Err(SendError::Invalid { queue: queue.into(), detail });
        }
        delivery.sent.push(Sent {
            queue: queue.into(),
            body: message.body,
            content_type: message.content_type,
            key: message.key,
            attributes: message.attributes,
            delay: message.delay,
            with_ack_of: message.with_ack_of,
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
    use crate::{Failure, Message, Outcome, batch};

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
            with_ack_of: None,
        };
        let second = Sent {
            queue: "mails".into(),
            body: b"second".into(),
            content_type: Some("text/plain".into()),
            key: Some("k".into()),
            attributes: vec![("a".into(), "1".into())],
            delay: Duration::from_millis(1500),
            with_ack_of: None,
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

    #[test]
    fn in_a_batch_each_send_shares_the_fate_of_its_message_and_the_others_that_of_the_batch() {
        let handler = |messages: Vec<Message>| {
            queues::send("audit", &messages.len())?;
            Ok(batch::each(messages, |message| {
                queues::send("audit", message.text()?)?;
                if message.body == b"bad" { Err(Failure::dead_letter("bad")) } else { Ok(()) }
            }))
        };
        let run = testing::run_batch(handler, ["good", "bad"].map(testing::message));
        assert_eq!(run.outcomes, [Ok(()), Err(Failure::dead_letter("bad"))]);
        assert_eq!(run.sends.iter().map(|sent| &*sent.body).collect::<Vec<_>>(), [&b"2"[..], br#""good""#]);
        assert_eq!(run.sends[0].with_ack_of, None);
        assert!(run.sends[1].with_ack_of.is_some());
        assert_eq!(run.dropped.iter().map(|sent| &*sent.body).collect::<Vec<_>>(), [br#""bad""#]);

        let run = testing::run_batch(handler, ["bad", "bad"].map(testing::message));
        assert_eq!((run.sends.len(), run.dropped.len()), (0, 3));
        let run = testing::granting(["mails"]).run_batch(handler, ["good"].map(testing::message));
        assert!(matches!(&run.outcomes[0], Err(Failure::Retry { reason, .. }) if reason.contains("not granted")));
    }

    #[test]
    fn a_missing_answer_is_a_failure_and_one_answer_stands_for_all() {
        let messages = || ["a", "b", "c"].map(testing::message);
        let run = testing::run_batch(|_| vec![Ok(())], messages());
        let missing = Err(Failure::retry("the handler gave no answer for this message"));
        assert_eq!(run.outcomes, [Ok(()), missing.clone(), missing]);
        assert_eq!(testing::run_batch(|_| Outcome::Ok(()), messages()).outcomes, [const { Ok(()) }; 3]);
        let all = testing::run_batch(|_| Outcome::Err(Failure::retry("no")), messages());
        assert_eq!(all.outcomes, vec![Err(Failure::retry("no")); 3]);
    }

    #[test]
    #[should_panic(expected = "the handler gave 2 answers for 1 messages")]
    fn more_answers_than_messages_are_a_mistake() {
        testing::run_batch(|_| vec![Ok(()); 2], [testing::message("a")]);
    }

    #[test]
    fn a_send_can_only_go_with_a_message_of_the_batch() {
        let stray = |_: Vec<Message>| -> Outcome { Ok(queues::message("").with_ack_of("other").send("audit")?) };
        let run = testing::run_batch(stray, [testing::message("a").id("mine")]);
        let Err(Failure::Retry { reason, .. }) = &run.outcomes[0] else { panic!("must be a retry: {run:?}") };
        assert_eq!(reason, "can't send to \"audit\": \"other\" is not the id of a message that is being handled");
    }
}
