//! Fuzz targets: one for each decoder of bytes from disk, and one for opening a folder. No input may make them panic, hang,
//! or allocate without bound.
//!
//! Inputs are the committed corpus (a folder for each target in `tests/corpus`, and the files of `tests/format-1`), mutated
//! always in the same way. What stands after a `~` in the name of an input says what is in it. A
//! mutated file is also tried with its checksums mended: otherwise hardly anything would come past them. They run for a
//! fixed count among the other tests; `cargo test --release -p linecook-store fuzz -- --ignored` goes on for a long time.

mod allocations;
mod mend;
mod mutate;
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use self::mutate::Mutator;
use self::targets::{TARGETS, Target};

/// Enough to come to every branch, in a second or two for each target.
const RUNS: u64 = 20_000;

/// For whoever has an evening.
const RUNS_LONG: u64 = 2_000_000;

pub(crate) fn corpus_folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target)
}

fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let own = inputs(target, &corpus_folder(target.name));
    assert!(!own.is_empty(), "{} has no corpus of its own", target.name);
    let format = inputs(target, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format-1"));
    own.into_iter().chain(format).collect()
}

/// The files of a folder that are for a target, with the names that they had in a data folder.
fn inputs(target: &Target, folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()?.split('~').next()).unwrap();
        if (target.takes)(name) {
            inputs.push((name.to_owned(), fs::read(&path).unwrap()));
        }
    }
    inputs.sort();
    inputs
}

fn run(target: &Target, runs: u64) {
    let corpus = corpus(target);
    for (name, input) in &corpus {
        assert!((target.run)(name, input), "{}: {name} is not decoded as it is", target.name);
    }
    let mut decoded = 0;
    for seed in 0..runs {
        let mut mutator = Mutator::new(seed);
        let (name, input) = &corpus[mutator.below(corpus.len())];
        let mut input = input.clone();
        mutator.mutate(&mut input, &corpus);
        if seed % 4 != 0 {
            (target.mend)(name, &mut input);
        }
        let before = allocations::total();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(name, &input)));
        let allocated = allocations::total() - before;
        match outcome {
            Ok(whole) => decoded += u64::from(whole),
            Err(panic) => {
                eprintln!("{} panics: seed {seed}, from {name}", target.name);
                resume_unwind(panic);
            }
        }
        let most = target.bytes_max + 64 * input.len() as u64;
        assert!(allocated <= most, "{} allocates {allocated} bytes: seed {seed}, from {name}", target.name);
    }
    // A target that refuses everything at once tests nothing.
    assert!(decoded * 50 > runs, "{}: only {decoded} of {runs} inputs were decoded", target.name);
}

#[test]
fn no_decoder_panics_or_allocates_without_bound() {
    TARGETS.iter().for_each(|target| run(target, RUNS / target.cost));
}

#[test]
#[ignore = "takes hours"]
fn fuzz_for_long() {
    TARGETS.iter().for_each(|target| run(target, RUNS_LONG / target.cost));
}
