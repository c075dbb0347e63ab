//! `wasi:sockets`, as far as it is granted: looking up the names of granted servers, and connecting to them.
//!
//! A guest connects to an address, not to a name. So the addresses that a granted name has just resolved to, by this
//! delivery's own lookup, may be connected to at the ports that the name is granted with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    self, HostResolveAddressStream, Pollable, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{SocketError, SocketResult};
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsCtxView};

use super::wasi_sockets;
use crate::config::{Host, TcpGrant};
use crate::sandbox::InstanceSettings;
use crate::sandbox::grants::{Access, Grant};
use crate::sandbox::state::State;

/// What one delivery may connect to.
pub(in crate::sandbox) struct Sockets {
    settings: Arc<InstanceSettings>,
    access: Arc<Access>,
    // A mutex, since the check of an address has to be `Sync`; all of it runs on the worker's thread.
    found: Mutex<Found>,
}

/// What granted names have resolved to.
#[derive(Default)]
struct Found {
    addresses: BTreeSet<SocketAddr>,
    /// The ports that the name of a lookup is granted with, by the lookup's handle.
    lookups: BTreeMap<u32, Vec<u16>>,
}

impl Sockets {
    pub(in crate::sandbox) fn new(settings: &Arc<InstanceSettings>, access: &Arc<Access>) -> Sockets {
        Sockets { settings: settings.clone(), access: access.clone(), found: Mutex::default() }
    }

    /// From now on, it is for another delivery, which has looked nothing up yet.
    pub(in crate::sandbox) fn begin(&self) {
        *self.found() = Found::default();
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a socket may be used so. Only to connect; an unbound socket is bound to any address on the way.
    pub(in crate::sandbox) fn allow(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
            SocketAddrUse::TcpConnect => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let granted = self.granted(&Host::Address(address.ip())).any(|port| port == address.port())
                    || self.found().addresses.contains(&address);
                if !granted {
                    let what = format!("a connection to {address} was refused: it is not granted");
                    self.access.denied.tell(&self.settings, Grant::Tcp, &address.to_string(), &what);
                }
                granted
            }
            _ => false,
        }
    }

    /// The ports that a host is granted with.
    fn granted(&self, host: &Host) -> impl Iterator<Item = u16> {
        let grants: &[TcpGrant] = &self.settings.grants.tcp;
        grants.iter().filter(move |grant| grant.host == *host).map(|grant| grant.port)
    }

    /// The ports of a name that may be looked up.
    fn lookup(&self, name: &str) -> Option<Vec<u16>> {
        let ports: Vec<_> = self.granted(&Host::Name(name.to_owned())).collect();
        if ports.is_empty() {
            let what = format!(
                "looking up {name} was refused: no port of it is granted (for PORT, put the number of the one to connect to)"
            );
            self.access.denied.tell(&self.settings, Grant::Tcp, &format!("{name}:PORT"), &what);
            return None;
        }
        Some(ports)
    }
}

/// Looks up granted names.
struct Names<'s> {
    wasi: WasiSocketsCtxView<'s>,
    sockets: Option<Arc<Sockets>>,
}

struct NameLookup;

impl HasData for NameLookup {
    type Data<'s> = Names<'s>;
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    ip_name_lookup::add_to_linker::<State, NameLookup>(linker, |state| Names {
        sockets: state.sockets.clone(),
        wasi: wasi_sockets(state),
    })
}

// The interface's errors are those of `network`.
impl network::Host for Names<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> Result<ErrorCode> {
        self.wasi.convert_error_code(error)
    }

    fn network_error_code(&mut self, error: Resource<network::Error>) -> Result<Option<ErrorCode>> {
        self.wasi.network_error_code(error)
    }
}

impl network::HostNetwork for Names<'_> {
    fn drop(&mut self, network: Resource<Network>) -> Result<()> {
        network::HostNetwork::drop(&mut self.wasi, network)
    }
}

impl ip_name_lookup::Host for Names<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        let (name, ports) = match Host::parse_bare(&name) {
            // Nothing is looked up, and nothing is gained: connecting to it is checked.
            Some(address @ Host::Address(_)) => (address.to_string(), Vec::new()),
            Some(Host::Name(name)) => {
                let ports = self.sockets.as_ref().and_then(|sockets| sockets.lookup(&name));
                (name, ports.ok_or(ErrorCode::AccessDenied)?)
            }
            None => return Err(ErrorCode::InvalidArgument.into()),
        };
        let stream = ip_name_lookup::Host::resolve_addresses(&mut self.wasi, network, name)?;
        if let Some(sockets) = self.sockets.as_ref().filter(|_| !ports.is_empty()) {
            sockets.found().lookups.insert(stream.rep(), ports);
        }
        Ok(stream)
    }
}

impl HostResolveAddressStream for Names<'_> {
    fn resolve_next_address(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> Result<Option<IpAddress>, SocketError> {
        let rep = stream.rep();
        let address = self.wasi.resolve_next_address(stream)?;
        if let (Some(address), Some(sockets)) = (&address, &self.sockets) {
            let Found { addresses, lookups } = &mut *sockets.found();
            let ip = ip_of(address).to_canonical();
            addresses.extend(lookups.get(&rep).into_iter().flatten().map(|port| SocketAddr::new(ip, *port)));
        }
        Ok(address)
    }

    fn subscribe(&mut self, stream: Resource<ResolveAddressStream>) -> Result<Resource<Pollable>> {
        self.wasi.subscribe(stream)
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> Result<()> {
        if let Some(sockets) = &self.sockets {
            sockets.found().lookups.remove(&stream.rep());
        }
        HostResolveAddressStream::drop(&mut self.wasi, stream)
    }
}

fn ip_of(address: &IpAddress) -> IpAddr {
    match *address {
        IpAddress::Ipv4((a, b, c, d)) => Ipv4Addr::new(a, b, c, d).into(),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => Ipv6Addr::new(a, b, c, d, e, f, g, h).into(),
    }
}
