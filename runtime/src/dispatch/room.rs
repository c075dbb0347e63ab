//! Who may run how many deliveries on one worker, while `queue.toml` changes who is at work there.
//!
//! Each puller has a [`Seat`]. What the seats of a worker hold together never goes over the instances that the worker's
//! pool was made for, whatever is still running for a consumer that was changed or has gone: what runs is counted until
//! it has ended, and those that are to have more wait for it. When nothing changes, every seat holds its consumer's share
//! and nobody asks here for anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The instances of one worker.
#[derive(Debug)]
pub(super) struct Room {
    // Shared by the pullers of one worker and whoever changes the consumers; taken only while something changes.
    ledger: Mutex<Ledger>,
    changed: watch::Sender<()>,
}

/// What one puller may use of its worker. It is given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    room: Arc<Room>,
    consumer: Arc<str>,
    line: u64,
    held: usize,
    settled: bool,
    changed: watch::Receiver<()>,
}

#[derive(Debug, Default)]
struct Ledger {
    slots: usize,
    accounts: BTreeMap<Arc<str>, Account>,
}

/// One consumer.
#[derive(Debug, Default)]
struct Account {
    /// The share of the consumer as it is now; 0 if it has gone.
    share: usize,
    /// The puller as `queue.toml` is now. Those before it only let end what runs.
    line: Option<u64>,
    /// By puller.
    held: BTreeMap<u64, usize>,
}

impl Room {
    /// For a worker that holds so many instances at once.
    pub(super) fn new(slots: usize) -> Arc<Room> {
        let ledger = Mutex::new(Ledger { slots, ..Ledger::default() });
        Arc::new(Room { ledger, changed: watch::Sender::new(()) })
    }

    /// A place for a puller, in place of the one that the consumer has had so far. `line` is a number of its own.
    pub(super) fn seat(self: &Arc<Room>, consumer: &Arc<str>, line: u64) -> Seat {
        self.change(|ledger| {
            let account = ledger.accounts.entry(consumer.clone()).or_default();
            account.line = Some(line);
            account.held.insert(line, 0);
        });
        let changed = self.changed.subscribe();
        Seat { room: self.clone(), consumer: consumer.clone(), line, held: 0, settled: false, changed }
    }

    /// Gives a consumer another share.
    pub(super) fn set_share(&self, consumer: &Arc<str>, share: usize) {
        self.change(|ledger| ledger.accounts.entry(consumer.clone()).or_default().share = share);
    }

    /// A consumer has gone, or is about to be replaced: what it holds goes as its deliveries end.
    pub(super) fn close(&self, consumer: &str) {
        self.change(|ledger| {
            if let Some(account) = ledger.accounts.get_mut(consumer) {
                (account.share, account.line) = (0, None);
            }
            ledger.forget(consumer);
        });
    }

    /// Makes every puller look at what it is to do.
    pub(super) fn wake(&self) {
        self.changed.send_replace(());
    }

    fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let result = change(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake();
        result
    }
}

impl Seat {
    /// Deliveries that may run at once, if so many run now. The number changes while others give room back or take it.
    pub(super) fn permits(&mut self, running: usize) -> usize {
        // What holds less than its share was told to wait; what holds more runs down.
        if !self.settled {
            let (held, settled) = {
                let mut ledger = self.room.ledger.lock().unwrap_or_else(PoisonError::into_inner);
                ledger.settle(&self.consumer, self.line, running)
            };
            if held < self.held {
                self.room.wake();
            }
            (self.held, self.settled) = (held, settled);
        }
        self.held
    }

    /// Waits until there may be another number, or something else to do.
    pub(super) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // The room is held by this seat, so that this can't be.
            std::future::pending::<()>().await;
        }
        self.settled = false;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.change(|ledger| {
            if let Some(account) = ledger.accounts.get_mut(&self.consumer) {
                account.held.remove(&self.line);
                account.line = account.line.filter(|line| *line != self.line);
            }
            ledger.forget(&self.consumer);
        });
    }
}

impl Ledger {
    /// Gives a puller what it may have now, and says whether that stays so until somebody changes something.
    fn settle(&mut self, consumer: &str, line: u64, running: usize) -> (usize, bool) {
        let all: usize = self.accounts.values().flat_map(|account| account.held.values()).sum();
        let Some(account) = self.accounts.get_mut(consumer) else { return (running, false) };
        let held = account.held.get(&line).copied().unwrap_or_default();
        let of_others: usize = account.held.values().sum::<usize>() - held;
        let share = if account.line == Some(line) { account.share } else { 0 };
        // What runs of the consumer as it was before takes its place in what the consumer may run now.
        let wanted = share.saturating_sub(of_others);
        let free = self.slots.saturating_sub(all);
        let now = wanted.min(held + free).max(running.min(held));
        account.held.insert(line, now);
        (now, now == share && of_others == 0)
    }

    /// Forgets a consumer that has gone when nothing of it runs any more.
    fn forget(&mut self, consumer: &str) {
        if self.accounts.get(consumer).is_some_and(|account| account.line.is_none() && account.held.is_empty()) {
            self.accounts.remove(consumer);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn consumer(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn a_consumer_that_was_changed_runs_no_more_at_once_with_what_ran_before() {
        let (room, name) = (Room::new(100), consumer("welcome"));
        let mut before = room.seat(&name, 1);
        room.set_share(&name, 4);
        assert_eq!((before.permits(0), before.permits(3)), (4, 4));
        room.close(&name);
        let mut after = room.seat(&name, 2);
        room.set_share(&name, 4);
        before.settled = false;
        assert_eq!(before.permits(3), 3, "it starts no more");
        assert_eq!(after.permits(0), 1);
        before.permits(2);
        assert_eq!(after.permits(1), 2);
        drop(before);
        assert_eq!((after.permits(1), after.settled), (4, true));
        drop(after);
        room.close(&name);
        assert!(room.ledger.lock().unwrap().accounts.is_empty());
    }

    #[test]
    fn what_a_consumer_that_has_gone_still_runs_is_not_given_to_another_one() {
        let (room, gone, new) = (Room::new(5), consumer("gone"), consumer("new"));
        let mut leaving = room.seat(&gone, 1);
        room.set_share(&gone, 5);
        assert_eq!(leaving.permits(0), 5);
        room.close(&gone);
        let mut coming = room.seat(&new, 2);
        room.set_share(&new, 5);
        assert_eq!(coming.permits(0), 0, "the other has not noticed yet");
        leaving.settled = false;
        assert_eq!((leaving.permits(4), coming.permits(0)), (4, 1));
        assert_eq!((leaving.permits(0), coming.permits(1)), (0, 5));
    }

    #[tokio::test]
    async fn whoever_waits_for_room_hears_of_it() {
        let (room, one, two) = (Room::new(2), consumer("one"), consumer("two"));
        let mut first = room.seat(&one, 1);
        room.set_share(&one, 2);
        assert_eq!(first.permits(0), 2);
        let mut second = room.seat(&two, 2);
        room.set_share(&two, 1);
        assert_eq!(second.permits(0), 0);
        let waiting = tokio::spawn(async move {
            while second.permits(0) == 0 {
                second.changed().await;
            }
            second.permits(0)
        });
        tokio::task::yield_now().await;
        room.set_share(&one, 1);
        first.changed().await;
        assert_eq!(first.permits(1), 1);
        assert_eq!(waiting.await.unwrap(), 1);
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// The consumer is replaced, and has another share.
        Replace(usize, usize),
        Share(usize, usize),
        Close(usize),
        /// As many more as may be start.
        Start(usize),
        /// One ends.
        End(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..3, 1usize..4).prop_map(|(place, share)| Step::Replace(place, share)),
            (0usize..3, 1usize..4).prop_map(|(place, share)| Step::Share(place, share)),
            (0usize..3).prop_map(Step::Close),
            (0usize..64).prop_map(Step::Start),
            (0usize..64).prop_map(Step::End),
            (0usize..64).prop_map(Step::End),
        ]
    }

    proptest! {
        #[test]
        fn no_more_runs_than_there_is_room_for_and_everybody_gets_their_share_in_the_end(
            steps in proptest::collection::vec(step(), 0..60),
        ) {
            const SLOTS: usize = 9;
            let (room, names) = (Room::new(SLOTS), ["a", "b", "c"].map(consumer));
            let mut seats: Vec<(usize, Seat, usize)> = Vec::new();
            let mut shares = [0; 3];
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Replace(place, share) => {
                        room.close(&names[place]);
                        seats.push((place, room.seat(&names[place], number as u64), 0));
                        room.set_share(&names[place], share);
                        shares[place] = share;
                    }
                    Step::Share(place, share) if shares[place] > 0 => {
                        room.set_share(&names[place], share);
                        shares[place] = share;
                    }
                    Step::Share(..) => {}
                    Step::Close(place) => {
                        room.close(&names[place]);
                        shares[place] = 0;
                    }
                    Step::Start(which) if !seats.is_empty() => {
                        let which = which % seats.len();
                        let (_, seat, running) = &mut seats[which];
                        *running = seat.permits(*running).max(*running);
                    }
                    Step::End(which) if !seats.is_empty() => {
                        let which = which % seats.len();
                        let (_, seat, running) = &mut seats[which];
                        *running = running.saturating_sub(1);
                        seat.settled = false;
                        seat.permits(*running);
                    }
                    Step::Start(_) | Step::End(_) => {}
                }
                seats.iter_mut().for_each(|(_, seat, _)| seat.settled = false);
                let all: usize = seats.iter().map(|(_, _, running)| running).sum();
                prop_assert!(all <= SLOTS, "{all} run");
            }
            // Everything ends; those that are not current leave.
            for (_, seat, running) in &mut seats {
                *running = 0;
                seat.settled = false;
                seat.permits(0);
            }
            for (place, share) in shares.into_iter().enumerate() {
                let newest = seats.iter_mut().filter(|(of, ..)| *of == place).max_by_key(|(_, seat, _)| seat.line);
                let Some((_, seat, _)) = newest else { continue };
                prop_assert_eq!(seat.permits(0), share);
            }
        }
    }
}
