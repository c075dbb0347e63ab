//! `wasi:logging`: records with a level, which share the output's limit.

use wasmtime::component::Linker;
use wasmtime::{Result, StoreContextMut};

use crate::sandbox::bindings::logging::wasi::logging::logging::Level;
use crate::sandbox::output::Severity;
use crate::sandbox::state::State;

/// Guests were built before the draft had a version, too.
const NAMES: [&str; 2] = ["wasi:logging/logging@0.1.0-draft", "wasi:logging/logging"];

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    for name in NAMES {
        linker.instance(name)?.func_wrap("log", log)?;
    }
    Ok(())
}

fn log(store: StoreContextMut<'_, State>, (level, context, message): (Level, String, String)) -> Result<()> {
    let severity = match level {
        Level::Trace => Severity::Trace,
        Level::Debug => Severity::Debug,
        Level::Info => Severity::Info,
        Level::Warn => Severity::Warn,
        Level::Error | Level::Critical => Severity::Error,
    };
    store.data().output.record(severity, &context, &message);
    Ok(())
}
