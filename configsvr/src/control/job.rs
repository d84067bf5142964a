//! What the mover is told, and what it says: the copying of slots from one group to another while clients write. Control
//! says what is wanted and for how long; `mover` does it and never decides that a slot changes hands.

use super::layout::Token;
use cluster::group::GroupId;
use cluster::instance::Addr;
use cluster::slot::{Slot, TagRule};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One copy, from the purge of the target to the last byte. A new attempt begins anew, with the purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The migration task's.
    pub task: String,
    pub work: Work,
    /// Counts up within a leader's reign. What an older attempt still says is not listened to.
    pub attempt: u64,
    /// Names the mover's connections at both sides; those of older tokens and attempts are killed first.
    pub token: Token,
    /// Sorted, 0-based.
    pub slots: Arc<[Slot]>,
    pub slot_count: u16,
    pub tag_rule: TagRule,
    pub source: Side,
    pub target: Side,
    pub limits: JobLimits,
    /// The target's memory is not looked at.
    pub force: bool,
}

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A copy, from the purge of the target to the last byte.
    Copy,
    /// Slots are to move on access: whether both sides can is tried, then the target is purged. Ready: `Stage::Tailing`.
    Prepare,
    /// Slots move on access: what nobody uses is brought to the target, key by key. It never purges: the target serves them.
    Fetch,
}

/// One end of a copy, as the topology in force has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    pub group: GroupId,
    pub primary: Addr,
    pub replicas: Vec<Addr>,
}

/// How hard the mover may push. 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobLimits {
    pub keys_per_s: u64,
    pub bytes_per_s: u64,
    /// A PING to either side that takes longer than this slows the copy down, until it does not, in milliseconds.
    pub latency_ms: u64,
    /// A value that cannot be copied in pieces may be so large, in bytes of memory; a larger one ends the job.
    pub value_bytes: u64,
}

/// How far a job is to go for now. It may be told at any time, also backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Purge, copy, and then keep up with the source's writes; or prepare, or fetch.
    Copy,
    /// Keep up with the source's writes, copy nothing more; or fetch nothing more.
    Pause,
    /// Nobody writes to these slots any more. Read the source's offset now, apply everything up to it, empty the dirty set,
    /// wait for the target's replicas, then say `Drained` with this number. From then on nothing is changed at the target
    /// until another goal is told: it may own the slots by then, and the stream brings their removal at the source.
    Drain { fence: u64 },
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Keys of the slots that the target has are removed.
    Purging,
    /// The keys there were when it began are being copied.
    Copying,
    /// They are; writes are followed.
    Tailing,
    /// The target holds what the source holds, of these slots, up to the end. `replicas` of the target have it, too. `mark`:
    /// what the target's history has behind it was written by clients.
    Drained { fence: u64, offset: u64, replicas: usize, mark: Option<Mark> },
    /// Keys that are left at the source are brought to the target.
    Fetching,
    /// Two passes over all keys of the source, one after the other, met none of the slots.
    Emptied,
    /// It cannot go on; a new attempt may.
    Failed { why: String },
    /// It cannot go on, nor can another attempt until somebody changes something: what, and what to do.
    Hopeless { why: String },
}

/// A place in an instance's own history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    pub replid: String,
    /// Bytes.
    pub offset: u64,
}

/// What a job says of itself, four times a second and whenever its stage changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub stage: Stage,
    /// Keys that the pass over the source has met, of all slots.
    pub scanned: u64,
    /// Keys of the source's database when the pass began: what `scanned` grows to.
    pub to_scan: u64,
    /// Keys of these slots that were copied, those copied again counted again.
    pub copied: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Commands of the source's stream applied to the target.
    pub applied: u64,
    /// Keys to be copied again.
    pub dirty: u64,
    /// Bytes of the source's stream that are not read yet, as of the last look at its offset.
    pub lag: u64,
}

/// Keys of `slots` are removed at one instance: copies that are not needed, or originals after the slots changed hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    pub task: String,
    pub token: Token,
    pub at: Addr,
    pub slots: Arc<[Slot]>,
    pub slot_count: u16,
    pub tag_rule: TagRule,
    /// Keys a second; 0: no limit.
    pub keys_per_s: u64,
    /// Nothing is removed: what there is is counted.
    pub count_only: bool,
}

/// Whether the target holds what the source holds, key by key, after the slots changed hands and before the source's copies
/// are removed. Both sides are only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    pub task: String,
    pub token: Token,
    pub source: Side,
    pub target: Side,
    pub slots: Arc<[Slot]>,
    pub slot_count: u16,
    pub tag_rule: TagRule,
    /// Keys a second; 0: no limit.
    pub keys_per_s: u64,
    /// Where the target was when the slots changed hands.
    pub mark: Option<Mark>,
}

/// What an audit found. Values are compared by a hash of their elements, read piece by piece, whatever their encoding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    /// Keys of the source: the sum of the next four.
    pub compared: u64,
    pub equal: u64,
    /// They differ, and were written at the target since the drain.
    pub changed: u64,
    /// The target does not have them, and nobody removed them.
    pub missing: u64,
    /// They differ, and nobody wrote them.
    pub different: u64,
    /// Keys of the target that the source does not have, and nobody wrote.
    pub extra: u64,
    /// Whether the target's writes since the drain are known. If not (its backlog is too small for them), whatever differs
    /// counts as changed.
    pub told_apart: bool,
    /// Some of what is missing, different or extra.
    pub examples: Vec<String>,
}

impl Findings {
    /// The source's copies are needed: the target lacks something, or has it wrong.
    pub fn is_bad(&self) -> bool {
        self.missing + self.different > 0
    }
}
