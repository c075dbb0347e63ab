//! How the deliveries that may run at once are divided among the workers: once, at the start. A worker then needs no
//! word with another to know what it may claim, and an idle consumer never holds an instance that another one waits for.

use crate::config::ConsumerConfig;

/// Instances that one worker holds at most, as long as there are not more consumers than that. Each takes 4 GiB of
/// addresses, of which there are 128 TiB.
const SLOTS_MAX: usize = 1000;

/// The permits of each consumer on each worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// By consumer, then by worker.
    permits: Vec<Vec<usize>>,
    /// Consumers that got less than their `max_concurrency`, because a worker has no room for more instances.
    pub cut: Vec<String>,
}

impl Shares {
    /// Divides the `max_concurrency` of each consumer among `workers`. What is left over goes to different workers for
    /// different consumers.
    pub fn new(consumers: &[ConsumerConfig], workers: usize) -> Shares {
        let wanted: Vec<usize> = consumers.iter().map(|consumer| consumer.max_concurrency).collect();
        let (permits, cut) = divide(&wanted, workers.max(1), SLOTS_MAX);
        let cut = cut.into_iter().map(|index| consumers[index].name.clone()).collect();
        Shares { permits, cut }
    }

    /// Instances that a worker must be able to hold: as many as the one with the most permits can use.
    pub fn slots(&self) -> usize {
        let workers = self.permits.first().map_or(0, Vec::len);
        let of_worker = |worker: usize| self.permits.iter().map(|shares| shares[worker]).sum();
        (0..workers).map(of_worker).max().unwrap_or(0).max(1)
    }

    /// What one consumer may run at once on one worker; 0 if it has no business there.
    pub(super) fn permits(&self, consumer: usize, worker: usize) -> usize {
        self.permits[consumer][worker]
    }
}

/// The permits, and the consumers (by place) that did not get all they wanted.
fn divide(wanted: &[usize], workers: usize, slots_max: usize) -> (Vec<Vec<usize>>, Vec<usize>) {
    // The largest number that every consumer can have as its share of one worker.
    let needed = |limit: usize| -> usize { wanted.iter().map(|all| all.div_ceil(workers).min(limit)).sum() };
    let mut limit = slots_max;
    while limit > 1 && needed(limit) > slots_max {
        limit -= 1;
    }
    let mut cut = Vec::new();
    let mut next = 0;
    let mut permits = Vec::with_capacity(wanted.len());
    for (index, &all) in wanted.iter().enumerate() {
        let (each, left) = (all / workers, all % workers);
        let mut shares = vec![each; workers];
        for place in 0..left {
            shares[(next + place) % workers] += 1;
        }
        next = (next + left) % workers;
        shares.iter_mut().for_each(|share| *share = (*share).min(limit));
        if shares.iter().sum::<usize>() < all {
            cut.push(index);
        }
        permits.push(shares);
    }
    (permits, cut)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_left_over_goes_round() {
        let (permits, cut) = divide(&[1, 1, 3, 8], 2, 1000);
        assert_eq!(permits, [[1, 0], [0, 1], [2, 1], [4, 4]]);
        assert!(cut.is_empty());
    }

    #[test]
    fn a_worker_that_has_no_room_gives_everybody_less_but_nobody_nothing() {
        let (permits, cut) = divide(&[1000, 1000, 4], 1, 100);
        assert_eq!(permits, [[48], [48], [4]]);
        assert_eq!(cut, [0, 1]);
        let (permits, _) = divide(&[5, 5, 5], 1, 2);
        assert_eq!(permits, [[1], [1], [1]]);
    }

    proptest! {
        #[test]
        fn every_consumer_runs_as_wide_as_it_may(
            wanted in proptest::collection::vec(1usize..1000, 0..20), workers in 1usize..9,
        ) {
            let (permits, cut) = divide(&wanted, workers, 1000);
            for (index, all) in wanted.iter().enumerate() {
                let sum: usize = permits[index].iter().sum();
                prop_assert!(sum >= 1 && sum <= *all);
                prop_assert_eq!(sum < *all, cut.contains(&index));
            }
            for worker in 0..workers {
                prop_assert!(permits.iter().map(|shares| shares[worker]).sum::<usize>() <= 1000);
            }
        }
    }
}
