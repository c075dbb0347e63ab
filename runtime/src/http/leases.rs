//! The leases that clients hold. A client gets a token for each delivery: 128 random bits that nobody can guess, so that
//! nobody settles what somebody else, or a consumer, is handling. They are in memory, as the leases themselves are: after a
//! restart the messages come again.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::limits::LEASES_MAX;
use super::problem::Problem;
use crate::delivery::{Delivery, Lease, MessageId, QueueName};

/// A lease that has expired is remembered a little longer than the queue engine does.
const MARGIN: Duration = Duration::from_secs(5);

/// What a client names a delivery by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Token([u8; 16]);

/// A delivery that a client has.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) queue: QueueName,
    pub(super) lease: Lease,
    pub(super) id: MessageId,
    pub(super) attempt: u32,
    pub(super) first_failed_at_ms: Option<u64>,
    expires: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Leases {
    // Short: no one waits for anything while it is locked.
    held: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    held: HashMap<Token, Held>,
    /// So many may be in before the expired ones are looked for again.
    sweep_at: usize,
}

impl Table {
    /// See [`Leases::room`].
    fn room(&mut self) -> usize {
        if self.held.len() >= self.sweep_at.min(LEASES_MAX) {
            let now = Instant::now();
            self.held.retain(|_, held| held.expires > now);
            // Half of what is looked at next time is new, so that each lease is looked at twice on average.
            self.sweep_at = (2 * self.held.len()).max(1024);
        }
        LEASES_MAX.saturating_sub(self.held.len())
    }
}

impl Leases {
    /// Whether there is room for more, after those that have expired are gone.
    pub(super) fn room(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).room()
    }

    /// Takes these in, or the first of them if there is no room for all: others may have taken it since somebody asked. The
    /// tokens stand in the same order.
    pub(super) fn add(
        &self,
        queue: &QueueName,
        deliveries: &[Delivery],
        lease: Duration,
    ) -> Result<Vec<Token>, getrandom::Error> {
        let mut random = vec![0; deliveries.len() * size_of::<Token>()];
        getrandom::fill(&mut random)?;
        let expires = Instant::now() + lease + MARGIN;
        let mut table = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let room = table.room();
        let tokens = random.as_chunks().0.iter().zip(deliveries).take(room).map(|(bytes, delivery)| {
            let held = Held {
                queue: queue.clone(),
                lease: delivery.lease,
                id: delivery.message.id,
                attempt: delivery.attempt,
                first_failed_at_ms: delivery.first_failed_at_ms,
                expires,
            };
            table.held.insert(Token(*bytes), held);
            Token(*bytes)
        });
        Ok(tokens.collect())
    }

    /// The delivery, if it is held.
    pub(super) fn get(&self, token: Token) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).held.get(&token).cloned()
    }

    /// Takes it out: whoever gets it settles it.
    pub(super) fn take(&self, token: Token) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).held.remove(&token)
    }

    /// Puts one back that could not be settled.
    pub(super) fn put_back(&self, token: Token, held: Held) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).held.insert(token, held);
    }

    /// It lasts for so long from now.
    pub(super) fn extend(&self, token: Token, lease: Duration) {
        let mut table = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = table.held.get_mut(&token) {
            held.expires = Instant::now() + lease + MARGIN;
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).held.len()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for Token {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Token, Problem> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Token).ok_or_else(|| {
            Problem::malformed("the lease in the path is none; it is the \"lease\" of a message that was claimed")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::sample;

    #[test]
    fn a_lease_is_settled_once_and_forgotten_when_it_has_expired() {
        let leases = Leases::default();
        let queue = QueueName::new("q").unwrap();
        let tokens = leases.add(&queue, &[sample(1, 1, 1), sample(2, 3, 1)], Duration::from_secs(60)).unwrap();
        assert_eq!(tokens[0].to_string().parse(), Ok(tokens[0]));
        assert_ne!(tokens[0], tokens[1]);
        assert_eq!(leases.get(tokens[1]).unwrap().attempt, 3);
        let held = leases.take(tokens[1]).unwrap();
        assert!(leases.take(tokens[1]).is_none());
        leases.put_back(tokens[1], Held { expires: Instant::now(), ..held });
        assert_eq!(leases.count(), 2);
        // What has expired makes room once there is none, and no more is taken in than there is room for.
        let many: Vec<_> = (0..LEASES_MAX as u64).map(|position| sample(position, 1, 1)).collect();
        let add = |deliveries: &[Delivery]| leases.add(&queue, deliveries, Duration::from_secs(60)).unwrap().len();
        assert_eq!(add(&many), LEASES_MAX - 2);
        assert_eq!(leases.room(), 1);
        assert!(leases.get(tokens[1]).is_none() && leases.get(tokens[0]).is_some());
        assert_eq!((add(&many[..5]), leases.room(), add(&many[..5])), (1, 0, 0));
        for wrong in ["", "x", "!!!!!!!!!!!!!!!!!!!!!!", &format!("{}A", tokens[0])] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
    }
}
