//! Does the long work of the cold part beside the committer, one piece at a time: copying, checkpoints, removing files.
//!
//! The committer decides what is done and takes in what came of it; in between it goes on committing. A simulation has no
//! threads: there a piece is done when its result is asked for, some steps after it was ordered.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use super::checkpoint::Checkpoint;
use super::copy::{self, Copied, CopiedFile, CopyError, FullFile, Making};
use super::segment::Segment;
use crate::committer::panic_text;
use crate::courtesy;
use crate::dedup::merge::merge;
use crate::dedup::run::{self, Run};
use crate::disk::{Disk, DiskError, Shortage};
use crate::history::file::{self as history_file, HistoryFile, JoinError};
use crate::kv::Frozen;
use crate::kv::compact::Compacted;
use crate::shared::Shared;
use crate::wal::Preparation;

/// A piece of work.
pub(crate) enum Order {
    /// Copy what lives in a full file of the log to new segments, and put durable state that the file may hold where it
    /// stays.
    CopyLogFile { full: FullFile, state: Option<Arc<Frozen>> },
    /// Copy what lives in these segments, which stand side by side in one queue, to new ones.
    Rewrite(Vec<Arc<Segment>>),
    /// Make one run of these, without what is older.
    MergeRuns { old: Vec<Arc<Run>>, before_ms: u64 },
    /// Make one history file of these, without what stands before `begin`.
    JoinHistory { old: Vec<Arc<HistoryFile>>, begin: u64 },
    /// Write the file of durable state anew.
    CompactState,
    /// Write a checkpoint, and let go of state that is in its file.
    Checkpoint { checkpoint: Box<Checkpoint>, retired: Option<Arc<Frozen>> },
    /// Remove files that nobody needs.
    Remove(Vec<String>),
}

/// What came of it.
pub(crate) enum Done {
    Copied(CopiedFile),
    Rewritten {
        old: Vec<Arc<Segment>>,
        new: Vec<Copied>,
    },
    Merged {
        old: Vec<Arc<Run>>,
        new: Option<Arc<Run>>,
    },
    HistoryJoined {
        old: Vec<Arc<HistoryFile>>,
        new: Option<Arc<HistoryFile>>,
    },
    /// None if there was no room for it.
    StateCompacted(Option<Compacted>),
    CheckpointWritten,
    /// `left`: those for which something was missing, and what.
    Removed {
        left: Vec<String>,
        shortage: Option<Shortage>,
    },
}

pub(crate) struct Keeper {
    hands: Hands,
    busy: bool,
    shared: Arc<Shared>,
}

enum Hands {
    Thread {
        /// None when it is to end.
        orders: Option<Sender<Order>>,
        done: Receiver<Result<Done, CopyError>>,
        thread: Option<JoinHandle<()>>,
    },
    #[cfg(test)]
    Inline { workshop: Workshop, order: Option<Order> },
}

struct Workshop {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    making: Making,
}

impl Keeper {
    /// Starts the thread that does the work.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        shared: Arc<Shared>,
        making: Making,
        preparation: Preparation,
    ) -> io::Result<Keeper> {
        let mut workshop = Workshop { disk, shared: shared.clone(), making };
        let hands = match preparation {
            #[cfg(test)]
            Preparation::Inline => Hands::Inline { workshop, order: None },
            Preparation::Thread => {
                let (orders, waiting) = channel::<Order>();
                let (results, done) = channel();
                let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || {
                    courtesy::begin(&workshop.shared.pressed);
                    while let Ok(order) = waiting.recv() {
                        let result = workshop.carry_out(order);
                        // The store is closed if nobody listens.
                        if results.send(result).is_err() {
                            return;
                        }
                        workshop.shared.nudge();
                    }
                })?;
                Hands::Thread { orders: Some(orders), done, thread: Some(thread) }
            }
        };
        Ok(Keeper { hands, busy: false, shared })
    }

    /// Whether a piece of work is on its way, or its result waits.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Orders a piece of work. One at a time.
    pub(crate) fn order(&mut self, next: Order) {
        assert!(!self.busy, "one piece of work at a time");
        self.busy = true;
        match &mut self.hands {
            // If the thread has panicked, the result's channel says so.
            Hands::Thread { orders, .. } => drop(orders.as_ref().map(|orders| orders.send(next))),
            #[cfg(test)]
            Hands::Inline { order, .. } => *order = Some(next),
        }
    }

    /// The result of what was ordered. With `wait`, it waits for it.
    pub(crate) fn collect(&mut self, wait: bool) -> Option<Result<Done, CopyError>> {
        if !self.busy {
            return None;
        }
        let result = match &mut self.hands {
            Hands::Thread { done, thread, .. } => {
                match if wait { done.recv().map_err(|_| TryRecvError::Disconnected) } else { done.try_recv() } {
                    Ok(result) => result,
                    Err(TryRecvError::Empty) => return None,
                    Err(TryRecvError::Disconnected) => Err(panicked(thread.take()).into()),
                }
            }
            #[cfg(test)]
            Hands::Inline { workshop, order } => workshop.carry_out(order.take().expect("something was ordered")),
        };
        self.busy = false;
        Some(result)
    }
}

/// What the committer hears of a thread that does no more.
fn panicked(thread: Option<JoinHandle<()>>) -> DiskError {
    let panic = thread.and_then(|thread| thread.join().err());
    let text = panic.as_deref().map_or("it has not said why", |panic| panic_text(panic));
    let error = io::Error::other(format!("the thread that does it has panicked: {text}"));
    DiskError::new("keep", "the segments", error)
}

impl Drop for Keeper {
    /// Waits for what is on its way: nobody may write to the folder after its lock is gone.
    fn drop(&mut self) {
        match &mut self.hands {
            Hands::Thread { orders, thread, .. } => {
                *orders = None;
                // A thread that panicked has said so.
                let _ = thread.take().map(JoinHandle::join);
            }
            #[cfg(test)]
            Hands::Inline { .. } => {}
        }
        self.shared.state_file.close();
    }
}

impl Workshop {
    fn carry_out(&mut self, order: Order) -> Result<Done, CopyError> {
        let Workshop { disk, shared, making } = self;
        match order {
            Order::CopyLogFile { full, state } => {
                if let Some(state) = state {
                    shared.state_file.take_in(&state, making.store_tag)?;
                }
                copy::copy_log_file(&**disk, shared, &full, making).map(Done::Copied)
            }
            Order::Rewrite(old) => {
                let new = copy::rewrite(&**disk, shared, &old, making)?;
                Ok(Done::Rewritten { old, new })
            }
            Order::MergeRuns { old, before_ms } => {
                let id = making.next_id;
                making.next_id += 1;
                let merged = merge(&**disk, &old, before_ms, id, making.store_tag);
                if merged.is_err() {
                    // Leave nothing behind, if the disk lets go of it. What stays is removed when the store is opened.
                    let _ = disk.remove(&run::name(id));
                }
                Ok(Done::Merged { old, new: merged?.map(Arc::new) })
            }
            Order::JoinHistory { old, begin } => {
                let id = making.next_id;
                making.next_id += 1;
                let joined = history_file::join(&**disk, &old, begin, id, making.chunk_bytes, making.store_tag);
                let synced = joined.and_then(|new| {
                    disk.sync_folder().map_err(JoinError::Disk)?;
                    Ok(new.map(Arc::new))
                });
                match synced {
                    Ok(new) => Ok(Done::HistoryJoined { old, new }),
                    Err(error) => {
                        // As above.
                        let _ = disk.remove(&history_file::name(id));
                        Err(match error {
                            JoinError::Disk(error) => CopyError::Disk(error),
                            JoinError::Damaged(file) => CopyError::Damaged { files: vec![file] },
                        })
                    }
                }
            }
            Order::CompactState => match shared.state_file.compact() {
                Ok(compacted) => Ok(Done::StateCompacted(Some(compacted))),
                // It can wait: nothing has to make way for it.
                Err(error) if error.shortage().is_some() => Ok(Done::StateCompacted(None)),
                Err(error) => Err(error.into()),
            },
            Order::Checkpoint { mut checkpoint, retired } => {
                drop(retired);
                checkpoint.header.next_segment = making.next_id;
                checkpoint.write(&**disk)?;
                Ok(Done::CheckpointWritten)
            }
            Order::Remove(mut names) => {
                let mut shortage = None;
                while let Some(name) = names.last() {
                    if let Err(error) = disk.remove(name) {
                        shortage = Some(error.shortage().ok_or(error)?);
                        break;
                    }
                    names.pop();
                }
                disk.sync_folder()?;
                Ok(Done::Removed { left: names, shortage })
            }
        }
    }
}
