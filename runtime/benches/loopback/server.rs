//! A server that somebody else has started on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use crate::Error;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pid: u32,
}

impl Server {
    /// From `PORT:PID`.
    pub(crate) fn new(text: &str) -> Result<Server, Error> {
        let (port, pid) = text.split_once(':').ok_or_else(|| format!("{text:?} is not PORT:PID"))?;
        Ok(Server { address: (Ipv4Addr::LOCALHOST, port.parse()?).into(), pid: pid.parse()? })
    }

    pub(crate) fn connect(&self) -> Result<TcpStream, Error> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// What its process has used so far, user and system.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Error> {
        /// Linux counts for programs in hundredths of a second, whatever it does itself.
        const TICKS_PER_SECOND: f64 = 100.0;
        let path = format!("/proc/{}/stat", self.pid);
        let stat = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        // The name of the process may hold anything, so count from its end.
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
        let mut ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let mut next = || ticks.next().ok_or("no times in stat");
        Ok((next()?? + next()??) as f64 / TICKS_PER_SECOND)
    }
}
