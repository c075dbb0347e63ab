//! What a guest sees of the outside: its environment, its folders, and nothing else. No arguments, no input, no network.

use std::fs;

use wasmtime_wasi::{FsPerms, WasiCtx};

use super::limits::RANDOM_BYTES_MAX;
use super::load::LoadError;
use super::output::{Output, Stream};
use crate::config::{DirGrant, Grants};

/// Makes the folders that may be written, and checks that the others are there.
pub(super) fn prepare_folders(grants: &Grants) -> Result<(), LoadError> {
    for DirGrant { host, guest, write } in &grants.dirs {
        let (made, hint) = if *write {
            (fs::create_dir_all(host), "Check who may write there, and that no file has this name")
        } else {
            (Ok(()), "Make the folder, or take it out of the consumer's grants in queue.toml")
        };
        made.and_then(|()| fs::read_dir(host).map(drop)).map_err(|error| LoadError::Folder {
            host: host.clone(),
            guest: guest.clone(),
            cause: error.to_string(),
            hint,
        })?;
    }
    Ok(())
}

/// The WASI side of one instance. Folders are opened anew each time, so that one that was removed and made again is
/// found; the error is the first folder that can't be opened.
pub(super) fn wasi<'g>(grants: &'g Grants, output: &Output) -> Result<WasiCtx, (&'g DirGrant, wasmtime::Error)> {
    let mut wasi = WasiCtx::builder();
    wasi.stdout(output.stream(Stream::Stdout))
        .stderr(output.stream(Stream::Stderr))
        .max_random_size(RANDOM_BYTES_MAX)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    for (name, value) in &grants.env {
        wasi.env(name, value);
    }
    for dir in &grants.dirs {
        let permissions = if dir.write { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        wasi.preopened_dir(&dir.host, &dir.guest, permissions).map_err(|error| (dir, error))?;
    }
    Ok(wasi.build())
}
