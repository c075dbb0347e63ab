//! From a delivery, or a batch of them, to what its end means.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::bindings::exports::linecook::worker::handler;
use super::bindings::messaging::wasi::messaging::types::Error as MessagingError;
use super::grants::Access;
use super::imports::queues::Sent;
use super::instance::{Answer, Answers, Instance, Work, timed_out};
use super::limits::{DELAY_MAX, Exceeded, REASON_BYTES_MAX};
use super::load::{Linked, LoadError, causes};
use super::output::{Handling, Origin, Output};
use super::reuse::{Instances, Kept};
use super::until::Until;
use super::{BatchReport, Called, InstanceSettings, Loaded, ModuleHash, Report, Slot};
use crate::config::units::format_duration;
use crate::delivery::{Delivery, Effects, Outcome, StateUse};

/// What becomes of a message for which a batch had no answer.
const NO_ANSWER: &str = "the handler gave no answer for this message";

/// What is called, where, and for whom.
pub struct Target<'a> {
    pub(super) module: &'a Arc<Loaded>,
    pub(super) worker: usize,
    pub(super) settings: &'a Arc<InstanceSettings>,
    /// Where instances are kept, and the generation of the module. Without it, each call has a fresh one.
    pub(super) reuse: Option<(&'a Instances, u64)>,
    /// When the call began, if somebody has just read the clock.
    pub(super) since: Option<Instant>,
}

/// How a call ended: all of it fits into registers, as what is handed on so often is not to be copied each time.
struct Ended {
    /// None: it failed, and what it left says why.
    answer: Option<Answer>,
    /// None: nothing beside its answer.
    left: Option<Box<Left>>,
}

/// What there is of a call beside its answer.
#[derive(Default)]
struct Left {
    sends: Vec<Sent>,
    /// What was done with durable state, by the places of the messages.
    state: Vec<(usize, StateUse)>,
    /// The limit of the output, if it was reached.
    exceeded: Option<Exceeded>,
    stderr_tail: String,
    /// Why there is no answer, for people.
    failure: String,
}

impl Left {
    /// Takes it out of an instance.
    fn of(instance: &mut Instance) -> Option<Box<Left>> {
        if instance.has_left_nothing() {
            return None;
        }
        let (exceeded, stderr_tail) = instance.finish_output();
        let (sends, state) = (instance.take_sends(), instance.take_state());
        Some(Box::new(Left { sends, state, exceeded, stderr_tail, failure: String::new() }))
    }
}

impl Ended {
    /// Without an answer, and for this reason. It may have left more.
    fn failed(left: Option<Box<Left>>, failure: String) -> Ended {
        Ended { answer: None, left: Some(Box::new(Left { failure, ..left.map_or_else(Left::default, |left| *left) })) }
    }
}

/// What a call runs in.
enum Vessel {
    /// Gone after the call.
    Fresh(Instance),
    /// It may be kept.
    Kept(Box<Kept>),
}

impl Vessel {
    fn instance(&mut self) -> &mut Instance {
        match self {
            Vessel::Fresh(instance) => instance,
            Vessel::Kept(kept) => &mut kept.instance,
        }
    }
}

impl<'a> Target<'a> {
    /// Calls an instance that is kept, if there is one, and keeps it. `generation` is the module's.
    #[must_use]
    pub fn reusing(mut self, instances: Option<&'a Instances>, generation: u64) -> Target<'a> {
        self.reuse = instances.map(|instances| (instances, generation));
        self
    }

    /// The time of the call counts from here, which is now.
    #[must_use]
    pub fn since(mut self, now: Instant) -> Target<'a> {
        self.since = Some(now);
        self
    }

    fn linked(&self) -> &Linked {
        &self.module.linked[self.worker]
    }

    /// Hands over one delivery. Never fails: whatever happens is the outcome.
    pub async fn call(&self, slot: Slot, delivery: &Delivery) -> Called {
        let (ended, elapsed) = self.run(Work::Single(delivery)).await;
        // The instance is gone, or idle: its slot is free.
        drop(slot);
        let report = match ended {
            Ended { answer: Some(Answer::Done), left: None } => None,
            ended => Some(Box::new(self.report(delivery, ended, elapsed))),
        };
        Called { elapsed, report }
    }

    fn report(&self, delivery: &Delivery, ended: Ended, elapsed: Duration) -> Report {
        let Left { sends, state, exceeded, stderr_tail, failure } = ended.left.map_or_else(Left::default, |left| *left);
        let outcome = match ended.answer {
            Some(Answer::Done) => Outcome::Ack,
            Some(Answer::Failed(failure)) => failed(*failure),
            // A component that takes batches is handed a batch of one.
            Some(Answer::Batch(answers)) => answered(std::slice::from_ref(delivery), *answers).remove(0),
            Some(Answer::MessagingError(error)) => messaging_failure(*error),
            None => retry(failure),
        };
        let outcome = self.told(outcome, exceeded.as_ref());
        let state = state.into_iter().next().map(|(_, state)| state).unwrap_or_default();
        Report { outcome, sends: sends.into_iter().map(|sent| sent.outgoing).collect(), state, stderr_tail, elapsed }
    }

    /// Hands over a batch. Never fails: whatever happens is in the report. A module that takes no batches fails it.
    pub async fn call_batch(&self, slot: Slot, deliveries: &[Delivery]) -> BatchReport {
        let (Ended { answer, left }, elapsed) = self.run(Work::Batch(deliveries)).await;
        drop(slot);
        let Left { sends, state, exceeded, stderr_tail, failure } = left.map_or_else(Left::default, |left| *left);
        let outcomes = match answer {
            Some(Answer::Batch(answers)) => Ok(answered(deliveries, *answers)),
            Some(Answer::Done | Answer::Failed(_) | Answer::MessagingError(_)) => {
                Err("one answer for many messages".to_owned())
            }
            None => Err(self.reason(failure, exceeded.as_ref())),
        };
        let told = |outcomes: Vec<Outcome>| outcomes.into_iter().map(|one| self.told(one, exceeded.as_ref())).collect();
        let outcomes = outcomes.map(told);
        let (mut effects, mut shared_sends) = (BTreeMap::<usize, Effects>::new(), Vec::new());
        for Sent { with_ack_of, outgoing } in sends {
            match with_ack_of {
                Some(place) => effects.entry(place).or_default().sends.push(outgoing),
                None => shared_sends.push(outgoing),
            }
        }
        state.into_iter().for_each(|(place, state)| effects.entry(place).or_default().state = state);
        BatchReport { outcomes, effects, shared_sends, stderr_tail, elapsed }
    }

    /// The call, and how long it took.
    async fn run(&self, work: Work<'_>) -> (Ended, Duration) {
        let started = self.since.unwrap_or_else(Instant::now);
        let (_running, kept) = match self.reuse {
            Some((instances, _)) => {
                let (running, kept) = instances.take(self.module);
                (Some(running), kept)
            }
            None => (None, None),
        };
        let mut vessel = kept.map(Vessel::Kept);
        if let Some(vessel) = &mut vessel {
            vessel.instance().begin(self.handling(work));
        }
        let ended = {
            // A panic of the host costs this delivery, as one of the guest does, and not the task that works off the queue.
            // Pinned here, as every large future of a call is where it is made: so nobody moves it.
            let run = pin!(self.run_in(&mut vessel, work, started));
            AssertUnwindSafe(run).catch_unwind().await
        };
        let ended = ended.unwrap_or_else(|_| {
            tracing::error!(consumer = self.settings.consumer, "a host function panicked; this is a bug in linecook");
            // What it holds may be in any state.
            _ = panic::catch_unwind(AssertUnwindSafe(|| {
                vessel.take().map(|mut vessel| vessel.instance().finish_output())
            }));
            Ended::failed(None, "linecook itself failed during the call; its log has more".to_owned())
        });
        let now = Instant::now();
        if let (Some((instances, _)), Some(Vessel::Kept(kept))) = (self.reuse, vessel) {
            instances.give_back(kept, work.deliveries().len(), now);
        }
        (ended, now.saturating_duration_since(started))
    }

    /// The outcome as it is shown: without secrets in its reason, cut to length, and with what else is worth knowing.
    fn told(&self, outcome: Outcome, exceeded: Option<&Exceeded>) -> Outcome {
        match outcome {
            Outcome::Retry { reason, after } => Outcome::Retry { reason: self.reason(reason, exceeded), after },
            Outcome::DeadLetter { reason } => Outcome::DeadLetter { reason: self.reason(reason, exceeded) },
            Outcome::Ack | Outcome::Snooze { .. } => outcome,
        }
    }

    fn reason(&self, reason: String, exceeded: Option<&Exceeded>) -> String {
        let mut reason = self.module.access.secrets.mask(Cow::Owned(reason)).into_owned();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        if let Some(exceeded) = exceeded {
            reason = format!("{reason} (and {exceeded}: the rest of its output is lost)");
        }
        reason
    }

    /// The call in an instance that was kept, or in a fresh one. It is there after the call only if it may be kept.
    async fn run_in(&self, vessel: &mut Option<Vessel>, work: Work<'_>, started: Instant) -> Ended {
        if vessel.is_none() {
            let output = Output::new(self.origin(work));
            let fresh = match Instance::new(self.linked(), &self.module.access, self.settings, output) {
                Ok(fresh) => fresh,
                Err(why) => return Ended::failed(None, why),
            };
            *vessel = Some(match self.reuse {
                Some((instances, generation)) => Vessel::Kept(instances.start(fresh, self.module, generation)),
                None => Vessel::Fresh(fresh),
            });
        }
        let used = vessel.as_mut().expect("it was there, or has just been made");
        let instance = used.instance();
        // The call, for as long as it may take since it was started.
        let handled = {
            let call = pin!(instance.handle(self.linked(), self.settings, work));
            Until::new(call, started, self.settings.timeout).await
        };
        let left = Left::of(instance);
        let ended = match handled {
            Some(Ok(answer)) => Ended { answer: Some(answer), left },
            Some(Err(error)) => Ended::failed(left, instance.failed(&error)),
            None => Ended::failed(left, timed_out(self.settings)),
        };
        let is_over_limit = ended.left.as_ref().is_some_and(|left| left.exceeded.is_some());
        if ended.answer.is_none() || is_over_limit || matches!(used, Vessel::Fresh(_)) {
            // In the time of this call, and not in that of the next one.
            *vessel = None;
        }
        ended
    }

    fn origin(&self, work: Work<'_>) -> Origin {
        let (settings, access) = (self.settings.clone(), self.module.access.clone());
        Origin { settings, access, module: self.module.hash, handling: self.handling(work) }
    }

    fn handling(&self, work: Work<'_>) -> Handling {
        let deliveries = work.deliveries();
        Handling {
            delivery: deliveries.first().map(|first| (first.message.id, first.attempt)),
            batch: (deliveries.len() > 1).then_some(deliveries.len()),
            generation: self.reuse.map(|(_, generation)| generation),
        }
    }
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
    let (settings_of, access_of) = (settings.clone(), access.clone());
    let origin = Origin { settings: settings_of, access: access_of, module, handling: Handling::default() };
    let output = Output::new(origin);
    let instance = Instance::new(linked, access, settings, output.clone());
    let mut instance = instance.map_err(|cause| LoadError::Instantiate { cause })?;
    let checked = match tokio::time::timeout(settings.timeout, instance.instantiate(linked)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Ok(error))) => Err(LoadError::WrongExport { cause: causes(&error) }),
        // Its type is private to wasmtime, so that its text is all there is to know it by; a test looks after it.
        Ok(Err(Err(error))) if error.root_cause().to_string().contains("instance count too high") => {
            Err(too_complex("limits.core_instances", settings.limits.core_instances))
        }
        Ok(Err(Err(error))) => Err(LoadError::Instantiate { cause: instance.failed(&error) }),
        Err(_) => {
            let cause = format!("it was not ready after {}", format_duration(settings.timeout));
            Err(LoadError::Instantiate { cause })
        }
    };
    output.finish();
    checked
}

fn too_complex(key: &'static str, limit: u32) -> LoadError {
    LoadError::TooComplex { exceeded: Exceeded::new(key, limit.to_string()).to_string() }
}

/// The answers in the order of the messages.
fn answered(deliveries: &[Delivery], Answers { ids, answers }: Answers) -> Vec<Outcome> {
    let mut outcomes: Vec<Option<Outcome>> = deliveries.iter().map(|_| None).collect();
    let mut strays = 0usize;
    let mut next = 0;
    for answer in answers {
        // Most handlers answer in order, with the text that they were given.
        let place = match ids.get(next) {
            Some(id) if id == answer.message_id.as_bytes() => Some(next),
            _ => {
                let id = answer.message_id.parse().ok();
                (next..deliveries.len()).chain(0..next).find(|place| Some(deliveries[*place].message.id) == id)
            }
        };
        let Some(place) = place else {
            strays += 1;
            continue;
        };
        next = place + 1;
        outcomes[place].get_or_insert_with(|| answer.outcome.map_or_else(failed, |()| Outcome::Ack));
    }
    if strays > 0 {
        tracing::warn!(strays, "a handler answered for messages that are not in its batch; ignored");
    }
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| retry(NO_ANSWER.to_owned()))).collect()
}

fn failed(failure: handler::Failure) -> Outcome {
    match failure {
        handler::Failure::Retry(wish) => Outcome::Retry { reason: wish.reason, after: wish.after_ms.map(delay) },
        handler::Failure::Snooze(after_ms) => Outcome::Snooze { after: delay(after_ms) },
        handler::Failure::DeadLetter(reason) => Outcome::DeadLetter { reason },
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

#[cfg(test)]
mod tests {
    use super::super::bindings::batch::exports::linecook::worker::batch_handler;
    use super::*;
    use crate::delivery::{MessageId, sample};

    fn answer(message_id: String, outcome: Result<(), handler::Failure>) -> batch_handler::Answer {
        batch_handler::Answer { message_id, outcome }
    }

    #[test]
    fn answers_find_their_messages_in_any_order_and_a_missing_one_is_a_failure() {
        let deliveries: Vec<_> = (0..4).map(|sequence| sample(sequence, 1, 1)).collect();
        let id = |sequence| MessageId::new(1, sequence).to_string();
        let ids = deliveries.iter().map(|one| {
            let mut text = [0; MessageId::TEXT_BYTES];
            one.message.id.encode(&mut text);
            text
        });
        let ids = ids.collect();
        let answers = vec![
            answer(id(3), Ok(())),
            answer("not an id".into(), Ok(())),
            answer(id(0), Err(handler::Failure::DeadLetter("no".into()))),
            answer(id(9), Ok(())),
            // As it is understood, and not as it was given.
            answer(id(1).to_uppercase(), Ok(())),
            // The first answer for a message counts.
            answer(id(0), Ok(())),
        ];
        let outcomes = answered(&deliveries, Answers { ids, answers });
        let dead = Outcome::DeadLetter { reason: "no".into() };
        assert_eq!(outcomes, [dead, Outcome::Ack, retry(NO_ANSWER.to_owned()), Outcome::Ack]);
    }
}
