//! The `linecook` binary: arguments → command → exit code.

use std::process::ExitCode;

use clap::Parser;
use linecook::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => failed.report(),
    }
}
