//! How the deliveries that may run at once are divided among the workers: at the start, and again when `queue.toml` names
//! other consumers. A worker then needs no word with another to know what it may claim, and an idle consumer never holds
//! an instance that another one waits for.

use std::collections::BTreeMap;

use crate::config::ConsumerConfig;

/// Instances that one worker holds at most, as long as there are not more consumers than that. Each takes 4 GiB of
/// addresses, of which there are 128 TiB.
const SLOTS_MAX: usize = 1000;
/// Instances that a worker can hold beyond what its consumers need at the start: the pool can't grow, and `queue.toml` may
/// name more consumers later.
const SLOTS_SPARE: usize = 128;
/// Up to so many instances of all workers together there are spare ones.
const SPARE_UP_TO: usize = 16_000;

/// The permits of each consumer on each worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    workers: usize,
    slots: usize,
    /// By consumer.
    divided: BTreeMap<String, Divided>,
    /// Consumers that got less than their `max_concurrency`, because a worker has no room for more instances.
    pub cut: Vec<String>,
}

/// One consumer's permits, by worker.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Divided {
    /// What it should have.
    wanted: Vec<usize>,
    /// What it has.
    permits: Vec<usize>,
}

/// Why a set of consumers can't be at work in pools of this size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "each worker can hold {slots} instances, as was decided when it was started, and this is one consumer more than that; \
     restart linecook"
)]
pub struct TooMany {
    /// The instances of one worker.
    pub slots: usize,
}

impl Shares {
    /// Divides the `max_concurrency` of each consumer among `workers`. What is left over goes to different workers for
    /// different consumers.
    pub fn new(consumers: &[ConsumerConfig], workers: usize) -> Shares {
        let workers = workers.max(1);
        let wanted = consumers.iter().map(|consumer| (consumer.name.as_str(), consumer.max_concurrency));
        let divided = divide(wanted, workers, &BTreeMap::new());
        let mut shares = Shares { workers, slots: 0, divided, cut: Vec::new() };
        let limit = shares.limit(SLOTS_MAX);
        shares.cut_to(limit);
        let needed = shares.used().max(1);
        let spare = (SPARE_UP_TO / workers).saturating_sub(needed).min(SLOTS_SPARE);
        shares.slots = needed.max((needed + spare).min(SLOTS_MAX));
        shares
    }

    /// Divides what these workers have among other consumers. Those that want as much as before keep their places, so that
    /// they go on as they are if there is room for all.
    pub fn again(&self, consumers: &[ConsumerConfig]) -> Result<Shares, TooMany> {
        let wanted = consumers.iter().map(|consumer| (consumer.name.as_str(), consumer.max_concurrency));
        let divided = divide(wanted, self.workers, &self.divided);
        let mut shares = Shares { workers: self.workers, slots: self.slots, divided, cut: Vec::new() };
        let limit = shares.limit(self.slots);
        shares.cut_to(limit);
        if shares.used() > self.slots { Err(TooMany { slots: self.slots }) } else { Ok(shares) }
    }

    /// Instances that a worker must be able to hold.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// What one consumer may run at once on one worker; 0 if it has no business there.
    pub(super) fn permits(&self, consumer: &str, worker: usize) -> usize {
        self.divided.get(consumer).map_or(0, |divided| divided.permits[worker])
    }

    /// The largest number that every consumer can have as its share of one worker.
    fn limit(&self, slots: usize) -> usize {
        let needed = |limit: usize| {
            let of_worker = |worker: usize| self.divided.values().map(|one| one.wanted[worker].min(limit)).sum();
            (0..self.workers).map(of_worker).max().unwrap_or(0)
        };
        let mut limit = slots;
        while limit > 1 && needed(limit) > slots {
            limit -= 1;
        }
        limit
    }

    fn cut_to(&mut self, limit: usize) {
        for (name, divided) in &mut self.divided {
            divided.permits = divided.wanted.iter().map(|wanted| (*wanted).min(limit)).collect();
            if divided.permits != divided.wanted {
                self.cut.push(name.clone());
            }
        }
    }

    /// Instances on the worker with the most.
    fn used(&self) -> usize {
        let of_worker = |worker: usize| self.divided.values().map(|divided| divided.permits[worker]).sum();
        (0..self.workers).map(of_worker).max().unwrap_or(0)
    }
}

/// What each consumer should have on each worker, its permits still to be decided.
fn divide<'n>(
    consumers: impl Iterator<Item = (&'n str, usize)>,
    workers: usize,
    before: &BTreeMap<String, Divided>,
) -> BTreeMap<String, Divided> {
    let mut divided = BTreeMap::new();
    let mut taken = vec![0; workers];
    let mut new = Vec::new();
    for (name, all) in consumers {
        match before.get(name).filter(|before| before.wanted.iter().sum::<usize>() == all) {
            Some(Divided { wanted, .. }) => {
                taken.iter_mut().zip(wanted).for_each(|(taken, wanted)| *taken += wanted);
                divided.insert(name.to_owned(), Divided { wanted: wanted.clone(), permits: Vec::new() });
            }
            None => new.push((name, all)),
        }
    }
    for (name, all) in new {
        let mut wanted = vec![all / workers; workers];
        // What is left over goes to the workers that have the least to do.
        let mut places: Vec<usize> = (0..workers).collect();
        places.sort_by_key(|place| taken[*place]);
        places.iter().take(all % workers).for_each(|place| wanted[*place] += 1);
        taken.iter_mut().zip(&wanted).for_each(|(taken, wanted)| *taken += wanted);
        divided.insert(name.to_owned(), Divided { wanted, permits: Vec::new() });
    }
    divided
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Consumers by name and `max_concurrency`.
    fn consumers(wanted: &[(&str, usize)]) -> Vec<ConsumerConfig> {
        let mut text = String::from("[queues]\n");
        for (name, concurrency) in wanted {
            text.push_str(&format!(
                "[queues.{name}]\n[consumers.{name}]\nqueue = \"{name}\"\ncomponent = \"x.wasm\"\n"
            ));
            text.push_str(&format!("max_concurrency = {concurrency}\n"));
        }
        let config = crate::config::parse(&text, std::path::Path::new("queue.toml")).unwrap();
        let find = |(name, _): &(&str, usize)| config.consumers[*name].clone();
        wanted.iter().map(find).collect()
    }

    fn permits(shares: &Shares, name: &str) -> Vec<usize> {
        (0..shares.workers).map(|worker| shares.permits(name, worker)).collect()
    }

    #[test]
    fn what_is_left_over_goes_round() {
        let shares = Shares::new(&consumers(&[("a", 1), ("b", 1), ("c", 3), ("d", 8)]), 2);
        assert_eq!(["a", "b", "c", "d"].map(|name| permits(&shares, name)), [[1, 0], [0, 1], [2, 1], [4, 4]]);
        assert!(shares.cut.is_empty());
        assert_eq!(shares.slots(), 7 + SLOTS_SPARE);
    }

    #[test]
    fn a_worker_that_has_no_room_gives_everybody_less_but_nobody_nothing() {
        let two = Shares::new(&consumers(&[("a", 1000), ("b", 1000), ("c", 4)]), 1);
        assert_eq!(["a", "b", "c"].map(|name| permits(&two, name)), [[498], [498], [4]]);
        assert_eq!(two.cut, ["a", "b"]);
        assert_eq!(two.slots(), SLOTS_MAX);
    }

    #[test]
    fn other_consumers_share_the_same_room_and_those_that_stay_keep_their_places() {
        let shares = Shares::new(&consumers(&[("a", 1), ("b", 1), ("c", 3)]), 2);
        let without = shares.again(&consumers(&[("b", 1), ("c", 3), ("d", 1)])).unwrap();
        assert_eq!(["b", "c", "d"].map(|name| permits(&without, name)), [[0, 1], [2, 1], [1, 0]]);
        assert_eq!((without.slots(), permits(&without, "a")), (shares.slots(), vec![0, 0]));

        let slots = shares.slots();
        let cut = shares.again(&consumers(&[("b", 1), ("c", 3), ("d", 1000)])).unwrap();
        assert_eq!((permits(&cut, "b"), permits(&cut, "c")), (vec![0, 1], vec![2, 1]));
        assert_eq!((permits(&cut, "d"), &cut.cut[..]), (vec![slots - 2; 2], &["d".to_owned()][..]));
        let back = cut.again(&consumers(&[("b", 1), ("c", 3)])).unwrap();
        assert!(back.cut.is_empty());
    }

    #[test]
    fn more_consumers_than_instances_are_too_many() {
        let shares = Shares::new(&consumers(&[("a", 1)]), 1);
        let names: Vec<String> = (0..=shares.slots()).map(|number| format!("n{number}")).collect();
        let many: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        assert!(shares.again(&consumers(&many[1..])).is_ok());
        assert_eq!(shares.again(&consumers(&many)), Err(TooMany { slots: shares.slots() }));
    }

    fn of(wanted: &[usize], workers: usize, before: &Shares) -> Shares {
        let names: Vec<String> = (0..wanted.len()).map(|number| format!("n{number}")).collect();
        let wanted = names.iter().map(String::as_str).zip(wanted.iter().copied());
        let divided = divide(wanted, workers, &before.divided);
        let mut shares = Shares { workers, slots: SLOTS_MAX, divided, cut: Vec::new() };
        let limit = shares.limit(SLOTS_MAX);
        shares.cut_to(limit);
        shares
    }

    proptest! {
        #[test]
        fn every_consumer_runs_as_wide_as_it_may(
            before in proptest::collection::vec(1usize..1000, 0..20),
            wanted in proptest::collection::vec(1usize..1000, 0..20),
            workers in 1usize..9,
        ) {
            let empty = Shares { workers, slots: SLOTS_MAX, divided: BTreeMap::new(), cut: Vec::new() };
            let shares = of(&wanted, workers, &of(&before, workers, &empty));
            for (index, all) in wanted.iter().enumerate() {
                let name = format!("n{index}");
                let sum: usize = permits(&shares, &name).iter().sum();
                prop_assert!(sum >= 1 && sum <= *all);
                prop_assert_eq!(sum < *all, shares.cut.contains(&name));
            }
            prop_assert!(shares.used() <= SLOTS_MAX);
        }
    }
}
