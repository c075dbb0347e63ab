//! Handling many messages in one call.
//!
//! A consumer that takes `Vec<Message>` is handed up to `max_batch_size` messages at once (a key of the consumer in
//! `queue.toml`, 1 to 1000; the default is 1), oldest first. A batch that is not full waits for more messages, for up to
//! `max_batch_timeout`. It has at most 8 MiB of bodies, unless one message alone is larger. There are never two messages
//! with the same ordering key in it, so a queue whose messages all share one key is not worth batching.
//!
//! The function answers for each message:
//!
//! ```
//! use linecook_sdk::{Message, Outcome, batch, consumer, queues};
//!
//! #[consumer]
//! fn bill(messages: Vec<Message>) -> Vec<Outcome> {
//!     let prices = std::collections::BTreeMap::from([("tea", 3)]); // once for all of them
//!     batch::each(messages, |message| {
//!         let price = prices.get(message.text()?).ok_or_else(|| linecook_sdk::Failure::dead_letter("no such thing"))?;
//!         Ok(queues::send("billed", price)?) // with the acknowledgement of this message
//!     })
//! }
//! # let run = linecook_sdk::testing::run_batch(bill, ["tea", "sand"].map(linecook_sdk::testing::message));
//! # assert!(run.outcomes[0].is_ok() && run.outcomes[1].is_err());
//! # assert_eq!(run.sends.len(), 1);
//! ```
//!
//! It may return
//!
//! | type | meaning |
//! | --- | --- |
//! | `Vec<Outcome>` | An answer for each message, in the order of the messages. A message without one has failed. |
//! | [`Outcome`] | One answer for all of them. |
//! | `Result<Vec<Outcome>, Failure>` | The one or the other. |
//!
//! # Sends
//!
//! Within [`each`], what is sent goes with the acknowledgement of the message that is being handled: both happen or
//! neither does. Elsewhere, [`Outgoing::with_ack_of`](crate::queues::Outgoing::with_ack_of) names the message. What is
//! sent without either belongs to the batch, such as a sum over all of it: it is on record before any message of the
//! batch is acknowledged, and dropped if none is. Should the process end just then, the messages come back although what
//! was sent for all of them is there: it can be sent again, and is never lost.
//!
//! [Durable state](crate::state) is written for one message, within [`each`] or [`for_message`].
//!
//! # When it fails as a whole
//!
//! A panic, an exit, a timeout or too much memory leaves all messages without an answer. They come back at once, one by
//! one, each as a batch of its own, so that the one that is to blame fails alone, and it alone uses up attempts. For the
//! same reason a message that has failed before always comes alone.

use std::cell::RefCell;

use crate::{Message, Outcome};

thread_local! {
    /// The id of the message that [`each`] is at.
    static CURRENT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Puts back what was there before, also when the handler panics.
struct Restore(Option<String>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Hands the messages to a function one by one, and gives its answers in order. What the function sends goes with the
/// acknowledgement of the message that it was handed.
pub fn each(messages: Vec<Message>, mut handler: impl FnMut(Message) -> Outcome) -> Vec<Outcome> {
    messages.into_iter().map(|message| for_message(message.id.clone(), || handler(message))).collect()
}

/// Does something for one message of the batch, named by its id: what it sends and writes goes with the acknowledgement of
/// that message.
///
/// ```
/// use linecook_sdk::{Message, Outcome, batch, state};
///
/// fn count(messages: Vec<Message>) -> Outcome {
///     for message in messages {
///         batch::for_message(&message.id, || state::increment("messages", 1))?;
///     }
///     Ok(())
/// }
/// # let run = linecook_sdk::testing::run_batch(count, ["a", "b"].map(linecook_sdk::testing::message));
/// # assert!(run.outcomes[1].is_ok());
/// ```
pub fn for_message<T>(message_id: impl Into<String>, work: impl FnOnce() -> T) -> T {
    let _restore = Restore(CURRENT.replace(Some(message_id.into())));
    work()
}

/// The message whose acknowledgement a send goes with, if [`each`] is at work.
pub(crate) fn current() -> Option<String> {
    CURRENT.with_borrow(Clone::clone)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::testing;

    #[test]
    fn each_message_is_the_current_one_while_it_is_handled_and_no_longer() {
        let messages = vec![testing::message("").id("a").build(), testing::message("").id("b").build()];
        let mut seen = Vec::new();
        each(messages.clone(), |message| {
            seen.push((message.id, current()));
            Ok(())
        });
        assert_eq!(seen, [("a".into(), Some("a".into())), ("b".into(), Some("b".into()))]);
        assert_eq!(current(), None);
        catch_unwind(AssertUnwindSafe(|| each(messages, |_| panic!("on purpose")))).unwrap_err();
        assert_eq!(current(), None);
    }
}
