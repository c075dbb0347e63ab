//! `FORMAT.md` says which bytes stand where. What is read here was written from its tables alone, without the crate: it must
//! find in the committed folder what the store finds there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};

use siphasher::sip128::{Hasher128, SipHasher13};

const SECTOR: usize = 512;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format-1")
}

fn read(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

/// Reads numbers and texts one after the other.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take(16).try_into().unwrap())
    }

    fn v(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.u8();
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return number;
            }
        }
    }

    fn s(&mut self) -> &'a [u8] {
        let len = self.v() as usize;
        self.take(len)
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.s().to_vec()).unwrap()
    }
}

/// The numbers in a header.
fn header<const N: usize>(file: &[u8], magic: &[u8; 8]) -> [u64; N] {
    let (body, crc) = file[..SECTOR].split_at(508);
    assert_eq!(crc32c::crc32c(body).to_le_bytes(), crc);
    let mut bytes = Bytes(body);
    assert_eq!(bytes.take(8), magic);
    assert_eq!((bytes.u32(), bytes.u32()), (1, 0), "version and features");
    let numbers = [(); N].map(|()| bytes.u64());
    assert!(bytes.0.iter().all(|byte| *byte == 0));
    numbers
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Put {
    queue: u64,
    position: u64,
    sequence: u64,
    enqueued_at: u64,
    attempts: u64,
    due_at: u64,
    holds_key: bool,
    key: Option<String>,
    content_type: Option<String>,
    attributes: Vec<(String, String)>,
    idempotency: Option<u128>,
    body: Vec<u8>,
}

impl Put {
    /// After its kind.
    fn read(bytes: &mut Bytes<'_>) -> Put {
        let crc = bytes.u32();
        let checked = bytes.0;
        let flags = bytes.u8();
        let mut put = Put { queue: bytes.v(), position: bytes.v(), sequence: bytes.v(), ..Put::default() };
        put.enqueued_at = bytes.u64();
        let has = |flag: u8| flags & flag != 0;
        if has(1) {
            (put.attempts, _) = (bytes.v(), bytes.v());
        }
        if has(2) {
            put.due_at = bytes.v();
        }
        put.holds_key = has(4);
        put.key = has(8).then(|| bytes.text());
        put.content_type = has(16).then(|| bytes.text());
        let attributes = if has(32) { bytes.v() } else { 0 };
        put.attributes = (0..attributes).map(|_| (bytes.text(), bytes.text())).collect();
        put.idempotency = has(64).then(|| bytes.u128());
        put.body = bytes.s().to_vec();
        assert!(!has(128));
        assert_eq!(crc32c::crc32c(&checked[..checked.len() - bytes.0.len()]), crc);
        put
    }

    /// What it counts for in its queue.
    fn bytes(&self) -> u64 {
        let attributes: usize = self.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        let texts = [&self.key, &self.content_type].into_iter().flatten().map(String::len).sum::<usize>();
        (self.body.len() + attributes + texts) as u64
    }
}

/// What the folder comes to.
#[derive(Default)]
struct Store {
    names: BTreeMap<u64, String>,
    messages: BTreeMap<(u64, u64), Put>,
    /// By queue and position in its history: the message, and when it was acknowledged.
    history: BTreeMap<(u64, u64), (Put, u64)>,
    /// Idempotency keys, with the sequence of their message.
    keys: BTreeMap<u128, u64>,
    next_sequence: u64,
    kinds: BTreeSet<u8>,
    /// The checkpoint knows what the frame did to messages in segments.
    in_checkpoint: bool,
}

impl Store {
    fn kept(&mut self, position: u64, acked_at: u64, put: Put) {
        let before = self.history.insert((put.queue, position), (put, acked_at));
        assert!(before.is_none());
    }

    /// A message is gone before the log says so.
    fn is_known(&self) {
        assert!(self.in_checkpoint, "nothing happens to a message that is gone");
    }

    /// One record, as it stands in the log.
    fn record(&mut self, bytes: &mut Bytes<'_>) {
        let kind = bytes.u8();
        self.kinds.insert(kind);
        match kind {
            1 => {
                let (number, _, name) = (bytes.v(), bytes.v(), bytes.text());
                assert_eq!(self.names.entry(number).or_insert(name.clone()), &name);
            }
            2 => self.next_sequence = self.next_sequence.max(bytes.v()),
            3 => {
                let put = Put::read(bytes);
                self.keys.extend(put.idempotency.map(|hash| (hash, put.sequence)));
                self.next_sequence = self.next_sequence.max(put.sequence + 1);
                self.messages.insert((put.queue, put.position), put);
            }
            4 => {
                let (place, state) = ((bytes.v(), bytes.v()), (bytes.v(), bytes.v(), bytes.v()));
                match self.messages.get_mut(&place) {
                    Some(put) => (put.attempts, put.due_at, _) = state,
                    None => self.is_known(),
                }
            }
            5 => {
                let (place, counted) = ((bytes.v(), bytes.v()), bytes.v());
                match self.messages.remove(&place) {
                    Some(put) => assert_eq!(put.bytes(), counted),
                    None => self.is_known(),
                }
            }
            6 => {
                let (queue, below) = (bytes.v(), bytes.v());
                self.messages.retain(|(of, position), _| *of != queue || *position >= below);
            }
            7 => drop(bytes.v()),
            8 => {
                let what = bytes.u8();
                assert!(what <= 2 && bytes.text().starts_with("consumer/"));
                if what < 2 {
                    bytes.s();
                }
                if what == 0 {
                    bytes.s();
                }
            }
            9 => {
                let put = self.messages.remove(&(bytes.v(), bytes.v())).expect("it lives");
                assert_eq!(put.bytes(), bytes.v());
                self.kept(bytes.v(), bytes.v(), put);
            }
            10 => {
                let (position, acked_at, put) = kept(bytes);
                self.kept(position, acked_at, put);
            }
            11 => {
                let (queue, below) = (bytes.v(), bytes.v());
                self.history.retain(|(of, position), _| *of != queue || *position >= below);
            }
            other => panic!("record of kind {other}"),
        }
    }
}

/// A kept record, after its kind.
fn kept(bytes: &mut Bytes<'_>) -> (u64, u64, Put) {
    let crc = bytes.u32();
    let checked = bytes.0;
    let (position, acked_at) = (bytes.v(), bytes.v());
    assert_eq!(bytes.u8(), 3);
    let put = Put::read(bytes);
    assert_eq!(crc32c::crc32c(&checked[..checked.len() - bytes.0.len()]), crc);
    (position, acked_at, put)
}

/// What stands between header and footer, with the offset of each.
fn stored<T>(file: &[u8], end: u64, kind: u8, read: impl Fn(&mut Bytes<'_>) -> T) -> BTreeMap<u64, T> {
    let mut bytes = Bytes(&file[SECTOR..end as usize]);
    let mut all = BTreeMap::new();
    while !bytes.0.is_empty() {
        let offset = end - bytes.0.len() as u64;
        let len = bytes.u32() as usize;
        let mut record = Bytes(bytes.take(len));
        assert_eq!(record.u8(), kind);
        all.insert(offset, read(&mut record));
        assert!(record.0.is_empty());
    }
    all
}

fn segment(tag: u64, number: u64, queue: u64) -> Vec<Put> {
    let file = read(&format!("segment-{number:08}.seg"));
    let [own_tag, own_number, own_queue, first, after, count, footer_at, footer_bytes, footer_crc] =
        header(&file, b"LNCKSEG\n");
    assert_eq!((own_tag, own_number, own_queue), (tag, number, queue));
    let puts = stored(&file, footer_at, 3, Put::read);
    assert_eq!(puts.len() as u64, count);
    assert_eq!(puts.first_key_value().unwrap().1.position, first);
    assert_eq!(puts.last_key_value().unwrap().1.position + 1, after);
    assert!(puts.values().is_sorted_by_key(|put| put.position) && puts.values().all(|put| put.queue == queue));

    let footer = &file[footer_at as usize..][..footer_bytes as usize];
    assert_eq!(u64::from(crc32c::crc32c(footer)), footer_crc);
    let mut footer = Bytes(footer);
    for at in 0..footer.u32() {
        let (position, offset, sent_at) = (footer.u32(), footer.u32(), footer.u64());
        let put = &puts[&u64::from(offset)];
        assert_eq!((put.position, put.enqueued_at), (first + u64::from(position), sent_at));
        assert!(at > 0 || offset as usize == SECTOR, "the first chunk starts right after the header");
    }
    let delayed: Vec<(u64, u64)> = (0..footer.u32()).map(|_| (first + u64::from(footer.u32()), footer.u64())).collect();
    let expected = puts.values().filter(|put| put.due_at != 0).map(|put| (put.position, put.due_at));
    assert_eq!(delayed, expected.collect::<Vec<_>>());
    let keyed: Vec<u64> = (0..footer.u32()).map(|_| first + u64::from(footer.u32())).collect();
    assert_eq!(keyed, puts.values().filter(|put| put.key.is_some()).map(|put| put.position).collect::<Vec<_>>());
    assert!(footer.0.is_empty());
    puts.into_values().collect()
}

fn history(store: &mut Store, tag: u64, number: u64, queue: u64, begin: u64) {
    let file = read(&format!("history-{number:08}.his"));
    let [own_tag, own_number, own_queue, first, after, count, footer_at, footer_bytes, footer_crc, bytes, newest] =
        header(&file, b"LNCKHIS\n");
    assert_eq!((own_tag, own_number, own_queue), (tag, number, queue));
    let all = stored(&file, footer_at, 10, kept);
    assert_eq!(all.len() as u64, count);
    assert_eq!(all.first_key_value().unwrap().1.0, first);
    let (last, acked_at, _) = all.last_key_value().unwrap().1;
    assert_eq!((last + 1, *acked_at), (after, newest));
    assert_eq!(all.values().map(|(_, _, put)| put.bytes()).sum::<u64>(), bytes);
    let footer = &file[footer_at as usize..][..footer_bytes as usize];
    assert_eq!(u64::from(crc32c::crc32c(footer)), footer_crc);
    let mut footer = Bytes(footer);
    while !footer.0.is_empty() {
        let (position, offset, acked_at) = (footer.u32(), footer.u32(), footer.u64());
        let (at, time, _) = &all[&u64::from(offset)];
        assert_eq!((*at, *time), (first + u64::from(position), acked_at));
    }
    for (position, acked_at, put) in all.into_values().filter(|(position, ..)| *position >= begin) {
        store.kept(position, acked_at, put);
    }
}

fn run(store: &mut Store, tag: u64, number: u64) {
    let file = read(&format!("dedup-{number:08}.run"));
    let [own_tag, own_number, count, newest, words, footer_crc] = header(&file, b"LNCKDUP\n");
    assert_eq!((own_tag, own_number), (tag, number));
    let (keys, footer) = file[SECTOR..].split_at(32 * count as usize);
    assert_eq!(u64::from(crc32c::crc32c(footer)), footer_crc);
    let mut rest = Bytes(footer);
    let mut latest = 0;
    for block in keys.chunks(128 * 32) {
        let (first, crc) = (rest.u128(), rest.u32());
        assert_eq!((Bytes(block).u128(), crc32c::crc32c(block)), (first, crc));
        let mut block = Bytes(block);
        while !block.0.is_empty() {
            let (hash, sequence, sent_at) = (block.u128(), block.u64(), block.u64());
            store.keys.insert(hash, sequence);
            latest = latest.max(sent_at);
        }
    }
    assert_eq!((latest, rest.0.len() as u64), (newest, 8 * words));
}

/// Which of so many positions live.
fn live(bytes: &mut Bytes<'_>, span: u64) -> BTreeSet<u64> {
    match bytes.u8() {
        0 => (0..span).collect(),
        1 => {
            let words: Vec<u64> = (0..span.div_ceil(64)).map(|_| bytes.u64()).collect();
            (0..span).filter(|at| words[(at / 64) as usize] >> (at % 64) & 1 == 1).collect()
        }
        2 => {
            let mut at = 0;
            let places = (0..bytes.v()).map(|_| {
                at += bytes.v();
                at
            });
            places.collect()
        }
        other => panic!("bitmap of kind {other}"),
    }
}

/// The newest checkpoint. Answers the tag, the LSN and the epoch that the log goes on with.
fn checkpoint(store: &mut Store) -> [u64; 3] {
    let files = ["checkpoint-1", "checkpoint-2"].map(read);
    let headers: [[u64; 10]; 2] = [header(&files[0], b"LNCKCKP\n"), header(&files[1], b"LNCKCKP\n")];
    let newest = usize::from(headers[1][1] > headers[0][1]);
    assert_eq!([headers[0][1] % 2, headers[1][1] % 2], [1, 0]);
    let [tag, _, lsn, epoch, next_sequence, _, body_bytes, body_crc, _, _] = headers[newest];
    let body = &files[newest][SECTOR..][..body_bytes as usize];
    assert_eq!(u64::from(crc32c::crc32c(body)), body_crc);
    store.next_sequence = next_sequence;
    let mut body = Bytes(body);
    for _ in 0..body.v() {
        let (queue, name, _, bytes) = (body.v(), body.text(), body.v(), body.v());
        store.names.insert(queue, name);
        let mut cold = 0;
        for _ in 0..body.v() {
            let (number, span) = (body.v(), body.v());
            let live = live(&mut body, span);
            let puts = segment(tag, number, queue);
            let first = puts[0].position;
            for put in puts.into_iter().filter(|put| live.contains(&(put.position - first))) {
                cold += put.bytes();
                store.messages.insert((queue, put.position), put);
            }
        }
        assert_eq!(cold, bytes, "bytes of messages in segments");
        for _ in 0..body.v() {
            let put = store.messages.get_mut(&(queue, body.v())).expect("it stands in a segment");
            (put.attempts, put.due_at, _, put.holds_key) = (body.v(), body.v(), body.v(), body.u8() == 1);
        }
    }
    for _ in 0..body.v() {
        run(store, tag, body.v());
    }
    while !body.0.is_empty() {
        assert_eq!(body.u8(), 1);
        for _ in 0..body.v() {
            let queue = body.v();
            if body.u8() == 1 {
                body.v();
            }
            let (begin, _, _) = (body.v(), body.v(), body.v());
            for _ in 0..body.v() {
                history(store, tag, body.v(), queue, begin);
            }
        }
    }
    [tag, lsn, epoch]
}

/// The log files from an epoch on. Answers the LSN of the last frame.
fn log(store: &mut Store, [tag, checkpoint_lsn, epoch]: [u64; 3]) -> u64 {
    let names = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files = names.filter(|name| name.starts_with("wal-")).map(|name| read(&name));
    let begun = files.filter(|file| file[..SECTOR].iter().any(|byte| *byte != 0));
    let mut files: Vec<([u64; 5], Vec<u8>)> = begun.map(|file| (header(&file, b"LNCKWAL\n"), file)).collect();
    files.retain(|(numbers, _)| numbers[0] >= epoch);
    files.sort();
    let mut next_lsn = files[0].0[1];
    for ([epoch, first_lsn, own_tag, salt, len], file) in files {
        assert_eq!((own_tag, len), (tag, file.len() as u64));
        assert_eq!(first_lsn, next_lsn);
        let mut at = SECTOR;
        while at + 32 <= file.len() {
            let mut frame = Bytes(&file[at..]);
            let (crc, bytes, own_lsn, own_epoch) = (frame.u32(), frame.u32() as usize, frame.u64(), frame.u64());
            let end = at + (32 + bytes).next_multiple_of(8);
            let seed = [&epoch.to_le_bytes()[..], &salt.to_le_bytes(), &(at as u32).to_le_bytes()].concat();
            let sealed = end <= file.len() && crc32c::crc32c_append(crc32c::crc32c(&seed), &file[at + 4..end]) == crc;
            if own_epoch != epoch || !sealed {
                break;
            }
            assert_eq!((own_lsn, frame.u16(), frame.take(6)), (next_lsn, 1, &[0; 6][..]));
            let mut payload = Bytes(frame.take(bytes));
            store.in_checkpoint = own_lsn <= checkpoint_lsn;
            while !payload.0.is_empty() {
                store.record(&mut payload);
            }
            next_lsn += 1;
            at = end;
        }
    }
    assert!(next_lsn > checkpoint_lsn);
    next_lsn - 1
}

#[test]
fn what_the_document_says_leads_to_what_the_store_finds() {
    let mut store = Store::default();
    let found = checkpoint(&mut store);
    let [tag, ..] = found;
    let lsn = log(&mut store, found);
    // The corpus has one record of each kind; here are those of the last files.
    assert!([1, 2, 3, 5, 7, 8].iter().all(|kind| store.kinds.contains(kind)), "{:?}", store.kinds);

    let confirmed = read("confirmed.map");
    let mut words = Bytes(&confirmed);
    let notes = [(); 2].map(|()| (words.u64(), words.u64(), words.u64()));
    for (which, (own_tag, lsn, check)) in notes.into_iter().enumerate() {
        let mixed = (tag.rotate_left(32) ^ lsn).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6c69_6e65_636f_6f6b;
        assert_eq!((own_tag, lsn % 2, check), (tag, which as u64, mixed));
    }
    assert_eq!(notes.map(|(_, lsn, _)| lsn).into_iter().max(), Some(lsn));

    let attempts = read("attempts.map");
    let mut running = 0;
    for slot in attempts.chunks_exact(24) {
        let mut slot = Bytes(slot);
        let (attempt, queue, position, check) = (slot.u32(), slot.u32(), slot.u64(), slot.u64());
        if attempt == 0 {
            continue;
        }
        let mixed = position.rotate_left(20) ^ u64::from(queue) << 40 ^ u64::from(attempt);
        assert_eq!(check, (mixed ^ 0x6174_7465_6d70_7473).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        store.messages.get_mut(&(u64::from(queue), position)).unwrap().attempts = u64::from(attempt);
        running += 1;
    }
    assert_eq!(running, 1);

    // Without the ids and states that the store shows, too.
    let expected = fs::read_to_string(folder().with_extension("contents")).unwrap();
    let shown = |line: &str| {
        let (queue, rest) = line.split_once(' ')?;
        let from = rest.find("attempts ")?;
        (queue != "history" && queue != "state").then(|| format!("{queue} {}", &rest[from..]))
    };
    let mut expected_messages: Vec<String> = expected.lines().filter_map(shown).collect();
    let mut messages: Vec<String> = Vec::new();
    for ((queue, _), put) in &store.messages {
        let due = (put.due_at != 0).then_some(put.due_at);
        messages.push(format!(
            "{} attempts {} due {due:?} sent {} key {:?} type {:?} {:?} {}",
            store.names[queue],
            put.attempts,
            put.enqueued_at,
            put.key,
            put.content_type,
            put.attributes,
            put.body.escape_ascii()
        ));
        assert!(put.sequence < store.next_sequence);
    }
    messages.sort();
    expected_messages.sort();
    assert_eq!(messages, expected_messages);

    let history: Vec<String> = store
        .history
        .iter()
        .map(|((_, position), (put, acked_at))| {
            format!("{position} acknowledged {acked_at} {}", put.body.escape_ascii())
        })
        .collect();
    let shown = |line: &str| {
        let (position, rest) = line.strip_prefix("history of kept: ")?.split_once(' ')?;
        Some(format!("{position} {}", rest.split_once(' ')?.1))
    };
    assert_eq!(history, expected.lines().filter_map(shown).collect::<Vec<String>>());

    let once = store.names.iter().find(|(_, name)| *name == "once").unwrap().0;
    for key in ["once-0", "once-3", "once-5", "once-last"] {
        let mut hasher = SipHasher13::new_with_keys(tag, *once);
        hasher.write(key.as_bytes());
        assert!(store.keys.contains_key(&hasher.finish128().as_u128()), "{key}");
    }

    let state = read("state.redb");
    let [own_tag, redb_bytes] = header(&state, b"LNCKSTA\n");
    assert!(own_tag == tag && redb_bytes > 0);
    let mut redb = Vec::new();
    for (number, sector) in (1u64..).zip(state[SECTOR..].chunks_exact(SECTOR)) {
        let (data, crc) = sector.split_at(508);
        if sector.iter().any(|byte| *byte != 0) {
            let sealed = [&tag.to_le_bytes()[..], &number.to_le_bytes(), data].concat();
            assert_eq!(crc32c::crc32c(&sealed).to_le_bytes(), crc, "sector {number}");
        }
        redb.extend_from_slice(data);
    }
    assert_eq!(redb[..4], *b"redb");
}
