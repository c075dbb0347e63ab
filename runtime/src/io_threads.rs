//! How the system schedules the threads of tokio's runtime: those for HTTP, and those that wait for files.
#![allow(unsafe_code, reason = "no crate in use wraps sched_setscheduler")]

/// Asks the system not to stop another thread for this one when it wakes up (`SCHED_BATCH`). Each answer of the committer and
/// each byte of a client wakes an I/O thread; if that stops whoever is about to leave more, everybody works on a message or
/// two at a time. It takes no priority away: when it has waited longest, it runs next. Threads and processes that this one
/// starts are scheduled as usual.
pub(crate) fn do_not_preempt() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zeros is a value of this C struct of numbers, and a batch thread's priority.
        let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: it reads the parameters, which live; 0 is this thread.
        let set = unsafe {
            libc::sched_setscheduler(0, libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK, &raw const parameters)
        };
        if set != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "I/O threads are scheduled as others");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_thread_is_batch_and_what_it_starts_is_not() {
        super::do_not_preempt();
        // SAFETY: it takes a number; 0 is this thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        assert_eq!(policy() & !libc::SCHED_RESET_ON_FORK, libc::SCHED_BATCH);
        assert_eq!(std::thread::spawn(policy).join().unwrap(), libc::SCHED_OTHER);
    }
}
