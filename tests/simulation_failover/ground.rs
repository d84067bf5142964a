//! The ground: clients write, orders arrive.

use crate::members::name;
use crate::plant::{Plant, lie};
use crate::truth::Truth;
use crate::world::{Due, Errand, GROUPS, World};
use configsvr::control::event::{Event, Order, Report};
use configsvr::control::health::may_lead;
use configsvr::control::limits;

impl World {
    pub(crate) fn client_writes(&mut self, at: usize) {
        self.after(15, Due::Write(at));
        let (now, group) = (self.now, 1 + self.rng.below(GROUPS as usize) as u32);
        if now < self.proxies[at].alive_at {
            return;
        }
        let Some((addr, named)) = self.proxies[at].way(group) else { return };
        let (proxy, there) = (self.proxies[at].id.clone(), addr.to_string());
        if !self.arrives(&proxy, &there) {
            return;
        }
        let answered = self.arrives(&there, &proxy);
        // The recorded primary, and the process that was recorded, where processes are told apart.
        let process = self.guarded(group).map(|(_, run_id)| run_id).filter(|_| self.plant != Some(Plant::SameRunId));
        let recorded = self.primaries().get(&group) == Some(&addr)
            && self.instances.get(&addr).is_some_and(|i| process.as_ref().is_none_or(|p| *p == i.run_id));
        let Some(instance) = self.instances.get_mut(&addr) else { return };
        let takes = instance.answers(now) && instance.follows.is_none() && now >= instance.paused_until;
        let meant = self.plant == Some(Plant::SameRunId) || named.is_none_or(|run_id| run_id == instance.run_id);
        if !takes || !(meant || self.plant == Some(Plant::AnyProcess)) {
            return;
        }
        self.writes += 1;
        let write = self.writes;
        self.truth.wrote(&instance.replid, instance.data.len(), write);
        instance.data.push(write);
        if !answered {
            return; // done, and its client is told that nobody knows
        }
        self.truth.acked.insert(write, group);
        if !recorded && meant {
            // A proxy that was not told yet; an old primary that was not demoted yet.
            self.truth.forgiven.insert(write);
        }
        self.proxies[at].replied.insert(addr, now);
    }

    pub(crate) fn errand(&mut self, mut e: Errand) {
        let now = self.now;
        let fenced = self.plant != Some(Plant::NoFence);
        let (member, there) = (name(e.member), e.to.to_string());
        // It takes both directions to connect; what is said on a connection takes one.
        let open = if e.stage == 0 { self.reaches(&member, &there) } else { self.arrives(&member, &there) };
        let answers = open && self.instances.get(&e.to).is_some_and(|i| i.answers(now));
        let dead = self.instances.get(&e.to).is_none_or(|i| !i.alive);
        let patience = if e.order == Order::Ping { limits::LAST_CHANCE_MS } else { 2_000 };
        if dead || now > e.since + patience {
            let why = if dead { "connection refused" } else { "timed out" };
            return self.ordered(&e, Err(why.to_owned()));
        }
        if !answers {
            return self.after(20, Due::Order(Box::new(e))); // its bytes wait there
        }
        let killed = self.kills.get(&e.to).copied().unwrap_or(0);
        match e.stage {
            0 if e.order == Order::Ping => self.carry_out(&e),
            // Connects: all other tokens' connections are killed.
            0 => {
                if fenced {
                    let later = self.instances.get(&e.to).is_none_or(|i| i.fence != Some(e.token));
                    if later {
                        *self.kills.entry(e.to.clone()).or_default() += 1;
                    }
                }
                e.kills = self.kills.get(&e.to).copied().unwrap_or(0);
                e.stage = 1;
                let delay = self.delay();
                self.after(delay, Due::Order(Box::new(e)));
            }
            // Asks a majority.
            1 => {
                let leads = self.token == e.token && self.leader == Some(e.member);
                if fenced && !leads {
                    return self.ordered(&e, Err("this member no longer leads".to_owned()));
                }
                e.stage = 2;
                let delay = self.delay();
                self.after(delay, Due::Order(Box::new(e)));
            }
            _ if fenced && killed != e.kills => self.ordered(&e, Err("the connection was killed".to_owned())),
            _ => self.carry_out(&e),
        }
    }

    pub(crate) fn carry_out(&mut self, e: &Errand) {
        let now = self.now;
        let asked = self.instances.get(&e.to).map_or(String::new(), |i| self.history(i.group));
        let Some(instance) = self.instances.get_mut(&e.to) else { return };
        if let Order::Succeed { replid, offset, .. } = &e.order {
            let info = instance.info(now);
            if !may_lead(&info, replid) && self.plant != Some(Plant::AnyHistory) {
                return self.ordered(e, Err("does not continue the history".to_owned()));
            }
            if info.offset < *offset && self.plant != Some(Plant::NoCatchUp) {
                let again = Errand { order: e.order.clone(), to: e.to.clone(), ..*e };
                return self.after(3, Due::Order(Box::new(again)));
            }
        }
        let info = instance.info(now);
        let other = match &e.order {
            Order::Promote { replid, offset } => !may_lead(&info, replid) || info.offset < *offset,
            Order::Lead { run_id } => info.run_id != *run_id,
            _ => false,
        };
        if other && self.plant != Some(Plant::AnyHistory) {
            return self.ordered(e, Err("is not what was chosen".to_owned()));
        }
        let mut checked = Ok(());
        if e.order != Order::Ping {
            checked = Truth::obeys(instance, e.token);
        }
        let before = instance.info(now);
        instance.obey(now, &e.order);
        let after = instance.info(now);
        let (replid, data) = (instance.replid.clone(), instance.data.clone());
        self.truth.branches(&replid, &data);
        self.must(checked);
        let mut report = Report { before, after };
        lie(self.plant, &mut report, &asked);
        let lost = self.weather_until > 0 && !self.calm && e.order != Order::Ping && self.rng.one_in(40);
        if lost || !self.arrives(&e.to.to_string(), &name(e.member)) {
            return self.ordered(e, Err("it was told, and nothing came back".to_owned()));
        }
        self.ordered(e, Ok(report));
    }

    pub(crate) fn ordered(&mut self, e: &Errand, outcome: Result<Report, String>) {
        let (deed, delay) = (e.deed, self.delay());
        self.after(delay, Due::Tell(e.member, e.life, 0, Event::Ordered { deed, outcome }));
    }
}
