//! Slots that move on access: the target serves them, proxies bring each key before it is used, and the mover the rest. When
//! two passes over the source have met none any more, one transaction makes the slots the target's own.

use super::copy::{is_ready, stranger};
use super::{Migrations, STUCK, at_peace, record};
use crate::control::board::Board;
use crate::control::failover::Scene;
use crate::control::job::{Goal, Stage};
use crate::control::out::Out;
use crate::control::task::Task;
use cluster::group::Group;

impl Migrations {
    pub(super) fn fetch(
        &mut self,
        scene: &Scene,
        task: &Task,
        groups: (&Group, &Group),
        out: &mut Out,
        board: &mut Board,
    ) {
        if let Some(slot) = stranger(scene, task) {
            // By somebody's hand: where its keys are to go nobody knows any more, and what is there may be served.
            self.drop_run(task, out);
            let message = format!(
                "migration {}: slot {slot} was given away by hand while its keys move from group {} to group {}: give it \
                 back to group {} in the store",
                task.id, task.from, task.to, task.from
            );
            return board.raise(out, STUCK, &task.id.to_string(), scene.state.epoch_in_force(), message);
        }
        // Proxies bring keys all the same when this stands still.
        let ready = is_ready(scene, task) && at_peace(scene, groups).is_ok();
        if !self.keep_running(scene, task, groups, ready, out, board) {
            return;
        }
        let Some(run) = self.runs.get_mut(&task.id) else { return };
        run.limit(task.limits.into(), out);
        run.tell(scene.now, if ready { Goal::Copy } else { Goal::Pause }, out);
        let emptied = run.status.as_ref().map(|(status, _)| status).filter(|status| status.stage == Stage::Emptied);
        if let Some(status) = emptied.filter(|_| ready && self.writer.is_idle())
            && let Some(txn) = record::landed(scene, task, status)
        {
            self.writer.write(scene.now, txn, out);
        }
    }
}
