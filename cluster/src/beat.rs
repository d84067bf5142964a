//! The heartbeat: what a proxy says of itself to the control plane every second or so, and what it is answered.

use crate::instance::Addr;
use serde::{Deserialize, Serialize};

/// What a proxy says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beat {
    pub id: String,
    pub version: String,
    /// Where clients reach it, and where its admin API is.
    pub addr: String,
    pub admin_addr: String,
    #[serde(default)]
    pub zone: String,
    /// The epoch that all its workers serve; 0 for none.
    pub epoch: u64,
    /// Milliseconds since 1970.
    pub started_at: u64,
    /// Whether the topology it serves came from its own disk because no configsvr answered when it started.
    #[serde(default)]
    pub from_disk: bool,
    /// The last word: it serves nobody any more. Then nobody waits for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// How it sees the instances, by address.
    #[serde(default)]
    pub instances: Vec<Sight>,
}

/// One instance as a proxy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sight {
    pub addr: Addr,
    /// Links that are up, over all workers.
    pub links_up: u32,
    pub links: u32,
    /// Since the last reply of this instance, in milliseconds; None: never.
    pub last_reply_ms: Option<u64>,
}

/// What a proxy gets for its heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatAnswer {
    /// The epoch in force; a proxy that serves an older one fetches the topology.
    pub epoch: u64,
    pub draining: bool,
    /// It is on record: from now on no slot changes hands without it, whoever leads. Before, a proxy serves nothing.
    #[serde(default)]
    pub registered: bool,
    /// When to say the next one, in milliseconds.
    pub next_ms: u64,
}
