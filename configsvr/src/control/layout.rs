//! What lies where in the store: the names of keys and the JSON under them. Founding layout, see ARCHITECTURE.md for an
//! example of each.
//!
//! Slots are 1-based in the store (as they always were for those who read etcd) and 0-based everywhere else.

use cluster::group::GroupId;
use cluster::instance::Addr;
use cluster::slot::{Slot, TagRule};
use cluster::user::User;
use serde::{Deserialize, Serialize};

/// `settings`: what holds for the whole cluster. Its presence means that the cluster was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub name: String,
    /// Fixed for ever.
    pub slot_count: u16,
    /// Fixed for ever.
    #[serde(default)]
    pub tag_rule: TagRule,
    /// How long a proxy that says nothing stays registered, in seconds.
    #[serde(default = "proxy_ttl_default")]
    pub proxy_ttl_s: u64,
    /// Nothing is done by itself: no failover, no repair. What is under way is brought to its end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub automation_paused: bool,
    /// Whom clients may be, beside those that a proxy's own configuration names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

pub(super) fn proxy_ttl_default() -> u64 {
    10
}

/// `epoch`: the topology's epoch. Whoever changes groups or slots writes it in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    pub epoch: u64,
    /// Slots whose own keys are not written yet, since one transaction cannot hold them all (`store::TXN_MAX`): what is
    /// said here goes before what their keys say. The leader writes the keys, then clears this, at the same epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfolded: Vec<SlotRange>,
    /// Of the topology that is meant by this epoch (`stored::sum_of`). A topology with another sum was edited by hand, and
    /// gets an epoch of its own. Whoever edits leaves it as it is, or out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<u32>,
}

/// Slots `from..=to`, 0-based, of one owner. No owner: nobody serves them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotRange {
    pub from: Slot,
    pub to: Slot,
    pub group: Option<GroupId>,
}

/// `leader`: who may write. Every transaction of the leader compares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leader {
    /// `Token` as text; only a greater one may replace it.
    pub token: Token,
    /// The member's name, and where its API is.
    pub member: String,
    pub addr: String,
}

/// `restoring`: a store is being loaded, in more than one transaction. As long as this is there and `settings` is not, what
/// lies under groups and slots is no cluster: nobody has to make sense of a part of it. The last transaction takes it away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restoring {
    /// Of the leader that does it. Another one removes what it finds.
    pub token: Token,
    /// Milliseconds since 1970.
    pub begun: u64,
    /// It was given up: what lies there is being removed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub given_up: bool,
}

/// A leader's fencing token: raft's term and the member's id. The term alone is not one, since openraft allows two
/// leaders in one term. As text, 16 hex digits each, so that text and number sort alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token {
    pub term: u64,
    pub member: u64,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:016x}", self.term, self.member)
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.to_string()
    }
}

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fault = || format!("{text:?} is not a token: 16 hex digits, a dash, 16 hex digits");
        let (term, member) = text.split_once('-').filter(|(a, b)| a.len() == 16 && b.len() == 16).ok_or_else(fault)?;
        let number = |digits| u64::from_str_radix(digits, 16).map_err(|_| fault());
        Ok(Self { term: number(term)?, member: number(member)? })
    }
}

/// `group-instances/<group id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub group_id: GroupId,
    #[serde(default)]
    pub group_name: String,
    #[serde(alias = "master")]
    pub primary: Addr,
    #[serde(default, alias = "slaves")]
    pub replicas: Vec<Addr>,
    /// What else is known of its instances; those without an entry have nothing to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
}

/// More about one instance of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    pub addr: Addr,
    /// Redis's own, as of when it was added or last adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// `guards/<group id>`: what failover knows and was told of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    pub group_id: GroupId,
    /// The primary as it was seen at work: its address, process and history. None: never seen yet. A candidate must
    /// continue this history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<Identity>,
    /// A primary that owes an answer for so long hangs. None: what the member's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hang_ms: Option<u64>,
    /// People work on it: nothing is done by itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub maintenance: bool,
    /// Goes before others that hold as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<Addr>,
    /// Never become primary.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub never: Vec<Addr>,
}

/// One process and its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub addr: Addr,
    pub run_id: String,
    pub replid: String,
    /// What its history grew out of, when it was promoted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Former>,
}

impl Identity {
    /// The same process with the same history.
    pub fn is(&self, other: &Self) -> bool {
        self.addr == other.addr && self.run_id == other.run_id && self.replid == other.replid
    }
}

/// The history that another grew out of, and where. A replica that has not followed the new primary yet still names this
/// one; if it has no more of it than that, it holds nothing that parted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Former {
    pub replid: String,
    /// In bytes.
    pub offset: u64,
}

/// `failovers/<epoch of the decision, 20 digits>`: a change of a primary, from the decision to the end. All that is done
/// for it follows from this record, so that the next leader goes on where the last one stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    pub id: String,
    pub group_id: GroupId,
    pub kind: FailoverKind,
    pub phase: Phase,
    /// Of the decision: the first under which the group's slots are held.
    pub epoch: u64,
    /// Who is replaced, and its history.
    pub old: Addr,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub old_run_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub old_replid: String,
    /// How far it was in bytes when the decider last saw it, up to a second before the doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_offset: Option<u64>,
    /// What the promoted one must continue. Empty: unknown, any history will do (a person forced it).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub replid: String,
    /// What that history grew out of: for candidates that had not followed the old primary yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Former>,
    /// In one line, and what it rests on.
    pub why: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// Somebody wants this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Addr>,
    /// From `promote` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Addr>,
    /// The history that it continues: `replid`, or the former one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<String>,
    /// Could not be promoted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<Addr>,
    /// Up to where the promoted one had the old one's history, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes of history that the old primary had beyond that, as it said when it came back. None: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_bytes: Option<u64>,
    /// Milliseconds since 1970: when each phase was reached.
    pub times: Times,
    /// Why it was given up, or what people should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    /// Since when the old primary was in doubt; a planned one: when it was asked for.
    pub doubted: u64,
    pub decided: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// When the old primary came back and said what it had, which may be long after the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<u64>,
}

/// What brings another primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverKind {
    /// The primary is dead.
    Failover,
    /// A person says that it is to be taken for dead.
    Forced,
    /// Both live, nothing is lost.
    Switchover,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The group's slots are held; replicas are detached, or caught up; none is chosen yet.
    Fence,
    /// The candidate is chosen and becomes primary.
    Promote,
    /// The candidate is the primary; the others are told.
    Repair,
    Done,
    /// Given up: the old primary serves on.
    Aborted,
}

impl FailoverKind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Forced => "forced",
            Self::Switchover => "switchover",
        }
    }
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::Promote => "promote",
            Self::Repair => "repair",
            Self::Done => "done",
            Self::Aborted => "aborted",
        }
    }

    /// The group's slots are held.
    pub fn holds(self) -> bool {
        matches!(self, Self::Fence | Self::Promote)
    }

    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Aborted)
    }
}

/// `slot-to-group-mapping/slot<N>`, N from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotEntry {
    /// From 1.
    pub slot_id: u32,
    /// 0: nobody.
    pub group_id: GroupId,
    /// Empty (`{}`) unless the slot is being migrated.
    #[serde(default)]
    pub action: SlotAction,
}

/// Where a slot stands in its migration. States: 1 preparing, 2 pending, 3 migrating, 4 finished; none when empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotAction {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_group_id: Option<GroupId>,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<u64>,
}

/// `proxies/<id>`, under a lease: a proxy that serves or just did. What changes with every heartbeat is not in here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    pub id: String,
    pub version: String,
    /// Where clients connect.
    pub addr: String,
    /// Where topologies are pushed to.
    pub admin_addr: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// The epoch that all its workers serve.
    pub epoch: u64,
    /// No new clients, please: it is being taken out of service.
    #[serde(default)]
    pub draining: bool,
    /// Milliseconds since 1970.
    pub started_at: u64,
    /// It said that it serves nobody any more: nobody waits for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub left: bool,
}

/// `audit/<revision, 20 digits>`: one change somebody asked for. The revision is the store's when it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// Milliseconds since 1970.
    pub at: u64,
    /// The name of the token, never the token.
    pub who: String,
    /// The command's name, as `groups.add`.
    pub what: String,
    /// The command itself, without secrets.
    pub command: serde_json::Value,
    /// The epochs before and after; equal where the topology did not change.
    pub epoch_before: u64,
    pub epoch_after: u64,
    /// What was, and is now: only what changed.
    pub before: serde_json::Value,
    pub after: serde_json::Value,
    /// The caller's `Idempotency-Key`: the same key again gets `answer` again, and changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    pub answer: serde_json::Value,
}

pub const SETTINGS: &str = "settings";
pub const EPOCH: &str = "epoch";
pub const LEADER: &str = "leader";
pub const RESTORING: &str = "restoring";
pub const SLOTS: &str = "slot-to-group-mapping/slot";
pub const GROUPS: &str = "group-instances/";
pub const PROXIES: &str = "proxies/";
/// Followed by an id: its proxy was registered, and neither said goodbye nor was removed. Not under a lease: it stays when
/// the registration ends by itself, since the proxy may then be dead, or cut off from here and at work: nobody can tell.
pub const ROSTER: &str = "roster/";
pub const AUDIT: &str = "audit/";
pub const GUARDS: &str = "guards/";
pub const FAILOVERS: &str = "failovers/";

pub fn slot_key(slot: Slot) -> String {
    format!("{SLOTS}{}", u32::from(slot) + 1)
}

pub fn group_key(id: GroupId) -> String {
    format!("{GROUPS}{id}")
}

pub fn guard_key(id: GroupId) -> String {
    format!("{GUARDS}{id}")
}

pub fn failover_key(id: &str) -> String {
    format!("{FAILOVERS}{id}")
}

/// As text and number sort alike.
pub fn failover_id(epoch: u64) -> String {
    format!("{epoch:020}")
}

pub fn proxy_key(id: &str) -> String {
    format!("{PROXIES}{id}")
}

pub fn roster_key(id: &str) -> String {
    format!("{ROSTER}{id}")
}

pub fn audit_key(revision: u64) -> String {
    format!("{AUDIT}{revision:020}")
}
