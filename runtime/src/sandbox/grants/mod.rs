//! What a guest sees of the outside: its environment, its folders, granted servers, and nothing else. No arguments, no
//! input.

use std::fs;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_rustls::rustls::ClientConfig;
use wasmtime_wasi::{FsPerms, WasiCtx};
use wasmtime_wasi_config::WasiConfigVariables;

use super::InstanceSettings;
use super::imports::sockets::Sockets;
use super::limits::LOOKUPS_MAX;
use super::load::LoadError;
use super::output::{Output, Stream};
use crate::config::{DirGrant, Grants};
use crate::subjects::Subjects;

mod addresses;
mod denied;
mod secrets;

pub(super) use self::addresses::is_public;
use self::denied::Denied;
pub(super) use self::denied::Grant;
pub(super) use self::secrets::Secrets;

/// What the grants of one module open that outlives a delivery.
pub(super) struct Access {
    /// `env` and `secrets`.
    environment: Vec<(String, String)>,
    pub(super) secrets: Secrets,
    /// What `wasi:config` answers.
    pub(super) variables: WasiConfigVariables,
    denied: Denied,
    pub(super) tls: Arc<ClientConfig>,
    /// Which queues get what is sent to a subject.
    pub(super) subjects: Arc<Subjects>,
    /// Names that are looked up at once.
    pub(super) lookups: Arc<Semaphore>,
}

impl Access {
    /// Reads the secrets, makes the folders that may be written, and checks that the others are there.
    pub(super) fn open(
        settings: &InstanceSettings,
        tls: Arc<ClientConfig>,
        subjects: Arc<Subjects>,
    ) -> Result<Access, LoadError> {
        let grants = &settings.grants;
        prepare_folders(grants)?;
        let secrets = Secrets::read(&grants.secrets)
            .map_err(|missing| LoadError::Secret { name: missing.name, cause: missing.cause })?;
        let environment = grants.env.iter().map(|(name, value)| (name.clone(), value.clone()));
        Ok(Access {
            environment: environment.chain(secrets.iter().cloned()).collect(),
            secrets,
            variables: settings.config.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            denied: Denied::default(),
            tls,
            subjects,
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        })
    }
}

impl Access {
    /// See [`Denied::tell`].
    pub(super) fn tell_denied(&self, settings: &InstanceSettings, grant: Grant, name: &str, what: &str) {
        self.denied.tell(settings, &self.secrets, grant, name, what);
    }
}

#[cfg(test)]
impl Access {
    /// Nothing granted.
    pub(super) fn of_a_test() -> Access {
        let tls = super::imports::tls_config(None).unwrap();
        Access::open(&InstanceSettings::of_a_test(), tls.into(), Arc::default()).unwrap()
    }
}

fn prepare_folders(grants: &Grants) -> Result<(), LoadError> {
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

/// The WASI side of one instance. `sockets` is there if the component could use it. Folders are opened anew each time, so
/// that one that was removed and made again is found: no guest can do that, as no folder is granted below one that may be
/// written (`config/writable.rs`). The error is the first folder that can't be opened.
pub(super) fn wasi<'g>(
    settings: &'g InstanceSettings,
    access: &Access,
    sockets: Option<&Arc<Sockets>>,
    output: &Output,
) -> Result<WasiCtx, (&'g DirGrant, wasmtime::Error)> {
    let mut wasi = WasiCtx::builder();
    wasi.stdout(output.stream(Stream::Stdout))
        .stderr(output.stream(Stream::Stderr))
        .max_random_size(settings.limits.random_bytes)
        .allow_tcp(sockets.is_some())
        .allow_udp(false)
        .allow_ip_name_lookup(sockets.is_some());
    if let Some(sockets) = sockets {
        let sockets = sockets.clone();
        wasi.socket_addr_check(move |address, usage| {
            let allowed = sockets.allow(address, usage);
            Box::pin(std::future::ready(allowed))
        });
    }
    for (name, value) in &access.environment {
        wasi.env(name, value);
    }
    for dir in &settings.grants.dirs {
        let permissions = if dir.write { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        wasi.preopened_dir(&dir.host, &dir.guest, permissions).map_err(|error| (dir, error))?;
    }
    Ok(wasi.build())
}
