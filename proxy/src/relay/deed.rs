//! The words between a relay and its shell.

use super::question::Question;
use cluster::instance::Addr;

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
/// A link's index. A socket for it lives from `Deed::Connect` to `link_closed`.
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
    /// Much memory has been freed: give it back to the system.
    GiveMemoryBack,
    /// Every request in flight was sent under `epoch`, and none for a slot that it holds is in flight: not even on a
    /// connection that was lost and that the instance may not have noticed.
    Quiet {
        epoch: u64,
    },
    /// `Quiet` for this epoch waits for nothing but what an instance may still hold of a lost connection. Said once.
    NotQuiet {
        epoch: u64,
        why: String,
    },
    /// The worker drains and the client is between requests: hand it over (`client_hand_over`) or close it.
    AtBoundary {
        client: ClientId,
    },
    /// Ask every other worker of this proxy; then call `others_answered` with this ticket as answers come. Theirs come as
    /// `question`.
    Ask {
        ticket: u32,
        question: Question,
    },
    /// Lines about requests, for workers whose clients want to see them: call `watched_elsewhere` there.
    Show {
        lines: String,
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
    /// It speaks RESP3.
    #[serde(default)]
    pub resp3: bool,
    /// Whom it has said to be.
    #[serde(default)]
    pub user: String,
    /// Its library's name and version.
    #[serde(default)]
    pub library: (String, String),
    #[serde(default)]
    pub no_evict: bool,
    /// It wants to see all requests.
    #[serde(default)]
    pub monitors: bool,
    /// How long it has been connected.
    #[serde(default)]
    pub age_us: u64,
}

/// How one link stands.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LinkStatus {
    pub group: u32,
    pub addr: String,
    /// `up`, `connecting`, `down`.
    pub state: String,
    /// Why it is down, or what the instance last said of itself (LOADING, READONLY ...).
    pub cause: String,
    pub in_flight: usize,
    pub output_bytes: usize,
}

/// A mistake that the relay makes on purpose: the simulation's checkers must find it. Nobody else sets one, and only
/// code off the path of requests looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// What an instance may still hold of a lost connection is forgotten.
    ForgetOrphans,
    /// Our errors are given at once, not in their turn.
    ErrorsAtOnce,
    /// What waited for a slot goes on in the wrong order.
    ReleaseBackwards,
    /// A client that blocks is told "nothing" when its instance was told to let go of it.
    InterruptionAnswers,
    /// A link on which a client blocks stays when the client goes.
    KeepWaiting,
    /// What is asked of a slot that moves on access goes on without its keys.
    FetchNothing,
    /// Keys stay under WATCH on a link that others use next.
    KeepWatch,
}
