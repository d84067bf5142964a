//! `migration-tasks/<id, 20 digits>`: slots on their way from one group to another, from the wish to the end. All that is
//! done for it follows from this record, so that the next leader goes on where the last one stood.

use super::job::{Findings, JobLimits, Mark};
use cluster::group::GroupId;
use cluster::slot::Slot;
use serde::{Deserialize, Serialize};

pub const TASKS: &str = "migration-tasks/";

pub fn task_key(id: u64) -> String {
    format!("{TASKS}{id:020}")
}

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Counts up from 1.
    pub id: u64,
    pub from: GroupId,
    pub to: GroupId,
    /// Ascending, in the fewest spans.
    pub slots: Vec<Span>,
    #[serde(default, skip_serializing_if = "Mode::is_copy")]
    pub mode: Mode,
    /// The founding states: 1 preparing, 2 pending, 3 migrating, 4 finished.
    pub state: u8,
    pub phase: TaskPhase,
    /// Nothing goes on until somebody resumes it. In the middle of a copy, the target still follows the source.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
    /// Somebody wants it undone. Only before the slots changed hands.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cancelled: bool,
    #[serde(default)]
    pub limits: Limits,
    /// It copies and fences only within it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Both sides are not compared before the source's keys are removed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub skip_audit: bool,
    /// The target's memory is not looked at.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
    /// In `copy`: the epoch under which proxies know that the target gets copies. In `fence`: the one under which the slots
    /// are held; in `fetch`: under which they began to move. From `clean` on: the one under which the target owns them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// How often the slots were held so far.
    #[serde(default)]
    pub fences: u32,
    pub times: TaskTimes,
    /// As of the end of the copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tally: Option<Tally>,
    /// Where the target's own history was at the commit: whoever compares both sides tells by it what clients wrote since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// What comparing both sides brought, between the change of hands and the removal of the source's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Findings>,
    /// The migration whose slots this one brings back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverses: Option<u64>,
    /// Why it does not go on, or what people should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How keys come from the source to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The target gets a copy and follows the source's writes; then all slots change hands at once.
    #[default]
    Copy,
    /// Slots are the target's to serve from the beginning; each key is moved when it is used, the rest one by one. Until all
    /// have come, the failover of either group may lose or bring back what its replica had not heard of.
    OnAccess,
}

impl Mode {
    fn is_copy(&self) -> bool {
        *self == Self::Copy
    }

    /// As people write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::OnAccess => "on-access",
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "copy" => Ok(Self::Copy),
            "on-access" | "on_access" => Ok(Self::OnAccess),
            _ => Err(format!("{text:?} is no mode: copy or on-access")),
        }
    }
}

/// Slots `from..=to`, 0-based.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    pub from: Slot,
    pub to: Slot,
}

/// How hard it may push; 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub keys_per_s: u64,
    pub bytes_per_s: u64,
    /// A PING to either side that takes longer slows the copy down.
    pub latency_ms: u64,
    /// Of a value that cannot be copied in pieces, in bytes of memory.
    pub value_bytes: u64,
}

impl Default for Limits {
    /// As fast as it goes while nobody waits longer than 20 ms. A value of 64 MiB is restored in about a quarter of a second,
    /// for which the target stands still.
    fn default() -> Self {
        Self { keys_per_s: 0, bytes_per_s: 0, latency_ms: 20, value_bytes: 64 << 20 }
    }
}

/// Limits that somebody wishes; what is not named stays. Only who decides knows what it stays at: somebody else may have
/// changed it since the wish was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_per_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_bytes: Option<u64>,
}

impl NewLimits {
    pub fn over(self, now: Limits) -> Limits {
        Limits {
            keys_per_s: self.keys_per_s.unwrap_or(now.keys_per_s),
            bytes_per_s: self.bytes_per_s.unwrap_or(now.bytes_per_s),
            latency_ms: self.latency_ms.unwrap_or(now.latency_ms),
            value_bytes: self.value_bytes.unwrap_or(now.value_bytes),
        }
    }
}

impl From<Limits> for JobLimits {
    fn from(limits: Limits) -> Self {
        let Limits { keys_per_s, bytes_per_s, latency_ms, value_bytes } = limits;
        Self { keys_per_s, bytes_per_s, latency_ms, value_bytes }
    }
}

/// Hours of the day in UTC, `22:00-06:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// Minutes since midnight.
    pub from: u16,
    pub to: u16,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskPhase {
    /// For its groups, which another migration keeps busy, or for its window.
    Waiting,
    /// The target gets a copy (on access: is made ready); the source owns the slots.
    Copy,
    /// The slots are held; the last bytes are on their way.
    Fence,
    /// On access: the target serves the slots, keys come from the source. There is no way back.
    Fetch,
    /// The target owns the slots. Proxies are told; then the source's keys are removed.
    Clean,
    Done,
    /// The copy at the target is being removed.
    Undo,
    Cancelled,
}

/// Milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskTimes {
    pub created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<u64>,
    /// When the slots were held last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
}

/// A migration, as people see it: its record, and what the leader knows beyond.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    #[serde(flatten)]
    pub task: Task,
    /// Slots altogether.
    pub slot_count: usize,
    /// `purging`, `copying`, `tailing`, `draining`, `drained`, `fetching`, `emptied`, `failed`: the mover's own word. Known to the leader alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Why the last attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub attempt: u64,
    /// Keys met, of all slots of the source, and how many there are.
    pub scanned: u64,
    pub to_scan: u64,
    pub copied: u64,
    pub bytes: u64,
    pub applied: u64,
    pub dirty: u64,
    pub lag_bytes: u64,
    /// Milliseconds since the mover said so.
    pub age_ms: u64,
    /// Until all keys were met once, at the pace of this attempt so far; None: it is too early to tell, or done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// How long the slots have been held by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
}

/// What it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    pub keys: u64,
    pub bytes: u64,
    /// Commands applied from the source's stream.
    pub applied: u64,
    /// From the decision to hold the slots to the transaction that gave them to the target.
    pub pause_ms: u64,
    /// Keys removed at the source afterwards.
    #[serde(default)]
    pub removed: u64,
}

impl TaskPhase {
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copy => "copy",
            Self::Fence => "fence",
            Self::Fetch => "fetch",
            Self::Clean => "clean",
            Self::Done => "done",
            Self::Undo => "undo",
            Self::Cancelled => "cancelled",
        }
    }

    /// The founding state of it.
    pub fn state(self) -> u8 {
        match self {
            Self::Waiting => 2,
            Self::Copy | Self::Fence | Self::Fetch | Self::Undo => 3,
            Self::Clean | Self::Done | Self::Cancelled => 4,
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }

    /// It keeps its groups busy.
    pub fn works(self) -> bool {
        !self.is_over() && self != Self::Waiting
    }

    /// The slots still belong to the source.
    pub fn is_before_commit(self) -> bool {
        matches!(self, Self::Waiting | Self::Copy | Self::Fence)
    }
}

impl Task {
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter().flat_map(|span| span.from..=span.to)
    }

    /// In the next phase.
    #[must_use]
    pub fn at(&self, phase: TaskPhase) -> Self {
        Self { phase, state: phase.state(), ..self.clone() }
    }
}

/// Whether a group may hold keys of slots that it does not own, as these migrations stand.
pub fn has_copies<'a>(mut tasks: impl Iterator<Item = &'a Task>, group: GroupId) -> bool {
    tasks.any(|task| match task.phase {
        TaskPhase::Copy | TaskPhase::Fence | TaskPhase::Undo => task.to == group,
        TaskPhase::Clean => task.from == group,
        TaskPhase::Waiting | TaskPhase::Fetch | TaskPhase::Done | TaskPhase::Cancelled => false,
    })
}

/// Slots in the fewest spans; they come ascending.
pub fn spans(slots: impl IntoIterator<Item = Slot>) -> Vec<Span> {
    let mut list: Vec<Span> = Vec::new();
    for slot in slots {
        match list.last_mut() {
            Some(last) if u32::from(last.to) + 1 == u32::from(slot) => last.to = slot,
            _ => list.push(Span { from: slot, to: slot }),
        }
    }
    list
}

impl Window {
    /// `wall`: milliseconds since 1970.
    pub fn is_open(self, wall: u64) -> bool {
        let minute = (wall / 60_000 % 1440) as u16;
        if self.from <= self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl std::str::FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a window: hours and minutes in UTC, as 22:00-06:00");
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        match (minute(from), minute(to)) {
            (Some(from), Some(to)) if from != to => Ok(Self { from, to }),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let night: Window = "22:00-06:30".parse().expect("good");
        let at = |hours: u64, minutes: u64| night.is_open((hours * 60 + minutes) * 60_000 + 86_400_000 * 20_000);
        assert!(at(22, 0) && at(23, 59) && at(0, 0) && at(6, 29));
        assert!(!at(6, 30) && !at(12, 0) && !at(21, 59));
        let day: Window = "09:05-17:00".parse().expect("good");
        assert!(day.is_open(9 * 3_600_000 + 5 * 60_000) && !day.is_open(17 * 3_600_000));
        assert_eq!((night.to_string(), day.to_string()), ("22:00-06:30".to_owned(), "09:05-17:00".to_owned()));
        for wrong in ["", "22:00", "24:00-01:00", "1:60-2:00", "05:00-05:00", "a-b"] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn fewest_spans() {
        let list = spans([0, 1, 2, 7, 9, 10]);
        assert_eq!(list, [(0, 2), (7, 7), (9, 10)].map(|(from, to)| Span { from, to }));
        assert_eq!(spans([]), []);
    }
}
