//! A run: idempotency keys that files of the log remembered, sorted, in a file that is written once (`FORMAT.md`, "Runs of
//! idempotency keys").

use std::sync::Arc;

use super::{KeyHash, Seen};
use crate::courtesy::give_way;
use crate::disk::{Disk, DiskError, File};
use crate::error::OpenError;
use crate::header::{HEADER_BYTES, Kind, NUMBER_MAX, number_in_name};

const KIND: Kind = Kind { magic: b"LNCKDUP\n", version: 1, what: "run of idempotency keys" };
const KEY_BYTES: usize = 32;
const BLOCK_KEYS: usize = 128;
const BLOCK_BYTES: usize = BLOCK_KEYS * KEY_BYTES;
const BLOCK_INFO_BYTES: usize = 20;

/// The name of a run's file.
pub(crate) fn name(id: u64) -> String {
    format!("dedup-{id:08}.run")
}

/// The number of the run that a file's name stands for.
pub(crate) fn id(name: &str) -> Option<u64> {
    number_in_name(name, "dedup-", ".run", self::name).filter(|id| *id < NUMBER_MAX)
}

/// A run that is whole and durable.
pub(crate) struct Run {
    id: u64,
    keys: u64,
    newest_ms: u64,
    file: Arc<dyn File>,
    blocks: Vec<Block>,
    bloom: Bloom,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    first: KeyHash,
    crc: u32,
}

impl Run {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// How many keys it remembers.
    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    /// When the newest of its messages was sent.
    pub(crate) fn newest_ms(&self) -> u64 {
        self.newest_ms
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// What it remembers of a key. An error says where it is damaged.
    pub(crate) fn find(&self, key: KeyHash) -> Result<Option<Seen>, String> {
        if !self.bloom.may_hold(key) {
            return Ok(None);
        }
        let after = self.blocks.partition_point(|block| block.first <= key);
        let Some(block) = after.checked_sub(1) else { return Ok(None) };
        let keys = self.read_block(block)?;
        let found = keys.binary_search_by_key(&key, |(hash, _)| *hash);
        Ok(found.ok().map(|at| keys[at].1))
    }

    /// The keys of a block, sorted.
    pub(crate) fn read_block(&self, block: usize) -> Result<Vec<(KeyHash, Seen)>, String> {
        let keys = (self.keys as usize - block * BLOCK_KEYS).min(BLOCK_KEYS);
        let offset = (HEADER_BYTES + block * BLOCK_BYTES) as u64;
        let mut bytes = vec![0; keys * KEY_BYTES];
        self.file.read_at(&mut bytes, offset).map_err(|error| error.to_string())?;
        if crc32c::crc32c(&bytes) != self.blocks[block].crc {
            return Err(format!("{} is damaged at offset {offset}: a checksum does not match", name(self.id)));
        }
        let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let keys = bytes.chunks_exact(KEY_BYTES).map(|bytes| {
            let hash = u128::from_le_bytes(bytes[..16].try_into().expect("sixteen bytes"));
            (hash, Seen { sequence: u64_at(bytes, 16), at_ms: u64_at(bytes, 24) })
        });
        Ok(keys.collect())
    }

    /// Opens a run. `store_tag`: of the store that it must belong to.
    pub(crate) fn open(disk: &dyn Disk, id: u64, store_tag: u64) -> Result<Run, OpenError> {
        let name = name(id);
        let file = disk.open(&name)?;
        let damaged = |offset: u64, why: &str| OpenError::Damaged { file: name.clone(), offset, why: why.into() };
        let numbers = KIND.read(&name, &*file)?.ok_or_else(|| damaged(0, "the file is empty"))?;
        let [tag, own_id, keys, newest_ms, words, footer_crc] = numbers;
        if tag != store_tag || own_id != id {
            return Err(damaged(16, "it belongs to another store, or its name was changed"));
        }
        let len = file.len()?;
        let blocks = keys.div_ceil(BLOCK_KEYS as u64);
        let keys_bytes = keys.saturating_mul(KEY_BYTES as u64);
        let footer_at = keys_bytes.saturating_add(HEADER_BYTES as u64);
        let footer_bytes = (blocks * BLOCK_INFO_BYTES as u64).saturating_add(words.saturating_mul(8));
        if keys == 0 || words == 0 || footer_at.saturating_add(footer_bytes) > len {
            return Err(damaged(len, "the rest of the file is missing"));
        }
        let mut footer = vec![0; footer_bytes as usize];
        file.read_at(&mut footer, footer_at)?;
        if u64::from(crc32c::crc32c(&footer)) != footer_crc {
            return Err(damaged(footer_at, "the index is damaged: its checksum does not match"));
        }
        let (infos, words) = footer.split_at(blocks as usize * BLOCK_INFO_BYTES);
        let blocks = infos.chunks_exact(BLOCK_INFO_BYTES).map(|info| Block {
            first: u128::from_le_bytes(info[..16].try_into().expect("sixteen bytes")),
            crc: u32::from_le_bytes(info[16..].try_into().expect("four bytes")),
        });
        let words = words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        let (blocks, bloom) = (blocks.collect(), Bloom { words: words.collect() });
        Ok(Run { id, keys, newest_ms, file, blocks, bloom })
    }
}

/// Writes a run from sorted keys.
pub(crate) struct RunWriter {
    id: u64,
    file: Arc<dyn File>,
    keys: u64,
    newest_ms: u64,
    block: Vec<u8>,
    blocks: Vec<Block>,
    bloom: Bloom,
}

impl RunWriter {
    /// `keys_max`: no more will come.
    pub(crate) fn new(disk: &dyn Disk, id: u64, keys_max: u64) -> Result<RunWriter, DiskError> {
        let file = disk.create(&name(id))?;
        let bloom = Bloom::new(keys_max);
        Ok(RunWriter { id, file, keys: 0, newest_ms: 0, block: Vec::new(), blocks: Vec::new(), bloom })
    }

    /// The next key, which must be greater than the one before.
    pub(crate) fn put(&mut self, key: KeyHash, seen: Seen) -> Result<(), DiskError> {
        if self.block.is_empty() {
            self.blocks.push(Block { first: key, crc: 0 });
        }
        self.block.extend_from_slice(&key.to_le_bytes());
        self.block.extend_from_slice(&seen.sequence.to_le_bytes());
        self.block.extend_from_slice(&seen.at_ms.to_le_bytes());
        self.bloom.add(key);
        self.newest_ms = self.newest_ms.max(seen.at_ms);
        self.keys += 1;
        if self.block.len() == BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        let Some(last) = self.blocks.len().checked_sub(1).filter(|_| !self.block.is_empty()) else { return Ok(()) };
        self.blocks[last].crc = crc32c::crc32c(&self.block);
        self.file.write_at(&self.block, (HEADER_BYTES + last * BLOCK_BYTES) as u64)?;
        self.block.clear();
        give_way();
        Ok(())
    }

    /// Ends the run and syncs it. Its name is durable after the folder is synced.
    pub(crate) fn finish(mut self, store_tag: u64) -> Result<Run, DiskError> {
        self.flush()?;
        let mut footer = Vec::new();
        for block in &self.blocks {
            footer.extend_from_slice(&block.first.to_le_bytes());
            footer.extend_from_slice(&block.crc.to_le_bytes());
        }
        self.bloom.words.iter().for_each(|word| footer.extend_from_slice(&word.to_le_bytes()));
        self.file.write_at(&footer, HEADER_BYTES as u64 + self.keys * KEY_BYTES as u64)?;
        let crc = u64::from(crc32c::crc32c(&footer));
        let words = self.bloom.words.len() as u64;
        self.file.write_at(&KIND.encode(&[store_tag, self.id, self.keys, self.newest_ms, words, crc]), 0)?;
        self.file.sync()?;
        let RunWriter { id, file, keys, newest_ms, blocks, bloom, .. } = self;
        Ok(Run { id, keys, newest_ms, file, blocks, bloom })
    }
}

/// Says of a key that it is certainly not there, or may be (Bloom, 1970).
struct Bloom {
    words: Vec<u64>,
}

impl Bloom {
    const BITS_PER_KEY: u64 = 10;
    const PROBES: u64 = 7;

    fn new(keys_max: u64) -> Bloom {
        Bloom { words: vec![0; (keys_max * Self::BITS_PER_KEY).div_ceil(64) as usize] }
    }

    /// Kirsch and Mitzenmacher: two hashes make as many as one needs.
    fn probes(&self, key: KeyHash) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (first, step) = (key as u64, (key >> 64) as u64 | 1);
        let bits = self.words.len() as u64 * 64;
        (0..Self::PROBES).map(move |probe| {
            let bit = first.wrapping_add(probe.wrapping_mul(step)) % bits;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn add(&mut self, key: KeyHash) {
        for (word, bit) in self.probes(key) {
            self.words[word] |= bit;
        }
    }

    fn may_hold(&self, key: KeyHash) -> bool {
        self.probes(key).all(|(word, bit)| self.words[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    fn keys(count: u64) -> Vec<(KeyHash, Seen)> {
        let mut random = fastrand::Rng::with_seed(count);
        let mut keys: Vec<_> =
            (0..count).map(|at| (random.u128(..), Seen { sequence: at, at_ms: 1000 + at })).collect();
        keys.sort_by_key(|(hash, _)| *hash);
        keys
    }

    fn write(disk: &dyn Disk, keys: &[(KeyHash, Seen)]) -> Run {
        let mut writer = RunWriter::new(disk, 3, keys.len() as u64).unwrap();
        keys.iter().for_each(|(key, seen)| writer.put(*key, *seen).unwrap());
        writer.finish(9).unwrap()
    }

    #[test]
    fn every_key_is_found_again_and_few_others_cost_a_read() {
        for count in [1, 127, 128, 129, 3000] {
            let disk = SimulatedDisk::new(1);
            let keys = keys(count);
            write(&disk, &keys);
            let run = Run::open(&disk, 3, 9).unwrap();
            assert_eq!((run.keys(), run.newest_ms()), (count, 999 + count));
            for (key, seen) in &keys {
                assert_eq!(run.find(*key), Ok(Some(*seen)));
            }
            let mut random = fastrand::Rng::with_seed(7);
            let others: Vec<KeyHash> = (0..10_000).map(|_| random.u128(..)).collect();
            assert!(others.iter().all(|key| run.find(*key) == Ok(None)));
            let may = others.iter().filter(|key| run.bloom.may_hold(**key)).count();
            assert!(may < 400, "{may} of 10000 new keys pass the filter of {count}");
            let memory = run.blocks.capacity() * size_of::<Block>() + run.bloom.words.capacity() * 8;
            assert!(memory as u64 <= 2 * count + 64, "{count} keys take {memory} bytes of memory");
        }
    }

    #[test]
    fn damage_is_told_with_file_and_offset() {
        let disk = SimulatedDisk::new(1);
        let keys = keys(300);
        write(&disk, &keys);
        for offset in 0..disk.file_len(&name(3)) {
            let damaged = disk.snapshot();
            damaged.corrupt(&name(3), offset, 4);
            let told = match Run::open(&damaged, 3, 9) {
                Err(error) => error.to_string(),
                Ok(run) => keys.iter().find_map(|(key, _)| run.find(*key).err()).expect("a block is damaged"),
            };
            assert!(told.contains("dedup-00000003.run") && told.contains("offset"), "{told}");
        }
        assert!(Run::open(&disk, 3, 8).is_err(), "it belongs to another store");
    }
}
