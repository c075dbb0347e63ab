//! What belongs to the store of one delivery.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::InstanceSettings;
use super::cpu::CpuTime;
use super::durable::Session;
use super::grants::Access;
use super::imports::messaging::Held;
use super::imports::queues::Sends;
use super::imports::sockets::Sockets;
use super::limits::{HANDLES_MAX, HTTP_FIELDS_BYTES_MAX, Limiter};
use super::output::Output;

/// The host's side of one instance.
pub(super) struct State {
    pub(super) wasi: WasiCtx,
    pub(super) handles: ResourceTable,
    pub(super) limiter: Limiter,
    pub(super) cpu_time: Arc<CpuTime>,
    pub(super) random_bytes: u64,
    pub(super) outside: Outside,
    /// There if the component could use them.
    pub(super) sockets: Option<Arc<Sockets>>,
    pub(super) output: Output,
    pub(super) sends: Sends,
    /// What it reads and writes of its durable state.
    pub(super) session: Session,
    /// What the host keeps of messages that the guest made and has not sent.
    pub(super) held: Held,
    http: WasiHttpCtx,
}

/// Where the delivery's calls to the outside are checked.
pub(super) struct Outside {
    pub(super) settings: Arc<InstanceSettings>,
    pub(super) access: Arc<Access>,
    /// Shared by the HTTP connections that are open; made with the first one.
    pub(super) connections: Option<Arc<()>>,
    /// Whether one more was refused because there were too many.
    pub(super) limit_hit: bool,
}

impl State {
    pub(super) fn new(
        settings: &Arc<InstanceSettings>,
        access: &Arc<Access>,
        wasi: WasiCtx,
        sockets: Option<Arc<Sockets>>,
        output: &Output,
    ) -> State {
        let mut handles = ResourceTable::new();
        handles.set_max_capacity(HANDLES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HTTP_FIELDS_BYTES_MAX);
        State {
            wasi,
            handles,
            limiter: Limiter::new(settings),
            cpu_time: Arc::default(),
            random_bytes: 0,
            outside: Outside {
                settings: settings.clone(),
                access: access.clone(),
                connections: None,
                limit_hit: false,
            },
            sockets,
            output: output.clone(),
            sends: Sends::default(),
            session: Session::default(),
            held: Held::default(),
            http,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.handles }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.handles, hooks: &mut self.outside }
    }
}
