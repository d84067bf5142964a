//! Changes of a topology: what somebody wants, and the topology of the next epoch, or why not.
//!
//! A change is judged as a whole: what comes out has passed `wire::Message::check`.

use crate::group::{Group, GroupId};
use crate::instance::{Addr, Instance, Role};
use crate::slot::Slot;
use crate::topology::{SlotOwner, SlotState, Topology};
use crate::wire::{GROUPS_MAX, Message, State, ranges_of};
use std::collections::BTreeSet;

/// Bytes of a name, of a cluster or a group: it stands in tables and metrics.
pub const NAME_MAX: usize = 64;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A group that owns no slot yet; with an empty name it is called `g<id>`.
    AddGroup(Group),
    /// Only one that owns no slot, and to which none moves.
    RemoveGroup(GroupId),
    RenameGroup {
        id: GroupId,
        name: String,
    },
    AddInstance {
        group: GroupId,
        instance: Instance,
    },
    /// Only a replica.
    RemoveInstance {
        group: GroupId,
        addr: Addr,
    },
    /// A slot that another group owns is refused unless `force`.
    Assign {
        ranges: Vec<Assignment>,
        force: bool,
    },
    /// The slots that nobody owns go to these groups (none named: to all), so that they own equally many as far as
    /// possible.
    Spread {
        groups: Vec<GroupId>,
    },
    /// Everything but the slot count and the tag rule, which are fixed; the message's epoch does not matter.
    Replace(Message),
    /// The group's slots are held: its primary is about to change. Slots that move are the business of whoever moves them.
    Hold {
        group: GroupId,
    },
    /// The group's slots are served; with `primary`, by that instance from now on.
    Release {
        group: GroupId,
        primary: Option<Addr>,
    },
    /// These slots of a group are held: their owner is about to change.
    HoldSlots {
        group: GroupId,
        slots: Vec<Slot>,
    },
    /// These slots, which were held, are served by that group from now on: by their owner as before, or by another.
    ReleaseSlots {
        slots: Vec<Slot>,
        group: GroupId,
    },
    /// These slots, which were held, move key by key as they are used: clients' commands go to `target` from now on.
    MoveSlots {
        slots: Vec<Slot>,
        target: GroupId,
    },
    /// These slots, which were moving to that group, are its own from now on.
    LandSlots {
        slots: Vec<Slot>,
        group: GroupId,
    },
}

/// Slots `from..=to` for one owner, or for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub from: Slot,
    pub to: Slot,
    pub group: Option<GroupId>,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Could never be right.
    Invalid,
    /// Names something that is not there.
    Absent,
    /// Against what is there now.
    Conflict,
}

/// Why a change is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub blame: Blame,
    /// A word for programs.
    pub code: &'static str,
    /// What is wrong, and where. One line.
    pub message: String,
    /// What to do about it. One line.
    pub hint: String,
}

fn refused(blame: Blame, code: &'static str, message: String, hint: impl Into<String>) -> Refused {
    Refused { blame, code, message, hint: hint.into() }
}

/// The topology after `change`, at the next epoch. One that changes nothing keeps its epoch.
pub fn apply(topology: &Topology, change: &Change) -> Result<Topology, Refused> {
    let mut next = Message::from(topology);
    match change {
        Change::AddGroup(group) => add_group(topology, &mut next, group)?,
        Change::RemoveGroup(id) => remove_group(topology, &mut next, *id)?,
        Change::RenameGroup { id, name } => rename_group(topology, &mut next, *id, name)?,
        Change::AddInstance { group, instance } => add_instance(topology, &mut next, *group, instance)?,
        Change::RemoveInstance { group, addr } => remove_instance(topology, &mut next, *group, addr)?,
        Change::Assign { ranges, force } => next.slots = ranges_of(&assign(topology, ranges, *force)?),
        Change::Spread { groups } => next.slots = ranges_of(&spread(topology, groups)?),
        Change::Replace(message) => replace(topology, &mut next, message)?,
        Change::Hold { group } => next.slots = ranges_of(&hold(topology, *group, SlotState::Held)?),
        Change::Release { group, primary } => {
            next.slots = ranges_of(&hold(topology, *group, SlotState::Normal)?);
            if let Some(primary) = primary {
                enthrone(topology, &mut next, *group, primary)?;
            }
        }
        Change::HoldSlots { group, slots } => next.slots = ranges_of(&hold_slots(topology, *group, slots)?),
        Change::ReleaseSlots { slots, group } => next.slots = ranges_of(&release_slots(topology, slots, *group)?),
        Change::MoveSlots { slots, target } => next.slots = ranges_of(&move_slots(topology, slots, *target)?),
        Change::LandSlots { slots, group } => next.slots = ranges_of(&land_slots(topology, slots, *group)?),
    }
    next.epoch = topology.epoch;
    let mut next = checked(next)?;
    if next != *topology {
        next.epoch = topology.epoch + 1;
    }
    Ok(next)
}

/// The message as a topology, all its faults in one line.
pub fn checked(message: Message) -> Result<Topology, Refused> {
    let hint = "correct what is named and try again";
    message.check().map_err(|faults| refused(Blame::Invalid, "invalid_topology", faults.join("; "), hint))
}

/// Whether `name` may stand in tables, metrics and shells.
pub fn check_name(what: &str, name: &str) -> Result<(), Refused> {
    let good = |c: char| c.is_alphanumeric() || "-_.:/".contains(c);
    if !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(good) {
        return Ok(());
    }
    let message = format!("{what} {name:?} is not a name");
    let hint = format!("1 to {NAME_MAX} bytes of letters, digits, - _ . : /");
    Err(refused(Blame::Invalid, "bad_name", message, hint))
}

/// The least number from 1 that no group has.
pub fn free_id(topology: &Topology) -> GroupId {
    let taken: BTreeSet<GroupId> = topology.groups.iter().map(|g| g.id).collect();
    (1..).find(|id| !taken.contains(id)).unwrap_or(GroupId::MAX)
}

/// The group, or the refusal that says which there are.
pub fn group_of(topology: &Topology, id: GroupId) -> Result<&Group, Refused> {
    topology.group(id).ok_or_else(|| {
        let ids: Vec<String> = topology.groups.iter().map(|g| g.id.to_string()).collect();
        let hint = if ids.is_empty() { "add a group first".to_owned() } else { format!("groups: {}", ids.join(", ")) };
        refused(Blame::Absent, "no_such_group", format!("there is no group {id}"), hint)
    })
}

/// The group that has an instance at `addr`.
pub fn home_of<'a>(topology: &'a Topology, addr: &Addr) -> Option<&'a Group> {
    topology.groups.iter().find(|g| g.instances.iter().any(|i| i.addr == *addr))
}

fn add_group(topology: &Topology, next: &mut Message, group: &Group) -> Result<(), Refused> {
    if group.id == 0 {
        let message = "group 0: the number 0 means that nobody owns a slot".to_owned();
        return Err(refused(Blame::Invalid, "bad_group_id", message, "number groups from 1"));
    }
    if topology.group(group.id).is_some() {
        let hint = format!("group {} is free", free_id(topology));
        return Err(refused(Blame::Conflict, "group_exists", format!("group {} exists already", group.id), hint));
    }
    if topology.groups.len() >= GROUPS_MAX {
        let message = format!("there are {GROUPS_MAX} groups, the most there may be");
        return Err(refused(Blame::Conflict, "too_many_groups", message, "remove a group, or grow the instances"));
    }
    for instance in &group.instances {
        not_taken(topology, &instance.addr)?;
    }
    if !group.name.is_empty() {
        free_name(topology, group.id, &group.name)?;
    }
    next.groups.push(group.clone());
    Ok(())
}

fn remove_group(topology: &Topology, next: &mut Message, id: GroupId) -> Result<(), Refused> {
    group_of(topology, id)?;
    let owned = topology.slots.iter().filter(|s| s.group == Some(id)).count();
    if owned > 0 {
        let message = format!("group {id} owns {owned} slots");
        return Err(refused(
            Blame::Conflict,
            "group_owns_slots",
            message,
            "its slots go to other groups first: twemslotctl groups drain",
        ));
    }
    if topology.slots.iter().any(|s| s.state == SlotState::Moving { target: id }) {
        let message = format!("slots are moving to group {id}");
        return Err(refused(Blame::Conflict, "group_awaits_slots", message, "let the migration end, or cancel it"));
    }
    next.groups.retain(|g| g.id != id);
    Ok(())
}

fn rename_group(topology: &Topology, next: &mut Message, id: GroupId, name: &str) -> Result<(), Refused> {
    group_of(topology, id)?;
    free_name(topology, id, name)?;
    next.groups.iter_mut().filter(|g| g.id == id).for_each(|g| g.name = name.to_owned());
    Ok(())
}

fn free_name(topology: &Topology, id: GroupId, name: &str) -> Result<(), Refused> {
    check_name("group name", name)?;
    match topology.groups.iter().find(|g| g.name == name && g.id != id) {
        None => Ok(()),
        Some(other) => {
            let message = format!("group {} is called {name:?} already", other.id);
            Err(refused(Blame::Conflict, "name_taken", message, "choose another name"))
        }
    }
}

fn not_taken(topology: &Topology, addr: &Addr) -> Result<(), Refused> {
    let Some(home) = home_of(topology, addr) else { return Ok(()) };
    let message = format!("instance {addr} is in group {} already", home.id);
    Err(refused(Blame::Conflict, "instance_taken", message, "remove it there first, or name another instance"))
}

fn add_instance(topology: &Topology, next: &mut Message, id: GroupId, instance: &Instance) -> Result<(), Refused> {
    group_of(topology, id)?;
    not_taken(topology, &instance.addr)?;
    next.groups.iter_mut().filter(|g| g.id == id).for_each(|g| g.instances.push(instance.clone()));
    Ok(())
}

/// The instance of that group, or the refusal.
pub fn instance_of<'a>(group: &'a Group, addr: &Addr) -> Result<&'a Instance, Refused> {
    group.instances.iter().find(|i| i.addr == *addr).ok_or_else(|| {
        let all: Vec<String> = group.instances.iter().map(|i| i.addr.to_string()).collect();
        let message = format!("group {} has no instance {addr}", group.id);
        refused(Blame::Absent, "no_such_instance", message, format!("its instances: {}", all.join(", ")))
    })
}

fn remove_instance(topology: &Topology, next: &mut Message, id: GroupId, addr: &Addr) -> Result<(), Refused> {
    if instance_of(group_of(topology, id)?, addr)?.role == Role::Primary {
        let message = format!("instance {addr} is the primary of group {id}");
        let hint = "make a replica the primary first, or remove the group";
        return Err(refused(Blame::Conflict, "is_primary", message, hint));
    }
    next.groups.iter_mut().filter(|g| g.id == id).for_each(|g| g.instances.retain(|i| i.addr != *addr));
    Ok(())
}

fn assign(topology: &Topology, ranges: &[Assignment], force: bool) -> Result<Vec<SlotOwner>, Refused> {
    let mut slots = topology.slots.clone();
    let mut named = vec![false; slots.len()];
    if ranges.is_empty() {
        let message = "no slots are named".to_owned();
        return Err(refused(Blame::Invalid, "no_slots", message, "name slots as 0-511"));
    }
    for range in ranges {
        let here = text_of(range.from, range.to);
        if range.from > range.to || usize::from(range.to) >= slots.len() {
            let hint = format!("slots go from 0 to {}", slots.len() - 1);
            return Err(refused(Blame::Invalid, "no_such_slot", format!("{here}: not in this cluster"), hint));
        }
        if let Some(id) = range.group {
            group_of(topology, id)?;
        }
        for slot in range.from..=range.to {
            let at = usize::from(slot);
            if std::mem::replace(&mut named[at], true) {
                let message = format!("slot {slot} is named twice");
                return Err(refused(Blame::Invalid, "slot_named_twice", message, "name each slot once"));
            }
            slots[at] = given(slot, &slots[at], range.group, force)?;
        }
    }
    Ok(slots)
}

fn given(slot: Slot, owner: &SlotOwner, group: Option<GroupId>, force: bool) -> Result<SlotOwner, Refused> {
    if owner.group == group {
        return Ok(*owner);
    }
    if owner.state != SlotState::Normal {
        let message = format!("slot {slot} is about to change its owner");
        return Err(refused(
            Blame::Conflict,
            "slot_moving",
            message,
            "let the migration or failover end, or cancel it",
        ));
    }
    match owner.group {
        Some(other) if !force => {
            let message = format!("slot {slot} is owned by group {other}");
            let hint = "migrate it with its keys; or force, which leaves its keys behind";
            Err(refused(Blame::Conflict, "slot_taken", message, hint))
        }
        _ => Ok(SlotOwner { group, state: SlotState::Normal }),
    }
}

fn spread(topology: &Topology, groups: &[GroupId]) -> Result<Vec<SlotOwner>, Refused> {
    let mut ids: BTreeSet<GroupId> = BTreeSet::new();
    for id in groups {
        ids.insert(group_of(topology, *id)?.id);
    }
    if groups.is_empty() {
        ids.extend(topology.groups.iter().map(|g| g.id));
    }
    if ids.is_empty() {
        let message = "there is no group to give slots to".to_owned();
        return Err(refused(Blame::Conflict, "no_groups", message, "add a group first"));
    }
    let owned = |id: GroupId| topology.slots.iter().filter(|s| s.group == Some(id)).count();
    // Who owns least gets the next one; only the numbers are settled here, so that the slots come in long ranges.
    let mut counts: BTreeSet<(usize, GroupId)> = ids.iter().map(|id| (owned(*id), *id)).collect();
    let mut shares: Vec<(GroupId, usize)> = ids.iter().map(|id| (*id, 0)).collect();
    for _ in topology.slots.iter().filter(|s| s.group.is_none()) {
        let Some((count, id)) = counts.pop_first() else { break };
        counts.insert((count + 1, id));
        shares.iter_mut().filter(|(of, _)| *of == id).for_each(|(_, share)| *share += 1);
    }
    let mut owners = shares.into_iter().flat_map(|(id, share)| std::iter::repeat_n(id, share));
    let mut slots = topology.slots.clone();
    for slot in slots.iter_mut().filter(|s| s.group.is_none()) {
        *slot = SlotOwner { group: owners.next(), state: SlotState::Normal };
    }
    Ok(slots)
}

fn replace(topology: &Topology, next: &mut Message, with: &Message) -> Result<(), Refused> {
    if (with.slot_count, with.tag_rule) != (next.slot_count, next.tag_rule) {
        let message = format!(
            "{} slots with tag rule {:?} cannot replace {} slots with tag rule {:?}",
            with.slot_count, with.tag_rule, next.slot_count, next.tag_rule
        );
        let hint = "both are fixed when a cluster is created: begin in an empty store";
        return Err(refused(Blame::Conflict, "hash_fixed", message, hint));
    }
    if topology.slots.iter().any(|s| s.state != SlotState::Normal) {
        let message = "slots are about to change their owner".to_owned();
        return Err(refused(Blame::Conflict, "slot_moving", message, "let migrations and failovers end first"));
    }
    let name = if with.name.is_empty() { std::mem::take(&mut next.name) } else { with.name.clone() };
    let users = if with.users.is_empty() { std::mem::take(&mut next.users) } else { with.users.clone() };
    let mut groups = with.groups.clone();
    for group in &mut groups {
        // Not for whoever brings it in to say: migrations under way know it.
        group.copies = next.groups.iter().any(|now| now.id == group.id && now.copies);
    }
    *next = Message { name, users, groups, ..with.clone() };
    may_be_taken(next)
}

fn hold(topology: &Topology, id: GroupId, state: SlotState) -> Result<Vec<SlotOwner>, Refused> {
    group_of(topology, id)?;
    let mut slots = topology.slots.clone();
    let at_rest = |s: &&mut SlotOwner| s.group == Some(id) && matches!(s.state, SlotState::Normal | SlotState::Held);
    slots.iter_mut().filter(at_rest).for_each(|s| s.state = state);
    Ok(slots)
}

fn hold_slots(topology: &Topology, id: GroupId, held: &[Slot]) -> Result<Vec<SlotOwner>, Refused> {
    each(topology, held, |slot, owner| {
        if *owner != (SlotOwner { group: Some(id), state: SlotState::Normal }) {
            let message = format!("slot {slot} is not group {id}'s to give, or is about to change its owner");
            let hint = "let the migration or failover end, or cancel it";
            return Err(refused(Blame::Conflict, "slot_not_at_rest", message, hint));
        }
        owner.state = SlotState::Held;
        Ok(())
    })
}

fn release_slots(topology: &Topology, held: &[Slot], id: GroupId) -> Result<Vec<SlotOwner>, Refused> {
    group_of(topology, id)?;
    each(topology, held, |slot, owner| {
        if owner.state != SlotState::Held {
            let message = format!("slot {slot} is not held");
            return Err(refused(Blame::Conflict, "slot_not_held", message, "it changes hands only while it is held"));
        }
        *owner = SlotOwner { group: Some(id), state: SlotState::Normal };
        Ok(())
    })
}

fn move_slots(topology: &Topology, held: &[Slot], target: GroupId) -> Result<Vec<SlotOwner>, Refused> {
    group_of(topology, target)?;
    each(topology, held, |slot, owner| {
        if owner.state != SlotState::Held {
            let message = format!("slot {slot} is not held");
            return Err(refused(Blame::Conflict, "slot_not_held", message, "it begins to move only while it is held"));
        }
        owner.state = SlotState::Moving { target };
        Ok(())
    })
}

fn land_slots(topology: &Topology, moving: &[Slot], id: GroupId) -> Result<Vec<SlotOwner>, Refused> {
    each(topology, moving, |slot, owner| {
        if owner.state != (SlotState::Moving { target: id }) {
            let message = format!("slot {slot} does not move to group {id}");
            return Err(refused(Blame::Conflict, "slot_not_moving", message, "see: twemslotctl slots list"));
        }
        *owner = SlotOwner { group: Some(id), state: SlotState::Normal };
        Ok(())
    })
}

fn each(
    topology: &Topology,
    named: &[Slot],
    mut change: impl FnMut(Slot, &mut SlotOwner) -> Result<(), Refused>,
) -> Result<Vec<SlotOwner>, Refused> {
    let mut slots = topology.slots.clone();
    for slot in named {
        let Some(owner) = slots.get_mut(usize::from(*slot)) else {
            let hint = format!("slots go from 0 to {}", topology.slots.len() - 1);
            return Err(refused(Blame::Invalid, "no_such_slot", format!("slot {slot}: not in this cluster"), hint));
        };
        change(*slot, owner)?;
    }
    Ok(slots)
}

/// Another instance of the group becomes its primary; the old one a replica.
fn enthrone(topology: &Topology, next: &mut Message, id: GroupId, primary: &Addr) -> Result<(), Refused> {
    instance_of(group_of(topology, id)?, primary)?;
    for group in next.groups.iter_mut().filter(|g| g.id == id) {
        for instance in &mut group.instances {
            instance.role = if instance.addr == *primary { Role::Primary } else { Role::Replica };
        }
        // As it is stored and read again: the primary first, the others in their order.
        group.instances.sort_by_key(|i| i.role == Role::Replica);
    }
    Ok(())
}

/// Whether a whole topology from elsewhere can be taken over. None in which a slot is held or moving: who would end that?
pub fn may_be_taken(message: &Message) -> Result<(), Refused> {
    if message.groups.iter().any(|g| g.id == 0) {
        let message = "group 0: the number 0 means that nobody owns a slot".to_owned();
        return Err(refused(Blame::Invalid, "bad_group_id", message, "number groups from 1"));
    }
    let Some(busy) = message.slots.iter().find(|r| r.state != State::Normal) else { return Ok(()) };
    let message = format!("{}: {:?}", text_of(busy.from, busy.to), busy.state).to_lowercase();
    let hint = "only a cluster at rest can be taken over: end its migrations first";
    Err(refused(Blame::Invalid, "not_at_rest", message, hint))
}

fn text_of(from: Slot, to: Slot) -> String {
    if from == to { format!("slot {from}") } else { format!("slots {from}-{to}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{may_follow, parse};

    fn small() -> Topology {
        let json = r#"{"epoch":7,"name":"shop","slot_count":10,"groups":[
            {"id":1,"instances":[{"addr":"127.0.0.1:6401","role":"primary"},{"addr":"127.0.0.1:6402","role":"replica"}]},
            {"id":2,"instances":[{"addr":"127.0.0.1:6403","role":"primary"}]}],
            "slots":[{"from":0,"to":3,"group":1},{"from":9,"to":9,"group":1,"state":"moving","target":2}]}"#;
        parse(json.as_bytes()).expect("good")
    }

    fn instance(port: u16, role: Role) -> Instance {
        Instance { addr: format!("127.0.0.1:{port}").parse().expect("an address"), role, run_id: None, zone: None }
    }

    fn group(id: GroupId, port: u16) -> Group {
        Group { id, name: String::new(), instances: vec![instance(port, Role::Primary)], copies: false }
    }

    fn owners(topology: &Topology) -> String {
        topology.slots.iter().map(|s| s.group.map_or(".".to_owned(), |g| g.to_string())).collect()
    }

    fn assignment(from: Slot, to: Slot, group: Option<GroupId>) -> Change {
        Change::Assign { ranges: vec![Assignment { from, to, group }], force: false }
    }

    #[test]
    fn what_is_right_is_done_at_the_next_epoch() {
        let old = small();
        for (change, wanted) in [
            (Change::AddGroup(group(3, 6404)), "1111.....1"),
            (Change::RenameGroup { id: 2, name: "two".into() }, "1111.....1"),
            (Change::AddInstance { group: 2, instance: instance(6405, Role::Replica) }, "1111.....1"),
            (Change::RemoveInstance { group: 1, addr: instance(6402, Role::Replica).addr }, "1111.....1"),
            (assignment(4, 5, Some(2)), "111122...1"),
            (Change::Spread { groups: vec![] }, "1111222221"),
            (Change::Spread { groups: vec![2] }, "1111222221"),
        ] {
            let next = apply(&old, &change).unwrap_or_else(|r| panic!("{change:?}: {r:?}"));
            assert_eq!((next.epoch(), owners(&next).as_str()), (8, wanted), "{change:?}");
            assert_eq!(may_follow(Some(&old), &next), Ok(()));
            assert_ne!(next, old);
        }
    }

    #[test]
    fn a_group_is_held_and_released_under_another_primary() {
        let held = apply(&small(), &Change::Hold { group: 1 }).expect("good");
        assert_eq!((held.epoch(), held.slots[0].state, held.slots[3].state), (8, SlotState::Held, SlotState::Held));
        assert_eq!(held.slots[9].state, SlotState::Moving { target: 2 }, "a migration keeps its slot");
        let to = instance(6402, Role::Replica).addr;
        let next = apply(&held, &Change::Release { group: 1, primary: Some(to.clone()) }).expect("good");
        assert_eq!(next.group(1).and_then(|g| g.primary()).map(|i| &i.addr), Some(&to));
        assert_eq!(
            (next.epoch(), next.slots[0].state, next.group(1).map(|g| g.replicas().count())),
            (9, SlotState::Normal, Some(1))
        );
        let stranger = Change::Release { group: 1, primary: Some(instance(6403, Role::Primary).addr) };
        assert_eq!(apply(&held, &stranger).expect_err("of another group").code, "no_such_instance");
        assert_eq!(
            apply(&held, &Change::Release { group: 1, primary: None }).map(|t| owners(&t)),
            Ok(owners(&small()))
        );
    }

    #[test]
    fn slots_change_hands_only_while_they_are_held() {
        let old = small();
        let hand_over = Change::ReleaseSlots { slots: vec![1, 2], group: 2 };
        assert_eq!(apply(&old, &hand_over).expect_err("nobody waits").code, "slot_not_held");
        let hold = Change::HoldSlots { group: 1, slots: vec![1, 2] };
        let held = apply(&old, &hold).expect("good");
        assert_eq!((held.slots[0].state, held.slots[1].state), (SlotState::Normal, SlotState::Held));
        assert_eq!(apply(&held, &hold).expect_err("held already").code, "slot_not_at_rest");
        let strange = Change::HoldSlots { group: 2, slots: vec![0] };
        assert_eq!(apply(&old, &strange).expect_err("of another group").code, "slot_not_at_rest");
        let next = apply(&held, &hand_over).expect("good");
        assert_eq!((next.epoch(), owners(&next).as_str()), (9, "1221.....1"));
        assert!(!next.slots[..4].iter().any(|s| s.state == SlotState::Held));
        let back = apply(&held, &Change::ReleaseSlots { slots: vec![1, 2], group: 1 }).expect("good");
        assert_eq!((back.epoch(), &back.slots), (9, &old.slots));
    }

    #[test]
    fn slots_that_move_key_by_key_begin_held_and_land_at_their_target() {
        let old = small();
        let begin = Change::MoveSlots { slots: vec![1, 2], target: 2 };
        assert_eq!(apply(&old, &begin).expect_err("nobody waits").code, "slot_not_held");
        let held = apply(&old, &Change::HoldSlots { group: 1, slots: vec![1, 2] }).expect("good");
        let moving = apply(&held, &begin).expect("good");
        assert_eq!((moving.epoch(), owners(&moving).as_str()), (9, "1111.....1"));
        assert_eq!(moving.slots[1].state, SlotState::Moving { target: 2 });
        let land = |group| Change::LandSlots { slots: vec![1, 2], group };
        assert_eq!(apply(&held, &land(2)).expect_err("none moves").code, "slot_not_moving");
        assert_eq!(apply(&moving, &land(1)).expect_err("they go elsewhere").code, "slot_not_moving");
        let landed = apply(&moving, &land(2)).expect("good");
        assert_eq!((landed.epoch(), owners(&landed).as_str()), (10, "1221.....1"));
        assert_eq!(landed.slots[1].state, SlotState::Normal);
        let back = Change::MoveSlots { slots: vec![1], target: 1 };
        assert_eq!(apply(&held, &back).expect_err("to itself").code, "invalid_topology");
    }

    #[test]
    fn what_changes_nothing_keeps_its_epoch() {
        let old = small();
        for change in [
            Change::RenameGroup { id: 2, name: "g2".into() },
            assignment(0, 3, Some(1)),
            Change::Assign { ranges: vec![Assignment { from: 5, to: 6, group: None }], force: true },
        ] {
            assert_eq!(apply(&old, &change), Ok(old.clone()), "{change:?}");
        }
    }

    #[test]
    fn a_spread_evens_out_what_was_uneven() {
        let three = apply(&small(), &Change::AddGroup(group(3, 6404))).expect("good");
        assert_eq!(owners(&apply(&three, &Change::Spread { groups: vec![] }).expect("good")), "1111222331");
        let empty = parse(br#"{"epoch":1,"slot_count":7,"groups":[{"id":4,"instances":[{"addr":"127.0.0.1:1","role":"primary"}]},{"id":9,"instances":[{"addr":"127.0.0.1:2","role":"primary"}]}],"slots":[]}"#).expect("good");
        assert_eq!(owners(&apply(&empty, &Change::Spread { groups: vec![] }).expect("good")), "4444999");
    }

    #[test]
    fn what_is_wrong_is_refused_with_a_word_and_a_line() {
        let force = |from, to, group| Change::Assign { ranges: vec![Assignment { from, to, group }], force: true };
        let twice = vec![Assignment { from: 4, to: 5, group: Some(1) }, Assignment { from: 5, to: 5, group: Some(2) }];
        let mut headless = group(3, 6404);
        headless.instances[0].role = Role::Replica;
        let mut foreign = Message::from(&small());
        foreign.slot_count = 11;
        let addr = |port| instance(port, Role::Primary).addr;
        for (change, code) in [
            (Change::AddGroup(group(0, 6404)), "bad_group_id"),
            (Change::AddGroup(group(1, 6404)), "group_exists"),
            (Change::AddGroup(group(3, 6402)), "instance_taken"),
            (Change::AddGroup(headless), "invalid_topology"),
            (Change::RemoveGroup(1), "group_owns_slots"),
            (Change::RemoveGroup(2), "group_awaits_slots"),
            (Change::RemoveGroup(3), "no_such_group"),
            (Change::RenameGroup { id: 1, name: "g2".into() }, "name_taken"),
            (Change::RenameGroup { id: 1, name: "a b".into() }, "bad_name"),
            (Change::AddInstance { group: 2, instance: instance(6401, Role::Replica) }, "instance_taken"),
            (Change::AddInstance { group: 2, instance: instance(6409, Role::Primary) }, "invalid_topology"),
            (Change::RemoveInstance { group: 1, addr: addr(6401) }, "is_primary"),
            (Change::RemoveInstance { group: 1, addr: addr(6403) }, "no_such_instance"),
            (assignment(0, 0, Some(2)), "slot_taken"),
            (assignment(8, 10, Some(2)), "no_such_slot"),
            (assignment(5, 4, Some(2)), "no_such_slot"),
            (assignment(5, 5, Some(9)), "no_such_group"),
            (force(9, 9, Some(2)), "slot_moving"),
            (Change::Assign { ranges: twice, force: false }, "slot_named_twice"),
            (Change::Assign { ranges: vec![], force: false }, "no_slots"),
            (Change::Spread { groups: vec![7] }, "no_such_group"),
            (Change::Replace(foreign), "hash_fixed"),
            (Change::Replace(Message::from(&small())), "slot_moving"),
        ] {
            let refused = apply(&small(), &change).expect_err(code);
            assert_eq!(refused.code, code, "{change:?}: {refused:?}");
            assert!(!refused.message.contains('\n') && !refused.hint.is_empty(), "{refused:?}");
        }
    }

    #[test]
    fn a_replacement_takes_all_but_the_epoch() {
        let mut quiet = small();
        quiet.slots[9].state = SlotState::Normal;
        let with = Message { epoch: 1, slots: vec![], ..Message::from(&quiet) };
        let next = apply(&quiet, &Change::Replace(with)).expect("good");
        assert_eq!((next.epoch(), owners(&next).as_str(), next.name()), (8, "..........", "shop"));
    }
}
