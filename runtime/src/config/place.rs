//! What a text says at one place, whatever the rest of it is like.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::errors::{ConfigError, ConfigErrors};
use super::read;
use super::reader::{Errors, TableReader};
use super::{RuntimeConfig, TlsConfig};

/// Refuses a text that is right in itself, for a reason that its reader has: `key` is where, from the top level on, as far
/// as it is there.
pub fn refuse(text: &str, path: &Path, key: &[&str], message: String, hint: &str) -> ConfigErrors {
    let (tree, _) = DeTable::parse_recoverable(text);
    let error = match span(tree.get_ref(), key) {
        Some(span) => ConfigError::at(span, message),
        None => ConfigError::whole(message),
    };
    ConfigErrors::new(path, text, vec![error.hint(hint)])
}

/// Where a runtime is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address of its listener.
    pub listen: SocketAddr,
    /// Its certificate; none if it speaks in the clear.
    pub tls: Option<TlsConfig>,
    /// Certificates (PEM) that lead to it, beside its own.
    pub ca_file: Option<PathBuf>,
}

impl From<RuntimeConfig> for Endpoint {
    fn from(runtime: RuntimeConfig) -> Endpoint {
        Endpoint { listen: runtime.listen, tls: runtime.tls, ca_file: runtime.ca_file }
    }
}

/// What a file says of where its runtime is reached, also if something else in it is wrong: a runtime that was started
/// before that listens there. The error is that there is no such file.
pub fn endpoint(path: &Path) -> Result<Endpoint, ConfigErrors> {
    let text = super::file::read(path)?;
    let (tree, _) = DeTable::parse_recoverable(&text);
    let errors = Errors::default();
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(read::document(TableReader::document(tree.get_ref(), &errors), folder, &errors).runtime.into())
}

/// Where the last key stands that is there.
fn span(table: &DeTable<'_>, key: &[&str]) -> Option<Range<usize>> {
    let (first, rest) = key.split_first()?;
    let (name, value) = table.get_key_value(*first)?;
    let deeper = match value.get_ref() {
        DeValue::Table(table) => span(table, rest),
        _ => None,
    };
    Some(deeper.unwrap_or_else(|| name.span()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[runtime]\nlisten = \"127.0.0.1:80\"\n\n[consumers.welcome]\nqueue = 1\n";

    #[test]
    fn a_reason_stands_where_it_is_about() {
        let at = |key: &[&str]| {
            let errors = refuse(TEXT, Path::new("queue.toml"), key, "no".to_owned(), "don't");
            errors.errors()[0].position.map(|position| (position.line, position.column))
        };
        assert_eq!(at(&["runtime", "listen"]), Some((2, 1)));
        assert_eq!(at(&["runtime", "data_dir"]), Some((1, 2)));
        assert_eq!(at(&["consumers", "welcome"]), Some((4, 12)));
        assert_eq!(at(&["queues", "a"]), None);
    }

    #[test]
    fn the_address_is_found_in_a_file_that_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.toml");
        for (text, found) in [
            (TEXT, "127.0.0.1:80"),
            ("[runtime]\nlisten = \"127.0.0.1:80\"\n[[[", "127.0.0.1:80"),
            ("[runtime]\nlisten = 5\n", "127.0.0.1:7878"),
            ("", "127.0.0.1:7878"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(endpoint(&path).unwrap().listen, found.parse().unwrap(), "{text}");
        }
        let tls =
            "[runtime.tls]\ncert = \"c.pem\"\nkey = \"k.pem\"\nname = \"queues.example\"\n[queues.a]\nnonsense = 1\n";
        std::fs::write(&path, tls).unwrap();
        let tls = endpoint(&path).unwrap().tls.unwrap();
        assert_eq!((tls.name.as_str(), tls.files.cert), ("queues.example", folder.path().join("c.pem")));
        std::fs::remove_file(&path).unwrap();
        assert!(endpoint(&path).is_err());
    }
}
