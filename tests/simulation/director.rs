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
        let group = self.rng.below(self.plan.primaries.len());
        let target = self.rng.below(self.plan.primaries.len()) as GroupId;
        let mut slots = self.plan.slots_of(group as GroupId);
        let change = match self.rng.below(8) {
            0 => {
                self.plan.epoch += 1;
                return self.publish();
            }
            1 if target != group as GroupId && !slots.is_empty() => {
                self.plan.moving = Some((slots, target));
                self.plan.epoch += 1;
                return self.publish();
            }
            2 | 3 => Change::Switch { group },
            4 => Change::Nothing,
            _ => {
                slots.truncate(1 + self.rng.below(6));
                Change::Move { slots: slots.clone(), target }
            }
        };
        self.plan.moving = None;
        self.plan.held = slots;
        self.plan.epoch += 1;
        self.publish();
        let until = self.now + if self.weather.calm { 1_500_000 } else { self.rng.range(10_000, 500_000) };
        self.director.stage = Stage::Holding { change, epoch: self.plan.epoch, until };
        self.wake(Event::Director, 1_000);
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
