//! What the kernel says of sockets. Each is registered once, for both directions and edge-triggered, and never again:
//! in the steady state there is no epoll_ctl. Which bits are set is kept beside each socket (`stream`).

use crate::relay::{ClientId, LinkId};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Events taken at once: enough for a batch, few enough to keep instances busy meanwhile.
const EVENTS: usize = 512;

/// Whose event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Control,
    Listener(usize),
    Client(ClientId),
    Link(LinkId),
    /// A connection that has not said yet whose it is.
    Arrival(u32),
}

impl Source {
    fn token(self) -> Token {
        Token(match self {
            Self::Control => 0,
            Self::Listener(i) => i << 2 | 1,
            Self::Client(id) => (id as usize) << 2 | 2,
            Self::Link(id) => (id as usize) << 2 | 3,
            Self::Arrival(at) => (at as usize + 1) << 2,
        })
    }

    fn of(Token(token): Token) -> Self {
        match token & 3 {
            0 if token == 0 => Self::Control,
            0 => Self::Arrival(((token >> 2) - 1) as u32),
            1 => Self::Listener(token >> 2),
            2 => Self::Client((token >> 2) as ClientId),
            _ => Self::Link((token >> 2) as LinkId),
        }
    }
}

/// What became true of a socket since it was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Readiness {
    pub readable: bool,
    pub writable: bool,
    /// The peer will send no more: reading goes on until that shows.
    pub ended: bool,
    /// Nothing can be written any more.
    pub failed: bool,
}

impl Readiness {
    fn of(event: &Event) -> Self {
        Self {
            readable: event.is_readable(),
            writable: event.is_writable(),
            ended: event.is_read_closed(),
            failed: event.is_error() || event.is_write_closed(),
        }
    }
}

/// The set of watched sockets.
#[derive(Debug)]
pub(super) struct Poller {
    poll: Poll,
    events: Events,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, events: Events::with_capacity(EVENTS) })
    }

    /// Watches a socket until it is closed. What is true already is told by the next `wait`.
    pub(super) fn watch(&self, socket: &impl AsFd, source: Source) -> io::Result<()> {
        let interest = match source {
            Source::Listener(_) => Interest::READABLE,
            _ => Interest::READABLE | Interest::WRITABLE,
        };
        self.poll.registry().register(&mut SourceFd(&socket.as_fd().as_raw_fd()), source.token(), interest)
    }

    /// Needed only where another process keeps the socket open: closing the last descriptor does it too.
    pub(super) fn forget(&self, socket: &impl AsFd) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&socket.as_fd().as_raw_fd()))
    }

    /// Waits for events; None waits without end. Returns how many there are.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<u64> {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => Ok(self.events.iter().count() as u64),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(0)
            }
            Err(e) => Err(e),
        }
    }

    /// What the last `wait` brought.
    pub(super) fn events(&self) -> impl Iterator<Item = (Source, Readiness)> {
        self.events.iter().map(|event| (Source::of(event.token()), Readiness::of(event)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_comes_back_from_its_token() {
        let arrivals = [Source::Arrival(0), Source::Arrival(7), Source::Arrival(u32::MAX)];
        let others = [Source::Control, Source::Listener(5), Source::Client(u32::MAX), Source::Link(0), Source::Link(7)];
        for source in arrivals.into_iter().chain(others) {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
