//! The message that carries a topology: what configSvr hands to proxies, and what a proxy keeps on its disk.
//!
//! ```json
//! {"epoch":7,"name":"shop","slot_count":1024,"tag_rule":"redis",
//!  "groups":[{"id":1,"name":"g1","instances":[{"addr":"127.0.0.1:6401","role":"primary","run_id":"8f1c.."},
//!                                             {"addr":"127.0.0.1:6402","role":"replica"}]}],
//!  "slots":[{"from":0,"to":511,"group":1},{"from":512,"to":1023,"group":1,"state":"held"}]}
//! ```
//! Slots are numbered from 0; `to` is included. A slot that no range names has no owner. `run_id` may be left out: then any
//! process at that address is the instance. `users` may be left out, too: see `user`; and so may a group's `copies`.

use crate::group::{Group, GroupId};
use crate::instance::{Addr, Role};
use crate::slot::{SLOT_COUNT_DEFAULT, SLOT_COUNT_MAX, Slot, TagRule};
use crate::topology::{SlotOwner, SlotState, Topology};
use crate::user::{self, User};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most groups in one topology: a proxy worker holds a link to each, and 16,384 slots / 16 is fine enough.
pub const GROUPS_MAX: usize = 1024;
/// The most instances in one group.
pub const INSTANCES_MAX: usize = 16;

/// A topology as it travels: not yet checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub epoch: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default = "slot_count_default")]
    pub slot_count: u16,
    #[serde(default)]
    pub tag_rule: TagRule,
    pub groups: Vec<Group>,
    pub slots: Vec<Range>,
    /// Whom clients may be, beside those that a proxy's own configuration names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
}

/// Slots `from..=to`, all of one owner and state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    pub from: Slot,
    pub to: Slot,
    pub group: GroupId,
    #[serde(default, skip_serializing_if = "State::is_normal")]
    pub state: State,
    /// Where the slots go; only with `moving`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<GroupId>,
}

/// `SlotState` as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Normal,
    Held,
    Moving,
}

impl State {
    fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}

fn slot_count_default() -> u16 {
    SLOT_COUNT_DEFAULT
}

impl Message {
    /// Every fault found, or the topology.
    pub fn check(self) -> Result<Topology, Vec<String>> {
        let mut faults = Vec::new();
        if self.epoch == 0 {
            faults.push("epoch 0: epochs start at 1".to_owned());
        }
        if self.slot_count == 0 || self.slot_count > SLOT_COUNT_MAX {
            faults.push(format!("slot_count {}: from 1 to {SLOT_COUNT_MAX}", self.slot_count));
            return Err(faults);
        }
        let mut groups = self.groups;
        groups.sort_by_key(|g| g.id);
        check_groups(&mut groups, &mut faults);
        let slots = check_slots(&self.slots, self.slot_count, &groups, &mut faults);
        faults.extend(user::faults(&self.users).into_iter().map(|why| format!("users: {why}")));
        if !faults.is_empty() {
            return Err(faults);
        }
        let Self { epoch, name, tag_rule, users, .. } = self;
        Ok(Topology { epoch, name, tag_rule, groups, slots, users })
    }
}

fn check_groups(groups: &mut [Group], faults: &mut Vec<String>) {
    if groups.len() > GROUPS_MAX {
        faults.push(format!("{} groups: at most {GROUPS_MAX}", groups.len()));
    }
    for pair in groups.windows(2) {
        if pair[0].id == pair[1].id {
            faults.push(format!("group {}: listed twice", pair[0].id));
        }
    }
    let mut homes: BTreeMap<&Addr, GroupId> = BTreeMap::new();
    for group in groups.iter() {
        let id = group.id;
        let primaries = group.instances.iter().filter(|i| i.role == Role::Primary).count();
        if primaries != 1 {
            faults.push(format!("group {id}: {primaries} primaries, must be exactly one"));
        }
        if group.instances.len() > INSTANCES_MAX {
            faults.push(format!("group {id}: {} instances, at most {INSTANCES_MAX}", group.instances.len()));
        }
        for instance in &group.instances {
            if let Some(other) = homes.insert(&instance.addr, id) {
                faults.push(format!("instance {}: in group {other} and in group {id}", instance.addr));
            }
        }
    }
    for group in groups.iter_mut().filter(|g| g.name.is_empty()) {
        group.name = format!("g{}", group.id);
    }
}

fn check_slots(ranges: &[Range], slot_count: u16, groups: &[Group], faults: &mut Vec<String>) -> Vec<SlotOwner> {
    let known = |id: GroupId| groups.binary_search_by_key(&id, |g| g.id).is_ok();
    let mut slots = vec![SlotOwner::default(); usize::from(slot_count)];
    for r in ranges {
        let here = if r.from == r.to { format!("slot {}", r.from) } else { format!("slots {}-{}", r.from, r.to) };
        if r.from > r.to || r.to >= slot_count {
            faults.push(format!("{here}: not within 0-{}", slot_count - 1));
            continue;
        }
        if !known(r.group) {
            faults.push(format!("{here}: owner {} is not a group", r.group));
        }
        let state = match (r.state, r.target) {
            (State::Moving, Some(target)) if target != r.group && known(target) => SlotState::Moving { target },
            (State::Moving, Some(target)) => {
                faults.push(format!("{here}: cannot move from group {} to {target}", r.group));
                continue;
            }
            (State::Moving, None) => {
                faults.push(format!("{here}: moving, but no target is given"));
                continue;
            }
            (_, Some(_)) => {
                faults.push(format!("{here}: a target is given, but the state is not \"moving\""));
                continue;
            }
            (State::Held, None) => SlotState::Held,
            (State::Normal, None) => SlotState::Normal,
        };
        for slot in r.from..=r.to {
            let owner = &mut slots[usize::from(slot)];
            if let Some(other) = owner.group {
                faults.push(format!("slot {slot}: given to group {other} and to group {}", r.group));
                break; // one line a range says enough
            }
            *owner = SlotOwner { group: Some(r.group), state };
        }
    }
    slots
}

impl From<&Topology> for Message {
    fn from(topology: &Topology) -> Self {
        Self {
            epoch: topology.epoch,
            name: topology.name.clone(),
            slot_count: topology.slot_count(),
            tag_rule: topology.tag_rule,
            groups: topology.groups.clone(),
            slots: ranges_of(&topology.slots),
            users: topology.users.clone(),
        }
    }
}

/// The shortest list of ranges that says the same.
pub fn ranges_of(slots: &[SlotOwner]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for (slot, owner) in (0..).zip(slots) {
        let Some(group) = owner.group else { continue };
        let (state, target) = match owner.state {
            SlotState::Normal => (State::Normal, None),
            SlotState::Held => (State::Held, None),
            SlotState::Moving { target } => (State::Moving, Some(target)),
        };
        match ranges.last_mut() {
            Some(last) if last.to + 1 == slot && (last.group, last.state, last.target) == (group, state, target) => {
                last.to = slot;
            }
            _ => ranges.push(Range { from: slot, to: slot, group, state, target }),
        }
    }
    ranges
}

/// Reads and checks a message; the faults are ready to be shown.
pub fn parse(json: &[u8]) -> Result<Topology, Vec<String>> {
    serde_json::from_slice::<Message>(json).map_err(|e| vec![e.to_string()])?.check()
}

/// The message as JSON.
pub fn print(topology: &Topology) -> String {
    serde_json::to_string_pretty(&Message::from(topology)).unwrap_or_default()
}

/// Why a topology may not follow the one in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Epochs only grow.
    OlderEpoch { current: u64, offered: u64 },
    /// The same epoch with other contents: two writers.
    SameEpochDiffers { epoch: u64 },
    /// Fixed when the cluster is created: another count or tag rule gives every key another slot.
    HashChanged,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OlderEpoch { current, offered } => {
                write!(f, "epoch {offered} is older than epoch {current}, which is being served")
            }
            Self::SameEpochDiffers { epoch } => {
                write!(f, "epoch {epoch} is being served with other contents: a change needs a new epoch")
            }
            Self::HashChanged => {
                f.write_str("slot_count and tag_rule are fixed when a cluster is created and cannot change")
            }
        }
    }
}

/// Whether `next` may replace `current`; the same message again is welcome.
pub fn may_follow(current: Option<&Topology>, next: &Topology) -> Result<(), Refusal> {
    let Some(current) = current else { return Ok(()) };
    if next.epoch < current.epoch {
        return Err(Refusal::OlderEpoch { current: current.epoch, offered: next.epoch });
    }
    if next.epoch == current.epoch && next != current {
        return Err(Refusal::SameEpochDiffers { epoch: next.epoch });
    }
    if (next.slot_count(), next.tag_rule) != (current.slot_count(), current.tag_rule) {
        return Err(Refusal::HashChanged);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"epoch":7,"slot_count":1024,
        "groups":[{"id":2,"instances":[{"addr":"127.0.0.1:6402","role":"master"}]},
                  {"id":1,"instances":[{"addr":"127.0.0.1:6401","role":"primary"}]}],
        "slots":[{"from":0,"to":511,"group":1},{"from":512,"to":1022,"group":2,"state":"held"},
                 {"from":1023,"to":1023,"group":2,"state":"moving","target":1}]}"#;

    #[test]
    fn a_message_round_trips() {
        let topology = parse(GOOD.as_bytes()).expect("good");
        assert_eq!(topology.groups()[0].name, "g1");
        assert_eq!(topology.slots()[1023].state, SlotState::Moving { target: 1 });
        assert_eq!(parse(print(&topology).as_bytes()).expect("printed"), topology);
    }

    #[test]
    fn every_fault_is_listed() {
        let bad = r#"{"epoch":0,"slot_count":16,
          "groups":[{"id":1,"instances":[{"addr":"127.0.0.1:6401","role":"primary"},{"addr":"127.0.0.1:6401","role":"primary"}]}],
          "slots":[{"from":0,"to":3,"group":9},{"from":3,"to":16,"group":1},{"from":2,"to":2,"group":1},
                   {"from":5,"to":5,"group":1,"state":"moving"},{"from":6,"to":6,"group":1,"target":1}]}"#;
        let faults = parse(bad.as_bytes()).expect_err("bad");
        for word in [
            "epoch 0",
            "2 primaries",
            "in group 1 and in group 1",
            "owner 9 is not a group",
            "not within 0-15",
            "slot 2: given to group 9 and to group 1",
            "no target",
            "not \"moving\"",
        ] {
            assert!(faults.iter().any(|f| f.contains(word)), "{word:?} not in {faults:#?}");
        }
    }

    #[test]
    fn epochs_only_grow() {
        let old = parse(GOOD.as_bytes()).expect("good");
        let at = |epoch: u64| Topology { epoch, ..old.clone() };
        assert_eq!(may_follow(Some(&old), &at(8)), Ok(()));
        assert_eq!(may_follow(Some(&old), &old), Ok(()));
        assert_eq!(may_follow(Some(&old), &at(6)), Err(Refusal::OlderEpoch { current: 7, offered: 6 }));
        let other = Topology { name: "x".into(), ..old.clone() };
        assert_eq!(may_follow(Some(&old), &other), Err(Refusal::SameEpochDiffers { epoch: 7 }));
        let mut fewer = at(9);
        fewer.slots.truncate(512);
        assert_eq!(may_follow(Some(&old), &fewer), Err(Refusal::HashChanged));
    }
}
