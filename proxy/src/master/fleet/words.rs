//! What a fleet is told, what it says, and how it is looked at.

use std::collections::{BTreeMap, BTreeSet};

/// A worker process; ids grow and are never given again, not even by the next master image.
pub(in crate::master) type Id = u64;
/// A worker's index.
pub(in crate::master) type Seat = usize;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::master) enum Event {
    /// Time passed.
    Tick,
    /// What the configuration wants now; the sockets are bound.
    Layout(Layout),
    /// A topology is in force and on the disk.
    Topology {
        epoch: u64,
    },
    Spawned {
        id: Id,
        pid: u32,
    },
    /// The process is gone, or never came to be.
    Died {
        id: Id,
    },
    Ready {
        id: Id,
    },
    Listening {
        id: Id,
        name: String,
    },
    Serving {
        id: Id,
        epoch: u64,
    },
    Quiet {
        id: Id,
        epoch: u64,
    },
    /// The epoch is not quiet, for this reason.
    NotQuiet {
        id: Id,
        epoch: u64,
        why: String,
    },
    Refused {
        id: Id,
        epoch: u64,
        why: String,
    },
    /// Drain, then exit; said again, or with `now`: exit.
    Stop {
        now: bool,
    },
}

/// How many workers, at which addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::master) struct Layout {
    pub(in crate::master) workers: usize,
    /// By address.
    pub(in crate::master) names: BTreeMap<String, Sockets>,
    pub(in crate::master) drain_timeout_us: u64,
}

/// The sockets bound at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::master) struct Sockets {
    pub(in crate::master) count: usize,
    /// Every worker accepts from each of them.
    pub(in crate::master) shared: bool,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::master) enum Action {
    /// Start a process and greet it; answer with `Spawned` or `Died`.
    Spawn {
        id: Id,
        seat: Seat,
    },
    Send {
        id: Id,
        mail: Mail,
    },
    Kill {
        id: Id,
    },
    /// Close our copies of the sockets of this address.
    Close {
        name: String,
    },
    /// All is over.
    Exit,
    /// A worker died that should have lived.
    Mourn {
        seat: Seat,
        delay_us: u64,
    },
}

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::master) enum Mail {
    Listen { name: String, socket: usize },
    Unlisten { name: String },
    Topology { epoch: u64 },
    Drain { hand_over: bool },
}

/// How far a topology has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::master) struct Progress {
    pub(in crate::master) serving: usize,
    /// Those that live and do not serve it yet.
    pub(in crate::master) behind: Vec<Behind>,
    /// Those that have not said that nothing for a held slot is in flight.
    pub(in crate::master) unquiet: Vec<Behind>,
}

/// A worker that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::master) struct Behind {
    pub(in crate::master) seat: Seat,
    pub(in crate::master) pid: u32,
    /// Why it never will, or what is in the way, if it said so.
    pub(in crate::master) why: Option<String>,
}

/// One worker, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::master) struct View {
    pub(in crate::master) id: Id,
    pub(in crate::master) seat: Seat,
    pub(in crate::master) pid: u32,
    pub(in crate::master) state: &'static str,
    pub(in crate::master) serving: u64,
    pub(in crate::master) quiet: u64,
    pub(in crate::master) restarts: u64,
}

/// A worker of the master image before this one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(in crate::master) struct Inherited {
    pub(in crate::master) id: Id,
    pub(in crate::master) seat: Seat,
    pub(in crate::master) pid: u32,
    pub(in crate::master) given: BTreeSet<(String, usize)>,
    pub(in crate::master) serving: u64,
    pub(in crate::master) quiet: u64,
    pub(in crate::master) draining: bool,
}
