//! Connections from load balancers, until their PROXY header is there (`proxy_protocol`). Only then the relay hears of
//! a client, under its own address; so neither the relay nor any other client pays for this.

use super::poller::{Poller, Source};
use super::stream::Stream;
use crate::proxy_header::{HEADER_MAX, Step, parse};
use nix::sys::socket::{MsgFlags, recv};
use std::os::fd::{AsFd, AsRawFd};

/// A balancer sends the header at once; who sends none for so long is no balancer.
const HEADER_US: u64 = 3_000_000;
/// Connections that wait at once. The next one is closed.
const ARRIVALS_MAX: usize = 4096;
/// How often the log says that connections were closed.
const WARN_EVERY_US: u64 = 5_000_000;

/// A connection of which nobody knows whose it is.
#[derive(Debug)]
struct Arrival {
    stream: Stream,
    /// The balancer.
    peer: String,
    until_us: u64,
}

/// All that wait, by index.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Listeners whose clients come through a balancer.
    listeners: Vec<String>,
    slots: Vec<Option<Arrival>>,
    waiting: usize,
    /// Those that have something to read.
    ready: Vec<u32>,
    refused: u64,
    warn_again_us: u64,
}

impl Arrivals {
    /// Which listeners' clients begin with a header from now on.
    pub(super) fn set_listeners(&mut self, names: &[String]) {
        names.clone_into(&mut self.listeners);
    }

    /// Whether clients of this listener begin with a header.
    pub(super) fn expects(&self, listener: &str) -> bool {
        self.listeners.iter().any(|name| name == listener)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When the next one has waited too long.
    pub(super) fn deadline(&self) -> u64 {
        if self.waiting == 0 {
            return u64::MAX;
        }
        self.slots.iter().flatten().map(|a| a.until_us).min().unwrap_or(u64::MAX)
    }

    /// Lets a connection wait for its header.
    pub(super) fn add(&mut self, stream: Stream, peer: String, now_us: u64, poller: &Poller) {
        if self.waiting >= ARRIVALS_MAX {
            return self.refuse(&peer, "too many connections wait for a PROXY header", now_us);
        }
        let at = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if let Err(e) = poller.watch(&stream, Source::Arrival(at as u32)) {
            return self.refuse(&peer, &e.to_string(), now_us);
        }
        let arrival = Some(Arrival { stream, peer, until_us: now_us + HEADER_US });
        match self.slots.get_mut(at) {
            Some(slot) => *slot = arrival,
            None => self.slots.push(arrival),
        }
        self.waiting += 1;
    }

    /// Bytes came, or the end.
    pub(super) fn note(&mut self, at: u32) {
        self.ready.push(at);
    }

    /// Gives those whose header is there to `open`, under the address it names, and closes those that have none.
    pub(super) fn admit(&mut self, now_us: u64, poller: &Poller, mut open: impl FnMut(Stream, String)) {
        for at in std::mem::take(&mut self.ready) {
            let Some(arrival) = self.slots.get(at as usize).and_then(Option::as_ref) else { continue };
            match look(&arrival.stream) {
                Look::Wait => {}
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
        if now_us >= self.deadline() {
            let late = |(at, slot): (usize, &Option<Arrival>)| {
                slot.as_ref().filter(|a| a.until_us <= now_us).map(|_| at as u32)
            };
            for at in self.slots.iter().enumerate().filter_map(late).collect::<Vec<_>>() {
                self.close(at, "no PROXY header came", now_us, poller);
            }
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
            tracing::warn!(peer, why, refused = self.refused, "a connection at a `proxy_protocol` address is closed");
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
