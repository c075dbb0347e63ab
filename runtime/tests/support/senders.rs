//! Clients that send all the time, and remember what was confirmed.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use super::runtime::Site;

/// Several clients. They stop when this is dropped.
pub struct Senders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Sent>>,
}

/// What became of what was sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// The ids of the confirmed messages.
    pub confirmed: Vec<String>,
    /// Messages whose request was not answered: they may be on record or not.
    pub doubtful: usize,
}

impl Senders {
    /// Starts `count` clients. Each sends one to four messages, waits for the answer, pauses for up to `pause`, and
    /// starts again. `body` makes the messages; all randomness comes from `seed`.
    pub fn start(
        site: &Arc<Site>,
        queue: &str,
        count: u64,
        pause: Duration,
        seed: u64,
        body: fn(&mut fastrand::Rng) -> Value,
    ) -> Senders {
        let stop = Arc::new(AtomicBool::new(false));
        let send = |number| {
            let (site, stop) = (site.clone(), stop.clone());
            let path = format!("/queues/{queue}/messages");
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number));
            thread::spawn(move || {
                let mut sent = Sent::default();
                while !stop.load(Ordering::Relaxed) {
                    let bodies: Vec<_> = (0..random.usize(1..=4)).map(|_| body(&mut random)).collect();
                    send(&site, &path, &bodies, &mut sent);
                    thread::sleep(pause.mul_f64(random.f64()));
                }
                sent
            })
        };
        Senders { threads: (0..count).map(send).collect(), stop }
    }

    /// Lets each end its last request.
    pub fn finish(mut self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Sent::default();
        for thread in self.threads.drain(..) {
            let sent = thread.join().expect("a sender got an answer that it should not get");
            all.confirmed.extend(sent.confirmed);
            all.doubtful += sent.doubtful;
        }
        all
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send(site: &Site, path: &str, bodies: &[Value], sent: &mut Sent) {
    let answer = match bodies {
        [body] => site.request("POST", path, &[], body.to_string().as_bytes()),
        _ => {
            let batch: Vec<_> = bodies.iter().map(|body| json!({ "body": body })).collect();
            site.request("POST", &format!("{path}/batch"), &[], Value::from(batch).to_string().as_bytes())
        }
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(ureq::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
        Err(_) => {
            sent.doubtful += bodies.len();
            return;
        }
    };
    assert_eq!(answer.status, 202, "{}", answer.body);
    let ids = if bodies.len() == 1 {
        vec![&answer.body["id"]]
    } else {
        answer.body["ids"].as_array().unwrap().iter().collect()
    };
    assert_eq!(ids.len(), bodies.len(), "{}", answer.body);
    sent.confirmed.extend(ids.into_iter().map(|id| id.as_str().unwrap().to_owned()));
}

/// The seed of a random test: `LINECOOK_TEST_SEED`, or a new one. It is printed, so that a failure can be looked at again.
pub fn seed() -> u64 {
    let seed = match std::env::var("LINECOOK_TEST_SEED") {
        Ok(text) => text.parse().expect("LINECOOK_TEST_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("to do the same again: LINECOOK_TEST_SEED={seed}");
    seed
}
