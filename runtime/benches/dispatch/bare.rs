//! The bare loop that dispatch is compared with: instantiate and call, with the engine's settings of the sandbox and
//! nothing else. No limits, no grants, no output, no cache, no runtime: what wasmtime itself costs.

use std::time::{Duration, Instant};

use ::linecook::sandbox::engine_config;
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use self::exports::linecook::worker::handler::Message;
use self::linecook::worker::queues::{self, Outgoing, SendError};

wasmtime::component::bindgen!({
    path: "../sdk/wit",
    world: "consumer",
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});

#[derive(Default)]
struct State {
    wasi: WasiCtx,
    handles: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.handles }
    }
}

impl queues::Host for State {
    fn send(&mut self, _queue: String, _message: Outgoing) -> Result<(), SendError> {
        Ok(())
    }

    fn send_for(&mut self, _message_id: String, _queue: String, _message: Outgoing) -> Result<(), SendError> {
        Ok(())
    }
}

/// Calls a second on each of `threads` threads, each with an engine of its own, added up.
pub(crate) fn calls_per_second(component: &[u8], threads: usize, time: Duration) -> f64 {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| one_thread(component, time))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the bare loop does not panic")).sum()
    })
}

fn one_thread(component: &[u8], time: Duration) -> f64 {
    let engine = Engine::new(&engine_config(64)).expect("the sandbox has the same settings");
    let mut linker = Linker::<State>::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("WASI links");
    queues::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state).expect("the world links");
    let component = Component::from_binary(&engine, component).expect("the guest compiles");
    let consumer =
        ConsumerPre::new(linker.instantiate_pre(&component).expect("the guest links")).expect("the guest exports");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("tokio starts");
    runtime.block_on(async {
        let one = async || {
            let mut store = Store::new(&engine, State::default());
            store.set_epoch_deadline(1 << 40);
            let instance = consumer.instantiate_async(&mut store).await.expect("an instance starts");
            let answer = instance.linecook_worker_handler().call_handle(&mut store, message()).await;
            answer.expect("the guest does not trap").expect("the guest acknowledges");
        };
        for _ in 0..1000 {
            one().await;
        }
        let (started, mut calls) = (Instant::now(), 0u32);
        while started.elapsed() < time {
            for _ in 0..100 {
                one().await;
            }
            calls += 100;
        }
        f64::from(calls) / started.elapsed().as_secs_f64()
    })
}

fn message() -> Message<'static> {
    Message {
        id: "00000000000000000000000001",
        queue: "orders",
        body: &[b'x'; 200],
        content_type: None,
        key: None,
        attributes: &[],
        attempt: 1,
        enqueued_at_ms: 0,
    }
}
