//! Orphans: connections that were lost while the instance may still hold requests of them. What it has in its socket
//! buffer it may execute at any later time, so each orphan is kept, with the slots that it may touch, until it is
//! certain that nothing of it is left:
//!
//! - the same process has answered CLIENT KILL of its id (that it killed it, or that there is none such), or
//! - another process (`run_id`) has greeted at that address since, so the old one is gone.
//!
//! They belong to the instance's address, which outlives every link to it.

use super::LinkId;
use super::limits::{ORPHAN_LEFT_US, ORPHANS_MAX};
use cluster::instance::Addr;
use cluster::slot::Slot;
use std::collections::BTreeMap;

/// What a lost connection had on its way.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    /// In ascending order.
    pub(super) slots: Vec<Slot>,
    /// Requests of several slots: any slot.
    pub(super) wide: bool,
}

/// One lost connection.
#[derive(Debug)]
struct Orphan {
    /// Its CLIENT ID at the instance. None: it has none, or must not be killed; only the end of its process ends it.
    id: Option<i64>,
    /// The `run_id` of the process it led to; empty: the process did not say.
    process: String,
    /// Its number among all that were ever lost.
    number: u64,
    reach: Reach,
    /// The link on which its end is being asked for.
    asked: Option<LinkId>,
}

/// Those of one address, oldest first.
#[derive(Debug, Default)]
struct Family {
    orphans: Vec<Orphan>,
    /// Since when no primary has this address; None: one has.
    left_us: Option<u64>,
}

/// All orphans of a worker.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    families: BTreeMap<Addr, Family>,
    lost: u64,
}

/// Whether these may be one process. One that does not say who it is may be any.
fn same(a: &str, b: &str) -> bool {
    a == b || a.is_empty() || b.is_empty()
}

impl Family {
    /// It has been no primary for so long that nothing it executes is the cluster's any more.
    fn overdue(&self, now_us: u64) -> bool {
        self.left_us.is_some_and(|left| now_us.saturating_sub(left) > ORPHAN_LEFT_US)
    }
}

impl Orphans {
    pub(super) fn len(&self) -> usize {
        self.families.values().map(|f| f.orphans.len()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.families.is_empty()
    }

    pub(super) fn addrs(&self) -> Vec<Addr> {
        self.families.keys().cloned().collect()
    }

    /// How many connections were ever lost: those that a connection opened now can say something about.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// A connection was lost. `left_us`: as of now, if no primary has this address.
    pub(super) fn add(&mut self, addr: &Addr, id: Option<i64>, process: &str, reach: Reach, left_us: Option<u64>) {
        self.lost += 1;
        let fresh = || Family { orphans: Vec::new(), left_us };
        let family = self.families.entry(addr.clone()).or_insert_with(fresh);
        let id = id.filter(|_| family.orphans.len() < ORPHANS_MAX);
        // Those that only the end of their process ends are one.
        let alike = |o: &&mut Orphan| id.is_none() && o.id.is_none() && o.process == process;
        if let Some(orphan) = family.orphans.iter_mut().find(alike) {
            orphan.number = self.lost;
            orphan.reach.wide |= reach.wide;
            orphan.reach.slots.extend(reach.slots);
            orphan.reach.slots.sort_unstable();
            orphan.reach.slots.dedup();
            return;
        }
        let process = process.to_owned();
        family.orphans.push(Orphan { id, process, number: self.lost, reach, asked: None });
    }

    /// The ids that a link which has been greeted by `process` is to kill before it is used.
    pub(super) fn to_kill(&self, addr: &Addr, process: &str) -> Vec<i64> {
        let Some(family) = self.families.get(addr) else { return Vec::new() };
        family.orphans.iter().filter(|o| same(&o.process, process)).filter_map(|o| o.id).collect()
    }

    /// The same for a link in use, less those that are being killed already. They count as asked on `link` from now on.
    pub(super) fn kill_on(&mut self, addr: &Addr, process: &str, link: LinkId) -> Vec<i64> {
        let Some(family) = self.families.get_mut(addr) else { return Vec::new() };
        let mut ids = Vec::new();
        for orphan in family.orphans.iter_mut().filter(|o| o.asked.is_none() && o.process == process) {
            if let Some(id) = orphan.id {
                orphan.asked = Some(link);
                ids.push(id);
            }
        }
        ids
    }

    /// `process` has greeted a connection that was opened when `before` had been lost: of those, the ones of other
    /// processes are gone. How many there were.
    pub(super) fn ended(&mut self, addr: &Addr, process: &str, before: u64) -> usize {
        self.retain(addr, |o| same(&o.process, process) || o.number > before)
    }

    /// `process` has answered CLIENT KILL: nothing is left of this one. How many there were.
    pub(super) fn killed(&mut self, addr: &Addr, process: &str, id: i64) -> usize {
        self.retain(addr, |o| o.id != Some(id) || !same(&o.process, process))
    }

    /// `process` refuses to kill this one.
    pub(super) fn unkillable(&mut self, addr: &Addr, process: &str, id: i64) {
        let Some(family) = self.families.get_mut(addr) else { return };
        if let Some(at) = family.orphans.iter().position(|o| o.id == Some(id) && same(&o.process, process)) {
            let orphan = family.orphans.remove(at);
            let left_us = family.left_us;
            self.add(addr, None, &orphan.process, orphan.reach, left_us);
        }
    }

    /// A link is gone, and with it the answers that were to come on it.
    pub(super) fn not_asked_on(&mut self, addr: &Addr, link: LinkId) {
        let Some(family) = self.families.get_mut(addr) else { return };
        for orphan in family.orphans.iter_mut().filter(|o| o.asked == Some(link)) {
            orphan.asked = None;
        }
    }

    /// Whether a connection made for them alone is needed. `shared`: there are links to this address, which will
    /// notice when its process ends, so only those matter that can be killed and are not being killed.
    pub(super) fn need_link(&self, addr: &Addr, shared: bool, now_us: u64) -> bool {
        let Some(family) = self.families.get(addr) else { return false };
        !family.overdue(now_us) && family.orphans.iter().any(|o| !shared || (o.id.is_some() && o.asked.is_none()))
    }

    /// The address of one that may yet touch a slot that is held.
    pub(super) fn in_the_way(&self, held: impl Fn(Slot) -> bool, any_held: bool, now_us: u64) -> Option<&Addr> {
        let touches = |o: &Orphan| (o.reach.wide && any_held) || o.reach.slots.iter().any(|&s| held(s));
        let mut families = self.families.iter().filter(|(_, f)| !f.overdue(now_us));
        families.find(|(_, f)| f.orphans.iter().any(touches)).map(|(addr, _)| addr)
    }

    /// There is another topology; `primary` says whose addresses are primaries'.
    pub(super) fn topology(&mut self, primary: impl Fn(&Addr) -> bool, now_us: u64) {
        for (addr, family) in &mut self.families {
            family.left_us = if primary(addr) { None } else { family.left_us.or(Some(now_us)) };
        }
    }

    /// Forgets what belongs to instances that are overdue and that `known` does not know. How many there were.
    pub(super) fn give_up(&mut self, known: impl Fn(&Addr) -> bool, now_us: u64) -> usize {
        let before = self.len();
        self.families.retain(|addr, family| !family.overdue(now_us) || known(addr));
        before - self.len()
    }

    fn retain(&mut self, addr: &Addr, keep: impl Fn(&Orphan) -> bool) -> usize {
        let Some(family) = self.families.get_mut(addr) else { return 0 };
        let before = family.orphans.len();
        family.orphans.retain(keep);
        let gone = before - family.orphans.len();
        if family.orphans.is_empty() {
            self.families.remove(addr);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr() -> Addr {
        "127.0.0.1:1".parse().expect("an address")
    }

    fn reach(slots: &[Slot]) -> Reach {
        Reach { slots: slots.to_vec(), wide: false }
    }

    fn one(id: Option<i64>) -> Orphans {
        let mut orphans = Orphans::default();
        orphans.add(&addr(), id, "abc", reach(&[3]), None);
        orphans
    }

    #[test]
    fn only_the_same_process_is_asked_to_kill_and_only_another_one_is_proof_of_its_end() {
        let mut orphans = one(Some(7));
        assert_eq!(orphans.to_kill(&addr(), "abc"), [7]);
        assert_eq!(orphans.to_kill(&addr(), "def"), [0i64; 0]);
        assert_eq!(orphans.killed(&addr(), "def", 7), 0);
        assert_eq!(orphans.ended(&addr(), "abc", 1), 0);
        // A connection that is older than the loss proves nothing.
        assert_eq!(orphans.ended(&addr(), "def", 0), 0);
        assert_eq!(orphans.ended(&addr(), "def", 1), 1);
        assert!(orphans.is_empty());
        assert_eq!(one(Some(7)).killed(&addr(), "abc", 7), 1);
    }

    #[test]
    fn one_that_cannot_be_killed_stays_in_the_way_of_its_slots_until_its_process_ends() {
        let mut orphans = one(Some(7));
        orphans.unkillable(&addr(), "abc", 7);
        orphans.add(&addr(), None, "abc", reach(&[1, 3]), None);
        assert_eq!((orphans.len(), orphans.to_kill(&addr(), "abc").len()), (1, 0));
        let in_the_way = |o: &Orphans, slot| o.in_the_way(|s| s == slot, true, u64::MAX).is_some();
        assert!(in_the_way(&orphans, 1) && in_the_way(&orphans, 3) && !in_the_way(&orphans, 2));
        // It is lost anew: what was opened before proves nothing any more.
        assert_eq!(orphans.ended(&addr(), "def", 1), 0);
        assert_eq!(orphans.ended(&addr(), "def", orphans.lost()), 1);
    }

    #[test]
    fn requests_of_several_slots_are_in_the_way_of_any_held_one() {
        let mut orphans = Orphans::default();
        orphans.add(&addr(), Some(1), "abc", Reach { slots: Vec::new(), wide: true }, None);
        assert!(orphans.in_the_way(|_| false, true, 0).is_some());
        assert!(orphans.in_the_way(|_| false, false, 0).is_none());
    }

    #[test]
    fn an_address_that_has_left_is_waited_for_but_not_for_ever() {
        let mut orphans = one(Some(7));
        let late = 5 + ORPHAN_LEFT_US + 1;
        orphans.topology(|_| false, 5);
        orphans.topology(|_| false, 6);
        assert!(orphans.in_the_way(|_| true, true, late - 1).is_some());
        assert!(orphans.in_the_way(|_| true, true, late).is_none());
        // Known as a replica it is kept, and counts again should it become a primary.
        assert_eq!(orphans.give_up(|_| true, late), 0);
        orphans.topology(|_| true, late);
        assert!(orphans.in_the_way(|_| true, true, late).is_some());
        orphans.topology(|_| false, late);
        assert_eq!(orphans.give_up(|_| false, late), 0);
        assert_eq!(orphans.give_up(|_| false, 2 * late), 1);
    }

    #[test]
    fn their_number_is_bounded_and_none_is_forgotten() {
        let mut orphans = Orphans::default();
        for id in 0..2 * ORPHANS_MAX {
            orphans.add(&addr(), Some(id as i64), "abc", reach(&[id as Slot]), None);
        }
        assert_eq!(orphans.len(), ORPHANS_MAX + 1);
        let last = 2 * ORPHANS_MAX - 1;
        assert!(orphans.in_the_way(|s| usize::from(s) == last, true, 0).is_some());
    }
}
