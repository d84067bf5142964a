//! What is left behind: the source's keys after the slots changed hands, the target's copy when they did not.

use super::run::{Auditing, Sweeping, side};
use super::{Migrations, STUCK, record};
use crate::control::board::Board;
use crate::control::event::Action;
use crate::control::failover::Scene;
use crate::control::job::{Audit, Findings, Sweep};
use crate::control::limits::{AUDITS_MAX, CLEAN_ALARM_MS, SWEEP_AGAIN_MS};
use crate::control::out::Out;
use crate::control::task::{Mode, Task, TaskPhase};
use cluster::group::Group;
use cluster::slot::Slot;
use std::sync::Arc;

impl Migrations {
    /// Nothing is removed before every proxy sends to the new owner, and both sides were compared (unless nobody wants that).
    pub(super) fn clean(
        &mut self,
        scene: &Scene,
        task: &Task,
        groups: (&Group, &Group),
        out: &mut Out,
        board: &mut Board,
    ) {
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
        if task.paused {
            return; // by an audit, whose alarm stands, or by somebody
        }
        board.settle(out, STUCK, &task.id.to_string(), "it went on");
        if !self.writer.is_idle() {
            return;
        }
        if task.mode == Mode::OnAccess && task.audit.is_none() {
            // Nothing is to be there any more; what a replica brought back that had not heard of all is looked at first.
            match self.swept_at(scene, task, groups.0, true, out) {
                None => {}
                Some(0) => self.announce(scene, record::cleaned(scene, task, 0), out),
                Some(left) => {
                    let doubt =
                        format!("{left} keys were left at group {}, or came back there; {}", task.from, kept(task));
                    let message = format!("migration {}: {doubt}", task.id);
                    board.raise(out, STUCK, &task.id.to_string(), epoch, message);
                    self.writer.write(scene.now, record::left_over(scene, task, left, doubt), out);
                }
            }
        } else if task.audit.is_none() && !task.skip_audit {
            if let Some((found, doubt)) = self.compared(scene, task, groups, out) {
                if let Some(doubt) = &doubt {
                    let message = format!("migration {}: {doubt}", task.id);
                    board.raise(out, STUCK, &task.id.to_string(), epoch, message);
                }
                self.writer.write(scene.now, record::audited(scene, task, &found, doubt), out);
            }
        } else if let Some(removed) = self.swept_at(scene, task, groups.0, false, out) {
            self.announce(scene, record::cleaned(scene, task, removed), out);
        }
    }

    /// What comparing both sides brought, once it is over, and what people should look at first.
    fn compared(
        &mut self,
        scene: &Scene,
        task: &Task,
        groups: (&Group, &Group),
        out: &mut Out,
    ) -> Option<(Findings, Option<String>)> {
        let (source, target) = (side(groups.0)?, side(groups.1)?);
        let at = (source.primary.clone(), target.primary.clone());
        let last = self.audits.get(&task.id);
        let mut failures = last.map_or(0, |last| last.failures);
        if let Some(auditing) = last.filter(|last| last.at == at) {
            match auditing.outcome.as_ref()? {
                (Ok(found), _) => return Some((found.clone(), doubt(task, found))),
                (Err(why), _) if failures + 1 >= AUDITS_MAX => {
                    let doubt = format!("both sides could not be compared: {why}; {}", kept(task));
                    return Some((Findings::default(), Some(doubt)));
                }
                (Err(_), ended) if scene.now < ended + SWEEP_AGAIN_MS => return None,
                (Err(_), _) => failures += 1,
            }
        }
        let known = scene.known()?;
        if !scene.is_well(groups.0) || !scene.is_well(groups.1) {
            return None;
        }
        let deed = out.deed();
        let audit = Audit {
            task: task.id.to_string(),
            token: scene.fence.token,
            source,
            target,
            slots: task.slots().collect(),
            slot_count: known.slot_count(),
            tag_rule: known.tag_rule(),
            keys_per_s: task.limits.keys_per_s,
            mark: task.mark.clone(),
        };
        out.push(Action::Audit { deed, audit });
        self.audits.insert(task.id, Auditing { deed, at, outcome: None, failures });
        None
    }

    pub(super) fn undo(&mut self, scene: &Scene, task: &Task, to: &Group, out: &mut Out) {
        self.drop_run(task, out);
        if self.swept_at(scene, task, to, false, out).is_some() && self.writer.is_idle() {
            self.announce(scene, record::ended(scene, task, TaskPhase::Cancelled), out);
        }
    }

    /// How many keys were removed at the group's primary, once they are; or how many there are.
    fn swept_at(&mut self, scene: &Scene, task: &Task, group: &Group, count_only: bool, out: &mut Out) -> Option<u64> {
        let primary = &group.primary()?.addr;
        let sweeping = self.sweeps.get(&task.id).filter(|s| s.at == *primary && s.count_only == count_only);
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
            count_only,
        };
        out.push(Action::Sweep { deed, sweep });
        self.sweeps.insert(task.id, Sweeping { deed, at: primary.clone(), count_only, outcome: None });
        None
    }
}

fn doubt(task: &Task, found: &Findings) -> Option<String> {
    let Findings { missing, different, examples, .. } = found;
    found.is_bad().then(|| {
        let first = examples.first().map(|e| format!(", as {e}")).unwrap_or_default();
        format!("group {} lacks {missing} keys and has {different} that differ{first}; {}", task.to, kept(task))
    })
}

fn kept(task: &Task) -> String {
    let Task { id, from, .. } = task;
    format!("group {from} keeps its copies until somebody has looked: twemslotctl migrations resume {id} removes them")
}
