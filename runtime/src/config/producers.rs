//! `[producers.NAME]` as plain values.

use std::path::PathBuf;
use std::time::Duration;

use glob::MatchOptions;
use linecook_store::QueueName;

pub use super::schedule::Schedule;
use crate::subjects::Subject;

/// How `files` are matched, as a shell does it: `*` does not match `/`, nor a dot at the beginning.
pub const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// `[producers.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerConfig {
    /// Its name.
    pub name: String,
    /// Where its messages go.
    pub target: Target,
    /// The media type of its messages. A webhook without one keeps what the request says.
    pub content_type: Option<String>,
    /// The ordering key of all its messages.
    pub key: Option<String>,
    /// Attributes of all its messages, beside those that the producer sets itself.
    pub attributes: Vec<(String, String)>,
    /// What it does.
    pub kind: ProducerKind,
}

/// Where a producer's messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Into this queue.
    Queue(QueueName),
    /// Into every queue that subscribes to this.
    Subject(Subject),
}

impl Target {
    /// The name of the queue or the subject.
    pub fn name(&self) -> &str {
        match self {
            Target::Queue(queue) => queue.as_str(),
            Target::Subject(subject) => subject.as_str(),
        }
    }
}

/// What makes the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProducerKind {
    /// A schedule.
    Cron(CronConfig),
    /// Lines of files.
    Tail(TailConfig),
    /// Files in a folder.
    Watch(WatchConfig),
    /// Requests of a provider.
    Webhook(WebhookConfig),
}

impl ProducerKind {
    /// Its name in the file.
    pub fn name(&self) -> &'static str {
        match self {
            ProducerKind::Cron(_) => "cron",
            ProducerKind::Tail(_) => "tail",
            ProducerKind::Watch(_) => "watch",
            ProducerKind::Webhook(_) => "webhook",
        }
    }
}

/// `kind = "cron"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronConfig {
    /// When it runs.
    pub schedule: Schedule,
    /// The body of each message.
    pub body: String,
    /// What becomes of runs that were missed.
    pub catch_up: CatchUp,
}

/// What becomes of runs that were due while the runtime did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// The last one is made up for.
    One,
    /// All are made up for, up to a limit.
    All,
    /// They are left out.
    None,
}

/// `kind = "tail"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailConfig {
    /// Patterns of paths.
    pub files: Vec<String>,
    /// Where to begin in files that are there when the producer starts for the first time.
    pub start: Start,
    /// The longest line, without its end.
    pub line_bytes_max: usize,
    /// What becomes of longer ones.
    pub long_lines: LongLines,
    /// The folders that guests may write: no file is read whose path leads through one.
    pub writable: Vec<PathBuf>,
}

/// Where to begin in a file that was there before the producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At its first line.
    Beginning,
    /// After its last line.
    End,
}

/// What becomes of a line that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongLines {
    /// It becomes several messages.
    Split,
    /// It is left out, and counted.
    Refuse,
}

/// `kind = "watch"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchConfig {
    /// The folder.
    pub folder: PathBuf,
    /// Patterns of names, or of paths below the folder if there is a `/` in them.
    pub files: Vec<String>,
    /// Whether folders in the folder count as well.
    pub recursive: bool,
    /// A file that has not changed for so long is complete.
    pub settle: Duration,
    /// What the body is.
    pub body: WatchBody,
    /// What becomes of the file afterwards.
    pub after: After,
}

/// What the message of a file has as its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchBody {
    /// The file's content.
    Content,
    /// The file's path.
    Path,
}

/// What becomes of a file once its message is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// It stays.
    Keep,
    /// It moves to this folder.
    Move(PathBuf),
    /// It is deleted.
    Delete,
}

/// `kind = "webhook"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// The path of its route.
    pub path: String,
    /// How a request shows that it comes from the provider.
    pub signature: SignatureStyle,
    /// The header that names the delivery, in lower case.
    pub id_header: Option<String>,
    /// Headers that become attributes, in lower case.
    pub headers: Vec<String>,
}

/// How requests are signed. The secrets are in the environment under these names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureStyle {
    /// Not at all.
    None,
    /// `X-Hub-Signature-256`.
    Github {
        /// The variables that hold the secrets: one, or more while it is being replaced.
        secret_env: Vec<String>,
    },
    /// `Stripe-Signature`.
    Stripe {
        /// The variables that hold the secrets: one, or more while it is being replaced.
        secret_env: Vec<String>,
        /// How far the time of signing may be from now.
        tolerance: Duration,
    },
}

impl SignatureStyle {
    /// The environment variables that hold the secrets.
    pub fn secret_env(&self) -> &[String] {
        match self {
            SignatureStyle::None => &[],
            SignatureStyle::Github { secret_env } | SignatureStyle::Stripe { secret_env, .. } => secret_env,
        }
    }
}
