//! The sockets at which clients arrive. The master binds them, keeps them for as long as their address is configured,
//! and lends them to workers: a queue of waiting clients outlives every worker.
#![expect(clippy::disallowed_methods, reason = "a shell: binds sockets")]

use super::fleet::Sockets;
use cluster::instance::Addr;
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Clients that may wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// The sockets, by the name of their address.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    sockets: BTreeMap<String, Vec<OwnedFd>>,
}

impl Listeners {
    /// Binds what is lacking for these addresses and so many workers. On an error nothing has changed, and the text
    /// says which address and why.
    pub(super) fn ensure(&mut self, addrs: &[Addr], workers: usize) -> Result<(), Vec<String>> {
        let mut added: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        let mut faults = Vec::new();
        for addr in addrs {
            let name = addr.to_string();
            let had = self.sockets.get(&name).map_or(0, Vec::len);
            let wanted = if is_shared(addr) { 1 } else { workers.max(1) };
            match self.bind(addr, had, wanted) {
                Ok(sockets) => _ = added.insert(name, sockets),
                Err(e) => faults.push(format!("listen {name}: {}", explain(&e))),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        for (name, sockets) in added {
            self.sockets.entry(name).or_default().extend(sockets);
        }
        Ok(())
    }

    fn bind(&self, addr: &Addr, had: usize, wanted: usize) -> io::Result<Vec<OwnedFd>> {
        match addr {
            Addr::Unix(path) if had == 0 => Ok(vec![bind_unix(path)?]),
            Addr::Unix(_) => Ok(Vec::new()),
            Addr::Tcp(tcp) => {
                if had == 0 && !self.has_port(tcp.port()) {
                    // SO_REUSEPORT would let two proxies share a port, each with half of the clients, unnoticed.
                    bind_tcp(*tcp, false)?;
                }
                (had..wanted).map(|_| bind_tcp(*tcp, true)).collect()
            }
        }
    }

    fn has_port(&self, port: u16) -> bool {
        let names = self.sockets.keys().filter_map(|name| name.parse::<SocketAddr>().ok());
        names.into_iter().any(|own| own.port() == port)
    }

    /// Takes over a socket of the master image before this one.
    pub(super) fn inherit(&mut self, name: String, socket: OwnedFd) {
        self.sockets.entry(name).or_default().push(socket);
    }

    pub(super) fn get(&self, name: &str, socket: usize) -> Option<BorrowedFd<'_>> {
        self.sockets.get(name)?.get(socket).map(AsFd::as_fd)
    }

    /// Closes our copies; the socket lives on while a worker has one.
    pub(super) fn close(&mut self, name: &str) {
        self.sockets.remove(name);
        if let Some(path) = name.strip_prefix("unix:")
            && let Err(e) = std::fs::remove_file(path)
        {
            tracing::warn!(path, error = %e, "the unix socket's file stays");
        }
    }

    /// Gives back what was bound since there was only this.
    pub(super) fn back_to(&mut self, had: &BTreeMap<String, Sockets>) {
        for name in self.names().into_keys() {
            match (had.get(&name), self.sockets.get_mut(&name)) {
                (Some(before), Some(sockets)) => sockets.truncate(before.count),
                _ => self.close(&name),
            }
        }
    }

    /// What there is at each address.
    pub(super) fn names(&self) -> BTreeMap<String, Sockets> {
        let name = |(name, sockets): (&String, &Vec<OwnedFd>)| {
            (name.clone(), Sockets { count: sockets.len(), shared: name.starts_with("unix:") })
        };
        self.sockets.iter().map(name).collect()
    }

    /// What there is at these addresses.
    pub(super) fn names_of(&self, addrs: &[Addr]) -> BTreeMap<String, Sockets> {
        let mut names = self.names();
        names.retain(|name, _| addrs.iter().any(|a| a.to_string() == *name));
        names
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&String, &OwnedFd)> {
        self.sockets.iter().flat_map(|(name, sockets)| sockets.iter().map(move |s| (name, s)))
    }
}

fn is_shared(addr: &Addr) -> bool {
    matches!(addr, Addr::Unix(_))
}

fn bind_tcp(addr: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?; // 0.0.0.0 and [::] may both be configured
    }
    socket.bind(&addr.into())?;
    if shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    if path.exists() {
        match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(e) => return Err(e),
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

pub(super) fn explain(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::AddrInUse => "another process listens there; stop it, or choose another address".into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        io::ErrorKind::PermissionDenied => "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE".into(),
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// An address that was free a moment ago.
    fn free() -> Addr {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
        Addr::Tcp(taken.local_addr().expect("addr"))
    }

    #[test]
    fn sockets_are_added_and_never_lost() {
        let (mut listeners, addr) = (Listeners::default(), free());
        listeners.ensure(std::slice::from_ref(&addr), 2).expect("bind");
        listeners.ensure(std::slice::from_ref(&addr), 3).expect("one more");
        listeners.ensure(std::slice::from_ref(&addr), 1).expect("none less");
        assert_eq!(listeners.names()[&addr.to_string()], Sockets { count: 3, shared: false });
        assert!(TcpStream::connect(addr.to_string()).is_ok());
        let (had, other) = (listeners.names(), free());
        listeners.ensure(&[addr.clone(), other.clone()], 5).expect("more, for a while");
        listeners.back_to(&had);
        assert_eq!(listeners.names(), had);
        assert!(TcpStream::connect(other.to_string()).is_err());
        listeners.close(&addr.to_string());
        assert!(TcpStream::connect(addr.to_string()).is_err());
    }

    #[test]
    fn a_busy_address_is_named_and_nothing_changes() {
        let (mut listeners, good) = (Listeners::default(), free());
        let busy = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("addr");
        let mut other = Listeners::default();
        other.ensure(&[Addr::Tcp(busy)], 1).expect("another proxy");
        let faults = listeners.ensure(&[good, Addr::Tcp(busy)], 2).expect_err("busy");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with(&format!("listen {busy}: another process listens there")), "{faults:?}");
        assert!(listeners.names().is_empty());
    }

    #[test]
    fn a_unix_socket_left_by_a_dead_process_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        let addr = Addr::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("left behind"));
        let mut listeners = Listeners::default();
        listeners.ensure(std::slice::from_ref(&addr), 4).expect("replaced");
        assert_eq!(listeners.names()[&addr.to_string()], Sockets { count: 1, shared: true });
        let faults = Listeners::default().ensure(std::slice::from_ref(&addr), 1).expect_err("alive");
        assert!(faults[0].contains("another process listens there"), "{faults:?}");
        listeners.close(&addr.to_string());
        assert!(!path.exists());
    }
}
