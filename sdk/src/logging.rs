//! Records of the `log` and `tracing` crates in the runtime's log.
//!
//! With the feature `log` or `tracing` of this crate, what a handler logs by that crate is written to stderr, a line for each
//! record: its level, its target, its text and fields. So it is in the runtime's log with the message's id, and the last of it
//! is kept with a dead letter. There is nothing to set up:
//!
//! ```toml
//! [dependencies]
//! linecook-sdk = { version = "0.1", features = ["tracing"] }
//! tracing = "0.1"
//! ```
//!
//! Records of level `info` and above are written. The variable `RUST_LOG` in the consumer's environment says otherwise: `off`,
//! `error`, `warn`, `info`, `debug` or `trace`:
//!
//! ```toml
//! [consumers.welcome-email.grants]
//! env = { RUST_LOG = "debug" }
//! ```
//!
//! In native tests nothing is set up: there, the test program does as it likes.

/// Sets up the forwarding, once for each instance.
#[cfg(target_family = "wasm")]
pub(crate) fn start() {
    #[cfg(feature = "log")]
    log_crate::start();
    #[cfg(feature = "tracing")]
    tracing_crate::start();
}

/// The level that the environment asks for.
#[cfg(any(test, all(target_family = "wasm", any(feature = "log", feature = "tracing"))))]
fn level<L: std::str::FromStr>(wanted: Option<&str>, default: L) -> L {
    // A variable that nobody can read is no reason not to handle messages.
    wanted.and_then(|wanted| wanted.parse().ok()).unwrap_or(default)
}

#[cfg(all(target_family = "wasm", any(feature = "log", feature = "tracing")))]
fn wanted() -> Option<String> {
    std::env::var("RUST_LOG").ok()
}

#[cfg(all(target_family = "wasm", feature = "log"))]
mod log_crate {
    use log::{LevelFilter, Log, Metadata, Record};

    struct Stderr;

    impl Log for Stderr {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.level() <= log::max_level()
        }

        fn log(&self, record: &Record<'_>) {
            if self.enabled(record.metadata()) {
                eprintln!("{:>5} {}: {}", record.level(), record.target(), record.args());
            }
        }

        fn flush(&self) {}
    }

    pub(super) fn start() {
        // A handler that has set up its own logger meant it; so has an instance that was here before.
        if log::set_logger(&Stderr).is_ok() {
            log::set_max_level(super::level(super::wanted().as_deref(), LevelFilter::Info));
        }
    }
}

#[cfg(all(target_family = "wasm", feature = "tracing"))]
mod tracing_crate {
    use std::sync::Once;

    use tracing_subscriber::filter::LevelFilter;

    pub(super) fn start() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let level = super::level(super::wanted().as_deref(), LevelFilter::INFO);
            // The runtime's log has the time, and no colours of ours. If there is a subscriber already, it was meant.
            let _ = tracing_subscriber::fmt()
                .with_max_level(level)
                .without_time()
                .with_ansi(false)
                .with_writer(std::io::stderr)
                .try_init();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_that_of_the_environment_or_the_default() {
        for (wanted, expected) in [(None, 7), (Some("3"), 3), (Some("nonsense"), 7)] {
            assert_eq!(level(wanted, 7), expected);
        }
    }
}
