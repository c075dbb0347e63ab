//! Histories in a run: what they hold, and what a full disk has taken of them.

use super::{QUEUES, Run, name};
use crate::QueueName;
use crate::simulation::history::FoundKept;

impl Run {
    /// How much each history had to give up.
    pub(super) fn given_up(&self) -> [u64; QUEUES.len()] {
        // Not by the statistics: those of a queue that is retracted and empty are not shown.
        let state = self.store.as_ref().expect("the store is open").engine.shared.state();
        let number = |queue| state.queues.known(&name(queue));
        QUEUES.map(|queue| number(queue).map_or(0, |number| state.history.counts(number).given_up))
    }

    pub(super) fn note_given_up(&mut self, before: &[u64; QUEUES.len()]) {
        for ((queue, now), before) in QUEUES.into_iter().zip(self.given_up()).zip(before) {
            if self.disk_is_small && now > *before {
                self.gave_up.insert(name(queue));
            }
        }
    }

    pub(super) fn try_histories(&self) -> Result<Vec<(QueueName, Vec<FoundKept>)>, String> {
        QUEUES.map(name).into_iter().map(|queue| Ok((queue.clone(), FoundKept::all(self.face(), &queue)?))).collect()
    }
}
