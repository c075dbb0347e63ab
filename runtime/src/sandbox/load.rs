//! From a file's bytes to a [`Module`](super::Module): recognized, compiled (or taken from the cache), linked and
//! type-checked for every worker.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use super::bindings::ConsumerIndices;
use super::bindings::batch::BatchConsumerIndices;
use super::bindings::messaging::MessagingIndices;
use super::cache::CodeCache;
use super::core_module::component_of;
use super::engine::Host;
use super::imports::OFFERED;
use super::state::State;
use super::worker::lower_priority;
use super::{InstanceSettings, ModuleHash};

/// The interfaces of which a component must export one, without the last part of the version: any of 0.1 will do.
const HANDLER: &str = "linecook:worker/handler@0.1";
const BATCH_HANDLER: &str = "linecook:worker/batch-handler@0.1";
/// Or this one.
const MESSAGING_HANDLER: &str = "wasi:messaging/incoming-handler@0.2.0-draft";
/// The interfaces that lead to a socket, by the beginning of their names.
const SOCKETS: [&str; 2] = ["wasi:sockets/tcp-create-socket@", "wasi:sockets/ip-name-lookup@"];
/// Those that are of no use without a grant, and that no component imports but for its own code, likewise. (What the standard
/// library of a language imports, many never call.)
const HTTP: &str = "wasi:http/outgoing-handler@";
const STATE: &str = "wasi:keyvalue/";

/// Why a component can't be used. The text says what is wrong and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// No WebAssembly at all.
    #[error(
        "this is not WebAssembly: it begins with {start}, not with \"\\0asm\". Give the .wasm file that \
         `cargo build --target wasm32-wasip2` makes"
    )]
    NotWasm {
        /// The first bytes, or that there are none.
        start: String,
    },
    /// A module of the core language that can't be made a component.
    #[error(
        "this is a core WebAssembly module, not a component, and it can't be made one: {cause}. Write the handler with the \
         `#[consumer]` of linecook-sdk, and build it with `cargo build --target wasm32-wasip2` (or wasm32-wasip1)"
    )]
    CoreModule {
        /// What stands in the way.
        cause: String,
    },
    /// Damaged, or beyond what the engine takes.
    #[error(
        "this component can't be compiled: {cause}. It is damaged, or uses what this version of linecook does not \
         support; build it again with `cargo build --target wasm32-wasip2`"
    )]
    Compile {
        /// What the compiler says.
        cause: String,
    },
    /// The handler is missing.
    #[error(
        "this component does not export `{HANDLER}` or `{BATCH_HANDLER}`; it exports {exports}. Write the handler with the `#[consumer]` of \
         linecook-sdk, in a package with `crate-type = [\"cdylib\"]`"
    )]
    MissingExport {
        /// What is exported instead.
        exports: String,
    },
    /// The handler has another type.
    #[error(
        "this component's handler is not the one that linecook calls: {cause}. Build it again with the linecook-sdk of \
         this version"
    )]
    WrongExport {
        /// The difference.
        cause: String,
    },
    /// It takes no batches.
    #[error(
        "max_batch_size is {max_batch_size}, but this component handles one message a call. Let the function with \
         `#[consumer]` take `Vec<Message>`, or remove max_batch_size from queue.toml"
    )]
    NoBatches {
        /// What the consumer's configuration says.
        max_batch_size: usize,
    },
    /// Interfaces that the runtime does not offer.
    #[error(
        "this component imports what linecook does not offer: {imports}. Remove the dependency that needs it, or build \
         with a linecook that offers it"
    )]
    MissingImport {
        /// Their names.
        imports: String,
    },
    /// An interface that the runtime offers, but not so.
    #[error(
        "this component imports another version of an interface than linecook offers: {cause}. Build it again with the \
         linecook-sdk of this version"
    )]
    WrongImport {
        /// The name and the difference.
        cause: String,
    },
    /// A granted folder.
    #[error("the granted folder {} (the guest's {guest:?}) can't be used: {cause}. {hint}", host.display())]
    Folder {
        /// The folder outside.
        host: PathBuf,
        /// Its name inside.
        guest: String,
        /// What the system says.
        cause: String,
        /// What to do.
        hint: &'static str,
    },
    /// A granted secret.
    #[error(
        "the secret {name} can't be read from the environment: {cause}. Set it before `linecook run` is started, or take \
         it out of the consumer's grants in queue.toml"
    )]
    Secret {
        /// The variable.
        name: String,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// More core instances or tables than the consumer may have.
    #[error("this component {}. Raise the limit in [consumers.NAME.limits], or build a simpler component", exceeded)]
    TooComplex {
        /// The limit that it goes over.
        exceeded: String,
    },
    /// The trial instance failed.
    #[error("this component can't be started: {cause}")]
    Instantiate {
        /// What happened.
        cause: String,
    },
    /// Not the component's fault.
    #[error("loading failed in linecook itself: {cause}. This is a bug in linecook; please report it")]
    Internal {
        /// What is known.
        cause: String,
    },
}

impl LoadError {
    pub(super) fn internal(cause: impl ToString) -> LoadError {
        LoadError::Internal { cause: cause.to_string() }
    }
}

/// A component linked for one worker.
#[derive(Clone)]
pub(super) struct Linked {
    pub(super) instance: InstancePre<State>,
    pub(super) exports: Arc<Exports>,
    /// Whether it imports what leads to sockets. Most components don't, and their instances need none of the checks.
    pub(super) uses_sockets: bool,
    uses_http: bool,
    uses_state: bool,
}

/// The handler of a component.
pub(super) enum Exports {
    /// Our own, for one message a call.
    Consumer(ConsumerIndices),
    /// Our own, for batches.
    Batch(BatchConsumerIndices),
    /// That of `wasi:messaging`.
    Messaging(MessagingIndices),
}

/// A component that takes one message a call can't have batches.
pub(super) fn check_batches(linked: &[Linked], max_batch_size: usize) -> Result<(), LoadError> {
    let takes_batches = linked.iter().all(|linked| matches!(*linked.exports, Exports::Batch(_)));
    if takes_batches || max_batch_size <= 1 { Ok(()) } else { Err(LoadError::NoBatches { max_batch_size }) }
}

/// Says what a component imports in vain: it may never call it, so that this is no error.
pub(super) fn tell_missing_grants(linked: &[Linked], settings: &InstanceSettings) {
    let Some(Linked { uses_http, uses_state, .. }) = linked.first() else { return };
    let consumer = &settings.consumer;
    let tell = |interface: &str, grant: &str| {
        tracing::info!(
            consumer,
            "the component imports {interface}, and nothing of that is granted: its calls will be refused. In queue.toml, \
             `grants.{grant}` in [consumers.{consumer}] grants it"
        );
    };
    if *uses_http && settings.grants.http.is_empty() {
        tell("wasi:http/outgoing-handler", "http = [\"https://api.example\"]");
    }
    if *uses_state && settings.state.is_none() {
        tell("wasi:keyvalue", "state = true");
    }
}

/// The name of a component.
pub(super) fn hash(component: &[u8]) -> ModuleHash {
    ModuleHash(Sha256::digest(component).into())
}

/// Which handler a component has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handler {
    Consumer,
    Batch,
    Messaging,
}

/// Compiles and links; blocks for as long as the compiler needs (seconds for a large component).
pub(super) fn link(file: &[u8], hash: ModuleHash, hosts: &[Host], cache: &CodeCache) -> Result<Vec<Linked>, LoadError> {
    let [first, rest @ ..] = hosts else { return Err(LoadError::internal("there are no workers")) };
    let (code, compiled) = compile(file, hash, &first.engine, cache)?;
    let handler = check_world(&compiled, &first.engine)?;
    let mut linked = vec![link_one(&compiled, first, handler)?];
    for host in rest {
        linked.push(link_one(&revive(&host.engine, &code).map_err(LoadError::internal)?, host, handler)?);
    }
    Ok(linked)
}

fn compile(
    file: &[u8],
    hash: ModuleHash,
    engine: &Engine,
    cache: &CodeCache,
) -> Result<(Vec<u8>, Component), LoadError> {
    if let Some(code) = cache.get(engine, hash) {
        match revive(engine, &code) {
            Ok(compiled) => return Ok((code, compiled)),
            Err(error) => tracing::warn!(module = %hash, %error, "compiled code is not usable; compiling again"),
        }
    }
    let refused = |error: wasmtime::Error| LoadError::Compile { cause: causes(&error) };
    let code = at_low_priority(|| engine.precompile_component(&component_of(file)?).map_err(refused))?;
    let compiled = revive(engine, &code).map_err(refused)?;
    cache.put(engine, hash, &code);
    Ok((code, compiled))
}

/// Runs the compiler where it takes no time from anybody: the workers have a low priority themselves, so that a version that is
/// compiled on all cores would stop the deliveries of the one before. The compiler's own threads are made by the first that
/// uses it, and inherit its priority.
fn at_low_priority<T: Send>(compile: impl FnOnce() -> Result<T, LoadError> + Send) -> Result<T, LoadError> {
    std::thread::scope(|scope| {
        let compiler = std::thread::Builder::new().name("compiler".to_owned()).spawn_scoped(scope, || {
            lower_priority();
            compile()
        });
        let compiled = compiler.map_err(LoadError::internal)?.join();
        compiled.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes code runnable in this engine.
#[expect(unsafe_code, reason = "running compiled code is trusting it; only this function does")]
fn revive(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the code comes from `precompile_component` of an engine with the same settings: directly, or from a folder
    // that only the runtime may write, in a file whose checksum was right. Wasmtime checks version and settings itself.
    unsafe { Component::deserialize(engine, code) }
}

/// Names what the component lacks, before the linker stops at the first of it. Tells which handler it has.
fn check_world(component: &Component, engine: &Engine) -> Result<Handler, LoadError> {
    let world = component.component_type();
    let quoted = |names: Vec<&str>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let foreign: Vec<_> = world
        .imports(engine)
        // A type that is imported is a name for something that another interface defines.
        .filter(|(_, import)| !matches!(import.ty, ComponentItem::Type(_)))
        .map(|(name, _)| name)
        .filter(|name| !OFFERED.iter().any(|offered| name.starts_with(offered)))
        .collect();
    if !foreign.is_empty() {
        return Err(LoadError::MissingImport { imports: quoted(foreign) });
    }
    let exports: Vec<_> = world.exports(engine).map(|(name, _)| name).collect();
    let has = |interface| exports.iter().any(|name| name.rsplit_once('.').is_some_and(|(name, _)| name == interface));
    if has(BATCH_HANDLER) {
        Ok(Handler::Batch)
    } else if has(HANDLER) {
        Ok(Handler::Consumer)
    } else if exports.contains(&MESSAGING_HANDLER) {
        Ok(Handler::Messaging)
    } else {
        let exports = if exports.is_empty() { "nothing".to_owned() } else { quoted(exports) };
        Err(LoadError::MissingExport { exports })
    }
}

fn link_one(component: &Component, host: &Host, handler: Handler) -> Result<Linked, LoadError> {
    let instance =
        host.linker.instantiate_pre(component).map_err(|error| LoadError::WrongImport { cause: causes(&error) })?;
    let exports = match handler {
        Handler::Consumer => ConsumerIndices::new(&instance).map(Exports::Consumer),
        Handler::Batch => BatchConsumerIndices::new(&instance).map(Exports::Batch),
        Handler::Messaging => MessagingIndices::new(&instance).map(Exports::Messaging),
    };
    let exports = exports.map_err(|error| LoadError::WrongExport { cause: causes(&error) })?;
    let world = component.component_type();
    let uses = |interface: &str| world.imports(&host.engine).any(|(name, _)| name.starts_with(interface));
    Ok(Linked {
        instance,
        exports: Arc::new(exports),
        uses_sockets: SOCKETS.iter().any(|interface| uses(interface)),
        uses_http: uses(HTTP),
        uses_state: uses(STATE),
    })
}

/// An error with its causes, on one line.
pub(super) fn causes(error: &wasmtime::Error) -> String {
    let causes: Vec<_> = error.chain().map(|cause| cause.to_string().trim().replace('\n', " ")).collect();
    causes.join(": ")
}
