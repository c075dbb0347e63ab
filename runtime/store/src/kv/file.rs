//! `state.redb`: the state that the log does not hold any more, in an embedded key-value library.
//!
//! It is made when there is something to put into it. What is put there is committed in pieces, the last of which says up
//! to which LSN it is complete: a power loss in between is made up for by the log, which still has all of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::sectors::{Sectors, Trouble};
use super::{Frozen, entry_bytes};
use crate::courtesy::give_way;
use crate::disk::{Disk, DiskError, File};
use crate::error::OpenError;

pub(crate) const NAME: &str = "state.redb";
/// What it is called while it is made.
pub(super) const NEW_NAME: &str = "state.new";

/// The space, a zero byte and the key; the value.
const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
/// A space, and the bytes of its keys and values.
const SPACES: TableDefinition<'_, &str, u64> = TableDefinition::new("spaces");
/// What is known of the whole.
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");
/// The file is complete up to this frame of the log.
const LSN: &str = "lsn";

/// What is put into the file at once: so much must fit on a disk that is full otherwise.
pub(super) const PIECE_KEYS: usize = 512;
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Pages that redb keeps in memory. What else is read often, the system keeps.
const CACHE_BYTES: usize = 8 << 20;

pub(crate) struct StateFile {
    pub(super) disk: Arc<dyn Disk>,
    // Read by whoever reads; written to make, reopen, exchange and close the file.
    pub(super) state: RwLock<State>,
}

pub(super) enum State {
    /// Nothing was ever put into it.
    Missing,
    Open(Open),
    /// It could not be opened again after an error. It is tried with the next changes.
    Failed(Arc<str>),
    Closed,
}

pub(super) struct Open {
    database: Database,
    pub(super) sectors: Sectors,
    /// How long it was when it was written anew last, by this process.
    pub(super) compact_bytes: u64,
}

/// Keys of a space that stand in the file.
pub(crate) struct FiledKeys {
    pub(crate) keys: Vec<Box<str>>,
    /// There are more after these.
    pub(crate) more: bool,
}

impl StateFile {
    /// Opens the file, if it is there.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<StateFile, OpenError> {
        let names = disk.list()?;
        let has = |name: &str| names.iter().any(|there| there == name);
        if has(NEW_NAME) {
            // Its making was interrupted.
            disk.remove(NEW_NAME)?;
            disk.sync_folder()?;
        }
        let state = if has(NAME) {
            State::Open(Open::new(Sectors::open(NAME, disk.open(NAME)?)?, refusal)?)
        } else {
            State::Missing
        };
        Ok(StateFile { disk, state: RwLock::new(state) })
    }

    /// Whether the file goes with the log: with `store_tag`, complete at least up to `lsn_min` and at most to `lsn_max`.
    pub(crate) fn check(&self, store_tag: u64, lsn_min: u64, lsn_max: u64) -> Result<(), OpenError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let State::Open(open) = &*state else {
            return match lsn_min {
                0 => Ok(()),
                _ => Err(OpenError::Incomplete(format!(
                    "{NAME} is missing, which holds the state of consumers: the log does not have it any more"
                ))),
            };
        };
        if open.sectors.store_tag() != store_tag {
            return Err(OpenError::Incomplete(format!("{NAME} belongs to another store")));
        }
        let lsn = open.lsn().map_err(|error| open.refusal(error))?;
        if lsn < lsn_min || lsn > lsn_max {
            let why = format!("{NAME} is of another time than the log: it knows frame {lsn}");
            let wants = format!("at least {lsn_min} and at most {lsn_max} goes with the log");
            return Err(OpenError::Incomplete(format!("{why}, and {wants}")));
        }
        Ok(())
    }

    /// The frame up to which it is complete; 0 if it was never made.
    pub(crate) fn lsn(&self) -> Result<u64, OpenError> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(open) => open.lsn().map_err(|error| open.refusal(error)),
            State::Missing | State::Failed(_) | State::Closed => Ok(0),
        }
    }

    /// Bytes of all spaces.
    pub(crate) fn spaces(&self) -> Result<BTreeMap<Box<str>, u64>, OpenError> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(open) => open.spaces().map_err(|error| open.refusal(error)),
            State::Missing | State::Failed(_) | State::Closed => Ok(BTreeMap::new()),
        }
    }

    pub(crate) fn get(&self, space: &str, key: &str) -> Result<Option<Bytes>, Arc<str>> {
        self.read(None, |open| open.get(space, key, Bytes::copy_from_slice))
    }

    /// How long a value is.
    pub(crate) fn value_bytes(&self, space: &str, key: &str) -> Result<Option<usize>, Arc<str>> {
        self.read(None, |open| open.get(space, key, <[u8]>::len))
    }

    /// The first keys after `after`, in order.
    pub(crate) fn keys(&self, space: &str, after: Option<&str>, limit: usize) -> Result<FiledKeys, Arc<str>> {
        self.read(FiledKeys { keys: Vec::new(), more: false }, |open| open.keys(space, after, limit))
    }

    fn read<T>(&self, missing: T, read: impl FnOnce(&Open) -> Result<T, redb::Error>) -> Result<T, Arc<str>> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(open) => read(open).map_err(|error| open.failed(error).to_string().into()),
            State::Missing => Ok(missing),
            State::Failed(why) => Err(why.clone()),
            State::Closed => Err(format!("{NAME} is closed").into()),
        }
    }

    /// Puts changes into the file, durably.
    pub(crate) fn take_in(&self, frozen: &Frozen, store_tag: u64) -> Result<(), DiskError> {
        self.make(store_tag)?;
        self.reopen_if(|state| matches!(state, State::Failed(_)))?;
        let failed = match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(open) => match open.take_in(frozen) {
                Ok(()) => return Ok(()),
                Err(error) => open.failed(error),
            },
            State::Missing | State::Failed(_) | State::Closed => {
                DiskError::new("write", NAME, io::Error::other("it is closed"))
            }
        };
        if failed.is_full() {
            // After an error redb wants to be opened anew. What was committed before is there.
            self.reopen_if(|state| matches!(state, State::Open(_)))?;
        }
        Err(failed)
    }

    /// Makes the file if it is missing: under another name, so that it is whole when it gets its own.
    fn make(&self, store_tag: u64) -> Result<(), DiskError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*state, State::Missing) {
            return Ok(());
        }
        let made = (|| {
            let sectors = Sectors::create(NAME, self.create_new()?, store_tag)?;
            let open = Open::new(sectors, failed)?;
            open.begin().map_err(|error| open.failed(error))?;
            self.disk.rename(NEW_NAME, NAME)?;
            self.disk.sync_folder()?;
            Ok(open)
        })();
        match made {
            Ok(open) => {
                *state = State::Open(open);
                Ok(())
            }
            Err(error) => {
                // Leave nothing behind, if the disk lets go of it.
                let _ = self.disk.remove(NEW_NAME);
                Err(error)
            }
        }
    }

    /// Makes the file under its other name. Only who makes it uses that, so what has it is left from an attempt before.
    fn create_new(&self) -> Result<Arc<dyn File>, DiskError> {
        self.remove_new()?;
        self.disk.create(NEW_NAME)
    }

    /// Removes what an attempt to make the file has left, if something is there.
    pub(super) fn remove_new(&self) -> Result<(), DiskError> {
        match self.disk.remove(NEW_NAME) {
            Err(error) if error.source.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn reopen_if(&self, wanted: impl FnOnce(&State) -> bool) -> Result<(), DiskError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !wanted(&state) {
            return Ok(());
        }
        // Nobody may open it twice.
        *state = State::Failed(format!("{NAME} is being opened").into());
        let opened = (|| {
            let sectors = Sectors::open(NAME, self.disk.open(NAME)?).map_err(|error| match error {
                OpenError::Disk(error) => error,
                other => DiskError::new("open", NAME, io::Error::new(io::ErrorKind::InvalidData, other.to_string())),
            })?;
            Open::new(sectors, failed)
        })();
        match opened {
            Ok(open) => {
                *state = State::Open(open);
                Ok(())
            }
            Err(error) => {
                *state = State::Failed(error.to_string().into());
                Err(error)
            }
        }
    }

    /// Hands every space, key and value to `take`, in order, until that answers no. The error is where it can't be read.
    pub(crate) fn each(&self, mut take: impl FnMut(&str, &str, &[u8]) -> bool) -> Result<(), DiskError> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(open) => open.each(&mut take).map_err(|error| open.failed(error)),
            State::Missing | State::Failed(_) | State::Closed => Ok(()),
        }
    }

    /// Lets go of the file: nothing is written to it from here on.
    pub(crate) fn close(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::Closed;
    }

    /// Reads all of it. Answers how many keys there are, or what is wrong, by offset where that is known.
    pub(crate) fn inspect(&self) -> Result<u64, Vec<(Option<u64>, String)>> {
        const DAMAGED_MAX: usize = 100;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State::Open(open) = &mut *state else { return Ok(0) };
        let damaged = open.sectors.check(DAMAGED_MAX).map_err(|error| vec![(None, error.to_string())])?;
        if !damaged.is_empty() {
            let why = "its checksum does not match: some state can't be read";
            return Err(damaged.into_iter().map(|offset| (Some(offset), why.to_owned())).collect());
        }
        let counted = open.count().map_err(|error| vec![(None, open.failed(error).to_string())])?;
        match open.database.check_integrity() {
            Ok(true) => Ok(counted),
            Ok(false) => Err(vec![(None, "its pages do not add up".to_owned())]),
            Err(error) => Err(vec![(None, open.failed(error.into()).to_string())]),
        }
    }
}

impl Open {
    /// `why`: what becomes of redb's error.
    pub(super) fn new<E>(sectors: Sectors, why: fn(&Sectors, redb::Error) -> E) -> Result<Open, E> {
        match Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(sectors.clone()) {
            Ok(database) => Ok(Open { database, sectors, compact_bytes: 0 }),
            Err(error) => Err(why(&sectors, error.into())),
        }
    }

    /// What stands in it from the start.
    pub(super) fn begin(&self) -> Result<(), redb::Error> {
        self.write(|writing| {
            writing.open_table(STATE)?;
            writing.open_table(SPACES)?;
            writing.open_table(FACTS)?.insert(LSN, 0)?;
            Ok(())
        })
    }

    pub(super) fn write(
        &self,
        write: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let mut writing = self.database.begin_write()?;
        // It opens quickly whatever happens, and refers to nothing that was not synced.
        writing.set_quick_repair(true);
        write(&writing)?;
        Ok(writing.commit()?)
    }

    pub(super) fn lsn(&self) -> Result<u64, redb::Error> {
        let facts = self.database.begin_read()?.open_table(FACTS)?;
        Ok(facts.get(LSN)?.map_or(0, |lsn| lsn.value()))
    }

    fn spaces(&self) -> Result<BTreeMap<Box<str>, u64>, redb::Error> {
        let spaces = self.database.begin_read()?.open_table(SPACES)?;
        let all = spaces.iter()?.map(|one| one.map(|(space, bytes)| (space.value().into(), bytes.value())));
        Ok(all.collect::<Result<_, _>>()?)
    }

    fn get<T>(&self, space: &str, key: &str, take: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, redb::Error> {
        let state = self.database.begin_read()?.open_table(STATE)?;
        Ok(state.get(&*place(space, key))?.map(|value| take(value.value())))
    }

    fn keys(&self, space: &str, after: Option<&str>, limit: usize) -> Result<FiledKeys, redb::Error> {
        let state = self.database.begin_read()?.open_table(STATE)?;
        // The first key after a key is that key and a zero byte.
        let from = after.map_or_else(|| place(space, ""), |after| [&*place(space, after), &[0]].concat());
        let mut found = FiledKeys { keys: Vec::new(), more: false };
        for one in state.range::<&[u8]>(&*from..&*end_of(space))? {
            let (at, _) = one?;
            if found.keys.len() == limit {
                found.more = true;
                break;
            }
            found.keys.push(space_and_key(at.value())?.1.into());
        }
        Ok(found)
    }

    pub(super) fn each(&self, take: &mut dyn FnMut(&str, &str, &[u8]) -> bool) -> Result<(), redb::Error> {
        let state = self.database.begin_read()?.open_table(STATE)?;
        for one in state.iter()? {
            let (at, value) = one?;
            let (space, key) = space_and_key(at.value())?;
            if !take(space, key, value.value()) {
                break;
            }
        }
        Ok(())
    }

    fn count(&self) -> Result<u64, redb::Error> {
        Ok(self.database.begin_read()?.open_table(STATE)?.len()?)
    }

    fn take_in(&self, frozen: &Frozen) -> Result<(), redb::Error> {
        if self.lsn()? >= frozen.lsn {
            return Ok(());
        }
        for (space, changes) in &frozen.changes.spaces {
            while changes.dropped && !self.drop_piece(space)? {}
        }
        let mut piece = Vec::new();
        let mut bytes = 0;
        for (space, changes) in &frozen.changes.spaces {
            for (key, value) in &changes.keys {
                piece.push((&**space, &**key, value.as_ref()));
                bytes += value.as_ref().map_or(0, Bytes::len);
                if piece.len() == PIECE_KEYS || bytes >= PIECE_BYTES {
                    self.write(|writing| put(writing, &piece))?;
                    give_way();
                    piece.clear();
                    bytes = 0;
                }
            }
        }
        self.write(|writing| {
            put(writing, &piece)?;
            writing.open_table(FACTS)?.insert(LSN, frozen.lsn)?;
            Ok(())
        })
    }

    /// It is complete up to this frame.
    pub(super) fn set_lsn(&self, lsn: u64) -> Result<(), redb::Error> {
        self.write(|writing| {
            writing.open_table(FACTS)?.insert(LSN, lsn)?;
            Ok(())
        })
    }

    /// Takes some keys of a space away, which is to lose all. Answers whether that were the last.
    fn drop_piece(&self, space: &str) -> Result<bool, redb::Error> {
        let FiledKeys { keys, more } = self.keys(space, None, PIECE_KEYS)?;
        let removed: Vec<_> = keys.iter().map(|key| (space, &**key, None)).collect();
        if !removed.is_empty() {
            self.write(|writing| put(writing, &removed))?;
        }
        Ok(!more)
    }

    pub(super) fn failed(&self, error: redb::Error) -> DiskError {
        failed(&self.sectors, error)
    }

    fn refusal(&self, error: redb::Error) -> OpenError {
        refusal(&self.sectors, error)
    }
}

/// Writes some keys, and counts what their spaces come to.
pub(super) fn put(writing: &redb::WriteTransaction, piece: &[(&str, &str, Option<&Bytes>)]) -> Result<(), redb::Error> {
    let mut state = writing.open_table(STATE)?;
    let mut spaces = writing.open_table(SPACES)?;
    for some in piece.chunk_by(|one, other| one.0 == other.0) {
        let space = some[0].0;
        let mut bytes = spaces.get(space)?.map_or(0, |bytes| bytes.value());
        for (_, key, value) in some {
            let place = place(space, key);
            let before = match value {
                Some(value) => state.insert(&*place, &value[..])?,
                None => state.remove(&*place)?,
            };
            bytes += value.map_or(0, |value| entry_bytes(key, value.len()));
            bytes = bytes.saturating_sub(before.map_or(0, |before| entry_bytes(key, before.value().len())));
        }
        match bytes {
            0 => drop(spaces.remove(space)?),
            bytes => drop(spaces.insert(space, bytes)?),
        }
    }
    Ok(())
}

/// Where a key stands: in the order of the spaces, and then of the keys. No space has a zero byte in its name.
fn place(space: &str, key: &str) -> Vec<u8> {
    [space.as_bytes(), &[0], key.as_bytes()].concat()
}

/// After all keys of a space.
fn end_of(space: &str) -> Vec<u8> {
    [space.as_bytes(), &[1]].concat()
}

fn space_and_key(place: &[u8]) -> Result<(&str, &str), redb::Error> {
    let text = std::str::from_utf8(place).ok().and_then(|place| place.split_once('\0'));
    text.ok_or_else(|| redb::Error::Corrupted("a key of the state is no text".to_owned()))
}

/// What redb's error comes from.
pub(super) fn failed(sectors: &Sectors, error: redb::Error) -> DiskError {
    match sectors.take_trouble() {
        Some(Trouble::Disk(error)) => error,
        Some(Trouble::Damaged { offset, why }) => {
            let why = format!("it is damaged at offset {offset}: {why}");
            DiskError::new("use", NAME, io::Error::new(io::ErrorKind::InvalidData, why))
        }
        None => DiskError::new("use", NAME, io::Error::other(error.to_string())),
    }
}

fn refusal(sectors: &Sectors, error: redb::Error) -> OpenError {
    match sectors.take_trouble() {
        Some(Trouble::Disk(error)) => OpenError::Disk(error),
        Some(Trouble::Damaged { offset, why }) => OpenError::damaged(NAME, offset, why),
        None => OpenError::damaged(NAME, crate::header::HEADER_BYTES as u64, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{SimulatedDisk, SimulatedFaults};
    use crate::kv::Changes;
    use crate::kv::compact::Compacted;

    fn frozen(lsn: u64, writes: &[(&str, &str, Option<&str>)]) -> Frozen {
        let mut changes = Changes::default();
        for (space, key, value) in writes {
            changes.write(space, key, value.map(|value| Bytes::copy_from_slice(value.as_bytes())));
        }
        Frozen { changes, lsn }
    }

    #[test]
    fn what_is_put_in_is_there_after_opening_again_and_spaces_are_counted() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new(1));
        let file = StateFile::open(disk.clone()).unwrap();
        assert_eq!((file.lsn().unwrap(), file.get("a", "k").unwrap()), (0, None));
        file.take_in(&frozen(5, &[("a", "k", Some("one")), ("a", "l", Some("two")), ("a.b", "k", Some("x"))]), 7)
            .unwrap();
        file.take_in(&frozen(9, &[("a", "k", Some("longer")), ("a", "l", None), ("a", "m", Some(""))]), 7).unwrap();
        // It was there before.
        file.take_in(&frozen(9, &[("a", "k", None)]), 7).unwrap();
        file.close();
        assert!(file.get("a", "k").is_err());

        let file = StateFile::open(disk.clone()).unwrap();
        assert_eq!(file.lsn().unwrap(), 9);
        assert_eq!(file.get("a", "k").unwrap().as_deref(), Some(&b"longer"[..]));
        assert_eq!((file.get("a", "l").unwrap(), file.value_bytes("a", "m").unwrap()), (None, Some(0)));
        let spaces = file.spaces().unwrap();
        assert_eq!(
            spaces.into_iter().map(|(space, bytes)| (space.to_string(), bytes)).collect::<Vec<_>>(),
            [("a".to_owned(), 8), ("a.b".to_owned(), 2)]
        );
        let keys = file.keys("a", None, 1).unwrap();
        assert_eq!((keys.keys, keys.more), (vec!["k".into()], true));
        let keys = file.keys("a", Some("k"), 9).unwrap();
        assert_eq!((keys.keys, keys.more), (vec!["m".into()], false));
        assert_eq!(file.inspect(), Ok(3));
    }

    #[test]
    fn a_dropped_space_goes_in_pieces_and_its_new_keys_stay() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new(1));
        let file = StateFile::open(disk).unwrap();
        let keys: Vec<String> = (0..2 * PIECE_KEYS + 7).map(|key| format!("{key:05}")).collect();
        let writes: Vec<_> = keys.iter().map(|key| ("a", &**key, Some("value"))).collect();
        file.take_in(&frozen(5, &writes), 7).unwrap();
        file.take_in(&frozen(6, &[("b", "k", Some("stays"))]), 7).unwrap();
        let mut dropped = frozen(8, &[("a", "new", Some("x"))]);
        dropped.changes.spaces.get_mut("a").unwrap().dropped = true;
        file.take_in(&dropped, 7).unwrap();
        assert_eq!(file.keys("a", None, 9).unwrap().keys, ["new".into()]);
        assert_eq!(file.inspect(), Ok(2));
        assert_eq!(file.spaces().unwrap()["a"], 4);
    }

    #[test]
    fn a_file_that_is_mostly_empty_is_written_anew_once() {
        let disk = SimulatedDisk::new(1);
        let file = StateFile::open(Arc::new(disk.clone())).unwrap();
        let value = "v".repeat(1000);
        let keys: Vec<String> = (0..3000).map(|key| format!("{key:05}")).collect();
        let writes: Vec<_> = keys.iter().map(|key| ("a", &**key, Some(&*value))).collect();
        file.take_in(&frozen(5, &writes), 7).unwrap();
        assert!(!file.is_mostly_empty(3000 * 1005, 0), "it is full");
        let removed: Vec<_> = keys[10..].iter().map(|key| ("a", &**key, None)).collect();
        file.take_in(&frozen(6, &removed), 7).unwrap();
        file.take_in(&frozen(7, &[("b", "k", Some("other"))]), 7).unwrap();
        let before = disk.file_len(NAME);
        let live = file.spaces().unwrap().values().sum();
        assert!(before > 3_000_000 && file.is_mostly_empty(live, 0) && !file.is_mostly_empty(live, before));
        assert!(matches!(file.compact(), Ok(Compacted::Done)));
        let after = disk.file_len(NAME);
        assert!(after < before / 10, "{after} of {before} bytes");
        assert!(!file.is_mostly_empty(live, 0), "not again because of what small files cost");
        assert!(!disk.file_names().contains(&NEW_NAME.to_owned()));
        for file in [file, StateFile::open(Arc::new(disk.crash())).unwrap()] {
            assert_eq!((file.lsn().unwrap(), file.inspect()), (7, Ok(11)));
            assert_eq!(file.get("a", "00009").unwrap().as_deref(), Some(value.as_bytes()));
            assert_eq!(file.spaces().unwrap().values().sum::<u64>(), live);
            file.take_in(&frozen(8, &[("a", "new", Some("x"))]), 7).unwrap();
            assert_eq!(file.get("a", "new").unwrap().as_deref(), Some(&b"x"[..]));
        }
    }

    #[test]
    fn a_file_that_is_damaged_or_has_no_room_beside_it_stays_as_it_is() {
        let disk = SimulatedDisk::new(1);
        let file = StateFile::open(Arc::new(disk.clone())).unwrap();
        let value = "v".repeat(1000);
        let keys: Vec<String> = (0..100).map(|key| format!("{key:05}")).collect();
        let writes: Vec<_> = keys.iter().map(|key| ("a", &**key, Some(&*value))).collect();
        file.take_in(&frozen(5, &writes), 7).unwrap();
        let used: u64 = disk.file_names().iter().map(|name| disk.file_len(name)).sum();
        for room in [0, 600, 10_000, 60_000] {
            let full = SimulatedFaults { full_after_bytes: Some(used + room), ..SimulatedFaults::default() };
            disk.set_faults(full);
            assert!(file.compact().is_err_and(|error| error.is_full()), "{room}");
            assert_eq!(disk.file_names(), [NAME]);
            assert_eq!(file.get("a", "00050").unwrap().map(|value| value.len()), Some(1000));
        }
        disk.set_faults(SimulatedFaults::default());
        file.close();
        // A sector in the middle of a value.
        let file = StateFile::open(Arc::new(disk.clone())).unwrap();
        for offset in (20_000..disk.file_len(NAME) - 4096).step_by(512) {
            disk.corrupt(NAME, offset, 1);
        }
        assert!(matches!(file.compact(), Ok(Compacted::Unreadable)));
        assert_eq!(disk.file_names(), [NAME]);
    }

    #[test]
    fn what_an_attempt_before_left_is_no_hindrance() {
        let disk = SimulatedDisk::new(1);
        let file = StateFile::open(Arc::new(disk.clone())).unwrap();
        disk.create(NEW_NAME).unwrap().write_at(b"half of it", 0).unwrap();
        file.take_in(&frozen(5, &[("a", "k", Some("one"))]), 7).unwrap();
        assert_eq!(disk.file_names(), [NAME]);
        disk.create(NEW_NAME).unwrap().write_at(b"half of it", 0).unwrap();
        // As long as that can't be removed, nothing is written anew.
        disk.set_faults(SimulatedFaults { fail_other_at: Some(0), ..SimulatedFaults::default() });
        assert!(matches!(file.compact(), Ok(Compacted::Blocked)));
        disk.set_faults(SimulatedFaults::default());
        assert!(matches!(file.compact(), Ok(Compacted::Done)));
        assert_eq!((disk.file_names(), file.inspect()), (vec![NAME.to_owned()], Ok(1)));
    }

    #[test]
    fn a_file_of_another_store_or_another_time_is_refused_by_name() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new(1));
        let file = StateFile::open(disk.clone()).unwrap();
        assert!(file.check(7, 0, 0).is_ok());
        assert!(file.check(7, 1, 5).unwrap_err().to_string().contains("state.redb is missing"));
        file.take_in(&frozen(5, &[("a", "k", Some("one"))]), 7).unwrap();
        assert!(file.check(7, 5, 5).is_ok());
        assert!(file.check(7, 0, 9).is_ok());
        assert!(file.check(8, 0, 9).unwrap_err().to_string().contains("state.redb belongs to another store"));
        for (min, max) in [(6, 9), (0, 4)] {
            assert!(file.check(7, min, max).unwrap_err().to_string().contains("state.redb is of another time"));
        }
    }
}
