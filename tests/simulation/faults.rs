//! The weather of a run: which faults happen, how often, and the settings they happen under.

use crate::instance::Instance;
use crate::rng::Rng;
use crate::topology::Plan;
use crate::worker::Order;
use crate::world::{Event, World};
use proxy::relay::limits::Settings;

/// Kinds of fault; a run has some of them, so that rare combinations come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A link is reset; both sides lose what was on its way.
    CutLink,
    /// A link is reset at the worker, while the instance still reads what had arrived.
    BreakLink,
    Freeze,
    Slow,
    Restart,
    Loading,
    RefuseConnects,
    IgnoreConnects,
    /// An instance says something that is not RESP.
    Babble,
    Stall,
    Settings,
    Drain,
    Failover,
}

const FAULTS: [Fault; 13] = [
    Fault::CutLink,
    Fault::BreakLink,
    Fault::Freeze,
    Fault::Slow,
    Fault::Restart,
    Fault::Loading,
    Fault::RefuseConnects,
    Fault::IgnoreConnects,
    Fault::Babble,
    Fault::Stall,
    Fault::Settings,
    Fault::Drain,
    Fault::Failover,
];

pub(crate) struct Weather {
    /// Nothing goes wrong; only bytes are cut, and slots move.
    pub(crate) calm: bool,
    pub(crate) clients_misbehave: bool,
    /// What a closed link had written may still be executed, unless the instance is told to kill the connection.
    pub(crate) late_bytes: bool,
    faults: Vec<Fault>,
    /// Mean time between two faults.
    pause_us: u64,
}

impl Weather {
    pub(crate) fn of(seed: u64, rng: &mut Rng) -> Self {
        let calm = seed.is_multiple_of(6);
        let one = seed % 6 == 1;
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| !calm && rng.one_in(2)).collect();
        if one {
            faults = vec![*rng.pick(&FAULTS)];
        }
        let (clients_misbehave, late_bytes) = (!calm && rng.one_in(2), !calm && rng.one_in(3));
        Self { calm, clients_misbehave, late_bytes, faults, pause_us: *rng.pick(&[5_000, 20_000, 80_000]) }
    }

    pub(crate) fn end(&mut self) {
        self.faults.clear();
        self.clients_misbehave = false;
    }

    /// Settings to start with. In calm weather bounds are wide: running into one would be an error.
    pub(crate) fn settings(&self, rng: &mut Rng) -> Settings {
        let mut settings = generous();
        settings.client_password = rng.one_in(4).then(|| "open sesame".to_owned());
        settings.instance_password = rng.one_in(4).then(|| "secret".to_owned());
        settings.links_per_instance = 1 + u32::from(rng.one_in(4));
        if !self.calm {
            narrow(&mut settings, rng);
        }
        settings
    }
}

/// What lets everything heal within the time that a run has for it.
fn generous() -> Settings {
    Settings {
        request_timeout_us: 1_000_000,
        link_dead_us: 2_000_000,
        connect_timeout_us: 300_000,
        link_ping_us: 200_000,
        hold_timeout_us: 2_000_000,
        ..Settings::default()
    }
}

fn narrow(settings: &mut Settings, rng: &mut Rng) {
    settings.request_timeout_us = rng.range(20_000, 600_000);
    settings.link_dead_us = settings.request_timeout_us * rng.range(2, 4);
    settings.connect_timeout_us = rng.range(10_000, 300_000);
    settings.link_ping_us = rng.range(20_000, 400_000);
    settings.hold_timeout_us = rng.range(5_000, 400_000);
    settings.client_in_flight_max = *rng.pick(&[2, 5, 30, 1024]);
    settings.client_output_soft = *rng.pick(&[1000, 50_000, 1 << 20]);
    settings.client_output_max = *rng.pick(&[400_000, 2 << 20, 64 << 20]);
    settings.hold_client_bytes_max = *rng.pick(&[500, 20_000, 1 << 20]);
    settings.hold_worker_bytes_max = *rng.pick(&[5_000, 64 << 20]);
    settings.request_kept_max = *rng.pick(&[100_000, 64 << 20]);
    settings.worker_memory_max = *rng.pick(&[3 << 20, 1 << 30]);
}

impl World {
    pub(crate) fn fault_turn(&mut self) {
        if self.weather.faults.is_empty() {
            return;
        }
        let fault = self.weather.faults[self.rng.below(self.weather.faults.len())];
        self.note(|| format!("fault: {fault:?}"));
        let i = self.rng.below(self.instances.len());
        let long = *self.rng.pick(&[2_000, 30_000, 300_000, 900_000]);
        let until = self.now + self.rng.range(1_000, long);
        match fault {
            Fault::CutLink => self.some_link(Self::cut_link),
            Fault::BreakLink => self.some_link(Self::break_link),
            Fault::Freeze => self.instances[i].frozen_until = until,
            Fault::Slow => {
                self.instances[i].slow_until = until;
                self.instances[i].pause_us = self.rng.range(100, 20_000);
            }
            Fault::Restart => self.restart(i, until),
            Fault::Loading => self.instances[i].loading_until = until,
            Fault::RefuseConnects => self.instances[i].refuses_until = until,
            Fault::IgnoreConnects => self.instances[i].ignores_until = until,
            Fault::Babble => self.some_link(Self::babble),
            Fault::Stall => {
                let w = self.rng.below(self.workers.len());
                self.workers[w].stalled_until = self.now + self.rng.range(1_000, 60_000);
            }
            Fault::Settings => self.change_settings(),
            Fault::Drain => self.drain_one(),
            Fault::Failover => self.failover(),
        }
        self.wake(Event::Instance(i), 0);
        let pause = self.rng.range(1, 2 * self.weather.pause_us);
        self.wake(Event::Fault, pause);
    }

    fn some_link(&mut self, deed: fn(&mut Self, usize)) {
        let open: Vec<usize> = (0..self.links.len())
            .filter(|&l| {
                self.links[l].open
                    && !self.links[l].broken
                    && !self.links[l].worker_gone
                    && !self.links[l].instance_gone
            })
            .collect();
        if !open.is_empty() {
            let l = open[self.rng.below(open.len())];
            deed(self, l);
        }
    }

    /// The worker's end is reset; what had reached the instance is still executed, unless the instance is told to
    /// kill the connection first.
    fn break_link(&mut self, l: usize) {
        if !self.weather.late_bytes {
            return self.cut_link(l);
        }
        let conn = &mut self.links[l];
        conn.broken = true;
        conn.up.tear(&mut self.rng);
        conn.down.clear();
        let w = conn.worker;
        self.delay(l);
        self.wake_soon(Event::Worker(w));
    }

    fn babble(&mut self, l: usize) {
        let words: &[u8] = [&b"hello\r\n"[..], b"*1x", b"$-9\r\n", b"+OK\nno\r\n"][self.rng.below(4)];
        self.links[l].peer.output.extend_from_slice(words);
        let i = self.links[l].instance;
        self.wake_soon(Event::Instance(i));
    }

    /// The process dies, and another one starts at its address later.
    fn restart(&mut self, i: usize, until: u64) {
        for l in self.open_links_of(i) {
            self.cut_link(l);
        }
        let forgets = self.rng.one_in(2);
        let loading = if self.rng.one_in(2) { self.rng.range(1_000, 100_000) } else { 0 };
        let instance = &mut self.instances[i];
        if forgets && instance.primary {
            instance.store.lose_all(&mut self.history);
        }
        instance.run += 1;
        instance.next_id = 3;
        instance.refuses_until = until;
        instance.loading_until = until + loading;
    }

    fn change_settings(&mut self) {
        let mut settings = self.settings.clone();
        narrow(&mut settings, &mut self.rng);
        settings.links_per_instance = 1 + self.rng.below(3) as u32;
        self.give_settings(settings);
    }

    fn give_settings(&mut self, settings: Settings) {
        self.settings = settings;
        for w in 0..self.workers.len() {
            self.workers[w].orders.push_back(Order::Settings(Box::new(self.settings.clone())));
            self.wake_soon(Event::Worker(w));
        }
    }

    pub(crate) fn drain_one(&mut self) {
        let w = self.rng.below(self.workers.len());
        if self.workers.len() < 2 || self.workers.iter().any(|worker| worker.draining) {
            return;
        }
        self.workers[w].orders.push_back(Order::Drain);
        self.workers[w].draining = true;
        self.wake_soon(Event::Worker(w));
    }

    /// A primary dies for good, and its replica takes its place with all its data.
    fn failover(&mut self) {
        if !self.director.idle() {
            return;
        }
        let group = self.rng.below(self.plan.primaries.len());
        let old = self.plan.primaries[group];
        let until = self.now + self.rng.range(10_000, 300_000);
        for l in self.open_links_of(old) {
            self.cut_link(l);
        }
        self.instances[old].run += 1;
        self.instances[old].next_id = 3;
        self.instances[old].refuses_until = until;
        self.promote(group);
        self.plan.epoch += 1;
        self.publish();
    }

    /// The group's replica becomes its primary, and has the group's data.
    pub(crate) fn promote(&mut self, group: usize) {
        let old = self.plan.primaries[group];
        let new = old ^ 1;
        for l in self.open_links_of(old) {
            self.unblock(l, true);
        }
        let data = self.instances[old].store.take(|_| true);
        self.instances[new].store.put(data);
        self.instances[new].store.ghosts = std::mem::take(&mut self.instances[old].store.ghosts);
        (self.instances[old].primary, self.instances[new].primary) = (false, true);
        self.plan.primaries[group] = new;
        self.note(|| format!("i{new} is primary of group {group} instead of i{old}"));
    }

    /// All faults end.
    pub(crate) fn heal(&mut self) {
        for i in 0..self.instances.len() {
            let Instance { loading_until, frozen_until, refuses_until, ignores_until, slow_until, .. } =
                &mut self.instances[i];
            for until in [loading_until, frozen_until, refuses_until, ignores_until, slow_until] {
                *until = 0;
            }
            self.wake_soon(Event::Instance(i));
        }
        for worker in &mut self.workers {
            worker.stalled_until = 0;
        }
        let settings = Settings {
            client_password: self.settings.client_password.clone(),
            instance_password: self.settings.instance_password.clone(),
            ..generous()
        };
        self.give_settings(settings);
    }

    /// Sends the plan to every worker; each takes it when its turn comes.
    pub(crate) fn publish(&mut self) {
        let topology = match Plan::topology(&self.plan) {
            Ok(topology) => topology,
            Err(why) => return self.history.fail(why),
        };
        for w in 0..self.workers.len() {
            self.workers[w].orders.push_back(Order::Topology(topology.clone()));
            let after = self.rng.range(10, 5_000);
            self.wake(Event::Worker(w), after);
        }
    }
}
