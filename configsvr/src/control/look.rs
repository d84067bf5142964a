//! What one member sees of one instance: how long it owes an answer, whether it refuses connections, what INFO said.

use super::limits::STALE_MS;
use cluster::instance::{Addr, Role};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How an instance looks at one moment. Ages in milliseconds, by the watcher's own clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// Since the first PING (or connection) that is unanswered. None: nothing is owed. Any reply at all pays.
    pub owed_ms: Option<u64>,
    /// How many connections in a row were refused, and since when.
    pub refused: Option<(u32, u64)>,
    /// Since its last reply of any kind. None: none yet.
    pub heard_ms: Option<u64>,
    /// The last INFO, and how old it is.
    pub info: Option<(Arc<Info>, u64)>,
    /// Why it does not answer as it should: for people.
    pub fault: Option<String>,
}

/// What INFO says, as far as failover needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    pub run_id: String,
    pub version: String,
    pub role: Role,
    /// Whom it follows, where that is an address.
    pub follows: Option<Addr>,
    /// As a replica: its link to the primary is up, and when that last said anything.
    pub link_up: bool,
    pub last_io_s: Option<u64>,
    /// ... or it is down, for so long.
    #[serde(default)]
    pub link_down_s: Option<u64>,
    /// It is taking over a whole data set.
    pub syncing: bool,
    pub loading: bool,
    /// Its history, and the one that it continues from `second_offset` on.
    pub replid: String,
    pub replid2: String,
    pub second_offset: Option<u64>,
    /// How far it has its history, in bytes.
    pub offset: u64,
    /// For the choice of a replica: less is better, 0 never.
    pub priority: u32,
    #[serde(default)]
    pub load: Load,
}

/// How much an instance has to do, and holds; None where it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    pub memory_bytes: Option<u64>,
    /// What it may use; None: it has no bound.
    pub memory_max_bytes: Option<u64>,
    pub clients: Option<u64>,
    /// Commands since it started.
    pub commands: Option<u64>,
    pub keys: Option<u64>,
    pub evicted_keys: Option<u64>,
}

impl Info {
    /// As a replica: it lost its link long before the `doubt_ms` for which its primary has been in doubt.
    pub fn is_stale(&self, doubt_ms: u64) -> bool {
        !self.link_up && self.link_down_s.is_some_and(|s| s.saturating_mul(1000) > doubt_ms + STALE_MS)
    }

    /// It can let reads pass while writes wait: Redis from 6.2 on. To pause all would shut out ourselves, too.
    pub fn can_pause_writes(&self) -> bool {
        let mut parts = self.version.split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 2),
            _ => true, // of another server nobody knows; it will say
        }
    }

    /// Whether what it holds continues the history `replid`.
    pub fn continues(&self, replid: &str) -> bool {
        !replid.is_empty() && (self.replid == replid || self.replid2 == replid)
    }
}

/// What a member makes of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It answers, whatever it says.
    Up,
    /// Its machine refuses connections: the process is gone.
    Refused,
    /// Another process answers there: what the old one held and did not save is gone.
    Reborn,
    /// It owes an answer for too long.
    Hang,
    /// Nothing is known of it yet.
    Unknown,
}

impl Verdict {
    pub fn is_down(self) -> bool {
        matches!(self, Self::Refused | Self::Reborn | Self::Hang)
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Refused => "refused",
            Self::Reborn => "reborn",
            Self::Hang => "hang",
            Self::Unknown => "unknown",
        }
    }
}

/// A verdict and since when there was reason for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opinion {
    pub verdict: Verdict,
    pub for_ms: u64,
    /// Of `Reborn`: the process that was seen. It may be the recorded one by the time this is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

/// All that one member has to say against instances. Who is not named is not accused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ballot {
    /// False: its own clock jumped, or it reaches nobody at all: its opinion counts for nothing.
    pub sound: bool,
    pub accused: Vec<(Addr, Opinion)>,
}

impl Ballot {
    pub(super) fn on(&self, addr: &Addr) -> Option<&Opinion> {
        self.accused.iter().find(|(at, _)| at == addr).map(|(_, opinion)| opinion)
    }
}

/// A person's summary of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceView {
    pub group: u32,
    pub addr: Addr,
    pub role: Role,
    pub verdict: Verdict,
    /// Members that accuse it now; known to the leader.
    pub votes: usize,
    pub heard_ms: Option<u64>,
    pub offset: Option<u64>,
    pub link_up: Option<bool>,
    pub run_id: Option<String>,
    pub version: Option<String>,
    pub fault: Option<String>,
    /// None: INFO has not come.
    pub load: Option<Load>,
}
