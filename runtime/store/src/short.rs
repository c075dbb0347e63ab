//! Numbers that there are millions of in memory.

/// A number of 48 bits, which may lie at any even address. It is enough for a million messages a second for eight years,
/// and for times until the year 10889.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short([u16; 3]);

impl Short {
    pub(crate) const BITS: u32 = 48;
    pub(crate) const MAX: u64 = (1 << Self::BITS) - 1;
    pub(crate) const ZERO: Short = Short([0; 3]);

    /// The number must be no larger than [`Short::MAX`].
    pub(crate) fn new(number: u64) -> Short {
        assert!(number <= Self::MAX, "no number of a store is so large");
        Short([number as u16, (number >> 16) as u16, (number >> 32) as u16])
    }

    /// The number, or the largest one. A time that is later than all others may as well be that one.
    pub(crate) fn at_most(number: u64) -> Short {
        Short::new(number.min(Self::MAX))
    }

    pub(crate) fn get(self) -> u64 {
        let [low, middle, high] = self.0.map(u64::from);
        high << 32 | middle << 16 | low
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_what_it_was(number in 0..=Short::MAX, any: u64) {
            prop_assert_eq!(Short::new(number).get(), number);
            prop_assert_eq!(Short::at_most(any).get(), any.min(Short::MAX));
        }
    }
}
