//! What belongs to the store of one delivery.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::InstanceSettings;
use super::imports::Sender;
use super::limits::{HANDLES_MAX, Limiter};

/// The host's side of one instance.
pub(super) struct State {
    wasi: WasiCtx,
    handles: ResourceTable,
    pub(super) limiter: Limiter,
    pub(super) sender: Sender,
}

impl State {
    pub(super) fn new(settings: &Arc<InstanceSettings>, wasi: WasiCtx, sender: Sender) -> State {
        let mut handles = ResourceTable::new();
        handles.set_max_capacity(HANDLES_MAX);
        State { wasi, handles, limiter: Limiter::new(settings.memory_bytes_max), sender }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.handles }
    }
}
