//! Core modules that were built for `wasm32-wasip1` with the SDK: made into components, as `wasm32-wasip2`'s linker does it
//! for that target. Their calls of WASI 0.1 go through the adapter that comes with this version of wasmtime.

use std::borrow::Cow;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;
use wit_parser::Resolve;
use wit_parser::decoding::decode_world;

use super::load::LoadError;

/// The component of a file: the file itself, or one that is made of the core module that it is.
pub(super) fn component_of(bytes: &[u8]) -> Result<Cow<'_, [u8]>, LoadError> {
    match bytes {
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => componentize(bytes).map(Cow::Owned),
        [b'\0', b'a', b's', b'm', ..] => Ok(Cow::Borrowed(bytes)),
        [] => Err(LoadError::NotWasm { start: "nothing (the file is empty)".to_owned() }),
        _ => Err(LoadError::NotWasm { start: format!("\"{}\"", bytes[..bytes.len().min(8)].escape_ascii()) }),
    }
}

fn componentize(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    let refused = |cause: String| LoadError::CoreModule { cause: cause.replace('\n', " ") };
    check_described(module).map_err(refused)?;
    let encoded = ComponentEncoder::default().module(module).and_then(|encoder| {
        encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?.encode()
    });
    encoded.map_err(|error| refused(format!("{error:#}")))
}

/// What the SDK leaves in a module says which interfaces its exports implement. Without it, there is nothing to lift.
fn check_described(module: &[u8]) -> Result<(), String> {
    let mut described = false;
    for payload in Parser::new(0).parse_all(module) {
        let Payload::CustomSection(section) = payload.map_err(|error| error.to_string())? else { continue };
        if section.name().starts_with("component-type") {
            let (world, _) = decode_world(section.data()).map_err(|error| format!("{error:#}"))?;
            // The encoder goes round in such a circle until the stack ends, and the process with it.
            if has_circle(&world) {
                return Err("the packages of its interfaces depend on each other in a circle".into());
            }
            described = true;
        }
    }
    if described {
        Ok(())
    } else {
        Err("it does not say which interfaces it implements, as linecook-sdk would have it say".into())
    }
}

/// Whether packages depend on themselves by way of others.
fn has_circle(world: &Resolve) -> bool {
    let mut left: Vec<_> = world.packages.iter().map(|(id, _)| id).collect();
    loop {
        // A package that needs none of those that are left is in no circle.
        let still: Vec<_> =
            left.iter().copied().filter(|id| world.package_direct_deps(*id).any(|dep| left.contains(&dep))).collect();
        if still.len() == left.len() {
            return !left.is_empty();
        }
        left = still;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recognized_by_their_first_bytes() {
        let text = |bytes: &[u8]| component_of(bytes).unwrap_err().to_string();
        assert!(text(b"").starts_with("this is not WebAssembly: it begins with nothing (the file is empty)"));
        assert!(text(b"#!/bin/sh\nexit").starts_with("this is not WebAssembly: it begins with \"#!/bin/s\""));
        assert!(text(b"\x7fELF\x02").starts_with("this is not WebAssembly: it begins with \"\\x7fELF\\x02\""));
        assert!(text(b"\0asm\x01\0\0\0").contains("linecook-sdk"));
        assert!(text(b"\0asm\x01\0\0\0\xff damaged").contains("wasm32-wasip2"));
        assert!(matches!(component_of(b"\0asm\x0d\0\x01\0"), Ok(Cow::Borrowed(_))));
    }
}
