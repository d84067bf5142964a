//! What there is to see when something is decided.

use crate::control::fleet::Fleet;
use crate::control::health::{Ballot, Health, Info, Judgement, Verdict};
use crate::control::layout::{Failover, Guard};
use crate::control::lead::Fence;
use crate::control::state::{Standing, State};
use cluster::group::Group;
use cluster::instance::Addr;
use cluster::topology::Topology;
use std::sync::Arc;

/// One look at everything.
pub(in crate::control) struct Scene<'a> {
    pub(in crate::control) now: u64,
    /// Milliseconds since 1970.
    pub(in crate::control) wall: u64,
    pub(in crate::control) state: &'a State,
    pub(in crate::control) fence: &'a Fence,
    pub(in crate::control) health: &'a Health,
    pub(in crate::control) fleet: &'a Fleet,
    /// This member's own ballot.
    pub(in crate::control) own: &'a Ballot,
}

impl<'a> Scene<'a> {
    /// The store is there and makes sense: only then is anything begun or gone on with.
    pub(in crate::control) fn is_settled(&self) -> bool {
        self.state.standing == Standing::Valid && self.state.store_fault.is_none() && self.known().is_some()
    }

    pub(in crate::control) fn known(&self) -> Option<&'a Arc<Topology>> {
        self.state.in_force.as_ref().map(|now| &now.known)
    }

    pub(super) fn groups(&self) -> &'a [Group] {
        self.known().map_or(&[], |known| known.groups())
    }

    pub(in crate::control) fn guard(&self, group: &Group) -> Option<&'a Guard> {
        self.state.guard(group.id)
    }

    /// Nothing is to be done by itself in this group.
    pub(super) fn hands_off(&self, group: &Group) -> bool {
        self.state.automation_paused() || self.guard(group).is_some_and(|guard| guard.maintenance)
    }

    pub(super) fn verdict(&self, group: &Group, addr: &Addr) -> Verdict {
        self.health.verdict(self.now, group, addr, self.state)
    }

    pub(super) fn info(&self, addr: &Addr) -> Option<&'a Info> {
        self.health.info(self.now, addr)
    }

    /// ... asked for after that moment.
    pub(super) fn info_since(&self, addr: &Addr, since: u64) -> Option<&'a Info> {
        self.health.info_since(addr, since).filter(|_| self.info(addr).is_some())
    }

    /// Nobody accuses the group's primary, and this member sees it well itself.
    pub(in crate::control) fn is_well(&self, group: &Group) -> bool {
        matches!(self.health.judge(self.now, self.own, group, &self.fleet.beats()), Judgement::Well)
            && group.primary().is_some_and(|p| self.verdict(group, &p.addr) == Verdict::Up)
    }

    /// A proxy that was there and went without a word: it may be cut off from here, and still send to instances.
    pub(in crate::control) fn absent_proxies(&self) -> Option<String> {
        self.state.missed().map(str::to_owned)
    }

    /// Every proxy that is known serves at least the epoch of the decision.
    pub(super) fn proxies_serve(&self, record: &Failover) -> bool {
        self.fleet.behind(record.epoch).is_empty()
    }

    /// Every proxy has confirmed that nothing for the held slots is in flight.
    pub(super) fn proxies_are_quiet(&self, record: &Failover) -> bool {
        self.fleet.in_flight(record.epoch).is_empty()
    }
}
