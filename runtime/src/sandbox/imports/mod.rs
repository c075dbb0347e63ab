//! What the host offers to guests: `linecook:worker/queues`, WASI within the grants, and the standard interfaces of hosts
//! of this kind.

use wasmtime::Result;
use wasmtime::component::Linker;
use wasmtime_wasi::sockets::WasiSocketsView;
use wasmtime_wasi_config::WasiConfig;

use super::bindings::linecook::worker::queues as queues_interface;
use super::state::State;

mod connection;
mod filesystem;
mod http;
pub(super) mod keyvalue;
mod logging;
pub(super) mod messaging;
pub(super) mod queues;
mod random;
pub(super) mod sockets;

pub(super) use self::connection::tls_config;

/// The interfaces that [`add_to_linker`] defines, by the beginning of their names. What a component imports beside
/// these can't be linked.
pub(super) const OFFERED: [&str; 14] = [
    "linecook:worker/",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:config/store",
    "wasi:filesystem/",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/",
    "wasi:keyvalue/",
    "wasi:logging/logging",
    "wasi:messaging/producer",
    "wasi:messaging/types",
    "wasi:random/",
    "wasi:sockets/",
];

/// Defines everything that a guest may import. That it can be linked does not mean that it is granted.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    wasmtime_wasi_config::add_to_linker(linker, |state: &mut State| WasiConfig::from(&state.outside.access.variables))?;
    queues_interface::add_to_linker::<State, queues::Queues>(linker, queues::Sender::of)?;
    keyvalue::add_to_linker(linker)?;
    logging::add_to_linker(linker)?;
    messaging::add_to_linker(linker)?;
    // What follows takes the place of what `wasmtime_wasi` has defined, to count, check or tell more than it does.
    linker.allow_shadowing(true);
    filesystem::add_to_linker(linker)?;
    random::add_to_linker(linker)?;
    sockets::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// `wasmtime_wasi`'s own view of the sockets.
fn wasi_sockets(state: &mut State) -> wasmtime_wasi::sockets::WasiSocketsCtxView<'_> {
    state.sockets()
}
