//! Real files and a loader that takes everything that begins with "good".

use std::collections::VecDeque;
use std::fs;
use std::sync::Mutex;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::dispatch::build::BuildError;
use crate::dispatch::generation::InForce;
use crate::status::{Board, ConsumerState, ConsumerStatus};

const DEADLINE: Duration = Duration::from_secs(20);
const TIMING: Timing = Timing {
    quiet: Duration::from_millis(20),
    rescan: Duration::from_millis(20),
    retry: Duration::from_millis(100),
    retry_max: Duration::from_millis(300),
};

#[derive(Clone, Default)]
struct Texts {
    loaded: Arc<Mutex<Vec<String>>>,
}

impl Loader for Texts {
    type Module = String;

    async fn load(&self, component: Arc<[u8]>) -> Result<String, String> {
        let text = String::from_utf8(component.to_vec()).unwrap();
        self.loaded.lock().unwrap().push(text.clone());
        tokio::task::yield_now().await;
        if text.starts_with("good") { Ok(text) } else { Err(format!("{text} is not good")) }
    }
}

struct Bench {
    folder: TempDir,
    path: PathBuf,
    texts: Texts,
    board: Arc<Board>,
    in_force: InForce<String>,
    task: JoinHandle<()>,
}

impl Bench {
    /// Follows a file that holds `first`, if anything.
    fn new(first: Option<&str>, timing: Timing) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("build/it.wasm");
        fs::create_dir(folder.path().join("build")).unwrap();
        if let Some(first) = first {
            fs::write(&path, first).unwrap();
        }
        let (texts, board) = (Texts::default(), Arc::new(Board::default()));
        let generations = Generations::new("welcome", "signups", board.clone(), None);
        let in_force = generations.subscribe();
        let intake = Intake::new(texts.clone(), generations, Turns::default());
        let task = tokio::spawn(follow_file(path.clone(), intake, Hints::new(), timing));
        Bench { folder, path, texts, board, in_force, task }
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    fn rename(&self, text: &str) {
        let beside = self.folder.path().join("beside");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, &self.path).unwrap();
    }

    fn status(&self) -> ConsumerStatus {
        self.board.all().remove(0)
    }

    fn module(&self) -> Option<String> {
        self.in_force.borrow().as_ref().map(|serving| serving.in_force.module.clone())
    }

    fn loaded(&self) -> Vec<String> {
        self.texts.loaded.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Bench) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < DEADLINE, "{what} does not come true: {:?}", self.status());
            assert!(!self.task.is_finished());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn until_module(&self, text: &str) {
        self.until(text, |bench| bench.module().as_deref() == Some(text)).await;
    }

    /// Long enough that it would have happened.
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_new_file_is_a_new_generation_and_a_bad_one_changes_nothing() {
    let bench = Bench::new(Some("good 1"), TIMING);
    bench.until_module("good 1").await;
    bench.write("good 2");
    bench.until_module("good 2").await;
    bench.write("bad");
    bench.until("the error", |bench| bench.status().reload_error.is_some()).await;
    let status = bench.status();
    assert_eq!((bench.module().as_deref(), status.generation), (Some("good 2"), 2));
    assert_eq!((status.state, status.reload_error.as_deref()), (ConsumerState::Running, Some("bad is not good")));
    bench.rename("good 3");
    bench.until_module("good 3").await;
    assert_eq!((bench.status().generation, bench.status().reload_error), (3, None));
}

#[tokio::test]
async fn the_same_bytes_are_nothing_new() {
    let bench = Bench::new(Some("good 1"), TIMING);
    bench.until_module("good 1").await;
    bench.write("good 1");
    bench.rename("good 1");
    bench.rest().await;
    assert_eq!((bench.loaded(), bench.status().generation), (vec!["good 1".to_owned()], 1));
}

#[tokio::test]
async fn going_back_to_what_is_in_force_clears_the_error_and_loads_nothing() {
    let bench = Bench::new(Some("good 1"), TIMING);
    bench.until_module("good 1").await;
    for _ in 0..2 {
        bench.rename("bad");
        bench.until("the error", |bench| bench.status().reload_error.is_some()).await;
        bench.rename("good 1");
        bench.until("no error", |bench| bench.status().reload_error.is_none()).await;
    }
    // The bad one was remembered.
    assert_eq!((bench.loaded(), bench.status().generation), (vec!["good 1".to_owned(), "bad".to_owned()], 1));
}

#[tokio::test]
async fn a_file_that_is_still_written_is_left_alone() {
    let timing = Timing { quiet: Duration::from_millis(300), ..TIMING };
    let bench = Bench::new(Some("good 1"), timing);
    bench.until_module("good 1").await;
    let mut text = String::from("half");
    for piece in 0..40 {
        bench.write(&text);
        tokio::time::sleep(Duration::from_millis(10)).await;
        text.push_str(&piece.to_string());
    }
    bench.write("good 2");
    bench.until_module("good 2").await;
    // On a busy machine a pause of the writer may pass for its end; then the half file was refused, and that was all.
    let tried = bench.loaded();
    assert!(tried.len() <= 4, "{tried:?}");
}

#[tokio::test]
async fn a_first_file_that_is_missing_or_bad_is_waited_for() {
    let bench = Bench::new(None, TIMING);
    bench.until("the failure", |bench| bench.status().state == ConsumerState::Failed).await;
    let error = bench.status().reload_error.unwrap();
    assert!(error.contains("it.wasm"), "{error}");
    bench.write("bad");
    bench.until("the error", |bench| bench.status().reload_error.as_deref() == Some("bad is not good")).await;
    assert_eq!(bench.status().state, ConsumerState::Failed);
    bench.write("good 1");
    bench.until_module("good 1").await;
    assert_eq!((bench.status().state, bench.status().reload_error), (ConsumerState::Running, None));
}

#[tokio::test]
async fn a_folder_that_is_deleted_and_made_again_is_no_end() {
    let bench = Bench::new(Some("good 1"), TIMING);
    bench.until_module("good 1").await;
    fs::remove_dir_all(bench.path.parent().unwrap()).unwrap();
    bench.rest().await;
    assert_eq!((bench.module().as_deref(), bench.status().reload_error), (Some("good 1"), None));
    fs::create_dir(bench.path.parent().unwrap()).unwrap();
    bench.write("good 2");
    bench.until_module("good 2").await;
}

#[tokio::test]
async fn events_are_enough_between_two_rescans() {
    let timing = Timing { rescan: Duration::from_secs(3600), ..TIMING };
    let bench = Bench::new(Some("good 1"), timing);
    bench.until_module("good 1").await;
    // The watch was set before the file was read, so nothing from now on is missed.
    bench.write("good 2");
    bench.until_module("good 2").await;
    bench.rename("good 3");
    bench.until_module("good 3").await;
}

/// Gives these results one after another, and then the last text for ever. Remembers when it was asked.
struct Results {
    results: Mutex<VecDeque<Result<&'static str, BuildError>>>,
    asked: Mutex<Vec<Instant>>,
}

impl Build for Results {
    async fn build(&self, _package: &Path, _consumer: &str) -> Result<Arc<[u8]>, BuildError> {
        self.asked.lock().unwrap().push(Instant::now());
        let result = self.results.lock().unwrap().pop_front();
        Ok(result.unwrap_or(Ok("good, and asked for too often"))?.as_bytes().into())
    }
}

fn no_network() -> BuildError {
    BuildError::NotBuilt { package: "package".into(), output: "no network".to_owned() }
}

fn no_target() -> BuildError {
    BuildError::Target("no network for rustup".to_owned())
}

fn no_tool() -> BuildError {
    BuildError::Tool { tool: "rustup", error: io::Error::from(io::ErrorKind::NotFound) }
}

fn unreadable() -> BuildError {
    BuildError::Read { path: "it.wasm".into(), error: io::Error::from(io::ErrorKind::NotFound) }
}

fn wrong() -> BuildError {
    BuildError::Failed { package: "package".into(), output: "error: expected `;`".to_owned() }
}

#[tokio::test]
async fn a_build_that_failed_for_no_fault_of_its_sources_is_tried_again_less_and_less_often() {
    let package = tempfile::tempdir().unwrap();
    let source = package.path().join("lib.rs");
    fs::write(&source, "1").unwrap();
    let failures = [no_network(), no_tool(), unreadable(), no_target()].map(Err);
    let then = [Ok("good 1"), Err(wrong()), Err(no_tool()), Ok("good 2")];
    let builder =
        Arc::new(Results { results: Mutex::new(failures.into_iter().chain(then).collect()), asked: Mutex::default() });
    let board = Arc::new(Board::default());
    let generations = Generations::new("welcome", "signups", board.clone(), None);
    let in_force = generations.subscribe();
    let intake = Intake::new(Texts::default(), generations, Turns::default());
    let following = follow_source(package.path().to_owned(), builder.clone(), intake, Hints::new(), TIMING);
    let task = tokio::spawn(following);
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < DEADLINE && !task.is_finished(), "{what} does not come true: {:?}", board.all());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let module = || in_force.borrow().as_ref().map(|serving| serving.in_force.module.clone());
    let asked = || builder.asked.lock().unwrap().clone();
    let error = || board.all().remove(0).reload_error.unwrap_or_default();

    until("the first failure", &|| error().contains("no network")).await;
    until("a build", &|| module().as_deref() == Some("good 1")).await;
    let waited: Vec<_> = asked().windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(waited.len(), 4);
    for (waited, at_least) in waited.iter().zip([100, 200, 300, 300].map(Duration::from_millis)) {
        assert!(*waited >= at_least, "{waited:?} is less than {at_least:?}");
    }
    assert_eq!(error(), "");

    // What the sources are to blame for waits for them to change, which also begins the waiting anew.
    tokio::time::sleep(2 * TIMING.retry_max).await;
    assert_eq!(asked().len(), 5);
    fs::write(&source, "22").unwrap();
    until("the compiler's error", &|| error().contains("expected `;`")).await;
    tokio::time::sleep(2 * TIMING.retry_max).await;
    assert_eq!((asked().len(), module().as_deref()), (6, Some("good 1")));
    fs::write(&source, "333").unwrap();
    until("the next build", &|| module().as_deref() == Some("good 2")).await;
    let asked = asked();
    assert_eq!(asked.len(), 8);
    assert!(asked[7] - asked[6] >= TIMING.retry);
    task.abort();
}
