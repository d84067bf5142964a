//! The proxies around the members.

use crate::instances::Instance;
use crate::members::name;
use crate::world::{Due, World};
use cluster::instance::Addr;
use configsvr::control::event::{DeedId, Event, PushFault};

impl World {
    pub(crate) fn push_arrives(
        &mut self,
        at: usize,
        message: &str,
        _quiet: bool,
        (n, life, deed): (usize, u64, DeedId),
    ) {
        let gone = self.now < self.proxies[at].alive_at || !self.arrives(&name(n), &self.proxies[at].id);
        let mut outcome = match gone {
            true => Err(PushFault::Unreachable("connection refused".to_owned())),
            false => match self.proxies[at].take(message) {
                Ok(outcome) => outcome,
                Err(why) => return self.must(Err(format!("I2: {why}"))),
            },
        };
        if !self.arrives(&self.proxies[at].id, &name(n)) {
            outcome = Err(PushFault::Unreachable("no answer".to_owned()));
        }
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
