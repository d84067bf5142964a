//! The control plane of a run: it moves slots and primaries under a hold, once every worker has said it is quiet.

use crate::checkers::owners::WorkerUid;
use crate::world::{Event, Plant, World};
use cluster::group::GroupId;
use cluster::slot::Slot;
use std::collections::BTreeMap;

/// What is done while slots are held.
#[derive(Debug, Clone)]
enum Change {
    Move {
        slots: Vec<Slot>,
        target: GroupId,
    },
    Switch {
        group: usize,
    },
    /// They begin to move on access.
    Open {
        slots: Vec<Slot>,
        target: GroupId,
    },
    /// Held, and released again.
    Nothing,
}

#[derive(Debug, Clone)]
enum Stage {
    Idle,
    /// Held since `epoch`; given up at `until`.
    Holding {
        change: Change,
        epoch: u64,
        until: u64,
    },
    /// Quiet everywhere: done, and released at this time.
    Done {
        release: u64,
    },
}

pub(crate) struct Director {
    stage: Stage,
    quiet: BTreeMap<WorkerUid, u64>,
}

impl Default for Director {
    fn default() -> Self {
        Self { stage: Stage::Idle, quiet: BTreeMap::new() }
    }
}

impl Director {
    pub(crate) fn idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    pub(crate) fn quiet(&mut self, worker: WorkerUid, epoch: u64) {
        let known = self.quiet.entry(worker).or_default();
        *known = epoch.max(*known);
    }
}

impl World {
    pub(crate) fn director_turn(&mut self) {
        match self.director.stage.clone() {
            Stage::Idle => self.begin_change(),
            Stage::Holding { change, epoch, until } => self.hold(&change, epoch, until),
            Stage::Done { release } if self.now >= release => self.release(),
            Stage::Done { release } => self.wake(Event::Director, release - self.now),
        }
    }

    fn begin_change(&mut self) {
        if self.stormless() {
            return;
        }
        let pause = self.rng.range(1_000, 120_000);
        self.wake(Event::Director, pause);
        if self.weather.calm && self.rng.one_in(6) {
            self.drain_one();
        }
        self.drain_keys();
        let group = self.rng.below(self.plan.primaries.len());
        let target = self.rng.below(self.plan.primaries.len()) as GroupId;
        let mut slots = self.plan.slots_of(group as GroupId);
        let change = match self.rng.below(8) {
            0 => {
                self.plan.epoch += 1;
                return self.publish();
            }
            1 if self.plan.moving.is_some() => {
                self.end_of_moving();
                return;
            }
            1 if target != group as GroupId && !slots.is_empty() => {
                slots.truncate(1 + self.rng.below(6));
                Change::Open { slots: slots.clone(), target }
            }
            2 | 3 => {
                slots.extend(self.moving_slots(group as GroupId));
                Change::Switch { group }
            }
            4 => Change::Nothing,
            _ => {
                slots.truncate(1 + self.rng.below(6));
                Change::Move { slots: slots.clone(), target }
            }
        };
        self.plan.held = slots;
        self.plan.epoch += 1;
        self.publish();
        let until = self.now + if self.weather.calm { 1_500_000 } else { self.rng.range(10_000, 500_000) };
        self.director.stage = Stage::Holding { change, epoch: self.plan.epoch, until };
        self.wake(Event::Director, 1_000);
    }

    /// Slots that move from this group or to it.
    fn moving_slots(&self, group: GroupId) -> Vec<Slot> {
        let Some((slots, target)) = &self.plan.moving else { return Vec::new() };
        let from = self.plan.owners[usize::from(slots[0])];
        if group == from || group == *target { slots.clone() } else { Vec::new() }
    }

    /// Where slots move on access: their instances before and after, and a key that is still there.
    fn left_behind(&self) -> Option<(usize, usize, Option<Vec<u8>>)> {
        let (slots, target) = self.plan.moving.as_ref()?;
        let primary = |group: GroupId| self.plan.primaries[group as usize];
        let (from, to) = (primary(self.plan.owners[usize::from(slots[0])]), primary(*target));
        let left = self.instances[from].store.names_of(|key| slots.contains(&crate::topology::slot(key)));
        Some((from, to, left.into_iter().next()))
    }

    /// Brings some keys that nobody has asked for.
    fn drain_keys(&mut self) {
        for _ in 0..self.rng.below(4) {
            let Some((from, to, Some(key))) = self.left_behind() else { return };
            let sent = self.instances[from].store.send(&key, false);
            if !self.instances[to].store.has(&key) {
                self.instances[to].store.put(sent.into_iter().collect());
            }
            self.note(|| format!("drained {} from i{from} to i{to}", crate::checkers::history::show(&key)));
        }
    }

    /// The target owns them alone, if nothing is left behind.
    fn end_of_moving(&mut self) {
        if !matches!(self.left_behind(), Some((_, _, None))) {
            return;
        }
        if let Some((slots, target)) = self.plan.moving.take() {
            slots.iter().for_each(|&slot| self.plan.owners[usize::from(slot)] = target);
            self.plan.epoch += 1;
            self.publish();
        }
    }

    fn hold(&mut self, change: &Change, epoch: u64, until: u64) {
        let waits = |w: &crate::worker::Worker| self.director.quiet.get(&w.uid).copied().unwrap_or(0) < epoch;
        let quiet = !self.workers.iter().any(waits) || self.plant == Some(Plant::HasteAfterHold);
        if quiet {
            self.change(change);
            let release = self.now + self.rng.range(0, 5_000);
            self.director.stage = Stage::Done { release };
            self.wake(Event::Director, release - self.now);
        } else if self.now >= until {
            self.note(|| format!("epoch {epoch} is not quiet in time"));
            if self.weather.calm {
                let busy: Vec<String> = self.workers.iter_mut().map(crate::worker::Worker::busy).collect();
                self.history.fail(format!("progress: epoch {epoch} is not quiet, though nothing is wrong: {busy:?}"));
            }
            self.release();
        } else {
            let after = (until - self.now).min(20_000);
            self.wake(Event::Director, after);
        }
    }

    fn release(&mut self) {
        self.director.stage = Stage::Idle;
        self.plan.held.clear();
        self.plan.epoch += 1;
        self.publish();
        let pause = self.rng.range(1_000, 100_000);
        self.wake(Event::Director, pause);
    }

    fn change(&mut self, change: &Change) {
        self.note(|| format!("all quiet: {change:?}"));
        match change {
            Change::Nothing => {}
            Change::Switch { group } => self.promote(*group),
            Change::Open { slots, target } => self.plan.moving = Some((slots.clone(), *target)),
            Change::Move { slots, target } => {
                for &slot in slots {
                    let source = self.plan.instance_of(slot);
                    let keys = self.instances[source].store.take(|key| crate::topology::slot(key) == slot);
                    self.plan.owners[usize::from(slot)] = *target;
                    let target = self.plan.instance_of(slot);
                    self.instances[target].store.put(keys);
                }
            }
        }
    }
}
