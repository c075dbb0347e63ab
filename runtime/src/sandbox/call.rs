//! One delivery in a fresh instance: limits, the call, and what its end means.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use wasmtime::component::ResourceTableError;
use wasmtime::{Error, Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::bindings::exports::linecook::worker::handler;
use super::bindings::messaging::wasi::messaging::types::Error as MessagingError;
use super::cpu::Counted;
use super::grants::{Access, wasi};
use super::imports::messaging;
use super::imports::sockets::Sockets;
use super::limits::{DELAY_MAX, Exceeded, HANDLES_MAX, REASON_BYTES_MAX, bytes_text};
use super::load::{Exports, Linked, LoadError, causes};
use super::output::{Origin, Output};
use super::state::State;
use super::{InstanceSettings, ModuleHash, Report};
use crate::config::Limits;
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
    access: &Arc<Access>,
    settings: &Arc<InstanceSettings>,
    delivery: &Delivery,
) -> Report {
    let started = Instant::now();
    let delivered = Some((delivery.message.id, delivery.attempt));
    let origin = Origin { settings: settings.clone(), access: access.clone(), delivery: delivered, module };
    let output = Output::new(origin);
    // A panic of the host costs this delivery, as one of the guest does, and not the task that works off the queue.
    let ended = AssertUnwindSafe(run(linked, access, settings, delivery, &output)).catch_unwind().await;
    let Ended { outcome, sends } = ended.unwrap_or_else(|_| {
        tracing::error!(consumer = settings.consumer, message_id = %delivery.message.id, "a host function panicked; this is a bug in linecook");
        Ended { outcome: retry("linecook itself failed during the call; its log has more".to_owned()), sends: Vec::new() }
    });
    let outcome = told(outcome, access, &output);
    Report { outcome, sends, stderr_tail: output.finish(), elapsed: started.elapsed() }
}

/// The outcome as it is shown: without secrets in its reason, cut to length, and with what else is worth knowing.
fn told(outcome: Outcome, access: &Access, output: &Output) -> Outcome {
    let told = |reason: String| {
        let mut reason = access.secrets.mask(Cow::Owned(reason)).into_owned();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        if let Some(exceeded) = output.exceeded() {
            reason = format!("{reason} (and {exceeded}: the rest of its output is lost)");
        }
        reason
    };
    match outcome {
        Outcome::Retry { reason, after } => Outcome::Retry { reason: told(reason), after },
        Outcome::DeadLetter { reason } => Outcome::DeadLetter { reason: told(reason) },
        Outcome::Ack | Outcome::Snooze { .. } => outcome,
    }
}

async fn run(
    linked: &Linked,
    access: &Arc<Access>,
    settings: &Arc<InstanceSettings>,
    delivery: &Delivery,
    output: &Output,
) -> Ended {
    let mut store = match store(linked, access, settings, output) {
        Ok(store) => store,
        Err(reason) => return Ended { outcome: retry(reason), sends: Vec::new() },
    };
    let cpu_time = store.data().cpu_time.clone();
    let handled = Counted::new(handle(linked, settings, delivery, &mut store), cpu_time);
    let outcome = match tokio::time::timeout(settings.timeout, handled).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => retry(failed(&error, &store)),
        Err(_) => retry(format!("timed out after {}", format_duration(settings.timeout))),
    };
    Ended { outcome, sends: store.data_mut().sends.take() }
}

/// A store with all limits in force.
fn store(
    linked: &Linked,
    access: &Arc<Access>,
    settings: &Arc<InstanceSettings>,
    output: &Output,
) -> Result<Store<State>, String> {
    let sockets = linked.uses_sockets.then(|| Arc::new(Sockets::new(settings, access)));
    let wasi = wasi(settings, access, sockets.as_ref(), output).map_err(|(dir, error)| {
        format!("the granted folder {} can't be opened: {}", dir.host.display(), causes(&error))
    })?;
    let state = State::new(settings, access, wasi, sockets, output);
    let mut store = Store::new(linked.instance.engine(), state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(usize::try_from(settings.limits.host_call_bytes).unwrap_or(usize::MAX));
    store.set_epoch_deadline(1);
    // Tokio's own yield: it comes back only after timers and the network had their turn, so that the timeout of a guest
    // that computes for ever fires, and other guests on this worker go on.
    store.epoch_deadline_callback(|store| {
        let State { cpu_time, outside, .. } = store.data();
        // Without a limit of its own, what it computes ends with the timeout.
        if let Some(limit) = outside.settings.limits.cpu_time {
            cpu_time.tick(limit)?;
        }
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    Ok(store)
}

async fn handle(
    linked: &Linked,
    settings: &InstanceSettings,
    delivery: &Delivery,
    store: &mut Store<State>,
) -> wasmtime::Result<Outcome> {
    let instance = linked.instance.instantiate_async(&mut *store).await?;
    let consumer = match &*linked.exports {
        Exports::Consumer(exports) => exports.load(&mut *store, &instance)?,
        Exports::Messaging(exports) => {
            let guest = exports.load(&mut *store, &instance)?;
            let message = messaging::hand_over(store.data_mut(), delivery)?;
            let answer = guest.wasi_messaging_incoming_handler().call_handle(store, message).await?;
            return Ok(answer.map_or_else(messaging_failure, |()| Outcome::Ack));
        }
    };
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
    Ok(answered(consumer.linecook_worker_handler().call_handle(store, message).await?))
}

/// Instantiates a component once, without a delivery, and checks the type of its handler.
pub(super) async fn try_out(
    linked: &Linked,
    module: ModuleHash,
    access: &Arc<Access>,
    settings: &Arc<InstanceSettings>,
) -> Result<(), LoadError> {
    if let Some(resources) = linked.instance.component().resources_required()
        && resources.num_tables > settings.limits.tables
    {
        return Err(too_complex("limits.tables", settings.limits.tables));
    }
    let tried = try_within(linked, module, access, settings).await;
    if !matches!(tried, Err(LoadError::Instantiate { .. })) {
        return tried;
    }
    // Wasmtime does not say which limit it was in a way that can be asked for: so whether it was the number of instances is
    // found out with as many as there can be.
    let limits = Limits { core_instances: Limits::CORE_INSTANCES_MAX, ..settings.limits.clone() };
    let lifted = Arc::new(InstanceSettings { limits, ..InstanceSettings::clone(settings) });
    match try_within(linked, module, access, &lifted).await {
        Ok(()) => Err(too_complex("limits.core_instances", settings.limits.core_instances)),
        Err(_) => tried,
    }
}

fn too_complex(key: &'static str, limit: u32) -> LoadError {
    LoadError::TooComplex { exceeded: Exceeded::new(key, limit.to_string()).to_string() }
}

async fn try_within(
    linked: &Linked,
    module: ModuleHash,
    access: &Arc<Access>,
    settings: &Arc<InstanceSettings>,
) -> Result<(), LoadError> {
    let output = Output::new(Origin { settings: settings.clone(), access: access.clone(), delivery: None, module });
    let mut store = store(linked, access, settings, &output).map_err(|cause| LoadError::Instantiate { cause })?;
    let cpu_time = store.data().cpu_time.clone();
    let instantiated = Counted::new(linked.instance.instantiate_async(&mut store), cpu_time);
    let checked = match tokio::time::timeout(settings.timeout, instantiated).await {
        Err(_) => {
            let cause = format!("it was not ready after {}", format_duration(settings.timeout));
            Err(LoadError::Instantiate { cause })
        }
        Ok(Err(error)) => Err(LoadError::Instantiate { cause: failed(&error, &store) }),
        Ok(Ok(instance)) => {
            let checked = match &*linked.exports {
                Exports::Consumer(exports) => exports.load(&mut store, &instance).map(drop),
                Exports::Messaging(exports) => exports.load(&mut store, &instance).map(drop),
            };
            checked.map_err(|error| LoadError::WrongExport { cause: causes(&error) })
        }
    };
    output.finish();
    checked
}

fn answered(answer: Result<(), handler::Failure>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Ack,
        Err(handler::Failure::Retry(wish)) => Outcome::Retry { reason: wish.reason, after: wish.after_ms.map(delay) },
        Err(handler::Failure::Snooze(after_ms)) => Outcome::Snooze { after: delay(after_ms) },
        Err(handler::Failure::DeadLetter(reason)) => Outcome::DeadLetter { reason },
    }
}

/// An error of `wasi:messaging` says what failed, not what is to be done: it is a retry.
fn messaging_failure(error: MessagingError) -> Outcome {
    retry(match error {
        MessagingError::Timeout => "timeout".to_owned(),
        MessagingError::Connection(why) => format!("connection: {why}"),
        MessagingError::PermissionDenied(why) => format!("permission denied: {why}"),
        MessagingError::Other(why) => why,
    })
}

fn retry(reason: String) -> Outcome {
    Outcome::Retry { reason, after: None }
}

fn delay(ms: u64) -> Duration {
    Duration::from_millis(ms).min(DELAY_MAX)
}

/// Why a call ended without an answer, for people.
fn failed(error: &Error, store: &Store<State>) -> String {
    let State { limiter, outside, .. } = store.data();
    if let Some(exceeded) = limiter.exceeded() {
        // What the guest made of the denial (an abort, an exit) is a consequence.
        return exceeded.to_string();
    }
    if let Some(exceeded) = error.downcast_ref::<Exceeded>() {
        return exceeded.to_string();
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return format!("the handler called exit with code {code}");
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return format!("held more than {HANDLES_MAX} files, sockets, requests and other handles at once");
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        let text = trap.to_string();
        let what = text.strip_prefix("wasm trap: ").unwrap_or(&text);
        return match place(error) {
            Some(function) => format!("trapped: {what} (in {function})"),
            None => format!("trapped: {what}"),
        };
    }
    let cause = error.root_cause().to_string();
    // Its type is private to wasmtime, so that its text is all there is to know it by. It decides about a text, and a test
    // looks after it.
    if cause.contains("fuel allocated for hostcalls") {
        let limit = bytes_text(outside.settings.limits.host_call_bytes);
        return Exceeded::new("limits.host_call_bytes", limit).to_string();
    }
    format!("failed: {cause}")
}

/// The innermost function of a trap, if the component has names.
fn place(error: &Error) -> Option<String> {
    let name = error.downcast_ref::<WasmBacktrace>()?.frames().first()?.func_name()?;
    Some(format!("{:#}", rustc_demangle::demangle(name)))
}
