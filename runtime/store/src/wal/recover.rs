//! Opening the log: which files count, which frames are whole, and where the tail is.
//!
//! A torn frame is accepted only at the tail of the newest file: no whole frame of that file may follow it, and it must
//! not have been confirmed. Everything else that is not as it was written is damage, and the log is not opened.

use std::collections::VecDeque;
use std::sync::Arc;

use super::confirmed::{self, Confirmed, Note};
use super::file::{self, FileHeader};
use super::frame::{self, Frame};
use super::spares::{self, Spares};
use super::{FramePlace, LogFile, Salts, Wal, WalOptions, begin};
use crate::disk::{Disk, File};
use crate::error::OpenError;
use crate::reader::Reader;

/// Is handed every frame in order; an error is damage inside of a frame: where in its payload, and what.
pub(crate) type Replay<'a> = &'a mut dyn FnMut(FramePlace, Frame<'_>) -> Result<(), (u32, String)>;

/// What a checkpoint stands in for: the log before it is not needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) store_tag: u64,
    /// Of the first file that must be replayed.
    pub(crate) epoch: u64,
    /// Of the last frame that it covers.
    pub(crate) lsn: u64,
    /// Of the first file that is kept as it is for the other checkpoint, if that begins earlier.
    pub(crate) kept_epoch: u64,
}

/// Opens the log of a folder, or makes it. `seed` differs from opening to opening.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    options: WalOptions,
    start: Option<Start>,
    seed: u64,
    replay: Replay<'_>,
) -> Result<Wal, OpenError> {
    let mut salts = Salts(seed);
    let confirmed = Confirmed::new(disk.map_words(confirmed::FILE_NAME, confirmed::WORDS)?);
    let mut found = find_files(&*disk)?;
    if found.begun.is_empty() {
        if start.is_some() || confirmed.newest().is_some() {
            return Err(OpenError::Incomplete("its log files (wal-*.log) are missing".into()));
        }
        return create(disk, options, found.blank, confirmed, salts);
    }
    let needed = needed_files(&mut found, start)?;
    let Tail { file: current, end, last_frame: tail, next_lsn } = replay_files(&needed, &confirmed, start, replay)?;

    // What is trusted from here on must also survive a power loss that comes now. It is written again before the sync:
    // if the last process ended because a sync had failed, the system may take its pages for clean.
    current.file.write_at(&current.header.encode(), 0)?;
    current.file.write_at(&tail, end - tail.len() as u64)?;
    current.file.sync()?;
    disk.sync_folder()?;
    confirmed.note(Note { store_tag: current.header.store_tag, lsn: next_lsn - 1 });

    let reader = Reader::new();
    needed.iter().for_each(|file| reader.add_log(file));
    let first_kept =
        start.map_or(usize::MAX, |start| found.begun.partition_point(|file| file.header.epoch < start.kept_epoch));
    let mut full: VecDeque<LogFile> = found.begun.drain(first_kept.min(found.begun.len())..).collect();
    full.extend(needed);
    full.pop_back();
    let given_up = found.begun.into_iter().map(|file| (file.slot, file.file));
    let spares = keep_spares(&*disk, &options, found.blank.into_iter().chain(given_up))?;
    let salt_base = salts.next() ^ current.header.salt;
    Ok(Wal {
        disk,
        options,
        current,
        end,
        full,
        spares,
        leaving: Vec::new(),
        reader,
        confirmed,
        next_lsn,
        salts: Salts(salt_base),
    })
}

/// The log files of the folder: begun ones by epoch, and blank ones.
struct Found {
    begun: Vec<LogFile>,
    blank: Vec<(u32, Arc<dyn File>)>,
}

fn find_files(disk: &dyn Disk) -> Result<Found, OpenError> {
    let mut found = Found { begun: Vec::new(), blank: Vec::new() };
    for name in disk.list()? {
        let Some(slot) = file::slot(&name) else { continue };
        let file = disk.open(&name)?;
        match FileHeader::read(&name, &*file)? {
            None => found.blank.push((slot, file)),
            Some(header) => found.begun.push(LogFile { slot, header, file }),
        }
    }
    found.begun.sort_by_key(|file| file.header.epoch);
    Ok(found)
}

/// Takes the files that must be replayed out of `found`, oldest first. The rest are given up already.
fn needed_files(found: &mut Found, start: Option<Start>) -> Result<Vec<LogFile>, OpenError> {
    let newest = found.begun.last().expect("there is a begun file").header;
    let store_tag = start.map_or(newest.store_tag, |start| start.store_tag);
    if let Some(stranger) = found.begun.iter().find(|file| file.header.store_tag != store_tag) {
        return Err(OpenError::Incomplete(format!("{} belongs to another store", file::name(stranger.slot))));
    }
    let oldest_epoch = start.map_or(1, |start| start.epoch);
    let first = found.begun.partition_point(|file| file.header.epoch < oldest_epoch);
    let needed = found.begun.split_off(first);
    let newest_epoch = newest.epoch.max(oldest_epoch);
    for (epoch, file) in (oldest_epoch..=newest_epoch).zip(needed.iter().map(Some).chain(std::iter::repeat(None))) {
        match file {
            Some(file) if file.header.epoch == epoch => {}
            Some(file) if file.header.epoch < epoch => {
                return Err(OpenError::Incomplete(format!("{} is there twice", file::name(file.slot))));
            }
            _ => {
                let why = format!("the log file with epoch {epoch} is missing (one of wal-*.log)");
                return Err(OpenError::Incomplete(why));
            }
        }
    }
    Ok(needed)
}

/// Where the log ends.
struct Tail {
    /// The newest file.
    file: LogFile,
    /// Where its next frame goes.
    end: u64,
    /// The bytes of its last frame: all others were synced before it was written.
    last_frame: Vec<u8>,
    next_lsn: u64,
}

/// Replays all frames.
fn replay_files(
    needed: &[LogFile],
    confirmed: &Confirmed,
    start: Option<Start>,
    replay: Replay<'_>,
) -> Result<Tail, OpenError> {
    let mut expected_lsn = needed[0].header.first_lsn;
    let mut bytes = Vec::new();
    let mut end = 0;
    let mut last_frame = 0..0;
    for (index, log_file) in needed.iter().enumerate() {
        let header = &log_file.header;
        let damaged = |offset: usize, why: String| OpenError::Damaged {
            file: file::name(log_file.slot),
            offset: offset as u64,
            why,
        };
        if header.first_lsn != expected_lsn {
            return Err(damaged(0, format!("it begins with frame {}, expected {expected_lsn}", header.first_lsn)));
        }
        if log_file.file.len()? < header.file_bytes {
            return Err(damaged(log_file.file.len()? as usize, "the rest of the file is missing".into()));
        }
        bytes.resize(header.file_bytes as usize, 0);
        log_file.file.read_at(&mut bytes, 0)?;

        end = file::HEADER_BYTES;
        last_frame = end..end;
        while let Some(found) = header.seal().read(&bytes, end) {
            if found.lsn != expected_lsn {
                return Err(damaged(end, format!("frame {} stands where {expected_lsn} should be", found.lsn)));
            }
            if found.version != frame::PAYLOAD_VERSION {
                let why = format!("it was written in format {} by another version of Linecook", found.version);
                return Err(damaged(end, why));
            }
            let payload_offset = (end + frame::HEADER_BYTES) as u32;
            replay(FramePlace { file: header.epoch, payload_offset }, found)
                .map_err(|(at, why)| damaged((payload_offset + at) as usize, why))?;
            last_frame = end..end + frame::frame_bytes(found.payload.len());
            end = last_frame.end;
            expected_lsn += 1;
        }
        match needed.get(index + 1) {
            Some(next) if next.header.first_lsn != expected_lsn => {
                return Err(damaged(end, format!("frame {expected_lsn} is damaged, and later ones are not")));
            }
            Some(_) => {}
            None => {
                if let Some((at, later)) = header.seal().find(&bytes, end) {
                    let why = format!(
                        "frame {expected_lsn} is damaged; it is no torn tail, since frame {} follows at offset {at}",
                        later.lsn
                    );
                    return Err(damaged(end, why));
                }
                let note = confirmed.newest().filter(|note| note.store_tag == header.store_tag);
                // A checkpoint only covers what was confirmed, and is written later than the last note may have reached the disk.
                let confirmed_lsn = note.map_or(0, |note| note.lsn).max(start.map_or(0, |start| start.lsn));
                if confirmed_lsn >= expected_lsn {
                    let why = format!(
                        "frame {expected_lsn} is damaged or missing; it is no torn tail, since frames up to \
                         {confirmed_lsn} were confirmed"
                    );
                    return Err(damaged(end, why));
                }
            }
        }
    }
    let file = needed.last().expect("the newest file is always needed").clone();
    Ok(Tail { file, end: end as u64, last_frame: bytes[last_frame].to_vec(), next_lsn: expected_lsn })
}

fn create(
    disk: Arc<dyn Disk>,
    options: WalOptions,
    blank: Vec<(u32, Arc<dyn File>)>,
    confirmed: Confirmed,
    mut salts: Salts,
) -> Result<Wal, OpenError> {
    let mut spares = keep_spares(&*disk, &options, blank.into_iter())?;
    let (slot, file) = match spares.take() {
        Some(spare) => spare,
        None => (1, spares::make(&*disk, 1, options.file_bytes)?),
    };
    // A name may have come from an earlier start that was interrupted before it was durable.
    disk.sync_folder()?;
    let header = FileHeader {
        epoch: 1,
        first_lsn: 1,
        store_tag: salts.next(),
        salt: salts.next(),
        file_bytes: options.file_bytes,
    };
    let current = begin(slot, file, header)?;
    let reader = Reader::new();
    reader.add_log(&current);
    let end = file::HEADER_BYTES as u64;
    Ok(Wal {
        disk,
        options,
        current,
        end,
        full: VecDeque::new(),
        spares,
        leaving: Vec::new(),
        reader,
        confirmed,
        next_lsn: 1,
        salts,
    })
}

/// Keeps the files that have the right length as spares, and removes the others: those that an interrupted start left
/// half-made, and those of a ring that was configured otherwise.
fn keep_spares(
    disk: &dyn Disk,
    options: &WalOptions,
    files: impl Iterator<Item = (u32, Arc<dyn File>)>,
) -> Result<Spares, OpenError> {
    let mut spares = Spares::new(options.preparation);
    for (slot, file) in files {
        if file.len()? == options.file_bytes {
            // Its length may not be durable yet.
            file.sync()?;
            spares.put(slot, file);
        } else {
            disk.remove(&file::name(slot))?;
        }
    }
    disk.sync_folder()?;
    Ok(spares)
}
