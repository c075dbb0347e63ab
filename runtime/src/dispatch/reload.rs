//! From a changed file to a generation in force: wait until it is whole, hash it, load it in the background, and only then
//! swap. Whatever fails, the generation before stays.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::build::{BuildError, Builder};
use super::fingerprint::{Fingerprint, Tree};
use super::generation::Generations;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::hints::Hints;
use crate::sandbox::{InstanceSettings, Module, ModuleHash, Sandbox};

/// Bad modules that are remembered. More than anybody makes by hand; then it starts anew.
const BAD_MAX: usize = 256;

/// How patient the watching is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// A file that has not changed for so long is taken to be whole.
    pub(super) quiet: Duration,
    /// How often to look without a hint.
    pub(super) rescan: Duration,
    /// When a build is tried again that failed, but not because of its sources; doubled each time,
    pub(super) retry: Duration,
    /// up to this.
    pub(super) retry_max: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            quiet: Duration::from_millis(100),
            rescan: Duration::from_secs(2),
            retry: Duration::from_secs(5),
            retry_max: Duration::from_secs(300),
        }
    }
}

/// Makes a component ready to run: the sandbox, but for tests.
pub(super) trait Loader: Send + 'static {
    /// What is run.
    type Module: Send + Sync + 'static;

    /// Compiles, links, checks and tries. The error is for people.
    fn load(&self, component: Arc<[u8]>) -> impl Future<Output = Result<Self::Module, String>> + Send;
}

/// Makes a component of a package: cargo, but for tests.
pub(super) trait Build: Send + Sync + 'static {
    /// Builds for a consumer.
    fn build(&self, package: &Path, consumer: &str) -> impl Future<Output = Result<Arc<[u8]>, BuildError>> + Send;
}

impl Build for Builder {
    fn build(&self, package: &Path, consumer: &str) -> impl Future<Output = Result<Arc<[u8]>, BuildError>> + Send {
        Builder::build(self, package, consumer)
    }
}

/// The name of a component.
pub(super) fn hash(component: &[u8]) -> ModuleHash {
    ModuleHash(Sha256::digest(component).into())
}

/// Loads with the grants of one consumer.
pub(super) struct SandboxLoader {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) settings: Arc<InstanceSettings>,
}

impl Loader for SandboxLoader {
    type Module = Module;

    async fn load(&self, component: Arc<[u8]>) -> Result<Module, String> {
        self.sandbox.load(component, self.settings.clone()).await.map_err(|error| error.to_string())
    }
}

/// Components that are read and loaded at the same time, of all consumers. More would be no faster, and would have all
/// their files in memory when many consumers start at once.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Turns {
        Turns(Arc::new(Semaphore::new(thread::available_parallelism().map_or(1, usize::from))))
    }
}

/// Where every new version of a consumer comes in.
pub(super) struct Intake<L: Loader> {
    loader: L,
    generations: Generations<L::Module>,
    turns: Turns,
    /// Modules that could not be loaded, and why: they are not compiled again for each `touch`.
    bad: HashMap<ModuleHash, String>,
    /// What was last said to be wrong, so that it is said once.
    refused: Option<(Option<ModuleHash>, String)>,
    /// Whether there was a component where one is looked for.
    found: bool,
}

impl<L: Loader> Intake<L> {
    pub(super) fn new(loader: L, generations: Generations<L::Module>, turns: Turns) -> Intake<L> {
        Intake { loader, generations, turns, bad: HashMap::new(), refused: None, found: false }
    }

    /// Takes the component into use if it is new and good.
    async fn offer(&mut self, component: Arc<[u8]>) {
        self.found = true;
        let hash = hash(&component);
        if self.generations.hash() == Some(hash) {
            // What was refused, on trial or rolled back is not the newest version any more.
            self.refused = None;
            self.generations.accept_current();
            return;
        }
        if self.generations.hash_on_trial() == Some(hash) {
            return;
        }
        if let Some(reason) = self.bad.get(&hash).cloned().or_else(|| self.generations.rolled_back(hash)) {
            return self.refuse(Some(hash), reason);
        }
        match self.loader.load(component).await {
            Ok(module) => {
                self.refused = None;
                self.generations.swap(module, hash);
            }
            Err(reason) => {
                if self.bad.len() >= BAD_MAX {
                    self.bad.clear();
                }
                self.bad.insert(hash, reason.clone());
                self.refuse(Some(hash), reason);
            }
        }
    }

    /// There is no component, for this reason.
    fn refuse(&mut self, hash: Option<ModuleHash>, reason: String) {
        let refused = Some((hash, reason));
        if self.refused != refused {
            let (hash, reason) = refused.as_ref().expect("it was just made");
            self.generations.refuse(*hash, reason);
            self.refused = refused;
        }
    }

    /// No file: until there is a first version that is worth telling; afterwards it is a moment of somebody's `mv`.
    fn absent(&mut self, path: &Path) {
        if !self.found || self.generations.hash().is_none() {
            self.refuse(None, format!("there is no file {}: build it, or correct `component`", path.display()));
        }
    }
}

/// Watches a component that somebody else builds. Never ends.
pub(super) async fn follow_file<L: Loader>(path: PathBuf, mut intake: Intake<L>, mut hints: Hints, timing: Timing) {
    // The folder, not the file: a file that is replaced takes its watch with it.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folders = BTreeSet::from([folder.to_owned()]);
    let mut examined = None;
    loop {
        hints.watch(&folders);
        match read_whole(&path, examined, timing.quiet, &intake.turns).await {
            Ok(Found::Unchanged) => {}
            Ok(Found::Nothing) => {
                examined = None;
                intake.absent(&path);
            }
            Ok(Found::File(fingerprint, component, turn)) => {
                examined = Some(fingerprint);
                intake.offer(component).await;
                drop(turn);
            }
            Err(error) => {
                examined = None;
                intake.refuse(None, format!("can't read {}: {error}", path.display()));
            }
        }
        hints.wait(timing.rescan).await;
    }
}

/// Watches a package, and builds it whenever its sources change, or what had kept it from being built may have passed. Never
/// ends.
pub(super) async fn follow_source<L: Loader, B: Build>(
    package: PathBuf,
    builder: Arc<B>,
    mut intake: Intake<L>,
    mut hints: Hints,
    timing: Timing,
) {
    let mut built: Option<Tree> = None;
    let mut again: Option<Again> = None;
    loop {
        let mut tree = Tree::of(&package);
        hints.watch(tree.folders());
        let changed = built.as_ref() != Some(&tree);
        if changed || again.as_ref().is_some_and(|again| again.remaining().is_zero()) {
            // An editor that saves several files is left in peace until it has done so; the first build need not wait.
            while changed && built.is_some() {
                tokio::time::sleep(timing.quiet).await;
                let now = Tree::of(&package);
                if now == tree {
                    break;
                }
                tree = now;
            }
            let before = again.take().filter(|_| !changed);
            match builder.build(&package, intake.generations.consumer()).await {
                Ok(component) => intake.offer(component).await,
                Err(error) => {
                    again = may_pass(&error).then(|| Again::after(before, &timing));
                    intake.refuse(None, error.to_string());
                }
            }
            // As it was before the build: an edit during the build is a reason for the next one.
            built = Some(tree);
        }
        let again = again.as_ref().map_or(Duration::MAX, Again::remaining);
        hints.wait(timing.rescan.min(again)).await;
    }
}

/// When a build is tried again whose sources have not changed.
struct Again {
    delay: Duration,
    at: Instant,
}

impl Again {
    fn after(before: Option<Again>, timing: &Timing) -> Again {
        let delay = before.map_or(timing.retry, |before| timing.retry_max.min(before.delay * 2));
        Again { delay, at: Instant::now() + delay }
    }

    fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// Whether a build may do better with the same sources: a tool that is installed by then, a network that is back.
fn may_pass(error: &BuildError) -> bool {
    match error {
        BuildError::Tool { .. } | BuildError::Target(_) | BuildError::NotBuilt { .. } | BuildError::Read { .. } => true,
        BuildError::NoPackage(_)
        | BuildError::Failed { .. }
        | BuildError::NoComponent(_)
        | BuildError::Several { .. } => false,
    }
}

enum Found {
    Nothing,
    /// It is what it was.
    Unchanged,
    /// It is held in memory until its turn is over.
    File(Fingerprint, Arc<[u8]>, OwnedSemaphorePermit),
}

/// Reads a file once nothing has changed about it for a while, neither before nor during the reading.
async fn read_whole(path: &Path, examined: Option<Fingerprint>, quiet: Duration, turns: &Turns) -> io::Result<Found> {
    let Some(mut before) = Fingerprint::of(path)? else { return Ok(Found::Nothing) };
    if examined == Some(before) {
        return Ok(Found::Unchanged);
    }
    loop {
        tokio::time::sleep(quiet).await;
        let Some(now) = Fingerprint::of(path)? else { return Ok(Found::Nothing) };
        if now == before {
            let turn = turns.0.clone().acquire_owned().await.map_err(io::Error::other)?;
            let component = tokio::fs::read(path).await?;
            if Fingerprint::of(path)? == Some(now) {
                return Ok(Found::File(now, component.into(), turn));
            }
        }
        before = now;
    }
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;
