//! Where a slot's requests go: a flat table made from the topology, one load and one test on the common path.

use super::request::NONE;
use super::scan::Table;
use super::{ClientId, LinkId};
use cluster::group::GroupId;
use cluster::slot::{Slot, TagRule, crc32, slot_of};
use cluster::topology::{SlotState, Topology};
use std::sync::Arc;

/// What one slot is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    /// Requests of this slot alone that are on a link.
    pub(super) in_flight: u32,
    /// Requests since they were added to the statistics last.
    pub(super) requests: u32,
}

/// One slot's way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    /// The first link to the owner's primary; NONE: nobody owns the slot.
    pub(super) link: LinkId,
    /// The same for clients that speak RESP3; NONE: none has come yet.
    pub(super) link3: LinkId,
    /// Held by the topology: requests wait.
    pub(super) held: bool,
    /// The owner changed while requests were in flight at the old one: requests wait until they are answered, so
    /// that a later one cannot overtake an earlier one.
    pub(super) settling: bool,
    /// It moves on access: `link` leads to its target, where its keys must be brought first.
    pub(super) moving: bool,
}

impl Route {
    const NOWHERE: Self = Self { link: NONE, link3: NONE, held: false, settling: false, moving: false };

    /// Whether a request cannot simply be put on the link.
    #[inline(always)]
    pub(super) fn special(self) -> bool {
        self.held | self.settling | self.moving | (self.link == NONE)
    }

    /// The first link in the client's protocol.
    #[inline(always)]
    pub(super) fn first(self, resp3: bool) -> LinkId {
        if resp3 { self.link3 } else { self.link }
    }

    #[inline(always)]
    pub(super) fn waits(self) -> bool {
        self.held | self.settling
    }
}

/// A group's links.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) group: GroupId,
    /// To the primary: so many that speak RESP2, then, if there are such clients, as many that speak RESP3. A client
    /// keeps to one of them, so that its requests stay in order.
    pub(super) links: Vec<LinkId>,
    /// Whether any slot is the group's: broadcasts go to those that have some.
    pub(super) owns_slots: bool,
    /// Whether it may hold keys of slots that it does not own.
    pub(super) copies: bool,
}

/// The table.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) topology: Option<Arc<Topology>>,
    pub(super) slots: Vec<Route>,
    pub(super) targets: Vec<Target>,
    /// Links of each protocol in `targets`.
    links_of_each: usize,
    tag_rule: TagRule,
    slot_count: u16,
    /// Grows with each topology: tells requests sent under an earlier one.
    pub(super) generation: u32,
    /// Whether any route is held.
    holds: bool,
    /// Whether any moves on access.
    pub(super) moves: bool,
    /// Whether any route is settling, or a `Quiet` is owed.
    pub(super) unsettled: bool,
    /// The epoch for which `Quiet` is still to be said.
    pub(super) quiet_owed: Option<u64>,
    /// The epoch for which it has been said why `Quiet` is late.
    pub(super) not_quiet_said: u64,
    /// What SCAN's cursors rest on.
    pub(super) table: Table,
    /// How often slots have changed their owners.
    pub(super) turns: u32,
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            topology: None,
            slots: vec![Route::NOWHERE],
            targets: Vec::new(),
            links_of_each: 0,
            tag_rule: TagRule::Redis,
            slot_count: 1,
            generation: 0,
            holds: false,
            moves: false,
            unsettled: false,
            quiet_owed: None,
            not_quiet_said: 0,
            table: Table::default(),
            turns: 0,
        }
    }
}

impl Routes {
    #[inline(always)]
    pub(super) fn slot_of(&self, key: &[u8]) -> Slot {
        slot_of(key, self.tag_rule, self.slot_count)
    }

    /// What `link_of` needs where no slot waits and their number is a power of two; None elsewhere.
    pub(super) fn mask(&self) -> Option<u32> {
        let plain = self.slot_count.is_power_of_two() && !self.unsettled && !self.holds && !self.moves;
        plain.then(|| u32::from(self.slot_count) - 1)
    }

    /// The link for a key that holds no `{`; NONE: nobody owns its slot.
    #[inline(always)]
    pub(super) fn link_of(&self, key: &[u8], mask: u32) -> LinkId {
        self.slots[(crc32(key) & mask) as usize].link
    }

    /// The way of any key.
    #[inline(never)]
    pub(super) fn way_of(&self, key: &[u8]) -> Route {
        self.slots[usize::from(self.slot_of(key))]
    }

    pub(super) fn slot_count(&self) -> u16 {
        self.slot_count
    }

    pub(super) fn epoch(&self) -> u64 {
        self.topology.as_ref().map_or(0, |t| t.epoch())
    }

    /// Whether the keys of a slot that a group has are what clients see: while they come over one by one, both groups have
    /// some, and no key is in both.
    pub(super) fn shows(&self, group: GroupId, slot: Slot) -> bool {
        let owner = self.topology.as_ref().and_then(|t| t.slots().get(usize::from(slot)));
        owner.is_some_and(|o| o.group == Some(group) || o.state == SlotState::Moving { target: group })
    }

    /// The groups that own slots: by id, and those that get some last, so that a walk over keys meets one that is brought
    /// there meanwhile at its old place or at its new one.
    pub(super) fn owners(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.owns_slots)
    }

    /// The first link that speaks RESP3 to where this one, the first that speaks RESP2, leads.
    pub(super) fn first3(&self, first: LinkId, links_of_each: usize) -> LinkId {
        let target = self.targets.iter().find(|t| t.links.first() == Some(&first));
        target.and_then(|t| t.links.get(links_of_each).copied()).unwrap_or(first)
    }

    /// The link this client uses where several lead to one instance: always the same.
    #[inline]
    pub(super) fn lane(&self, first: LinkId, client: ClientId, links_per_instance: u32) -> LinkId {
        if links_per_instance <= 1 {
            return first;
        }
        let n = links_per_instance as usize;
        let own = client as usize % n;
        self.targets
            .iter()
            .find_map(|t| {
                let base = [0, n].into_iter().find(|&base| t.links.get(base) == Some(&first))?;
                t.links.get(base + own).copied()
            })
            .unwrap_or(first)
    }

    /// Takes a topology whose groups have these links (in the topology's order). A slot whose link changes while
    /// `loads` say that requests are under way settles first.
    pub(super) fn set(
        &mut self,
        topology: Arc<Topology>,
        targets: Vec<Target>,
        links_per_instance: usize,
        loads: &[Load],
        wide: u32,
    ) {
        let same_size = self.slots.len() == topology.slots().len();
        let mut slots = vec![Route::NOWHERE; topology.slots().len()];
        for (i, (route, owner)) in slots.iter_mut().zip(topology.slots()).enumerate() {
            let leads_to = match owner.state {
                SlotState::Moving { target } => Some(target),
                _ => owner.group,
            };
            let target = leads_to.and_then(|id| targets.iter().find(|t| t.group == id));
            route.link = target.and_then(|t| t.links.first().copied()).unwrap_or(NONE);
            route.link3 = target.and_then(|t| t.links.get(links_per_instance).copied()).unwrap_or(NONE);
            route.held = owner.state == SlotState::Held;
            route.moving = matches!(owner.state, SlotState::Moving { .. });
            let old = if same_size { self.slots[i] } else { Route::NOWHERE };
            // Another number of links is a move, too: clients keep to another one of them. Links for RESP3 beside those
            // there are move nobody: HELLO waits until its client has nothing under way.
            let before = self.targets.iter().find(|t| t.links.first() == Some(&old.link)).map(|t| &t.links);
            let as_many = links_per_instance == self.links_of_each;
            let grown = |old: &Vec<LinkId>, new: &Vec<LinkId>| {
                as_many && old.len() == links_per_instance && new.starts_with(old)
            };
            let same = before.zip(target.map(|t| &t.links)).is_some_and(|(old, new)| old == new || grown(old, new));
            let moved = old.link != NONE && !same;
            route.settling = (moved || old.settling) && (loads[i].in_flight > 0 || wide > 0);
        }
        self.links_of_each = links_per_instance;
        self.targets = targets;
        for target in &mut self.targets {
            let first = target.links.first().copied();
            let source = |i: usize, r: &Route| r.moving && topology.slots()[i].group == Some(target.group);
            target.owns_slots = slots.iter().enumerate().any(|(i, r)| Some(r.link) == first || source(i, r));
        }
        let gets = |t: &Target| topology.slots().iter().any(|s| s.state == SlotState::Moving { target: t.group });
        self.targets.sort_by_cached_key(gets);
        let got = topology.slots().iter().filter_map(|slot| match slot.state {
            SlotState::Moving { target } => Some(Some(target)),
            _ => None,
        });
        let owners = topology.slots().iter().map(|slot| slot.group).chain(got);
        let table = Table::new(owners, self.owners().count());
        self.turns += u32::from(table != self.table);
        self.table = table;
        self.tag_rule = topology.tag_rule();
        self.slot_count = topology.slot_count();
        self.holds = slots.iter().any(|r| r.held);
        self.moves = slots.iter().any(|r| r.moving);
        self.slots = slots;
        self.generation += 1;
        self.quiet_owed = Some(topology.epoch());
        self.unsettled = true;
        self.topology = Some(topology);
    }
}
