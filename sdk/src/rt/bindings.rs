//! The component's side of the contract in `wit/worker.wit`. Everything is moved between the generated types and the
//! public ones; nothing is copied.

use std::time::{Duration, UNIX_EPOCH};

use super::BatchOutput;
use crate::queues::{Outgoing, SendError};
use crate::{Failure, Message, Outcome, logging};

pub use generated::export;
pub use generated::exports::linecook::worker::handler::{Failure as RawFailure, Guest, Message as RawMessage};
pub use generated_batch::export_batch;
pub use generated_batch::exports::linecook::worker::batch_handler::{Answer as RawAnswer, Guest as BatchGuest};

#[allow(missing_docs, unsafe_code, clippy::all, reason = "generated from the contract, whose ABI is raw memory")]
pub mod generated {
    wit_bindgen::generate!({
        path: "wit",
        world: "consumer",
        pub_export_macro: true,
        default_bindings_module: "linecook_sdk::__rt::bindings::generated",
    });
}

#[allow(missing_docs, unsafe_code, clippy::all, reason = "generated from the contract, whose ABI is raw memory")]
pub mod generated_batch {
    wit_bindgen::generate!({
        path: "wit",
        world: "batch-consumer",
        pub_export_macro: true,
        export_macro_name: "export_batch",
        default_bindings_module: "linecook_sdk::__rt::bindings::generated_batch",
        with: {
            "linecook:worker/queues@0.1.1": super::generated::linecook::worker::queues,
            "linecook:worker/types@0.1.1": super::generated::linecook::worker::types,
        },
    });
}

/// Hands a message to the handler and gives its answer back.
pub fn call(handler: fn(Message) -> Outcome, raw: RawMessage) -> Result<(), RawFailure> {
    logging::start();
    handler(lift(raw)).map_err(lower)
}

/// Hands a batch to the handler and gives its answers back.
pub fn call_batch<O: BatchOutput>(handler: fn(Vec<Message>) -> O, raw: Vec<RawMessage>) -> Vec<RawAnswer> {
    logging::start();
    let ids: Vec<String> = raw.iter().map(|message| message.id.clone()).collect();
    let outcomes = handler(raw.into_iter().map(lift).collect()).outcomes(ids.len());
    let answer = |(message_id, outcome): (String, Outcome)| RawAnswer { message_id, outcome: outcome.map_err(lower) };
    ids.into_iter().zip(outcomes).map(answer).collect()
}

fn lift(raw: RawMessage) -> Message {
    Message {
        id: raw.id,
        queue: raw.queue,
        body: raw.body,
        content_type: raw.content_type,
        key: raw.key,
        attributes: raw.attributes,
        attempt: raw.attempt,
        enqueued_at: UNIX_EPOCH + Duration::from_millis(raw.enqueued_at_ms),
    }
}

fn lower(failure: Failure) -> RawFailure {
    match failure {
        Failure::Retry { reason, after } => {
            RawFailure::Retry(generated::linecook::worker::types::Retry { reason, after_ms: after.map(whole_ms) })
        }
        Failure::Snooze { after } => RawFailure::Snooze(whole_ms(after)),
        Failure::DeadLetter { reason } => RawFailure::DeadLetter(reason),
    }
}

/// Sends through the runtime.
pub(crate) fn send(queue: &str, message: Outgoing) -> Result<(), SendError> {
    use generated::linecook::worker::queues;
    let raw = queues::Outgoing {
        body: message.body,
        content_type: message.content_type,
        key: message.key,
        attributes: message.attributes,
        delay_ms: whole_ms(message.delay),
    };
    let sent = match &message.with_ack_of {
        Some(id) => queues::send_for(id, queue, &raw),
        None => queues::send(queue, &raw),
    };
    sent.map_err(|error| {
        let queue = queue.to_owned();
        match error {
            queues::SendError::NotGranted(detail) => SendError::NotGranted { queue, detail },
            queues::SendError::LimitExceeded(detail) => SendError::LimitExceeded { queue, detail },
            queues::SendError::Invalid(detail) => SendError::Invalid { queue, detail },
        }
    })
}

/// A longer time than there are milliseconds for is as good as for ever.
fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
