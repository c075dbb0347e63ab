//! SQLite's side, with the store's own group commit: one thread that takes everything that waits into one transaction.
//!
//! Claims read on a connection of their own, beside the committer, and leases are in memory only, as the store's are: a
//! claim goes on behind the last message that was claimed, and an acknowledged message is deleted by its id. That is less
//! than a queue needs (leases never run out here), and the fastest that SQLite can do it.

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
    // Held while messages are claimed; there is one consumer.
    claims: Mutex<Claims>,
    committer: Option<JoinHandle<()>>,
}

/// What the consumer's claims need.
struct Claims {
    connection: Connection,
    /// The last message that was claimed.
    last_id: i64,
}

/// A piece of the next transaction.
enum Step {
    Insert(Bytes),
    Delete(i64),
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
    jobs: Vec<(Step, Confirm)>,
    /// Told of each group that brings messages.
    arrived: Option<Arc<dyn Fn() + Send + Sync>>,
    closing: bool,
}

pub(crate) fn open(folder: &Path, _settings: &Settings) -> Result<Sqlite, Error> {
    let file = folder.join("queues.sqlite");
    let connection = Connection::open(&file)?;
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
    let claims = Mutex::new(Claims { connection: Connection::open(&file)?, last_id: 0 });
    let inbox = Arc::new(Inbox::default());
    let committer_inbox = inbox.clone();
    let committer = std::thread::Builder::new()
        .name("sqlite-committer".into())
        .spawn(move || commit_all(connection, &committer_inbox))?;
    Ok(Sqlite { inbox, claims, committer: Some(committer) })
}

impl Sqlite {
    fn push(&self, step: Step, confirm: Confirm) {
        let mut waiting = self.inbox.waiting();
        waiting.jobs.push((step, confirm));
        if waiting.jobs.len() == 1 {
            self.inbox.changed.notify_one();
        }
    }
}

impl Broker for Sqlite {
    /// The message's id.
    type Lease = i64;

    fn publish(&self, body: Bytes, confirm: impl FnOnce(Result<(), String>) + Send + 'static) {
        self.push(Step::Insert(body), Box::new(confirm));
    }

    fn watch(&self, arrived: impl Fn() + Send + Sync + 'static) {
        self.inbox.waiting().arrived = Some(Arc::new(arrived));
    }

    fn claim(&self, max: usize) -> Result<Vec<(i64, Bytes)>, String> {
        let claims = &mut *self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let claimed = claims.read(max).map_err(|error| error.to_string())?;
        claims.last_id = claimed.last().map_or(claims.last_id, |(id, _)| *id);
        Ok(claimed)
    }

    fn ack(&self, lease: i64, confirm: impl FnOnce(Result<(), String>) + Send + 'static) {
        self.push(Step::Delete(lease), Box::new(confirm));
    }
}

impl Claims {
    fn read(&self, max: usize) -> rusqlite::Result<Vec<(i64, Bytes)>> {
        let mut select =
            self.connection.prepare_cached("SELECT id, body FROM messages WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let rows = select.query_map((self.last_id, max as i64), |row| {
            Ok((row.get(0)?, Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?)))
        })?;
        rows.collect()
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
    fn take(&self) -> Option<Vec<(Step, Confirm)>> {
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
    let mut last_id = 0;
    while let Some(jobs) = inbox.take() {
        let committed = commit(&mut connection, &jobs, &mut last_id).map_err(|error| error.to_string());
        if jobs.iter().any(|(step, _)| matches!(step, Step::Insert(_))) {
            let arrived = inbox.waiting().arrived.clone();
            arrived.iter().for_each(|arrived| arrived());
        }
        for (_, confirm) in jobs {
            confirm(committed.clone());
        }
    }
}

/// `last_id`: of the last message that was inserted. SQLite would use the numbers of deleted rows again.
fn commit(connection: &mut Connection, jobs: &[(Step, Confirm)], last_id: &mut i64) -> rusqlite::Result<()> {
    let now_ms = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64);
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction
            .prepare_cached("INSERT INTO messages (id, queue, enqueued_at_ms, body) VALUES (?1, ?2, ?3, ?4)")?;
        let mut delete = transaction.prepare_cached("DELETE FROM messages WHERE id = ?1")?;
        for (step, _) in jobs {
            match step {
                Step::Insert(body) => {
                    *last_id += 1;
                    insert.execute((*last_id, QUEUE, now_ms, &body[..]))?;
                }
                Step::Delete(id) => {
                    delete.execute([id])?;
                }
            }
        }
    }
    transaction.commit()
}
