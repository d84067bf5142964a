//! What master and worker say to each other: one JSON text a packet over a SOCK_SEQPACKET pair, with at most one
//! descriptor beside it. The worker starts with nothing but its end of the pair, as descriptor 3.

use crate::relay::ClientState;
use crate::relay::limits::Settings;
use serde::{Deserialize, Serialize};

/// From the master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// Said first, with the shared stats page as descriptor.
    Hello { worker: u32, log: String },
    Settings(Box<Settings>),
    /// Serve this listener too (descriptor); `name` is its address.
    Listen { name: String },
    /// Accept what waits on listeners of this name, then drop them.
    Unlisten { name: String },
    /// A topology of this epoch is on the disk: load it at the loop's boundary.
    Topology { epoch: u64, path: String },
    /// A client that another worker hands over (descriptor).
    Client(ClientState),
    /// Stop accepting; at each client's boundary hand it to the master, or close it; say `Drained` at the end.
    Drain { hand_over: bool },
    LogLevel { level: String },
    ReopenLog,
    /// Tell how links stand (`Status`).
    Status { ticket: u64 },
}

/// From a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToMaster {
    /// Settings, stats page and all listeners said so far are in use.
    Ready,
    Listening { name: String },
    Unlistened { name: String },
    Serving { epoch: u64 },
    /// Nothing for a slot that this epoch holds is in flight.
    Quiet { epoch: u64 },
    /// The file could not be loaded; the old topology stays.
    Refused { epoch: u64, why: String },
    /// (descriptor)
    Client(ClientState),
    Drained,
    Status { ticket: u64, links: Vec<LinkStatus> },
}

/// How one link stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
