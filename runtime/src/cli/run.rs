//! `linecook run`: builds and starts what `queue.toml` declares, and runs until it is told to stop.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, oneshot};

use super::logging::{self, LogFormat, LogLevel};
use super::{CommandResult, Context, Failed};
use crate::auth::Auth;
use crate::broker::Broker;
use crate::broker::embedded::Embedded;
use crate::config::{self, Config, Source};
use crate::delivery::QueueName;
use crate::dispatch::{Dispatcher, Shares};
use crate::history;
use crate::http::limits::Timeouts;
use crate::http::tls::Tls;
use crate::http::{self, App};
use crate::pause::Pauses;
use crate::producers::Producers;
use crate::producers::clock::SystemClock;
use crate::reconfigure::parts::{self, Access, Consumers, Fixed, Queues, Retention};
use crate::reconfigure::{Part, Reconfigurer};
use crate::retention;
use crate::sandbox::{Sandbox, SandboxOptions};
use crate::status::Board;
use crate::subjects::Subjects;

/// Threads for HTTP, timers and the watching of files. Guests run on threads of their own.
const THREADS: usize = 2;
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
    let text = config::read(&context.config_path)?;
    let config = Arc::new(config::parse_to_run(&text, &context.config_path)?);
    logging::start(args.log_format, args.log_level);
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("linecook-io")
        .on_thread_start(crate::io_threads::do_not_preempt)
        .enable_all()
        .build()
        .map_err(|error| Failed::new("can't start threads").because(error))?;
    let result = runtime.block_on(serve(config, &text, args.log_format));
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

async fn serve(config: Arc<Config>, text: &str, log_format: LogFormat) -> CommandResult {
    let mut stop = StopSignals::new()?;
    let mut hangup = listen(SignalKind::hangup())?;
    let listener = bind(config.runtime.listen)?;
    let address = listener.local_addr().unwrap_or(config.runtime.listen);
    let tls = config.runtime.tls.as_ref().map(|tls| Tls::open(&tls.files)).transpose();
    let tls = tls.map_err(|error| Failed::new("can't use the certificate of [runtime.tls]").because(error))?;
    let tls = tls.map(Arc::new);
    let store = open(&config.runtime.data_dir, config.runtime.log_bytes_max)?;
    let broker: Arc<dyn Broker> = store.clone();
    let subjects = Arc::new(Subjects::default());
    let queues = Queues { broker: broker.clone(), subjects: subjects.clone() };
    queues.follow(&config).await.map_err(|error| Failed::new("can't declare the queues").because(error))?;

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
    let producers = Arc::new(Producers::new(broker.clone(), subjects.clone(), board.clone(), Arc::new(SystemClock)));
    producers.apply(&config.producers).await;
    let rules = Retention::new(&config);
    let retention = tokio::spawn(retention::keep(broker.clone(), rules.rules()));
    announce(&config, address, log_format);
    dispatcher.tell_cut();
    let dispatcher = Arc::new(Mutex::new(dispatcher));
    let auth = Arc::new(Auth::new(config.runtime.auth.as_deref()));
    let access = Access::new(auth.clone(), &config);
    let host_names = access.host_names();
    // In this order; what else follows queue.toml goes behind what it needs.
    let parts: Vec<Box<dyn Part>> = vec![
        Box::new(Fixed),
        Box::new(queues),
        Box::new(Consumers::new(dispatcher.clone())),
        Box::new(rules),
        Box::new(parts::Producers(producers.clone())),
        Box::new(access),
    ];
    let mut reconfigurer = Reconfigurer::new(config, text, parts, board.clone());
    let (stop_http, http_stopped) = oneshot::channel::<()>();
    let app = App { broker: broker.clone(), board, webhooks: producers.webhooks(), subjects, auth, host_names };
    let mut http = tokio::spawn(http::serve_with(listener, app, tls.clone(), Timeouts::default(), async {
        // A sender that is dropped says the same.
        _ = http_stopped.await;
    }));
    let given_up = tokio::spawn(history::tell_what_is_given_up(broker.clone()));
    let certificate = tls.map(|tls| tokio::spawn(async move { tls.follow().await }));

    let result = tokio::select! {
        name = stop.next() => {
            Ok(name)
        }
        () = reconfigurer.follow(async || _ = hangup.recv().await) => unreachable!("it follows for ever"),
        why = failure(&*broker) => Err(Failed::new("the queue engine has stopped")
            .because(why)
            .hint("what was confirmed is safe; look at the disk, then start again")),
        ended = &mut http => Err(Failed::new(format!("HTTP on {address} has ended")).because(match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => io::Error::other("it was not told to"),
            Err(error) => io::Error::other(error),
        })),
    };
    // First, so that nothing new comes while the rest is finished.
    producers_stopped(&producers, reconfigurer.in_force().runtime.drain_timeout, &mut stop).await?;
    retention.abort();
    given_up.abort();
    if let Some(certificate) = certificate {
        certificate.abort();
    }
    let mut drain_timeout = Duration::ZERO;
    if let Ok(name) = &result {
        drain_timeout = reconfigurer.in_force().runtime.drain_timeout;
        let limit = humantime::format_duration(drain_timeout);
        tracing::info!("{name}: finishing what is running, for up to {limit}; a second signal stops at once");
    }
    drop(reconfigurer);
    let dispatcher = Arc::into_inner(dispatcher).expect("nobody follows queue.toml any more").into_inner();
    // A broker that confirms nothing more can't settle what runs: there is nothing to wait for.
    tokio::select! {
        () = wind_down(dispatcher, drain_timeout, stop_http, http) => {}
        name = stop.next() => return Err(stopped_at_once(name)),
    }
    store.close();
    tracing::info!("stopped");
    result.map(drop)
}

/// Ends the producers. They only finish what they have begun to send, which takes as long as the disk takes.
/// A file system that does not answer is not waited for longer than for anything else.
async fn producers_stopped(producers: &Producers, timeout: Duration, stop: &mut StopSignals) -> CommandResult {
    tokio::select! {
        ended = tokio::time::timeout(timeout.max(HTTP_PATIENCE), producers.stop()) => {
            if ended.is_err() {
                tracing::warn!("not all producers have ended in time; they go on where they were at the next start");
            }
            Ok(())
        }
        name = stop.next() => Err(stopped_at_once(name)),
    }
}

fn stopped_at_once(signal: &str) -> Failed {
    let text = "stopped at once; deliveries that were running come back at the next start";
    Failed::new(format!("a second signal ({signal}): {text}"))
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
fn open_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind(address: SocketAddr) -> Result<TcpListener, Failed> {
    open_listener(address).map_err(|error| {
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
fn announce(config: &Config, address: SocketAddr, log_format: LogFormat) {
    let version = env!("CARGO_PKG_VERSION");
    if log_format == LogFormat::Json {
        let (queues, consumers) = (config.queues.len(), config.consumers.len());
        let producers = config.producers.len();
        tracing::info!(version, %address, data_dir = %config.runtime.data_dir.display(), queues, consumers, producers, "listening");
    } else {
        let scheme = if config.runtime.tls.is_some() { "https" } else { "http" };
        let data_dir = config.runtime.data_dir.display();
        let mut text = format!("linecook {version}: {scheme}://{address}, data in {data_dir}\n");
        for (name, producer) in &config.producers {
            text.push_str(&format!("  {name} ({}) → {}\n", producer.kind.name(), producer.target.name()));
        }
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
}

fn listen(kind: SignalKind) -> Result<Signal, Failed> {
    signal(kind).map_err(|error| Failed::new("can't listen for signals").because(error))
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on neither ends the process by itself.
    fn new() -> Result<StopSignals, Failed> {
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
