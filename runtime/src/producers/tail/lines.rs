//! From bytes to lines. A line ends with `\n` or `\r\n`, which is no part of it; its bytes may be anything.

use std::ops::Range;

use memchr::memchr;
use serde::{Deserialize, Serialize};

use crate::config::producers::LongLines;

/// How far a file was read. All before `offset` is done with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) offset: u64,
    /// Pieces of the line at `offset` that were sent already: it is one that is split.
    pub(super) pieces: u32,
    /// The line at `offset` is one that is refused: the rest of it is passed over.
    pub(super) skipping: bool,
}

/// How lines are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framing {
    pub(super) line_bytes_max: usize,
    pub(super) long_lines: LongLines,
}

/// What comes next in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// A line, or a piece of one.
    Line {
        /// Where it is in the bytes that were looked at.
        range: Range<usize>,
        /// `2` for the second piece of a long line, `3/3` if the third is the last.
        part: Option<String>,
    },
    /// A line that is too long begins here.
    Refused,
    /// No whole line yet.
    Incomplete,
}

impl Framing {
    /// Bytes that must be looked at to tell a long line from an incomplete one.
    pub(super) fn window(&self) -> usize {
        // The line and both bytes of its end.
        self.line_bytes_max + 2
    }

    /// Takes the next line from `bytes`, which begin at `progress.offset`, and moves on. `last`: nothing will be added,
    /// so that what is there is the last line.
    pub(super) fn next(&self, progress: &mut Progress, bytes: &[u8], last: bool) -> Next {
        let mut start = 0;
        if progress.skipping {
            let end = memchr(b'\n', bytes);
            start = end.map_or(bytes.len(), |end| end + 1);
            progress.offset += start as u64;
            progress.skipping = end.is_none() && !last;
            if progress.skipping {
                return Next::Incomplete;
            }
        }
        let rest = &bytes[start..];
        let window = &rest[..rest.len().min(self.window())];
        let (line, consumed) = match memchr(b'\n', window) {
            Some(end) => (without_return(&window[..end]), end + 1),
            None if rest.len() < self.window() => {
                if !last || rest.is_empty() {
                    return Next::Incomplete;
                }
                (without_return(rest), rest.len())
            }
            None => (window, 0),
        };
        if line.len() <= self.line_bytes_max {
            let part = (progress.pieces > 0).then(|| format!("{0}/{0}", progress.pieces + 1));
            *progress = Progress { offset: progress.offset + consumed as u64, ..Progress::default() };
            return Next::Line { range: start..start + line.len(), part };
        }
        match self.long_lines {
            LongLines::Split => {
                progress.offset += self.line_bytes_max as u64;
                progress.pieces += 1;
                let part = Some(progress.pieces.to_string());
                Next::Line { range: start..start + self.line_bytes_max, part }
            }
            LongLines::Refuse => {
                progress.skipping = true;
                Next::Refused
            }
        }
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framing(line_bytes_max: usize, long_lines: LongLines) -> Framing {
        Framing { line_bytes_max, long_lines }
    }

    /// All lines with their parts, how many were refused, and where it ended; the file is seen in growing portions.
    fn read(framing: Framing, bytes: &[u8], portions: &[usize], last: bool) -> (Vec<(Vec<u8>, String)>, u64, Progress) {
        let mut progress = Progress::default();
        let (mut lines, mut refused) = (Vec::new(), 0);
        let ends = portions.iter().map(|end| (*end.min(&bytes.len()), false)).chain([(bytes.len(), last)]);
        for (end, last) in ends {
            loop {
                let seen = &bytes[(progress.offset as usize).min(end)..end];
                match framing.next(&mut progress, seen, last) {
                    Next::Line { range, part } => lines.push((seen[range].to_vec(), part.unwrap_or_default())),
                    Next::Refused => refused += 1,
                    Next::Incomplete => break,
                }
            }
        }
        (lines, refused, progress)
    }

    fn line(text: &str, part: &str) -> (Vec<u8>, String) {
        (text.into(), part.into())
    }

    #[test]
    fn lines_end_where_their_ends_are() {
        let (lines, refused, progress) = read(framing(8, LongLines::Split), b"one\r\n\ntwo\rx\nthree", &[], false);
        assert_eq!(lines, [line("one", ""), line("", ""), line("two\rx", "")]);
        assert_eq!((refused, progress.offset), (0, 12), "the last line waits for its end");
        let (lines, _, progress) = read(framing(8, LongLines::Split), b"one\nthree", &[], true);
        assert_eq!((lines.last(), progress.offset), (Some(&line("three", "")), 9));
    }

    #[test]
    fn a_long_line_is_split_into_pieces_that_are_numbered() {
        let (lines, _, _) = read(framing(4, LongLines::Split), b"12345678\nabcd\nabcde\n", &[], false);
        let expected = [line("1234", "1"), line("5678", "2/2"), line("abcd", ""), line("abcd", "1"), line("e", "2/2")];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_long_line_is_refused_once_however_long_it_is() {
        let text = [&b"ok\n"[..], &[b'x'; 1000], b"\nfine\n"].concat();
        let (lines, refused, progress) = read(framing(4, LongLines::Refuse), &text, &[5, 9, 100, 500], false);
        assert_eq!((lines, refused), (vec![line("ok", ""), line("fine", "")], 1));
        assert_eq!(progress, Progress { offset: text.len() as u64, ..Progress::default() });
    }

    proptest! {
        /// However the file grows, the lines are the same; and split lines put together are the file.
        #[test]
        fn portions_make_no_difference(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()], 0..200),
            mut portions in proptest::collection::vec(0..200usize, 0..6),
            max in 1..12usize,
            refuse in any::<bool>(),
        ) {
            portions.sort_unstable();
            let framing = framing(max, if refuse { LongLines::Refuse } else { LongLines::Split });
            let whole = read(framing, &bytes, &[], true);
            prop_assert_eq!(&read(framing, &bytes, &portions, true), &whole);
            prop_assert_eq!(whole.2.offset, bytes.len() as u64);
            prop_assert!(whole.0.iter().all(|(line, _)| line.len() <= max));
            if !refuse {
                let mut together = Vec::new();
                for (line, part) in &whole.0 {
                    together.extend(line);
                    let ended = part.is_empty() || part.contains('/');
                    together.extend(ended.then_some(b'\n'));
                }
                // As the lines are, without the returns before their ends.
                let mut expected = Vec::new();
                for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                    expected.extend(without_return(line.strip_suffix(b"\n").unwrap_or(line)));
                    expected.push(b'\n');
                }
                prop_assert_eq!(together, expected);
            }
        }
    }
}
