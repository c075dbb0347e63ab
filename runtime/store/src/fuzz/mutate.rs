//! Changes an input in a few of the ways in which decoders are broken: numbers at their limits, lengths that are too long,
//! parts that are missing, doubled or from elsewhere.

pub(super) struct Mutator {
    random: fastrand::Rng,
}

/// Numbers at which something changes.
const EDGES: [u64; 15] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    1 << 26,
    u32::MAX as u64,
    1 << 32,
    (1 << 47) - 1,
    1 << 47,
    1 << 48,
    1 << 62,
    u64::MAX - 1,
    u64::MAX,
];

impl Mutator {
    pub(super) fn new(seed: u64) -> Mutator {
        Mutator { random: fastrand::Rng::with_seed(seed) }
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.random.usize(..end)
    }

    pub(super) fn mutate(&mut self, input: &mut Vec<u8>, corpus: &[(String, Vec<u8>)]) {
        for _ in 0..self.random.usize(1..=3) {
            self.change(input, corpus);
        }
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[(String, Vec<u8>)]) {
        if input.is_empty() {
            return input.push(self.random.u8(..));
        }
        // Headers and the starts of records are where numbers stand.
        let near = if self.random.bool() { input.len().min(640) } else { input.len() };
        let at = self.random.usize(..near);
        match self.random.u8(..8) {
            0 => input[at] ^= 1 << self.random.u8(..8),
            1 => input[at] = self.random.u8(..),
            2 => {
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                let len = [1, 2, 4, 8][self.below(4)].min(input.len() - at);
                input[at..at + len].copy_from_slice(&edge[..len]);
            }
            3 => {
                // A LEB128 number of ten bytes.
                let number = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
                let len = self.random.usize(1..=10);
                input.splice(at..at + 1, number[10 - len..].iter().copied());
            }
            4 => input.truncate(at),
            5 => {
                let end = (at + self.random.usize(1..64)).min(input.len());
                input.drain(at..end);
            }
            6 => {
                let end = (at + self.random.usize(1..64)).min(input.len());
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            _ => {
                let (_, other) = &corpus[self.below(corpus.len())];
                let from = self.random.usize(..=other.len());
                let part = &other[from..(from + self.random.usize(..64)).min(other.len())];
                let end = (at + part.len()).min(input.len());
                input.splice(at..end, part.iter().copied());
            }
        }
    }
}
