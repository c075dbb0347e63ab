//! Clients that mean harm, or are broken: the runtime goes on answering the others, and gets back what they held.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{LONG, Runtime, Site, eventually, when};

/// Memory that may stay with the runtime after an attack, whose peak is several times that where bodies are large.
const KEPT_MIB: u64 = 100;

fn connect(site: &Site) -> TcpStream {
    let stream = TcpStream::connect(site.address()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// What comes until the connection ends. One that is reset has ended too.
fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&part[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break,
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn descriptors(runtime: &Runtime) -> usize {
    fs::read_dir(format!("/proc/{}/fd", runtime.id())).unwrap().count()
}

fn resident_mib(runtime: &Runtime) -> u64 {
    runtime.resident_bytes() >> 20
}

/// What a runtime holds before it is attacked.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    resident_mib: u64,
}

impl Held {
    fn by(runtime: &Runtime) -> Held {
        Held { descriptors: descriptors(runtime), resident_mib: resident_mib(runtime) }
    }

    /// Waits until it holds no more than before, but for what the allocator and the store's caches keep.
    #[track_caller]
    fn wait_back(&self, runtime: &Runtime) {
        eventually("memory and descriptors that come back", || {
            let now = Held::by(runtime);
            let is_back = now.descriptors <= self.descriptors + 5 && now.resident_mib <= self.resident_mib + KEPT_MIB;
            when(is_back, format!("{now:?}, before: {self:?}"))
        });
    }
}

fn works(site: &Site) {
    assert_eq!(site.post("/queues/orders/messages", "x").status, 202);
}

#[test]
fn thousands_of_idle_connections_hold_up_nobody_and_are_let_go() {
    raise_file_limit();
    let site = Site::new("[queues.orders]");
    let runtime = site.start();
    let before = Held::by(&runtime);
    let mut most = 0;
    let idle: Vec<_> = (0..5000)
        .map(|number| {
            let stream = connect(&site);
            if number % 500 == 0 {
                works(&site);
                most = most.max(descriptors(&runtime));
            }
            stream
        })
        .collect();
    works(&site);
    // On a machine that is slow to connect, the first may have been let go by now.
    most = most.max(descriptors(&runtime));
    assert!(most > before.descriptors + 2000, "{most} descriptors at most, {before:?} before");
    assert!(resident_mib(&runtime) < 400, "{} MiB", resident_mib(&runtime));
    // The runtime lets go of those who ask nothing, without them.
    before.wait_back(&runtime);
    drop(idle);
    works(&site);
}

#[test]
fn more_connections_than_there_may_be_are_told_so() {
    raise_file_limit();
    let site = Site::new("[queues.orders]");
    let _runtime = site.start();
    let mut held = Vec::new();
    let refused = loop {
        let mut stream = connect(&site);
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut head = [0; 12];
        match stream.read_exact(&mut head) {
            Ok(()) if head.ends_with(b"200") => held.push(stream),
            Ok(()) => break String::from_utf8_lossy(&head).into_owned() + &read_to_end(&mut stream),
            // The refusal may be overtaken by the end of the connection.
            Err(_) => break String::new(),
        }
        assert!(held.len() <= 8192, "there is no end to them");
    };
    assert_eq!(held.len(), 8192);
    assert!(refused.is_empty() || (refused.contains("503") && refused.contains("retry-after: 1")), "{refused}");
    held.truncate(8000);
    eventually("room again", || {
        site.request("GET", "/healthz", &[], b"")
            .map_err(|error| error.to_string())
            .and_then(|answer| when(answer.status == 200, answer.status))
    });
}

#[test]
fn headers_that_drip_are_cut_off() {
    let site = Site::new("[queues.orders]");
    let runtime = site.start();
    let before = Held::by(&runtime);
    let mut slow: Vec<_> = (0..200).map(|_| connect(&site)).collect();
    for stream in &mut slow {
        stream.write_all(b"POST /queues/orders/messages HTTP/1.1\r\nhost: localhost\r\n").unwrap();
    }
    // A byte now and then does not help them.
    eventually("an end", || {
        works(&site);
        slow.retain_mut(|stream| stream.write_all(b"a").is_ok());
        when(slow.is_empty(), slow.len())
    });
    before.wait_back(&runtime);
}

#[test]
fn bodies_that_stop_halfway_hold_up_nobody() {
    let site = Site::new("[queues.orders]");
    let runtime = site.start();
    let before = Held::by(&runtime);
    let head = "POST /queues/orders/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    let part = [head.as_bytes(), &vec![b'x'; 500_000]].concat();
    let mut stuck: Vec<_> = (0..100).map(|_| connect(&site)).collect();
    for stream in &mut stuck {
        stream.write_all(&part).unwrap();
    }
    // Half of them go without a word, the others wait.
    stuck.truncate(50);
    works(&site);
    for stream in &mut stuck {
        assert!(read_to_end(stream).starts_with("HTTP/1.1 408"));
    }
    before.wait_back(&runtime);
    assert_eq!(site.count("orders"), 1);
}

#[test]
fn bodies_have_a_bound_in_common() {
    let site = Site::new("[queues.orders]");
    let runtime = site.start();
    let before = Held::by(&runtime);
    // 8 MiB each, of which nearly all arrives: more than 256 MiB in all.
    let mebibytes = 8;
    let head = format!(
        "POST /queues/orders/messages/batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        mebibytes << 20
    );
    let body = vec![b'x'; (mebibytes << 20) - 1];
    let mut greedy: Vec<_> = (0..40).map(|_| connect(&site)).collect();
    std::thread::scope(|scope| {
        for stream in &mut greedy {
            scope.spawn(|| {
                stream.write_all(head.as_bytes()).unwrap();
                // Whoever is refused may be cut off while sending.
                _ = stream.write_all(&body);
            });
        }
    });
    let most = resident_mib(&runtime).saturating_sub(before.resident_mib);
    assert!(most < 700, "{most} MiB for bodies");
    // There is no room for any more, which is said, until those who hold it have run out of time.
    let (mut busy, mut late) = (0, 0);
    for stream in &mut greedy {
        let answer = read_to_end(stream).to_ascii_lowercase();
        busy += usize::from(answer.starts_with("http/1.1 503") && answer.contains("retry-after: 1"));
        late += usize::from(answer.starts_with("http/1.1 408"));
    }
    assert!(busy >= 1 && late >= 1 && busy + late <= 40, "{busy} were refused, {late} were late");
    eventually("room again", || {
        let answer = site.post("/queues/orders/messages", vec![b'x'; 100_000]);
        when(answer.status == 202, answer.body)
    });
    drop(greedy);
    before.wait_back(&runtime);
}

#[test]
fn answers_that_nobody_reads_have_a_bound_in_common() {
    let site = Site::new("[queues.orders]\n[queues.large]");
    let runtime = site.start();
    for _ in 0..64 {
        assert_eq!(site.post("/queues/large/messages", vec![b'x'; 1 << 18]).status, 202);
    }
    let before = Held::by(&runtime);
    // 8 MiB each, nearly 1 GiB in all. Sockets hold a few MiB of each.
    let greedy: Vec<_> = (0..120)
        .map(|_| {
            let mut stream = connect(&site);
            stream.write_all(b"GET /queues/large/messages?limit=64 HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            // The status comes when the answer is made.
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            (stream, head.ends_with(b"200"))
        })
        .collect();
    let most = resident_mib(&runtime).saturating_sub(before.resident_mib);
    assert!(most < 500, "{most} MiB for answers");
    let served = greedy.iter().filter(|(_, served)| *served).count();
    assert!((32..50).contains(&served), "{served} were served");
    // The others are told so, and nothing is claimed in vain; what needs no large answer goes on.
    for path in ["/queues/large/claim", "/queues/large/claim/event"] {
        let refused = site.post(path, "");
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.body);
    }
    works(&site);
    // Those who read nothing are cut off after a while, without their doing.
    eventually("room again", || {
        let answer = site.request("GET", "/queues/large/messages?limit=64", &[], b"").unwrap();
        when(answer.status == 200, answer.status)
    });
    before.wait_back(&runtime);
    drop(greedy);
    let large = site.get("/queues/large");
    assert_eq!((&large["ready"], &large["leased"]), (&64.into(), &0.into()));
}

#[test]
fn headers_of_a_megabyte_are_refused() {
    let site = Site::new("[queues.orders]");
    let runtime = site.start();
    let before = Held::by(&runtime);
    for header in [format!("x: {}\r\n", "a".repeat(1 << 20)), "x: a\r\n".repeat((1 << 20) / 6)] {
        let mut stream = connect(&site);
        // It may be cut off while it sends.
        _ = stream.write_all(b"GET /queues HTTP/1.1\r\nhost: localhost\r\n");
        _ = stream.write_all(header.as_bytes());
        _ = stream.write_all(b"\r\n");
        let answer = read_to_end(&mut stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        works(&site);
    }
    let path = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(1 << 20));
    let mut stream = connect(&site);
    _ = stream.write_all(path.as_bytes());
    let answer = read_to_end(&mut stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    works(&site);
    before.wait_back(&runtime);
}

#[test]
fn half_closed_connections_get_their_answers_and_are_let_go() {
    let site = Site::new("[queues.orders]");
    let runtime = site.start();
    let before = Held::by(&runtime);
    let mut half: Vec<_> = (0..500).map(|_| connect(&site)).collect();
    for (index, stream) in half.iter_mut().enumerate() {
        if index % 2 == 0 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (index, stream) in half.iter_mut().enumerate() {
        let answer = read_to_end(stream);
        assert_eq!(answer.starts_with("HTTP/1.1 200"), index % 2 == 0, "{answer}");
    }
    works(&site);
    before.wait_back(&runtime);
}

#[test]
fn compressed_bodies_are_not_unpacked() {
    let site = Site::new("[queues.orders]");
    let _runtime = site.start();
    let bomb = [("content-encoding", "gzip")];
    assert_eq!(site.request("POST", "/queues/orders/messages", &bomb, &[0x1f, 0x8b, 8, 0]).unwrap().status, 415);
}

#[test]
fn web_pages_of_others_are_refused() {
    let site = Site::with_runtime("log_max_bytes = \"64MiB\"\nhost_names = [\"queues.internal\"]", "[queues.orders]");
    let _runtime = site.start();
    let post = |host: &str, more: &str| {
        let mut stream = connect(&site);
        write!(
            stream,
            "POST /queues/orders/messages HTTP/1.1\r\nhost: {host}\r\n{more}content-length: 1\r\nconnection: close\r\n\r\nx"
        )
        .unwrap();
        read_to_end(&mut stream)
    };
    let port = site.address().port();
    assert!(post("rebound.example", "").starts_with("HTTP/1.1 403"));
    assert!(post(&format!("127.0.0.1:{port}"), "origin: http://evil.example\r\n").starts_with("HTTP/1.1 403"));
    assert!(
        post(&format!("localhost:{port}"), &format!("origin: http://localhost:{port}\r\n")).starts_with("HTTP/1.1 202")
    );
    assert!(post("queues.internal", "").starts_with("HTTP/1.1 202"));
    assert_eq!(site.count("orders"), 2);
}

/// 8,192 connections, and both of their ends may be in this process's count.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    assert!(limit.maximum.is_none_or(|most| most >= 10_000), "too few files may be open: ulimit -Hn says {limit:?}");
}
