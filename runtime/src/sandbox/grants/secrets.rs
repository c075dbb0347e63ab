//! The values of granted secrets: read from the environment of the runtime when a component is loaded, given to its
//! instances, and taken out of whatever they write to the log.

use std::borrow::Cow;
use std::env::{self, VarError};
use std::fmt;

/// Shorter values are not looked for: they are no secrets, and would tear holes into every line.
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

    fn new(values: Vec<(String, String)>) -> Secrets {
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
    fn a_variable_that_is_not_set_is_missing() {
        let name = "LINECOOK_TEST_NOBODY_SETS_THIS".to_owned();
        let missing = Secrets::read(std::slice::from_ref(&name)).unwrap_err();
        assert_eq!(missing, MissingSecret { name, cause: "it is not set" });
    }
}
