//! One instance of a component: its store with all limits in force, its output, and the calls of its handler.

use std::pin::pin;
use std::sync::Arc;

use wasmtime::component::{ResourceTableError, TypedFunc};
use wasmtime::{Error, Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::InstanceSettings;
use super::bindings::Consumer;
use super::bindings::batch::BatchConsumer;
use super::bindings::batch::exports::linecook::worker::batch_handler;
use super::bindings::exports::linecook::worker::handler;
use super::bindings::messaging::Messaging;
use super::bindings::messaging::wasi::messaging::types::Error as MessagingError;
use super::cpu::{Counted, CpuTime};
use super::grants::{Access, wasi};
use super::imports::messaging;
use super::imports::queues::Sent;
use super::imports::sockets::Sockets;
use super::limits::{Exceeded, HANDLES_MAX, bytes_text};
use super::load::{Exports, Linked, causes};
use super::output::{Handling, Output};
use super::state::State;
use crate::config::units::format_duration;
use crate::delivery::{Delivery, MessageId, StateUse};

/// An instance, or what one needs before it is instantiated.
pub(super) struct Instance {
    store: Store<State>,
    output: Output,
    /// That of its state.
    cpu_time: Arc<CpuTime>,
    handler: Option<Handler>,
}

/// The exported function.
enum Handler {
    Single(Consumer),
    Batch(BatchConsumer),
    Messaging(Messaging),
}

/// What a handler is called with.
#[derive(Clone, Copy)]
pub(super) enum Work<'a> {
    Single(&'a Delivery),
    Batch(&'a [Delivery]),
}

/// What a handler answered. It fits into a register: it is handed through many hands.
pub(super) enum Answer {
    /// The one message is done.
    Done,
    Failed(Box<handler::Failure>),
    Batch(Box<Answers>),
    MessagingError(Box<MessagingError>),
}

/// Those for the messages of a batch, and the ids that it had.
pub(super) struct Answers {
    pub(super) ids: Vec<[u8; MessageId::TEXT_BYTES]>,
    pub(super) answers: Vec<batch_handler::Answer>,
}

const _: () = assert!(size_of::<Result<Answer, Error>>() == 16);

impl<'a> Work<'a> {
    /// The messages, oldest first.
    pub(super) fn deliveries(self) -> &'a [Delivery] {
        match self {
            Work::Single(delivery) => std::slice::from_ref(delivery),
            Work::Batch(deliveries) => deliveries,
        }
    }
}

impl Instance {
    /// A store with all limits in force, and nothing in it yet. The error is for people.
    pub(super) fn new(
        linked: &Linked,
        access: &Arc<Access>,
        settings: &Arc<InstanceSettings>,
        output: Output,
    ) -> Result<Instance, String> {
        let sockets = linked.uses_sockets.then(|| Arc::new(Sockets::new(settings, access)));
        let wasi = wasi(settings, access, sockets.as_ref(), &output).map_err(|(dir, error)| {
            format!("the granted folder {} can't be opened: {}", dir.host.display(), causes(&error))
        })?;
        let state = State::new(settings, access, wasi, sockets, &output);
        let cpu_time = state.cpu_time.clone();
        let mut store = Store::new(linked.instance.engine(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(usize::try_from(settings.limits.host_call_bytes).unwrap_or(usize::MAX));
        store.set_epoch_deadline(1);
        // Tokio's own yield: it comes back only after timers and the network had their turn, so that the timeout of a
        // guest that computes for ever fires, and other guests on this worker go on.
        store.epoch_deadline_callback(|store| {
            let State { cpu_time, outside, .. } = store.data();
            // Without a limit of its own, what it computes ends with the timeout.
            if let Some(limit) = outside.settings.limits.cpu_time {
                cpu_time.tick(limit)?;
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        Ok(Instance { store, output, cpu_time, handler: None })
    }

    /// From now on, it works for another delivery, and what counts by delivery counts from zero.
    pub(super) fn begin(&mut self, handling: Handling) {
        self.output.begin(handling);
        // What was an epoch's end while it was idle is none of this delivery: its time need not be measured for that.
        self.store.set_epoch_deadline(1);
        let state = self.store.data_mut();
        state.cpu_time.begin();
        state.random_bytes = 0;
        if let Some(sockets) = &state.sockets {
            sockets.begin();
        }
    }

    /// Whether there is nothing to take of what the handler did beside its answer.
    pub(super) fn has_left_nothing(&self) -> bool {
        let state = self.store.data();
        state.sends.is_empty() && state.session.is_untouched() && self.output.is_untouched()
    }

    /// See [`Output::finish`].
    pub(super) fn finish_output(&self) -> (Option<Exceeded>, String) {
        self.output.finish()
    }

    /// Instantiates the component, and checks the type of its handler. `Err(Ok(_))`: it is of another type.
    pub(super) async fn instantiate(&mut self, linked: &Linked) -> Result<(), Result<Error, Error>> {
        let instance = {
            let instantiated = pin!(linked.instance.instantiate_async(&mut self.store));
            Counted::new(instantiated, &self.cpu_time).await.map_err(Err)?
        };
        let handler = match &*linked.exports {
            Exports::Consumer(indices) => indices.load(&mut self.store, &instance).map(Handler::Single),
            Exports::Batch(indices) => indices.load(&mut self.store, &instance).map(Handler::Batch),
            Exports::Messaging(indices) => indices.load(&mut self.store, &instance).map(Handler::Messaging),
        };
        self.handler = Some(handler.map_err(Ok)?);
        Ok(())
    }

    /// Calls the handler; instantiates first if that was not done. After an error, or if it is dropped before its end,
    /// the instance is of no use any more.
    pub(super) async fn handle(
        &mut self,
        linked: &Linked,
        settings: &InstanceSettings,
        work: Work<'_>,
    ) -> Result<Answer, Error> {
        if self.handler.is_none() {
            self.instantiate(linked).await.map_err(|(Ok(error) | Err(error))| error)?;
        }
        let Instance { store, handler, cpu_time, .. } = self;
        let handler = handler.as_ref().expect("it was just instantiated");
        Counted::new(pin!(handler.call(store, settings, work)), cpu_time).await
    }

    /// What was sent so far.
    pub(super) fn take_sends(&mut self) -> Vec<Sent> {
        self.store.data_mut().sends.take()
    }

    /// What was read and written of durable state so far, by the places of the messages.
    pub(super) fn take_state(&mut self) -> Vec<(usize, StateUse)> {
        let State { session, outside, .. } = self.store.data_mut();
        outside.settings.state.as_ref().map_or_else(Vec::new, |state| session.take(state))
    }

    /// Whether it can be called for another delivery: it came up against no limit but perhaps that of its output, which it may
    /// have coped with, and leaves no messages in the host's memory, of which there would be more each time.
    pub(super) fn is_as_before(&self) -> bool {
        let state = self.store.data();
        let limit_hit = state.limiter.limit_hit()
            || state.sends.limit_hit()
            || state.session.limit_hit()
            || state.outside.limit_hit;
        !limit_hit && state.held.is_empty()
    }

    /// Why a call ended without an answer, for people.
    pub(super) fn failed(&self, error: &Error) -> String {
        let State { limiter, outside, .. } = self.store.data();
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
        // Its type is private to wasmtime, so that its text is all there is to know it by. It decides about a text, and a
        // test looks after it.
        if cause.contains("fuel allocated for hostcalls") {
            let limit = bytes_text(outside.settings.limits.host_call_bytes);
            return Exceeded::new("limits.host_call_bytes", limit).to_string();
        }
        format!("failed: {cause}")
    }
}

impl Handler {
    async fn call(
        &self,
        store: &mut Store<State>,
        settings: &InstanceSettings,
        work: Work<'_>,
    ) -> Result<Answer, Error> {
        store.data_mut().sends.begin(work.deliveries().iter().map(|delivery| delivery.message.id));
        store.data_mut().session.begin(work.deliveries().len());
        match (self, work) {
            (Handler::Single(consumer), Work::Single(delivery)) => {
                let mut text = [0; MessageId::TEXT_BYTES];
                let attributes = attributes(delivery);
                let message = message(settings, delivery.message.id.encode(&mut text), &attributes, delivery);
                let handle = by_reference(consumer.linecook_worker_handler().func_handle());
                let (answer,) = handle.call_async(store, (&message,)).await?;
                Ok(answer.map_or_else(|failure| Answer::Failed(Box::new(failure)), |()| Answer::Done))
            }
            (Handler::Batch(consumer), work) => {
                let deliveries = work.deliveries();
                let mut ids = vec![[0; MessageId::TEXT_BYTES]; deliveries.len()];
                let attributes: Vec<_> = deliveries.iter().map(attributes).collect();
                let texts = ids.iter_mut().zip(deliveries).map(|(id, one)| one.message.id.encode(id));
                let parts = texts.zip(&attributes).zip(deliveries);
                let messages: Vec<_> =
                    parts.map(|((id, attributes), one)| message(settings, id, attributes, one)).collect();
                let answers = consumer.linecook_worker_batch_handler().call_handle_batch(store, &messages).await?;
                Ok(Answer::Batch(Box::new(Answers { ids, answers })))
            }
            (Handler::Messaging(guest), Work::Single(delivery)) => {
                let message = messaging::hand_over(store.data_mut(), delivery)?;
                let answer = guest.wasi_messaging_incoming_handler().call_handle(store, message).await?;
                Ok(answer.map_or_else(|error| Answer::MessagingError(Box::new(error)), |()| Answer::Done))
            }
            (Handler::Single(_) | Handler::Messaging(_), Work::Batch(_)) => {
                Err(Error::msg("this component takes no batches"))
            }
        }
    }
}

/// The same function, to be called with a reference: by value, a message is moved from place to place on its way to where it
/// is lowered.
#[expect(
    unsafe_code,
    reason = "the bindings take parameters by value, and to check the type anew takes longer than the call"
)]
fn by_reference<'a>(
    function: TypedFunc<(handler::Message<'a>,), (Result<(), handler::Failure>,)>,
) -> TypedFunc<(&'a handler::Message<'a>,), (Result<(), handler::Failure>,)> {
    // SAFETY: the type was checked for the bindings, and a reference has the component type of what it refers to.
    unsafe { TypedFunc::new_unchecked(*function.func()) }
}

/// The reason of a call that used up its time.
pub(super) fn timed_out(settings: &InstanceSettings) -> String {
    format!("timed out after {}", format_duration(settings.timeout))
}

fn attributes(delivery: &Delivery) -> Vec<(&str, &str)> {
    delivery.message.attributes.iter().map(|(name, value)| (&**name, &**value)).collect()
}

fn message<'a>(
    settings: &'a InstanceSettings,
    id: &'a str,
    attributes: &'a [(&'a str, &'a str)],
    delivery: &'a Delivery,
) -> handler::Message<'a> {
    let message = &delivery.message;
    handler::Message {
        id,
        queue: settings.queue.as_str(),
        body: &message.body,
        content_type: message.content_type.as_deref(),
        key: message.key.as_deref(),
        attributes,
        attempt: delivery.attempt,
        enqueued_at_ms: message.enqueued_at_ms,
    }
}

/// The innermost function of a trap, if the component has names.
fn place(error: &Error) -> Option<String> {
    let name = error.downcast_ref::<WasmBacktrace>()?.frames().first()?.func_name()?;
    Some(format!("{:#}", rustc_demangle::demangle(name)))
}
