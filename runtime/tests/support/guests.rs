//! The components of `tests/guests`, built when a test first asks for one.
//!
//! Cargo itself keeps several test processes apart: it locks the target folder, and all but the first find
//! everything built.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// What the guests of this test program are compiled for: `tests/wasip1.rs` runs the same tests with the other target.
const TARGET: &str = if WASIP1 { "wasm32-wasip1" } else { "wasm32-wasip2" };

/// Whether they are core modules, with the adapter between them and the host.
pub(crate) const WASIP1: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"wasip1");

/// The path of a component, or of the core module that it is for wasip1: `noop`, `behave`, `audit` or `bulk`.
///
/// # Panics
///
/// If the guests can't be built (with cargo's output), or there is none of this name.
#[track_caller]
pub(crate) fn component(name: &str) -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| build(TARGET));
    within(&BUILT, name)
}

/// The path of a guest that is a core module for wasip1, whatever the guests of this test program are.
///
/// # Panics
///
/// As [`component`].
#[track_caller]
pub(crate) fn core_module(name: &str) -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| build("wasm32-wasip1"));
    within(&BUILT, name)
}

/// The path of a guest for the target that the guests of this test program are not for.
///
/// # Panics
///
/// As [`component`].
#[track_caller]
pub(crate) fn for_the_other_target(name: &str) -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| build(if WASIP1 { "wasm32-wasip2" } else { "wasm32-wasip1" }));
    within(&BUILT, name)
}

#[track_caller]
fn within(built: &Path, name: &str) -> PathBuf {
    let path = built.join(format!("{}.wasm", name.replace('-', "_")));
    assert!(path.is_file(), "tests/guests has no package `{name}`: {} does not exist", path.display());
    path
}

/// A component with one more custom section: it behaves the same and has another hash, like a rebuilt one.
pub(crate) fn with_custom_section(component: &[u8], name: &str, data: &[u8]) -> Vec<u8> {
    let mut content = leb128(name.len());
    content.extend_from_slice(name.as_bytes());
    content.extend_from_slice(data);
    let mut changed = component.to_vec();
    changed.push(0); // the id of custom sections, in components as in modules
    changed.extend(leb128(content.len()));
    changed.extend(content);
    changed
}

/// A length as WebAssembly writes it: seven bits a byte, the lowest first, the high bit set in all but the last.
fn leb128(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn build(compiled_for: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let target = workspace.join("target");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--locked", "--target", compiled_for, "--target-dir"])
        .arg(&target)
        .current_dir(&workspace);
    // What the outer cargo says about its own build (flags, wrappers, folders, packages) is not for this one.
    for (name, _) in std::env::vars_os() {
        let told = name.to_str().is_some_and(|name| {
            (name.starts_with("CARGO_") && name != "CARGO_HOME") || name.starts_with("RUSTC") || name == "RUSTFLAGS"
        });
        if told {
            cargo.env_remove(&name);
        }
    }
    let output = cargo.output().unwrap_or_else(|error| panic!("can't start cargo to build the test guests: {error}"));
    assert!(
        output.status.success(),
        "the test guests can't be built ({}):\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    target.join(compiled_for).join("release")
}
