//! The heartbeat: what a proxy says of itself to the control plane every second or so, and what it is answered. Words that
//! one side does not know it passes over, since proxies are upgraded before the control plane: unlike in a topology, none of
//! them changes what another one means.

use crate::instance::Addr;
use serde::{Deserialize, Serialize};

/// What a proxy says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_proxy_says_beside_is_passed_over() {
        let sight = r#"{"addr":"10.0.0.1:6379","links_up":1,"links":1,"last_reply_ms":5,"new":[]}"#;
        let text = format!(
            r#"{{"id":"p1","version":"9.0.0","addr":"10.0.0.2:6380","admin_addr":"10.0.0.2:6381","epoch":7,"started_at":1,"new":true,"instances":[{sight}]}}"#
        );
        let beat: Beat = serde_json::from_str(&text).expect("a beat");
        assert_eq!((beat.epoch, beat.instances[0].links_up), (7, 1));
    }
}
