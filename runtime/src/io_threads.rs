//! How the system schedules the threads of tokio's runtime: those for HTTP, and those that wait for files.
#![allow(unsafe_code, reason = "no crate in use wraps sched_setscheduler")]

/// Asks the system not to stop another thread for this one when it wakes up (`SCHED_BATCH`). Each answer of the committer and
/// each byte of a client wakes an I/O thread; if that stops whoever is about to leave more, everybody works on a message or
/// two at a time. It takes no priority away: when it has waited longest, it runs next. What this thread starts inherits it;
/// that is threads that wait for files, and builds of plugins.
pub(crate) fn do_not_preempt() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zeros is a value of this C struct of numbers, and a batch thread's priority.
        let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: it reads the parameters, which live; 0 is this thread.
        let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
        if set != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "I/O threads are scheduled as others");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_thread_becomes_a_batch_thread() {
        super::do_not_preempt();
        // SAFETY: it takes a number; 0 is this thread.
        assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_BATCH);
    }
}
