//! What becomes of a lost connection: it is remembered with its instance's address (`orphan.rs`) and ended there before
//! it can do harm. A new link kills it before it carries anything; where a link to the same process is in use, the
//! KILL goes over that one, ahead of whatever follows; where the topology needs no link, one is made for it alone.

use super::link::{Killed, Link, Own, State, Use};
use super::orphan::Reach;
use super::request::{NO_SLOT, PING, RequestId};
use super::state::Relay;
use super::{Deed, Level, LinkId, Planted};
use crate::stats::{Counter, OfGroup};
use cluster::instance::Addr;
use std::collections::VecDeque;

/// What a link that is gone had on it.
pub(super) struct Lost {
    /// In the order they were sent.
    pub(super) requests: VecDeque<RequestId>,
    /// Whether it had been up, and how many bytes of requests had been written: those that begin later never left.
    pub(super) carried: bool,
    pub(super) written: u64,
    /// The connection's CLIENT ID, and its process.
    pub(super) server_id: Option<i64>,
    pub(super) process: String,
}

impl Relay {
    /// A link with these requests on it is gone. Those whose bytes were written may be executed at any later time.
    pub(super) fn orphaned(&mut self, addr: &Addr, lost: &Lost) {
        let mut reach = Reach::default();
        for &id in lost.requests.iter().filter(|&&r| r != PING) {
            let request = &self.requests[id as usize];
            if request.place < lost.written {
                reach.wide |= request.slot == NO_SLOT;
                reach.slots.extend((request.slot != NO_SLOT).then_some(request.slot));
            }
        }
        if lost.carried && (reach.wide || !reach.slots.is_empty()) && self.planted != Some(Planted::ForgetOrphans) {
            reach.slots.sort_unstable();
            reach.slots.dedup();
            let left_us = (!self.shared_links.contains_key(addr)).then_some(self.now.us);
            self.orphans.add(addr, lost.server_id, &lost.process, reach, left_us);
            self.stats.add(Counter::LinksOrphaned, 1);
        }
    }

    /// The instance has said who it is. True: the link goes on.
    pub(super) fn introduced(&mut self, id: LinkId) -> bool {
        let link = &self.links[id as usize];
        let ended = self.orphans.ended(&link.addr, &link.process, link.lost_before);
        self.stats.add(Counter::OrphansEnded, ended as u64);
        let kills = self.orphans.to_kill(&link.addr, &link.process);
        if kills.is_empty() {
            return self.ask_for_scripts(id) || self.greeting_done(id);
        }
        self.links[id as usize].kill(&kills, &mut self.pool);
        self.mark_link(id);
        true
    }

    /// An instance has answered CLIENT KILL on a new link. True: the link goes on.
    pub(super) fn asked_in_greeting(&mut self, id: LinkId, orphan: i64, killed: Killed) -> bool {
        self.kill_answered(id, orphan, killed);
        // Another connection may have been lost meanwhile.
        self.links[id as usize].greeting() || self.introduced(id)
    }

    /// An instance has answered our own PING or KILL on a link in use.
    #[cold]
    pub(super) fn own_reply(&mut self, id: LinkId, reply: &[u8]) -> bool {
        match self.links[id as usize].own.pop_front() {
            Some(Own::Kill(orphan)) => self.kill_answered(id, orphan, super::link::killed(reply)),
            Some(Own::Role) => {
                if let Some(why) = super::link::not_primary(reply) {
                    self.close_link(id, why);
                    return false;
                }
            }
            _ => {}
        }
        true
    }

    fn kill_answered(&mut self, id: LinkId, orphan: i64, killed: Killed) {
        let link = &self.links[id as usize];
        match killed {
            Killed::Gone => {
                let n = self.orphans.killed(&link.addr, &link.process, orphan);
                self.stats.add(Counter::OrphansEnded, n as u64);
            }
            Killed::NotNow => self.orphans.not_asked_on(&link.addr, id),
            Killed::Refused => {
                let text = format!(
                    "{} refuses CLIENT KILL of a connection that was lost: its slots are not quiet until it restarts; \
                     allow instance_user to use CLIENT KILL",
                    super::link::whose(link)
                );
                self.orphans.unkillable(&link.addr, &link.process, orphan);
                self.tell(Level::Warn, text);
            }
        }
    }

    /// The greeting is over: the link is used, or was made for lost connections alone. True: it goes on.
    pub(super) fn greeting_done(&mut self, id: LinkId) -> bool {
        let link = &mut self.links[id as usize];
        if link.purpose == Use::Fence {
            self.close_link(id, "what was lost has been looked after".to_owned());
            return false;
        }
        if let Some(why) = link.unfit.take().or_else(|| link.stranger()) {
            self.close_link(id, why);
            return false;
        }
        link.state = State::Up;
        link.carried = true;
        (link.attempts, link.written) = (0, 0);
        link.cause.clear();
        link.out.append_all(&mut self.pool, &mut link.queue);
        self.stats.add(Counter::LinksOpened, 1);
        if link.entry != usize::MAX {
            self.stats.add_of_group(link.entry, OfGroup::LinkOpened, 1);
        }
        match link.purpose {
            Use::Exclusive { client } => self.resumable.push(client),
            Use::PubSub => self.subscribe_all(id),
            _ => {}
        }
        self.mark_link(id);
        true
    }

    /// Sees to it that the orphans of an address come to their end.
    pub(super) fn tend(&mut self, addr: &Addr) {
        let at = |l: &Link| l.addr == *addr;
        let shared = self.shared_links.get(addr).cloned().unwrap_or_default();
        self.kill_over(&shared, addr);
        let greets = |l: &Link| l.purpose == Use::Fence || (l.purpose == Use::Shared && l.state != State::Up);
        let greeted = self.links.iter().any(|(_, l)| at(l) && greets(l));
        if !greeted && self.orphans.need_link(addr, !shared.is_empty(), self.now.us) {
            let link = Link::new(addr.clone(), 0, usize::MAX, None, Use::Fence, self.now.us);
            let link = self.links.insert(link) as LinkId;
            self.deeds.push_back(Deed::Connect { link, addr: addr.clone() });
        }
    }

    /// Kills over links in use: over each of them, so that whatever a client sends next comes after it.
    fn kill_over(&mut self, shared: &[LinkId], addr: &Addr) {
        let up = |&&id: &&LinkId| self.links[id as usize].state == State::Up;
        let up: Vec<LinkId> = shared.iter().filter(up).copied().collect();
        let Some(&last) = up.last() else { return };
        let process = self.links[last as usize].process.clone();
        let ids = self.orphans.kill_on(addr, &process, last);
        for id in up.into_iter().filter(|_| !ids.is_empty()) {
            if self.links[id as usize].process == process {
                self.links[id as usize].kill_in_turn(&ids, &mut self.pool);
                self.mark_link(id);
            }
        }
    }

    /// What is sent on this link from now on is executed after the end of what was lost. For a link of a client's own that
    /// has been up all the time: shared ones had the KILL when the loss was noticed, new ones have it in their greeting.
    pub(super) fn kill_first(&mut self, id: LinkId) {
        let link = &mut self.links[id as usize];
        if link.state != State::Up || self.orphans.is_empty() {
            return;
        }
        let ids = self.orphans.to_kill(&link.addr, &link.process);
        if !ids.is_empty() {
            link.kill_in_turn(&ids, &mut self.pool);
            self.mark_link(id);
        }
    }

    /// Whether a link made for lost connections alone is to be tried again.
    pub(super) fn still_fences(&self, addr: &Addr) -> bool {
        self.orphans.need_link(addr, self.shared_links.contains_key(addr), self.now.us)
    }

    /// What time brings to orphans.
    pub(super) fn tick_orphans(&mut self) {
        if self.orphans.is_empty() {
            return;
        }
        let topology = self.routes.topology.clone();
        let known =
            |addr: &Addr| topology.iter().flat_map(|t| t.groups()).any(|g| g.instances.iter().any(|i| i.addr == *addr));
        let given_up = self.orphans.give_up(known, self.now.us);
        if given_up > 0 {
            self.stats.add(Counter::OrphansGivenUp, given_up as u64);
            let text = format!(
                "{given_up} lost connections are given up: their instances left the topology and cannot be reached"
            );
            self.tell(Level::Warn, text);
        }
        for addr in self.orphans.addrs() {
            self.tend(&addr);
        }
    }

    /// Whether no orphan is in the way of `Quiet`; where nothing else is, it is said which one is.
    pub(super) fn orphans_are_quiet(&mut self) -> bool {
        if self.orphans.is_empty() {
            return true;
        }
        let slots = &self.routes.slots;
        let held = |slot: cluster::slot::Slot| slots.get(usize::from(slot)).is_some_and(|r| r.held);
        let any_held = slots.iter().any(|r| r.held);
        let Some(addr) = self.orphans.in_the_way(held, any_held, self.now.us) else { return true };
        if let Some(epoch) = self.routes.quiet_owed
            && self.routes.not_quiet_said != epoch
        {
            let why = format!("{addr} may still hold requests of a connection that was lost");
            self.routes.not_quiet_said = epoch;
            self.deeds.push_back(Deed::NotQuiet { epoch, why });
        }
        false
    }
}
