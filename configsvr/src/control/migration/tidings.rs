//! What becomes of migrations, told to whoever listens to events: each step once, when it is in the store.

use crate::control::board::Board;
use crate::control::failover::Scene;
use crate::control::out::Out;
use crate::control::task::{Mode, Task, TaskPhase};
use std::collections::BTreeMap;

const KIND: &str = "migration";

/// What was told of each task.
#[derive(Debug, Default)]
pub(super) struct Tidings {
    /// None: nothing was looked at yet; what there is was told by others.
    told: Option<BTreeMap<u64, Told>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    phase: TaskPhase,
    fences: u32,
    paused: bool,
}

impl Told {
    fn of(task: &Task) -> Self {
        Self { phase: task.phase, fences: task.fences, paused: task.paused }
    }
}

impl Tidings {
    pub(super) fn tell(&mut self, scene: &Scene, out: &mut Out, board: &Board) {
        let now = || scene.state.all_tasks().map(|task| (task.id, Told::of(task)));
        if self.told.as_ref().is_some_and(|told| told.iter().map(|(id, told)| (*id, *told)).eq(now())) {
            return;
        }
        let Some(before) = self.told.replace(now().collect()) else { return };
        for task in scene.state.all_tasks() {
            // In a copy the record says when it was begun.
            let its = task.epoch.filter(|_| task.phase != TaskPhase::Copy);
            let epoch = its.unwrap_or_else(|| scene.state.epoch_in_force());
            for line in lines(before.get(&task.id).copied(), task) {
                let message = format!("migration {}: {line}", task.id);
                board.tell(out, KIND, &task.id.to_string(), epoch, message);
            }
        }
    }
}

/// What is new about a task. A step that was passed unseen, as a quick fence is, is told with the next.
fn lines(before: Option<Told>, task: &Task) -> Vec<String> {
    let count = task.slots().count();
    let (from, to) = (task.from, task.to);
    let mut lines = Vec::new();
    if before.is_none_or(|b| b.phase != task.phase) {
        lines.push(match task.phase {
            TaskPhase::Waiting => format!("{count} slots are to move from group {from} to group {to}"),
            TaskPhase::Copy if before.is_some_and(|b| b.phase == TaskPhase::Fence) => {
                task.note.clone().unwrap_or_else(|| "the slots were released again".to_owned())
            }
            TaskPhase::Copy if task.mode == Mode::OnAccess => {
                format!("group {to} is made ready for {count} slots of group {from}")
            }
            TaskPhase::Copy => format!("group {to} gets a copy of {count} slots of group {from}"),
            TaskPhase::Fence => format!("the slots are held, for the {}. time", task.fences),
            TaskPhase::Fetch => {
                let held = task.tally.map_or(0, |tally| tally.pause_ms);
                format!(
                    "group {to} serves the slots, keys come from group {from} on access; they were held for {held} ms"
                )
            }
            TaskPhase::Clean if task.mode == Mode::OnAccess => format!("all keys have come: group {to} owns the slots"),
            TaskPhase::Clean => {
                let held = task.tally.map_or(0, |tally| tally.pause_ms);
                format!("group {to} owns the slots; they were held for {held} ms")
            }
            TaskPhase::Done if task.mode == Mode::OnAccess && task.audit.is_none() => {
                format!("it is done; nothing was left at group {from}")
            }
            TaskPhase::Done => {
                let removed = task.tally.map_or(0, |tally| tally.removed);
                format!("it is done; {removed} keys were removed at group {from}")
            }
            TaskPhase::Undo => format!("it is cancelled; the copy at group {to} is being removed"),
            TaskPhase::Cancelled => format!("it is cancelled; group {from} owns the slots as ever"),
        });
    }
    match (before.is_some_and(|b| b.paused), task.paused) {
        (false, true) => {
            let why = task.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            lines.push(format!("it is paused{why}"));
        }
        (true, false) => lines.push("it goes on".to_owned()),
        _ => {}
    }
    lines
}
