//! Topologies and the records that they are stored as: one made from the other.

use super::layout::{self, Group, Guard, SlotEntry, SlotRange};
use cluster::group::GroupId;
use cluster::instance::{Instance, Role};
use cluster::slot::{Slot, crc32};
use cluster::topology::Topology;
use cluster::wire;

/// A slot's owner, and where it moves to while it does.
pub(super) fn owner_of(entry: &SlotEntry) -> Option<(GroupId, Option<GroupId>)> {
    const MIGRATING: u8 = 3;
    let target = entry.action.target_group_id.filter(|_| entry.action.state == Some(MIGRATING));
    (entry.group_id != 0).then_some((entry.group_id, target))
}

/// A stored group as the topology has it. Which process its primary is says the guard; where there is none yet, whoever
/// brought it in. `copies`: whether migrations make some there, or have left some.
pub(super) fn group_of(group: &Group, guard: Option<&Guard>, copies: bool) -> cluster::group::Group {
    let guarded = guard.and_then(|g| g.primary.as_ref());
    let instance = |addr: &cluster::instance::Addr, role| {
        let more = group.instances.iter().find(|i| i.addr == *addr);
        let run_id = match guarded.filter(|_| role == Role::Primary) {
            Some(primary) => (primary.addr == *addr).then(|| primary.run_id.clone()),
            None => more.and_then(|i| i.run_id.clone()),
        };
        Instance { addr: addr.clone(), role, run_id, zone: more.and_then(|i| i.zone.clone()) }
    };
    let primary = std::iter::once(instance(&group.primary, Role::Primary));
    let replicas = group.replicas.iter().map(|addr| instance(addr, Role::Replica));
    cluster::group::Group {
        id: group.group_id,
        name: group.group_name.clone(),
        instances: primary.chain(replicas).collect(),
        copies,
    }
}

/// A group of the topology as it is stored.
pub(super) fn record_of(group: &cluster::group::Group) -> Option<Group> {
    let more = |i: &Instance| {
        (i.run_id.is_some() || i.zone.is_some()).then(|| layout::Instance {
            addr: i.addr.clone(),
            run_id: i.run_id.clone(),
            zone: i.zone.clone(),
        })
    };
    Some(Group {
        group_id: group.id,
        group_name: group.name.clone(),
        primary: group.primary()?.addr.clone(),
        replicas: group.replicas().map(|i| i.addr.clone()).collect(),
        instances: group.instances.iter().filter_map(more).collect(),
    })
}

/// What proxies are to know of a topology: of processes only which are the primaries.
pub fn for_proxies(known: &Topology) -> Topology {
    let mut message = wire::Message::from(known);
    let replicas = message.groups.iter_mut().flat_map(|g| &mut g.instances).filter(|i| i.role == Role::Replica);
    replicas.for_each(|i| i.run_id = None);
    message.check().unwrap_or_else(|_| known.clone()) // nothing was taken that is checked
}

/// Tells topologies apart, whatever their epochs and processes: those come from the guards, which nobody edits.
pub fn sum_of(topology: &Topology) -> u32 {
    let mut message = wire::Message { epoch: 0, ..wire::Message::from(topology) };
    message.groups.iter_mut().flat_map(|g| &mut g.instances).for_each(|i| i.run_id = None);
    crc32(&serde_json::to_vec(&message).unwrap_or_default())
}

/// All slots, in the fewest ranges.
pub(super) fn slot_list(topology: &Topology) -> Vec<SlotRange> {
    ranges((0..).zip(topology.slots()).map(|(slot, owner)| (slot, owner.group)))
}

/// Slots and their owners, in the fewest ranges. Ascending.
pub fn ranges(slots: impl IntoIterator<Item = (Slot, Option<GroupId>)>) -> Vec<SlotRange> {
    let mut list: Vec<SlotRange> = Vec::new();
    for (slot, group) in slots {
        match list.last_mut() {
            Some(last) if u32::from(last.to) + 1 == u32::from(slot) && last.group == group => last.to = slot,
            _ => list.push(SlotRange { from: slot, to: slot, group }),
        }
    }
    list
}
