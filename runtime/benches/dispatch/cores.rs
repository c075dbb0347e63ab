//! Keeps the process to some of the machine's cores.

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::LazyLock;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// The cores that the process was started with.
    static CORES: LazyLock<Vec<usize>> = LazyLock::new(|| {
        let set = sched_getaffinity(None).expect("the system says where this thread may run");
        (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
    });

    /// How many there are.
    pub(crate) fn available() -> usize {
        CORES.len()
    }

    /// From now on this thread, and every one that it starts, and those that they start, run on the first `count` of them.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub(crate) fn keep_to(count: usize) {
        let mut set = CpuSet::new();
        CORES[..count].iter().for_each(|core| set.set(*core));
        sched_setaffinity(None, &set).expect("the cores are this thread's own");
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    pub(crate) fn available() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    pub(crate) fn keep_to(count: usize) {
        println!("(threads can't be kept to {count} core(s) on this system: all are used)");
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use self::elsewhere::{available, keep_to};
#[cfg(target_os = "linux")]
pub(crate) use self::linux::{available, keep_to};
