//! Puts runs together, so that there are few to search.

use std::sync::Arc;

use super::run::{Run, RunWriter};
use super::{KeyHash, Seen};
use crate::cold::copy::CopyError;
use crate::disk::Disk;

/// One run of several, oldest first. What is older than `before_ms` is left out; none, if that is everything.
pub(crate) fn merge(
    disk: &dyn Disk,
    old: &[Arc<Run>],
    before_ms: u64,
    id: u64,
    store_tag: u64,
) -> Result<Option<Run>, CopyError> {
    let damaged = |_: String| CopyError::Damaged { files: old.iter().map(|run| run.id()).collect() };
    let mut cursors = Vec::with_capacity(old.len());
    for run in old {
        cursors.push(Cursor::new(run).map_err(damaged)?);
    }
    let mut writer: Option<RunWriter> = None;
    while let Some(key) = cursors.iter().filter_map(Cursor::key).min() {
        let mut newest: Option<Seen> = None;
        for cursor in &mut cursors {
            if cursor.key() == Some(key) {
                newest = Some(cursor.take().map_err(damaged)?);
            }
        }
        if let Some(seen) = newest.filter(|seen| seen.at_ms >= before_ms) {
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(RunWriter::new(disk, id, old.iter().map(|run| run.keys()).sum())?),
            };
            writer.put(key, seen)?;
        }
    }
    let Some(writer) = writer else { return Ok(None) };
    let run = writer.finish(store_tag)?;
    disk.sync_folder()?;
    Ok(Some(run))
}

/// Where a run has been read to.
struct Cursor<'a> {
    run: &'a Run,
    next_block: usize,
    keys: std::vec::IntoIter<(KeyHash, Seen)>,
}

impl<'a> Cursor<'a> {
    fn new(run: &'a Run) -> Result<Cursor<'a>, String> {
        let mut cursor = Cursor { run, next_block: 0, keys: Vec::new().into_iter() };
        cursor.fill()?;
        Ok(cursor)
    }

    fn fill(&mut self) -> Result<(), String> {
        if self.keys.len() == 0 && self.next_block < self.run.blocks() {
            self.keys = self.run.read_block(self.next_block)?.into_iter();
            self.next_block += 1;
        }
        Ok(())
    }

    fn key(&self) -> Option<KeyHash> {
        self.keys.as_slice().first().map(|(key, _)| *key)
    }

    fn take(&mut self) -> Result<Seen, String> {
        let (_, seen) = self.keys.next().expect("there is a key");
        self.fill()?;
        Ok(seen)
    }
}
