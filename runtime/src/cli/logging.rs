//! The log of `linecook run`: to stderr, for people or as JSON, a line an event.

use std::io;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::terminal;

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people; in colours on a terminal.
    #[default]
    Human,
    /// A JSON object a line, for programs.
    Json,
}

/// The least important lines that are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What somebody must look at.
    Error,
    /// Failed attempts and dead letters as well.
    Warn,
    /// Starts, reloads and what consumers print as well.
    #[default]
    Info,
    /// What explains the odd case.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> LevelFilter {
        match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

/// Starts the log of this process. If there is one already (another library's, in a test), it stays.
pub fn start(format: LogFormat, level: LogLevel) {
    let level = LevelFilter::from(level);
    // Libraries speak up when something is wrong, and else only get in the way. Guests' lines have a target of their own.
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets([
        ("linecook", level),
        ("linecook_store", level),
        ("guest", level),
    ]);
    let layer = match format {
        LogFormat::Human => {
            let colours = terminal::colours(&io::stderr());
            tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours).with_filter(filter).boxed()
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            layer.with_filter(filter).boxed()
        }
    };
    _ = tracing_subscriber::registry().with(layer).try_init();
}
