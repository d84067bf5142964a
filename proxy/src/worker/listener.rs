//! Listeners, which belong to the master: a worker accepts from them, and closes only its own copies.
#![expect(clippy::disallowed_methods, reason = "a shell: keeps a descriptor in reserve")]

use super::poller::{Poller, Source};
use super::stream::{Stream, prepare_listener};
use mio::net::{TcpListener, UnixListener};
use nix::libc::{EMFILE, ENFILE};
use socket2::{Domain, Socket};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Clients accepted from one listener in one iteration: those already here wait meanwhile.
const ACCEPTS_MAX: usize = 64;
/// How long a worker without free descriptors leaves new clients in the queue.
const PAUSE_US: u64 = 100_000;
/// How often it says so.
const WARN_EVERY_US: u64 = 5_000_000;

/// A listening socket of either kind.
#[derive(Debug)]
enum Socketed {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socketed {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(fd);
        prepare_listener(&socket)?;
        let unix = socket.domain()? == Domain::UNIX;
        let fd = OwnedFd::from(socket);
        Ok(if unix { Self::Unix(fd.into()) } else { Self::Tcp(fd.into()) })
    }

    /// The next client's socket (non-blocking, closed on exec) and address.
    fn accept(&self) -> io::Result<(OwnedFd, String)> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, peer)| (stream.into(), peer.to_string())),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| (stream.into(), "unix".to_owned())),
        }
    }
}

impl AsFd for Socketed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

#[derive(Debug)]
struct Listener {
    name: String,
    socket: Socketed,
    /// Clients may wait.
    ready: bool,
}

impl Listener {
    /// Gives some of the waiting clients to `open`. Errors: there are no descriptors left.
    fn accept_some(&mut self, open: &mut impl FnMut(&str, Stream, String)) -> io::Result<()> {
        for _ in 0..ACCEPTS_MAX {
            if !self.ready {
                break;
            }
            match self.socket.accept() {
                Ok((fd, peer)) => open(&self.name, Stream::new(fd.into()), peer),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready = false,
                Err(e) if matches!(e.raw_os_error(), Some(EMFILE | ENFILE)) => return Err(e),
                // Such as ECONNABORTED: this client has gone, the next may be there.
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// All listeners of a worker.
#[derive(Debug)]
pub(super) struct Listeners {
    slots: Vec<Option<Listener>>,
    /// Given up when descriptors run out, to accept a client and close it rather than leave it in the dark.
    spare: Option<File>,
    /// The relay has room for more clients.
    allowed: bool,
    paused_until_us: u64,
    turned_away: u64,
    warn_again_us: u64,
}

impl Listeners {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), spare: spare(), allowed: true, paused_until_us: 0, turned_away: 0, warn_again_us: 0 }
    }

    /// Accepts from this listener from now on.
    pub(super) fn add(&mut self, name: String, fd: OwnedFd, poller: &Poller) -> io::Result<()> {
        let socket = Socketed::new(fd)?;
        let at = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        poller.watch(&socket, Source::Listener(at))?;
        let listener = Some(Listener { name, socket, ready: false });
        match self.slots.get_mut(at) {
            Some(slot) => *slot = listener,
            None => self.slots.push(listener),
        }
        Ok(())
    }

    /// Drops the listeners of this name, after giving all that wait on them to `open`.
    pub(super) fn remove(&mut self, name: &str, poller: &Poller, mut open: impl FnMut(&str, Stream, String)) {
        for slot in &mut self.slots {
            let Some(listener) = slot.take_if(|l| l.name == name) else { continue };
            while let Ok((fd, peer)) = listener.socket.accept() {
                open(&listener.name, Stream::new(fd.into()), peer);
            }
            forget(&listener, poller);
        }
    }

    /// Drops all. What waits on them is for the next worker.
    pub(super) fn clear(&mut self, poller: &Poller) {
        for listener in self.slots.drain(..).flatten() {
            forget(&listener, poller);
        }
    }

    pub(super) fn note(&mut self, at: usize) {
        if let Some(Some(listener)) = self.slots.get_mut(at) {
            listener.ready = true;
        }
    }

    /// Whether the relay has room for more clients.
    pub(super) fn allow(&mut self, allowed: bool) {
        self.allowed = allowed;
    }

    fn waiting(&self) -> bool {
        self.allowed && self.slots.iter().flatten().any(|l| l.ready)
    }

    /// When `accept` should be called next.
    pub(super) fn deadline(&self) -> u64 {
        if self.waiting() { self.paused_until_us } else { u64::MAX }
    }

    /// Gives waiting clients to `open`, with the listener's name; returns whether there may have been any.
    pub(super) fn accept(&mut self, now_us: u64, mut open: impl FnMut(&str, Stream, String)) -> bool {
        if !self.waiting() || now_us < self.paused_until_us {
            return false;
        }
        for at in 0..self.slots.len() {
            let Some(listener) = &mut self.slots[at] else { continue };
            if let Err(e) = listener.accept_some(&mut open) {
                self.turn_away(at, now_us, &e);
                break;
            }
        }
        true
    }

    /// Without descriptors: tells one client so, rather than leave it in the dark, and the others wait a little.
    fn turn_away(&mut self, at: usize, now_us: u64, e: &io::Error) {
        let Some(Some(listener)) = self.slots.get(at) else { return };
        self.spare = None;
        if let Ok((fd, _)) = listener.socket.accept() {
            let told = Socket::from(fd).send(b"-ERR max number of clients reached\r\n");
            self.turned_away += u64::from(told.is_ok());
        }
        self.spare = spare();
        self.paused_until_us = now_us + PAUSE_US;
        if now_us >= self.warn_again_us {
            self.warn_again_us = now_us + WARN_EVERY_US;
            tracing::warn!(
                listener = listener.name, turned_away = self.turned_away, error = %e,
                "no descriptor for a new client; raise the limit of open files (ulimit -n, LimitNOFILE)"
            );
        }
    }
}

fn forget(listener: &Listener, poller: &Poller) {
    if let Err(e) = poller.forget(&listener.socket) {
        tracing::warn!(listener = listener.name, error = %e, "a listener could not be taken from the poller");
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}
