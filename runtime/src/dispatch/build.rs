//! Builds the packages of `source` consumers with cargo, into components.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::Mutex;

/// What guests are compiled for.
const TARGET: &str = "wasm32-wasip2";
/// What is kept of a failed build's output: its beginning, because the first error is the one to read.
const OUTPUT_BYTES_MAX: usize = 16 << 10;
/// Builds must not slow down the committer and the network.
const NICE: i32 = 10;

/// Builds one package after another: cargo uses all cores by itself, and packages of one workspace share a folder.
#[derive(Debug, Default)]
pub(super) struct Builder {
    // Held for as long as a build takes, which is why it is an async one.
    turn: Mutex<()>,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    /// There is nothing to build.
    #[error("{} is no Cargo package: it has no Cargo.toml; create it, or correct `source`", .0.display())]
    NoPackage(PathBuf),
    /// A tool is not there, or can't be started.
    #[error("can't run {tool}: {error}; install Rust with rustup, https://rustup.rs")]
    Tool { tool: &'static str, error: io::Error },
    /// The WASI target is missing and could not be added.
    #[error("the target {TARGET} is missing, and `rustup target add {TARGET}` failed: {0}")]
    Target(String),
    /// The compiler said no.
    #[error("cargo build failed in {}:\n{output}", package.display())]
    Failed { package: PathBuf, output: String },
    /// Cargo did not get as far as to say how the build ended: what it needs could not be downloaded, or it was killed.
    #[error("cargo did not come to build the package in {}:\n{output}", package.display())]
    NotBuilt { package: PathBuf, output: String },
    /// It built no component.
    #[error(
        "the package in {} builds no component: its Cargo.toml needs `[lib]` with `crate-type = [\"cdylib\"]`",
        .0.display()
    )]
    NoComponent(PathBuf),
    /// It built more than one.
    #[error("the package in {} builds more than one component: {files}; it must build exactly one", package.display())]
    Several { package: PathBuf, files: String },
    /// What was built can't be read.
    #[error("can't read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
}

impl Builder {
    /// Builds the package in the folder and reads the component. Cargo's progress goes to the log. A dropped future stops
    /// cargo.
    pub(super) async fn build(&self, package: &Path, consumer: &str) -> Result<Arc<[u8]>, BuildError> {
        if !package.join("Cargo.toml").is_file() {
            return Err(BuildError::NoPackage(package.to_owned()));
        }
        let _turn = self.turn.lock().await;
        add_target(package).await?;
        tracing::info!(consumer, package = %package.display(), "building");
        let mut child = command("cargo", package)
            .args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| BuildError::Tool { tool: "cargo", error })?;
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            // Not being nice is no reason not to build.
            _ = rustix::process::setpriority_process(Some(pid), NICE);
        }
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (messages, output, status) = tokio::join!(read_all(stdout), forward(stderr, consumer), child.wait());
        let status = status.map_err(|error| BuildError::Tool { tool: "cargo", error })?;
        if !status.success() {
            return Err(failed(package, status, &messages, output));
        }
        // Read before the next build may write it.
        let path = component(&messages, package)?;
        let component = tokio::fs::read(&path).await.map_err(|error| BuildError::Read { path, error })?;
        Ok(component.into())
    }
}

/// Why cargo did not succeed. What it said is for people: its messages tell whether the packages were there to be built.
fn failed(package: &Path, status: ExitStatus, messages: &[u8], output: String) -> BuildError {
    let package = package.to_owned();
    let output = if output.is_empty() { status.to_string() } else { output };
    let finished = all_messages(messages).any(|message| message.reason == "build-finished");
    if finished && status.code().is_some() {
        BuildError::Failed { package, output }
    } else {
        BuildError::NotBuilt { package, output }
    }
}

/// Adds the WASI target with rustup if the toolchain that builds this package lacks it.
async fn add_target(package: &Path) -> Result<(), BuildError> {
    let output = command("rustc", package)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .await
        .map_err(|error| BuildError::Tool { tool: "rustc", error })?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && Path::new(&folder).is_dir() {
        return Ok(());
    }
    tracing::info!("the target {TARGET} is missing: rustup target add {TARGET}");
    let added = command("rustup", package).args(["target", "add", TARGET]).output().await;
    match added {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(BuildError::Target(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(error) => Err(BuildError::Tool { tool: "rustup", error }),
    }
}

/// A tool of the toolchain that the package's folder asks for.
fn command(tool: &'static str, package: &Path) -> Command {
    let mut command = Command::new(tool);
    command.current_dir(package).stdin(Stdio::null()).kill_on_drop(true);
    for name in disturbing(std::env::vars_os().map(|(name, _)| name)) {
        command.env_remove(name);
    }
    command
}

/// Variables that are meant for the build of something else: of the host's code, or of the cargo that started us
/// (`cargo run`), whose toolchain need not be the package's.
fn disturbing(names: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const ALWAYS: &[&str] = &["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"];
    const OF_CARGO: &[&str] = &[
        "CARGO",
        "CARGO_CRATE_NAME",
        "CARGO_MAKEFLAGS",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "MFLAGS",
        "OUT_DIR",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
    ];
    const OF_CARGO_PREFIXES: &[&str] = &["CARGO_BIN_", "CARGO_CFG_", "CARGO_MANIFEST_", "CARGO_PKG_"];
    let names: Vec<_> = names.collect();
    // Whoever sets RUSTUP_TOOLCHAIN by hand means it.
    let in_cargo = names.iter().any(|name| name == "CARGO");
    let disturbs = |name: &OsString| {
        let Some(name) = name.to_str() else { return false };
        let of_cargo = OF_CARGO.contains(&name) || OF_CARGO_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        ALWAYS.contains(&name) || in_cargo && of_cargo
    };
    names.into_iter().filter(disturbs).collect()
}

async fn read_all(stdout: Option<impl AsyncReadExt + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stdout) = stdout {
        // A pipe that breaks is a cargo that died: its exit status tells.
        _ = stdout.read_to_end(&mut bytes).await;
    }
    bytes
}

/// Cargo's progress goes to the log as it comes; what the compiler says is returned.
async fn forward(stderr: Option<impl AsyncReadExt + Unpin>, consumer: &str) -> String {
    let mut said = String::new();
    let Some(stderr) = stderr else { return said };
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        if is_progress(&line) {
            tracing::info!(consumer, "{}", line.trim());
        } else if said.len() + line.len() < OUTPUT_BYTES_MAX {
            said.push_str(line.trim_end());
            said.push('\n');
        }
    }
    said.truncate(said.trim_end().len());
    said
}

/// Whether it is one of cargo's right-aligned status lines, "   Compiling serde v1.0.0".
fn is_progress(line: &str) -> bool {
    let text = line.trim_start();
    let indent = line.len() - text.len();
    let verb = text.split(' ').next().unwrap_or_default();
    indent > 0
        && indent + verb.len() == 12
        && verb.starts_with(|first: char| first.is_ascii_uppercase())
        && verb.bytes().skip(1).all(|byte| byte.is_ascii_lowercase())
}

/// One of the messages that cargo writes to stdout, as far as it matters here.
#[derive(Deserialize)]
struct CargoMessage {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Build scripts of other tools may write to stdout as well: what is no message is none of ours.
fn all_messages(stdout: &[u8]) -> impl Iterator<Item = CargoMessage> {
    stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// The one component that the package itself built.
fn component(messages: &[u8], package: &Path) -> Result<PathBuf, BuildError> {
    let manifest = package.join("Cargo.toml");
    let manifest = manifest.canonicalize().unwrap_or(manifest);
    let mut files: Vec<PathBuf> = all_messages(messages)
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| message.manifest_path.canonicalize().unwrap_or(message.manifest_path.clone()) == manifest)
        .flat_map(|message| message.filenames)
        .filter(|file| file.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    files.sort();
    files.dedup();
    match files.len() {
        0 => Err(BuildError::NoComponent(package.to_owned())),
        1 => Ok(files.remove(0)),
        _ => {
            let files = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
            Err(BuildError::Several { package: package.to_owned(), files })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn artifact(manifest: &str, files: &[&str]) -> String {
        serde_json::json!({
            "reason": "compiler-artifact", "manifest_path": manifest, "target": {"kind": ["cdylib"]}, "filenames": files,
        })
        .to_string()
    }

    #[test]
    fn the_component_is_the_packages_own_wasm_file() {
        let messages = [
            artifact("/dep/Cargo.toml", &["/t/libdep.rlib"]),
            "not JSON".to_owned(),
            artifact("/mine/Cargo.toml", &["/t/mine.wasm", "/t/mine.d"]),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ]
        .join("\n");
        assert_eq!(component(messages.as_bytes(), Path::new("/mine")).unwrap(), Path::new("/t/mine.wasm"));
        let error = component(messages.as_bytes(), Path::new("/dep")).unwrap_err();
        assert!(error.to_string().contains("cdylib"), "{error}");
        let two = artifact("/mine/Cargo.toml", &["/t/a.wasm", "/t/b.wasm"]);
        assert!(matches!(component(two.as_bytes(), Path::new("/mine")), Err(BuildError::Several { .. })));
    }

    #[test]
    fn a_build_that_was_not_begun_or_was_killed_is_no_fault_of_the_code() {
        let (failure, killed) = (ExitStatus::from_raw(101 << 8), ExitStatus::from_raw(9));
        let [begun, finished] =
            ["compiler-artifact", "build-finished"].map(|reason| format!("{{\"reason\":{reason:?}}}\n"));
        let all = format!("{begun}not JSON\n{finished}");
        let error =
            |status, messages: &str, said: &str| failed("p".as_ref(), status, messages.as_bytes(), said.to_owned());
        assert!(matches!(error(failure, &all, "no `;`"), BuildError::Failed { output, .. } if output == "no `;`"));
        assert!(
            matches!(error(failure, "", "no network"), BuildError::NotBuilt { output, .. } if output == "no network")
        );
        assert!(
            matches!(error(killed, &begun, ""), BuildError::NotBuilt { output, .. } if output.contains("signal: 9"))
        );
    }

    #[tokio::test]
    async fn a_package_whose_dependencies_are_not_to_be_had_was_not_built() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = "[package]\nname = \"p\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n[dependencies]\n\
                        other = { git = \"file:///not/there\" }\n[workspace]\n";
        std::fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
        std::fs::write(folder.path().join("lib.rs"), "").unwrap();
        let error = Builder::default().build(folder.path(), "welcome").await.unwrap_err();
        assert!(matches!(error, BuildError::NotBuilt { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_folder_without_a_package_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Builder::default().build(folder.path(), "welcome").await.unwrap_err().to_string();
        assert!(error.contains("no Cargo.toml") && error.contains(folder.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn an_outer_cargo_does_not_reach_into_the_build() {
        let names = |names: &[&str]| disturbing(names.iter().map(OsString::from));
        assert_eq!(names(&["PATH", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO_HOME"]), ["RUSTFLAGS"]);
        assert_eq!(
            names(&["CARGO", "CARGO_HOME", "CARGO_PKG_NAME", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR", "HOME"]),
            ["CARGO", "CARGO_PKG_NAME", "RUSTUP_TOOLCHAIN"]
        );
    }

    #[test]
    fn progress_is_told_from_what_the_compiler_says() {
        for line in ["   Compiling serde v1.0.0", "    Finished `release`", "    Updating crates.io index"] {
            assert!(is_progress(line), "{line}");
        }
        for line in ["error: it is wrong", "  --> src/lib.rs:1:1", "   |", "12 |  Let x", "", "     Some text"] {
            assert!(!is_progress(line), "{line}");
        }
    }
}
