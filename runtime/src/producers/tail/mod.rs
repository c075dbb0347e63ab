//! `kind = "tail"`: a message for each line of files that grow.
//!
//! | key | meaning |
//! | --- | --- |
//! | `files` | patterns of paths, one or an array, as a shell expands them (`logs/*.log`, `/var/log/**/*.log`) |
//! | `start` | in files that are there when the producer first starts with a pattern: `"beginning"` (the default) or `"end"`. Files that come later are always read from their beginning |
//! | `max_line` | the longest line, without its end; `"64KiB"` by default, up to `"1MiB"` |
//! | `long_lines` | what becomes of longer ones: `"split"` (the default) into several messages, or `"refuse"`, which counts them |
//!
//! The body is the line without its end (`\n` or `\r\n`), byte for byte, whatever its encoding. Attributes are `file` (its
//! path), `offset` (where the line begins) and, for the pieces of a long line, `line-part` (`1`, `2`, … and `3/3` for the
//! last of three). A line without its end waits for it. Lines of one file are sent in their order.
//!
//! # What happens to files
//! A file is its inode, not its name:
//! - One that is *renamed* is read to its end under its new name, whether the patterns name that or not, and also if it
//!   was renamed while the runtime did not run, as long as it stays in its folder. If the patterns do not name it, it is
//!   left when it has been quiet for a minute; what is then left of it is its last line.
//! - One that is *truncated* (it is shorter than it was, or begins differently) is read from its beginning. If there is a
//!   copy of what was before in the same folder (copy-truncate), the rest of that is read, too. A new file that begins as
//!   another does, or in which there is nothing yet, and that is named after the other (`app.log.1`, `app-20261129.log`),
//!   waits for three seconds: it may be such a copy.
//! - One that is *deleted* is read to its end if it is open here; of those that changed or were read last, 256 are. So a log
//!   that is compressed as soon as it is rotated is read to its end; not so if all of that happens between two looks at a
//!   file that is new, or while the runtime does not run.
//!
//! Links are followed. A pattern that may lead into a folder that guests may write is refused with `queue.toml`: they could
//! have any file read. So is a file, when it is opened, if links that a pattern matched lead to it through such a folder.
//!
//! How far each file was read is committed with the messages themselves. While the queue takes nothing, nothing is read.

mod batch;
mod follower;
mod lines;
mod listing;
mod position;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use self::batch::{Batch, Line};
use self::follower::{Follower, Patience};
use self::position::Record;
use super::blocking;
use super::file_id::{FileId, KEY_PREFIX};
use super::outlet::{Outlet, Unsent};
use crate::config::producers::TailConfig;
use crate::delivery::{NewMessage, StateWrite};
use crate::hints::Hints;
use crate::status::producers::ProducerState;

/// The patterns whose new files are read from their beginning.
const STARTED: &str = "started";
/// How often to look without a hint of the file system.
const RESCAN: Duration = Duration::from_secs(1);
/// How long to leave hints alone after a look, at least.
const BREATHE: Duration = Duration::from_millis(50);
/// A look may take this part of the time.
const LOOKING_SHARE: u32 = 20;
/// Keys of the state that are written in one step.
const WRITES_MAX: usize = 32;

/// Runs until it is told to stop.
pub(super) async fn run(outlet: &Outlet, config: &TailConfig) -> Result<(), Unsent> {
    let records = outlet.states(KEY_PREFIX).await?.into_iter();
    let records = records.filter_map(|(key, value)| Some((FileId::from_key(&key)?, Record::from_bytes(&value)?)));
    let mut follower = Follower::new(config, Patience::default(), records.collect(), Instant::now());
    let before = outlet.state(STARTED).await?;
    let before = before.and_then(|value| serde_json::from_slice::<Vec<String>>(&value).ok());
    if before.as_ref() != Some(&config.files) {
        let (start, before, begun) = (config.start, before.unwrap_or_default(), Instant::now());
        let passed;
        (follower, passed) = blocking(follower, move |follower| follower.begin(start, &before, begun)).await;
        for part in passed.chunks(WRITES_MAX) {
            outlet.commit(Vec::new(), part.iter().map(|(id, record)| write(outlet, *id, record)).collect()).await?;
        }
        let patterns = serde_json::to_vec(&config.files).expect("texts are JSON");
        outlet.commit(Vec::new(), vec![outlet.write(STARTED, Some(patterns.into()))]).await?;
    }
    let mut hints = Hints::new();
    let mut looked: Option<Instant> = None;
    while !outlet.is_stopped() {
        let begun = Instant::now();
        // Also while one file keeps it busy, what happens to the others is noticed.
        let look = looked.is_none_or(|at| begun.duration_since(at) >= RESCAN);
        let (batch, folders, more);
        (follower, (batch, folders, more)) = blocking(follower, move |follower| {
            let mut batch = Batch::default();
            let folders = look.then(|| follower.look(&mut batch, begun));
            let more = follower.collect(&mut batch);
            (batch, folders, more)
        })
        .await;
        let took = begun.elapsed();
        if let Some(folders) = folders {
            looked = Some(begun);
            hints.watch(&folders);
            outlet.entry().files(follower.len());
        }
        for error in follower.take_errors() {
            if outlet.entry().error(ProducerState::Running, &error) {
                tracing::warn!(producer = outlet.name(), "{error}");
            }
        }
        let all = batch.is_empty();
        commit(outlet, batch, &mut follower).await?;
        if more || !all {
            continue;
        }
        let breathe = BREATHE.max(took * LOOKING_SHARE);
        tokio::select! {
            () = outlet.stopped() => return Ok(()),
            () = tokio::time::sleep(breathe) => {}
        }
        tokio::select! {
            () = outlet.stopped() => return Ok(()),
            () = hints.wait(RESCAN) => looked = None,
        }
    }
    Ok(())
}

/// Puts the lines on record, each with how far its file was read; in smaller steps if the engine wants them.
async fn commit(outlet: &Outlet, mut batch: Batch, follower: &mut Follower) -> Result<(), Unsent> {
    let mut from = 0;
    let mut step = batch.lines.len();
    let with_lines: BTreeSet<_> = batch.lines.iter().map(|line| line.file).collect();
    // A file that was truncated begins anew, and a copy of what was in it is known, before anything else is on record.
    let (last, mut first): (BTreeMap<_, _>, BTreeMap<_, _>) =
        std::mem::take(&mut batch.others).into_iter().partition(|(id, _)| with_lines.contains(id));
    while from < batch.lines.len() {
        let until = (from + step).min(batch.lines.len());
        let mut records = batch.records(from..until);
        records.extend(first.iter().map(|(id, record)| (*id, record.clone())));
        if until == batch.lines.len() {
            records.extend(last.iter().map(|(id, record)| (*id, record.clone())));
        }
        let state: Vec<_> = records.iter().map(|(id, record)| write(outlet, *id, record)).collect();
        let messages = batch.lines[from..until].iter().map(|line| message(outlet, line)).collect();
        match outlet.commit(messages, state.clone()).await {
            Ok(_) => {
                from = until;
                first.clear();
            }
            Err(Unsent::TooLarge) if step > 1 => {
                step /= 2;
                follower.halve();
            }
            Err(Unsent::TooLarge) => {
                outlet.entry().refused(1);
                tracing::error!(
                    producer = outlet.name(),
                    file = %batch.lines[from].path.display(),
                    "a line is larger than the log takes and is left out: raise log_max_bytes"
                );
                outlet.commit(Vec::new(), state).await?;
                from = until;
            }
            Err(stopped) => return Err(stopped),
        }
    }
    if batch.lines.is_empty() {
        let writes: Vec<_> = first.iter().map(|(id, record)| write(outlet, *id, record)).collect();
        // More than these are files that have moved together, and each stands for itself.
        for part in writes.chunks(WRITES_MAX) {
            outlet.commit(Vec::new(), part.to_vec()).await?;
        }
    }
    let forgotten: Vec<_> = batch.forgotten.iter().map(|id| outlet.write(&id.key(), None)).collect();
    for part in forgotten.chunks(WRITES_MAX) {
        outlet.commit(Vec::new(), part.to_vec()).await?;
    }
    if batch.refused > 0 {
        outlet.entry().refused(batch.refused);
        tracing::warn!(producer = outlet.name(), "{} lines are longer than max_line and were left out", batch.refused);
    }
    Ok(())
}

fn write(outlet: &Outlet, id: FileId, record: &Record) -> StateWrite {
    outlet.write(&id.key(), Some(record.to_bytes()))
}

fn message(outlet: &Outlet, line: &Line) -> NewMessage {
    let mut message = outlet.message(line.body.clone());
    let mut add = |name: &str, value: String| message.attributes.push((name.into(), value.into()));
    add("file", line.path.display().to_string());
    add("offset", line.offset.to_string());
    if let Some(part) = &line.part {
        add("line-part", part.clone());
    }
    message
}
