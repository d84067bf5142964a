//! The words of the API, as they travel: what its bodies say and what its answers say. The command line reads the same
//! types.

use super::documented::{NewsWord, RangeWord, SightWord, StateWord, TagRuleWord, TopologyWord};
use crate::control::command::{self, ProxyView, Sight};
use crate::control::view::GroupView;
use crate::store::Revision;
use cluster::group::GroupId;
use cluster::instance::{Addr, Role};
use cluster::slot::{SLOT_COUNT_DEFAULT, Slot, TagRule};
use cluster::wire::{Message, State};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

pub use super::moving::{Imagined, MigrationChange, MigrationLimits, Moved, NewMigrations, Rebalance, Rebalanced};
pub use crate::control::command::{Answer, BeatAnswer};
pub use crate::control::event::News;
pub use crate::control::layout::SlotRange;

/// A key that is asked for often.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HotKey {
    /// As text; other bytes are escaped, and a very long key is cut.
    pub key: String,
    pub slot: Slot,
    pub group: Option<GroupId>,
    /// As a sample tells.
    pub requests_per_s: f64,
    /// So much of it may be other keys'.
    pub error_per_s: f64,
}

/// A key whose value came or went in one large piece.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BigKey {
    pub key: String,
    pub slot: Slot,
    pub group: Option<GroupId>,
    /// Of the largest request or reply seen.
    pub bytes: u64,
    pub command: String,
    /// Since it was seen last.
    pub age_ms: u64,
}

/// The keys that are asked for most.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HotKeys {
    pub keys: Vec<HotKey>,
    /// Which proxies have answered.
    pub proxies: Vec<String>,
    /// Which have not, and why.
    pub silent: Vec<String>,
}

/// The largest keys that were seen.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BigKeys {
    pub keys: Vec<BigKey>,
    pub proxies: Vec<String>,
    pub silent: Vec<String>,
}

/// What each slot was asked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SlotsTraffic {
    pub slot_count: u16,
    /// By slot, from 0.
    pub requests: Vec<u64>,
    pub proxies: Vec<String>,
    pub silent: Vec<String>,
}

/// A cluster to begin, in an empty store.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCluster {
    /// For people.
    pub name: String,
    /// Fixed for ever: 1 to 16384.
    #[serde(default = "slot_count_default")]
    #[schema(minimum = 1, maximum = 16384)]
    pub slot_count: u16,
    /// Fixed for ever: `redis` or `codis` (an empty tag `{}` hashes the empty string).
    #[serde(default)]
    #[schema(value_type = TagRuleWord)]
    pub tag_rule: TagRule,
}

fn slot_count_default() -> u16 {
    SLOT_COUNT_DEFAULT
}

/// The whole cluster on one screen, as the member that answers knows it. Heartbeats of proxies and the progress of pushes
/// are known to the leader: ask with `?leader=true`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// False: there is nothing but members; see `POST /api/v1/cluster`.
    pub created: bool,
    pub name: Option<String>,
    pub slot_count: Option<u16>,
    #[schema(value_type = Option<TagRuleWord>)]
    pub tag_rule: Option<TagRule>,
    /// The topology in force; 0 for none.
    pub epoch: u64,
    /// Who answers, its version, and its clock in milliseconds since 1970.
    pub member: String,
    pub version: String,
    pub time_ms: u64,
    /// Whether it leads.
    pub leading: bool,
    /// The name of the member that leads, and where its API is.
    pub leader: Option<String>,
    pub leader_addr: Option<String>,
    pub store: StoreState,
    pub members: Vec<Member>,
    pub groups: Vec<Group>,
    /// Slots that nobody owns.
    pub slots_unassigned: u32,
    pub proxies: Vec<Proxy>,
    #[schema(value_type = Vec<NewsWord>)]
    pub alarms: Vec<News>,
    /// What is wrong with the store's contents; the topology in force is then the last valid one.
    pub invalid: Vec<String>,
    /// All that somebody should look at, in words. Empty: all is well.
    pub problems: Vec<String>,
}

/// The store, as this member sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StoreState {
    /// Which it is, and where.
    pub kind: String,
    pub revision: Revision,
    /// Why it cannot be reached, if it cannot.
    pub fault: Option<String>,
}

/// A member of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its number in the quorum; never used again after its removal.
    pub id: u64,
    pub name: String,
    /// Where its API is.
    pub addr: String,
    /// It votes; otherwise it learns.
    pub voter: bool,
    pub leader: bool,
    /// Whether the leader hears from it; None where nobody here knows.
    pub reachable: Option<bool>,
    /// Entries of the log that it has not got yet; None where nobody here knows.
    pub behind: Option<u64>,
}

/// A member to add. It learns first; promote it when it is no longer behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// As in its own configuration.
    #[schema(minimum = 1)]
    pub id: u64,
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    pub name: String,
    /// Where its API is: `IP:PORT`.
    pub addr: String,
}

/// A primary, its replicas, and how many slots they own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    pub id: GroupId,
    pub name: String,
    #[schema(value_type = String, example = "10.0.0.1:6379")]
    pub primary: Addr,
    #[schema(value_type = Vec<String>)]
    pub replicas: Vec<Addr>,
    pub slots: usize,
}

impl From<&GroupView> for Group {
    fn from(view: &GroupView) -> Self {
        let GroupView { id, name, primary, replicas, slots } = view.clone();
        Self { id, name, primary, replicas, slots }
    }
}

/// An instance to take in.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInstance {
    /// `IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`.
    #[schema(value_type = String, example = "10.0.0.1:6379")]
    pub addr: Addr,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl From<NewInstance> for command::NewInstance {
    fn from(instance: NewInstance) -> Self {
        Self { addr: instance.addr, zone: instance.zone }
    }
}

/// A group to add. Its instances are probed first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGroup {
    /// None: the least number that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<GroupId>,
    /// None: `g<id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub primary: NewInstance,
    #[serde(default)]
    pub replicas: Vec<NewInstance>,
    /// The primary may hold keys; replicas lose theirs by following it.
    #[serde(default)]
    pub take_data: bool,
}

/// A group's new name.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    pub name: String,
}

/// What a user may do, and by which passwords a client becomes this user.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// SHA-256 of each password that will do, as 64 hex digits. Only the user `default` may be without one.
    #[serde(default)]
    pub password_sha256: Vec<String>,
    /// Of commands, as ACL CAT names them: `all`, `read`, `-dangerous`. The last word on a command counts.
    pub categories: Vec<String>,
    /// Patterns of the keys that may be used; none: no key.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Patterns of the channels that may be used; none: no channel.
    #[serde(default)]
    pub channels: Vec<String>,
    /// Commands that write are refused.
    #[serde(default)]
    pub read_only: bool,
    /// May use MONITOR and TWEMSLOT ON.
    #[serde(default)]
    pub admin: bool,
}

/// How much memory each instance of a group may use.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Maxmemory {
    /// 0: as much as there is.
    pub bytes: u64,
    /// Also where an instance uses more now.
    #[serde(default)]
    pub force: bool,
}

/// What an instance uses, and may use.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceMemory {
    #[schema(value_type = String, example = "10.0.0.2:6379")]
    pub addr: Addr,
    #[schema(value_type = String, example = "primary")]
    pub role: Role,
    pub used_bytes: Option<u64>,
    /// 0: as much as there is.
    pub max_bytes: Option<u64>,
    /// Why it could not be asked, or told.
    pub error: Option<String>,
}

/// A replica to add to a group: probed, told to follow the primary, then put into the topology.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReplica {
    /// `IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`.
    #[schema(value_type = String, example = "10.0.0.2:6379")]
    pub addr: Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// It may hold keys, which it loses by following.
    #[serde(default)]
    pub take_data: bool,
}

/// Who owns which slots.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Slots {
    pub epoch: u64,
    pub slot_count: u16,
    /// In order, every slot in exactly one; with `per_slot` each has an entry of its own.
    pub ranges: Vec<SlotsOf>,
}

/// Slots `from..=to`, numbered from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlotsOf {
    pub from: Slot,
    pub to: Slot,
    /// None: nobody serves them.
    pub group: Option<GroupId>,
    #[schema(value_type = StateWord)]
    pub state: State,
    /// Where they go, while they move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<GroupId>,
}

/// Slots to give to groups.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    #[schema(value_type = Vec<RangeWord>)]
    pub ranges: Vec<SlotRange>,
    /// Also slots that another group owns: their keys stay behind there.
    #[serde(default)]
    pub force: bool,
}

/// Groups among which slots without an owner are spread, so that each owns equally many as far as possible.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Empty: all of them.
    #[serde(default)]
    pub groups: Vec<GroupId>,
}

/// A proxy: what it registered, and what its last heartbeat said.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Proxy {
    pub id: String,
    pub version: String,
    /// Where clients connect.
    pub addr: String,
    pub admin_addr: String,
    pub zone: String,
    /// The epoch that all its workers serve.
    pub epoch: u64,
    pub draining: bool,
    /// Milliseconds since 1970.
    pub started_at: u64,
    pub alive: bool,
    /// It said goodbye: nothing is wrong with it.
    #[serde(default)]
    pub left: bool,
    /// Since its last heartbeat; None where nobody here knows.
    pub last_beat_ms: Option<u64>,
    /// Why the last push of a topology failed, if it did.
    pub push_fault: Option<String>,
    /// How it sees the instances.
    #[schema(value_type = Vec<SightWord>)]
    pub instances: Vec<Sight>,
}

impl From<&ProxyView> for Proxy {
    fn from(view: &ProxyView) -> Self {
        let ProxyView { record, alive, last_beat_ms, push_fault, instances } = view.clone();
        Self {
            id: record.id,
            version: record.version,
            addr: record.addr,
            admin_addr: record.admin_addr,
            zone: record.zone,
            epoch: record.epoch,
            draining: record.draining,
            started_at: record.started_at,
            alive,
            left: record.left,
            last_beat_ms,
            push_fault,
            instances,
        }
    }
}

/// Whether a proxy is to be taken out of service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// True: no new clients, please. False: all welcome again.
    pub draining: bool,
}

/// What holds for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Settings {
    pub name: String,
    pub slot_count: u16,
    #[schema(value_type = TagRuleWord)]
    pub tag_rule: TagRule,
    /// How long a proxy that says nothing stays registered, in seconds.
    pub proxy_ttl_s: u64,
    /// Nothing is done by itself: a dead primary is not replaced.
    pub automation_paused: bool,
}

/// Another primary, please.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPrimary {
    /// This one. None: the best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "10.0.0.2:6379")]
    pub to: Option<Addr>,
}

/// What failover is to know of a group; what is not named stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGuard {
    /// A primary that owes an answer for so long hangs. 0: as the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hang_ms: Option<u64>,
    /// People work on it: nothing is done by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<bool>,
}

/// What failover is to know of an instance; what is not named stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInstanceGuard {
    /// It goes before others that hold as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<bool>,
    /// It never becomes primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never: Option<bool>,
}

/// Settings to change; what is not named stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_ttl_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automation_paused: Option<bool>,
}

/// One change somebody asked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Record {
    pub revision: Revision,
    /// Milliseconds since 1970.
    pub at: u64,
    /// The name of the token, never the token.
    pub who: String,
    pub what: String,
    pub command: Value,
    pub epoch_before: u64,
    pub epoch_after: u64,
    pub before: Value,
    pub after: Value,
    /// The caller's `Idempotency-Key`.
    pub idempotency_key: Option<String>,
}

/// A whole topology to take in: into an empty store or, with `replace`, over what is there.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    #[schema(value_type = TopologyWord)]
    pub topology: Message,
    /// Slot count and tag rule must then be as they are.
    #[serde(default)]
    pub replace: bool,
    /// Whether instances are probed first. True unless said otherwise.
    #[serde(default = "yes")]
    pub probe: bool,
}

fn yes() -> bool {
    true
}

/// One server of etcd, as it answers the member that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreServer {
    /// As in this member's configuration.
    pub addr: String,
    /// None: it did not answer.
    pub version: Option<String>,
    pub leading: bool,
    /// Its database on disk. etcd takes no more writes at `--quota-backend-bytes`, 2 GiB by default.
    pub bytes: Option<u64>,
    /// Why it did not answer, or what it complains about.
    pub fault: Option<String>,
}

/// All keys of a store: a backup, and how a cluster moves from one back end to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// `EXPORT_FORMAT`.
    pub format: String,
    pub revision: Revision,
    /// Which store it was.
    pub store: String,
    /// By key.
    pub entries: Vec<Exported>,
}

pub const EXPORT_FORMAT: &str = "twemslot-store-1";

/// One key and its value, exactly as the store holds it (JSON as text).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exported {
    pub key: String,
    pub value: String,
}

/// Who answers.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    /// The leader answers, whoever is asked: only it knows heartbeats and the progress of pushes.
    #[serde(default, deserialize_with = "flag")]
    #[param(value_type = Option<bool>)]
    #[expect(dead_code, reason = "seen by `forward` before a handler is called")]
    leader: bool,
}

/// What goes with every change.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DryRun {
    /// Validate, probe, say what would be; change nothing.
    #[serde(default, deserialize_with = "flag")]
    #[param(value_type = Option<bool>)]
    pub dry_run: bool,
}

/// What goes with every change, as a header.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IdempotencyKey {
    /// The same key again gets the same answer again, and changes nothing. 1 to 128 visible ASCII characters.
    #[serde(rename = "Idempotency-Key")]
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 128, pattern = "^[!-~]+$")]
    pub idempotency_key: Option<String>,
}

/// `?name`, `?name=true`, `?name=false`.
pub(super) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match String::deserialize(from)?.as_str() {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        other => Err(serde::de::Error::custom(format!("{other:?} is neither true nor false"))),
    }
}

impl Proxy {
    /// What is wrong with it, given the epoch in force.
    pub fn problem(&self, epoch: u64) -> Option<String> {
        let id = &self.id;
        match &self.push_fault {
            _ if self.left => None,
            _ if !self.alive => Some(format!("proxy {id} ({}): no heartbeat", self.admin_addr)),
            Some(fault) => Some(format!("proxy {id}: {fault}")),
            None if self.epoch != epoch => Some(format!("proxy {id}: serves epoch {}, not {epoch}", self.epoch)),
            None => None,
        }
    }
}
