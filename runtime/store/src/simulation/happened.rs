//! What has happened in runs, counted: so that it can be shown that they do what they are for.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Clone, Default)]
pub(super) struct Happened(BTreeMap<&'static str, u64>);

impl Happened {
    pub(super) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub(super) fn add(&mut self, what: &'static str, how_often: u64) {
        *self.0.entry(what).or_default() += how_often;
    }

    pub(super) fn add_all(&mut self, others: &Happened) {
        others.0.iter().for_each(|(what, how_often)| self.add(what, *how_often));
    }

    pub(super) fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (what, how_often)) in self.0.iter().enumerate() {
            write!(f, "{}{how_often} {what}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
