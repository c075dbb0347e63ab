//! How many messages stand in each file of the log. A file may go when it is none, and not before.

use std::collections::VecDeque;

use crate::location::FileId;

#[derive(Debug, Default)]
pub(super) struct InLog {
    /// Oldest first, none of them empty. There are few, and what comes and goes is mostly in the last one.
    files: VecDeque<(FileId, u64)>,
}

impl InLog {
    /// A message came into a file. Segments are no files of the log: what stands there is counted on the shelf.
    pub(super) fn add(&mut self, file: FileId) {
        if file.is_segment() {
            return;
        }
        match self.find(file) {
            Ok(at) => self.files[at].1 += 1,
            Err(at) => self.files.insert(at, (file, 1)),
        }
    }

    /// A message that stood in a file is gone from it.
    pub(super) fn remove(&mut self, file: FileId) {
        if file.is_segment() {
            return;
        }
        let at = self.find(file).expect("what goes from a file came to it");
        self.files[at].1 -= 1;
        if self.files[at].1 == 0 {
            self.files.remove(at);
        }
    }

    pub(super) fn count(&self, file: FileId) -> u64 {
        self.find(file).map_or(0, |at| self.files[at].1)
    }

    /// Where a file is in the list, or would have to be.
    fn find(&self, file: FileId) -> Result<usize, usize> {
        match self.files.back() {
            None => Err(0),
            Some((last, _)) if *last == file => Ok(self.files.len() - 1),
            Some((last, _)) if *last < file => Err(self.files.len()),
            Some(_) => self.files.binary_search_by_key(&file, |(file, _)| *file),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_counts_file_by_file(steps in proptest::collection::vec((0u64..6, any::<bool>(), any::<bool>()), 0..300)) {
            let (mut in_log, mut model) = (InLog::default(), BTreeMap::<u64, u64>::new());
            for (number, add, segment) in steps {
                let file = if segment { FileId::segment(number) } else { FileId::log(number) };
                match add {
                    true => in_log.add(file),
                    // What never came can't go.
                    false if !segment && model.get(&number).is_none_or(|count| *count == 0) => continue,
                    false => in_log.remove(file),
                }
                if !segment {
                    let count = model.entry(number).or_default();
                    *count = if add { *count + 1 } else { *count - 1 };
                }
                for number in 0..6 {
                    prop_assert_eq!(in_log.count(FileId::log(number)), model.get(&number).copied().unwrap_or(0));
                    prop_assert_eq!(in_log.count(FileId::segment(number)), 0);
                }
                prop_assert!(in_log.files.iter().all(|(_, count)| *count > 0));
            }
        }
    }
}
