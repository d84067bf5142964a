//! What must hold, whatever happens: one owner a slot, who changes in one transaction; a target that holds what the source
//! holds at that moment; nothing removed where it is served from; every acknowledged write there at the end, once, in order.

use crate::data::{Key, Op, Space};
use crate::world::Request;
use cluster::instance::Addr;
use cluster::slot::Slot;
use configsvr::control::job::Sweep;
use configsvr::control::layout::{Epoch, Failover, FailoverKind, SlotEntry};
use configsvr::control::task::{Mode, Task, TaskPhase};
use configsvr::store::Change;
use std::collections::{BTreeMap, BTreeSet};

/// A write that a client was told is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ack {
    pub(crate) key: Key,
    pub(crate) since: u64,
    pub(crate) at: u64,
}

/// All that was ever true.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) epoch: u64,
    epochs: BTreeSet<u64>,
    /// By slot; 0: nobody. As of the last commit.
    pub(crate) owners: Vec<u32>,
    /// What the slots' own keys say.
    base: Vec<u32>,
    pub(crate) tasks: BTreeMap<u64, Task>,
    pub(crate) acked: BTreeMap<u64, Ack>,
    by_key: BTreeMap<Key, Vec<u64>>,
    /// Those that a failover or a restart was entitled to lose.
    pub(crate) forgiven: BTreeSet<u64>,
    /// When an instance last started with less than it had, and when a group's primary last changed.
    pub(crate) shaken: BTreeMap<Addr, u64>,
    pub(crate) turned: BTreeMap<u32, u64>,
    /// Migrations on access: when the target's replicas had all that had come.
    pub(crate) whole: BTreeMap<u64, u64>,
    /// When slots last changed hands, by slot.
    landed: BTreeMap<Slot, u64>,
    /// When the removal of a slot's keys at a group began.
    pub(crate) cleared: BTreeMap<(u32, Slot), u64>,
    now: u64,
}

impl Truth {
    /// One revision's changes; the migrations that are in another phase.
    pub(crate) fn take(&mut self, changes: &[Change]) -> Result<Vec<(u64, TaskPhase)>, String> {
        let (mut epoch, mut moved) = (None, Vec::new());
        for change in changes {
            let Change::Put(entry) = change else { continue };
            if entry.key == "epoch" {
                epoch = Some(serde_json::from_str::<Epoch>(&entry.value).map_err(|e| e.to_string())?);
            } else if entry.key.starts_with("slot-to-group-mapping/") {
                let slot: SlotEntry = serde_json::from_str(&entry.value).map_err(|e| e.to_string())?;
                let at = slot.slot_id as usize - 1;
                self.base.resize(self.base.len().max(at + 1), 0);
                self.base[at] = slot.group_id;
            } else if entry.key.starts_with("migration-tasks/") {
                let task: Task = serde_json::from_str(&entry.value).map_err(|e| e.to_string())?;
                if self.tasks.get(&task.id).is_none_or(|old| old.phase != task.phase) {
                    moved.push((task.id, task.phase));
                    self.steps(&task)?;
                }
                self.tasks.insert(task.id, task);
            }
        }
        if let Some(epoch) = epoch {
            self.turn(&epoch, &moved)?;
        }
        Ok(moved)
    }

    /// The phases come in their order.
    fn steps(&mut self, task: &Task) -> Result<(), String> {
        use TaskPhase::{Cancelled, Clean, Copy, Done, Fence, Fetch, Undo, Waiting};
        let old = self.tasks.get(&task.id).map(|t| t.phase);
        let good = matches!(
            (old, task.phase),
            (None, Waiting)
                | (Some(Waiting), Copy | Cancelled)
                | (Some(Copy), Fence | Undo)
                | (Some(Fence), Copy | Clean | Fetch)
                | (Some(Fetch), Clean)
                | (Some(Clean), Done)
                | (Some(Undo), Cancelled)
        );
        let way = match task.mode {
            Mode::Copy => task.phase != Fetch,
            Mode::OnAccess => (old, task.phase) != (Some(Fence), Clean),
        };
        if matches!(task.phase, Copy) && old == Some(Waiting) {
            let near = |o: &&Task| {
                o.id != task.id && o.phase.works() && [o.from, o.to].iter().any(|g| [task.from, task.to].contains(g))
            };
            if let Some(other) = self.tasks.values().find(near) {
                return Err(format!("migration {} begins while {} works on the same groups", task.id, other.id));
            }
        }
        match task.phase {
            Clean => task.slots().for_each(|slot| _ = self.cleared.insert((task.from, slot), self.now)),
            Undo => task.slots().for_each(|slot| _ = self.cleared.insert((task.to, slot), self.now)),
            _ => {}
        }
        if good && way { Ok(()) } else { Err(format!("migration {} went from {old:?} to {:?}", task.id, task.phase)) }
    }

    /// A slot changes its owner only with the migration that moves it there.
    fn turn(&mut self, epoch: &Epoch, moved: &[(u64, TaskPhase)]) -> Result<(), String> {
        if epoch.epoch < self.epoch {
            return Err(format!("the epoch went back from {} to {}", self.epoch, epoch.epoch));
        }
        self.epoch = epoch.epoch;
        self.epochs.insert(epoch.epoch);
        let mut owners = self.base.clone();
        for range in &epoch.unfolded {
            let range_of = usize::from(range.from)..=usize::from(range.to);
            owners[range_of].fill(range.group.unwrap_or(0));
        }
        let old = std::mem::replace(&mut self.owners, owners);
        for (slot, (before, after)) in old.iter().zip(&self.owners).enumerate().filter(|(_, (a, b))| a != b) {
            let slot = slot as Slot;
            let by =
                moved.iter().filter(|(_, phase)| *phase == TaskPhase::Clean).filter_map(|(id, _)| self.tasks.get(id));
            let right = |t: &Task| t.from == *before && t.to == *after && t.slots().any(|s| s == slot);
            if !by.into_iter().any(right) {
                return Err(format!("J1: slot {slot} went from group {before} to {after} by itself"));
            }
            let by = self.tasks.values().rev().find(|t| right(t));
            let whole = by.filter(|t| t.mode == Mode::OnAccess).map(|t| self.whole.get(&t.id).copied().unwrap_or(0));
            self.landed.insert(slot, whole.unwrap_or(self.now));
        }
        Ok(())
    }

    /// A slot that moves on access: from where, where to.
    pub(crate) fn on_access(&self, slot: Slot) -> Option<(u32, u32)> {
        let task = self.tasks.values().find(|t| t.phase == TaskPhase::Fetch && t.slots().any(|s| s == slot))?;
        Some((task.from, task.to))
    }

    /// The group that may acknowledge writes of a slot.
    fn server(&self, slot: Slot) -> u32 {
        let owner = self.owners.get(usize::from(slot)).copied().unwrap_or(0);
        self.on_access(slot).map_or(owner, |(_, to)| to)
    }

    /// All keys have come: every acknowledged write is at the target.
    pub(crate) fn have_come(&self, id: u64, target: &Space) -> Result<(), String> {
        let Some(task) = self.tasks.get(&id) else { return Ok(()) };
        let its = |ack: &Ack| task.slots().any(|slot| slot == ack.key.slot);
        let lost = |value: &u64, ack: &Ack| !self.forgiven.contains(value) && !list(target, &ack.key).contains(value);
        match self.acked.iter().find(|(value, ack)| its(ack) && lost(value, ack)) {
            Some((value, ack)) => Err(format!("J3: migration {id} is over, and {value} did not come: {ack:?}")),
            None => Ok(()),
        }
    }

    /// A key went to an instance that is not the target's primary any more.
    pub(crate) fn strays(&mut self, values: &[u64]) {
        self.forgiven.extend(values);
    }

    pub(crate) fn at(&mut self, now: u64) {
        self.now = now;
    }

    pub(crate) fn pushes(&self, epoch: u64) -> Result<(), String> {
        let known = self.epochs.contains(&epoch);
        if known { Ok(()) } else { Err(format!("epoch {epoch} is pushed, and was never committed")) }
    }

    /// J2, J4, J6: the mover and sweeps change nothing where it is served from.
    pub(crate) fn changes(&self, op: &Op, group: u32, recorded: bool, task: &str, attempt: u64) -> Result<(), String> {
        let served = (0..).zip(&self.owners).filter(|(_, owner)| **owner == group).map(|(slot, _)| slot);
        match served.into_iter().find(|slot| op.touches(*slot)) {
            // On access it takes away what the other side has.
            Some(slot) if matches!(op, Op::Take(_)) && self.on_access(slot).is_some() => Ok(()),
            Some(slot) if recorded => {
                let who = if attempt == 0 { "a sweep" } else { "the mover" };
                Err(format!("J6: {who} of migration {task} changes slot {slot} at its owner, group {group}: {op:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Nothing is removed at the source before every proxy knows the new owner.
    pub(crate) fn may_sweep(&self, sweep: &Sweep, proxies: &[(String, u64)]) -> Result<(), String> {
        let task = sweep.task.parse().ok().and_then(|id: u64| self.tasks.get(&id));
        let Some(task) = task else { return Err(format!("a sweep for migration {}, which is none", sweep.task)) };
        let Some(epoch) = task.epoch.filter(|_| task.phase == TaskPhase::Clean) else { return Ok(()) };
        if task.audit.is_none() && !sweep.count_only {
            return Err(format!("the source is swept for migration {}, and nobody compared", task.id));
        }
        match proxies.iter().find(|(_, serves)| *serves < epoch) {
            Some((id, serves)) => Err(format!("the source is swept at epoch {epoch} while {id} serves {serves}")),
            None => Ok(()),
        }
    }

    /// J3: the target has what the source has. What the source has more was never acknowledged.
    pub(crate) fn are_equal(&self, id: u64, source: &Space, target: &Space) -> Result<(), String> {
        let keys: BTreeSet<&Key> = source.keys().chain(target.keys()).collect();
        for key in keys {
            let (left, right) = (list(source, key), list(target, key));
            let rest = left.strip_prefix(right);
            if rest.is_none_or(|rest| rest.iter().any(|v| self.acked.contains_key(v) && !self.forgiven.contains(v))) {
                return Err(format!("J3: migration {id} was committed, {key:?}: source {left:?}, target {right:?}"));
            }
        }
        Ok(())
    }

    /// J1: only the owner's group acknowledges.
    pub(crate) fn answered(&mut self, r: &Request, now: u64, recorded: bool) -> Result<(), String> {
        let owner = self.server(r.key.slot);
        if owner != r.group {
            return Err(format!("J1: p{} acknowledges {r:?}, the owner is group {owner}", r.proxy));
        }
        match (r.value, &r.read) {
            (Some(value), _) => {
                self.acked.insert(value, Ack { key: r.key, since: r.since, at: now });
                self.by_key.entry(r.key).or_default().push(value);
                if !recorded {
                    // A proxy that was not told yet; an old primary that was not demoted yet, or one just restarted.
                    self.forgiven.insert(value);
                }
                Ok(())
            }
            (None, Some((seen, true))) if recorded => {
                let all = self.by_key.get(&r.key).into_iter().flatten();
                let missing = all.filter(|v| !self.forgiven.contains(v) && !seen.contains(v));
                match missing.into_iter().find(|v| self.acked[v].at < r.since) {
                    Some(value) => Err(format!("STALE: {r:?} lacks {value}: {:?}", self.acked[value])),
                    None => is_unique(&r.key, seen),
                }
            }
            _ => Ok(()),
        }
    }

    /// Another primary of a group, or the same one as another process.
    pub(crate) fn another_primary(
        &mut self,
        group: u32,
        heir: &Addr,
        alive: bool,
        space: &Space,
        failover: Option<&Failover>,
        now: u64,
    ) -> Result<(), String> {
        self.turned.insert(group, now);
        let its = |ack: &&Ack| {
            let moving = self.on_access(ack.key.slot).is_some_and(|(from, to)| from == group || to == group);
            moving || self.owners.get(usize::from(ack.key.slot)) == Some(&group)
        };
        let lost =
            |(value, ack): &(&u64, &Ack)| !self.forgiven.contains(value) && !list(space, &ack.key).contains(value);
        let lost: Vec<(u64, Ack)> =
            self.acked.iter().filter(|(_, ack)| its(ack)).filter(lost).map(|(v, ack)| (*v, *ack)).collect();
        let shaken = self.shaken.get(heir).copied();
        for (value, ack) in lost {
            // Of its own slots: those that are only on their way to it have not come yet.
            let own = self.owners.get(usize::from(ack.key.slot)) == Some(&group);
            let landed = self.landed.get(&ack.key.slot).copied().filter(|_| own).unwrap_or(0);
            let whole = alive && shaken.is_none_or(|at| at < landed);
            if ack.at < landed && whole && failover.is_some() {
                return Err(format!(
                    "{value} came to group {group} at {landed} ms, and its failover to {heir} loses it: {ack:?}"
                ));
            }
            if failover.is_some_and(|f| f.kind == FailoverKind::Switchover)
                && alive
                && shaken.is_none_or(|at| at + 9_000 < now)
            {
                return Err(format!("a switchover of group {group} to {heir} loses {value}: {ack:?}"));
            }
            self.forgiven.insert(value);
        }
        Ok(())
    }

    /// At the end: nothing is lost, doubled, or out of order.
    pub(crate) fn is_complete(&self, owners: &BTreeMap<u32, Space>) -> Result<(), String> {
        for (value, ack) in self.acked.iter().filter(|(value, _)| !self.forgiven.contains(value)) {
            let owner = self.owners[usize::from(ack.key.slot)];
            if !owners.get(&owner).is_some_and(|space| list(space, &ack.key).contains(value)) {
                return Err(format!("LOST: {value}, {ack:?}, owner {owner}, and nothing excuses it"));
            }
        }
        for (key, list) in owners
            .iter()
            .flat_map(|(group, space)| space.iter().filter(|(key, _)| self.owners[usize::from(key.slot)] == *group))
        {
            is_unique(key, list)?;
            let mut earliest = u64::MAX;
            for value in list.iter().rev() {
                let Some(ack) = self.acked.get(value) else { continue };
                if earliest < ack.since {
                    return Err(format!("ORDER: {key:?}: {value} was wanted after one behind it was done: {list:?}"));
                }
                earliest = earliest.min(ack.at);
            }
        }
        Ok(())
    }
}

fn list<'a>(space: &'a Space, key: &Key) -> &'a [u64] {
    space.get(key).map_or(&[], Vec::as_slice)
}

fn is_unique(key: &Key, list: &[u64]) -> Result<(), String> {
    let all: BTreeSet<&u64> = list.iter().collect();
    if all.len() == list.len() { Ok(()) } else { Err(format!("DUPLICATE: {key:?}: {list:?}")) }
}
