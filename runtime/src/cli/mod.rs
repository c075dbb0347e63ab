//! The command line. One file a command, and every command has the same shape:
//!
//! ```ignore
//! /// The command's one-line help.
//! #[derive(Debug, clap::Args)]
//! pub struct Args { /* flags and values, each with a doc comment: it is the help text */ }
//!
//! /// What it does.
//! pub fn run(args: &Args, context: &Context) -> CommandResult { … }
//! ```
//!
//! A command is announced in three places of this file: its `mod`, its variant of [`Command`] (whose doc comment is its
//! line in the help), its arm in
//! [`Cli::run`]. It reads its configuration with [`Context::load_config`], prints results with [`terminal::print`] and
//! everything else on stderr, and starts an async runtime of its own if it needs one.
//!
//! Exit codes: 0 done, 1 it failed and says why ([`Failed`]), 2 usage (clap says so before a command starts).

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};

pub mod check;
pub mod client;
pub mod failed;
pub mod logging;
pub mod new;
mod output;
pub mod pause;
pub mod peek;
pub mod purge;
pub mod redrive;
pub mod replay;
pub mod run;
pub mod send;
pub mod status;
pub mod store;
pub mod terminal;
pub mod token;

pub use failed::Failed;

/// How a command ends. `Err` is printed for people and becomes exit code 1.
pub type CommandResult = Result<(), Failed>;

/// Durable queues on disk whose consumers are sandboxed WebAssembly plugins.
#[derive(Debug, Parser)]
#[command(
    name = "linecook",
    version,
    max_term_width = 100,
    after_help = "Without a command, linecook runs what queue.toml declares."
)]
pub struct Cli {
    /// The file that declares queues and consumers; its relative paths are relative to its folder
    #[arg(long, global = true, value_name = "FILE", default_value = "queue.toml")]
    pub config: PathBuf,
    /// The file that holds the token for a runtime with [runtime.auth]; otherwise the variable LINECOOK_TOKEN does
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands, in the order in which the help shows them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build and run what queue.toml declares (the default command)
    Run(run::Args),
    /// Check queue.toml, and that what it names is there, without starting anything
    Check(check::Args),
    /// Make a new consumer: a crate with a test, and the lines for queue.toml
    New(new::Args),
    /// Send a message to a queue, or one for each line of a file
    Send(Box<send::Args>),
    /// Show what is in the queues and what the consumers are doing
    Status(status::Args),
    /// Show the first messages of a queue, without taking them
    Peek(peek::Args),
    /// Move dead letters back to the queue that they came from
    Redrive(redrive::Args),
    /// Send copies of messages that were acknowledged, from a queue's history
    Replay(replay::Args),
    /// Let a consumer take no more messages until it is resumed, also after a restart
    Pause(pause::Args),
    /// Let a paused consumer take messages again
    Resume(pause::Args),
    /// Make a token for [runtime.auth]
    Token(token::Args),
    /// Take all messages out of a queue, for good
    Purge(purge::Args),
    /// Check or show what is in the data folder, while nothing runs there
    Store(store::Args),
}

/// What every command is told beside its own arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The `--config` file. It may not exist: [`Context::load_config`] says so in a way that helps.
    pub config_path: PathBuf,
    /// The `--token-file`, if there is one.
    pub token_file: Option<PathBuf>,
}

impl Cli {
    /// Carries out the command.
    pub fn run(self) -> CommandResult {
        let context = Context { config_path: self.config, token_file: self.token_file };
        match self.command {
            None => run::run(&run::Args::default(), &context),
            Some(Command::Run(args)) => run::run(&args, &context),
            Some(Command::Check(args)) => check::run(&args, &context),
            Some(Command::New(args)) => new::run(&args, &context),
            Some(Command::Send(args)) => send::run(&args, &context),
            Some(Command::Status(args)) => status::run(&args, &context),
            Some(Command::Peek(args)) => peek::run(&args, &context),
            Some(Command::Redrive(args)) => redrive::run(&args, &context),
            Some(Command::Replay(args)) => replay::run(&args, &context),
            Some(Command::Pause(args)) => pause::pause(&args, &context),
            Some(Command::Resume(args)) => pause::resume(&args, &context),
            Some(Command::Token(args)) => token::run(&args),
            Some(Command::Purge(args)) => purge::run(&args, &context),
            Some(Command::Store(args)) => store::run(&args, &context),
        }
    }
}

impl Context {
    /// Reads and checks `queue.toml`.
    pub fn load_config(&self) -> Result<Config, Failed> {
        Ok(config::load(&self.config_path)?)
    }
}
