//! From the wish to the moment when so little is left that clients can wait for it.

use super::run::{Fence, Run, pause, side};
use super::{Migrations, STUCK, at_peace, record};
use crate::control::board::Board;
use crate::control::event::Action;
use crate::control::failover::Scene;
use crate::control::job::{Goal, Job, Side, Stage, Status, Work};
use crate::control::limits::{
    ANNOUNCE_MS, FENCE_DIRTY_MAX, FENCE_LAG_MAX, JOB_AGAIN_MS, JOB_SILENT_MS, MIGRATION_ALARM_FAILURES, STATUS_FRESH_MS,
};
use crate::control::out::Out;
use crate::control::task::{Mode, Task, TaskPhase};
use cluster::group::Group;
use cluster::slot::Slot;
use std::sync::Arc;

impl Migrations {
    /// One migration at a time for each group: two would share its line, and neither would know who slows it down.
    pub(super) fn begin(&mut self, scene: &Scene, task: &Task, out: &mut Out) {
        if !self.writer.is_idle() {
            return;
        }
        if task.cancelled {
            return self.announce(scene, record::ended(scene, task, TaskPhase::Cancelled), out);
        }
        let near = |other: &Task| [other.from, other.to].iter().any(|g| [task.from, task.to].contains(g));
        let first = |other: &Task| other.phase.works() || (other.id < task.id && is_ready(scene, other));
        let mut open = scene.state.all_tasks().filter(|other| other.id != task.id && !other.phase.is_over());
        let busy = open.any(|other| near(other) && first(other));
        if !busy && is_ready(scene, task) {
            self.announce(scene, record::begun(scene, task), out);
        }
    }

    pub(super) fn copy(
        &mut self,
        scene: &Scene,
        task: &Task,
        groups: (&Group, &Group),
        out: &mut Out,
        board: &mut Board,
    ) {
        if task.cancelled {
            if self.writer.is_idle() {
                self.writer.write(scene.now, record::undone(scene, task), out);
            }
            return;
        }
        if let Some(slot) = stranger(scene, task) {
            // By somebody's hand. What is copied over it may be served from there already.
            self.drop_run(task, out);
            if !task.paused && self.writer.is_idle() {
                let why = format!("slot {slot} is not group {}'s any more: cancel this migration", task.from);
                self.writer.write(scene.now, record::given_up(scene, task, &why), out);
            }
            return;
        }
        let ready = is_ready(scene, task) && at_peace(scene, groups).is_ok() && is_announced(scene, task);
        if !self.keep_running(scene, task, groups, ready, out, board) {
            return;
        }
        let Some(run) = self.runs.get_mut(&task.id) else { return };
        run.limit(task.limits.into(), out);
        run.tell(scene.now, if ready { Goal::Copy } else { Goal::Pause }, out);
        if ready && self.writer.is_idle() && may_fence(scene, run) {
            let Some((txn, epoch)) = record::fenced(scene, task) else { return };
            run.fence.ours = Some((epoch, scene.now));
            self.writer.write(scene.now, txn, out);
        }
    }

    /// There is a job, between the primaries of now, and it says something. False: not, or not yet.
    pub(super) fn keep_running(
        &mut self,
        scene: &Scene,
        task: &Task,
        groups: (&Group, &Group),
        ready: bool,
        out: &mut Out,
        board: &mut Board,
    ) -> bool {
        let Some(run) = self.runs.get_mut(&task.id).filter(|run| run.job.work == work_of(task)) else {
            if ready {
                self.attempt(scene, task, groups, out);
            }
            return false;
        };
        let moved_on = |side: &Side, group: &Group| group.primary().is_none_or(|p| p.addr != side.primary);
        let ended = match &run.status {
            Some((Status { stage: Stage::Hopeless { why }, .. }, _)) => {
                let txn = record::given_up(scene, task, why);
                if self.writer.is_idle() {
                    let message = format!("migration {}: {why}", task.id);
                    board.raise(out, STUCK, &task.id.to_string(), scene.state.epoch_in_force(), message);
                    self.writer.write(scene.now, txn, out);
                    self.drop_run(task, out);
                }
                return false;
            }
            Some((Status { stage: Stage::Failed { why }, .. }, _)) => Some(why.clone()),
            _ if moved_on(&run.job.source, groups.0) || moved_on(&run.job.target, groups.1) => {
                Some("a primary was replaced".to_owned())
            }
            last => {
                let heard = last.as_ref().map_or(run.told_at, |(_, at)| *at).max(run.told_at);
                (scene.now > heard + JOB_SILENT_MS).then(|| "the mover says nothing".to_owned())
            }
        };
        let subject = task.id.to_string();
        let Some(why) = ended else {
            if run.gets_on() {
                run.failures = 0;
                board.settle(out, STUCK, &subject, "it went on");
            }
            return true;
        };
        let due = match run.again_at {
            None => {
                run.failures += 1;
                run.again_at = Some(scene.now + pause(JOB_AGAIN_MS, run.failures));
                if run.failures >= MIGRATION_ALARM_FAILURES {
                    let message = format!("migration {} begins again and again: {why}", task.id);
                    board.raise(out, STUCK, &subject, scene.state.epoch_in_force(), message);
                }
                false
            }
            Some(at) => scene.now >= at,
        };
        if due && ready {
            self.attempt(scene, task, groups, out);
        }
        false
    }

    /// Begins a copy from the purge on; or a walk over what is left at the source.
    fn attempt(&mut self, scene: &Scene, task: &Task, groups: (&Group, &Group), out: &mut Out) {
        let (Some(source), Some(target), Some(known)) = (side(groups.0), side(groups.1), scene.known()) else { return };
        let slots: Arc<[Slot]> = task.slots().collect();
        self.attempts += 1;
        let job = Arc::new(Job {
            task: task.id.to_string(),
            work: work_of(task),
            attempt: self.attempts,
            token: scene.fence.token,
            slots,
            slot_count: known.slot_count(),
            tag_rule: known.tag_rule(),
            source,
            target,
            limits: task.limits.into(),
            force: task.force,
        });
        let last = self.runs.remove(&task.id).filter(|run| run.job.work == job.work);
        let (failures, fence) = last.map_or((0, Fence::default()), |run| (run.failures, run.fence));
        let goal = Goal::Copy;
        out.push(Action::Move { job: Arc::clone(&job), goal });
        let told_at = scene.now;
        let run = Run { job, goal, status: None, copying: None, told_at, failures, again_at: None, fence };
        self.runs.insert(task.id, run);
    }

    pub(super) fn drop_run(&mut self, task: &Task, out: &mut Out) {
        if self.runs.remove(&task.id).is_some() {
            out.push(Action::Drop { task: task.id.to_string() });
        }
    }
}

/// Proxies know that the target gets copies, so that nobody counts them. One that does not answer may count them: it is
/// not waited for long.
fn is_announced(scene: &Scene, task: &Task) -> bool {
    let late = task.times.begun.is_none_or(|begun| scene.wall > begun + ANNOUNCE_MS);
    late || task.epoch.is_none_or(|epoch| scene.fleet.behind(epoch).is_empty())
}

/// What is to be done for a task now.
fn work_of(task: &Task) -> Work {
    match (task.mode, task.phase) {
        (Mode::Copy, _) => Work::Copy,
        (Mode::OnAccess, TaskPhase::Fetch) => Work::Fetch,
        (Mode::OnAccess, _) => Work::Prepare,
    }
}

/// People and the clock let it go on.
pub(super) fn is_ready(scene: &Scene, task: &Task) -> bool {
    !task.paused && !scene.state.automation_paused() && task.window.is_none_or(|window| window.is_open(scene.wall))
}

/// A slot of it that the source does not own.
pub(super) fn stranger(scene: &Scene, task: &Task) -> Option<Slot> {
    let known = scene.known()?;
    task.slots().find(|slot| known.slots().get(usize::from(*slot)).is_none_or(|owner| owner.group != Some(task.from)))
}

/// So little is left, and everybody is there, that clients can wait for the rest.
fn may_fence(scene: &Scene, run: &Run) -> bool {
    let near = run.status.as_ref().is_some_and(|(status, at)| {
        matches!(status.stage, Stage::Tailing | Stage::Drained { .. })
            && status.dirty <= FENCE_DIRTY_MAX
            && status.lag <= FENCE_LAG_MAX
            && scene.now <= at + STATUS_FRESH_MS
    });
    near && scene.now >= run.fence.again_at
        && scene.state.fencing().next().is_none()
        && scene.absent_proxies().is_none()
}
