//! `wasi:sockets`, as far as it is granted: looking up the names of granted servers, and connecting to them.
//!
//! A guest connects to an address, not to a name. So the addresses that a granted name has just resolved to, by this
//! delivery's own lookup, may be connected to at the ports that the name is granted with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec;

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{self, HostResolveAddressStream, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketError, SocketResult, subscribe};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsCtxView};

use super::connection::look_up;
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
                    self.access.tell_denied(&self.settings, Grant::Tcp, &address.to_string(), &what);
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
            self.access.tell_denied(&self.settings, Grant::Tcp, &format!("{name}:PORT"), &what);
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
        self.wasi.table.get(&network)?;
        let (lookup, ports) = match Host::parse_bare(&name) {
            // Nothing is looked up, and nothing is gained: connecting to it is checked.
            Some(Host::Address(address)) => (Lookup::Done(Ok(vec![address].into_iter())), Vec::new()),
            Some(Host::Name(name)) => {
                let sockets = self.sockets.as_ref().ok_or(ErrorCode::AccessDenied)?;
                let ports = sockets.lookup(&name).ok_or(ErrorCode::AccessDenied)?;
                (Lookup::start(name, sockets.access.lookups.clone()), ports)
            }
            None => return Err(ErrorCode::InvalidArgument.into()),
        };
        let rep = self.wasi.table.push(lookup)?.rep();
        if let Some(sockets) = self.sockets.as_ref().filter(|_| !ports.is_empty()) {
            sockets.found().lookups.insert(rep, ports);
        }
        Ok(Resource::new_own(rep))
    }
}

// To the guest it is the interface's stream of addresses, to the table of handles a `Lookup`.
impl HostResolveAddressStream for Names<'_> {
    fn resolve_next_address(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> Result<Option<IpAddress>, SocketError> {
        let rep = stream.rep();
        let address = self.wasi.table.get_mut(&Resource::<Lookup>::new_borrow(rep))?.next()?;
        if let (Some(address), Some(sockets)) = (address, &self.sockets) {
            let Found { addresses, lookups } = &mut *sockets.found();
            addresses.extend(lookups.get(&rep).into_iter().flatten().map(|port| SocketAddr::new(address, *port)));
        }
        Ok(address.map(ip_address))
    }

    fn subscribe(&mut self, stream: Resource<ResolveAddressStream>) -> Result<Resource<DynPollable>> {
        subscribe(self.wasi.table, Resource::<Lookup>::new_borrow(stream.rep()))
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> Result<()> {
        if let Some(sockets) = &self.sockets {
            sockets.found().lookups.remove(&stream.rep());
        }
        self.wasi.table.delete(Resource::<Lookup>::new_own(stream.rep()))?;
        Ok(())
    }
}

/// The addresses of a name, once they are there. As HTTP's lookups it waits for its turn, since the system's resolver has a
/// thread for each.
enum Lookup {
    Running(AbortOnDropJoinHandle<Result<vec::IntoIter<IpAddr>, ErrorCode>>),
    Done(Result<vec::IntoIter<IpAddr>, ErrorCode>),
}

impl Lookup {
    fn start(name: String, lookups: Arc<Semaphore>) -> Lookup {
        Lookup::Running(spawn(async move {
            let found = look_up(&name, 0, &lookups).await.map_err(|_| ErrorCode::NameUnresolvable)?;
            let addresses: Vec<_> = found.into_iter().map(|address| address.ip().to_canonical()).collect();
            Ok(addresses.into_iter())
        }))
    }

    fn next(&mut self) -> Result<Option<IpAddr>, ErrorCode> {
        if let Lookup::Running(task) = self {
            *self = Lookup::Done(task.now_or_never().ok_or(ErrorCode::WouldBlock)?);
        }
        match self {
            Lookup::Running(_) => Err(ErrorCode::WouldBlock),
            Lookup::Done(Ok(addresses)) => Ok(addresses.next()),
            Lookup::Done(Err(error)) => Err(*error),
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let Lookup::Running(task) = self {
            *self = Lookup::Done(task.await);
        }
    }
}

fn ip_address(address: IpAddr) -> IpAddress {
    match address {
        IpAddr::V4(address) => IpAddress::Ipv4(address.octets().into()),
        IpAddr::V6(address) => IpAddress::Ipv6(address.segments().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lookup_waits_for_its_turn_and_gives_it_back() {
        let lookups = Arc::new(Semaphore::new(1));
        let permit = lookups.clone().acquire_owned().await.unwrap();
        let mut waiting = [0; 3].map(|_| Lookup::start("localhost".to_owned(), lookups.clone()));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(waiting.iter_mut().all(|lookup| matches!(lookup.next(), Err(ErrorCode::WouldBlock))));
        drop(permit);
        for mut lookup in waiting {
            lookup.ready().await;
            assert!(lookup.next().unwrap().is_some_and(|address| address.is_loopback()));
        }
        // One that nobody waits for any more has its turn until the resolver has come back.
        drop(Lookup::start("localhost".to_owned(), lookups.clone()));
        _ = lookups.acquire().await.unwrap();
        // A name that no resolver is asked for.
        let mut unknown = Lookup::start("no\0name".to_owned(), lookups);
        unknown.ready().await;
        assert!(matches!(unknown.next(), Err(ErrorCode::NameUnresolvable)));
    }
}
