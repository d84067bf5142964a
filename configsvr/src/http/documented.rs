//! How types that belong to others look in the OpenAPI document; a test holds them to what those types say.
#![allow(dead_code, reason = "only their shape is used")]

use cluster::group::GroupId;
use cluster::slot::{Slot, TagRule};
use cluster::wire::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// How keys with an empty tag are hashed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = TagRule)]
pub(super) enum TagRuleWord {
    Redis,
    Codis,
}

/// How requests for a slot are treated.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = State)]
pub(super) enum StateWord {
    Normal,
    Held,
    Moving,
}

/// Slots `from..=to`, numbered from 0.
#[derive(Serialize, ToSchema)]
#[schema(as = Range)]
pub(super) struct RangeWord {
    pub from: Slot,
    pub to: Slot,
    /// None: take them from whoever owns them.
    pub group: Option<GroupId>,
}

/// Something people want to know of.
#[derive(Serialize, ToSchema)]
#[schema(as = News)]
pub(super) struct NewsWord {
    /// `topology`, `proxy_joined`, `proxy_lost`, `invalid_edit`, `leader`, `store_lost`, `store_back`.
    pub kind: String,
    /// It needs somebody's attention until `settled` news of the same kind and subject come.
    pub alarm: bool,
    pub settled: bool,
    pub subject: String,
    pub message: String,
    pub epoch: u64,
}

/// What became of a change.
#[derive(Serialize, ToSchema)]
#[schema(as = Answer)]
pub(super) struct AnswerWord {
    /// The topology's epoch after it.
    pub epoch: u64,
    /// What is now, as far as it changed.
    pub result: Value,
    /// Things to know that did not stop it.
    pub notes: Option<Vec<String>>,
    /// This very call was done before.
    pub repeated: bool,
}

/// What a proxy says of itself.
#[derive(Serialize, ToSchema)]
#[schema(as = Beat)]
pub(super) struct BeatWord {
    pub id: String,
    pub version: String,
    pub addr: String,
    pub admin_addr: String,
    #[schema(required = false)]
    pub zone: String,
    pub epoch: u64,
    pub started_at: u64,
    #[schema(required = false)]
    pub from_disk: bool,
    #[schema(required = false)]
    pub instances: Vec<SightWord>,
}

/// One instance as a proxy sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Sight)]
pub(super) struct SightWord {
    pub addr: String,
    pub links_up: u32,
    pub links: u32,
    pub last_reply_ms: Option<u64>,
}

/// What a proxy gets for its heartbeat.
#[derive(Serialize, ToSchema)]
#[schema(as = BeatAnswer)]
pub(super) struct BeatAnswerWord {
    /// The epoch in force; a proxy that serves an older one fetches the topology.
    pub epoch: u64,
    pub draining: bool,
    /// When to say the next one, in milliseconds.
    pub next_ms: u64,
}

/// A topology, as proxies get it and keep it.
#[derive(Serialize, ToSchema)]
#[schema(as = Topology)]
pub(super) struct TopologyWord {
    pub epoch: u64,
    #[schema(required = false)]
    pub name: String,
    #[schema(required = false)]
    pub slot_count: u16,
    #[schema(value_type = TagRuleWord, required = false)]
    pub tag_rule: TagRule,
    pub groups: Vec<TopologyGroup>,
    pub slots: Vec<TopologyRange>,
}

/// A group of a topology.
#[derive(Serialize, ToSchema)]
pub(super) struct TopologyGroup {
    pub id: GroupId,
    #[schema(required = false)]
    pub name: String,
    pub instances: Vec<TopologyInstance>,
}

/// An instance of a topology: exactly one `primary` a group.
#[derive(Serialize, ToSchema)]
pub(super) struct TopologyInstance {
    pub addr: String,
    /// `primary` or `replica`.
    pub role: String,
    pub run_id: Option<String>,
    pub zone: Option<String>,
}

/// Slots of a topology.
#[derive(Serialize, ToSchema)]
pub(super) struct TopologyRange {
    pub from: Slot,
    pub to: Slot,
    pub group: GroupId,
    #[schema(value_type = StateWord, required = false)]
    pub state: State,
    pub target: Option<GroupId>,
}
