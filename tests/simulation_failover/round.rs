//! Raft's leader, and the proxies around the members.

use crate::instances::Instance;
use crate::members::{api, name};
use crate::world::{Due, MEMBERS, World};
use cluster::instance::Addr;
use configsvr::control::event::{DeedId, Event, Leadership, PushFault};
use configsvr::control::layout::Token;

/// A leader that cannot be heard for so long is replaced.
const LEASE_MS: u64 = 600;

impl World {
    /// Raft replaces a leader that a majority has not heard for its lease.
    pub(crate) fn raft(&mut self) {
        self.after(20, Due::Raft);
        let fit = |world: &Self, n: usize| {
            let others = (0..MEMBERS)
                .filter(|o| *o != n && world.nodes[*o].works(world.now) && world.reaches(&name(n), &name(*o)));
            world.nodes[n].works(world.now) && (others.count() + 1) * 2 > MEMBERS
        };
        if self.leader.is_some_and(|n| fit(self, n)) {
            self.unled_since = None;
            return;
        }
        let since = *self.unled_since.get_or_insert(self.now);
        if self.now < since + LEASE_MS && self.token.term > 0 {
            return;
        }
        let able: Vec<usize> = (0..MEMBERS).filter(|n| fit(self, *n)).collect();
        if able.is_empty() {
            return;
        }
        let n = *self.rng.pick(&able);
        self.token = Token { term: self.token.term + 1, member: n as u64 + 1 };
        (self.leader, self.unled_since) = (Some(n), None);
        let token = self.token;
        self.note(|| format!("raft: m{n} leads with {token}"));
        for other in 0..MEMBERS {
            let leads = other == n;
            let leadership =
                if leads { Leadership::Leading(token) } else { Leadership::Following(Some((name(n), api(n)))) };
            let delay = if leads { 2 } else { self.rng.range(1, if self.calm { 5 } else { 400 }) };
            let (life, order) = (self.nodes[other].life, self.order);
            self.after(delay, Due::Tell(other, life, order, Event::Leadership(leadership)));
        }
    }

    pub(crate) fn push_arrives(
        &mut self,
        at: usize,
        message: &str,
        _quiet: bool,
        (n, life, deed): (usize, u64, DeedId),
    ) {
        let gone = self.now < self.proxies[at].alive_at || !self.reaches(&name(n), &self.proxies[at].id);
        let outcome = match gone {
            true => Err(PushFault::Unreachable("connection refused".to_owned())),
            false => match self.proxies[at].take(message) {
                Ok(outcome) => outcome,
                Err(why) => return self.must(Err(format!("I2: {why}"))),
            },
        };
        let delay = self.delay();
        self.after(delay, Due::Tell(n, life, 0, Event::Pushed { deed, outcome }));
    }

    pub(crate) fn beat(&mut self, at: usize) {
        self.after(1_000, Due::Beat(at));
        let Some(leader) = self.leader else { return };
        if self.now < self.proxies[at].alive_at || !self.reaches(&name(leader), &self.proxies[at].id) {
            return;
        }
        let (now, id) = (self.now, self.proxies[at].id.clone());
        let meant = |i: &&Instance| i.alive && self.proxies[at].takes(&i.addr, &i.run_id);
        let up = |addr: &Addr| self.reaches(&id, &addr.to_string()) && self.instances.get(addr).filter(meant).is_some();
        let beat = self.proxies[at].beat(now, up);
        self.calls += 1;
        let (call, life) = (self.calls, self.nodes[leader].life);
        self.after(2, Due::Tell(leader, life, 0, Event::Beat { call, beat }));
    }

    pub(crate) fn silence_proxy(&mut self, at: usize, ms: u64) {
        self.proxies[at].alive_at = self.now + ms;
    }
}
