//! Large requests. One that is larger than `LARGE` does not share a link, where others would wait behind a slow client;
//! it waits until the client's earlier requests are answered, then passes over a link of its own, piece by piece in
//! both directions, at the pace of the slower side. So order holds and little is kept.

use super::client::{Client, Lane};
use super::command::{CommandId, Keys, Serve};
use super::limits::{EXCLUSIVE_IDLE_MAX, EXCLUSIVE_MAX, EXCLUSIVE_OUTPUT, UPLOAD_GRACE_US};
use super::link::{Link, State, Use, whose};
use super::request::Stage;
use super::scatter::no_owner;
use super::session::Watch;
use super::state::Relay;
use super::{ClientId, Deed, LinkId};
use crate::stats::{Counter, Gauge};
use cluster::resp::reply::{Cursor, Step};
use cluster::resp::request::{Frame, KEPT};
use cluster::slot::Slot;

impl Relay {
    /// A request has shown itself to be large (its first bytes are `raw`, and it has at least `need`). True: its lane is settled, go on with it.
    /// False: it is kept until it is whole, because it may have to be split.
    pub(super) fn begin_large(&mut self, id: ClientId, frame: &Frame, raw: &[u8], need: usize) -> bool {
        // What is queued, or must be refused, or is declared is looked at as a whole.
        let client = &self.clients[id as usize];
        let queues = client.session.as_ref().is_some_and(|s| s.multi.is_some());
        if frame.found == 0 || queues || client.listens() || self.declaration(frame, raw).is_some() {
            return self.refuse_if_huge(id, raw);
        }
        let Some((command, entry)) = self.screen(id, frame, raw) else {
            self.clients[id as usize].lane = Lane::Swallowing { cursor: Cursor::default() };
            return true;
        };
        let key_at = match (entry.serve, entry.keys) {
            (Serve::Keyed, Keys::One { at }) => usize::from(at),
            (Serve::Keyed, Keys::Range { first, last, .. }) if i32::from(first) == i32::from(last) => {
                usize::from(first)
            }
            _ => KEPT,
        };
        if key_at >= KEPT || frame.found as usize <= key_at {
            return self.refuse_if_huge(id, raw);
        }
        let key = frame.kept[key_at].of(raw);
        let slot = self.routes.slot_of(key);
        self.samples.large_request(key, slot, self.now.us, need as u64, entry.name);
        self.stats.add(Counter::Requests, 1);
        self.stats.add(Counter::RequestsLarge, 1);
        let client = &mut self.clients[id as usize];
        client.large_key = key.into();
        client.lane = Lane::Waiting { command, slot, since_us: self.now.us };
        self.waiting.push(id);
        self.try_waiting(id);
        true
    }

    /// A request that has to be kept whole has a bound.
    fn refuse_if_huge(&mut self, id: ClientId, raw: &[u8]) -> bool {
        let max = self.settings.request_kept_max;
        if raw.len() <= max {
            return false;
        }
        let text = format!(
            "ERR twemslot: the request is larger than request_kept_max {max}, and its keys may be in several groups"
        );
        self.refuse_here(id, 0, Counter::ErrorsOverload, &text);
        let client = &mut self.clients[id as usize];
        client.lane = Lane::Swallowing { cursor: Cursor::default() };
        if let Some(multi) = client.session.as_mut().and_then(|s| s.multi.as_mut()) {
            multi.failed = true;
        }
        true
    }

    /// Refuses a large request that waits, and drops its bytes.
    pub(super) fn refuse_large(&mut self, id: ClientId, counter: Counter, text: &str) {
        let Lane::Waiting { command, .. } = self.clients[id as usize].lane else { return };
        self.clients[id as usize].large_key = Box::default();
        self.waiting.retain(|&w| w != id);
        self.clients[id as usize].lane = Lane::Swallowing { cursor: Cursor::default() };
        self.refuse_here(id, command, counter, text);
        self.resumable.push(id);
    }

    /// Starts a large request whose turn has come.
    pub(super) fn try_large(&mut self, id: ClientId, command: CommandId, slot: Slot) {
        let route = self.routes.slots[usize::from(slot)];
        let Some(shared) = self.links.get(route.link as usize) else {
            return self.refuse_large(id, Counter::ErrorsNoOwner, &no_owner(slot));
        };
        if matches!(shared.state, State::Down { .. } | State::Closing) {
            let text = format!("ERR twemslot: {} is down: {}; nothing was sent", whose(shared), shared.cause);
            return self.refuse_large(id, Counter::ErrorsLinkDown, &text);
        }
        match self.exclusive_link(route.link, id) {
            Some(link) => self.start_large(id, link, command, slot),
            None => {
                let text =
                    format!("ERR twemslot: {EXCLUSIVE_MAX} large requests are under way already; nothing was sent");
                self.refuse_large(id, Counter::ErrorsOverload, &text);
            }
        }
    }

    /// An idle link to the same instance, or a new one.
    pub(super) fn exclusive_link(&mut self, like: LinkId, client: ClientId) -> Option<LinkId> {
        let shared = &self.links[like as usize];
        let resp3 = self.clients[client as usize].resp3;
        let fits = |l: &Link| matches!(l.purpose, Use::Idle { .. }) && l.state == State::Up && l.resp3 == resp3;
        let idle = |l: &Link| fits(l) && l.addr == shared.addr;
        let mut links = self.links.iter();
        if let Some((link, _)) = links.find(|(_, l)| idle(l)) {
            self.links[link].purpose = Use::Exclusive { client };
            self.kill_first(link as LinkId);
            return Some(link as LinkId);
        }
        if self.links.iter().filter(|(_, l)| !l.shared()).count() >= EXCLUSIVE_MAX {
            return None;
        }
        let purpose = Use::Exclusive { client };
        let mut new =
            Link::new(shared.addr.clone(), shared.group, shared.entry, shared.run_id.clone(), purpose, self.now.us);
        new.resp3 = resp3;
        let addr = new.addr.clone();
        let link = self.links.insert(new) as LinkId;
        self.deeds.push_back(Deed::Connect { link, addr });
        Some(link)
    }

    fn start_large(&mut self, id: ClientId, link_id: LinkId, command: CommandId, slot: Slot) {
        self.waiting.retain(|&w| w != id);
        self.clients[id as usize].large_key = Box::default();
        let request_id = self.open_request(id, command, slot);
        let link = &mut self.links[link_id as usize];
        let request = &mut self.requests[request_id as usize];
        request.stage = Stage::Sent;
        request.sent_us = self.now.us;
        request.place = link.queued;
        link.fifo.push_back(request_id);
        let load = &mut self.loads[usize::from(slot)];
        (load.in_flight, load.requests) = (load.in_flight + 1, load.requests + 1);
        let cursor = Cursor::default();
        self.clients[id as usize].lane = Lane::Passing { link: link_id, request: request_id, cursor, whole: false };
        self.resumable.push(id);
    }

    /// Passes on what may be passed on of `rest`; how much was used.
    pub(super) fn pass(&mut self, id: ClientId, rest: &[u8]) -> usize {
        let client = &mut self.clients[id as usize];
        let Lane::Passing { link: link_id, request, ref mut cursor, ref mut whole } = client.lane else { return 0 };
        let link = &mut self.links[link_id as usize];
        if *whole || link.state != State::Up || link.out.len() >= EXCLUSIVE_OUTPUT {
            return 0;
        }
        let used = match cursor.step(rest) {
            Step::Done { len } => {
                *whole = true;
                len
            }
            Step::More { used } => used,
            Step::Wrong => {
                self.close_link(link_id, "the client's request is not RESP".to_owned());
                self.close_for_protocol(id, "a large request is not an array of bulk strings");
                return 0;
            }
        };
        link.out.append(&mut self.pool, &rest[..used]);
        link.queued += used as u64;
        // The instance owes nothing before it has it all: its time begins with the last of it.
        self.requests[request as usize].sent_us = self.now.us;
        self.mark_link(link_id);
        used
    }

    /// Whether more of a large request can be passed on now.
    pub(super) fn passes(&self, id: ClientId) -> bool {
        let Lane::Passing { link, whole, .. } = self.clients[id as usize].lane else { return false };
        let link = &self.links[link as usize];
        !whole && link.state == State::Up && link.out.len() < EXCLUSIVE_OUTPUT
    }

    /// The reply on an exclusive link is whole: the link is free, the client shares again.
    pub(super) fn large_answered(&mut self, link_id: LinkId) {
        let Use::Exclusive { client: id } = self.links[link_id as usize].purpose else { return };
        let watched = self.clients.get(id as usize).map(|c| c.watch());
        let addr = self.links[link_id as usize].addr.clone();
        let idle = |l: &Link| matches!(l.purpose, Use::Idle { .. }) && l.addr == addr;
        let many = self.links.iter().filter(|(_, l)| idle(l)).count() >= EXCLUSIVE_IDLE_MAX;
        let whole = self.leave_large(id, link_id);
        if matches!(watched, Some(Watch::On { link, .. }) if link == link_id) {
            return self.read_link_again(link_id);
        }
        if whole && !many && !self.links[link_id as usize].spent {
            self.links[link_id as usize].purpose = Use::Idle { since_us: self.now.us };
            self.read_link_again(link_id);
        } else {
            self.links[link_id as usize].purpose = Use::Finished;
            self.close_link(link_id, "no longer needed".to_owned());
        }
    }

    /// Takes the client off an exclusive link; whether its request had been passed on whole. If not, the rest is
    /// dropped as it comes.
    pub(super) fn leave_large(&mut self, id: ClientId, link_id: LinkId) -> bool {
        let Some(client) = self.clients.get_mut(id as usize) else { return true };
        let Lane::Passing { link, cursor, whole, .. } = client.lane else { return true };
        if link != link_id {
            return true;
        }
        client.lane = if whole { Lane::Shared } else { Lane::Swallowing { cursor } };
        self.resumable.push(id);
        whole
    }

    /// A topology has come: large requests that are coming in for a slot which is held, or settles, have a little time left.
    pub(super) fn look_after_uploads(&mut self) {
        let until_us = self.uploads_until_us.unwrap_or(self.now.us + UPLOAD_GRACE_US);
        self.uploads_until_us = (!self.late_uploads().is_empty()).then_some(until_us);
    }

    /// Large requests that are not whole, and that their slots wait for.
    fn late_uploads(&self) -> Vec<ClientId> {
        let late = |c: &Client| match c.lane {
            Lane::Passing { request, whole: false, .. } => {
                let slot = usize::from(self.requests[request as usize].slot);
                self.routes.slots.get(slot).is_some_and(|route| route.waits())
            }
            _ => false,
        };
        self.clients.iter().filter(|(_, c)| late(c)).map(|(id, _)| id as ClientId).collect()
    }

    /// Cuts what has not come in time. What the instance has of it is no request, and never will be one: nothing is left
    /// of it that could be in the way of `Quiet`.
    pub(super) fn tick_uploads(&mut self) {
        if self.uploads_until_us.is_none_or(|at| at > self.now.us) {
            return;
        }
        self.uploads_until_us = None;
        for id in self.late_uploads() {
            let Lane::Passing { link: link_id, request, .. } = self.clients[id as usize].lane else { continue };
            let link = &mut self.links[link_id as usize];
            link.fifo.retain(|&r| r != request);
            link.purpose = Use::Finished;
            self.close_link(link_id, "its slot is held, and the request it carries was not whole in time".to_owned());
            self.left_link(self.requests[request as usize].slot);
            self.leave_large(id, link_id);
            let text = "TRYAGAIN twemslot: the slot is being changed, and this large request was not whole in time; nothing \
                        was sent";
            self.refuse(request, Counter::ErrorsHeldTooLong, text);
        }
    }

    /// A large reply goes out as fast as the client reads: the link is not read meanwhile.
    pub(super) fn pace_link(&mut self, link_id: LinkId) {
        let Use::Exclusive { client } = self.links[link_id as usize].purpose else { return };
        // Whoever passes nothing on it would not have it read again.
        let passes = |c: &Client| matches!(c.lane, Lane::Passing { link, .. } if link == link_id);
        let soft = self.settings.client_output_soft;
        let much = self.clients.get(client as usize).is_some_and(|c| passes(c) && c.out.len() > soft);
        let link = &mut self.links[link_id as usize];
        if much && !link.stopped {
            link.stopped = true;
            self.deeds.push_back(Deed::StopReadingLink { link: link_id });
        }
    }

    /// The client has taken some: its exclusive link may be read again.
    pub(super) fn pace_client(&mut self, id: ClientId) {
        let client = &self.clients[id as usize];
        if let Lane::Passing { link, .. } = client.lane
            && client.out.len() < self.settings.client_output_soft / 2
        {
            self.read_link_again(link);
        }
    }

    fn read_link_again(&mut self, link_id: LinkId) {
        let link = &mut self.links[link_id as usize];
        if std::mem::take(&mut link.stopped) {
            self.deeds.push_back(Deed::ReadLinkAgain { link: link_id });
        }
    }

    /// Clients hold less while memory is short.
    pub(super) fn count_memory(&mut self) -> usize {
        let lent = self.memory();
        self.stats.set(Gauge::MemoryBytes, lent as u64);
        lent
    }

    /// What counts for `worker_memory_max`.
    pub(super) fn memory(&self) -> usize {
        self.pool.lent() + self.shell_bytes + self.pubsub.bytes
    }
}
