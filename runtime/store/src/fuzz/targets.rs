//! What is done with an input. Each target answers whether it was taken for whole.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::mend;
use crate::attempts::{self, Attempts, WORDS_OF_A_SLOT};
use crate::cold::checkpoint;
use crate::cold::segment::{self, Segment, StoredRecords};
use crate::dedup::run::{self, Run};
use crate::disk::{Disk, SimulatedDisk};
use crate::header;
use crate::history::file::{self as history_file, HistoryFile};
use crate::inspect::{DumpOptions, Folder};
use crate::kv::{self, file::StateFile};
use crate::open::{self, Layout};
use crate::record::{self, Record, Records};
use crate::wal::{self, Preparation, file};

pub(super) struct Target {
    pub(super) name: &'static str,
    /// Which files of the corpus are for it.
    pub(super) takes: fn(&str) -> bool,
    pub(super) mend: fn(&str, &mut [u8]),
    pub(super) run: fn(&str, &[u8]) -> bool,
    /// What it may allocate whatever the input is, in bytes.
    pub(super) bytes_max: u64,
    /// How much longer it takes than the quick ones.
    pub(super) cost: u64,
}

pub(super) const TARGETS: &[Target] = &[
    Target { name: "record", takes: is_record, mend: mend::put, run: record, bytes_max: 4096, cost: 1 },
    Target { name: "frame", takes: is_log, mend: mend::file, run: frame, bytes_max: 1 << 20, cost: 4 },
    Target { name: "chunk", takes: is_segment, mend: mend::nothing, run: chunk, bytes_max: 1 << 20, cost: 1 },
    Target { name: "segment", takes: is_segment, mend: mend::file, run: segment, bytes_max: 1 << 20, cost: 1 },
    Target { name: "checkpoint", takes: is_checkpoint, mend: mend::file, run: checkpoint, bytes_max: 1 << 20, cost: 1 },
    Target { name: "history", takes: is_history, mend: mend::file, run: history, bytes_max: 1 << 20, cost: 1 },
    Target { name: "run", takes: is_run, mend: mend::file, run, bytes_max: 1 << 20, cost: 1 },
    Target { name: "attempts", takes: is_attempts, mend: mend::nothing, run: attempts, bytes_max: 1 << 20, cost: 4 },
    Target { name: "confirmed", takes: is_confirmed, mend: mend::nothing, run: confirmed, bytes_max: 1 << 20, cost: 4 },
    Target { name: "state", takes: is_state, mend: mend::file, run: state, bytes_max: 256 << 20, cost: 20 },
    Target { name: "folder", takes: is_any, mend: mend::file, run: folder, bytes_max: 256 << 20, cost: 4 },
];

fn is_record(name: &str) -> bool {
    name.ends_with(".record")
}

fn is_log(name: &str) -> bool {
    file::slot(name).is_some()
}

fn is_segment(name: &str) -> bool {
    segment::id(name).is_some()
}

fn is_history(name: &str) -> bool {
    history_file::id(name).is_some()
}

fn is_checkpoint(name: &str) -> bool {
    checkpoint::NAMES.contains(&name)
}

fn is_run(name: &str) -> bool {
    run::id(name).is_some()
}

fn is_state(name: &str) -> bool {
    name == kv::file::NAME
}

fn is_attempts(name: &str) -> bool {
    name == attempts::FILE_NAME
}

fn is_confirmed(name: &str) -> bool {
    name == wal::confirmed::FILE_NAME
}

fn is_any(name: &str) -> bool {
    !is_record(name)
}

/// A disk with this file only.
fn disk_of(name: &str, input: &[u8]) -> SimulatedDisk {
    let disk = SimulatedDisk::new(0);
    disk.create(name).unwrap().write_at(input, 0).unwrap();
    disk
}

fn record(_: &str, input: &[u8]) -> bool {
    Records::new(input).for_each(drop);
    match record::decode(input) {
        Ok(Record::Put(put)) => {
            assert_eq!(put.attributes().count(), put.message().attributes.len());
            assert!(put.message_bytes() as usize <= input.len());
            true
        }
        decoded => decoded.is_ok(),
    }
}

fn frame(name: &str, input: &[u8]) -> bool {
    let disk = disk_of(name, input);
    let header = match file::FileHeader::read(name, &*disk.open(name).unwrap()) {
        Ok(Some(header)) => header,
        never_begun => return never_begun.is_ok(),
    };
    let mut at = file::HEADER_BYTES;
    let mut whole = true;
    while let Some(found) = header.seal().read(input, at) {
        whole &= Records::new(found.payload).all(|record| record.is_ok());
        at += crate::wal::frame::frame_bytes(found.payload.len());
    }
    header.seal().find(input, at);
    whole
}

fn chunk(_: &str, input: &[u8]) -> bool {
    let part = input.get(header::HEADER_BYTES..).unwrap_or(input);
    StoredRecords::new(part).filter(|stored| stored.put().is_ok()).count() > 0
}

fn segment(name: &str, input: &[u8]) -> bool {
    let disk = disk_of(name, input);
    let Ok([store_tag]) = header::read_unproven(&*disk.open(name).unwrap()) else { return false };
    let Ok(segment) = Segment::open(&disk, segment::id(name).unwrap(), store_tag) else { return false };
    for id in segment.chunks() {
        let span = segment.chunk_span(id);
        let loaded = segment.read_chunk(id).unwrap();
        for position in [span.start, span.end - 1] {
            assert_eq!(segment.chunk_of(position), id);
            segment.enqueued_at_ms(position);
            if let Some(message) = loaded.get(position) {
                assert_eq!(message.position, position);
                record::decode(&loaded.record(&message)).unwrap();
            }
        }
    }
    segment.special().is_ok()
}

fn history(name: &str, input: &[u8]) -> bool {
    let disk = disk_of(name, input);
    let Ok([store_tag]) = header::read_unproven(&*disk.open(name).unwrap()) else { return false };
    let Ok(file) = HistoryFile::open(&disk, history_file::id(name).unwrap(), store_tag) else { return false };
    let mut whole = true;
    for chunk in 0..file.chunks() {
        assert_eq!(file.chunk_of(file.chunk_span(chunk).start), chunk);
        whole &= file.read_chunk(chunk).unwrap().messages().all(|message| message.is_some());
    }
    file.left_from(file.first + 1);
    whole
}

fn checkpoint(name: &str, input: &[u8]) -> bool {
    let disk = disk_of(name, input);
    let name = checkpoint::NAMES.into_iter().find(|known| *known == name).unwrap();
    let Ok(Some(raw)) = checkpoint::read_one(&disk, name) else { return false };
    for (_, live) in raw.queues.iter().flat_map(|queue| &queue.segments) {
        assert!(live.ones() <= live.len);
    }
    raw.files().for_each(drop);
    true
}

fn run(name: &str, input: &[u8]) -> bool {
    let disk = disk_of(name, input);
    let Ok([store_tag]) = header::read_unproven(&*disk.open(name).unwrap()) else { return false };
    let Ok(run) = Run::open(&disk, run::id(name).unwrap(), store_tag) else { return false };
    let mut whole = true;
    for block in 0..run.blocks() {
        match run.read_block(block) {
            Ok(keys) => whole &= keys.iter().all(|(key, _)| run.find(*key).is_ok()),
            Err(_) => whole = false,
        }
    }
    whole
}

fn attempts(name: &str, input: &[u8]) -> bool {
    let words = disk_of(name, input).map_words(name, input.len() / size_of::<u64>()).unwrap();
    let whole = Attempts::used(&*words).filter_map(Result::ok).count();
    assert_eq!(Attempts::left_over(&*words).len(), whole);
    whole > 0
}

fn confirmed(name: &str, input: &[u8]) -> bool {
    let words = disk_of(name, input).map_words(name, wal::confirmed::WORDS).unwrap();
    let confirmed = wal::confirmed::Confirmed::new(words);
    let newest = confirmed.newest();
    assert_eq!(newest.is_some(), (0..2).any(|which| matches!(confirmed.read(which), Ok(Some(_)))));
    newest.is_some()
}

/// Nothing comes out of it that was not put in.
fn state(name: &str, input: &[u8]) -> bool {
    let Ok(file) = StateFile::open(Arc::new(disk_of(name, input))) else { return false };
    let mut keys = 0;
    let read = file.each(|space, key, value| {
        assert!(space == "consumer/audit" || space == "consumer/gone", "{space}");
        assert!(key == "rounds" || key.starts_with("round-"), "{key}");
        assert_eq!(value.len(), 1);
        keys += 1;
        true
    });
    read.is_ok() && keys > 0
}

/// The committed folder, with this file in place of its own.
fn folder(name: &str, input: &[u8]) -> bool {
    static BASE: OnceLock<SimulatedDisk> = OnceLock::new();
    let base = BASE.get_or_init(|| {
        let disk = SimulatedDisk::new(0);
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format-1")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            disk.create(&name).unwrap().write_at(&fs::read(entry.path()).unwrap(), 0).unwrap();
        }
        disk
    });
    let disk = base.snapshot();
    disk.remove(name).unwrap();
    disk.create(name).unwrap().write_at(input, 0).unwrap();
    let folder = Folder::on(Arc::new(disk.snapshot())).unwrap();
    folder.verify().unwrap();
    let Ok(()) = folder.dump(&DumpOptions::default(), |_| Ok::<(), Infallible>(())).unwrap();
    let messages = DumpOptions { messages_only: true, ..DumpOptions::default() };
    let Ok(()) = folder.dump(&messages, |_| Ok::<(), Infallible>(())).unwrap();
    let layout = Layout {
        file_bytes: 6 << 10,
        files_max: 8,
        cache_bytes_max: 0,
        attempt_slots: 48 / WORDS_OF_A_SLOT,
        chunk_bytes: 600,
        small_segment_bytes: 0,
        gap_max: 1 << 16,
        picked_max: 4,
        dedup_runs_max: 4,
        state_bytes_min: 0,
        handles_max: 2,
        checkpoint_bytes: 2048,
        preparation: Preparation::Inline,
    };
    open::recover(Arc::new(disk), &layout, 1).is_ok()
}
