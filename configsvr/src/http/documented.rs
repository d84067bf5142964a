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
    /// `topology`, `proxy_joined`, `proxy_lost`, `invalid_edit`, `leader`, `store_lost`, `store_back`, `failover`,
    /// `failover_vetoed`, `failover_frozen`, `failover_stuck`, `no_candidate`, `failover_off`, `automation_off`, `writes_lost`,
    /// `demoted`, `not_a_primary`, `migration`, `migration_stuck`.
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
    /// The last word: it serves nobody any more.
    #[schema(required = false)]
    pub leaving: bool,
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
    /// It is on record: from now on no slot changes hands without it. Before, a proxy serves nothing.
    pub registered: bool,
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
    #[schema(required = false)]
    pub users: Vec<UserWord>,
}

/// Somebody whom clients may be.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct UserWord {
    pub name: String,
    /// SHA-256 as 64 hex digits, or `(hidden)`.
    #[schema(required = false)]
    pub password_sha256: Vec<String>,
    #[schema(required = false)]
    pub categories: Vec<String>,
    #[schema(required = false)]
    pub keys: Vec<String>,
    #[schema(required = false)]
    pub channels: Vec<String>,
    #[schema(required = false)]
    pub read_only: bool,
    #[schema(required = false)]
    pub admin: bool,
}

/// A group of a topology.
#[derive(Serialize, ToSchema)]
pub(super) struct TopologyGroup {
    pub id: GroupId,
    #[schema(required = false)]
    pub name: String,
    pub instances: Vec<TopologyInstance>,
    /// It may hold keys of slots that it does not own: a migration makes copies there, or has left some.
    #[schema(required = false)]
    pub copies: bool,
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

/// A change of a primary, from the decision to its end.
#[derive(Serialize, ToSchema)]
#[schema(as = Failover)]
pub(super) struct FailoverWord {
    /// By the epoch of its decision.
    pub id: String,
    pub group_id: GroupId,
    /// `failover`, `forced` or `switchover`.
    pub kind: String,
    /// `fence`, `promote`, `repair`, `done` or `aborted`.
    pub phase: String,
    pub epoch: u64,
    pub old: String,
    #[schema(required = false)]
    pub old_run_id: String,
    #[schema(required = false)]
    pub old_replid: String,
    /// How far it was in bytes when it was last seen.
    pub old_offset: Option<u64>,
    #[schema(required = false)]
    pub replid: String,
    /// What that history grew out of.
    pub former: Option<FormerWord>,
    pub why: String,
    #[schema(required = false)]
    pub evidence: Vec<String>,
    pub wanted: Option<String>,
    pub candidate: Option<String>,
    /// The history that it continues.
    pub continues: Option<String>,
    #[schema(required = false)]
    pub passed_over: Vec<String>,
    /// Up to where the promoted one had the old one's history.
    pub offset: Option<u64>,
    /// What the old primary had beyond that, in bytes, once it came back.
    pub lost_bytes: Option<u64>,
    pub times: TimesWord,
    pub note: Option<String>,
}

/// When each phase was reached, in milliseconds since 1970.
#[derive(Serialize, ToSchema)]
#[schema(as = Times)]
pub(super) struct TimesWord {
    pub doubted: u64,
    pub decided: u64,
    pub chosen: Option<u64>,
    pub committed: Option<u64>,
    pub ended: Option<u64>,
    /// When the old primary came back and said what it had.
    pub reported: Option<u64>,
}

/// What failover knows and was told of a group.
#[derive(Serialize, ToSchema)]
#[schema(as = Guard)]
pub(super) struct GuardWord {
    pub group_id: GroupId,
    pub primary: Option<IdentityWord>,
    pub hang_ms: Option<u64>,
    #[schema(required = false)]
    pub maintenance: bool,
    pub prefer: Option<String>,
    #[schema(required = false)]
    pub never: Vec<String>,
}

/// One process and its history.
#[derive(Serialize, ToSchema)]
#[schema(as = Identity)]
pub(super) struct IdentityWord {
    pub addr: String,
    pub run_id: String,
    pub replid: String,
    pub former: Option<FormerWord>,
}

/// The history that another grew out of, and after how many bytes.
#[derive(Serialize, ToSchema)]
#[schema(as = Former)]
pub(super) struct FormerWord {
    pub replid: String,
    pub offset: u64,
}

/// How an instance looks to the member that answers.
#[derive(Serialize, ToSchema)]
#[schema(as = InstanceView)]
pub(super) struct InstanceWord {
    pub group: GroupId,
    pub addr: String,
    /// What the topology says: `primary` or `replica`.
    pub role: String,
    /// `up`, `refused`, `reborn`, `hang` or `unknown`.
    pub verdict: String,
    /// Members that accuse it; known to the leader.
    pub votes: usize,
    pub heard_ms: Option<u64>,
    pub offset: Option<u64>,
    pub link_up: Option<bool>,
    pub run_id: Option<String>,
    pub version: Option<String>,
    pub fault: Option<String>,
    /// None: INFO has not come.
    pub load: Option<LoadWord>,
}

/// How much an instance has to do, and holds; null where it does not say.
#[derive(Serialize, ToSchema)]
#[schema(as = Load)]
pub(super) struct LoadWord {
    pub memory_bytes: Option<u64>,
    /// Null: it has no bound.
    pub memory_max_bytes: Option<u64>,
    pub clients: Option<u64>,
    pub commands: Option<u64>,
    pub keys: Option<u64>,
    pub evicted_keys: Option<u64>,
}

/// Slots `from..=to`, numbered from 0.
#[derive(Serialize, ToSchema)]
#[schema(as = Span)]
pub(super) struct SpanWord {
    pub from: Slot,
    pub to: Slot,
}

/// Slots on their way from one group to another.
#[derive(Serialize, ToSchema)]
#[schema(as = Migration)]
pub(super) struct MigrationWord {
    pub id: u64,
    pub from: GroupId,
    pub to: GroupId,
    pub slots: Vec<SpanWord>,
    /// `copy` where it is not there.
    #[schema(required = false)]
    pub mode: ModeWord,
    /// 1 preparing, 2 pending, 3 migrating, 4 finished.
    pub state: u8,
    /// `waiting`, `copy`, `fence`, `fetch`, `clean`, `done`, `undo` or `cancelled`.
    pub phase: String,
    #[schema(required = false)]
    pub paused: bool,
    #[schema(required = false)]
    pub cancelled: bool,
    pub limits: LimitsWord,
    /// Hours in UTC, `22:00-06:00`.
    pub window: Option<String>,
    /// Both sides are not compared before the source's keys are removed.
    #[schema(required = false)]
    pub skip_audit: bool,
    /// The target's memory is not looked at.
    #[schema(required = false)]
    pub force: bool,
    /// Under which proxies know of the copy, the slots are held, or served by the target: as the phase is.
    pub epoch: Option<u64>,
    /// How often the slots were held so far.
    pub fences: u32,
    pub times: TaskTimesWord,
    pub tally: Option<TallyWord>,
    /// Where the target's own history was at the commit.
    pub mark: Option<MarkWord>,
    pub audit: Option<FindingsWord>,
    /// The migration whose slots this one brings back.
    pub reverses: Option<u64>,
    pub note: Option<String>,
    pub slot_count: usize,
    /// The mover's own word; known to the leader.
    pub stage: Option<String>,
    pub trouble: Option<String>,
    pub progress: Option<ProgressWord>,
}

/// How keys come from the source to the target. `on_access`: the target serves the slots from the beginning, and each key
/// comes when it is used; until all have come, the failover of either group may lose or bring back what its replica had not
/// heard of.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Mode)]
pub(super) enum ModeWord {
    Copy,
    OnAccess,
}

/// How hard it may push; 0: no limit.
#[derive(Serialize, ToSchema)]
#[schema(as = Limits)]
pub(super) struct LimitsWord {
    pub keys_per_s: u64,
    pub bytes_per_s: u64,
    pub latency_ms: u64,
    pub value_bytes: u64,
}

/// Milliseconds since 1970.
#[derive(Serialize, ToSchema)]
#[schema(as = TaskTimes)]
pub(super) struct TaskTimesWord {
    pub created: u64,
    pub begun: Option<u64>,
    pub fenced: Option<u64>,
    pub committed: Option<u64>,
    pub ended: Option<u64>,
}

/// What it cost.
#[derive(Serialize, ToSchema)]
#[schema(as = Tally)]
pub(super) struct TallyWord {
    pub keys: u64,
    pub bytes: u64,
    pub applied: u64,
    /// From the decision to hold the slots to the transaction that gave them to the target.
    pub pause_ms: u64,
    pub removed: u64,
}

/// A place in an instance's own history.
#[derive(Serialize, ToSchema)]
#[schema(as = Mark)]
pub(super) struct MarkWord {
    pub replid: String,
    pub offset: u64,
}

/// What comparing source and target brought, key by key, before the source's keys were removed.
#[derive(Serialize, ToSchema)]
#[schema(as = Findings)]
pub(super) struct FindingsWord {
    pub compared: u64,
    pub equal: u64,
    /// They differ, and were written at the target since.
    pub changed: u64,
    pub missing: u64,
    pub different: u64,
    pub extra: u64,
    /// Whether the target's writes since then are known; if not, whatever differs counts as changed.
    pub told_apart: bool,
    pub examples: Vec<String>,
}

/// How far a copy is.
#[derive(Serialize, ToSchema)]
#[schema(as = Progress)]
pub(super) struct ProgressWord {
    pub attempt: u64,
    pub scanned: u64,
    pub to_scan: u64,
    pub copied: u64,
    pub bytes: u64,
    pub applied: u64,
    pub dirty: u64,
    pub lag_bytes: u64,
    pub age_ms: u64,
    /// Until all keys were met once.
    pub eta_ms: Option<u64>,
    /// How long the slots have been held by now.
    pub held_ms: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Balance)]
pub(super) struct PlanWord {
    pub moves: Vec<MoveWord>,
    pub shares: Vec<ShareWord>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Move)]
pub(super) struct MoveWord {
    pub from: GroupId,
    pub to: GroupId,
    pub slots: Vec<SpanWord>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Share)]
pub(super) struct ShareWord {
    pub group: GroupId,
    pub weight: u32,
    pub slots_before: usize,
    pub slots_after: usize,
    /// In slots, keys, bytes or requests a second.
    pub load_before: u64,
    pub load_after: u64,
}

/// What is spread evenly.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = By)]
pub(super) enum ByWord {
    Slots,
    Keys,
    Memory,
    Ops,
}

/// What a plan goes by.
#[derive(Serialize, ToSchema)]
#[schema(as = Measured)]
pub(super) struct MeasuredWord {
    /// Since measuring began.
    pub age_ms: u64,
    /// By group.
    pub samples: Vec<SampledWord>,
    pub ops: Option<CountedWord>,
}

/// A walk over some of a group's keys.
#[derive(Serialize, ToSchema)]
#[schema(as = Sampled)]
pub(super) struct SampledWord {
    pub group: GroupId,
    pub addr: String,
    /// There was no replica to ask.
    pub primary: bool,
    /// All keys that it holds.
    pub keys: u64,
    /// Keys that were met, and how many of them were asked for their size.
    pub scanned: u64,
    pub sized: u64,
    pub took_ms: u64,
}

/// Requests at the proxies.
#[derive(Serialize, ToSchema)]
#[schema(as = Counted)]
pub(super) struct CountedWord {
    pub window_ms: u64,
    pub requests: u64,
    pub proxies: Vec<String>,
}

/// What a plan costs.
#[derive(Serialize, ToSchema)]
#[schema(as = Estimate)]
pub(super) struct EstimateWord {
    pub slots: u64,
    pub keys: u64,
    /// Of memory.
    pub bytes: u64,
    /// Until the last slot has changed hands, at the limits or at the speed of the last migration; null: neither is known.
    pub ms: Option<u64>,
    pub speed: Option<SpeedWord>,
}

/// How fast a migration went.
#[derive(Serialize, ToSchema)]
#[schema(as = Speed)]
pub(super) struct SpeedWord {
    pub migration: u64,
    pub keys_per_s: u64,
    pub bytes_per_s: u64,
}

/// Whether what comes to an instance fits.
#[derive(Serialize, ToSchema)]
#[schema(as = Room)]
pub(super) struct RoomWord {
    pub group: GroupId,
    pub addr: String,
    pub primary: bool,
    pub coming_bytes: u64,
    pub used_bytes: Option<u64>,
    /// Its `maxmemory`, or with `of_host` what its machine has; null: nobody knows.
    pub most_bytes: Option<u64>,
    pub of_host: bool,
    pub enough: bool,
}
