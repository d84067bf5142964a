//! Connections that are no clients yet: of load balancers, until their PROXY header is there (`proxy_protocol`), and
//! encrypted ones, until their handshake is done (`tls`). Only then the relay hears of a client, under its own address; so
//! neither the relay nor any other client pays for this.

use super::poller::{Poller, Readiness, Source};
use super::stream::Stream;
use super::tls::Session;
use crate::proxy_header::{HEADER_MAX, Step, parse};
use nix::sys::socket::{MsgFlags, recv};
use rustls::ServerConfig;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// A balancer sends the header at once; who sends none for so long is no balancer.
const HEADER_US: u64 = 3_000_000;
/// A handshake takes a few round trips and a millisecond; this is a lost packet or two, or many who come at once.
const HANDSHAKE_US: u64 = 5_000_000;
/// Connections that wait at once. The next one is closed.
const ARRIVALS_MAX: usize = 4096;
/// Handshakes under way: some 30 MB. When one more comes, the one that has waited longest goes: whoever holds many open
/// keeps nobody out.
const HANDSHAKES_MAX: usize = 1024;
/// Steps of handshakes in one iteration: a signature takes up to a millisecond, and clients wait meanwhile.
const STEPS_MAX: usize = 8;
/// How often the log says that connections were closed.
const WARN_EVERY_US: u64 = 5_000_000;

/// What an arrival is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Header,
    Handshake,
}

/// A connection of which nobody knows whose it is.
#[derive(Debug)]
struct Arrival {
    stream: Stream,
    /// The balancer, or the client.
    peer: String,
    waits: Waits,
    /// A handshake follows the header.
    encrypted: bool,
    until_us: u64,
}

/// All that wait, by index.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Listeners whose clients come through a balancer.
    behind_balancers: Vec<String>,
    /// Listeners whose clients speak TLS, and how they are met.
    encrypted: Vec<String>,
    tls: Option<Arc<ServerConfig>>,
    slots: Vec<Option<Arrival>>,
    waiting: usize,
    /// Those at which something has happened.
    ready: VecDeque<u32>,
    refused: u64,
    warn_again_us: u64,
}

impl Arrivals {
    /// Which listeners' clients begin with a header from now on.
    pub(super) fn set_listeners(&mut self, names: &[String]) {
        names.clone_into(&mut self.behind_balancers);
    }

    /// Which listeners' clients speak TLS from now on, and how they are met. Those who are here go on as they began.
    pub(super) fn set_tls(&mut self, listeners: Vec<String>, tls: Option<Arc<ServerConfig>>) {
        (self.encrypted, self.tls) = (listeners, tls);
    }

    /// Whether clients of this listener begin with something that is not for the relay.
    pub(super) fn expects(&self, listener: &str) -> bool {
        self.behind_balancers.iter().chain(&self.encrypted).any(|name| name == listener)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// What those who wait take beside their sockets, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.slots.iter().flatten().map(|a| a.stream.bytes()).sum()
    }

    /// When `admit` is to be called next.
    pub(super) fn deadline(&self) -> u64 {
        match (self.is_ready(), self.waiting) {
            (true, _) => 0,
            (false, 0) => u64::MAX,
            _ => self.slots.iter().flatten().map(|a| a.until_us).min().unwrap_or(u64::MAX),
        }
    }

    /// Lets a connection wait for what its listener's clients begin with.
    pub(super) fn add(&mut self, listener: &str, stream: Stream, peer: String, now_us: u64, poller: &Poller) {
        let header = self.behind_balancers.iter().any(|name| name == listener);
        let encrypted = self.encrypted.iter().any(|name| name == listener);
        if self.waiting >= ARRIVALS_MAX {
            return self.refuse(&peer, "too many connections wait to become clients", now_us);
        }
        if !header {
            self.make_room(now_us, poller);
        }
        let at = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if let Err(e) = poller.watch(&stream, Source::Arrival(at as u32)) {
            return self.refuse(&peer, &e.to_string(), now_us);
        }
        let arrival = Arrival { stream, peer, waits: Waits::Header, encrypted, until_us: now_us + HEADER_US };
        let arrival = if header { Ok(arrival) } else { self.meet(arrival, now_us) };
        let arrival = match arrival {
            Ok(arrival) => Some(arrival),
            Err((peer, e)) => return self.refuse(&peer, &e.to_string(), now_us),
        };
        match self.slots.get_mut(at) {
            Some(slot) => *slot = arrival,
            None => self.slots.push(arrival),
        }
        self.waiting += 1;
    }

    /// Begins the handshake.
    fn meet(&self, arrival: Arrival, now_us: u64) -> Result<Arrival, (String, io::Error)> {
        let Arrival { stream, peer, .. } = arrival;
        let session = match &self.tls {
            Some(tls) => Session::server(tls),
            None => Err(io::Error::other("this worker has no certificate")),
        };
        match session {
            Ok(session) => Ok(Arrival {
                stream: stream.encrypted(session),
                peer,
                waits: Waits::Handshake,
                encrypted: false,
                until_us: now_us + HANDSHAKE_US,
            }),
            Err(e) => Err((peer, e)),
        }
    }

    /// Lets the oldest handshake go where there are too many.
    fn make_room(&mut self, now_us: u64, poller: &Poller) {
        if self.waiting < HANDSHAKES_MAX {
            return;
        }
        let shaking = self.slots.iter().enumerate().filter_map(|(at, slot)| slot.as_ref().map(|a| (at, a)));
        let shaking = shaking.filter(|(_, a)| a.waits == Waits::Handshake);
        let (mut count, mut oldest) = (0, None);
        for (at, arrival) in shaking {
            count += 1;
            oldest = oldest.min(Some((arrival.until_us, at))).or(Some((arrival.until_us, at)));
        }
        if let Some((_, at)) = oldest.filter(|_| count >= HANDSHAKES_MAX) {
            self.close(at as u32, "too many TLS handshakes are under way, and it was the oldest", now_us, poller);
        }
    }

    /// Something happened at the socket.
    pub(super) fn note(&mut self, at: u32, readiness: Readiness) {
        if let Some(Some(arrival)) = self.slots.get_mut(at as usize) {
            arrival.stream.note(readiness);
        }
        self.ready.push_back(at);
    }

    /// Gives those that are clients now to `open`, each under its own address, and closes those that will not be.
    pub(super) fn admit(&mut self, now_us: u64, poller: &Poller, mut open: impl FnMut(Stream, String)) {
        let mut steps = 0;
        for _ in 0..self.ready.len() {
            if steps == STEPS_MAX {
                break;
            }
            let Some(at) = self.ready.pop_front() else { break };
            let Some(Some(arrival)) = self.slots.get_mut(at as usize) else { continue };
            match arrival.waits {
                Waits::Header => self.look(at, now_us, poller, &mut open),
                Waits::Handshake => {
                    steps += 1;
                    self.shake(at, now_us, poller, &mut open);
                }
            }
        }
        if now_us >= self.deadline() {
            let late = |(at, slot): (usize, &Option<Arrival>)| {
                slot.as_ref().filter(|a| a.until_us <= now_us).map(|a| (at as u32, a.waits))
            };
            for (at, waits) in self.slots.iter().enumerate().filter_map(late).collect::<Vec<_>>() {
                let why =
                    if waits == Waits::Header { "no PROXY header came" } else { "the TLS handshake took too long" };
                self.close(at, why, now_us, poller);
            }
        }
    }

    fn look(&mut self, at: u32, now_us: u64, poller: &Poller, open: &mut impl FnMut(Stream, String)) {
        let Some(Some(arrival)) = self.slots.get_mut(at as usize) else { return };
        match look(&arrival.stream) {
            Look::Wait => {}
            Look::Known(source) if arrival.encrypted => {
                if let Some(source) = source {
                    arrival.peer = source;
                }
                self.begin_after_header(at, now_us, poller, open);
            }
            Look::Known(source) => {
                if let Some(Arrival { stream, peer, .. }) = self.take(at, poller) {
                    open(stream, source.unwrap_or(peer));
                }
            }
            // A balancer that only looks whether somebody listens.
            Look::Gone => _ = self.take(at, poller),
            Look::Wrong(why) => self.close(at, why, now_us, poller),
        }
    }

    fn begin_after_header(&mut self, at: u32, now_us: u64, poller: &Poller, open: &mut impl FnMut(Stream, String)) {
        self.make_room(now_us, poller);
        let Some(arrival) = self.slots.get_mut(at as usize).and_then(Option::take) else { return };
        match self.meet(arrival, now_us) {
            Ok(arrival) => {
                self.slots[at as usize] = Some(arrival);
                self.shake(at, now_us, poller, open); // its first bytes may be here, and no event tells of them again
            }
            Err((peer, e)) => {
                self.waiting -= 1;
                self.refuse(&peer, &e.to_string(), now_us);
            }
        }
    }

    fn shake(&mut self, at: u32, now_us: u64, poller: &Poller, open: &mut impl FnMut(Stream, String)) {
        let Some(Some(arrival)) = self.slots.get_mut(at as usize) else { return };
        match arrival.stream.shake() {
            Ok(false) => {}
            Ok(true) => {
                if let Some(Arrival { stream, peer, .. }) = self.take(at, poller) {
                    open(stream, peer);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                let why = format!("TLS: {e}");
                self.close(at, &why, now_us, poller);
            }
            // Who goes away again has learned that somebody listens.
            Err(_) => _ = self.take(at, poller),
        }
    }

    fn take(&mut self, at: u32, poller: &Poller) -> Option<Arrival> {
        let arrival = self.slots.get_mut(at as usize)?.take()?;
        self.waiting -= 1;
        if let Err(e) = poller.forget(&arrival.stream) {
            tracing::warn!(peer = arrival.peer, error = %e, "a connection could not be taken from the poller");
        }
        Some(arrival)
    }

    fn close(&mut self, at: u32, why: &str, now_us: u64, poller: &Poller) {
        if let Some(arrival) = self.take(at, poller) {
            self.refuse(&arrival.peer, why, now_us);
        }
    }

    fn refuse(&mut self, peer: &str, why: &str, now_us: u64) {
        self.refused += 1;
        if now_us >= self.warn_again_us {
            self.warn_again_us = now_us + WARN_EVERY_US;
            tracing::warn!(peer, why, refused = self.refused, "a connection is closed before it is a client");
        }
    }
}
/// What lies in a socket.
enum Look {
    Wait,
    /// The header, which has been taken out.
    Known(Option<String>),
    Gone,
    Wrong(&'static str),
}

/// Looks, and takes out a whole header and not a byte more: the rest is the client's.
fn look(stream: &Stream) -> Look {
    let (fd, mut bytes) = (stream.as_fd().as_raw_fd(), [0; HEADER_MAX]);
    let seen = match recv(fd, &mut bytes, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(0) => return Look::Gone,
        Ok(n) => n,
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Look::Wait,
        Err(_) => return Look::Gone,
    };
    match parse(&bytes[..seen]) {
        Ok(Step::More) => Look::Wait,
        Ok(Step::Done { len, source }) => match recv(fd, &mut bytes[..len], MsgFlags::MSG_DONTWAIT) {
            Ok(n) if n == len => Look::Known(source.map(|s| s.to_string())),
            _ => Look::Gone,
        },
        Err(why) => Look::Wrong(why),
    }
}
