//! The same with a client that everybody has.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::client::Measured;
use crate::server::Server;
use crate::settings::{QUEUE, Settings, body};

/// What `wrk` runs: it prints one line that is for us.
const SCRIPT: &str = r#"
wrk.method = "POST"
wrk.headers["Content-Type"] = "text/plain"
wrk.body = BODY
function done(summary, latency)
   local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
   print(string.format("measured %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
      latency:percentile(99), failed))
end
"#;

/// `wrk` warms nothing up; its first moments are the connections'.
pub(crate) fn measure(
    server: &Server,
    connections: usize,
    settings: &Settings,
    cpu_seconds: impl Fn() -> Result<f64, Error>,
) -> Result<Measured, Error> {
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(&script, format!("BODY = \"{}\"\n{SCRIPT}", body()))?;
    let cpu_before = cpu_seconds()?;
    let started = Instant::now();
    let output = Command::new("wrk")
        .args(["--threads", "1", "--connections", &connections.to_string()])
        // Whole seconds only.
        .args(["--duration", &settings.round.as_secs().max(1).to_string(), "--script"])
        .arg(script.path())
        .arg(format!("http://{}/queues/{QUEUE}/messages", server.address))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("wrk: {error}"))?;
    let cpu = cpu_seconds()? - cpu_before;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("measured "));
    let numbers: Vec<u64> = line.unwrap_or_default().split(' ').map_while(|number| number.parse().ok()).collect();
    let [requests, duration_us, p50, p99, 0] = numbers[..] else {
        return Err(format!("wrk failed after {:?}: {text}", started.elapsed()).into());
    };
    Ok(Measured {
        rate: requests as f64 / duration_us as f64 * 1e6,
        p50: Duration::from_micros(p50),
        p99: Duration::from_micros(p99),
        cpu_seconds_per_million: cpu / requests as f64 * 1e6,
    })
}
