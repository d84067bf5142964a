//! The relay: the pure half of a worker. Bytes, events and `now` go in; buffers to write and deeds to do come out.

pub mod command;
pub mod limits;

use cluster::instance::Addr;
use cluster::topology::Topology;
use limits::Settings;
use std::io::IoSlice;
use std::sync::Arc;

/// One reading of the clocks; the shell takes it once a loop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic microseconds since some start.
    pub us: u64,
    /// Microseconds since 1970, for TIME only.
    pub unix_us: u64,
}

/// A client's index. Given by `client_opened`; ends with `client_closed`, after which it may be given again.
pub type ClientId = u32;
/// A link's index. Lives in `Deed::Connect`; a socket for it lives from that deed to `link_closed`.
pub type LinkId = u32;

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Open a socket to an instance; then call `link_opened`, or `link_closed` with the cause.
    Connect {
        link: LinkId,
        addr: Addr,
    },
    /// Close the socket, then call `link_closed`. What is in the link's output is dropped.
    CloseLink {
        link: LinkId,
    },
    /// Close the socket, then call `client_closed`. What is in the client's output has been written, or is dropped.
    CloseClient {
        client: ClientId,
    },
    /// Do not read from the client until `ReadAgain`.
    StopReading {
        client: ClientId,
    },
    ReadAgain {
        client: ClientId,
    },
    /// The same for a link that serves one client alone.
    StopReadingLink {
        link: LinkId,
    },
    ReadLinkAgain {
        link: LinkId,
    },
    /// Memory is short: do not accept until `AcceptAgain`.
    StopAccepting,
    AcceptAgain,
    /// Every live request has been sent under `epoch`, and none for a slot it holds is in flight.
    Quiet {
        epoch: u64,
    },
    /// The client is between requests and the worker is draining: hand it over (`client_hand_over`) or close it.
    AtBoundary {
        client: ClientId,
    },
    /// Something a person should know.
    Tell {
        level: Level,
        text: String,
    },
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
}

/// What a client is, between two requests: enough for another worker to go on with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClientState {
    pub id: u64,
    pub peer: String,
    pub name: String,
    pub authenticated: bool,
}

/// One worker's relay.
pub struct Relay {}

#[expect(unused_variables, clippy::unused_self, reason = "a sketch that the shell compiles against")]
impl Relay {
    /// `seed` feeds jitter; `worker` is this worker's index, for names and client ids.
    pub fn new(settings: Settings, worker: u32, seed: u64, now: Now) -> Self {
        Self {}
    }
    /// Call once at the head of each loop, before anything else.
    pub fn set_now(&mut self, now: Now) {}

    pub fn client_opened(&mut self, peer: &str) -> ClientId {
        0
    }
    /// Bytes read from a client (not empty). The relay has used or copied them when this returns.
    pub fn client_sent(&mut self, client: ClientId, bytes: &[u8]) {}
    /// The client's socket is gone, whoever closed it: exactly once for each `client_opened`/`client_adopted`.
    pub fn client_closed(&mut self, client: ClientId) {}
    /// Fills `slices` with what is to be written to the client; returns how many. 0: nothing to write.
    pub fn client_output<'a>(&'a self, client: ClientId, slices: &mut [IoSlice<'a>]) -> usize {
        0
    }
    pub fn client_wrote(&mut self, client: ClientId, bytes: usize) {}
    /// Takes a client out that is between requests; None if it is not (any more). The id ends.
    pub fn client_hand_over(&mut self, client: ClientId) -> Option<ClientState> {
        None
    }
    pub fn client_adopted(&mut self, state: ClientState) -> ClientId {
        0
    }

    pub fn link_opened(&mut self, link: LinkId) {}
    pub fn link_sent(&mut self, link: LinkId, bytes: &[u8]) {}
    /// The link's socket is gone, whoever closed it: exactly once for each `Deed::Connect`.
    pub fn link_closed(&mut self, link: LinkId, cause: &str) {}
    pub fn link_output<'a>(&'a self, link: LinkId, slices: &mut [IoSlice<'a>]) -> usize {
        0
    }
    pub fn link_wrote(&mut self, link: LinkId, bytes: usize) {}

    pub fn set_topology(&mut self, topology: Arc<Topology>) {}
    pub fn set_settings(&mut self, settings: Settings) {}
    /// From now on say `AtBoundary` of each client when it is between requests.
    pub fn drain(&mut self) {}
    /// Time has come (see `deadline`).
    pub fn tick(&mut self) {}
    /// When `tick` wants to be called next, in `Now::us`.
    pub fn deadline(&self) -> u64 {
        u64::MAX
    }
    /// The next link with new output to write; each is named once until it gets more.
    pub fn next_dirty_link(&mut self) -> Option<LinkId> {
        None
    }
    pub fn next_dirty_client(&mut self) -> Option<ClientId> {
        None
    }
    pub fn next_deed(&mut self) -> Option<Deed> {
        None
    }
    pub fn clients(&self) -> usize {
        0
    }
    pub fn stats(&mut self) -> &mut crate::stats::Stats {
        unimplemented!()
    }
}
