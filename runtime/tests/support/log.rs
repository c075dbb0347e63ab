//! Everything that this process logs. A process has one log, so this is `log` of its root, whoever else includes it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex};

/// Everything that was logged by this process, as lines of JSON.
pub(crate) static LOG: LazyLock<Arc<Log>> = LazyLock::new(|| {
    let log = Arc::new(Log::default());
    let subscriber = tracing_subscriber::fmt().json().with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    log
});

#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<u8>>);

impl Log {
    pub(crate) fn of(&self, consumer: &str) -> Vec<serde_json::Value> {
        let lines = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter(|line| line["fields"]["consumer"] == consumer).collect()
    }
}

impl Write for &Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
