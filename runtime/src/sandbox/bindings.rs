//! The worlds of `sdk/wit` in Rust, generated.

wasmtime::component::bindgen!({
    path: "../sdk/wit",
    world: "consumer",
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});

/// The world of consumers that take batches. It shares its imports and types with the other one.
pub(super) mod batch {
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
