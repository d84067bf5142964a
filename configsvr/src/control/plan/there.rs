//! The cluster that a wish meets, the transaction that leads from one topology to the next, and what is in its way.

use crate::control::command::{Kind, Refusal};
use crate::control::layout::{self, Epoch, Settings, SlotAction, SlotEntry};
use crate::control::limits::{AUDIT_LIST_MAX, GROUPS_AT_ONCE, OWNERS_COMPARED, SLOTS_AT_ONCE};
use crate::control::out::refusal;
use crate::control::state::{Standing, State};
use crate::control::stored::{for_proxies, ranges, record_of, sum_of};
use crate::store::{Compare, Op};
use cluster::change::{Blame, Change, Refused, apply};
use cluster::group::{Group, GroupId};
use cluster::instance::Addr;
use cluster::slot::Slot;
use cluster::topology::Topology;
use cluster::user::COVERED;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// All that a change writes, except what every change writes: the fence, the epoch's comparison, the audit.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::control) struct Plan {
    pub(in crate::control) compares: Vec<Compare>,
    pub(in crate::control) ops: Vec<Op>,
    /// Who is to be told to follow whom before anything is written.
    pub(in crate::control) follows: Vec<(Addr, Addr)>,
    /// The epoch's record afterwards.
    pub(in crate::control) epoch: Epoch,
    pub(in crate::control) before: Value,
    pub(in crate::control) after: Value,
    pub(in crate::control) result: Value,
    pub(in crate::control) notes: Vec<String>,
}

/// The cluster that is there.
pub(in crate::control) struct There<'a> {
    pub(in crate::control) state: &'a State,
    pub(in crate::control) known: &'a Topology,
    pub(super) settings: &'a Settings,
    pub(super) epoch: &'a Epoch,
}

impl<'a> There<'a> {
    pub(super) fn of(state: &'a State) -> Result<Self, Refusal> {
        is_sound(state)?;
        match (&state.in_force, &state.settings, &state.epoch, &state.standing) {
            (Some(now), Some(settings), Some(epoch), Standing::Valid) => {
                Ok(Self { state, known: &now.known, settings: &settings.value, epoch: &epoch.value })
            }
            _ => {
                let message = "there is no cluster yet";
                Err(refusal(Kind::Conflict, "no_cluster", message, "create one: twemslotctl cluster create"))
            }
        }
    }

    /// A plan that leaves the topology as it is.
    pub(in crate::control) fn same(&self) -> Plan {
        Plan {
            compares: Vec::new(),
            ops: Vec::new(),
            follows: Vec::new(),
            epoch: self.epoch.clone(),
            before: Value::Null,
            after: Value::Null,
            result: Value::Null,
            notes: Vec::new(),
        }
    }

    pub(super) fn change(&self, change: &Change) -> Result<Plan, Refusal> {
        let next = apply(self.known, change).map_err(refused)?;
        let mut plan = between(self.state, Some(self.known), &next)?;
        if next == *self.known {
            plan.epoch = self.epoch.clone();
            plan.notes.push("nothing to change: it is so already".to_owned());
        }
        Ok(plan)
    }
}

pub(in crate::control) fn is_sound(state: &State) -> Result<(), Refusal> {
    let Standing::Invalid(faults) = &state.standing else { return Ok(()) };
    let first = faults.first().map_or("", String::as_str);
    let message = format!("the store's contents make no sense, so nothing is changed: {first}");
    let hint = "correct or restore what was edited by hand; `twemslotctl status` lists every fault";
    Err(refusal(Kind::Conflict, "store_invalid", message, hint))
}

pub(in crate::control) fn refused(why: Refused) -> Refusal {
    let kind = match why.blame {
        Blame::Invalid => Kind::Invalid,
        Blame::Absent => Kind::Absent,
        Blame::Conflict => Kind::Conflict,
    };
    refusal(kind, why.code, why.message, why.hint)
}

pub(in crate::control) fn put(key: String, value: &impl Serialize) -> Op {
    Op::Put { key, value: serde_json::to_string(value).unwrap_or_default(), lease: None }
}

/// While a group's primary is being replaced its instances stay as they are.
pub(in crate::control) fn not_failing_over(state: &State, group: GroupId) -> Result<(), Refusal> {
    match state.failover_of(group) {
        Some(failover) if failover.phase.holds() => {
            let message = format!("the primary of group {group} is being replaced (failover {})", failover.id);
            Err(refusal(Kind::Conflict, "failover_under_way", message, "try again in a second"))
        }
        _ => Ok(()),
    }
}

/// While slots of a group move, or are being cleaned up after, they are nobody else's to give, and the group stays.
fn not_migrating(
    state: &State,
    gone: &[&Group],
    slots: &[(Slot, Option<GroupId>, Option<GroupId>)],
) -> Result<(), Refusal> {
    for task in state.all_tasks().filter(|t| !t.phase.is_over()) {
        let of_group = gone.iter().any(|g| g.id == task.from || g.id == task.to);
        let of_slots = task.slots.iter().any(|span| slots.iter().any(|(s, ..)| (span.from..=span.to).contains(s)));
        if of_group || of_slots {
            let message = format!("migration {} from group {} to group {} is not over", task.id, task.from, task.to);
            let hint = match task.phase.is_before_commit() {
                true => format!("let it end, or cancel it: twemslotctl migrations cancel {}", task.id),
                false => "let it end".to_owned(),
            };
            return Err(refusal(Kind::Conflict, "migration_under_way", message, hint));
        }
    }
    Ok(())
}

/// What leads from one topology to the next.
pub(in crate::control) fn between(state: &State, old: Option<&Topology>, next: &Topology) -> Result<Plan, Refusal> {
    let (mut ops, mut compares) = (Vec::new(), Vec::new());
    let old_groups = old.map_or(&[][..], Topology::groups);
    let gone: Vec<&Group> = old_groups.iter().filter(|g| next.group(g.id).is_none()).collect();
    let other = |g: &&Group| old.and_then(|old| old.group(g.id)) != Some(*g);
    let come: Vec<&Group> = next.groups().iter().filter(other).collect();
    for group in gone.iter().chain(&come) {
        not_failing_over(state, group.id)?;
    }
    for group in &gone {
        ops.push(Op::Delete { key: layout::group_key(group.id) });
        compares.push(state.as_it_is(&layout::group_key(group.id)));
        if state.guards.contains_key(&group.id) {
            ops.push(Op::Delete { key: layout::guard_key(group.id) });
        }
    }
    for group in &come {
        let Some(record) = record_of(group) else { continue };
        ops.push(put(layout::group_key(group.id), &record));
        compares.push(state.as_it_is(&layout::group_key(group.id)));
    }
    if ops.len() > GROUPS_AT_ONCE {
        let message = format!("{} groups would change at once, at most {GROUPS_AT_ONCE} can", ops.len());
        let hint = "take over a part of the groups first, then add the others";
        return Err(refusal(Kind::Invalid, "too_large", message, hint));
    }
    let slots = moved(old, next);
    not_migrating(state, &gone, &slots)?;
    compares.extend(relied_on(state, &slots, &come));
    let mut unfolded = Vec::new();
    if ops.len() + slots.len() <= SLOTS_AT_ONCE {
        ops.extend(slots.iter().map(|(slot, _, group)| put_slot(*slot, *group)));
    } else {
        unfolded = ranges(slots.iter().map(|(slot, _, new)| (*slot, *new)));
    }
    let epoch = Epoch { epoch: next.epoch(), unfolded, sum: Some(sum_of(&for_proxies(next))) };
    let was: Vec<&Group> =
        old_groups.iter().filter(|g| gone.contains(g) || come.iter().any(|c| c.id == g.id)).collect();
    let before = picture(&was, slots.iter().map(|(slot, old, _)| (*slot, *old)));
    let after = picture(&come, slots.iter().map(|(slot, _, new)| (*slot, *new)));
    Ok(Plan { compares, ops, follows: Vec::new(), epoch, before, result: after.clone(), after, notes: Vec::new() })
}

/// What else must be as it was when this was judged, or an edit by hand that comes in between leaves what makes no sense:
/// no group or slot was written (a slot given to a group that goes, an instance to two groups), and the groups that get
/// slots are there.
fn relied_on(
    state: &State,
    slots: &[(Slot, Option<GroupId>, Option<GroupId>)],
    come: &[&Group],
) -> impl Iterator<Item = Compare> {
    let unwritten = |prefix: &str| Compare::UnwrittenSince { prefix: prefix.to_owned(), revision: state.revision };
    let owners: BTreeSet<GroupId> = slots.iter().filter_map(|(_, _, new)| *new).collect();
    let there = owners.into_iter().filter(|id| come.iter().all(|g| g.id != *id)).take(OWNERS_COMPARED);
    let there: Vec<Compare> = there.map(|id| state.as_it_is(&layout::group_key(id))).collect();
    [unwritten(layout::SLOTS), unwritten(layout::GROUPS)].into_iter().chain(there)
}

/// Slots whose owner changes: the old one, the new one.
fn moved(old: Option<&Topology>, next: &Topology) -> Vec<(Slot, Option<GroupId>, Option<GroupId>)> {
    let owner = |slot: Slot| old.and_then(|old| old.slots().get(usize::from(slot))).and_then(|s| s.group);
    let all = (0..).zip(next.slots()).map(|(slot, new)| (slot, owner(slot), new.group));
    all.filter(|(_, old, new)| old != new).collect()
}

pub(in crate::control) fn put_slot(slot: Slot, group: Option<GroupId>) -> Op {
    let slot_id = u32::from(slot) + 1;
    let entry = SlotEntry { slot_id, group_id: group.unwrap_or(0), action: SlotAction::default() };
    put(layout::slot_key(slot), &entry)
}

/// Groups and slots for people, as far as there are any.
fn picture(groups: &[&Group], slots: impl Iterator<Item = (Slot, Option<GroupId>)>) -> Value {
    let slots = ranges(slots);
    let mut picture = serde_json::Map::new();
    if !groups.is_empty() {
        let records: Vec<_> = groups.iter().filter_map(|g| record_of(g)).collect();
        picture.insert("groups".to_owned(), json!(records));
    }
    if !slots.is_empty() {
        picture.insert("slots".to_owned(), json!(slots));
    }
    Value::Object(picture)
}

/// Long lists counted instead of listed, and what passwords hash to covered.
pub(in crate::control) fn shortened(value: Value) -> Value {
    covered_beyond(value, AUDIT_LIST_MAX)
}

/// What passwords hash to covered.
pub(in crate::control) fn covered(value: Value) -> Value {
    covered_beyond(value, usize::MAX)
}

fn covered_beyond(value: Value, list_max: usize) -> Value {
    let covered = |value| covered_beyond(value, list_max);
    match value {
        Value::Array(list) if list.len() > list_max => json!({ "left_out": list.len() }),
        Value::Array(list) => list.into_iter().map(covered).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| if key == "password_sha256" { (key, json!(COVERED)) } else { (key, covered(value)) })
            .collect(),
        other => other,
    }
}
