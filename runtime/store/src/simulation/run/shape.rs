//! How much happens in a run, and what goes wrong.

use crate::open::Layout;
use crate::wal::Preparation;

/// How much happens in a run.
#[derive(Debug, Clone, Copy)]
pub(in crate::simulation) struct Shape {
    pub(super) steps: usize,
    pub(super) body_bytes_max: usize,
    /// Length of a log file.
    pub(super) file_bytes: u64,
    /// Of 256 steps, how many of those that look after segments and the ring.
    pub(super) keeping: u8,
    /// Whether durable state is read and written.
    pub(super) state: bool,
}

impl Shape {
    /// Stays in the log.
    pub(in crate::simulation) const SHORT: Shape =
        Shape { steps: 14, body_bytes_max: 300, file_bytes: 8 << 10, keeping: 12, state: false };
    /// Fills the ring many times.
    pub(in crate::simulation) const LONG: Shape =
        Shape { steps: 330, body_bytes_max: 700, file_bytes: 8 << 10, keeping: 64, state: false };
    /// Has most of its messages in segments soon.
    pub(in crate::simulation) const COLD: Shape =
        Shape { steps: 150, body_bytes_max: 120, file_bytes: 2 << 10, keeping: 176, state: false };
    /// Puts durable state into its file, several times.
    pub(in crate::simulation) const STATE: Shape =
        Shape { steps: 45, body_bytes_max: 60, file_bytes: 3 << 10, keeping: 110, state: true };
    /// The same, longer.
    pub(in crate::simulation) const STATE_LONG: Shape = Shape { steps: 400, ..Shape::STATE };

    /// The same, long enough for segments to be rewritten and runs of idempotency keys to be put together.
    pub(in crate::simulation) const COLD_LONG: Shape = Shape { steps: 900, ..Shape::COLD };

    /// Five lengths, so that they meet all four kinds of mixes.
    pub(in crate::simulation) const ALL: [Shape; 5] =
        [Shape::LONG, Shape::COLD, Shape::STATE, Shape::COLD_LONG, Shape::STATE_LONG];

    pub(super) fn layout(self) -> Layout {
        Layout { file_bytes: self.file_bytes, ..LAYOUT }
    }
}

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy)]
pub(in crate::simulation) enum Fault {
    None,
    PowerLoss {
        operation: u64,
    },
    Kills,
    FailedWrite {
        operation: u64,
    },
    FailedSync {
        operation: u64,
    },
    /// The store stops, or it does without.
    FailedRead {
        operation: u64,
    },
    /// A create, rename, removal or mapping: likewise.
    FailedOther {
        operation: u64,
    },
    FullDisk,
    /// One after the other: power losses, errors, kills, a disk that fills up and gets space again.
    All,
}

pub(crate) const LAYOUT: Layout = Layout {
    file_bytes: 8 << 10,
    files_max: 8,
    cache_bytes_max: 2048,
    attempt_slots: 16,
    chunk_bytes: 700,
    small_segment_bytes: 1200,
    gap_max: 40,
    picked_max: 4,
    dedup_runs_max: 4,
    state_bytes_min: 0,
    handles_max: 2,
    checkpoint_bytes: 2048,
    preparation: Preparation::Inline,
};
