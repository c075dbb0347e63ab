//! Copies what a full log file keeps of histories to history files, one for each queue.
//!
//! It runs beside the committer. Whatever a log file keeps was acknowledged before the file was full, so nothing comes to it
//! meanwhile; what is forgotten meanwhile is copied for nothing.

use std::sync::Arc;

use super::file::{self, HistoryFile, HistoryWriter};
use crate::cold::copy::{CopyError, Making};
use crate::disk::Disk;
use crate::location::FileId;
use crate::record::{self, KeptPlace, QueueNumber, Record};
use crate::shared::Shared;
use crate::wal::LogFile;

/// Messages that are looked up at a time.
const STEP: usize = 1024;

/// The files are durable when the folder has been synced. `begun` gains the names of all that were made, also of those that
/// are not whole.
pub(crate) fn copy_history(
    disk: &dyn Disk,
    shared: &Shared,
    log_file: &LogFile,
    making: &mut Making,
    begun: &mut Vec<String>,
) -> Result<Vec<Arc<HistoryFile>>, CopyError> {
    let mut files = Vec::new();
    let queues = shared.state().history.queues();
    for queue in queues {
        copy_queue(disk, shared, log_file, making, begun, queue, &mut files)?;
    }
    Ok(files)
}

fn copy_queue(
    disk: &dyn Disk,
    shared: &Shared,
    log_file: &LogFile,
    making: &mut Making,
    begun: &mut Vec<String>,
    queue: QueueNumber,
    files: &mut Vec<Arc<HistoryFile>>,
) -> Result<(), CopyError> {
    let epoch = log_file.header.epoch;
    let mut writer: Option<HistoryWriter> = None;
    let mut from = 0;
    let mut bytes = Vec::new();
    loop {
        let some = shared.state().history.in_log_file(FileId::log(epoch), queue, from, STEP);
        let Some((last, _)) = some.last() else { break };
        from = last + 1;
        for (position, recent) in some {
            bytes.resize(recent.location.len as usize, 0);
            log_file.file.read_at(&mut bytes, u64::from(recent.location.offset))?;
            let whole = matches!(record::decode(&bytes), Ok(Record::Put(put)) if put.place.sequence == recent.sequence);
            if !whole {
                // It is missing in the file, which counts as given up when the file is taken in.
                continue;
            }
            if let Some(full) = writer.take_if(|writer| !writer.takes(position, bytes.len() + 64)) {
                files.push(Arc::new(full.finish(disk, making.store_tag)?));
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                none => {
                    let id = making.next_id;
                    making.next_id += 1;
                    begun.push(file::name(id));
                    none.insert(HistoryWriter::new(disk, id, queue, making.chunk_bytes)?)
                }
            };
            writer.put(KeptPlace { position, acked_at_ms: recent.acked_at_ms }, recent.bytes, &bytes)?;
        }
    }
    if let Some(writer) = writer {
        files.push(Arc::new(writer.finish(disk, making.store_tag)?));
    }
    Ok(())
}
