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

/// Guests that were written for `wasi:messaging`.
pub(super) mod messaging {
    wasmtime::component::bindgen!({
        inline: "
            package linecook:host;
            world messaging {
                import wasi:messaging/types@0.2.0-draft;
                import wasi:messaging/producer@0.2.0-draft;
                export wasi:messaging/incoming-handler@0.2.0-draft;
            }
        ",
        path: "../sdk/wit",
        world: "linecook:host/messaging",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "wasi:messaging/types.client": crate::sandbox::imports::messaging::Client,
            "wasi:messaging/types.message": crate::sandbox::imports::messaging::Message,
        },
    });
}

/// Log records.
pub(super) mod logging {
    wasmtime::component::bindgen!({
        inline: "
            package linecook:host;
            world logging { import wasi:logging/logging@0.1.0-draft; }
        ",
        path: "../sdk/wit",
        world: "linecook:host/logging",
    });
}

/// Durable state.
pub(super) mod state {
    wasmtime::component::bindgen!({
        inline: "
            package linecook:host;
            world state {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
                import linecook:worker/batch-state@0.1.1;
            }
        ",
        path: "../sdk/wit",
        world: "linecook:host/state",
        imports: { default: trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::sandbox::imports::keyvalue::Bucket,
        },
    });
}
