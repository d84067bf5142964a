//! The copying of slots, without sockets and clocks: bytes of three connections and `now` come in, bytes for two of them and
//! a status come out. CONTROL: nothing here decides that a slot changes hands.
//!
//! ```text
//!   source's replica ── stream of writes ──> journal ─┐ in order, up to where a copy was taken
//!        ▲        └──── replies ──> fetch: SCAN, MEMORY USAGE, blocks ──┤
//!        └── to_source ────────────────┘                                ▼
//!   target <── to_target ───────────────────────────── RESTORE, and the commands themselves
//! ```
//! **Why the target ends up equal.** A block of copies is read in one transaction with the source's offset O, so it holds
//! exactly the writes up to O. The stream is taken up to O before the copies are sent, and everything goes over one
//! connection to the target. Hence a key is in one of these states:
//! - *flying*: it is going to be copied, at an offset that is not taken yet. Writes of it are skipped: the copy holds them.
//! - *dirty*: it has to be copied (again). Writes of it are skipped, too.
//! - otherwise, while the pass over the source's keys is under way (`Phase::Scanning`): a write makes it dirty, as nobody knows
//!   whether the target has it. When the pass is over, and the stream is taken up to where it ended (`Phase::Closing`), the
//!   target has every key that is neither flying nor dirty, at exactly the offset taken: `Phase::Following`, and commands are
//!   applied as they are. One that touches other keys as well makes its keys dirty instead, and so does one of a key that the
//!   target's clock has ended already (`mortal`).

mod rehearsal;
mod drain;
mod apply;
mod fetch;
mod large;
mod mortal;
mod pieces;
mod asked;
pub(super) mod pace;
pub mod moving;
pub mod touched;
pub mod print;
mod journal;
pub mod inbox;
pub mod table;
pub mod slots;
pub mod limits;
#[cfg(test)]
mod sim;

use crate::control::job::{Goal, JobLimits, Mark, Stage, Status};
use asked::{Ask, Ready, Sent};
use drain::Drain;
use inbox::Inbox;
use journal::Journal;
use large::Large;
use mortal::Mortal;
use pace::Pace;
use rehearsal::Rehearsal;
use slots::Slots;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use table::Table;

pub(super) use asked::shown;
pub use drain::Replication;

/// A key.
pub type Key = Arc<[u8]>;

/// What a copy needs to know before it begins.
#[derive(Debug)]
pub struct Plan {
    pub slots: Slots,
    pub table: Table,
    pub limits: JobLimits,
    /// The history that the stream is of.
    pub replid: String,
    /// The stream's first byte follows this.
    pub offset: u64,
    /// Keys of the source's database.
    pub to_scan: u64,
    /// Values of more bytes are copied in pieces: `limits::PIECE_FROM`.
    pub piece_from: u64,
    /// Bytes of a piece, about: `limits::PIECE_BYTES`.
    pub piece_bytes: usize,
}

/// Why it cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Nor can another attempt, until somebody changes something.
    pub hopeless: bool,
    pub why: String,
}

impl Fault {
    pub fn failed(why: impl Into<String>) -> Self {
        Self { hopeless: false, why: why.into() }
    }

    pub fn hopeless(why: impl Into<String>) -> Self {
        Self { hopeless: true, why: why.into() }
    }
}

/// How much is known of the keys that are neither flying nor dirty. See above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Scanning,
    /// The pass ended at this offset; None: it is being asked for.
    Closing(Option<u64>),
    Following,
}

/// Which database the stream speaks of. It does not say so when one attaches in its middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Db {
    Unknown,
    Ours,
    Other,
}

/// Where the source's primary is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub replid: String,
    pub offset: u64,
}

/// The state of a copy.
pub struct Copier {
    plan: Plan,
    goal: Goal,
    phase: Phase,
    db: Db,
    journal: Journal,
    from_source: Inbox,
    from_target: Inbox,
    /// Bytes for the source's connection; the shell takes them.
    pub to_source: Vec<u8>,
    /// Bytes for the target's.
    pub to_target: Vec<u8>,
    target_up: bool,
    asks: VecDeque<Ask>,
    ready: VecDeque<Ready>,
    cursor: Vec<u8>,
    /// Keys whose size is to be asked for, and keys whose size is known.
    unsized_keys: VecDeque<Key>,
    sized: VecDeque<(Key, u64)>,
    /// How often a key is flying: a pass may meet it twice.
    flying: HashMap<Key, u32>,
    dirty: BTreeSet<Key>,
    large: Large,
    mortal: Mortal,
    /// Of keys whose lifetime is asked for: whether they had one before the command, as far as that is answered.
    lived: VecDeque<bool>,
    /// Commands of several keys that are not answered.
    wide: usize,
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    pace: Pace,
    rehearsal: Rehearsal,
    drain: Drain,
    /// Where the target was at the last drain.
    mark: Option<Mark>,
    primary: Option<u64>,
    fault: Option<Fault>,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    scanned: u64,
    copied: u64,
    bytes: u64,
    applied: u64,
}

impl Copier {
    pub fn new(plan: Plan) -> Self {
        Self {
            goal: Goal::Copy,
            phase: Phase::Scanning,
            db: Db::Unknown,
            journal: Journal::new(plan.offset),
            from_source: Inbox::default(),
            from_target: Inbox::default(),
            to_source: Vec::new(),
            to_target: Vec::new(),
            target_up: true,
            asks: VecDeque::new(),
            ready: VecDeque::new(),
            cursor: b"0".to_vec(),
            unsized_keys: VecDeque::new(),
            sized: VecDeque::new(),
            flying: HashMap::new(),
            dirty: BTreeSet::new(),
            large: Large::default(),
            mortal: Mortal::default(),
            lived: VecDeque::new(),
            wide: 0,
            sent: VecDeque::new(),
            sent_bytes: 0,
            pace: Pace::new(&plan.limits),
            rehearsal: Rehearsal::Due { tries: 0 },
            drain: Drain::Idle,
            mark: None,
            primary: None,
            fault: None,
            counts: Counts::default(),
            plan,
        }
    }

    /// How far to go. A fence that was told before begins anew only with another number.
    pub fn goal(&mut self, goal: Goal) {
        if goal != self.goal {
            self.goal = goal;
            self.drain = match goal {
                Goal::Drain { fence } => Drain::Asking { fence, asked: false },
                Goal::Copy | Goal::Pause => Drain::Idle,
            };
        }
    }

    /// How hard it may push, from now on.
    pub fn limit(&mut self, limits: JobLimits) {
        self.plan.limits = limits;
        self.pace.limit(&limits);
    }

    /// Bytes of the stream came.
    pub fn stream_said(&mut self, bytes: &[u8]) {
        self.journal.push(bytes);
        if self.journal.waiting() > limits::JOURNAL_BYTES_MAX {
            let mb = limits::JOURNAL_BYTES_MAX >> 20;
            self.fail(Fault::failed(format!(
                "the target takes writes slower than the source makes them: {mb} MB wait"
            )));
        }
    }

    /// Bytes of replies of the source came.
    pub fn source_said(&mut self, bytes: &[u8]) {
        let mut inbox = std::mem::take(&mut self.from_source);
        inbox.push(bytes);
        loop {
            match inbox.pull() {
                Ok(Some(raw)) => self.source_reply(raw),
                Ok(None) => break,
                Err(_) => return self.fail(Fault::failed("the source does not speak RESP")),
            }
        }
        self.from_source = inbox;
    }

    /// Bytes of replies of the target came.
    pub fn target_said(&mut self, bytes: &[u8]) {
        let mut inbox = std::mem::take(&mut self.from_target);
        inbox.push(bytes);
        loop {
            match inbox.pull() {
                Ok(Some(raw)) => self.target_reply(raw),
                Ok(None) => break,
                Err(_) => return self.fail(Fault::failed("the target does not speak RESP")),
            }
        }
        self.from_target = inbox;
    }

    /// The source's primary said where it is. `fence`: it was asked after the goal of the fence of that number was told; what
    /// was asked for an earlier one says nothing of what was written since.
    pub fn primary_said(&mut self, position: Position, fence: Option<u64>) {
        if position.replid != self.plan.replid {
            return self.fail(Fault::failed("the source's primary has another history now: its group had a failover"));
        }
        self.primary = Some(position.offset);
        if let Drain::Asking { fence: wanted, .. } = self.drain
            && fence == Some(wanted)
        {
            self.drain = Drain::Reading { fence: wanted, offset: position.offset };
        }
    }

    /// The fence for which the source's primary is to be asked for its offset now. Said once.
    pub fn asks_primary(&mut self) -> Option<u64> {
        match &mut self.drain {
            Drain::Asking { fence, asked } => (!std::mem::replace(asked, true)).then_some(*fence),
            _ => None,
        }
    }

    /// A PING to either side took so long.
    pub fn pinged(&mut self, ms: u64) {
        self.pace.pinged(ms);
    }

    /// Does what can be done.
    pub fn step(&mut self, now: u64) {
        // Drained: the target may own the slots at any moment, and what the stream brings from then on is their removal at
        // the source. Only another goal says that it did not come to that.
        let drained = matches!(self.drain, Drain::Done { .. });
        if self.fault.is_none() && !drained {
            self.advance();
            self.fetch(now);
            self.rehearse();
            self.drain();
        }
    }

    /// The offset behind the last byte of the stream that came: from here a lost stream is asked for again.
    pub fn received(&self) -> u64 {
        self.journal.received()
    }

    /// The offset behind the last command taken: what may be acknowledged to a source's replica.
    pub fn taken(&self) -> u64 {
        self.journal.pos()
    }

    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    pub fn status(&self) -> Status {
        Status {
            stage: self.stage(),
            scanned: self.counts.scanned,
            to_scan: self.plan.to_scan.max(self.counts.scanned),
            copied: self.counts.copied,
            bytes: self.counts.bytes,
            applied: self.counts.applied,
            dirty: (self.dirty.len() + self.flying.len()) as u64,
            lag: self.primary.map_or(0, |there| there.saturating_sub(self.journal.pos())),
        }
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        match (&self.fault, &self.drain, self.phase) {
            (Some(Fault { hopeless: true, why }), ..) => Stage::Hopeless { why: why.clone() },
            (Some(Fault { hopeless: false, why }), ..) => Stage::Failed { why: why.clone() },
            (None, Drain::Done { fence, offset, replicas }, _) => {
                Stage::Drained { fence: *fence, offset: *offset, replicas: *replicas, mark: self.mark.clone() }
            }
            // While a large value is under way, or the target's replicas are behind, a fence would have to wait for them.
            (None, _, Phase::Following) if self.large.is_empty() && self.rehearsal == Rehearsal::Over => Stage::Tailing,
            (None, ..) => Stage::Copying,
        }
    }

    fn fail(&mut self, fault: Fault) {
        // The first is the cause.
        self.fault.get_or_insert(fault);
    }
}
