//! `kind = "watch"`: a message for each file that appears in a folder.
//!
//! | key | meaning |
//! | --- | --- |
//! | `folder` | the folder; it must exist |
//! | `files` | patterns of names, one or an array; those with a `/` are of paths below the folder. `"*"` by default; hidden files only if a pattern begins with a dot |
//! | `recursive` | whether files in folders of the folder count; `false` by default |
//! | `settle` | a file whose size and time have not changed for so long is complete; `"500ms"` by default |
//! | `body` | `"content"` (the default) or `"path"`, which is absolute |
//! | `after` | `"keep"` (the default), `"move"` (to the folder `move_to`, which is made) or `"delete"` |
//!
//! Attributes are `file-name`, `file-path` (below the folder), `file-size` in bytes and `file-modified-at` (RFC 3339).
//!
//! A file is sent once: that it was sent is committed with its message, and only then is it moved or deleted. It is known
//! by inode, size and time of modification, so that one that is renamed within the folder is not sent again, and one that
//! is written to again is. What is known of a file is dropped when the file is gone.
//!
//! A file is never overwritten by a move: if its name is taken, it gets a number. With `body = "content"` a file that is
//! larger than a message may be (1 MiB) is refused, which is logged and counted, and stays where it is; use
//! `body = "path"` for large files. Symbolic links are not followed.

mod afterwards;
mod folder;

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::folder::{Content, Folder, Found, Version};
use super::blocking;
use super::file_id::{FileId, KEY_PREFIX};
use super::outlet::{Outlet, Unsent};
use crate::config::producers::{After, WatchConfig};
use crate::delivery::{NewMessage, StateWrite};
use crate::hints::Hints;
use crate::status::producers::ProducerState;
use crate::time::rfc3339;

/// How often to look without a hint of the file system.
const RESCAN: Duration = Duration::from_secs(2);
/// How long to leave hints alone after a look, at least.
const BREATHE: Duration = Duration::from_millis(20);
/// A look may take this part of the time.
const LOOKING_SHARE: u32 = 20;
/// What goes on record in one step.
const BATCH_FILES: usize = 64;
const BATCH_BYTES: usize = 128 << 10;
/// Keys of the state that are taken away in one step.
const WRITES_MAX: usize = 256;

/// The value of a file in the producer's state.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Below the folder; for people.
    path: String,
    #[serde(flatten)]
    version: Version,
}

/// Files that were read, and those that could not be.
#[derive(Default)]
struct Batch {
    files: Vec<(Found, Bytes)>,
    refused: Vec<Found>,
    errors: Vec<String>,
}

/// Runs until it is told to stop.
pub(super) async fn run(outlet: &Outlet, config: &WatchConfig) -> Result<(), Unsent> {
    let records = outlet.states(KEY_PREFIX).await?.into_iter().filter_map(|(key, value)| {
        let record: Record = serde_json::from_slice(&value).ok()?;
        Some((FileId::from_key(&key)?, record.version))
    });
    let mut folder = Folder::new(config, records.collect());
    let mut hints = Hints::new();
    while !outlet.is_stopped() {
        let begun = Instant::now();
        let look;
        (folder, look) = blocking(folder, move |folder| folder.look(begun)).await;
        // Without what is sent afterwards: a burst of files must not make the next ones wait.
        let took = begun.elapsed();
        hints.watch(&look.folders);
        outlet.entry().files(look.files);
        match &look.error {
            Some(error) => said(outlet, ProducerState::Waiting, error),
            None => outlet.entry().running(),
        }
        // Those that were sent before the process ended, or could not be moved.
        folder = touch(outlet, folder, config, look.sent).await;
        forget(outlet, &mut folder, &look.gone).await?;
        let sent_before = folder.sent.len();
        let mut due = look.due.into_iter();
        while due.len() > 0 && !outlet.is_stopped() {
            let (batch, rest);
            (folder, (batch, rest)) = blocking(folder, move |folder| read(folder, due)).await;
            due = rest;
            folder = send(outlet, folder, config, batch).await?;
        }
        let breathe = BREATHE.max(took * LOOKING_SHARE);
        tokio::select! {
            () = outlet.stopped() => {}
            () = tokio::time::sleep(breathe) => {}
        }
        // What was moved may have made room for more.
        let wait =
            if folder.sent.len() > sent_before { Duration::ZERO } else { look.next.unwrap_or(RESCAN).min(RESCAN) };
        tokio::select! {
            () = outlet.stopped() => {}
            () = hints.wait(wait) => {}
        }
    }
    Ok(())
}

/// Reads files until there are enough for one step.
fn read(folder: &mut Folder, mut due: std::vec::IntoIter<Found>) -> (Batch, std::vec::IntoIter<Found>) {
    let mut batch = Batch::default();
    let mut bytes = 0;
    while batch.files.len() < BATCH_FILES && bytes < BATCH_BYTES {
        let Some(found) = due.next() else { break };
        match folder.read(&found) {
            Ok(Content::Body(body)) => {
                bytes += body.len();
                batch.files.push((found, body));
            }
            Ok(Content::TooLarge) => {
                folder.refuse(&found);
                batch.refused.push(found);
            }
            // The next look finds it as it is then.
            Ok(Content::Changed) => {}
            // It is tried again at each look, and said once.
            Err(error) if folder.trouble(&found) => {
                batch.errors.push(format!("can't read {}: {error}", folder.path(&found).display()));
            }
            Err(_) => {}
        }
    }
    (batch, due)
}

/// Puts a batch on record, and then does with its files what is to be done; in smaller steps if the engine wants them.
async fn send(outlet: &Outlet, mut folder: Folder, config: &WatchConfig, batch: Batch) -> Result<Folder, Unsent> {
    for error in &batch.errors {
        said(outlet, ProducerState::Running, error);
    }
    for found in &batch.refused {
        too_large(outlet, &folder, found);
    }
    let mut files = batch.files;
    let mut step = files.len();
    while !files.is_empty() {
        let count = step.min(files.len());
        let part = &files[..count];
        let messages = part.iter().map(|(found, body)| message(outlet, found, body.clone())).collect();
        let state = part.iter().map(|(found, _)| record(outlet, found)).collect();
        match outlet.commit(messages, state).await {
            Ok(_) => {
                let sent: Vec<_> = files.drain(..count).map(|(found, _)| found).collect();
                folder.sent.extend(sent.iter().map(|found| (found.id, found.version)));
                folder = touch(outlet, folder, config, sent).await;
            }
            Err(Unsent::TooLarge) if count > 1 => step = count / 2,
            Err(Unsent::TooLarge) => {
                let (found, _) = files.remove(0);
                folder.refuse(&found);
                too_large(outlet, &folder, &found);
            }
            Err(stopped) => return Err(stopped),
        }
    }
    Ok(folder)
}

/// Moves or deletes files that were sent.
async fn touch(outlet: &Outlet, folder: Folder, config: &WatchConfig, sent: Vec<Found>) -> Folder {
    if config.after == After::Keep || sent.is_empty() {
        return folder;
    }
    let after = config.after.clone();
    let (folder, errors) = blocking(folder, move |folder| afterwards::run(folder, &after, &sent)).await;
    for error in errors {
        said(outlet, ProducerState::Running, &error);
    }
    folder
}

/// Drops what is known of files that are gone.
async fn forget(outlet: &Outlet, folder: &mut Folder, gone: &[FileId]) -> Result<(), Unsent> {
    for part in gone.chunks(WRITES_MAX) {
        outlet.commit(Vec::new(), part.iter().map(|id| outlet.write(&id.key(), None)).collect()).await?;
        for id in part {
            folder.sent.remove(id);
        }
    }
    Ok(())
}

fn said(outlet: &Outlet, state: ProducerState, error: &str) {
    if outlet.entry().error(state, error) {
        tracing::warn!(producer = outlet.name(), "{error}");
    }
}

fn too_large(outlet: &Outlet, folder: &Folder, found: &Found) {
    outlet.entry().refused(1);
    let (path, bytes) = (folder.path(found), found.version.size);
    let error = format!("{} has {bytes} bytes, which is more than a message may have: it stays there", path.display());
    said(outlet, ProducerState::Running, &error);
}

fn record(outlet: &Outlet, found: &Found) -> StateWrite {
    let record = Record { path: found.path.to_string_lossy().into_owned(), version: found.version };
    let value = serde_json::to_vec(&record).expect("texts and numbers are JSON");
    outlet.write(&found.id.key(), Some(value.into()))
}

fn message(outlet: &Outlet, found: &Found, body: Bytes) -> NewMessage {
    let mut message = outlet.message(body);
    let mut add = |name: &str, value: String| message.attributes.push((name.into(), value.into()));
    add("file-name", found.path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    add("file-path", found.path.to_string_lossy().into_owned());
    add("file-size", found.version.size.to_string());
    add("file-modified-at", rfc3339(found.version.modified_ms()));
    message
}

#[cfg(test)]
mod tests;
