//! The store: transactions arrive late, twice or never, are answered or not; what it commits is checked.

use crate::data::Op;
use crate::plant::{self, Plant};
use crate::world::{Due, MEMBERS, Sent, World};
use configsvr::control::event::{DeedId, Event};
use configsvr::control::layout::{Failover, Guard};
use configsvr::control::task::{Mode, TaskPhase};
use configsvr::store::{Change, Fault, Txn, Verdict};

impl World {
    pub(crate) fn store_is_there(&self) -> bool {
        self.now >= self.store_away_until
    }

    pub(crate) fn send(&mut self, member: usize, deed: DeedId, mut txn: Txn) {
        plant::spoil(self.plant, &mut txn);
        let (life, delay) = (self.nodes[member].life, self.delay());
        let mut sent = Sent { member, life, deed, txn, honest: true };
        match if self.calm || self.weather_until == 0 || self.crash_after.is_some() { 99 } else { self.rng.below(50) } {
            0 => return self.wrote(&sent, Err(Fault::Unavailable("connection refused".to_owned()))),
            1 => return self.wrote(&sent, Err(Fault::Unknown("connection reset".to_owned()))),
            2 => sent.honest = false,
            3 => {
                // It arrives, and a second time, much later.
                let late = self.rng.range(20, 2_000);
                let again = Sent { txn: sent.txn.clone(), honest: false, ..sent };
                self.after(late, Due::Store(Box::new(again)));
            }
            _ => {}
        }
        self.after(delay, Due::Store(Box::new(sent)));
    }

    fn wrote(&mut self, sent: &Sent, outcome: Result<Verdict, Fault>) {
        let (deed, delay) = (sent.deed, self.delay());
        self.after(delay, Due::Tell(sent.member, sent.life, 0, Event::Wrote { deed, outcome }));
    }

    pub(crate) fn arrive(&mut self, sent: Sent) {
        if !self.store_is_there() {
            return self.wrote(&sent, Err(Fault::Unavailable("connection refused".to_owned())));
        }
        let outcome = self.store.commit(&sent.txn);
        if let Some(Verdict::Done(revision)) = outcome {
            self.note(|| format!("store: revision {revision} by m{}", sent.member));
            self.committed();
        }
        let outcome = match outcome {
            Some(_) if !sent.honest => Err(Fault::Unknown("no answer".to_owned())),
            Some(verdict) => Ok(verdict),
            None => Err(Fault::NoLease(0)),
        };
        self.wrote(&sent, outcome);
    }

    /// Leases whose time is over end, with their keys.
    pub(crate) fn expire(&mut self) {
        self.after(200, Due::Expire);
        if self.store_is_there() && self.store.expire(self.now) {
            self.note(|| "store: a lease is over".to_owned());
            self.committed();
        }
    }

    /// The last revision is checked, and told to everyone.
    pub(crate) fn committed(&mut self) {
        let Some(commit) = self.store.log.last().cloned() else { return };
        let puts = || {
            commit.changes.iter().filter_map(|c| match c {
                Change::Put(entry) => Some(entry),
                Change::Delete { .. } => None,
            })
        };
        let failover =
            puts().filter(|e| e.key.starts_with("failovers/")).find_map(|e| serde_json::from_str(&e.value).ok());
        let (mut replaced, mut accepted) = (None, None);
        for entry in puts() {
            if let Some(group) = entry.key.strip_prefix("group-instances/").and_then(|id| id.parse::<u32>().ok()) {
                let json: serde_json::Value = serde_json::from_str(&entry.value).unwrap_or_default();
                let primary = json["primary"].as_str().and_then(|p| p.parse().ok());
                let Some(primary) = primary else { continue };
                if self.primaries.insert(group, primary).is_some() {
                    replaced = Some(group);
                }
            }
            if let Some(group) = entry.key.strip_prefix("guards/").and_then(|id| id.parse::<u32>().ok()) {
                let guard = serde_json::from_str::<Guard>(&entry.value).ok().and_then(|g| g.primary);
                if let Some(identity) = guard {
                    let known = self.guards.insert(group, (identity.addr.clone(), identity.run_id.clone()));
                    if known.is_some_and(|(addr, process)| addr == identity.addr && process != identity.run_id) {
                        accepted = Some(group);
                    }
                }
            }
        }
        self.truth.at(self.now);
        match self.truth.take(&commit.changes) {
            Ok(moved) => moved.into_iter().for_each(|(id, phase)| self.moved(id, phase)),
            Err(why) => self.must(Err(why)),
        }
        // A primary that was replaced, or one that was started again and of which nobody has more.
        if let Some(group) = replaced.or(accepted) {
            self.another_primary(group, replaced.is_some().then_some(failover).flatten().as_ref());
        }
        for n in 0..MEMBERS {
            self.watch_soon(n);
        }
    }

    /// A migration is in another phase.
    fn moved(&mut self, id: u64, phase: TaskPhase) {
        let Some(task) = self.truth.tasks.get(&id).cloned() else { return };
        let (source, target) = (self.primaries.get(&task.from).cloned(), self.primaries.get(&task.to).cloned());
        let (Some(source), Some(target)) = (source, target) else { return };
        if phase == TaskPhase::Fence && self.plant == Some(Plant::EarlySweep) {
            let slots: Vec<_> = task.slots().collect();
            let op = self.ops.add(Op::Wipe(slots.into()));
            self.instances.get_mut(&source).into_iter().for_each(|i| i.data.push(op));
        }
        if phase == TaskPhase::Clean && task.mode == Mode::OnAccess {
            let slots: Vec<_> = task.slots().collect();
            let to = &self.instances[&target];
            if to.alive && self.guards.get(&task.to).is_some_and(|(_, process)| *process == to.run_id) {
                let there = self.ops.fold(&to.data, |slot| slots.contains(&slot));
                let checked = self.truth.have_come(id, &there);
                self.must(checked);
            }
        } else if phase == TaskPhase::Clean {
            let slots: Vec<_> = task.slots().collect();
            let (from, to) = (&self.instances[&source], &self.instances[&target]);
            // What died at this moment has forgotten what it had.
            let same = |group: u32, i: &crate::instances::Instance| {
                i.alive && self.guards.get(&group).is_some_and(|(_, process)| *process == i.run_id)
            };
            if same(task.from, from) && same(task.to, to) {
                let left = self.ops.fold(&from.data, |slot| slots.contains(&slot));
                let right = self.ops.fold(&to.data, |slot| slots.contains(&slot));
                let checked = self.truth.are_equal(id, &left, &right);
                self.must(checked);
            }
        }
    }

    /// What the new primary does not have is lost: who may lose it?
    fn another_primary(&mut self, group: u32, failover: Option<&Failover>) {
        let Some(heir) = self.primaries.get(&group).and_then(|p| self.instances.get(p)) else { return };
        let owners = &self.truth.owners;
        let mut space = self.ops.fold(&heir.data, |slot| owners.get(usize::from(slot)) == Some(&group));
        // What moves on access is where it is found first: at the target, then at the source.
        let moving = |slot: u16| self.truth.on_access(slot).filter(|(from, to)| *from == group || *to == group);
        for slot in (0..self.slot_count).filter(|slot| moving(*slot).is_some()) {
            let Some((from, to)) = moving(slot) else { continue };
            space.retain(|key, _| key.slot != slot);
            for side in [from, to] {
                let there = self.primaries.get(&side).and_then(|p| self.instances.get(p));
                there.into_iter().for_each(|i| space.extend(self.ops.fold(&i.data, |s| s == slot)));
            }
        }
        let checked = self.truth.another_primary(group, &heir.addr, heir.alive, &space, failover, self.now);
        self.must(checked);
    }
}
