//! Raft's leader.

use crate::members::{api, name};
use crate::world::{Due, MEMBERS, World};
use configsvr::control::event::{Event, Leadership};
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
}
