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

/// What another process has and has used.
pub(crate) struct Usage {
    pub(crate) resident_kb: u64,
    pub(crate) threads: u64,
    pub(crate) files: u64,
    /// On all cores together, of the process and the system for it.
    pub(crate) cpu: Duration,
    /// In what time that was; zero if since it began.
    pub(crate) over: Duration,
}

impl Usage {
    pub(crate) fn of(process: u32) -> Result<Usage, Error> {
        let proc = Path::new("/proc").join(process.to_string());
        let status = std::fs::read_to_string(proc.join("status"))?;
        let value = |name: &str| -> Result<u64, Error> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("a line is missing in status")?;
            Ok(line.split_whitespace().next().ok_or("a line is empty in status")?.parse()?)
        };
        // Behind the name, which may have spaces: user and system time, of threads that have ended too.
        let stat = std::fs::read_to_string(proc.join("stat"))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
        let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        let cpu = Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / rustix::param::clock_ticks_per_second());
        let files = std::fs::read_dir(proc.join("fd"))?.count() as u64;
        Ok(Usage { resident_kb: value("VmRSS:")?, threads: value("Threads:")?, files, cpu, over: Duration::ZERO })
    }

    /// Of one core.
    pub(crate) fn cpu_percent(&self, over: Duration) -> f64 {
        self.cpu.as_secs_f64() / over.as_secs_f64() * 100.0
    }
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
