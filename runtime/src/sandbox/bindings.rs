//! The world of `sdk/wit` in Rust, generated.

wasmtime::component::bindgen!({
    path: "../sdk/wit",
    world: "consumer",
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});
