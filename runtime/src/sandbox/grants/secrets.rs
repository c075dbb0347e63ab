//! The values of granted secrets: read from the environment of the runtime when a component is loaded, given to its
//! instances, and taken out of whatever they write to the log.

use std::borrow::Cow;
use std::env::{self, VarError};
use std::fmt;

use memchr::memmem;

/// Shorter values, and shorter lines of one, are not looked for: they are no secrets, and would tear holes into every line.
const MASKED_BYTES_MIN: usize = 4;

/// Names and values. Neither prints the values.
#[derive(Default)]
pub(in crate::sandbox) struct Secrets {
    values: Vec<(String, String)>,
    /// What is looked for in the output, and the name to show instead; the longest first, since one may contain another.
    needles: Vec<(String, usize)>,
}

/// A secret that can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sandbox) struct MissingSecret {
    pub(in crate::sandbox) name: String,
    pub(in crate::sandbox) cause: &'static str,
}

impl Secrets {
    /// Reads them from the environment of this process.
    pub(super) fn read(names: &[String]) -> Result<Secrets, MissingSecret> {
        let value = |name: &String| match env::var(name) {
            Ok(value) => Ok((name.clone(), value)),
            Err(VarError::NotPresent) => Err(MissingSecret { name: name.clone(), cause: "it is not set" }),
            Err(VarError::NotUnicode(_)) => Err(MissingSecret { name: name.clone(), cause: "it is not UTF-8" }),
        };
        Ok(Secrets::new(names.iter().map(value).collect::<Result<_, _>>()?))
    }

    pub(in crate::sandbox) fn new(values: Vec<(String, String)>) -> Secrets {
        let mut needles = Vec::new();
        for (index, (_, value)) in values.iter().enumerate() {
            // A value of several lines (a key in PEM) is logged line by line.
            let parts = value.lines().map(str::trim).chain([value.as_str()]);
            needles.extend(parts.filter(|part| part.len() >= MASKED_BYTES_MIN).map(|part| (part.to_owned(), index)));
        }
        needles.sort_unstable_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        needles.dedup_by(|a, b| a.0 == b.0);
        Secrets { values, needles }
    }

    /// Names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(String, String)> {
        self.values.iter()
    }

    /// The text without the values, each replaced by its name.
    pub(in crate::sandbox) fn mask<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        self.needles.iter().fold(text, |text, (needle, index)| {
            if text.contains(needle.as_str()) {
                Cow::Owned(text.replace(needle, &format!("[secret {}]", self.values[*index].0)))
            } else {
                text
            }
        })
    }
}

/// For whoever cuts a text before its end is known, or cuts off what is masked: no part of a value may be left over.
impl Secrets {
    /// Bytes of the longest value that is looked for.
    pub(in crate::sandbox) fn longest(&self) -> usize {
        self.needles.first().map_or(0, |(needle, _)| needle.len())
    }

    /// The first place from `at` on where a text can be cut without cutting a value. What begins before `at` has to be there
    /// to its end, so [`Secrets::longest`] bytes behind it are enough.
    pub(in crate::sandbox) fn uncut(&self, text: &[u8], at: usize) -> usize {
        if at >= text.len() {
            // Nearly no text is cut.
            return text.len();
        }
        // Value after value from the beginning on, as they are masked: which of those that overlap are, depends on it.
        let beside = |at: usize, needle: &[u8]| {
            let text = &text[..(at + needle.len() - 1).min(text.len())];
            at.max(memmem::find_iter(text, needle).last().map_or(0, |last| last + needle.len()))
        };
        let mut at = at;
        loop {
            let beside_all = self.needles.iter().fold(at, |at, (needle, _)| beside(at, needle.as_bytes()));
            if beside_all == at {
                return at;
            }
            at = beside_all;
        }
    }

    /// Where a text ends, without what may be the beginning of a value.
    pub(in crate::sandbox) fn end(&self, text: &[u8]) -> usize {
        let begun = |needle: &[u8]| {
            let longest = (needle.len() - 1).min(text.len());
            (1..=longest).rev().find(|bytes| text.ends_with(&needle[..*bytes]))
        };
        let begun = self.needles.iter().filter_map(|(needle, _)| begun(needle.as_bytes())).max();
        // What is a whole value may be the beginning of another one, too.
        self.uncut(text, text.len() - begun.unwrap_or(0))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[(&str, &str)]) -> Secrets {
        Secrets::new(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn values_are_masked_wherever_they_stand() {
        let secrets = secrets(&[("PASSWORD", "hunter2"), ("LONGER", "hunter2-and-more"), ("PIN", "123"), ("NONE", "")]);
        let mask = |text: &'static str| secrets.mask(Cow::Borrowed(text)).into_owned();
        assert_eq!(mask("user:hunter2@host hunter2"), "user:[secret PASSWORD]@host [secret PASSWORD]");
        assert_eq!(mask("hunter2-and-more"), "[secret LONGER]");
        assert_eq!(mask("1234 and hunter 2"), "1234 and hunter 2");
        assert!(matches!(secrets.mask(Cow::Borrowed("nothing")), Cow::Borrowed("nothing")));
        assert_eq!(format!("{secrets:?}"), r#"{"PASSWORD", "LONGER", "PIN", "NONE"}"#);
    }

    #[test]
    fn each_line_of_a_value_is_masked() {
        let secrets = secrets(&[("KEY", "-----BEGIN-----\nMIIB\n-----END-----\n")]);
        assert_eq!(secrets.mask("key: MIIB".into()), "key: [secret KEY]");
    }

    #[test]
    fn a_text_is_cut_beside_a_value_and_never_within() {
        let secrets = secrets(&[("A", "hunter2"), ("B", "2-and-more"), ("C", "aaaa")]);
        assert_eq!(secrets.longest(), 10);
        let text = b"one hunter2 two";
        let cut = |at| secrets.uncut(text, at);
        assert_eq!([cut(0), cut(4), cut(11), cut(15), cut(99)], [0, 4, 11, 15, 15], "there, no value is cut");
        assert!((5..11).all(|at| cut(at) == 11));
        // Values that overlap, and one that follows itself.
        assert_eq!(secrets.uncut(b"hunter2-and-more!", 3), 16);
        assert_eq!(secrets.uncut(b"aaaaaaaaaa", 5), 8);
        assert_eq!(Secrets::default().uncut(text, 7), 7);
        for (text, end) in
            [("", 0), ("one", 3), ("h", 0), ("one hunt", 4), ("one hunter2", 11), ("aaa", 0), ("aaaaa", 4)]
        {
            assert_eq!(secrets.end(text.as_bytes()), end, "{text}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_missing() {
        let name = "LINECOOK_TEST_NOBODY_SETS_THIS".to_owned();
        let missing = Secrets::read(std::slice::from_ref(&name)).unwrap_err();
        assert_eq!(missing, MissingSecret { name, cause: "it is not set" });
    }
}
