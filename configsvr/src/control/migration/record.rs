//! The transactions that carry a migration from phase to phase.
//!
//! Each compares the leader's record and the task's. Those that change the topology (a group gets copies, or has none any
//! more; the slots are held, released, given to the target) also compare the epoch, and both groups: one decision an epoch.

use crate::control::failover::{Scene, next_epoch, put};
use crate::control::job::{Findings, Stage, Status};
use crate::control::layout::{self, Epoch, SlotAction, SlotEntry, SlotRange};
use crate::control::limits::SLOTS_AT_ONCE;
use crate::control::stored::{for_proxies, sum_of};
use crate::control::task::{Tally, Task, TaskPhase, has_copies, task_key};
use crate::store::{Compare, Txn};
use cluster::change::{Change, apply};
use cluster::topology::Topology;
use cluster::wire::Message;

/// Its groups are its own now, and proxies are told that the target gets copies.
pub(super) fn begun(scene: &Scene, task: &Task) -> Option<Txn> {
    let mut next = task.at(TaskPhase::Copy);
    next.epoch = Some(scene.known()?.epoch() + 1);
    next.times.begun = Some(scene.wall);
    turned(scene, &next, None, Vec::new())
}

/// It cannot go on until somebody changes something.
pub(super) fn given_up(scene: &Scene, task: &Task, why: &str) -> Txn {
    noted(scene, &Task { paused: true, note: Some(why.to_owned()), ..task.clone() })
}

/// The slots are held; and the epoch under which they are.
pub(super) fn fenced(scene: &Scene, task: &Task) -> Option<(Txn, u64)> {
    // What is not folded yet would have to be carried through the commit.
    if !scene.state.epoch.as_ref()?.value.unfolded.is_empty() {
        return None;
    }
    let epoch = scene.known()?.epoch() + 1;
    let mut next = task.at(TaskPhase::Fence);
    (next.epoch, next.fences, next.note) = (Some(epoch), task.fences + 1, None);
    next.times.fenced = Some(scene.wall);
    let hold = Change::HoldSlots { group: task.from, slots: task.slots().collect() };
    Some((turned(scene, &next, Some(&hold), Vec::new())?, epoch))
}

/// The source serves on.
pub(super) fn opened(scene: &Scene, task: &Task, why: &str) -> Option<Txn> {
    let mut next = task.at(TaskPhase::Copy);
    (next.epoch, next.note) = (None, Some(format!("the slots were released again: {why}")));
    let release = Change::ReleaseSlots { slots: task.slots().collect(), group: task.from };
    turned(scene, &next, Some(&release), Vec::new())
}

/// The slots change hands: from here on the target owns them.
pub(super) fn committed(scene: &Scene, task: &Task, status: &Status) -> Option<Txn> {
    let mut next = task.at(TaskPhase::Clean);
    (next.epoch, next.note) = (Some(scene.known()?.epoch() + 1), None);
    next.times.committed = Some(scene.wall);
    let pause_ms = scene.wall.saturating_sub(task.times.fenced.unwrap_or(scene.wall));
    let (keys, bytes, applied) = (status.copied, status.bytes, status.applied);
    next.tally = Some(Tally { keys, bytes, applied, pause_ms, removed: 0 });
    if let Stage::Drained { mark, .. } = &status.stage {
        next.mark.clone_from(mark);
    }
    let hand_over = Change::ReleaseSlots { slots: task.slots().collect(), group: task.to };
    given(scene, task, &next, &hand_over)
}

/// On access: the target serves the slots from here on, and their keys follow. There is no way back.
pub(super) fn moving(scene: &Scene, task: &Task) -> Option<Txn> {
    let mut next = task.at(TaskPhase::Fetch);
    (next.epoch, next.note) = (Some(scene.known()?.epoch() + 1), None);
    let pause_ms = scene.wall.saturating_sub(task.times.fenced.unwrap_or(scene.wall));
    next.tally = Some(Tally { pause_ms, ..Tally::default() });
    let begin = Change::MoveSlots { slots: task.slots().collect(), target: task.to };
    turned(scene, &next, Some(&begin), Vec::new())
}

/// On access: all keys have come, the slots are the target's own.
pub(super) fn landed(scene: &Scene, task: &Task, status: &Status) -> Option<Txn> {
    let mut next = task.at(TaskPhase::Clean);
    (next.epoch, next.note) = (Some(scene.known()?.epoch() + 1), None);
    next.times.committed = Some(scene.wall);
    next.tally = task.tally.map(|tally| Tally { keys: status.copied, ..tally });
    let land = Change::LandSlots { slots: task.slots().collect(), group: task.to };
    given(scene, task, &next, &land)
}

/// The slots' own keys say it, too: at once, or after they were unfolded.
fn given(scene: &Scene, task: &Task, next: &Task, change: &Change) -> Option<Txn> {
    let unfolded = match task.slots().count() > SLOTS_AT_ONCE {
        true => task.slots.iter().map(|s| SlotRange { from: s.from, to: s.to, group: Some(task.to) }).collect(),
        false => Vec::new(),
    };
    let mut txn = turned(scene, next, Some(change), unfolded)?;
    if task.slots().count() <= SLOTS_AT_ONCE {
        txn.ops.extend(task.slots().map(|slot| {
            let slot_id = u32::from(slot) + 1;
            let entry = SlotEntry { slot_id, group_id: task.to, action: SlotAction::default() };
            put(layout::slot_key(slot), &entry)
        }));
    }
    Some(txn)
}

/// Both sides were compared. Not well: people are to look before anything is removed.
pub(super) fn audited(scene: &Scene, task: &Task, found: &Findings, doubt: Option<String>) -> Txn {
    let mut next = Task { audit: Some(found.clone()), ..task.clone() };
    if doubt.is_some() {
        (next.paused, next.note) = (true, doubt);
    }
    noted(scene, &next)
}

/// On access: so many keys are at the source although all had come: people are to look before anything is removed.
pub(super) fn left_over(scene: &Scene, task: &Task, left: u64, doubt: String) -> Txn {
    let audit = Some(Findings { compared: left, ..Findings::default() });
    noted(scene, &Task { audit, paused: true, note: Some(doubt), ..task.clone() })
}

/// All that was left behind is gone.
pub(super) fn cleaned(scene: &Scene, task: &Task, removed: u64) -> Option<Txn> {
    let tally = task.tally.map(|tally| Tally { removed, ..tally });
    ended(scene, &Task { tally, ..task.clone() }, TaskPhase::Done)
}

/// Cancelled: the copy is to be removed.
pub(super) fn undone(scene: &Scene, task: &Task) -> Txn {
    noted(scene, &Task { epoch: None, ..task.at(TaskPhase::Undo) })
}

/// Where nothing was begun proxies have nothing to learn of it.
pub(super) fn ended(scene: &Scene, task: &Task, phase: TaskPhase) -> Option<Txn> {
    let mut next = task.at(phase);
    next.times.ended = Some(scene.wall);
    if task.phase == TaskPhase::Waiting { Some(noted(scene, &next)) } else { turned(scene, &next, None, Vec::new()) }
}

fn noted(scene: &Scene, next: &Task) -> Txn {
    let key = task_key(next.id);
    let compares = vec![scene.fence.compare.clone(), scene.state.as_it_is(&key)];
    Txn { compares, ops: vec![put(key, next)] }
}

/// Another epoch: the slots change, or only which groups hold copies.
fn turned(scene: &Scene, next: &Task, change: Option<&Change>, mut unfolded: Vec<SlotRange>) -> Option<Txn> {
    let (known, state) = (scene.known()?, scene.state);
    let changed = change.map_or_else(|| Some(Topology::clone(known)), |change| apply(known, change).ok())?;
    let tasks = || state.all_tasks().filter(|task| task.id != next.id).chain([next]);
    let mut message = Message::from(&next_epoch(known, changed)?);
    message.groups.iter_mut().for_each(|group| group.copies = has_copies(tasks(), group.id));
    let topology = message.check().ok()?;
    unfolded.splice(0..0, state.unfolded());
    let epoch = Epoch { epoch: topology.epoch(), unfolded, sum: Some(sum_of(&for_proxies(&topology))) };
    let unwritten = Compare::UnwrittenSince { prefix: layout::SLOTS.to_owned(), revision: state.revision };
    let mut txn = noted(scene, next);
    txn.compares.extend([
        state.as_it_is(layout::EPOCH),
        state.as_it_is(&layout::group_key(next.from)),
        state.as_it_is(&layout::group_key(next.to)),
        unwritten,
    ]);
    txn.ops.push(put(layout::EPOCH.to_owned(), &epoch));
    Some(txn)
}
