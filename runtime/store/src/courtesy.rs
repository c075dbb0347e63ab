//! Working beside the committer without keeping it waiting.

/// Called every few dozen microseconds by whoever has much to do that nobody waits for.
///
/// The committer yields its core while more senders are about to leave something ([`crate::committer`]). A thread that takes
/// such a core and computes keeps it until the next tick of the scheduler, which is up to 4 ms, ten times what a commit
/// takes. One that gives it back at once does not matter. Where nobody else wants the core, it costs less than a microsecond.
pub(crate) fn give_way() {
    std::thread::yield_now();
}
