//! The topology: which group owns each slot, which instance plays which role, what is held or moving, under one
//! epoch that only grows. A value of this type has been checked: `wire::Message::check` is the only way in.

use crate::group::{Group, GroupId};
use crate::slot::{Slot, TagRule, slot_of};
use crate::user::User;

/// How requests for a slot are to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlotState {
    /// Requests go to the owner.
    #[default]
    Normal,
    /// Requests wait in the proxy: the owner is about to change. Failover and migration rest on this.
    Held,
    /// Keys go to `target` as they are used: it serves the slot, and the owner still holds what was not moved yet. Requests
    /// go to the target, after the sender has brought their keys there; what the target has wins.
    Moving { target: GroupId },
}

/// One slot's owner and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotOwner {
    /// None: nobody serves it, requests for it are refused.
    pub group: Option<GroupId>,
    pub state: SlotState,
}

/// A checked topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    pub(crate) epoch: u64,
    pub(crate) name: String,
    pub(crate) tag_rule: TagRule,
    pub(crate) groups: Vec<Group>,
    pub(crate) slots: Vec<SlotOwner>,
    pub(crate) users: Vec<User>,
}

impl Topology {
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The cluster's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn tag_rule(&self) -> TagRule {
        self.tag_rule
    }

    /// In the order of their ids.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.binary_search_by_key(&id, |g| g.id).ok().map(|at| &self.groups[at])
    }

    pub fn slot_count(&self) -> u16 {
        self.slots.len() as u16
    }

    /// One entry a slot, in order.
    pub fn slots(&self) -> &[SlotOwner] {
        &self.slots
    }

    /// Whom clients may be, beside those that a proxy's own configuration names.
    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// For people: what passwords hash to is nobody's business.
    #[must_use]
    pub fn shown(&self) -> Self {
        Self { users: self.users.iter().map(User::shown).collect(), ..self.clone() }
    }

    pub fn slot_of(&self, key: &[u8]) -> Slot {
        slot_of(key, self.tag_rule, self.slot_count())
    }

    /// Whether any slot is held: then the sender waits for the barrier "nothing for a held slot is in flight".
    pub fn holds_any(&self) -> bool {
        self.slots.iter().any(|s| s.state == SlotState::Held)
    }
}
