//! Owner: a request reaches an instance only where the topology its worker served allows it; and once a worker has
//! said that a topology is quiet, nothing that an older one allowed: not even what it sent on a link that it has lost
//! since.

use crate::checkers::history::History;
use cluster::slot::Slot;
use cluster::topology::{SlotState, Topology};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One worker process: a replaced one has another number.
pub(crate) type WorkerUid = u32;

#[derive(Default)]
pub(crate) struct Owners {
    /// Which instances may be asked about a slot.
    allowed: BTreeMap<(WorkerUid, Slot), BTreeSet<String>>,
    /// Which may be asked to send a key of it away, or to drop what is elsewhere.
    sources: BTreeMap<(WorkerUid, Slot), BTreeSet<String>>,
    serving: BTreeMap<WorkerUid, Arc<Topology>>,
}

/// Who may be asked about a slot under one topology: nobody while it is held.
fn owner(topology: &Topology, slot: Slot) -> Option<String> {
    let entry = topology.slots().get(usize::from(slot))?;
    let group = match entry.state {
        SlotState::Moving { target } => topology.group(target)?,
        _ => topology.group(entry.group?)?,
    };
    (entry.state != SlotState::Held).then(|| group.primary().map(|instance| instance.addr.to_string()))?
}

/// Where its keys come from while it moves on access.
fn source(topology: &Topology, slot: Slot) -> Option<String> {
    let entry = topology.slots().get(usize::from(slot))?;
    let moving = matches!(entry.state, SlotState::Moving { .. });
    moving.then(|| topology.group(entry.group?)?.primary().map(|instance| instance.addr.to_string()))?
}

impl Owners {
    /// The worker serves this topology from now on; what it has sent before is still on its way.
    pub(crate) fn serves(&mut self, worker: WorkerUid, topology: &Arc<Topology>) {
        for slot in 0..topology.slot_count() {
            self.allowed.entry((worker, slot)).or_default().extend(owner(topology, slot));
            self.sources.entry((worker, slot)).or_default().extend(source(topology, slot));
        }
        self.serving.insert(worker, topology.clone());
    }

    /// The worker says that all its requests on the way were sent under this epoch.
    pub(crate) fn quiet(&mut self, worker: WorkerUid, epoch: u64, history: &mut History) {
        let Some(topology) = self.serving.get(&worker) else { return };
        if topology.epoch() < epoch {
            return history.fail(format!("owner: worker {worker} is quiet for epoch {epoch}, which it does not serve"));
        }
        if topology.epoch() == epoch {
            for slot in 0..topology.slot_count() {
                self.allowed.insert((worker, slot), owner(topology, slot).into_iter().collect());
                self.sources.insert((worker, slot), source(topology, slot).into_iter().collect());
            }
        }
    }

    /// Whether a worker brings keys of the slot from this instance, and sends it nothing else for it.
    pub(crate) fn brings(&self, worker: WorkerUid, addr: &str, slot: Slot) -> bool {
        let is_in = |of: &BTreeMap<_, BTreeSet<String>>| of.get(&(worker, slot)).is_some_and(|set| set.contains(addr));
        is_in(&self.sources) && !is_in(&self.allowed)
    }

    /// A key is to be sent away by an instance, for this worker.
    pub(crate) fn sends(&self, worker: WorkerUid, addr: &str, slot: Slot, history: &mut History) {
        if !self.sources.get(&(worker, slot)).is_some_and(|set| set.contains(addr)) {
            history.fail(format!(
                "owner: {addr} is to send away keys of slot {slot}, for worker {worker}: it does not move"
            ));
        }
    }

    /// A request of this worker for these slots is being executed by an instance.
    pub(crate) fn executes(&self, worker: WorkerUid, addr: &str, slots: &[Slot], what: &str, history: &mut History) {
        for &slot in slots {
            let allowed = self.allowed.get(&(worker, slot));
            if allowed.is_none_or(|allowed| !allowed.contains(addr)) {
                let epoch = self.serving.get(&worker).map_or(0, |topology| topology.epoch());
                return history.fail(format!(
                    "owner: {addr} executes {what} of worker {worker} for slot {slot}; at epoch {epoch} only {allowed:?} may"
                ));
            }
        }
    }

    /// A request to whole groups is being executed: no slot of the instance may be held and quiet.
    pub(crate) fn executes_all(&self, worker: WorkerUid, addr: &str, what: &str, history: &mut History) {
        let Some(topology) = self.serving.get(&worker) else { return };
        for (slot, entry) in (0..).zip(topology.slots()) {
            let primary = entry.group.and_then(|id| topology.group(id)).and_then(|group| group.primary());
            let here = primary.is_some_and(|instance| instance.addr.to_string() == addr);
            let quiet = self.allowed.get(&(worker, slot)).is_none_or(BTreeSet::is_empty);
            if here && entry.state == SlotState::Held && quiet {
                let epoch = topology.epoch();
                return history.fail(format!(
                    "owner: {addr} executes {what} of worker {worker} while slot {slot} is held, epoch {epoch}"
                ));
            }
        }
    }
}
