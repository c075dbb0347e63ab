//! SQLite's side, with the store's own group commit: one thread that takes everything that waits into one transaction.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use bytes::Bytes;
use rusqlite::Connection;

use crate::Error;
use crate::load::Broker;
use crate::settings::Settings;

/// The number of the one queue that messages go to. The store's records name theirs by number, too.
const QUEUE: u32 = 1;

/// Told whether the message is durable.
type Confirm = Box<dyn FnOnce(Result<(), String>) + Send>;

pub(crate) struct Sqlite {
    inbox: Arc<Inbox>,
    committer: Option<JoinHandle<()>>,
}

/// Where messages wait for the committer.
#[derive(Default)]
struct Inbox {
    // Held to push and to take everything; never during I/O.
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<(Bytes, Confirm)>,
    closing: bool,
}

pub(crate) fn open(folder: &Path, _settings: &Settings) -> Result<Sqlite, Error> {
    let connection = Connection::open(folder.join("queues.sqlite"))?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0))?;
    if mode != "wal" {
        return Err(format!("SQLite keeps journal_mode={mode}: the folder's file system has no shared memory").into());
    }
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         CREATE TABLE messages (
             id INTEGER PRIMARY KEY,
             queue INTEGER NOT NULL,
             enqueued_at_ms INTEGER NOT NULL,
             body BLOB NOT NULL
         );",
    )?;
    let inbox = Arc::new(Inbox::default());
    let committer_inbox = inbox.clone();
    let committer = std::thread::Builder::new()
        .name("sqlite-committer".into())
        .spawn(move || commit_all(connection, &committer_inbox))?;
    Ok(Sqlite { inbox, committer: Some(committer) })
}

impl Broker for Sqlite {
    fn publish(&self, body: Bytes, confirm: impl FnOnce(Result<(), String>) + Send + 'static) {
        let mut waiting = self.inbox.waiting();
        waiting.jobs.push((body, Box::new(confirm)));
        if waiting.jobs.len() == 1 {
            self.inbox.changed.notify_one();
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.inbox.waiting().closing = true;
        self.inbox.changed.notify_one();
        if let Some(committer) = self.committer.take() {
            // If it panicked, the round has failed already: its senders are gone.
            let _ = committer.join();
        }
    }
}

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for messages. None once it is closed and empty.
    fn take(&self) -> Option<Vec<(Bytes, Confirm)>> {
        let mut waiting = self.waiting();
        while waiting.jobs.is_empty() {
            if waiting.closing {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut waiting.jobs))
    }
}

fn commit_all(mut connection: Connection, inbox: &Inbox) {
    while let Some(jobs) = inbox.take() {
        let committed = commit(&mut connection, &jobs).map_err(|error| error.to_string());
        for (_, confirm) in jobs {
            confirm(committed.clone());
        }
    }
}

fn commit(connection: &mut Connection, jobs: &[(Bytes, Confirm)]) -> rusqlite::Result<()> {
    let now_ms = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64);
    let transaction = connection.transaction()?;
    {
        let mut insert =
            transaction.prepare_cached("INSERT INTO messages (queue, enqueued_at_ms, body) VALUES (?1, ?2, ?3)")?;
        for (body, _) in jobs {
            insert.execute((QUEUE, now_ms, &body[..]))?;
        }
    }
    transaction.commit()
}
