//! The cluster's plan in a run: which group owns which slots at which address, as the message that proxies are sent.

use cluster::group::GroupId;
use cluster::slot::{Slot, TagRule, slot_of};
use cluster::topology::Topology;
use cluster::wire;
use std::fmt::Write;
use std::sync::Arc;

pub(crate) const SLOTS: u16 = 16;

pub(crate) fn slot(key: &[u8]) -> Slot {
    slot_of(key, TagRule::Redis, SLOTS)
}

pub(crate) fn addr(instance: usize) -> String {
    format!("10.0.0.{}:6379", instance + 1)
}

/// The truth of the moment; the next message is printed from it.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) epoch: u64,
    /// Each group's primary.
    pub(crate) primaries: Vec<usize>,
    pub(crate) owners: Vec<GroupId>,
    pub(crate) held: Vec<Slot>,
    /// Slots that move on access, and to where.
    pub(crate) moving: Option<(Vec<Slot>, GroupId)>,
}

impl Plan {
    pub(crate) fn new(groups: usize) -> Self {
        Self {
            epoch: 1,
            primaries: (0..groups).map(|group| group * 2).collect(),
            owners: (0..SLOTS).map(|slot| GroupId::from(slot) % groups as GroupId).collect(),
            held: Vec::new(),
            moving: None,
        }
    }

    /// The instance that must be asked about a slot.
    pub(crate) fn instance_of(&self, slot: Slot) -> usize {
        let group = self.target_of(slot).unwrap_or(self.owners[usize::from(slot)]);
        self.primaries[group as usize]
    }

    /// Where a slot moves to, on access.
    pub(crate) fn target_of(&self, slot: Slot) -> Option<GroupId> {
        self.moving.as_ref().filter(|(slots, _)| slots.contains(&slot)).map(|(_, target)| *target)
    }

    /// Those that are all its own.
    pub(crate) fn slots_of(&self, group: GroupId) -> Vec<Slot> {
        let own = |slot: &Slot| self.owners[usize::from(*slot)] == group && self.target_of(*slot).is_none();
        (0..SLOTS).filter(own).collect()
    }

    /// As a proxy gets it: by the way of the wire, so that what is tested is what is used.
    pub(crate) fn topology(&self) -> Result<Arc<Topology>, String> {
        let mut text = format!(r#"{{"epoch":{},"slot_count":{SLOTS},"groups":["#, self.epoch);
        for (group, &primary) in self.primaries.iter().enumerate() {
            let replica = if primary % 2 == 0 { primary + 1 } else { primary - 1 };
            let _ = write!(
                text,
                r#"{}{{"id":{group},"instances":[{{"addr":"{}","role":"primary"}},{{"addr":"{}","role":"replica"}}]}}"#,
                if group > 0 { "," } else { "" },
                addr(primary),
                addr(replica),
            );
        }
        text.push_str(r#"],"slots":["#);
        for slot in 0..SLOTS {
            let comma = if slot > 0 { "," } else { "" };
            let _ = write!(text, r#"{comma}{{"from":{slot},"to":{slot},"group":{}"#, self.owners[usize::from(slot)]);
            match &self.moving {
                _ if self.held.contains(&slot) => text.push_str(r#","state":"held"}"#),
                Some((slots, target)) if slots.contains(&slot) => {
                    let _ = write!(text, r#","state":"moving","target":{target}}}"#);
                }
                _ => text.push('}'),
            }
        }
        text.push_str("]}");
        wire::parse(text.as_bytes()).map(Arc::new).map_err(|faults| faults.join("; "))
    }
}
