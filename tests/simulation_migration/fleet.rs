//! What goes between proxies, members and clients.

use crate::data::{Key, Op};
use crate::members::name;
use crate::plant::Plant;
use crate::world::{Due, Push, Request, World};
use cluster::beat::{Beat, BeatAnswer};
use cluster::instance::Addr;
use configsvr::control::event::{Event, PushFault};

/// How long a proxy waits until nothing is in flight, before it says that it is not so.
const QUIET_MS: u64 = 3_000;
/// A client that gets nothing for so long gives up.
const PATIENCE_MS: u64 = 3_000;

impl World {
    /// What a proxy should hear now it hears when it moves again.
    fn later(&mut self, at: usize, due: Due) -> Option<Due> {
        let frozen = self.proxies[at].up && self.now < self.proxies[at].frozen_until;
        if !frozen {
            return Some(due);
        }
        let wait = self.proxies[at].frozen_until - self.now;
        self.after(wait, due);
        None
    }

    pub(crate) fn push_arrives(&mut self, push: Push) {
        let at = push.proxy;
        let Some(Due::Push(push)) = self.later(at, Due::Push(push)) else { return };
        if !self.proxies[at].up || !self.reaches(&name(push.member), &self.proxies[at].id) {
            return self.pushed(&push, Err(PushFault::Unreachable("connection refused".to_owned())));
        }
        match self.proxies[at].take(&push.message) {
            Err(why) => self.must(Err(format!("epochs: {why}"))),
            Ok(Err(fault)) => self.pushed(&push, Err(fault)),
            Ok(Ok(_)) => {
                self.resume(at);
                let until = self.now + QUIET_MS;
                self.after(QUIET_MS + 1, Due::Quiet(at));
                self.proxies[at].waiting.push((push, until));
                self.quiet(at);
            }
        }
    }

    /// Clients whose requests were given up: their links are closed.
    fn resume(&mut self, at: usize) {
        for n in 0..self.clients.len() {
            let gone = |id: u64| !self.proxies[at].flights.contains_key(&id);
            if self.clients[n].proxy == at && self.clients[n].flight.is_some_and(gone) {
                self.unknown(n);
            }
        }
    }

    /// Pushes whose time has come are answered.
    pub(crate) fn quiet(&mut self, at: usize) {
        if self.now < self.proxies[at].frozen_until {
            return;
        }
        let quiet = self.proxies[at].is_quiet() || self.plant == Some(Plant::NotQuiet);
        let waiting = std::mem::take(&mut self.proxies[at].waiting);
        for (push, until) in waiting {
            let epoch = self.proxies[at].epoch();
            match () {
                () if !push.quiet || quiet => self.pushed(&push, Ok(epoch)),
                () if self.now > until => self.pushed(&push, Err(PushFault::Refused("504: not quiet".to_owned()))),
                () => self.proxies[at].waiting.push((push, until)),
            }
        }
    }

    fn pushed(&mut self, push: &Push, outcome: Result<u64, PushFault>) {
        let (deed, delay) = (push.deed, self.delay());
        self.note(|| format!("p{} answers epoch {}: {outcome:?}", push.proxy, push.epoch));
        self.after(delay, Due::Tell(push.member, push.life, 0, Event::Pushed { deed, outcome }));
    }

    pub(crate) fn beat(&mut self, at: usize) {
        self.after(if self.proxies[at].serves { 1_000 } else { 200 }, Due::Beat(at));
        let now = self.now;
        self.proxies[at].lose_patience(now);
        let Some(leader) = self.leader else { return };
        if !self.proxies[at].works(now) || !self.reaches(&name(leader), &self.proxies[at].id) {
            return;
        }
        let id = self.proxies[at].id.clone();
        let up =
            |addr: &Addr| self.reaches(&id, &addr.to_string()) && self.instances.get(addr).is_some_and(|i| i.alive);
        let beat = self.proxies[at].beat(now, up);
        self.calls += 1;
        let (call, life) = (self.calls, self.nodes[leader].life);
        self.beats.insert(call, (at, self.proxies[at].life));
        let delay = self.delay();
        self.after(delay, Due::Tell(leader, life, 0, Event::Beat { call, beat }));
    }

    /// Before it stops, a proxy that has nothing in flight tells the leader that it serves nothing any more.
    pub(crate) fn say_goodbye(&mut self, at: usize) {
        let Some(leader) = self.leader else { return };
        let proxy = &self.proxies[at];
        if !proxy.works(self.now) || !proxy.flights.is_empty() || !self.reaches(&name(leader), &proxy.id) {
            return;
        }
        self.proxies[at].left = self.plant != Some(Plant::NoMark);
        let proxy = &self.proxies[at];
        let beat = Beat { leaving: true, ..proxy.beat(self.now, |_| true) };
        self.calls += 1;
        let (call, life, delay) = (self.calls, self.nodes[leader].life, self.delay());
        self.after(delay, Due::Tell(leader, life, 0, Event::Beat { call, beat }));
    }

    /// A heartbeat was answered: who serves an older epoch fetches the topology. One that starts serves from then on.
    pub(crate) fn answered(&mut self, n: usize, call: u64, answer: &BeatAnswer) {
        let epoch = answer.epoch;
        let Some((at, life)) = self.beats.remove(&call) else { return };
        if self.proxies[at].life != life
            || !self.proxies[at].works(self.now)
            || !self.reaches(&name(n), &self.proxies[at].id)
        {
            return;
        }
        if !answer.registered {
            return;
        }
        self.proxies[at].left = false;
        if epoch > self.proxies[at].epoch() {
            let message = self.nodes[n].control.as_ref().and_then(|c| c.view(self.now).message);
            let Some(message) = message else { return };
            if let Err(why) = self.proxies[at].take(&message) {
                return self.must(Err(format!("epochs: {why}")));
            }
            self.resume(at);
            self.quiet(at);
        }
        self.proxies[at].serves = true;
    }

    // ------------------------------------------------------------------------------------------------------- clients

    /// A client goes on: it sends what it wants to send, or tries again.
    pub(crate) fn client(&mut self, n: usize) {
        if self.clients[n].flight.is_some() {
            return;
        }
        let now = self.now;
        if self.clients[n].wish.is_none() {
            let slot = *self.rng.pick(&self.slots);
            let key = Key { slot, n: self.rng.below(crate::data::KEYS_OF_SLOT) as u8 };
            self.writes += 1;
            let value = if self.rng.one_in(6) { None } else { Some(self.writes) };
            self.clients[n].wish = Some((key, value, now));
        }
        let Some((key, value, since)) = self.clients[n].wish else { return };
        if now > since + PATIENCE_MS {
            self.clients[n].wish = None; // it was never sent
            return self.after(50, Due::Client(n));
        }
        let at = self.clients[n].proxy;
        let way = self.proxies[at].way(key.slot).filter(|_| self.proxies[at].works(now));
        let Some((group, addr, from)) = way else { return self.after(10, Due::Client(n)) };
        let Some(instance) = self.instances.get(&addr).filter(|i| i.alive) else {
            return self.after(30, Due::Client(n));
        };
        if !self.reaches(&self.proxies[at].id, &addr.to_string()) {
            return self.after(30, Due::Client(n));
        }
        let from = from.and_then(|addr| self.instances.get(&addr)).map(|i| (i.addr.clone(), i.run_id.clone()));
        self.requests += 1;
        let id = self.requests;
        self.proxies[at].flights.insert(id, (key.slot, addr.clone()));
        self.clients[n].flight = Some(id);
        let (life, process) = (self.proxies[at].life, instance.run_id.clone());
        let request =
            Request { id, client: n, proxy: at, life, addr, group, process, key, from, value, since, read: None };
        let delay = if self.rng.one_in(20) { self.rng.range(10, 60) } else { self.rng.range(1, 3) };
        self.after(delay, Due::Request(Box::new(request)));
    }

    /// At the instance.
    pub(crate) fn request(&mut self, mut r: Request) {
        let now = self.now;
        let open = self.reaches(&self.proxies[r.proxy].id, &r.addr.to_string());
        let Some(instance) = self.instances.get_mut(&r.addr) else { return };
        let same = instance.alive && instance.run_id == r.process;
        let waits = instance.frozen_until.max(if r.value.is_some() { instance.paused_until } else { 0 });
        if same && now < waits {
            return self.after(waits - now, Due::Request(Box::new(r)));
        }
        // READONLY is an error like others here.
        if !same || instance.follows.is_some() || (!open && r.life != self.proxies[r.proxy].life) {
            return self.after(1, Due::Failed(Box::new(r)));
        }
        if let Some((from, process)) = r.from.clone() {
            let open = self.reaches(&self.proxies[r.proxy].id, &from.to_string());
            let same = self.instances.get(&from).is_some_and(|i| i.answers(now) && i.run_id == process);
            if !open || !same || self.fetch(r.key, &from, &r.addr, false).is_err() {
                return self.after(1, Due::Failed(Box::new(r)));
            }
            self.fetched += 1;
        }
        let Some(instance) = self.instances.get_mut(&r.addr) else { return };
        match r.value {
            Some(value) => {
                let op = self.ops.add(Op::Append(r.key, value));
                instance.data.push(op);
            }
            None => {
                let history = instance.data.clone();
                let all = self.ops.fold(&history, |slot| slot == r.key.slot);
                r.read = Some((all.get(&r.key).cloned().unwrap_or_default(), self.is_recorded(&r)));
            }
        }
        let delay = if self.rng.one_in(20) { self.rng.range(10, 60) } else { self.rng.range(1, 3) };
        self.after(delay, Due::Reply(Box::new(r)));
    }

    /// Whether it was answered by the primary that is recorded, by that process.
    pub(crate) fn is_recorded(&self, r: &Request) -> bool {
        let primary = self.primaries.get(&r.group) == Some(&r.addr);
        primary && self.guards.get(&r.group).is_none_or(|(addr, process)| *addr == r.addr && *process == r.process)
    }

    /// Back at the proxy. `done`: the instance did it.
    pub(crate) fn reply(&mut self, r: Request, done: bool) {
        let at = r.proxy;
        if self.proxies[at].life != r.life {
            return self.unknown_if(&r);
        }
        if self.now < self.proxies[at].frozen_until {
            let wait = self.proxies[at].frozen_until - self.now;
            let due = if done { Due::Reply(Box::new(r)) } else { Due::Failed(Box::new(r)) };
            return self.after(wait, due);
        }
        if !self.reaches(&self.proxies[at].id, &r.addr.to_string()) {
            return self.after(50, if done { Due::Reply(Box::new(r)) } else { Due::Failed(Box::new(r)) });
        }
        if self.proxies[at].flights.remove(&r.id).is_none() || !done {
            self.unknown_if(&r);
        } else {
            self.proxies[at].replied.insert(r.addr.clone(), self.now);
            let recorded = self.is_recorded(&r);
            let checked = self.truth.answered(&r, self.now, recorded);
            self.must(checked);
            self.clients[r.client].flight = None;
            self.clients[r.client].wish = None;
            let think = self.rng.range(10, 60);
            self.after(think, Due::Client(r.client));
        }
        self.quiet(at);
    }

    fn unknown_if(&mut self, r: &Request) {
        if self.clients[r.client].flight == Some(r.id) {
            self.unknown(r.client);
        }
    }

    /// The client does not know what became of it, and goes on with something else.
    pub(crate) fn unknown(&mut self, n: usize) {
        (self.clients[n].flight, self.clients[n].wish) = (None, None);
        self.after(40, Due::Client(n));
    }
}
