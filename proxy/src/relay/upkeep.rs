//! What the master says (a topology, settings, drain), and what time brings: reconnects, pings, timeouts, and bounds on
//! memory.

use super::client::{Client, Lane};
use super::command::{Arity, CommandId, Keys, Serve};
use super::limits::{
    EXCLUSIVE_IDLE_US, GIVE_BACK, GIVE_BACK_US, OVERRUN_US, REQUESTS_KEPT, STALL_US, Settings, TICK_IDLE_US, TICK_US,
    TRIM_KEEP,
};
use super::link::{self, Link, Own, State, Use};
use super::request::{NONE, PING, Stage};
use super::route::Load;
use super::route::Target;
use super::state::Relay;
use super::{ClientId, Deed, LinkId, LinkStatus, Now, command};
use crate::stats::{Counter, Gauge, OfGroup, Stats};
use cluster::instance::Addr;
use cluster::topology::{SlotState, Topology};
use std::sync::Arc;

const ROLE: &[u8] = b"*1\r\n$4\r\nROLE\r\n";

impl Relay {
    /// Call once at the head of each loop, before anything else.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// What the shell holds for connections, in bytes: it counts for `worker_memory_max`.
    pub fn set_shell_bytes(&mut self, bytes: usize) {
        self.shell_bytes = bytes;
    }

    /// Serves `topology` from now on. Say it between two events, never within one.
    pub fn set_topology(&mut self, topology: Arc<Topology>) {
        self.route_by(topology);
        self.go_on();
    }

    /// The same within an event, whose end goes on with the clients for which something has changed: one of them may be in
    /// the middle of its request, and its next one must not be begun.
    fn route_by(&mut self, topology: Arc<Topology>) {
        let mut targets = Vec::new();
        for group in topology.groups() {
            let Some(primary) = group.primary() else { continue };
            let entry = self.stats.group_entry(group.id).unwrap_or(usize::MAX);
            let links = self.links_to(&primary.addr, group.id, entry, primary.run_id.as_ref());
            targets.push(Target { group: group.id, links, owns_slots: false, copies: group.copies });
        }
        self.links_of_each = self.settings.links_per_instance.max(1) as usize;
        let kept: Vec<LinkId> = targets.iter().flat_map(|t| t.links.iter().copied()).collect();
        let replaced = self.replaced(&topology);
        self.retire_links(&kept, &replaced);
        self.orphans.topology(|addr| self.shared_links.contains_key(addr), self.now.us);
        if self.loads.len() != topology.slots().len() {
            self.count_loads();
            self.loads = vec![Load::default(); topology.slots().len()];
        }
        self.wide_before += std::mem::take(&mut self.wide_now);
        self.stats.add(Counter::TopologiesApplied, 1);
        let n = self.settings.links_per_instance.max(1) as usize;
        let others = self.routes.topology.as_ref().map_or(&[][..], |old| old.users()) != topology.users();
        self.routes.set(topology, targets, n, &self.loads, self.wide_before);
        self.fetches.forget_all();
        if others {
            self.set_users();
        }
        self.tend_subscriptions();
        self.look_after_sessions();
        self.look_after_uploads();
        self.release();
        self.settle();
    }

    /// The shared links to an instance: those there are, or new ones.
    fn links_to(&mut self, addr: &Addr, group: u32, entry: usize, run_id: Option<&String>) -> Vec<LinkId> {
        let of_each = self.settings.links_per_instance.max(1) as usize;
        let wanted = if self.resp3_wanted { 2 * of_each } else { of_each };
        let mut links = self.shared_links.remove(addr).unwrap_or_default();
        if self.links_of_each != of_each {
            // Which of them speak RESP3 goes by place.
            let keep = if self.resp3_wanted { of_each.min(self.links_of_each) } else { of_each };
            for surplus in links.split_off(keep.min(links.len())) {
                self.retire(surplus);
            }
        }
        for &id in &links {
            let link = &mut self.links[id as usize];
            (link.group, link.entry) = (group, entry);
            self.expect_process(id, run_id);
        }
        while links.len() < wanted {
            let mut link = Link::new(addr.clone(), group, entry, run_id.cloned(), Use::Shared, self.now.us);
            link.resp3 = links.len() >= of_each;
            let id = self.links.insert(link) as LinkId;
            self.deeds.push_back(Deed::Connect { link: id, addr: addr.clone() });
            links.push(id);
        }
        self.shared_links.insert(addr.clone(), links.clone());
        links
    }

    /// The topology says which process a link must lead to, where that is known. One that leads elsewhere is closed, one
    /// that was refused or is being tried again is tried now.
    pub(super) fn expect_process(&mut self, id: LinkId, run_id: Option<&String>) {
        let link = &mut self.links[id as usize];
        if link.run_id.as_ref() == run_id {
            return;
        }
        link.run_id = run_id.cloned();
        match link.state {
            State::Up => {
                if let Some(why) = link.stranger() {
                    self.close_link(id, why);
                }
            }
            State::Down { .. } => {
                (link.state, link.attempts, link.heard_us) = (State::Connecting, 0, self.now.us);
                let addr = link.addr.clone();
                self.deeds.push_back(Deed::Connect { link: id, addr });
            }
            State::Closing => link.attempts = 0,
            State::Connecting | State::Greeting => {} // judged when it has said who it is
        }
    }

    /// A client speaks RESP3: so must links.
    pub(super) fn want_resp3(&mut self) {
        if !std::mem::replace(&mut self.resp3_wanted, true)
            && let Some(topology) = self.routes.topology.clone()
        {
            self.route_by(topology);
        }
    }

    /// Primaries that were replaced while their slots were held: what is still in flight there was not waited for, and
    /// whatever they answer from now on is not the cluster's word. Between two epochs that do not follow on each other
    /// they may have been held, and a failover waits for no worker that is late.
    fn replaced(&self, topology: &Topology) -> Vec<Addr> {
        let Some(old) = &self.routes.topology else { return Vec::new() };
        let skipped = topology.epoch() > old.epoch() + 1;
        let held = |id| skipped || old.slots().iter().any(|s| s.group == Some(id) && s.state == SlotState::Held);
        let other = old.groups().iter().filter_map(|g| {
            let (before, now) = (&g.primary()?.addr, &topology.group(g.id)?.primary()?.addr);
            (before != now && held(g.id)).then(|| before.clone())
        });
        other.collect()
    }

    /// Links that the topology no longer uses end when nothing is in flight on them, those to replaced primaries at once.
    fn retire_links(&mut self, kept: &[LinkId], replaced: &[Addr]) {
        let mut gone: Vec<LinkId> = Vec::new();
        self.shared_links.retain(|_, links| {
            let keep = links.iter().all(|l| kept.contains(l));
            if !keep {
                gone.extend(links.iter());
            }
            keep
        });
        for id in gone {
            self.retire(id);
        }
        let over = |l: &Link| replaced.contains(&l.addr) && l.purpose != Use::Finished;
        let over: Vec<LinkId> = self.links.iter().filter(|(_, l)| over(l)).map(|(id, _)| id as LinkId).collect();
        for id in over {
            self.close_link(id, "another instance has become its group's primary".to_owned());
        }
        let idle = |l: &Link| matches!(l.purpose, Use::Idle { .. });
        let idle: Vec<LinkId> = self.links.iter().filter(|(_, l)| idle(l)).map(|(id, _)| id as LinkId).collect();
        for id in idle {
            self.links[id as usize].purpose = Use::Finished;
            self.close_link(id, "the topology has changed".to_owned());
        }
    }

    fn retire(&mut self, id: LinkId) {
        let link = &mut self.links[id as usize];
        link.purpose = Use::Retiring;
        if matches!(link.state, State::Down { .. }) {
            self.remove_link(id);
        } else if link.fifo.is_empty() {
            self.close_link(id, "its instance has left the topology".to_owned());
        }
    }

    pub fn set_settings(&mut self, settings: Settings) {
        let links_change = settings.links_per_instance != self.settings.links_per_instance;
        let mut denied = vec![false; command::count()];
        for name in &settings.denied_commands {
            for (id, refused) in (0..).zip(denied.iter_mut()) {
                let known = command::get(id).name;
                let whole = known.eq_ignore_ascii_case(&name.replace(' ', "|"));
                let part_of = known.split_once('|').is_some_and(|(container, _)| container.eq_ignore_ascii_case(name));
                *refused |= whole || part_of;
            }
        }
        let plain = |(id, refused): (CommandId, &bool)| {
            let command = command::get(id);
            let declared = settings.declared_commands.iter().any(|d| d.name.eq_ignore_ascii_case(command.name));
            let one_key = command.serve == Serve::Keyed && command.keys == Keys::One { at: 1 };
            let plain = one_key && !command.container && !refused && !declared;
            if plain { Arity::of(command) } else { Arity::NONE }
        };
        self.samples.set_every(settings.key_sample_every, self.now.us);
        self.slow_us = if settings.slowlog_slower_than_us == 0 { u64::MAX } else { settings.slowlog_slower_than_us };
        let of_users = |s: &Settings| (s.users.clone(), s.client_password.clone(), s.operator_commands);
        let users_change = of_users(&settings) != of_users(&self.settings) || self.users.iter().len() == 0;
        self.plain = (0..).zip(&denied).map(plain).collect();
        self.denied = denied;
        self.settings = settings;
        if users_change {
            self.set_users();
        }
        self.stats.add(Counter::SettingsApplied, 1);
        if links_change && let Some(topology) = self.routes.topology.clone() {
            self.set_topology(topology);
        }
    }

    /// From now on say `AtBoundary` of each client when it is between requests.
    pub fn drain(&mut self) {
        self.draining = true;
        self.resumable.extend(self.clients.iter().map(|(id, _)| id as ClientId));
        self.go_on();
    }

    /// Time has come (see `deadline`).
    pub fn tick(&mut self) {
        self.ticked_us = self.now.us;
        for id in 0..self.links.capacity() {
            self.tick_link(id as LinkId);
        }
        self.tick_orphans();
        self.tick_inquiries();
        self.tick_monitors();
        self.samples.tick(self.now.us);
        self.tick_fetches();
        self.expire_held();
        self.tick_interrupted();
        self.tick_uploads();
        self.tick_pressed();
        self.tick_idle();
        self.tick_memory();
        self.settle();
        self.go_on();
    }

    fn tick_link(&mut self, id: LinkId) {
        let now = self.now.us;
        let Some(link) = self.links.get_mut(id as usize) else { return };
        let quiet_us = now.saturating_sub(link.heard_us);
        match link.state {
            State::Down { until_us } if until_us <= now => {
                link.state = State::Connecting;
                link.heard_us = now;
                let addr = link.addr.clone();
                self.deeds.push_back(Deed::Connect { link: id, addr });
            }
            State::Connecting | State::Greeting if quiet_us > self.settings.connect_timeout_us => {
                let text = if link.state == State::Connecting { "no connection" } else { "no answer to the greeting" };
                let text = format!("{text} within {} ms", self.settings.connect_timeout_us / 1000);
                self.close_link(id, text);
            }
            State::Up => self.tick_up(id),
            _ => {}
        }
    }

    fn tick_up(&mut self, id: LinkId) {
        let now = self.now.us;
        let link = &mut self.links[id as usize];
        if let Use::Idle { since_us } = link.purpose
            && now.saturating_sub(since_us) > EXCLUSIVE_IDLE_US
        {
            link.purpose = Use::Finished;
            return self.close_link(id, "idle".to_owned());
        }
        // A script may answer READONLY, too: what it is says ROLE. Asked once a tick at most, in its place.
        if std::mem::take(&mut link.doubted) {
            link.out.append(&mut self.pool, ROLE);
            link.queued += ROLE.len() as u64;
            link.fifo.push_back(PING);
            link.own.push_back(Own::Role);
            return self.mark_link(id);
        }
        if link.fifo.is_empty() {
            let kept = link.shared() || link.purpose == Use::PubSub;
            if kept && now.saturating_sub(link.heard_us) >= self.settings.link_ping_us {
                link.out.append(&mut self.pool, b"*1\r\n$4\r\nPING\r\n");
                link.queued += 14;
                link.fifo.push_back(PING);
                link.own.push_back(Own::Ping);
                // The wait for the answer starts now.
                link.heard_before_us = Some(link.heard_us);
                link.heard_us = now;
                self.mark_link(id);
            }
            return;
        }
        let oldest = link.fifo.iter().find(|&&r| r != PING).map_or(0, |&r| self.requests[r as usize].sent_us);
        let waited = now.saturating_sub(link.heard_us.max(oldest));
        let late = waited > self.settings.link_dead_us && !link.stopped;
        if late && (!self.may_be_silent(id) || self.instance_is_gone(id)) {
            let text = format!("no byte came for {} ms while replies were owed", waited / 1000);
            return self.close_link(id, text);
        }
        let link = &self.links[id as usize];
        if link.shared() || link.purpose == Use::Errand {
            self.expire(id);
        }
    }

    /// Answers requests that wait too long; their replies, when they come, are dropped. The link stays: others use it.
    fn expire(&mut self, id: LinkId) {
        let limit = self.settings.request_timeout_us;
        loop {
            let link = &mut self.links[id as usize];
            let Some(&request_id) = link.fifo.get(link.expired) else { return };
            if request_id == PING {
                link.expired += 1;
                continue;
            }
            let request = &mut self.requests[request_id as usize];
            // One whose reply is coming in is not late.
            let coming = link.streamed > 0 && link.expired == 0;
            if coming || self.now.us.saturating_sub(request.sent_us) < limit {
                return;
            }
            let text = format!(
                "ERR twemslot: {} did not answer within {} ms; whether this was done is unknown",
                link::whose(link),
                limit / 1000
            );
            let place = link.expired;
            link.expired += 1;
            if request.stage == Stage::Fragment {
                let (fan, _) = self.fragment(request_id);
                self.refuse_fan(fan, Counter::ErrorsTimeout, &text);
                continue;
            }
            if request.client == NONE {
                continue;
            }
            // The answered request leaves the queue; a nameless one waits for its reply in its place.
            let (command, slot, started_us) = (request.command, request.slot, request.started_us);
            let (sent_us, sent_at) = (request.sent_us, request.place);
            let late = self.requests.open(NONE, command, slot, started_us);
            let nameless = &mut self.requests[late as usize];
            (nameless.stage, nameless.sent_us, nameless.place) = (Stage::Sent, sent_us, sent_at);
            self.links[id as usize].fifo[place] = late;
            self.refuse(request_id, Counter::ErrorsTimeout, &text);
        }
    }

    fn tick_pressed(&mut self) {
        for id in self.pressed.clone() {
            let client = &mut self.clients[id as usize];
            let still_us = self.now.us.saturating_sub(client.progress_us);
            if still_us > STALL_US {
                self.close_for_memory(id, "it has taken none of its replies for a minute");
            } else if still_us > OVERRUN_US && !client.overrun {
                client.overrun = true;
                self.resumable.push(id);
            }
        }
    }

    fn tick_idle(&mut self) {
        let limit = self.settings.client_idle_us;
        // Looking at every client is cheap enough once a second, not once a tick.
        if limit == 0 || self.now.us % 1_000_000 >= TICK_IDLE_US {
            return;
        }
        let now = self.now.us;
        // As in Redis who takes a reply is as alive as who asks, and who only listens has nothing to say.
        let still = |c: &Client| now.saturating_sub(c.heard_us.max(c.progress_us)) > limit;
        let waits = |c: &Client| c.head != NONE || !matches!(c.lane, Lane::Shared | Lane::Swallowing { .. });
        let listens = |c: &Client| c.session.as_ref().is_some_and(|s| !s.subscriptions.is_empty());
        let idle = |c: &Client| still(c) && !waits(c) && !listens(c);
        let idle: Vec<ClientId> = self.clients.iter().filter(|(_, c)| idle(c)).map(|(id, _)| id as ClientId).collect();
        for id in idle.into_iter().filter(|id| !self.monitors.here.contains(id)).collect::<Vec<_>>() {
            self.close_client(id);
        }
    }

    /// Who holds most, and how much. Who asked to be spared (CLIENT NO-EVICT) comes behind all others that hold anything.
    fn largest_client(&self) -> Option<(ClientId, usize)> {
        let held = |c: &Client| c.out.len() + c.input.len() + c.queued() + c.subscribed() + self.parked(c).0;
        let open = self.clients.iter().filter(|(_, c)| !c.closed).map(|(id, c)| (id as ClientId, held(c), c.no_evict));
        let most = open.filter(|(_, bytes, _)| *bytes > 0).max_by_key(|(_, bytes, spared)| (!spared, *bytes));
        most.map(|(id, bytes, _)| (id, bytes))
    }

    fn tick_memory(&mut self) {
        let max = self.settings.worker_memory_max;
        let mut lent = self.count_memory();
        while lent > max {
            let Some((id, freed)) = self.largest_client() else { break };
            let text =
                format!("buffers take {lent} bytes, more than worker_memory_max {max}, and it holds most of them");
            self.close_for_memory(id, &text);
            lent = lent.saturating_sub(freed);
        }
        let accepting = lent < max / 5 * 4;
        if accepting != self.accepting {
            self.accepting = accepting;
            self.deeds.push_back(if accepting { Deed::AcceptAgain } else { Deed::StopAccepting });
        }
        self.lent_most = self.lent_most.max(lent);
        let grown = self.clients.capacity() > self.clients_room;
        if (grown || self.lent_most > lent + GIVE_BACK) && self.now.us.saturating_sub(self.gave_back_us) > GIVE_BACK_US
        {
            (self.lent_most, self.gave_back_us) = (lent, self.now.us);
            self.pool.trim(TRIM_KEEP);
            self.requests.trim(REQUESTS_KEPT);
            self.clients_room = self.clients.capacity();
            self.deeds.push_back(Deed::GiveMemoryBack);
        }
    }

    /// When `tick` wants to be called next, in `Now::us`.
    pub fn deadline(&self) -> u64 {
        let busy = !self.requests.is_empty()
            || !self.pressed.is_empty()
            || !self.waiting.is_empty()
            || self.links.iter().any(|(_, l)| l.state != State::Up);
        self.ticked_us + if busy { TICK_US } else { TICK_IDLE_US }
    }

    /// The next link with new output to write; each is named once until it gets more.
    pub fn next_dirty_link(&mut self) -> Option<LinkId> {
        let id = self.dirty_links.pop()?;
        self.links[id as usize].dirty = false;
        Some(id)
    }

    pub fn next_dirty_client(&mut self) -> Option<ClientId> {
        let id = self.dirty_clients.pop()?;
        self.clients[id as usize].dirty = false;
        Some(id)
    }

    pub fn next_deed(&mut self) -> Option<Deed> {
        self.deeds.pop_front()
    }

    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// How many clients have something new to write.
    pub fn dirty_clients(&self) -> usize {
        self.dirty_clients.len()
    }

    /// The counts; the gauges among them are as `stats` left them.
    pub fn counts(&mut self) -> &mut Stats {
        self.flush_runs();
        &mut self.stats
    }

    /// The counts, with the gauges and what slots were asked for as of now. It looks at every slot: for now and then.
    pub fn all_stats(&mut self) -> &mut Stats {
        self.count_loads();
        self.stats()
    }

    /// The counts, with the gauges as of now. It looks at every client: for now and then.
    pub fn stats(&mut self) -> &mut Stats {
        self.flush_runs();
        let links = || self.links.iter().map(|(_, l)| l).filter(|l| l.shared());
        let up = links().filter(|l| l.state == State::Up).count();
        let slots_held = self
            .routes
            .topology
            .as_ref()
            .map_or(0, |t| t.slots().iter().filter(|s| s.state == SlotState::Held).count());
        let quiet = if self.routes.quiet_owed.is_some() { 0 } else { self.routes.epoch() };
        for (gauge, value) in [
            (Gauge::Clients, self.clients.len()),
            (Gauge::ClientsBlocked, self.clients.iter().filter(|(_, c)| c.blocks()).count()),
            (Gauge::RequestsInFlight, self.requests.len()),
            (Gauge::RequestsHeld, self.held.len()),
            (Gauge::SlotsHeld, slots_held),
            (Gauge::MemoryBytes, self.memory()),
            (Gauge::ClientOutputBytes, self.clients.iter().map(|(_, c)| c.out.len()).sum()),
            (Gauge::LinkOutputBytes, self.links.iter().map(|(_, l)| l.output_bytes()).sum()),
            (Gauge::LinksUp, up),
            (Gauge::LinksDown, links().count() - up),
            (Gauge::Orphans, self.orphans.len()),
            (Gauge::TopologyEpoch, self.routes.epoch() as usize),
            (Gauge::QuietEpoch, quiet as usize),
            (Gauge::Draining, usize::from(self.draining)),
        ] {
            self.stats.set(gauge, value as u64);
        }
        for (_, link) in self.links.iter().filter(|(_, l)| l.purpose == Use::Shared && l.entry != usize::MAX) {
            self.stats.set_of_group(link.entry, OfGroup::InFlight, link.in_flight() as u64);
            self.stats.set_of_group(link.entry, OfGroup::OutputBytes, link.output_bytes() as u64);
            self.stats.set_of_group(link.entry, OfGroup::LinkUp, u64::from(link.state == State::Up));
            let age = link.last_heard_us().map_or(0, |us| self.now.us.saturating_sub(us) / 1000 + 1);
            self.stats.set_of_group(link.entry, OfGroup::ReplyAge, age);
        }
        &mut self.stats
    }

    /// How the shared links stand, for people.
    pub fn link_status(&self) -> Vec<LinkStatus> {
        let status = |link: &Link| LinkStatus {
            group: link.group,
            addr: link.addr.to_string(),
            state: match link.state {
                State::Up => "up",
                State::Connecting | State::Greeting => "connecting",
                State::Down { .. } | State::Closing => "down",
            }
            .to_owned(),
            cause: link.cause.clone(),
            in_flight: link.in_flight(),
            output_bytes: link.output_bytes(),
        };
        self.links.iter().map(|(_, l)| l).filter(|l| l.shared()).map(status).collect()
    }

    /// Panics if the relay contradicts itself; for tests.
    pub fn check(&self) {
        for (id, client) in &self.clients {
            let (mut n, mut at, mut held) = (0, client.head, 0);
            while at != NONE {
                let request = &self.requests[at as usize];
                assert_eq!(request.client as usize, id, "a request in another client's list");
                assert!(n > 0 || request.stage != Stage::Done, "the head is answered but still there");
                held += u32::from(request.stage == Stage::Waiting);
                (n, at) = (n + 1, request.next);
            }
            assert_eq!((n, held), (client.in_flight, client.held), "client {id}: requests and held ones");
        }
        let mut in_flight = vec![0u32; self.loads.len()];
        for (id, link) in &self.links {
            let own = link.fifo.iter().filter(|&&r| r == PING).count();
            assert_eq!(own, link.own.len(), "link {id}: our own requests, and what they are");
            for &request in link.fifo.iter().filter(|&&r| r != PING) {
                if let Some(n) = in_flight.get_mut(usize::from(self.requests[request as usize].slot)) {
                    *n += 1;
                }
            }
        }
        let subscribed: usize = self.clients.iter().map(|(_, c)| c.subscribed()).sum();
        assert_eq!(subscribed, self.pubsub.bytes, "what subscriptions take");
        let counted: Vec<u32> = self.loads.iter().map(|load| load.in_flight).collect();
        assert_eq!(in_flight, counted, "requests in flight, by slot");
        let counted = self.fans.iter().filter(|(_, f)| f.generation != u32::MAX).count();
        assert_eq!(counted as u32, self.wide_now + self.wide_before, "split requests in flight");
    }
}
