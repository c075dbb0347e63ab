//! The process's memory and the folder's size.

use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use super::Error;

/// The highest resident memory while something goes on.
pub(crate) struct Watch {
    stop: SyncSender<()>,
    thread: std::thread::JoinHandle<u64>,
}

impl Watch {
    pub(crate) fn start() -> Result<Watch, Error> {
        let (stop, stopped) = sync_channel::<()>(0);
        let thread = std::thread::Builder::new().spawn(move || {
            let mut most = 0;
            while stopped.recv_timeout(Duration::from_millis(50)).is_err() {
                most = resident_kb().unwrap_or(0).max(most);
            }
            most
        })?;
        Ok(Watch { stop, thread })
    }

    pub(crate) fn stop(self) -> Result<u64, Error> {
        self.stop.send(())?;
        self.thread.join().map_err(|_| "the watch panicked".into())
    }
}

pub(crate) fn resident_kb() -> Result<u64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse()?)
}

/// MiB above.
pub(crate) fn over(kb: u64, empty_kb: u64) -> u64 {
    kb.saturating_sub(empty_kb) >> 10
}

/// Bytes of the folder, and of the log's files in it.
pub(crate) fn folder_bytes(folder: &Path) -> Result<(u64, u64), Error> {
    let (mut all, mut log) = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A file may be gone by now.
        let Ok(meta) = entry.metadata() else { continue };
        all += meta.len();
        if entry.file_name().to_string_lossy().starts_with("wal-") {
            log += meta.len();
        }
    }
    Ok((all, log))
}
