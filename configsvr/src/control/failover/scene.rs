//! What there is to see when something is decided.

use crate::control::command::Beat;
use crate::control::fleet::Fleet;
use crate::control::health::{Ballot, Health, History, Info, Judgement, Verdict};
use crate::control::layout::{Failover, Guard, Identity};
use crate::control::lead::Fence;
use crate::control::limits::STUCK_MS;
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

    pub(super) fn judge(&self, group: &Group, beats: &[(&Beat, u64)]) -> Judgement {
        self.health.judge(self.now, self.own, group, self.guard(group), beats)
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
        matches!(self.judge(group, &self.fleet.beats()), Judgement::Well)
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

    /// The old primary answers, and still is who it was: nobody wrote anywhere else, since its slots are held.
    pub(super) fn is_back(&self, group: &Group, record: &Failover) -> bool {
        self.verdict(group, &record.old) == Verdict::Up
            && self.own.on(&record.old).is_none()
            && self.info(&record.old).is_some_and(|i| i.run_id == record.old_run_id)
    }

    /// What whoever takes over must continue. Only one that people named may have another history.
    pub(super) fn history<'b>(&self, group: &Group, record: &'b Failover, addr: &Addr) -> History<'b>
    where
        'a: 'b,
    {
        let known = self.guard(group).and_then(|g| g.primary.as_ref()).filter(|known| known.addr == record.old);
        match known {
            Some(known) if record.wanted.as_ref().is_some_and(|wanted| wanted != addr) => known.into(),
            _ => History { replid: &record.replid, former: record.former.as_ref() },
        }
    }

    /// A primary that was started again serves on where that is somebody's wish, where it is certain that nobody has what it
    /// had, or that nobody has more than what it saved, or where after a while nobody came who could take over.
    pub(super) fn is_accepted(&self, group: &Group, known: &Identity) -> bool {
        let without = |i: &Info| History::from(known).held_by(i).is_none();
        // It saved what it had, and nobody has more.
        let whole = |own: &Info| {
            let less = |i: &Info| i.offset <= own.offset;
            own.continues(&known.replid) && group.replicas().all(|r| self.info(&r.addr).is_some_and(less))
        };
        if group.replicas().next().is_some() && self.info(&known.addr).is_some_and(whole) {
            return true;
        }
        if self.hands_off(group) || group.replicas().all(|r| self.info(&r.addr).is_some_and(without)) {
            return true;
        }
        let for_ms = self.own.on(&known.addr).filter(|_| self.own.sound).map_or(0, |opinion| opinion.for_ms);
        let heir = self
            .guard(group)
            .is_some_and(|g| self.health.promotable(self.now, group, g, self.now.saturating_sub(for_ms)));
        for_ms > STUCK_MS && !heir
    }
}
