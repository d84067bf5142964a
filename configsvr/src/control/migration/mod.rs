//! Migration: slots change hands while clients write. The mover makes a copy at the target and keeps it up to date; here is
//! decided when it begins, when the slots are held, and in which one transaction they get their new owner.
//!
//! ```text
//! waiting   until its groups are free, its window is open, and both primaries are well
//! copy      the mover purges the target, copies, follows the source's writes; the source owns the slots
//! fence     one transaction holds the slots; proxies confirm that nothing is in flight; the mover drains the rest
//!           -> back to copy when anything is late or in doubt: the source never stopped owning them
//!           -> one transaction gives them to the target: there is no way back from here, and none before
//! clean     proxies are told; when all are, both sides are compared, and the source's keys are removed
//! undo      cancelled before that: the target's copy is removed
//! ```
//! On access it is another way from the fence on: keys come after their slots.
//!
//! ```text
//! copy      the mover only tries whether both sides can, and purges the target
//! fence     the same; nothing is to be drained
//!           -> one transaction: the target serves the slots, and there is no way back
//! fetch     proxies bring keys from the source before they use them; the mover brings the rest, until none is left
//!           -> one transaction: the slots are the target's own
//! clean     proxies are told; what is found at the source then is people's business
//! ```
//! What is decided is in the store (`record`). What is in memory here may be lost at any moment: a new leader begins a copy
//! anew, and opens a fence that another one closed.

mod fetch;
mod copy;
mod fence;
mod clean;
mod record;
mod run;
mod tidings;
#[cfg(test)]
mod tests;

use super::board::Board;
use super::event::{Action, DeedId};
use super::failover::{Scene, Writer};
use super::job::{Findings, Status};
use super::out::Out;
use super::task::{Task, TaskPhase, TaskView};
use crate::store::{Fault, Txn, Verdict};
use cluster::group::Group;
use run::{Auditing, Run, Sweeping};
use std::collections::BTreeMap;
use tidings::Tidings;

/// Alarms that only a leader raises.
pub(super) const ALARMS: [&str; 1] = [STUCK];

const STUCK: &str = "migration_stuck";

/// What a leader remembers of the migrations that are under way.
#[derive(Debug, Default)]
pub(super) struct Migrations {
    writer: Writer,
    runs: BTreeMap<u64, Run>,
    audits: BTreeMap<u64, Auditing>,
    sweeps: BTreeMap<u64, Sweeping>,
    /// Of the last attempt, of any task.
    attempts: u64,
    tidings: Tidings,
}

impl Migrations {
    /// Another leads: what is under way is its business, and in the store.
    pub(super) fn retire(&mut self, out: &mut Out) {
        for id in self.runs.keys() {
            out.push(Action::Drop { task: id.to_string() });
        }
        *self = Self { attempts: self.attempts, ..Self::default() };
    }

    /// True: it was ours.
    pub(super) fn wrote(&mut self, now: u64, deed: DeedId, outcome: &Result<Verdict, Fault>) -> bool {
        self.writer.wrote(now, deed, outcome)
    }

    /// A job says where it stands.
    pub(super) fn moved(&mut self, now: u64, task: &str, attempt: u64, status: Status) {
        let run = task.parse().ok().and_then(|id: u64| self.runs.get_mut(&id));
        if let Some(run) = run.filter(|run| run.job.attempt == attempt) {
            run.heard(now, status);
        }
    }

    pub(super) fn audited(&mut self, now: u64, deed: DeedId, outcome: Result<Findings, String>) {
        if let Some(auditing) = self.audits.values_mut().find(|a| a.deed == deed) {
            auditing.outcome = Some((outcome, now));
        }
    }

    pub(super) fn swept(&mut self, now: u64, deed: DeedId, outcome: Result<u64, String>) {
        if let Some(sweeping) = self.sweeps.values_mut().find(|s| s.deed == deed) {
            sweeping.outcome = Some((outcome, now));
        }
    }

    /// Goes on with everything, as far as it can.
    pub(super) fn advance(&mut self, scene: &Scene, out: &mut Out, board: &mut Board) {
        self.writer.look(scene, out);
        self.tidings.tell(scene, out, board);
        if scene.is_settled() {
            for task in scene.state.all_tasks().filter(|t| !t.phase.is_over()) {
                self.go_on(scene, task, out, board);
            }
        }
        self.forget(scene, out, board);
    }

    /// Another epoch, for nothing but what proxies are to know. Not while others wait for them to confirm one: they would
    /// wait for this one, too. None: it cannot be written as things stand. A later look tries again.
    fn announce(&mut self, scene: &Scene, txn: Option<Txn>, out: &mut Out) {
        if let Some(txn) = txn.filter(|_| !scene.state.awaits_quiet()) {
            self.writer.write(scene.now, txn, out);
        }
    }

    fn go_on(&mut self, scene: &Scene, task: &Task, out: &mut Out, board: &mut Board) {
        let Some(known) = scene.known() else { return };
        let (Some(from), Some(to)) = (known.group(task.from), known.group(task.to)) else { return };
        match task.phase {
            TaskPhase::Waiting => self.begin(scene, task, out),
            TaskPhase::Copy => self.copy(scene, task, (from, to), out, board),
            TaskPhase::Fence => self.fence(scene, task, (from, to), out),
            TaskPhase::Fetch => self.fetch(scene, task, (from, to), out, board),
            TaskPhase::Clean => self.clean(scene, task, (from, to), out, board),
            TaskPhase::Undo => self.undo(scene, task, to, out),
            TaskPhase::Done | TaskPhase::Cancelled => {}
        }
    }

    /// What belongs to tasks that are over, or further.
    fn forget(&mut self, scene: &Scene, out: &mut Out, board: &mut Board) {
        let phase = |id: &u64| scene.state.tasks.get(id).map(|item| item.value.phase);
        self.runs.retain(|id, _| {
            let wanted = matches!(phase(id), Some(TaskPhase::Copy | TaskPhase::Fence | TaskPhase::Fetch));
            if !wanted {
                out.push(Action::Drop { task: id.to_string() });
            }
            wanted
        });
        self.audits.retain(|id, _| phase(id) == Some(TaskPhase::Clean));
        self.sweeps.retain(|id, _| matches!(phase(id), Some(TaskPhase::Clean | TaskPhase::Undo)));
        for task in scene.state.all_tasks().filter(|t| t.phase.is_over()) {
            board.settle(out, STUCK, &task.id.to_string(), "it is over");
        }
    }

    /// What there is to see of a task beyond its record.
    pub(super) fn view(&self, now: u64, task: &Task) -> TaskView {
        run::view(now, task, self.runs.get(&task.id))
    }
}

/// Neither group's primary is accused of anything, or being replaced, and nobody works on them.
fn at_peace(scene: &Scene, groups: (&Group, &Group)) -> Result<(), String> {
    for group in [groups.0, groups.1] {
        if scene.state.failover_of(group.id).is_some_and(|f| f.phase.holds()) {
            return Err(format!("the primary of group {} is being replaced", group.id));
        }
        if !scene.is_well(group) {
            return Err(format!("the primary of group {} is in doubt", group.id));
        }
        if scene.guard(group).is_some_and(|guard| guard.maintenance) {
            return Err(format!("group {} is in maintenance", group.id));
        }
    }
    Ok(())
}
