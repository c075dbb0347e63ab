//! A new generation on trial: a share of the deliveries goes to it, and what comes of them decides whether it is promoted or
//! rolled back.
//!
//! What fails on trial costs no attempt, and is not given up: the message goes back and is handled by the generation that is
//! in force, whose word counts. So a bad version has burned nothing when it is rolled back, also if the process ends
//! before that.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::generation::{Generation, Shared};
use crate::config::Canary as Limits;
use crate::delivery::MessageId;

/// Standard deviations that the new generation may fail more often than the one in force before it is rolled back at once.
/// It is asked after every delivery, so what comes up once in a thousand times by chance (3.1) would come up far too often.
const ROLLBACK_DEVIATIONS: f64 = 4.0;
/// The same when the trial is over: one case in a thousand, or a few more where failures are rare.
const PROMOTION_DEVIATIONS: f64 = 3.1;
/// Fewer failures than this prove nothing.
const FAILURES_MIN: u64 = 3;

/// A generation on trial.
#[derive(Debug)]
pub struct Canary<M> {
    pub(super) generation: Arc<Generation<M>>,
    limits: Limits,
    generations: Weak<Shared<M>>,
    // Shared by all workers while the trial lasts.
    trial: Mutex<Trial>,
    failed: Mutex<HashSet<MessageId>>,
}

/// Which of the two generations handled a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The one in force.
    InForce,
    /// The one on trial.
    OnTrial,
}

/// How a trial ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It takes all deliveries.
    Promote,
    /// It takes no more; the reason is for people.
    RollBack(String),
}

/// What came of the deliveries of both sides.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Trial {
    in_force: Tally,
    on_trial: Tally,
    decided: bool,
}

/// Deliveries that ended, and how many of them failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    deliveries: u64,
    failed: u64,
}

impl<M> Canary<M> {
    pub(super) fn new(generation: Arc<Generation<M>>, limits: Limits, generations: Weak<Shared<M>>) -> Canary<M> {
        Canary { generation, limits, generations, trial: Mutex::default(), failed: Mutex::default() }
    }

    /// Whether this delivery is for the generation on trial. `turn` is the puller's: it spreads them evenly.
    pub(super) fn takes(&self, message: MessageId, turn: &mut u32) -> bool {
        *turn += u32::from(self.limits.share_percent);
        if *turn < 100 {
            return false;
        }
        *turn -= 100;
        // What failed on trial is for the generation in force to decide about.
        !self.has_failed(message)
    }

    /// A delivery has ended on one of the two sides. Decides about the trial when it can.
    pub(super) fn ended(&self, side: Side, failed: bool) {
        let verdict = {
            let mut trial = self.trial.lock().unwrap_or_else(PoisonError::into_inner);
            trial.record(side, failed, self.limits.deliveries)
        };
        if let (Some(verdict), Some(generations)) = (verdict, self.generations.upgrade()) {
            generations.decide(&self.generation, verdict);
        }
    }

    /// Whether a message has failed on trial. What becomes of it elsewhere says nothing about what is usual there.
    pub(super) fn has_failed(&self, message: MessageId) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).contains(&message)
    }

    /// A message has failed on trial: its next attempt is not on trial.
    pub(super) fn remember(&self, message: MessageId) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(message);
    }
}

impl Trial {
    /// Counts one delivery. The verdict comes once.
    fn record(&mut self, side: Side, failed: bool, deliveries: u64) -> Option<Verdict> {
        let tally = match side {
            Side::InForce => &mut self.in_force,
            Side::OnTrial => &mut self.on_trial,
        };
        tally.deliveries += 1;
        tally.failed += u64::from(failed);
        if self.decided || side == Side::InForce {
            return None;
        }
        let over = self.on_trial.deliveries >= deliveries;
        let bearable = if over { PROMOTION_DEVIATIONS } else { ROLLBACK_DEVIATIONS };
        let verdict = if self.on_trial.failed >= FAILURES_MIN && self.deviations() > bearable {
            Verdict::RollBack(format!(
                "{} of its {} deliveries failed, while {} of {} did of the generation in force",
                self.on_trial.failed, self.on_trial.deliveries, self.in_force.failed, self.in_force.deliveries
            ))
        } else if over {
            Verdict::Promote
        } else {
            return None;
        };
        self.decided = true;
        Some(verdict)
    }

    /// How many standard deviations more often the new generation fails: the pooled test of two proportions. Each side is
    /// given a success and a failure beforehand, so that small numbers prove little.
    fn deviations(&self) -> f64 {
        let parts = |tally: Tally| (tally.failed as f64 + 1.0, tally.deliveries as f64 + 2.0);
        let ((failed_new, all_new), (failed_old, all_old)) = (parts(self.on_trial), parts(self.in_force));
        let pooled = (failed_new + failed_old) / (all_new + all_old);
        let deviation = (pooled * (1.0 - pooled) * (1.0 / all_new + 1.0 / all_old)).sqrt();
        (failed_new / all_new - failed_old / all_old) / deviation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deliveries go ten to one; each side fails at random at its rate. Answers how it ended, and after how many.
    fn trial(seed: u64, rate_in_force: f64, rate_on_trial: f64) -> (Verdict, u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut trial = Trial::default();
        loop {
            for _ in 0..9 {
                assert_eq!(trial.record(Side::InForce, random.f64() < rate_in_force, 200), None);
            }
            if let Some(verdict) = trial.record(Side::OnTrial, random.f64() < rate_on_trial, 200) {
                assert_eq!(trial.record(Side::OnTrial, true, 200), None, "the verdict comes once");
                return (verdict, trial.on_trial.deliveries - 1);
            }
        }
    }

    fn rolled_back(rate_in_force: f64, rate_on_trial: f64) -> usize {
        (0..1000).filter(|seed| trial(*seed, rate_in_force, rate_on_trial).0 != Verdict::Promote).count()
    }

    #[test]
    fn one_that_fails_no_more_often_is_promoted_whatever_the_rate() {
        for rate in [0.0, 0.01, 0.1, 0.5, 0.9, 1.0] {
            let wrong = rolled_back(rate, rate);
            assert!(wrong <= 30, "{wrong} of 1000 were rolled back by chance at a rate of {rate}");
        }
        assert_eq!(rolled_back(0.3, 0.1), 0);
        assert_eq!(trial(1, 0.0, 0.0), (Verdict::Promote, 200));
    }

    #[test]
    fn one_that_fails_more_often_is_rolled_back() {
        assert_eq!(rolled_back(0.0, 1.0), 1000);
        assert!(rolled_back(0.01, 0.2) >= 990);
        assert!(rolled_back(0.1, 0.3) >= 980);
    }

    #[test]
    fn one_that_always_fails_is_rolled_back_after_a_few() {
        for seed in 0..100 {
            let (Verdict::RollBack(reason), after) = trial(seed, 0.02, 1.0) else { panic!("{seed}") };
            assert!(after <= 10, "after {after}: {reason}");
            assert!(reason.contains("of its") && reason.contains("of the generation in force"), "{reason}");
        }
    }

    #[test]
    fn without_anything_to_compare_it_with_only_many_failures_prove_something() {
        let mut alone = Trial::default();
        assert!((0..2).all(|_| alone.record(Side::OnTrial, true, 200).is_none()));
        let mut good = Trial::default();
        let verdicts: Vec<_> = (0..200).filter_map(|_| good.record(Side::OnTrial, false, 200)).collect();
        assert_eq!(verdicts, [Verdict::Promote]);
    }
}
