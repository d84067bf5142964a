//! Requests that are taken alone: they begin when everything earlier of their client is answered, and nothing later is
//! taken until they are. So whatever they change about the connection, or whichever link they go over, the client's
//! order holds.

use super::client::Lane;
use super::command::{self, CommandId, Serve, Session as Asked};
use super::link::{Own, State, Use, whose};
use super::request::{NO_SLOT, NONE, PING, Stage};
use super::session::Watch;
use super::state::Relay;
use super::{ClientId, LinkId, Planted};
use crate::stats::Counter;
use cluster::slot::Slot;

impl Relay {
    /// Keeps a request until its turn comes, which may be now. `slot`: not while that one is held; NO_SLOT: it does not
    /// matter. `parts`: how many replies come before its own.
    pub(super) fn begin_alone(&mut self, id: ClientId, command: CommandId, slot: Slot, raw: &[u8], parts: u32) {
        let kept = self.pool.keep(raw);
        let client = &mut self.clients[id as usize];
        client.lane = Lane::Waiting { command, slot, since_us: self.now.us };
        let session = client.session();
        (session.alone, session.parts) = (kept, parts);
        self.waiting.push(id);
        self.try_waiting(id);
    }

    /// Begins what waits, if nothing is in its way any more.
    pub(super) fn try_waiting(&mut self, id: ClientId) {
        let client = &self.clients[id as usize];
        let Lane::Waiting { command, slot, .. } = client.lane else { return };
        if client.head != NONE || client.closing || self.waits_for_nobody(id, command) {
            return;
        }
        if slot != NO_SLOT && self.routes.slots[usize::from(slot)].waits() {
            return;
        }
        if self.routes.moves && self.waits_for_keys(id, command) {
            return;
        }
        let client = &self.clients[id as usize];
        let kept = client.session.as_ref().is_some_and(|s| !s.alone.is_empty());
        if !kept {
            return self.try_large(id, command, slot);
        }
        self.waiting.retain(|&w| w != id);
        let client = &mut self.clients[id as usize];
        client.lane = Lane::Shared;
        let session = client.session();
        let (raw, parts) = (std::mem::take(&mut session.alone), session.parts);
        self.take_alone(id, command, slot, &raw, parts);
        self.pool.give(raw);
        if let Some(client) = self.clients.get_mut(id as usize) {
            client.tidy_session();
            // One that waits on is looked at again when something has changed.
            if client.shares() {
                self.resumable.push(id);
            }
        }
    }

    /// Whether a request whose turn has come needs keys that are not at their target yet; they are sent for.
    #[cold]
    fn waits_for_keys(&mut self, id: ClientId, command: CommandId) -> bool {
        let client = &mut self.clients[id as usize];
        let Some(raw) = client.session.as_mut().map(|s| std::mem::take(&mut s.alone)).filter(|raw| !raw.is_empty())
        else {
            let key = std::mem::take(&mut client.large_key);
            let waits = self.must_fetch_key(&key);
            self.clients[id as usize].large_key = key;
            return waits;
        };
        let waits = self.must_fetch(id, command, &raw);
        self.clients[id as usize].session().alone = raw;
        waits
    }

    fn take_alone(&mut self, id: ClientId, command: CommandId, slot: Slot, raw: &[u8], parts: u32) {
        match command::get(command).serve {
            Serve::Blocking | Serve::Keyed => self.block(id, command, slot, raw),
            Serve::Session(Asked::Watch) => self.watch(id, command, slot, raw),
            Serve::Session(Asked::Exec | Asked::Discard | Asked::Unwatch) => {
                self.end_watch(id, command, slot, raw, parts)
            }
            Serve::Session(Asked::Wait | Asked::WaitAof) => self.wait_for_replicas(id, command, raw),
            Serve::Session(Asked::Reset) => self.reset(id, command),
            Serve::Session(asked) => self.subscription(id, command, asked, raw),
            _ => self.local_alone(id, command, raw),
        }
    }

    /// Sends a whole request on a link of the client's own; `link` is one it has already. False: it has been refused.
    pub(super) fn start_alone(
        &mut self,
        id: ClientId,
        link: Option<LinkId>,
        (command, slot): (CommandId, Slot),
        bytes: &[u8],
        parts: u32,
    ) -> Option<LinkId> {
        let link_id = match link {
            Some(link) => {
                self.kill_first(link);
                link
            }
            None => self.own_link(id, command, slot)?,
        };
        let request_id = self.open_request(id, command, slot);
        let link = &mut self.links[link_id as usize];
        for _ in 0..parts {
            link.fifo.push_back(PING);
            link.own.push_back(Own::Part);
        }
        link.fifo.push_back(request_id);
        let request = &mut self.requests[request_id as usize];
        (request.stage, request.sent_us, request.place) = (Stage::Sent, self.now.us, link.queued);
        let out = if link.state == State::Up { &mut link.out } else { &mut link.queue };
        out.append(&mut self.pool, bytes);
        link.queued += bytes.len() as u64;
        if let Some(load) = self.loads.get_mut(usize::from(slot)) {
            (load.in_flight, load.requests) = (load.in_flight + 1, load.requests + 1);
        }
        let cursor = Default::default();
        self.clients[id as usize].lane = Lane::Passing { link: link_id, request: request_id, cursor, whole: true };
        self.mark_link(link_id);
        Some(link_id)
    }

    /// A link to a slot's owner for this client alone; None: its request has been refused.
    fn own_link(&mut self, id: ClientId, command: CommandId, slot: Slot) -> Option<LinkId> {
        let route = self.routes.slots[usize::from(slot)];
        let Some(shared) = self.links.get(route.link as usize) else {
            self.refuse_here(id, command, Counter::ErrorsNoOwner, &super::scatter::no_owner(slot));
            return None;
        };
        if matches!(shared.state, State::Down { .. } | State::Closing) {
            let text = format!("ERR twemslot: {} is down: {}; nothing was sent", whose(shared), shared.cause);
            self.refuse_here(id, command, Counter::ErrorsLinkDown, &text);
            return None;
        }
        let link = self.exclusive_link(route.link, id);
        if link.is_none() {
            let max = super::limits::EXCLUSIVE_MAX;
            let text = format!(
                "ERR twemslot: {max} clients block, watch keys or send large requests already; nothing was sent"
            );
            self.refuse_here(id, command, Counter::ErrorsOverload, &text);
        }
        link
    }

    /// The client is done with a link of its own.
    pub(super) fn release_link(&mut self, link_id: LinkId) {
        let Some(link) = self.links.get_mut(link_id as usize) else { return };
        if self.planted == Some(Planted::KeepWatch) {
            link.purpose = Use::Idle { since_us: self.now.us };
        } else if matches!(link.purpose, Use::Exclusive { .. }) {
            link.purpose = Use::Finished;
            self.close_link(link_id, "no longer needed".to_owned());
        }
    }

    /// A topology has come: clients whose slot is held or has another owner cannot go on as they are.
    pub(super) fn look_after_sessions(&mut self) {
        let ids: Vec<ClientId> =
            self.clients.iter().filter(|(_, c)| c.session.is_some()).map(|(i, _)| i as ClientId).collect();
        for id in ids {
            if let Watch::On { link, slot } = self.clients[id as usize].watch()
                && !self.still_leads(slot, link)
            {
                self.clients[id as usize].session().watch = Watch::Broken;
                let passing = matches!(self.clients[id as usize].lane, Lane::Passing { link: l, .. } if l == link);
                if !passing {
                    self.release_link(link);
                }
            }
            self.interrupt_if_moved(id);
        }
    }

    /// Whether a slot's requests still go to the instance of this link, now.
    pub(super) fn still_leads(&self, slot: Slot, link: LinkId) -> bool {
        let Some(route) = self.routes.slots.get(usize::from(slot)) else { return false };
        let addr = |id: LinkId| self.links.get(id as usize).map(|l| &l.addr);
        !route.held && addr(route.link) == addr(link)
    }

    /// Looked at again when something has changed.
    pub(super) fn begin_alone_later(&mut self, id: ClientId, command: CommandId, raw: &[u8]) {
        let kept = self.pool.keep(raw);
        let client = &mut self.clients[id as usize];
        client.lane = Lane::Waiting { command, slot: NO_SLOT, since_us: self.now.us };
        client.session().alone = kept;
        self.waiting.push(id);
    }

    /// Answers a request that waits with an error.
    pub(super) fn refuse_waiting(&mut self, id: ClientId, text: &str) {
        let client = &mut self.clients[id as usize];
        let Lane::Waiting { command, slot, .. } = client.lane else { return };
        let alone = client.session.as_mut().map(|s| std::mem::take(&mut s.alone)).unwrap_or_default();
        if alone.is_empty() {
            return self.refuse_large(id, Counter::ErrorsHeldTooLong, text);
        }
        self.waiting.retain(|&w| w != id);
        client.lane = Lane::Shared;
        if let Some(session) = client.session.as_mut() {
            session.blocked = None;
        }
        if let Some(farewell) = client.session.as_mut().and_then(|s| s.farewell.take()) {
            // It listens no more, whatever a group has to say about it.
            client.tidy_session();
            self.pool.give(alone);
            self.answer_aloud(id, command, &farewell.reply);
            self.resumable.push(id);
            return;
        }
        client.tidy_session();
        if slot == NO_SLOT {
            self.unsubscribe_again(id, command, &alone);
        }
        if command::get(command).serve == Serve::Session(Asked::Exec) {
            self.forget_watch(id); // as any end of a transaction does
        }
        self.pool.give(alone);
        self.refuse_here(id, command, Counter::ErrorsHeldTooLong, text);
        self.resumable.push(id);
    }

    /// A link of the client's own is gone, and its requests have been answered.
    pub(super) fn own_link_lost(&mut self, id: ClientId, link: LinkId) {
        self.leave_large(id, link);
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        let watched = matches!(client.watch(), Watch::On { link: l, .. } if l == link);
        if let Some(session) = client.session.as_mut() {
            if watched {
                session.watch = Watch::Broken;
            }
            if client.lane == Lane::Shared {
                self.pool.give(session.blocked.take().unwrap_or_default().raw);
            }
        }
        client.tidy_session();
    }

    /// A request that is answered here, when its turn has come.
    fn local_alone(&mut self, id: ClientId, command: CommandId, raw: &[u8]) {
        if let Serve::Local(local) = command::get(command).serve {
            self.local(id, command, local, raw);
        }
    }
}
