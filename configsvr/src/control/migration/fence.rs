//! The moment in which slots change hands: they are held, nothing is in flight, the target has it all, one transaction.
//! Whatever is late opens the fence again: the source serves on, and it is tried again later.

use super::run::pause;
use super::{Migrations, at_peace, record};
use crate::control::failover::Scene;
use crate::control::job::{Goal, Stage};
use crate::control::limits::{FENCE_AGAIN_MS, FENCE_LIMIT_MS, FENCE_QUIET_MS};
use crate::control::out::Out;
use crate::control::task::{Mode, Task};
use cluster::group::Group;

impl Migrations {
    pub(super) fn fence(&mut self, scene: &Scene, task: &Task, groups: (&Group, &Group), out: &mut Out) {
        if !self.writer.is_idle() {
            return;
        }
        match self.may_commit(scene, task, groups, out) {
            Ok(false) => {}
            Ok(true) => {
                let status = self.runs.get(&task.id).and_then(|run| run.status.as_ref()).map(|(status, _)| status);
                let txn = match task.mode {
                    Mode::Copy => status.and_then(|status| record::committed(scene, task, status)),
                    Mode::OnAccess => record::moving(scene, task),
                };
                if let Some(txn) = txn {
                    self.writer.write(scene.now, txn, out);
                }
            }
            Err(why) => {
                if let Some(run) = self.runs.get_mut(&task.id) {
                    run.fence.ours = None;
                    run.fence.failures += 1;
                    run.fence.again_at = scene.now + pause(FENCE_AGAIN_MS, run.fence.failures);
                }
                if let Some(txn) = record::opened(scene, task, &why) {
                    self.writer.write(scene.now, txn, out);
                }
            }
        }
    }

    /// An error: the fence is to be opened again.
    fn may_commit(
        &mut self,
        scene: &Scene,
        task: &Task,
        groups: (&Group, &Group),
        out: &mut Out,
    ) -> Result<bool, String> {
        let gone = || "another leader began it".to_owned();
        let epoch = task.epoch.ok_or_else(gone)?;
        let run = self.runs.get_mut(&task.id).ok_or_else(gone)?;
        let since = run.fence.ours.filter(|(of, _)| *of == epoch).map(|(_, since)| since).ok_or_else(gone)?;
        if task.cancelled {
            return Err("it was cancelled".to_owned());
        }
        at_peace(scene, groups)?;
        for (side, group) in [(&run.job.source, groups.0), (&run.job.target, groups.1)] {
            if group.primary().is_none_or(|p| p.addr != side.primary) {
                return Err(format!("the primary of group {} was replaced", group.id));
            }
        }
        if let Some(who) = scene.absent_proxies() {
            return Err(format!("proxy {who} is not there to confirm it"));
        }
        let waiting_for = scene.fleet.in_flight(epoch);
        if let Some(first) = waiting_for.first() {
            // It may be answered with an error by then, but nobody has decided anything.
            return match scene.now > since + FENCE_QUIET_MS {
                true => Err(format!("proxy {first} did not confirm in time that nothing is in flight")),
                false => Ok(false),
            };
        }
        if task.mode == Mode::OnAccess {
            // Nothing is to be drained: keys come after the slots. But it is looked once more whether the target is as it was
            // made: one that was started again with what it had before would be believed.
            run.tell(scene.now, Goal::Drain { fence: epoch }, out);
            let looked = run.status.as_ref().is_some_and(|(_, at)| *at > since);
            return match run.stage() {
                Some(Stage::Tailing) if looked => Ok(true),
                Some(Stage::Tailing) if scene.now <= since + FENCE_LIMIT_MS => Ok(false),
                Some(Stage::Failed { why } | Stage::Hopeless { why }) => Err(why.clone()),
                _ => Err("the target is not ready".to_owned()),
            };
        }
        run.tell(scene.now, Goal::Drain { fence: epoch }, out);
        match run.stage() {
            Some(Stage::Drained { fence, replicas, .. }) if *fence == epoch => {
                // Also where none is there at this moment: one that comes back without it may be promoted, and what was safe
                // at the source for years would be gone.
                match *replicas >= groups.1.replicas().count().min(1) {
                    true => Ok(true),
                    false => Err(format!("no replica of group {} confirmed in time that it has everything", task.to)),
                }
            }
            Some(Stage::Purging) => Err("what was copied is being removed".to_owned()),
            Some(Stage::Failed { why } | Stage::Hopeless { why }) => Err(why.clone()),
            _ if scene.now > since + FENCE_LIMIT_MS => Err("the mover did not catch up in time".to_owned()),
            _ => Ok(false),
        }
    }
}
