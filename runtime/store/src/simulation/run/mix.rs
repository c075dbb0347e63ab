//! What the steps of a run are made of. Each seed has a mix of its own, in which some things are frequent and others are
//! left out: what does a little of everything hides what takes a lot of one ("Swarm Testing", Groce et al., 2012).

use super::QUEUES;

/// How often things happen, how many different ones there are, and what the limits are. Shares are of 256.
#[derive(Debug, Clone)]
pub(super) struct Mix {
    /// How many queues messages are sent to and claimed from.
    pub(super) queues: usize,
    /// How many ordering keys there are, and the share of messages that have one.
    pub(super) keys: usize,
    pub(super) keyed: u8,
    /// The same for idempotency keys, and for how long those are remembered.
    pub(super) idempotency_keys: usize,
    pub(super) deduplicated: u8,
    pub(super) dedup_window_ms: u64,
    pub(super) delayed: u8,
    pub(super) delay_ms_max: u64,
    pub(super) body_bytes_max: usize,
    pub(super) queue_bytes_max: u64,
    /// How long each queue keeps what is acknowledged.
    pub(super) histories_ms: [u64; QUEUES.len()],
    pub(super) lease_ms: u64,
    /// Claims of messages that have waited too long.
    pub(super) expired: u8,
    /// Deliveries that begin.
    pub(super) begun: u8,
    pub(super) purges: u8,
    pub(super) retractions: u8,
    pub(super) history_changes: u8,
    pub(super) state_drops: u8,
    /// How often a step publishes, claims, settles, lets time pass: relative to each other.
    pub(super) publishes: u8,
    pub(super) claims: u8,
    pub(super) settlements: u8,
    pub(super) pauses: u8,
    pub(super) pause_ms_max: u64,
    /// Of ten settlements, how many are acknowledgements, and how many are moves; the rest are retries, snoozes, releases.
    pub(super) acks: u8,
    pub(super) moves: u8,
    /// See [`crate::open::Layout::picked_max`].
    pub(super) picked_max: u64,
}

impl Mix {
    /// A little of everything.
    fn even(body_bytes_max: usize) -> Mix {
        Mix {
            queues: 3,
            keys: 2,
            keyed: 128,
            idempotency_keys: 3,
            deduplicated: 60,
            dedup_window_ms: 4000,
            delayed: 50,
            delay_ms_max: 2000,
            body_bytes_max,
            queue_bytes_max: 20_000,
            histories_ms: [6000, 0, u64::MAX, 0, 1000],
            lease_ms: 1000,
            expired: 20,
            begun: 200,
            purges: 3,
            retractions: 6,
            history_changes: 2,
            state_drops: 4,
            publishes: 8,
            claims: 4,
            settlements: 5,
            pauses: 2,
            pause_ms_max: 1500,
            acks: 5,
            moves: 2,
            picked_max: 4,
        }
    }

    /// The mix of a seed: every fourth has the even one.
    pub(super) fn new(seed: u64, body_bytes_max: usize) -> Mix {
        let even = Mix::even(body_bytes_max);
        if seed.is_multiple_of(4) {
            return even;
        }
        let mut random = fastrand::Rng::with_seed(seed.rotate_left(32));
        // Not at all, rarely, as usual, often.
        let share =
            |random: &mut fastrand::Rng, usual: u8| [0, usual / 4, usual, usual.saturating_mul(4)][random.usize(..4)];
        let windows_ms = [0, 0, 1000, 6000, u64::MAX];
        Mix {
            queues: random.usize(1..=QUEUES.len()),
            keys: [1, 2, 5, 40][random.usize(..4)],
            keyed: share(&mut random, even.keyed),
            idempotency_keys: [1, 3, 30, 500][random.usize(..4)],
            deduplicated: share(&mut random, even.deduplicated),
            dedup_window_ms: [0, 500, 4000, 60_000][random.usize(..4)],
            delayed: share(&mut random, even.delayed),
            delay_ms_max: [10, 2000, 30_000, 10_000_000][random.usize(..4)],
            body_bytes_max: [8, body_bytes_max / 2, body_bytes_max][random.usize(..3)],
            queue_bytes_max: [1500, 20_000, u64::MAX][random.usize(..3)],
            histories_ms: [(); QUEUES.len()].map(|()| windows_ms[random.usize(..5)]),
            lease_ms: [50, 1000, 20_000][random.usize(..3)],
            expired: share(&mut random, even.expired),
            begun: [0, 100, 200, 255][random.usize(..4)],
            purges: share(&mut random, even.purges),
            retractions: share(&mut random, even.retractions),
            history_changes: share(&mut random, even.history_changes),
            state_drops: share(&mut random, even.state_drops),
            publishes: [3, 8, 16][random.usize(..3)],
            claims: [2, 4, 12][random.usize(..3)],
            settlements: [2, 5, 12][random.usize(..3)],
            pauses: [1, 2, 6][random.usize(..3)],
            pause_ms_max: [30, 1500, 200_000][random.usize(..3)],
            acks: [1, 5, 8][random.usize(..3)],
            moves: random.u8(0..=2),
            picked_max: [0, 2, 8, u64::MAX][random.usize(..4)],
        }
    }
}
