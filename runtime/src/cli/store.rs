//! `linecook store`: looks into a data folder while nothing runs there.

use std::path::PathBuf;

use linecook_store::OpenError;
use linecook_store::inspect::Folder;

use super::{CommandResult, Context, Failed};

mod dump;
mod verify;

/// The arguments of `linecook store`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    /// Check every file of the data folder, and count the messages of each queue
    Verify(verify::Args),
    /// Print what is in the data folder, as far as it can be read, as a JSON object a line
    Dump(dump::Args),
}

/// Where the data is.
#[derive(Debug, clap::Args)]
struct Place {
    /// The data folder; by default the one that queue.toml names
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

/// Looks, and changes nothing.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.command {
        StoreCommand::Verify(args) => verify::run(args, context),
        StoreCommand::Dump(args) => dump::run(args, context),
    }
}

impl Place {
    /// The folder, opened to be looked at.
    fn open(&self, context: &Context) -> Result<(PathBuf, Folder), Failed> {
        let path = match &self.data_dir {
            Some(path) => path.clone(),
            None => context.load_config()?.runtime.data_dir,
        };
        let refused = |error: OpenError| {
            let is_locked = matches!(error, OpenError::Locked { .. });
            let failed = Failed::new(format!("can't look into the data folder {}", path.display()));
            match is_locked {
                true => failed
                    .because(error)
                    .hint("what a running process writes would look like damage: stop it, or look at a snapshot of the folder"),
                false => failed.because(error),
            }
        };
        let folder = Folder::open(&path).map_err(refused)?;
        Ok((path, folder))
    }
}
