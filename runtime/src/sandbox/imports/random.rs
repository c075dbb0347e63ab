//! `wasi:random`, counted.

use wasmtime::Result;
use wasmtime::component::{HasData, Linker};
use wasmtime_wasi::p2::bindings::random::{insecure, random};
use wasmtime_wasi::random::WasiRandomCtx;

use crate::sandbox::limits::{Exceeded, bytes_text};
use crate::sandbox::state::State;

/// Gives bytes while there are any left.
struct Counted<'s> {
    source: &'s mut WasiRandomCtx,
    used: &'s mut u64,
    bytes_max: u64,
}

struct Random;

impl HasData for Random {
    type Data<'s> = Counted<'s>;
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    fn counted(state: &mut State) -> Counted<'_> {
        let bytes_max = state.outside.settings.limits.random_bytes;
        Counted { source: state.wasi.random(), used: &mut state.random_bytes, bytes_max }
    }
    random::add_to_linker::<State, Random>(linker, counted)?;
    insecure::add_to_linker::<State, Random>(linker, counted)
}

impl Counted<'_> {
    fn take(&mut self, bytes: u64) -> Result<()> {
        *self.used = self.used.saturating_add(bytes);
        if *self.used > self.bytes_max {
            return Err(Exceeded::new("limits.random_bytes", bytes_text(self.bytes_max)).into());
        }
        Ok(())
    }
}

impl random::Host for Counted<'_> {
    fn get_random_bytes(&mut self, bytes: u64) -> Result<Vec<u8>> {
        self.take(bytes)?;
        self.source.get_random_bytes(bytes)
    }

    fn get_random_u64(&mut self) -> Result<u64> {
        self.take(8)?;
        self.source.get_random_u64()
    }
}

impl insecure::Host for Counted<'_> {
    fn get_insecure_random_bytes(&mut self, bytes: u64) -> Result<Vec<u8>> {
        self.take(bytes)?;
        self.source.get_insecure_random_bytes(bytes)
    }

    fn get_insecure_random_u64(&mut self) -> Result<u64> {
        self.take(8)?;
        self.source.get_insecure_random_u64()
    }
}
