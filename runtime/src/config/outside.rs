//! What a `queue.toml` names outside itself: Cargo packages, component files, folders, certificates, secrets. Checked by
//! `linecook check`, and not when the file is loaded: `linecook send` needs none of it. `linecook run` needs the secrets, and
//! folders that guests may write without harm (`writable`).

use std::env::{self, VarError};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::errors::ConfigError;
use super::producers::ProducerKind;
use super::read::Document;
use super::reader::{Errors, name};
use super::{DirGrant, Source, writable};

/// Checks that everything named is there.
pub(super) fn check(document: &Document, file: &Path, errors: &Errors) {
    for consumer in &document.consumers {
        if let Some(source) = &consumer.source {
            let error = match &source.value {
                Source::Package(folder) => package(folder, &source.span),
                Source::Component(file) => component(file, &source.span),
            };
            if let Some(error) = error {
                errors.push(error);
            }
        }
        for (grant, span) in consumer.grants.dirs.iter().zip(&consumer.grant_spans.dirs) {
            if let Some(error) = host_folder(grant, span) {
                errors.push(error);
            }
        }
    }
    if let (Some(file), Some(span)) = (&document.runtime.ca_file, &document.ca_file_span)
        && let Err(error) = fs::File::open(file)
    {
        let error = ConfigError::at(span.clone(), format!("can't read {}: {error}", file.display()));
        errors.push(error.hint("name a file of certificates in PEM, relative to this file"));
    }
    for producer in &document.producers {
        if let (Some(ProducerKind::Watch(watch)), Some(span)) = (&producer.kind, &producer.spans.folder)
            && !watch.folder.is_dir()
        {
            let error = ConfigError::at(span.clone(), format!("there is no folder {}", watch.folder.display()));
            errors.push(error.hint("make it, or correct the path, which is relative to this file"));
        }
    }
    check_to_run(document, file, &[], errors);
}

/// Checks what must be so before anything runs. `in_force` are the folders that guests may write now, if some run.
pub(super) fn check_to_run(document: &Document, file: &Path, in_force: &[PathBuf], errors: &Errors) {
    check_environment(document, errors);
    writable::check(document, file, in_force, errors);
}

/// Checks that the secrets are in the environment of this process. Their values are not kept.
fn check_environment(document: &Document, errors: &Errors) {
    let consumers = document.consumers.iter();
    let granted = consumers.flat_map(|consumer| consumer.grants.secrets.iter().zip(&consumer.grant_spans.secrets));
    let of_webhooks = document.producers.iter().flat_map(|producer| {
        let secrets = match &producer.kind {
            Some(ProducerKind::Webhook(webhook)) => webhook.signature.secret_env(),
            _ => &[],
        };
        secrets.iter().zip(&producer.spans.secret_env)
    });
    for (secret, span) in granted.chain(of_webhooks) {
        let problem = match env::var(secret) {
            Ok(_) => continue,
            Err(VarError::NotPresent) => "is not set in the environment",
            Err(VarError::NotUnicode(_)) => "is not UTF-8 in the environment",
        };
        let error = ConfigError::at(span.clone(), format!("the secret {} {problem}", name(secret)));
        errors.push(error.hint("set it before `linecook run` is started: secrets are not written into this file"));
    }
}

fn package(folder: &Path, span: &Range<usize>) -> Option<ConfigError> {
    let refuse = |message: String, hint: &str| Some(ConfigError::at(span.clone(), message).hint(hint));
    if !folder.is_dir() {
        let message = format!("there is no folder {}", folder.display());
        return refuse(message, "name the folder of a Cargo package, relative to this file");
    }
    let manifest = folder.join("Cargo.toml");
    let text = match fs::read_to_string(&manifest) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("can't read {}: {error}", manifest.display());
            return refuse(message, "name the folder of a Cargo package, relative to this file");
        }
    };
    match toml::de::DeTable::parse(&text) {
        Err(error) => refuse(
            format!("{} is not valid TOML: {}", manifest.display(), error.message()),
            "`cargo check` in that folder says more",
        ),
        Ok(table) if !table.get_ref().contains_key("package") => refuse(
            format!("{} has no [package]", manifest.display()),
            "name the folder of one package, not of a workspace",
        ),
        Ok(_) => None,
    }
}

fn component(file: &Path, span: &Range<usize>) -> Option<ConfigError> {
    if file.is_file() {
        return None;
    }
    let error = ConfigError::at(span.clone(), format!("there is no file {}", file.display()));
    Some(error.hint("build it first, or use `source` so that `linecook run` builds it"))
}

/// A folder that is granted for writing is made when the runtime starts; one that is only read must have something.
fn host_folder(grant: &DirGrant, span: &Range<usize>) -> Option<ConfigError> {
    let shown = grant.host.display();
    match fs::metadata(&grant.host) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some(ConfigError::at(span.clone(), format!("{shown} is not a folder")).hint("grant its folder")),
        Err(_) if grant.write => None,
        Err(error) => {
            let error = ConfigError::at(span.clone(), format!("can't find folder {shown}: {error}"));
            Some(error.hint("make it, or correct the path, which is relative to this file"))
        }
    }
}
