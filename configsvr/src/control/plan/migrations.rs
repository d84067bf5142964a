//! What people may wish of migrations, judged against what is committed.

use super::there::{Plan, There, put, refused};
use crate::control::command::{Kind, NewMoves, Refusal, Steering};
use crate::control::limits::{MOVES_AT_ONCE, TASKS_MAX};
use crate::control::out::refusal;
use crate::control::task::{Span, Task, TaskPhase, TaskTimes, spans, task_key};
use crate::store::Op;
use cluster::change::group_of;
use cluster::group::GroupId;
use cluster::slot::Slot;
use cluster::topology::SlotState;
use serde_json::json;
use std::collections::BTreeSet;

/// What is said to those who want slots back.
const BACK: &str = "twemslotctl migrations reverse";

/// One task for each move.
pub(super) fn start(there: &There, new: &NewMoves, wall: u64) -> Result<Plan, Refusal> {
    if new.moves.is_empty() || new.moves.len() > MOVES_AT_ONCE {
        let message = format!("{} moves: from 1 to {MOVES_AT_ONCE} at once", new.moves.len());
        return Err(refusal(Kind::Invalid, "bad_moves", message, "name which slots go from which group to which"));
    }
    if let Some(planned) = new.epoch.filter(|planned| *planned != there.known.epoch()) {
        let message = format!("planned at epoch {planned}, and the topology is at {} by now", there.known.epoch());
        return Err(refusal(
            Kind::Conflict,
            "plan_outdated",
            message,
            "plan again: what was planned may not hold any more",
        ));
    }
    let mut taken: BTreeSet<Slot> = moving(there);
    let mut tasks = Vec::new();
    let last = there.state.tasks.keys().next_back().copied().unwrap_or(0);
    for (id, one) in (last + 1..).zip(&new.moves) {
        let slots = chosen(there, one.from, one.to, &one.slots, one.count, &taken)?;
        taken.extend(&slots);
        tasks.push(Task {
            id,
            from: one.from,
            to: one.to,
            slots: spans(slots),
            mode: new.mode,
            state: TaskPhase::Waiting.state(),
            phase: TaskPhase::Waiting,
            paused: false,
            cancelled: false,
            limits: new.limits,
            window: new.window,
            skip_audit: new.skip_audit,
            force: new.force,
            epoch: None,
            fences: 0,
            times: TaskTimes { created: wall, ..TaskTimes::default() },
            tally: None,
            audit: None,
            mark: None,
            reverses: None,
            note: None,
        });
    }
    begun(there, tasks)
}

/// Pause, resume, cancel, other limits.
pub(super) fn steer(there: &There, id: u64, steering: &Steering) -> Result<Plan, Refusal> {
    let task = task_of(there, id)?;
    if task.phase.is_over() || (steering.cancelled == Some(true) && !task.phase.is_before_commit()) {
        let message = format!("migration {id} cannot be changed any more: {}", task.phase.word());
        let hint = match task.phase {
            TaskPhase::Fetch => format!("group {} serves its slots already: let it end, then: {BACK} {id}", task.to),
            _ => format!("its slots can be brought back: {BACK} {id}"),
        };
        return Err(refusal(Kind::Conflict, "migration_over", message, hint));
    }
    if task.cancelled && steering.cancelled == Some(false) {
        let message = format!("migration {id} is being undone");
        return Err(refusal(Kind::Conflict, "migration_cancelled", message, "start another one"));
    }
    let mut next = task.clone();
    next.paused = steering.paused.unwrap_or(task.paused);
    if task.paused && !next.paused {
        next.note = None; // why it stood still
    }
    next.cancelled = task.cancelled || steering.cancelled == Some(true);
    next.limits = steering.limits.map_or(task.limits, |limits| limits.over(task.limits));
    next.force = steering.force.unwrap_or(task.force);
    let key = task_key(id);
    let mut plan = there.same();
    plan.compares.push(there.state.as_it_is(&key));
    plan.ops.push(put(key, &next));
    (plan.before, plan.after, plan.result) = (json!(task), json!(next), json!(next));
    Ok(plan)
}

/// The same slots, back to where they came from.
pub(super) fn reverse(there: &There, id: u64, wall: u64) -> Result<Plan, Refusal> {
    let task = task_of(there, id)?;
    if !matches!(task.phase, TaskPhase::Done | TaskPhase::Clean) {
        let message = match task.phase {
            TaskPhase::Fetch => format!("migration {id} still moves keys: {}", task.phase.word()),
            _ => format!("migration {id} moved nothing yet: {}", task.phase.word()),
        };
        let hint = match task.phase {
            TaskPhase::Fetch => format!("let it end, then: {BACK} {id}"),
            _ => format!("cancel it: twemslotctl migrations cancel {id}"),
        };
        return Err(refusal(Kind::Conflict, "not_moved", message, hint));
    }
    let taken = moving(there);
    let named: Vec<Span> = if task.phase == TaskPhase::Clean {
        let slots = task.slots().collect();
        still_its(there, task.to, &slots)?;
        let twin = |t: &&Task| t.id != id && !t.phase.is_over() && t.slots().any(|slot| slots.contains(&slot));
        if let Some(twin) = there.state.all_tasks().find(twin) {
            let message = format!("migration {} moves these slots on already", twin.id);
            return Err(refusal(Kind::Conflict, "slot_moving", message, "let it end, or cancel it"));
        }
        task.slots.clone()
    } else {
        spans(chosen(there, task.to, task.from, &task.slots, None, &taken)?)
    };
    let next = there.state.tasks.keys().next_back().copied().unwrap_or(0) + 1;
    let back = Task {
        id: next,
        from: task.to,
        to: task.from,
        slots: named,
        paused: false,
        epoch: None,
        fences: 0,
        times: TaskTimes { created: wall, ..TaskTimes::default() },
        tally: None,
        audit: None,
        mark: None,
        reverses: Some(id),
        note: None,
        ..task.at(TaskPhase::Waiting)
    };
    begun(there, vec![back])
}

fn begun(there: &There, tasks: Vec<Task>) -> Result<Plan, Refusal> {
    let known = &there.state.tasks;
    let open = known.values().filter(|t| !t.value.phase.is_over()).count();
    if open + tasks.len() > TASKS_MAX / 2 {
        let message = format!("{open} migrations are under way or wait");
        return Err(refusal(Kind::Busy, "too_many_migrations", message, "let some end first"));
    }
    let mut plan = there.same();
    for task in &tasks {
        let key = task_key(task.id);
        plan.compares.push(there.state.as_it_is(&key));
        plan.ops.push(put(key, task));
    }
    // The last one stays, so that no number comes twice.
    let over = (known.len() + tasks.len()).saturating_sub(TASKS_MAX);
    let ended = known.values().filter(|t| t.value.phase.is_over()).take(over);
    plan.ops.extend(ended.map(|t| Op::Delete { key: task_key(t.value.id) }));
    plan.after = json!({ "migrations": tasks });
    plan.result = plan.after.clone();
    Ok(plan)
}

fn task_of<'a>(there: &'a There, id: u64) -> Result<&'a Task, Refusal> {
    let absent = || {
        let hint = "see them: twemslotctl migrations list";
        refusal(Kind::Absent, "no_such_migration", format!("there is no migration {id}"), hint)
    };
    there.state.tasks.get(&id).map(|item| &item.value).ok_or_else(absent)
}

/// Slots that a migration has to do with already.
pub(super) fn moving(there: &There) -> BTreeSet<Slot> {
    there.state.all_tasks().filter(|t| !t.phase.is_over()).flat_map(Task::slots).collect()
}

/// The slots that are named, or so many of the source's last.
fn chosen(
    there: &There,
    from: GroupId,
    to: GroupId,
    named: &[Span],
    count: Option<u16>,
    taken: &BTreeSet<Slot>,
) -> Result<BTreeSet<Slot>, Refusal> {
    group_of(there.known, from).map_err(refused)?;
    group_of(there.known, to).map_err(refused)?;
    if from == to {
        let message = format!("from group {from} to group {to}");
        return Err(refusal(Kind::Invalid, "same_group", message, "name two groups"));
    }
    let owned = (0..).zip(there.known.slots()).filter(|(_, s)| s.group == Some(from)).map(|(slot, _)| slot);
    let free: Vec<Slot> = owned.filter(|slot| !taken.contains(slot)).collect();
    let slots: BTreeSet<Slot> = match count {
        Some(count) if named.is_empty() => {
            if usize::from(count) > free.len() || count == 0 {
                let message = format!("group {from} has {} slots to give, not {count}", free.len());
                return Err(refusal(Kind::Conflict, "too_few_slots", message, "see: twemslotctl slots list"));
            }
            free[free.len() - usize::from(count)..].iter().copied().collect()
        }
        None if !named.is_empty() => {
            let all = there.known.slot_count();
            if let Some(wrong) = named.iter().find(|s| s.from > s.to || s.to >= all) {
                let message = format!("slots {}-{}: slots go from 0 to {}", wrong.from, wrong.to, all - 1);
                return Err(refusal(Kind::Invalid, "no_such_slot", message, "name slots as 0-511"));
            }
            named.iter().flat_map(|s| s.from..=s.to).collect()
        }
        _ => {
            let message = "which slots: either a list or a number";
            return Err(refusal(Kind::Invalid, "no_slots", message, "name slots as 0-511, or say how many"));
        }
    };
    if let Some(slot) = slots.iter().find(|slot| taken.contains(slot)) {
        let message = format!("slot {slot} is part of a migration already");
        return Err(refusal(Kind::Conflict, "slot_moving", message, "let it end, or cancel it"));
    }
    still_its(there, from, &slots)?;
    Ok(slots)
}

fn still_its(there: &There, group: GroupId, slots: &BTreeSet<Slot>) -> Result<(), Refusal> {
    let its = |slot: &Slot| {
        let owner = there.known.slots()[usize::from(*slot)];
        owner.group == Some(group) && !matches!(owner.state, SlotState::Moving { .. })
    };
    match slots.iter().find(|slot| !its(slot)) {
        None => Ok(()),
        Some(slot) => {
            let message = format!("slot {slot} is not group {group}'s");
            Err(refusal(Kind::Conflict, "not_owner", message, "see: twemslotctl slots list"))
        }
    }
}
