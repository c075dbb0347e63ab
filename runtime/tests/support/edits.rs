//! Edits of the `queue.toml` of a runtime that runs.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::runtime::{Site, eventually, when};

/// The text with these tables, and `[runtime]` as the site has it.
pub fn text(site: &Site, tables: &str) -> String {
    let now = fs::read_to_string(site.path("queue.toml")).unwrap();
    let (runtime, _) = now.split_once("\n\n").expect("tables stand below [runtime]");
    format!("{runtime}\n\n{tables}\n")
}

/// Puts a text in the place of the file, as an editor does.
pub fn replace(site: &Site, text: &str) {
    fs::write(site.path("queue.new"), text).unwrap();
    fs::rename(site.path("queue.new"), site.path("queue.toml")).unwrap();
}

/// What `GET /consumers` says about the file.
#[track_caller]
pub fn config(site: &Site) -> Value {
    site.get("/consumers")["config"].take()
}

/// Waits until this text is in force.
#[track_caller]
pub fn wait_in_force(site: &Site, text: &str) {
    let hash: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    eventually("the edit in force", || {
        let now = config(site);
        when(now["hash"] == hash.as_str() && now["last_error"].is_null(), &now)
    });
}

/// Waits until the file is refused for a reason that has these parts.
#[track_caller]
pub fn wait_refused(site: &Site, parts: &[&str]) -> Value {
    eventually("the edit refused", || {
        let now = config(site);
        let error = now["last_error"].as_str().unwrap_or_default();
        when(parts.iter().all(|part| error.contains(part)), &now)?;
        Ok(now)
    })
}

/// Replaces the tables, and waits until they are in force.
#[track_caller]
pub fn edit(site: &Site, tables: &str) {
    let text = text(site, tables);
    replace(site, &text);
    wait_in_force(site, &text);
}
