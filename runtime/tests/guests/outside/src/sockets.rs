//! Sockets by the standard library, or by `wasi:sockets` itself where that has none.

#[cfg(not(target_env = "p1"))]
pub(crate) use by_std::{exchange, listen, look_up, udp};
#[cfg(target_env = "p1")]
pub(crate) use by_wasi::{exchange, listen, look_up, udp};

#[cfg(not(target_env = "p1"))]
mod by_std {
    use std::io::{Read, Result, Write};
    use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};

    /// Connects, sends, and gives what comes back.
    pub(crate) fn exchange(to: &str, send: &str) -> Result<String> {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(send.as_bytes())?;
        let mut received = String::new();
        stream.read_to_string(&mut received)?;
        Ok(received)
    }

    /// Listens for connections.
    pub(crate) fn listen(at: &str) -> Result<()> {
        TcpListener::bind(at).map(drop)
    }

    /// Makes a socket for datagrams.
    pub(crate) fn udp() -> Result<()> {
        UdpSocket::bind("0.0.0.0:0").map(drop)
    }

    /// How many addresses a name has.
    pub(crate) fn look_up(name: &str) -> Result<usize> {
        Ok((name, 80).to_socket_addrs()?.count())
    }
}

#[cfg(target_env = "p1")]
mod by_wasi {
    use std::io::{Error, Result};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    use wasip2::io::streams::StreamError;
    use wasip2::sockets::instance_network::instance_network;
    use wasip2::sockets::ip_name_lookup::resolve_addresses;
    use wasip2::sockets::network::{
        ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
    };
    use wasip2::sockets::tcp::TcpSocket;
    use wasip2::sockets::tcp_create_socket::create_tcp_socket;
    use wasip2::sockets::udp_create_socket::create_udp_socket;

    /// Connects, sends, and gives what comes back.
    pub(crate) fn exchange(to: &str, send: &str) -> Result<String> {
        let mut last = Error::other("no address");
        for address in addresses(to)? {
            match exchange_with(address, send) {
                Ok(received) => return Ok(received),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn exchange_with(to: SocketAddr, send: &str) -> Result<String> {
        let socket = socket_for(to)?;
        socket.start_connect(&instance_network(), address_of(to)).map_err(failed)?;
        let (input, output) = loop {
            match socket.finish_connect() {
                Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
                finished => break finished.map_err(failed)?,
            }
        };
        output.blocking_write_and_flush(send.as_bytes()).map_err(Error::other)?;
        let mut received = Vec::new();
        loop {
            match input.blocking_read(4096) {
                Ok(bytes) => received.extend(bytes),
                Err(StreamError::Closed) => break,
                Err(error) => return Err(Error::other(error)),
            }
        }
        String::from_utf8(received).map_err(Error::other)
    }

    /// Listens for connections.
    pub(crate) fn listen(at: &str) -> Result<()> {
        let at: SocketAddr = at.parse().map_err(Error::other)?;
        let socket = socket_for(at)?;
        socket.start_bind(&instance_network(), address_of(at)).map_err(failed)?;
        socket.finish_bind().map_err(failed)?;
        socket.start_listen().map_err(failed)?;
        socket.finish_listen().map_err(failed)
    }

    /// Makes a socket for datagrams.
    pub(crate) fn udp() -> Result<()> {
        let any = address_of((Ipv4Addr::UNSPECIFIED, 0).into());
        let socket = create_udp_socket(IpAddressFamily::Ipv4).map_err(failed)?;
        socket.start_bind(&instance_network(), any).map_err(failed)?;
        socket.finish_bind().map_err(failed)
    }

    /// How many addresses a name has.
    pub(crate) fn look_up(name: &str) -> Result<usize> {
        found(name).map(|found| found.len())
    }

    fn addresses(to: &str) -> Result<Vec<SocketAddr>> {
        if let Ok(address) = to.parse() {
            return Ok(vec![address]);
        }
        let (name, port) = to.rsplit_once(':').ok_or_else(|| Error::other("no port"))?;
        let port: u16 = port.parse().map_err(Error::other)?;
        Ok(found(name)?.into_iter().map(|address| (address, port).into()).collect())
    }

    fn found(name: &str) -> Result<Vec<IpAddr>> {
        let answers = resolve_addresses(&instance_network(), name).map_err(failed)?;
        let mut found = Vec::new();
        loop {
            match answers.resolve_next_address() {
                Ok(Some(IpAddress::Ipv4((a, b, c, d)))) => found.push(Ipv4Addr::new(a, b, c, d).into()),
                Ok(Some(IpAddress::Ipv6((a, b, c, d, e, f, g, h)))) => {
                    found.push(Ipv6Addr::new(a, b, c, d, e, f, g, h).into());
                }
                Ok(None) => return Ok(found),
                Err(ErrorCode::WouldBlock) => answers.subscribe().block(),
                Err(code) => return Err(failed(code)),
            }
        }
    }

    fn socket_for(address: SocketAddr) -> Result<TcpSocket> {
        let family = if address.is_ipv4() { IpAddressFamily::Ipv4 } else { IpAddressFamily::Ipv6 };
        create_tcp_socket(family).map_err(failed)
    }

    fn address_of(address: SocketAddr) -> IpSocketAddress {
        let port = address.port();
        match address.ip() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h] = ip.segments();
                let address = (a, b, c, d, e, f, g, h);
                IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
            }
        }
    }

    fn failed(code: ErrorCode) -> Error {
        Error::other(code)
    }
}
