//! A busy guest on every core.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use linecook::sandbox::lower_priority;

/// Threads that compute without end at the priority of the sandbox's workers, until they are dropped.
pub(crate) struct BusyGuests {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl BusyGuests {
    /// Starts one for each core.
    pub(crate) fn start() -> io::Result<BusyGuests> {
        let mut guests = BusyGuests { stop: Arc::default(), threads: Vec::new() };
        for _ in 0..std::thread::available_parallelism()?.get() {
            let stop = guests.stop.clone();
            let thread = std::thread::Builder::new().name("busy-guest".into()).spawn(move || {
                lower_priority();
                while !stop.load(Ordering::Relaxed) {
                    std::hint::black_box((0..10_000u64).fold(0, |sum, number| sum ^ number.wrapping_mul(sum | 1)));
                }
            })?;
            guests.threads.push(thread);
        }
        Ok(guests)
    }
}

impl Drop for BusyGuests {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It does nothing that panics.
            let _ = thread.join();
        }
    }
}
