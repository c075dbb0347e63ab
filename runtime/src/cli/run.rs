//! `linecook run`: builds and starts what `queue.toml` declares, and runs until it is told to stop.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::logging::{self, LogFormat, LogLevel};
use super::{CommandResult, Context, Failed};
use crate::auth::Auth;
use crate::broker::embedded::Embedded;
use crate::broker::{Broker, QueueLimits};
use crate::config::{self, Config, Source};
use crate::delivery::QueueName;
use crate::dispatch::{Dispatcher, Shares};
use crate::http::limits::Timeouts;
use crate::http::tls::Tls;
use crate::http::{self, App};
use crate::pause::Pauses;
use crate::retention;
use crate::sandbox::{Sandbox, SandboxOptions};
use crate::status::Board;
use crate::subjects::Subjects;

/// Threads for HTTP, timers and the watching of files. Guests run on threads of their own.
const THREADS: usize = 2;
/// The limits of a dead-letter queue that `[queues]` does not name.
const DEAD_LETTERS: QueueLimits = QueueLimits::DEAD_LETTERS;
/// Connections that wait to be accepted; the system may allow fewer.
const BACKLOG: u32 = 4096;
/// How often to ask whether the queue engine still confirms.
const FAILURE_CHECK: Duration = Duration::from_millis(250);
/// How long HTTP clients have to get their answers once everything else has ended.
const HTTP_PATIENCE: Duration = Duration::from_secs(5);

/// The arguments of `linecook run`.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// How log lines on stderr look
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    /// The least important lines that are written
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    log_level: LogLevel,
}

/// Runs until SIGTERM or SIGINT, then drains. A second signal ends the process at once, with exit code 1.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let config = config::load_to_run(&context.config_path)?;
    logging::start(args.log_format, args.log_level);
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("linecook-io")
        .enable_all()
        .build()
        .map_err(|error| Failed::new("can't start threads").because(error))?;
    let result = runtime.block_on(serve(&config, args.log_format));
    // A load or a build that is still under way on a blocking thread must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Allows as many open files as the system lets this process have: guests hold sockets and files of their own beside the
/// log's and the clients', and the usual 1024 are for programs that use `select`.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}

async fn serve(config: &Config, log_format: LogFormat) -> CommandResult {
    let mut stop = StopSignals::new()?;
    let listener = bind(config.runtime.listen).await?;
    let address = listener.local_addr().unwrap_or(config.runtime.listen);
    let tls = config.runtime.tls.as_ref().map(|tls| Tls::open(&tls.files)).transpose();
    let tls = tls.map_err(|error| Failed::new("can't use the certificate of [runtime.tls]").because(error))?;
    let tls = tls.map(Arc::new);
    let store = open(&config.runtime.data_dir, config.runtime.log_bytes_max)?;
    let broker: Arc<dyn Broker> = store.clone();
    declare(&*broker, config).await?;

    let subjects = Arc::new(Subjects::new(config.subscriptions()));
    let consumers: Vec<_> = config.consumers.values().cloned().collect();
    let shares = Shares::new(&consumers, config.runtime.workers);
    let sandbox = Sandbox::start(SandboxOptions {
        workers: config.runtime.workers,
        slots: shares.slots(),
        cache_dir: config.runtime.data_dir.join("cache"),
        ca_file: config.runtime.ca_file.clone(),
    })
    .map_err(|error| Failed::new("can't start the workers").because(error))?
    .with_subjects(subjects.clone());
    let pauses = Pauses::open(&config.runtime.data_dir)
        .map_err(|error| Failed::new("can't read which consumers are paused").because(error))?;
    let board = Arc::new(Board::with_pauses(pauses));
    // Before HTTP answers, so that no client sees a runtime without consumers.
    let dispatcher = Dispatcher::start(sandbox, &shares, broker.clone(), board.clone(), consumers);
    let (stop_http, http_stopped) = oneshot::channel::<()>();
    let app = App {
        broker: broker.clone(),
        board,
        subjects,
        auth: Arc::new(Auth::new(config.runtime.auth.as_deref())),
        // The name of the certificate is this runtime's as well.
        host_names: config
            .runtime
            .host_names
            .iter()
            .chain(config.runtime.tls.as_ref().map(|tls| &tls.name))
            .cloned()
            .collect(),
    };
    let mut http = tokio::spawn(http::serve_with(listener, app, tls.clone(), Timeouts::default(), async {
        // A sender that is dropped says the same.
        _ = http_stopped.await;
    }));
    let certificate = tls.map(|tls| tokio::spawn(async move { tls.follow().await }));
    let retention = tokio::spawn(retention::keep(broker.clone(), retention::rules(config, DEAD_LETTERS)));
    announce(config, address, &shares, log_format);

    let result = tokio::select! {
        name = stop.next() => {
            let limit = humantime::format_duration(config.runtime.drain_timeout);
            tracing::info!("{name}: finishing what is running, for up to {limit}; a second signal stops at once");
            Ok(())
        }
        why = failure(&*broker) => Err(Failed::new("the queue engine has stopped")
            .because(why)
            .hint("what was confirmed is safe; look at the disk, then start again")),
        ended = &mut http => Err(Failed::new(format!("HTTP on {address} has ended")).because(match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => io::Error::other("it was not told to"),
            Err(error) => io::Error::other(error),
        })),
    };
    retention.abort();
    if let Some(certificate) = certificate {
        certificate.abort();
    }
    // A broker that confirms nothing more can't settle what runs: there is nothing to wait for.
    let drain_timeout = if result.is_ok() { config.runtime.drain_timeout } else { Duration::ZERO };
    tokio::select! {
        () = wind_down(dispatcher, drain_timeout, stop_http, http) => {}
        name = stop.next() => {
            let text = "stopped at once; deliveries that were running come back at the next start";
            return Err(Failed::new(format!("a second signal ({name}): {text}")));
        }
    }
    store.close();
    tracing::info!("stopped");
    result
}

/// Lets deliveries end while HTTP still answers (so that `linecook status` shows the draining), then ends HTTP too.
async fn wind_down(
    dispatcher: Dispatcher,
    timeout: Duration,
    stop_http: oneshot::Sender<()>,
    http: tokio::task::JoinHandle<io::Result<()>>,
) {
    let drained = dispatcher.drain(timeout).await;
    if drained.cut_off > 0 {
        tracing::warn!(
            deliveries = drained.cut_off,
            "still running when the time was up; they come back at the next start, their attempt counted"
        );
    }
    drop(stop_http);
    if !http.is_finished() {
        _ = tokio::time::timeout(HTTP_PATIENCE, http).await;
    }
}

/// As [`TcpListener::bind`], with room for more connections that wait to be accepted: when there is none, clients try again
/// after seconds only.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failed> {
    listen(address).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process (a `linecook run`?) has this port: stop it, or set another `listen` under [runtime]"
            }
            io::ErrorKind::PermissionDenied => "set a `listen` under [runtime] with a port above 1023",
            _ => "set a `listen` under [runtime] that is an address of this machine",
        };
        Failed::new(format!("can't listen on {address}")).because(error).hint(hint)
    })
}

fn open(data_dir: &Path, log_bytes_max: u64) -> Result<Arc<Embedded>, Failed> {
    let store = Embedded::open(data_dir, log_bytes_max)
        .map_err(|error| Failed::new(format!("can't open the data folder {}", data_dir.display())).because(error))?;
    Ok(Arc::new(store))
}

/// Makes all queues known: those of the file, and the dead-letter queues that it does not name.
async fn declare(broker: &dyn Broker, config: &Config) -> CommandResult {
    let dead: BTreeSet<&QueueName> = config.consumers.values().map(|consumer| &consumer.dead_letter_queue).collect();
    let named = config.queues.iter().map(|(name, queue)| (name, queue.limits()));
    let unnamed = dead.into_iter().filter(|name| !config.queues.contains_key(*name));
    for (name, limits) in named.chain(unnamed.map(|name| (name, DEAD_LETTERS))) {
        broker
            .declare(name, limits)
            .await
            .map_err(|error| Failed::new(format!("can't declare queue {name}")).because(error))?;
    }
    // Dead-letter queues of queues without a consumer are made when they are first needed. Those that were are known again.
    for name in config.queues.keys().filter_map(|name| QueueName::new(&format!("{name}.dead")).ok()) {
        if !config.queues.contains_key(&name) && broker.queue(&name).await.is_ok() {
            let declared = broker.declare(&name, DEAD_LETTERS).await;
            declared.map_err(|error| Failed::new(format!("can't declare queue {name}")).because(error))?;
        }
    }
    Ok(())
}

/// Ends when the broker has stopped, and says why.
async fn failure(broker: &dyn Broker) -> String {
    loop {
        if let Some(why) = broker.failure() {
            return why;
        }
        tokio::time::sleep(FAILURE_CHECK).await;
    }
}

/// What was started, on stderr: for people a short table, for programs a log line.
fn announce(config: &Config, address: SocketAddr, shares: &Shares, log_format: LogFormat) {
    let version = env!("CARGO_PKG_VERSION");
    if log_format == LogFormat::Json {
        let (queues, consumers) = (config.queues.len(), config.consumers.len());
        tracing::info!(version, %address, data_dir = %config.runtime.data_dir.display(), queues, consumers, "listening");
    } else {
        let scheme = if config.runtime.tls.is_some() { "https" } else { "http" };
        let data_dir = config.runtime.data_dir.display();
        let mut text = format!("linecook {version}: {scheme}://{address}, data in {data_dir}\n");
        for (name, consumer) in &config.consumers {
            let from = match &consumer.source {
                Source::Package(path) => format!("built from {}", path.display()),
                Source::Component(path) => path.display().to_string(),
            };
            text.push_str(&format!("  {} → {name} ({from})\n", consumer.queue));
        }
        let worked_off = |queue: &QueueName| config.consumers.values().any(|consumer| consumer.queue == *queue);
        for queue in config.queues.keys().filter(|queue| !worked_off(queue)) {
            text.push_str(&format!("  {queue}\n"));
        }
        // A closed stderr is no reason not to run.
        _ = io::stderr().write_all(text.as_bytes());
    }
    if !shares.cut.is_empty() {
        let consumers = shares.cut.join(", ");
        tracing::warn!(consumers, "run fewer deliveries at once than max_concurrency: the workers have no more room");
    }
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on neither ends the process by itself.
    fn new() -> Result<StopSignals, Failed> {
        let listen = |kind| signal(kind).map_err(|error| Failed::new("can't listen for signals").because(error));
        Ok(StopSignals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for the next one and names it.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
