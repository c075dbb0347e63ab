//! What goes wrong in a run, and when.

use super::{Fault, Run};
use crate::disk::SimulatedFaults;
use crate::{NewMessage, Refusal, Transaction};

/// Of 256 steps, how many are followed by the end of the process.
const KILLS: u8 = 12;

/// Of 256 steps of a run with all troubles, how many bring the next one.
const TROUBLES: u8 = 16;

/// A disk that was full is asked again by then.
const SPACE_NOTICED_MS: u64 = 1000;

impl Fault {
    /// An error of the disk, which ends the process but not the machine.
    fn is_error(self) -> bool {
        use Fault::{FailedOther, FailedRead, FailedSync, FailedWrite};
        matches!(self, FailedWrite { .. } | FailedSync { .. } | FailedRead { .. } | FailedOther { .. })
    }
}

impl Run {
    /// What the disk does wrong, while it is not told to fail.
    pub(super) fn faults(&self) -> SimulatedFaults {
        SimulatedFaults { full_after_bytes: self.full_after_bytes, ..SimulatedFaults::default() }
    }

    /// The disk fails when it comes to that operation, mostly so that the store stops.
    pub(super) fn arm(&mut self, fault: Fault) {
        let mut faults = self.faults();
        match fault {
            Fault::PowerLoss { operation } => faults.crash_at = Some(operation),
            Fault::FailedWrite { operation } => faults.fail_write_at = Some(operation),
            Fault::FailedSync { operation } => faults.fail_sync_at = Some(operation),
            Fault::FailedRead { operation } => faults.fail_read_at = Some(operation),
            Fault::FailedOther { operation } => faults.fail_other_at = Some(operation),
            Fault::None | Fault::Kills | Fault::FullDisk | Fault::All => return,
        }
        self.disk.set_faults(faults);
        self.armed = Some(fault);
    }

    pub(super) fn is_power_off(&self) -> bool {
        matches!(self.armed, Some(Fault::PowerLoss { operation }) if self.disk.operations() > operation)
    }

    /// The store has done without what failed: an error has struck, and it goes on.
    pub(super) fn note_survived(&mut self) {
        let left = self.disk.faults();
        match self.armed {
            Some(Fault::FailedRead { .. }) if left.fail_read_at.is_none() => {}
            // A file that could not be removed may be there when one of its name is made.
            Some(Fault::FailedOther { .. }) if left.fail_other_at.is_none() => {}
            _ => return,
        }
        self.armed = None;
        self.happened.count("errors of the disk that the store did without");
    }

    /// Nothing goes wrong with a read while all is looked at.
    pub(super) fn disarm_reads(&mut self) {
        if matches!(self.armed, Some(Fault::FailedRead { .. })) {
            self.armed = None;
            self.disk.set_faults(self.faults());
        }
    }

    /// One of those that may stop the store, within so many operations from now.
    pub(super) fn any_fault(&mut self, within: u64) -> Fault {
        let operation = self.disk.operations() + self.random.u64(0..within);
        match self.random.u8(0..8) {
            0 | 1 => Fault::FailedWrite { operation },
            2 | 3 => Fault::FailedSync { operation },
            4 => Fault::FailedRead { operation },
            5 => Fault::FailedOther { operation },
            _ => Fault::PowerLoss { operation },
        }
    }

    /// The process ends after a fault, and with it the machine unless it was an error of the disk. Answers whether it was:
    /// what the error was for is not durable then, though the next process reads it.
    pub(super) fn end(&mut self, fault: Option<Fault>) -> bool {
        self.store = None;
        self.armed = None;
        self.happened.add("disk operations", self.disk.operations());
        let is_error = fault.is_some_and(Fault::is_error);
        self.happened.count(if is_error { "errors of the disk" } else { "power losses" });
        self.disk = if is_error { self.disk.kill() } else { self.disk.crash() };
        self.disk.set_faults(self.faults());
        is_error
    }

    /// What is wrong from the start.
    pub(super) fn arm_at_start(&mut self, fault: Fault) {
        // The one that holds state fills up later, when there is a file of it.
        if matches!(fault, Fault::FullDisk) && !self.shape.state {
            let files = self.random.u64(2..7);
            self.fill_up(self.shape.file_bytes * files + 4096);
        }
        self.arm(fault);
    }

    /// What goes wrong before a step.
    pub(super) fn make_trouble(&mut self, fault: Fault, step: usize) {
        match fault {
            Fault::FullDisk if self.shape.state && step == self.shape.steps / 3 => self.fill_up_soon(),
            Fault::Kills if self.random.u8(..) < KILLS => {
                self.happened.count("kills");
                self.kill();
            }
            Fault::All if self.armed.is_none() && self.random.u8(..) < TROUBLES => match self.random.u8(0..8) {
                0..4 => {
                    let fault = self.any_fault(40);
                    self.arm(fault);
                }
                4 => {
                    self.happened.count("kills");
                    self.kill();
                }
                _ if self.full_after_bytes.is_some() => self.make_space(),
                _ => self.fill_up_soon(),
            },
            _ => {}
        }
    }

    fn fill_up_soon(&mut self) {
        let used: u64 = self.disk.file_names().iter().map(|name| self.disk.file_len(name)).sum();
        let left = self.random.u64(0..self.shape.file_bytes * 4);
        self.fill_up(used + left);
    }

    fn fill_up(&mut self, full_after_bytes: u64) {
        self.happened.count("full disks");
        self.disk_is_small = true;
        self.full_after_bytes = Some(full_after_bytes);
        self.disk.set_faults(self.faults());
    }

    /// Somebody deletes something else: sends go on a second later, without a restart.
    fn make_space(&mut self) {
        self.happened.count("full disks that got space");
        self.full_after_bytes = None;
        self.disk.set_faults(self.faults());
        self.pass(SPACE_NOTICED_MS);
        let before = self.given_up();
        while self.engine().maintain() {}
        self.note_given_up(&before);
        if self.engine().stopped().is_some() {
            return;
        }
        let message = NewMessage { delay_ms: 0, ..self.message() };
        let transaction = Transaction { sends: [(self.queue(), message)].into(), ..Transaction::default() };
        self.commit(vec![transaction], |refusal| {
            matches!(refusal, Refusal::QueueFull { .. } | Refusal::TooLarge { .. })
        });
    }
}
