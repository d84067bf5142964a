//! The ground: who sees what, orders that arrive, deaths and starts.

use crate::instances::Instance;
use crate::members::{api, name};
use crate::plant::Plant;
use crate::world::{Deed, Due, Errand, MEMBERS, World};
use cluster::instance::Addr;
use configsvr::control::event::{Event, Leadership, Order, Report};
use configsvr::control::limits;

impl World {
    pub(crate) fn look(&mut self, n: usize) {
        self.after(50, Due::Look(n));
        if !self.nodes[n].works(self.now) {
            return;
        }
        let now = self.now;
        let open: Vec<bool> =
            self.nodes[n].watchers.keys().map(|addr| self.reaches(&name(n), &addr.to_string())).collect();
        let node = &mut self.nodes[n];
        let mut looks = Vec::new();
        for ((addr, watcher), open) in node.watchers.iter_mut().zip(open) {
            let Some(instance) = self.instances.get(addr) else { continue };
            looks.push((addr.clone(), watcher.look(now, open, instance, node.close.contains(addr), false)));
        }
        self.tell(n, self.nodes[n].life, 0, Event::Observed(looks));
    }

    pub(crate) fn ask_all(&mut self, n: usize, life: u64) {
        for other in 0..MEMBERS {
            if other != n && self.reaches(&name(n), &name(other)) {
                let delay = self.rng.range(1, 4);
                self.after(delay, Due::Poll(n, life, other, self.now));
            }
        }
    }

    pub(crate) fn poll(&mut self, from: usize, life: u64, to: usize, asked: u64) {
        let works = self.nodes[to].works(self.now);
        let ballot = self.nodes[to].control.as_ref().filter(|_| works).map(|c| c.ballot(self.now));
        let event = Event::Polled { asked, voters: MEMBERS, member: to as u64 + 1, ballot };
        let delay = self.rng.range(1, 4);
        self.after(delay, Due::Tell(from, life, 0, event));
    }

    /// Whether this leader is one, as a majority would say.
    pub(crate) fn leads(&self, member: usize, token: configsvr::control::layout::Token) -> bool {
        self.token == token && self.leader == Some(member)
    }

    /// An order on its way. Redis knows no epochs: a majority is asked before it is given.
    pub(crate) fn errand(&mut self, mut e: Errand) {
        if self.nodes[e.member].life != e.life {
            return; // its connection is closed, and the command was not sent
        }
        if self.now < self.nodes[e.member].paused_until {
            let wait = self.nodes[e.member].paused_until - self.now;
            return self.after(wait, Due::Order(Box::new(e)));
        }
        let (ping, late) = (e.order == Order::Ping, self.now > e.since + limits::LAST_CHANCE_MS);
        let open = self.reaches(&name(e.member), &e.to.to_string());
        let Some(instance) = self.instances.get(&e.to) else { return };
        if !open || !instance.alive || (ping && late) {
            return self.ordered(&e, Err("connection refused".to_owned()));
        }
        if !instance.answers(self.now) {
            return self.after(10, Due::Order(Box::new(e)));
        }
        if !ping && !e.confirmed {
            if !self.leads(e.member, e.token) {
                return self.ordered(&e, Err("this member no longer leads".to_owned()));
            }
            e.confirmed = true;
            let delay = self.delay().min(5);
            return self.after(delay, Due::Order(Box::new(e)));
        }
        // A later leader has killed the connection.
        if !ping && e.token < self.token {
            return self.ordered(&e, Err("the connection was killed".to_owned()));
        }
        self.carry_out(&e);
    }

    fn carry_out(&mut self, e: &Errand) {
        let now = self.now;
        let Some(instance) = self.instances.get_mut(&e.to) else { return };
        if let Order::Succeed { offset, ms, .. } = &e.order
            && instance.info(now).offset < *offset
        {
            if now > e.since + ms {
                return self.ordered(e, Err("it does not catch up".to_owned()));
            }
            let again = Errand { order: e.order.clone(), to: e.to.clone(), ..*e };
            return self.after(3, Due::Order(Box::new(again)));
        }
        let before = instance.info(now);
        instance.obey(now, &e.order);
        let after = instance.info(now);
        if matches!(e.order, Order::Demote { .. }) {
            self.lines.cut_all(&e.to);
        }
        self.ordered(e, Ok(Report { before, after }));
    }

    fn ordered(&mut self, e: &Errand, outcome: Result<Report, String>) {
        let (deed, delay) = (e.deed, self.delay());
        self.after(delay, Due::Tell(e.member, e.life, 0, Event::Ordered { deed, outcome }));
    }

    pub(crate) fn perform(&mut self, deed: Deed) {
        self.note(|| format!("-- {deed:?}"));
        let now = self.now;
        self.counting = true;
        match deed {
            Deed::Kill(addr) => self.kill(&addr),
            Deed::Restart(addr, down, kept) => {
                if self.instances.get(&addr).is_some_and(|i| i.alive) {
                    self.kill(&addr);
                    self.after(down, Due::Rise(addr, kept));
                }
            }
            Deed::Freeze(addr, ms) => self.instances.get_mut(&addr).into_iter().for_each(|i| i.freeze(now, ms)),
            Deed::Cut(a, b, ms) => {
                self.cuts.insert((a.clone(), b.clone()));
                self.after(ms, Due::Heal(a, b));
            }
            Deed::CrashMember(n) => self.crash(n),
            Deed::PauseMember(n, ms) => self.nodes[n].paused_until = now + ms,
            Deed::StopProxy(n, ms) => {
                self.say_goodbye(n);
                self.crash_proxy(n, ms);
            }
            Deed::CrashProxy(n, ms) => self.crash_proxy(n, ms),
            Deed::FreezeProxy(n, ms) => self.proxies[n].frozen_until = now + ms,
            Deed::StoreAway(ms) => self.store_away_until = now + ms,
            Deed::KillMovers => self.movers.values_mut().for_each(|m| m.dies = true),
            Deed::Ask(command) => self.ask(command),
        }
    }

    fn crash_proxy(&mut self, n: usize, ms: u64) {
        self.proxies[n].crash();
        for client in (0..self.clients.len()).filter(|c| self.clients[*c].proxy == n).collect::<Vec<_>>() {
            if self.clients[client].flight.is_some() {
                self.unknown(client);
            }
        }
        self.after(ms, Due::StartProxy(n));
    }

    fn kill(&mut self, addr: &Addr) {
        self.instances.get_mut(addr).into_iter().for_each(Instance::kill);
        self.lines.cut_all(addr);
    }

    pub(crate) fn rise(&mut self, addr: &Addr, kept: usize) {
        let now = self.now;
        let Some(instance) = self.instances.get_mut(addr).filter(|i| !i.alive) else { return };
        if kept < instance.data.len() {
            self.truth.shaken.insert(addr.clone(), now);
        }
        instance.start(now, kept);
        let writes = instance.data.len();
        self.note(|| format!("-- {addr} starts with {writes} writes"));
    }

    pub(crate) fn start_proxy(&mut self, n: usize) {
        if !self.proxies[n].up {
            let now = self.now;
            self.note(|| format!("-- p{n} starts"));
            self.proxies[n].start(now);
            self.proxies[n].serves = self.plant == Some(Plant::Hasty);
        }
    }

    pub(crate) fn crash(&mut self, n: usize) {
        if self.nodes[n].control.is_none() {
            return;
        }
        self.note(|| format!("-- m{n} dies"));
        self.nodes[n].crash();
        if self.leader == Some(n) {
            (self.leader, self.unled_since) = (None, Some(self.now));
        }
        let back = self.rng.range(800, 4_000);
        self.after(back, Due::Start(n));
    }

    pub(crate) fn start(&mut self, n: usize) {
        if self.nodes[n].control.is_some() {
            return;
        }
        self.nodes[n].start(self.seed);
        self.watch_soon(n);
        if let Some(leader) = self.leader.filter(|leader| *leader != n) {
            let (life, order) = (self.nodes[n].life, self.order);
            let leadership = Leadership::Following(Some((name(leader), api(leader))));
            self.after(20, Due::Tell(n, life, order, Event::Leadership(leadership)));
        }
    }
}
