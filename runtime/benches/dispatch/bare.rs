//! The bare loop that dispatch is compared with: instantiate and call, with the engine's settings of the sandbox and
//! nothing else. No limits, no grants, no output, no cache, no runtime: what wasmtime itself costs.

use std::time::{Duration, Instant};

use ::linecook::sandbox::engine_config;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker, ResourceTable};
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

mod batch {
    wasmtime::component::bindgen!({
        path: "../sdk/wit",
        world: "batch-consumer",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "linecook:worker/queues": super::linecook::worker::queues,
            "linecook:worker/types": super::linecook::worker::types,
        },
    });
}

/// Calls a second with a fresh instance each, on each of `threads` threads, added up.
pub(crate) fn fresh(component: &[u8], threads: usize, time: Duration) -> f64 {
    each_thread(threads, || {
        let bare = Bare::new(component);
        let consumer = ConsumerPre::new(bare.pre.clone()).expect("the guest exports");
        measure(time, 1, async || {
            let mut store = bare.store();
            let instance = consumer.instantiate_async(&mut store).await.expect("an instance starts");
            let answer = instance.linecook_worker_handler().call_handle(&mut store, message()).await;
            answer.expect("the guest does not trap").expect("the guest acknowledges");
        })
    })
}

/// The same with one instance for all calls of a thread.
#[expect(clippy::await_holding_refcell_ref, reason = "there is one call at a time, and nobody else to borrow it")]
pub(crate) fn reused(component: &[u8], threads: usize, time: Duration) -> f64 {
    each_thread(threads, || {
        let bare = Bare::new(component);
        let consumer = ConsumerPre::new(bare.pre.clone()).expect("the guest exports");
        let store = std::cell::RefCell::new(bare.store());
        let instance = futures_util::FutureExt::now_or_never(consumer.instantiate_async(&mut *store.borrow_mut()));
        let instance = instance.expect("nothing to wait for").expect("an instance starts");
        measure(time, 1, async || {
            let answer = instance.linecook_worker_handler().call_handle(&mut *store.borrow_mut(), message()).await;
            answer.expect("the guest does not trap").expect("the guest acknowledges");
        })
    })
}

/// Messages a second in batches of `size`, with a fresh instance each.
pub(crate) fn batched(component: &[u8], threads: usize, time: Duration, size: usize) -> f64 {
    each_thread(threads, || {
        let bare = Bare::new(component);
        let consumer = batch::BatchConsumerPre::new(bare.pre.clone()).expect("the guest exports");
        let messages: Vec<_> = (0..size).map(|_| message()).collect();
        measure(time, size, async || {
            let mut store = bare.store();
            let instance = consumer.instantiate_async(&mut store).await.expect("an instance starts");
            let answers = instance.linecook_worker_batch_handler().call_handle_batch(&mut store, &messages).await;
            assert_eq!(answers.expect("the guest does not trap").len(), size);
        })
    })
}

/// What a thread has: an engine of its own.
struct Bare {
    engine: Engine,
    pre: InstancePre<State>,
}

impl Bare {
    fn new(component: &[u8]) -> Bare {
        let engine = Engine::new(&engine_config(64)).expect("the sandbox has the same settings");
        let mut linker = Linker::<State>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("WASI links");
        queues::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state).expect("the world links");
        let component = Component::from_binary(&engine, component).expect("the guest compiles");
        let pre = linker.instantiate_pre(&component).expect("the guest links");
        Bare { engine, pre }
    }

    fn store(&self) -> Store<State> {
        let mut store = Store::new(&self.engine, State::default());
        store.set_epoch_deadline(1 << 40);
        store
    }
}

fn each_thread(threads: usize, one_thread: impl Fn() -> f64 + Sync) -> f64 {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(&one_thread)).collect();
        threads.into_iter().map(|thread| thread.join().expect("the bare loop does not panic")).sum()
    })
}

/// Messages a second, when each call handles so many.
fn measure(time: Duration, messages: usize, one: impl AsyncFn()) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("tokio starts");
    runtime.block_on(async {
        for _ in 0..1000usize.div_ceil(messages) {
            one().await;
        }
        let (started, mut calls) = (Instant::now(), 0u32);
        while started.elapsed() < time {
            for _ in 0..100 {
                one().await;
            }
            calls += 100;
        }
        f64::from(calls) * messages as f64 / started.elapsed().as_secs_f64()
    })
}

fn message() -> Message<'static> {
    Message {
        id: "00000000000000000000000001",
        queue: "orders",
        body: super::BODY,
        content_type: None,
        key: None,
        attributes: &[],
        attempt: 1,
        enqueued_at_ms: 0,
    }
}
