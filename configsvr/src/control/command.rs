//! What people and scripts may ask of the control plane, and what they get. The HTTP API and the CLI say the same words.

use super::layout::{self, SlotRange};
use super::task::{Limits, Mode, NewLimits, Span, Window};
pub use cluster::beat::{Beat, BeatAnswer, Sight};
use cluster::group::GroupId;
use cluster::instance::Addr;
use cluster::slot::TagRule;
use cluster::user::User;
use cluster::wire;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One wish to change something. All are validated as a whole against the latest committed state before anything is
/// written; all are audited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Begins a cluster in an empty store.
    CreateCluster {
        name: String,
        slot_count: u16,
        tag_rule: TagRule,
    },
    /// The whole of a cluster at once (a static topology file, a Codis dump), into an empty store or, with `replace`, over
    /// what is there; slot count and tag rule must then be the same. Its epoch is ours to choose.
    Import {
        topology: wire::Message,
        replace: bool,
        probe: bool,
    },
    Settings {
        proxy_ttl_s: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        automation_paused: Option<bool>,
    },
    /// What failover is to know of a group; what is not named stays.
    Guard {
        group: GroupId,
        /// 0: as the configuration says.
        hang_ms: Option<u64>,
        maintenance: Option<bool>,
    },
    /// How much memory the instances of a group may use; 0: as much as there is. Kept in the audit alone: the setting is theirs.
    Maxmemory {
        group: GroupId,
        bytes: u64,
    },
    /// Who makes up the control plane. Kept in the audit alone: raft knows who it is.
    Member {
        change: MemberChange,
        name: String,
        addr: Option<String>,
    },
    /// What failover is to know of an instance.
    GuardInstance {
        group: GroupId,
        addr: Addr,
        prefer: Option<bool>,
        never: Option<bool>,
    },
    /// Another primary, now: nothing is lost, or nothing happens. `to`: this one.
    Switchover {
        group: GroupId,
        to: Option<Addr>,
    },
    /// The primary is to be taken for dead. What it has and no replica has is lost.
    Failover {
        group: GroupId,
        to: Option<Addr>,
    },
    /// `id`: None for the least number that is free. Instances are probed first; `take_data`: the primary may hold keys.
    AddGroup {
        id: Option<GroupId>,
        name: Option<String>,
        primary: NewInstance,
        replicas: Vec<NewInstance>,
        take_data: bool,
    },
    /// Only a group that owns no slot; its instances are left as they are.
    RemoveGroup {
        id: GroupId,
    },
    RenameGroup {
        id: GroupId,
        name: String,
    },
    /// A replica more: probed, told to follow the primary, and put into the topology. `take_data`: it may hold keys, which
    /// it loses by following.
    AddInstance {
        group: GroupId,
        instance: NewInstance,
        take_data: bool,
    },
    /// Only a replica.
    RemoveInstance {
        group: GroupId,
        addr: Addr,
    },
    /// Tells the instance once more to follow the group's primary.
    FollowPrimary {
        group: GroupId,
        addr: Addr,
    },
    /// Gives slots to groups. A slot that another group owns is refused unless `force` (its keys stay behind there).
    AssignSlots {
        ranges: Vec<SlotRange>,
        force: bool,
    },
    /// Gives the slots that nobody owns to the groups, so that they own equally many as far as possible. `groups` empty:
    /// all of them.
    SpreadSlots {
        groups: Vec<GroupId>,
    },
    /// Slots on their way from group to group, with their keys, while clients write.
    StartMigrations(NewMoves),
    /// Pause, resume, cancel, other limits.
    SteerMigration {
        id: u64,
        #[serde(flatten)]
        steering: Steering,
    },
    /// The slots of a migration that is done, back to where they came from.
    ReverseMigration {
        id: u64,
    },
    /// Whom clients may be: this one more, or as this one is from now on.
    SetUser {
        user: User,
    },
    RemoveUser {
        name: String,
    },
    /// No new clients for this proxy, or again.
    DrainProxy {
        id: String,
        draining: bool,
    },
    /// Forgets a proxy now. One that lives comes back with its next heartbeat.
    RemoveProxy {
        id: String,
    },
}

/// What becomes of a member of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberChange {
    Add,
    Promote,
    Remove,
}

/// Migrations to begin: one for each move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMoves {
    pub moves: Vec<NewMove>,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// The epoch that they were planned at: refused under any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Both sides are not compared before the source's keys are removed.
    #[serde(default)]
    pub skip_audit: bool,
    /// Also where the target seems to have too little memory.
    #[serde(default)]
    pub force: bool,
    /// The wish that these moves were made up for, where somebody wished for no moves. The same wish again is planned anew
    /// and may come out otherwise, so it is known by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_for: Option<Value>,
}

/// These slots, or so many of the source's last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMove {
    pub from: GroupId,
    pub to: GroupId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u16>,
}

/// What is to change about a migration; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<NewLimits>,
    /// Also where the target seems to have too little memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

/// An instance somebody wants in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInstance {
    pub addr: Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// A command and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The name of the token used.
    pub who: String,
    pub command: Command,
    pub idempotency_key: Option<String>,
    /// Validate, probe, answer what would be; write nothing.
    pub dry_run: bool,
}

/// A change that is committed (or, dry, would be).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The topology's epoch after it.
    pub epoch: u64,
    /// What is now, as far as it changed (a group, ranges of slots, ...).
    pub result: Value,
    /// Things to know that did not stop it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// This very request (by its idempotency key) was done before.
    #[serde(default)]
    pub repeated: bool,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub kind: Kind,
    /// A word for programs: `no_such_group`, `slot_taken`, `not_empty`.
    pub code: String,
    /// What is wrong, and where. One line.
    pub message: String,
    /// What to do about it. One line.
    pub hint: String,
}

/// Whose fault it is; each has an HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 400: could never be right.
    Invalid,
    /// 404: names something that is not there.
    Absent,
    /// 409: against what is there now.
    Conflict,
    /// 422: an instance is unfit; the message says which and why.
    Unfit,
    /// 429 or 503 with Retry-After: too many requests wait.
    Busy,
    /// 503: not the leader and nobody known is, or the store is away. Nothing was changed.
    Unavailable,
    /// 504: may or may not have been done; the same idempotency key tells.
    Unknown,
}

/// What a probe of one instance saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub addr: Addr,
    pub run_id: String,
    /// `7.0.15`
    pub version: String,
    /// `redis`, `valkey`, `pika`, `kvrocks`, ...: what INFO says it is.
    pub server: String,
    pub cluster_mode: bool,
    pub role: cluster::instance::Role,
    /// Whom it follows, as `host:port`.
    pub follows: Option<String>,
    /// Keys in all databases.
    pub keys: u64,
    /// Databases other than 0 that hold keys.
    pub other_databases: u64,
    pub loading: bool,
}

/// A proxy as the leader knows it: the stored record and what its last heartbeat said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProxyView {
    #[serde(flatten)]
    pub record: layout::Proxy,
    pub alive: bool,
    /// Since the last heartbeat this leader heard, in milliseconds.
    pub last_beat_ms: Option<u64>,
    /// Why the last push failed, if it did.
    pub push_fault: Option<String>,
    pub instances: Vec<Sight>,
}
