//! From a path to a text: what can be wrong with the file before its content matters.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::errors::{ConfigError, ConfigErrors, Position};

/// More than anybody writes by hand, and little enough to check within a moment.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads the file whole.
pub fn read(path: &Path) -> Result<String, ConfigErrors> {
    let shown = path.display();
    let refuse = |error: ConfigError| Err(ConfigErrors::new(path, "", vec![error]));
    let bytes = match bytes(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let error = ConfigError::whole(format!("there is no {shown}"));
            return refuse(error.hint(
                "go to the folder that has one, name it with `--config FILE`, or make one that \
                                      begins with [queues.NAME]",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            let hint = format!("name the file in it: `--config {}`", path.join("queue.toml").display());
            return refuse(ConfigError::whole(format!("{shown} is a folder")).hint(hint));
        }
        Err(error) => return refuse(ConfigError::whole(format!("can't read {shown}: {error}"))),
    };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let error = ConfigError::whole(format!("{shown} is larger than 4 MiB, which no queue.toml needs"));
        return refuse(error.hint("check that `--config` names the right file"));
    }
    String::from_utf8(bytes).or_else(|error| {
        let offset = error.utf8_error().valid_up_to();
        let valid = String::from_utf8_lossy(&error.as_bytes()[..offset]).into_owned();
        let message = format!("{shown} is not UTF-8: byte 0x{:02x} at offset {offset}", error.as_bytes()[offset]);
        let mut error = ConfigError::whole(message).hint("save the file as UTF-8");
        error.position = Some(Position::of(&valid, offset));
        refuse(error)
    })
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
