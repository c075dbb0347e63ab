//! Follows `queue.toml` while the runtime runs: an edited file is taken into use whole, or not at all.
//!
//! A new file is noticed (`watch`), checked as at the start, and compared with the one in force (`plan`, pure). Then the
//! [`Part`]s of the runtime that follow the file get to see it, in three rounds and always in the order of their list:
//!
//! 1. `check`: each says whether it can be as the new file wants it, and does now whatever can fail. One refusal, and
//!    nothing has changed.
//! 2. `withdraw`: each stops what the new file does not have any more, so that nothing works for a name that has gone.
//! 3. `apply`: each becomes what the new file says. This can't fail.
//!
//! **To make another part of the file follow** (such as the tokens): implement [`Part`] and put it into the list in
//! `cli/run.rs`, after what it needs: whatever sends to queues comes after [`parts::Queues`], so that its queue is there when
//! it begins; its `withdraw` runs before any queue goes. A key that can't change while the runtime runs belongs to
//! [`parts::Fixed`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use self::plan::Plan;
use self::watch::{Seen, Watch};
use crate::broker::Pending;
use crate::config::{self, Config, ConfigErrors};
use crate::status::Board;

pub mod parts;
pub mod plan;
mod watch;

/// Something that is as `queue.toml` says.
pub trait Part: Send {
    /// Says whether it can become what the new file says, and does whatever can fail of that. It must not be noticed
    /// from outside: another part may refuse.
    fn check<'a>(&'a mut self, _old: &'a Config, _new: &'a Config) -> Pending<'a, Result<(), Refusal>> {
        Box::pin(async { Ok(()) })
    }

    /// Stops what the new file does not have any more, or has in another way. What is under way may end later.
    fn withdraw<'a>(&'a mut self, _old: &'a Config, _new: &'a Config) -> Pending<'a, ()> {
        Box::pin(async {})
    }

    /// Becomes what the new file says.
    fn apply<'a>(&'a mut self, _old: &'a Config, _new: &'a Config) -> Pending<'a, ()> {
        Box::pin(async {})
    }
}

/// Why a part can't become what a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Where in the file the reason stands: the keys from the top level on.
    pub key: Vec<String>,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// The file in force, and everything that follows it.
pub struct Reconfigurer {
    path: PathBuf,
    in_force: Arc<Config>,
    hash: String,
    parts: Vec<Box<dyn Part>>,
    board: Arc<Board>,
}

impl Reconfigurer {
    /// With the file that the runtime was started with, and its text.
    pub fn new(config: Arc<Config>, text: &str, parts: Vec<Box<dyn Part>>, board: Arc<Board>) -> Reconfigurer {
        let reconfigurer = Reconfigurer { path: config.path.clone(), in_force: config, hash: hash(text), parts, board };
        reconfigurer.tell_in_force();
        reconfigurer
    }

    /// The file in force.
    pub fn in_force(&self) -> &Arc<Config> {
        &self.in_force
    }

    /// Follows the file for as long as it is polled. `again` makes it look at once, and at a file that was refused as well.
    pub async fn follow(&mut self, mut again: impl AsyncFnMut()) {
        let mut watch = Watch::new(&self.path);
        loop {
            match watch.next(&mut again).await {
                Seen::File => self.offer().await,
                Seen::Nothing => {
                    let message = format!("there is no {} any more", self.path.display());
                    self.refused(&config::refuse("", &self.path, &[], message, "put it back; until then"));
                }
            }
        }
    }

    /// Looks at the file as it is now.
    async fn offer(&mut self) {
        let text = match config::read(&self.path) {
            Ok(text) => text,
            Err(errors) => return self.refused(&errors),
        };
        if hash(&text) == self.hash {
            // Whatever was wrong has been taken back.
            return self.board.update_config(|status| status.last_error = None);
        }
        if let Err(errors) = self.take(&text).await {
            self.refused(&errors);
        }
    }

    /// Takes a text into use, whole, or says why not.
    async fn take(&mut self, text: &str) -> Result<(), ConfigErrors> {
        let refuse = |key: &[&str], message, hint: &str| config::refuse(text, &self.path, key, message, hint);
        if text.trim().is_empty() {
            // That is what a file looks like that somebody is about to write.
            let hint = "to have no queues, write `[queues]`";
            return Err(refuse(&[], format!("{} is empty", self.path.display()), hint));
        }
        let new = Arc::new(config::parse_to_replace(text, &self.path, &self.in_force)?);
        let old = self.in_force.clone();
        for part in &mut self.parts {
            part.check(&old, &new).await.map_err(|Refusal { key, message, hint }| {
                let key: Vec<&str> = key.iter().map(String::as_str).collect();
                config::refuse(text, &self.path, &key, message, &hint)
            })?;
        }
        for part in &mut self.parts {
            part.withdraw(&old, &new).await;
        }
        for part in &mut self.parts {
            part.apply(&old, &new).await;
        }
        (self.in_force, self.hash) = (new, hash(text));
        self.tell_in_force();
        let plan = Plan::between(&old, &self.in_force);
        tracing::info!(hash = &self.hash[..12], "{} was taken into use: {plan}", self.path.display());
        Ok(())
    }

    fn tell_in_force(&self) {
        self.board.update_config(|status| {
            status.hash.clone_from(&self.hash);
            status.loaded_at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            status.last_error = None;
        });
    }

    /// Says why the file was not taken into use; once.
    fn refused(&self, errors: &ConfigErrors) {
        let (error, mut told) = (errors.to_string(), false);
        self.board.update_config(|status| {
            told = status.last_error.as_ref() == Some(&error);
            status.last_error = Some(error.clone());
        });
        if !told {
            let path = self.path.display();
            tracing::error!("{path} was not taken into use; what was in force stays so:\n{error}");
        }
    }
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
