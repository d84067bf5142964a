//! What is left behind: the source's keys after the slots changed hands, the target's copy when they did not.

use super::run::Sweeping;
use super::{Migrations, STUCK, record};
use crate::control::board::Board;
use crate::control::event::Action;
use crate::control::failover::Scene;
use crate::control::job::Sweep;
use crate::control::limits::{CLEAN_ALARM_MS, SWEEP_AGAIN_MS};
use crate::control::out::Out;
use crate::control::task::{Task, TaskPhase};
use cluster::group::Group;
use cluster::slot::Slot;
use std::sync::Arc;

impl Migrations {
    /// Nothing is removed before every proxy sends to the new owner.
    pub(super) fn clean(&mut self, scene: &Scene, task: &Task, from: &Group, out: &mut Out, board: &mut Board) {
        self.drop_run(task, out);
        let Some(epoch) = task.epoch else { return };
        let behind = scene.fleet.behind(epoch).first().map(|id| (*id).to_owned());
        if let Some(proxy) = behind.or_else(|| scene.absent_proxies()) {
            if scene.wall > task.times.committed.unwrap_or(scene.wall) + CLEAN_ALARM_MS {
                let message = format!(
                    "migration {}: proxy {proxy} has not confirmed epoch {epoch}, so the source's keys are kept; start it, \
                     or when it is surely stopped: twemslotctl proxies remove {proxy}",
                    task.id
                );
                board.raise(out, STUCK, &task.id.to_string(), epoch, message);
            }
            return;
        }
        board.settle(out, STUCK, &task.id.to_string(), "it went on");
        if let Some(removed) = self.swept_at(scene, task, from, out)
            && self.writer.is_idle()
        {
            self.writer.write(scene.now, record::cleaned(scene, task, removed), out);
        }
    }

    pub(super) fn undo(&mut self, scene: &Scene, task: &Task, to: &Group, out: &mut Out) {
        self.drop_run(task, out);
        if self.swept_at(scene, task, to, out).is_some() && self.writer.is_idle() {
            self.writer.write(scene.now, record::ended(scene, task, TaskPhase::Cancelled), out);
        }
    }

    /// How many keys were removed at the group's primary, once they are.
    fn swept_at(&mut self, scene: &Scene, task: &Task, group: &Group, out: &mut Out) -> Option<u64> {
        let primary = &group.primary()?.addr;
        let sweeping = self.sweeps.get(&task.id).filter(|s| s.at == *primary);
        match sweeping.map(|s| &s.outcome) {
            Some(Some((Ok(removed), _))) => return Some(*removed),
            Some(None) => return None,
            Some(Some((Err(_), at))) if scene.now < at + SWEEP_AGAIN_MS => return None,
            Some(Some((Err(_), _))) | None => {}
        }
        let known = scene.known()?;
        if !scene.is_well(group) {
            return None;
        }
        // Whatever went wrong before, or by somebody's hand: no key is removed where it is served from.
        let its = |slot: &Slot| known.slots().get(usize::from(*slot)).is_none_or(|owner| owner.group == Some(group.id));
        let slots: Arc<[Slot]> = task.slots().filter(|slot| !its(slot)).collect();
        if slots.is_empty() {
            return Some(0);
        }
        let deed = out.deed();
        let sweep = Sweep {
            task: task.id.to_string(),
            token: scene.fence.token,
            at: primary.clone(),
            slots,
            slot_count: known.slot_count(),
            tag_rule: known.tag_rule(),
            keys_per_s: task.limits.keys_per_s,
        };
        out.push(Action::Sweep { deed, sweep });
        self.sweeps.insert(task.id, Sweeping { deed, at: primary.clone(), outcome: None });
        None
    }
}
