//! A set of small numbers, as bits. Cloning is cheap: a clone shares its words until one of the two changes.

use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: Arc<Vec<u64>>,
    len: u64,
    ones: u64,
}

const WORD_BITS: u64 = 64;

impl Bitmap {
    /// None of the numbers below `len`.
    pub(crate) fn new(len: u64) -> Bitmap {
        Bitmap { words: Arc::new(vec![0; len.div_ceil(WORD_BITS) as usize]), len, ones: 0 }
    }

    /// All of the numbers below `len`.
    pub(crate) fn full(len: u64) -> Bitmap {
        let mut words = vec![u64::MAX; len.div_ceil(WORD_BITS) as usize];
        if !len.is_multiple_of(WORD_BITS) {
            *words.last_mut().expect("there is a part of a word") = (1 << (len % WORD_BITS)) - 1;
        }
        Bitmap { words: Arc::new(words), len, ones: len }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// How many are in it.
    pub(crate) fn ones(&self) -> u64 {
        self.ones
    }

    pub(crate) fn get(&self, at: u64) -> bool {
        at < self.len && self.words[(at / WORD_BITS) as usize] & 1 << (at % WORD_BITS) != 0
    }

    /// Adds a number below the length. False if it was there.
    pub(crate) fn set(&mut self, at: u64) -> bool {
        assert!(at < self.len, "{at} is not below {}", self.len);
        if self.get(at) {
            return false;
        }
        Arc::make_mut(&mut self.words)[(at / WORD_BITS) as usize] |= 1 << (at % WORD_BITS);
        self.ones += 1;
        true
    }

    /// Takes a number away. False if it was not there.
    pub(crate) fn clear(&mut self, at: u64) -> bool {
        if !self.get(at) {
            return false;
        }
        Arc::make_mut(&mut self.words)[(at / WORD_BITS) as usize] &= !(1 << (at % WORD_BITS));
        self.ones -= 1;
        true
    }

    /// Adds what is in another bitmap and also in `among`, which is as long as this one. Bit 0 stands for the position `first`
    /// here, and for `other_first` in the other one.
    pub(crate) fn take_over(&mut self, first: u64, other: &Bitmap, other_first: u64, among: &Bitmap) {
        assert_eq!(self.len, among.len, "a bit for each position");
        let mut ones = 0;
        for (place, word) in Arc::make_mut(&mut self.words).iter_mut().enumerate() {
            let position = first + place as u64 * WORD_BITS;
            *word |= other.word_at(position, other_first) & among.words[place];
            ones += u64::from(word.count_ones());
        }
        self.ones = ones;
    }

    /// The bits of 64 positions, if bit 0 stands for `first`. Beyond its ends there are none.
    fn word_at(&self, position: u64, first: u64) -> u64 {
        let word = |place: u64| self.words.get(place as usize).copied().unwrap_or(0);
        let Some(at) = position.checked_sub(first) else {
            let before = first - position;
            return if before < WORD_BITS { word(0) << before } else { 0 };
        };
        let (place, shift) = (at / WORD_BITS, at % WORD_BITS);
        let next = if shift == 0 { 0 } else { word(place + 1) << (WORD_BITS - shift) };
        word(place) >> shift | next
    }

    /// The first number that is in it, from `at` on.
    pub(crate) fn next(&self, at: u64) -> Option<u64> {
        if at >= self.len {
            return None;
        }
        let first = (at / WORD_BITS) as usize;
        let masked = self.words[first] & (u64::MAX << (at % WORD_BITS));
        let rest = self.words[first + 1..].iter().copied();
        let (skipped, word) = std::iter::once(masked).chain(rest).enumerate().find(|(_, word)| *word != 0)?;
        Some((first + skipped) as u64 * WORD_BITS + u64::from(word.trailing_zeros()))
    }

    /// All numbers that are in it, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        std::iter::successors(self.next(0), |at| self.next(at + 1))
    }

    /// The words that hold the bits, lowest first.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// A bitmap of these words. None if there are not as many as the length needs, or bits are set beyond it.
    pub(crate) fn from_words(len: u64, words: Vec<u64>) -> Option<Bitmap> {
        let ones = words.iter().map(|word| u64::from(word.count_ones())).sum();
        let beyond = match len % WORD_BITS {
            0 => 0,
            used => words.last().copied().unwrap_or(0) >> used,
        };
        let fits = words.len() as u64 == len.div_ceil(WORD_BITS) && beyond == 0;
        fits.then(|| Bitmap { words: Arc::new(words), len, ones })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_taken_over_is_at_its_position(
            first in 0u64..200, len in 1u64..300, other_first in 0u64..200, other_len in 1u64..300, seed in any::<u64>(),
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut some = |len: u64| {
                let mut bits = Bitmap::new(len);
                (0..len).filter(|_| random.bool()).for_each(|at| _ = bits.set(at));
                bits
            };
            let (before, other, among) = (some(len), some(other_len), some(len));
            let mut bits = before.clone();
            bits.take_over(first, &other, other_first, &among);
            for at in 0..len {
                let there = (first + at).checked_sub(other_first).is_some_and(|at| other.get(at));
                prop_assert_eq!(bits.get(at), before.get(at) || there && among.get(at), "{}", at);
            }
            prop_assert_eq!(bits.ones(), bits.iter().count() as u64);
        }

        #[test]
        fn it_does_what_an_ordinary_set_does(len in 1u64..300, steps in proptest::collection::vec((0u64..300, any::<bool>()), 0..300)) {
            let (mut bits, mut model) = (Bitmap::new(len), BTreeSet::new());
            let before = bits.clone();
            for (at, set) in steps {
                let at = at % len;
                match set {
                    true => prop_assert_eq!(bits.set(at), model.insert(at)),
                    false => prop_assert_eq!(bits.clear(at), model.remove(&at)),
                }
                prop_assert_eq!(bits.get(at), model.contains(&at));
                prop_assert_eq!(bits.next(at), model.range(at..).next().copied());
            }
            prop_assert_eq!(bits.ones(), model.len() as u64);
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(before, Bitmap::new(len), "a clone does not change");
            prop_assert_eq!(bits.next(len), None);
            let full = Bitmap::full(len);
            prop_assert_eq!((full.ones(), full.iter().count() as u64), (len, len));
            prop_assert_eq!(Bitmap::from_words(len, bits.words().to_vec()), Some(bits.clone()));
            prop_assert_eq!(Bitmap::from_words(len + 64, bits.words().to_vec()), None);
            if len % 64 != 0 {
                let mut words = bits.words().to_vec();
                *words.last_mut().unwrap() |= 1 << 63;
                prop_assert_eq!(Bitmap::from_words(len, words), None);
            }
        }
    }
}
