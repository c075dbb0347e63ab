//! One delivery in a fresh instance: limits, the call, and what its end means.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use wasmtime::{Error, Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::bindings::Consumer;
use super::bindings::exports::linecook::worker::handler;
use super::imports::{Refused, Sender};
use super::limits::{DELAY_MAX, HOSTCALL_BYTES_MAX, REASON_BYTES_MAX, bytes_text};
use super::load::{Linked, LoadError, causes};
use super::output::{Origin, Output};
use super::state::State;
use super::{InstanceSettings, ModuleHash, Report, grants};
use crate::config::units::format_duration;
use crate::delivery::{Delivery, Outcome, Outgoing};

/// How a call ended, and what was sent until then.
struct Ended {
    outcome: Outcome,
    sends: Vec<Outgoing>,
}

/// Runs one delivery. Never fails: whatever happens is the outcome.
pub(super) async fn call(
    linked: &Linked,
    module: ModuleHash,
    refused: &Arc<Refused>,
    settings: &Arc<InstanceSettings>,
    delivery: &Delivery,
) -> Report {
    let started = Instant::now();
    let origin = Origin { settings: settings.clone(), delivery: Some((delivery.message.id, delivery.attempt)), module };
    let output = Output::new(origin);
    // A panic of the host costs this delivery, as one of the guest does, and not the task that works off the queue.
    let ended = AssertUnwindSafe(run(linked, refused, settings, delivery, &output)).catch_unwind().await;
    let Ended { outcome, sends } = ended.unwrap_or_else(|_| {
        tracing::error!(consumer = settings.consumer, message_id = %delivery.message.id, "a host function panicked; this is a bug in linecook");
        Ended { outcome: retry("linecook itself failed during the call; its log has more".to_owned()), sends: Vec::new() }
    });
    Report { outcome, sends, stderr_tail: output.finish(), elapsed: started.elapsed() }
}

async fn run(
    linked: &Linked,
    refused: &Arc<Refused>,
    settings: &Arc<InstanceSettings>,
    delivery: &Delivery,
    output: &Output,
) -> Ended {
    let mut store = match store(linked, refused, settings, output) {
        Ok(store) => store,
        Err(reason) => return Ended { outcome: retry(reason), sends: Vec::new() },
    };
    let called = tokio::time::timeout(settings.timeout, handle(linked, settings, delivery, &mut store)).await;
    let outcome = match called {
        Ok(Ok(answer)) => answered(answer),
        Ok(Err(error)) => retry(failed(&error, &store, settings)),
        Err(_) => retry(format!("timed out after {}", format_duration(settings.timeout))),
    };
    Ended { outcome, sends: store.data_mut().sender.take() }
}

/// A store with all limits in force.
fn store(
    linked: &Linked,
    refused: &Arc<Refused>,
    settings: &Arc<InstanceSettings>,
    output: &Output,
) -> Result<Store<State>, String> {
    let wasi = grants::wasi(&settings.grants, output).map_err(|(dir, error)| {
        format!("the granted folder {} can't be opened: {}", dir.host.display(), causes(&error))
    })?;
    let state = State::new(settings, wasi, Sender::new(settings, refused));
    let mut store = Store::new(linked.instance.engine(), state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_epoch_deadline(1);
    // Tokio's own yield: it comes back only after timers and the network had their turn, so that the timeout of a guest
    // that computes for ever fires, and other guests on this worker go on.
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))));
    Ok(store)
}

async fn handle(
    linked: &Linked,
    settings: &InstanceSettings,
    delivery: &Delivery,
    store: &mut Store<State>,
) -> wasmtime::Result<Result<(), handler::Failure>> {
    let instance = linked.instance.instantiate_async(&mut *store).await?;
    let consumer = linked.exports.load(&mut *store, &instance)?;
    let message = &delivery.message;
    let id = message.id.to_string();
    let attributes: Vec<(&str, &str)> = message.attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
    let message = handler::Message {
        id: &id,
        queue: settings.queue.as_str(),
        body: &message.body,
        content_type: message.content_type.as_deref(),
        key: message.key.as_deref(),
        attributes: &attributes,
        attempt: delivery.attempt,
        enqueued_at_ms: message.enqueued_at_ms,
    };
    consumer.linecook_worker_handler().call_handle(store, message).await
}

/// Instantiates a component once, without a delivery, and checks the type of its handler.
pub(super) async fn try_out(
    linked: &Linked,
    module: ModuleHash,
    settings: &Arc<InstanceSettings>,
) -> Result<(), LoadError> {
    let output = Output::new(Origin { settings: settings.clone(), delivery: None, module });
    let refused = Arc::default();
    let mut store = store(linked, &refused, settings, &output).map_err(|cause| LoadError::Instantiate { cause })?;
    let instantiated = tokio::time::timeout(settings.timeout, linked.instance.instantiate_async(&mut store)).await;
    let checked = match instantiated {
        Err(_) => {
            let cause = format!("it was not ready after {}", format_duration(settings.timeout));
            Err(LoadError::Instantiate { cause })
        }
        Ok(Err(error)) => Err(LoadError::Instantiate { cause: failed(&error, &store, settings) }),
        Ok(Ok(instance)) => {
            let checked: wasmtime::Result<Consumer> = linked.exports.load(&mut store, &instance);
            checked.map(drop).map_err(|error| LoadError::WrongExport { cause: causes(&error) })
        }
    };
    output.finish();
    checked
}

fn answered(answer: Result<(), handler::Failure>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Ack,
        Err(handler::Failure::Retry(wish)) => {
            Outcome::Retry { reason: clip(wish.reason), after: wish.after_ms.map(delay) }
        }
        Err(handler::Failure::Snooze(after_ms)) => Outcome::Snooze { after: delay(after_ms) },
        Err(handler::Failure::DeadLetter(reason)) => Outcome::DeadLetter { reason: clip(reason) },
    }
}

fn retry(reason: String) -> Outcome {
    Outcome::Retry { reason: clip(reason), after: None }
}

fn delay(ms: u64) -> Duration {
    Duration::from_millis(ms).min(DELAY_MAX)
}

fn clip(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}

/// Why a call ended without an answer, for people.
fn failed(error: &Error, store: &Store<State>, settings: &InstanceSettings) -> String {
    if store.data().limiter.memory_denied() {
        // What the guest made of the denial (an abort, an exit) is a consequence.
        return format!("exceeded memory_limit ({})", bytes_text(settings.memory_bytes_max));
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return format!("the handler called exit with code {code}");
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        let text = trap.to_string();
        let what = text.strip_prefix("wasm trap: ").unwrap_or(&text);
        return match place(error) {
            Some(function) => format!("trapped: {what} (in {function})"),
            None => format!("trapped: {what}"),
        };
    }
    format!("failed: {}", error.root_cause())
}

/// The innermost function of a trap, if the component has names.
fn place(error: &Error) -> Option<String> {
    let name = error.downcast_ref::<WasmBacktrace>()?.frames().first()?.func_name()?;
    Some(format!("{:#}", rustc_demangle::demangle(name)))
}
