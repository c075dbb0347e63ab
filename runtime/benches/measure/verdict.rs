//! What was required and missed, and the exit code that says so.

use std::fmt::Display;
use std::process::ExitCode;

use super::Error;

/// Requirements, as they are checked.
#[derive(Default)]
pub(crate) struct Verdict {
    missed: Vec<String>,
}

impl Verdict {
    /// `what` is required.
    pub(crate) fn require(&mut self, is_met: bool, what: impl Into<String>) {
        if !is_met {
            self.missed.push(what.into());
        }
    }

    /// Prints what was missed. Answers whether nothing was.
    pub(crate) fn print(&self) -> bool {
        println!();
        self.missed.iter().for_each(|what| println!("MISSED  {what}"));
        if self.missed.is_empty() {
            println!("Every requirement is met.");
        }
        self.missed.is_empty()
    }
}

/// 0 if all is met, 1 if something is missed or failed, 2 for wrong arguments. `settings`: what the arguments say.
pub(crate) fn exit_code<S>(settings: Result<S, impl Display>, run: impl FnOnce(S) -> Result<bool, Error>) -> ExitCode {
    let settings = match settings {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    match run(settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The one number that a benchmark takes.
pub(crate) fn number(argument: &str, default: u64) -> Result<u64, String> {
    parse_number(std::env::args().skip(1), argument, default)
}

fn parse_number(mut arguments: impl Iterator<Item = String>, name: &str, default: u64) -> Result<u64, String> {
    let mut number = default;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo passes it to every benchmark.
            "--bench" => {}
            known if known == name => {
                let text = arguments.next().unwrap_or_default();
                number = text.parse().map_err(|_| format!("{name} takes a number, not {text:?}"))?;
            }
            other => return Err(format!("unknown argument {other:?}: only {name} is known")),
        }
    }
    Ok(number)
}
