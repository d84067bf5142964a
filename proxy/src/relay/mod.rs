//! The relay: the pure half of a worker. Bytes, events and `now` go in; buffers to write and deeds to do come out. No
//! socket, clock or randomness is in here, so the whole of it runs in a seeded simulation.
//!
//! The path of a request, once down and once up:
//!
//! ```text
//! client_sent -> read_short_requests -> plain_request -> place -> put          (bytes are on the link's buffer)
//! link_sent   -> read_short_replies -> request_answered -> answer              (bytes are on the client's buffer)
//! ```
//! What is not short or not plain, which is little, goes on to `feed -> read_request -> other_request`, and on the way
//! back to `read_replies -> reply`.
//! `answer` is where replies are put in order: a client's requests are a list, and only the head's reply is written.
//! Other arms leave this path at one `match` in `other_request`: `local` (answered here), `scatter` (several groups),
//! `wide` (every group, or one of no slot), `hold` (waits for a slot), `exclusive` (too large to share a link).

mod upkeep;
mod replies;
mod screen;
mod local;
mod transaction;
mod blocking;
mod subscribe;
mod alone;
mod exclusive;
mod scatter;
mod size;
mod wide;
mod hold;
mod fetch;
mod fence;
mod reload;
mod sampling;
mod state;
mod fan;
mod fetches;
mod orphan;
mod link;
mod scripts;
mod client;
mod pubsub;
mod session;
mod users;
mod library;
mod slowlog;
mod samples;
mod monitors;
mod inquiry;
mod route;
mod scan;
mod request;
mod buffer;
mod deed;
mod question;
pub mod command;
pub mod limits;

#[cfg(test)]
mod stories;
#[cfg(test)]
mod walks;

pub use deed::{ClientId, ClientState, Deed, Level, LinkId, LinkStatus, Now, Planted};
pub use inquiry::pieces;
pub use question::{Filter, Question};
pub use samples::{BigKey, HotKey, Sampled};
pub use state::Relay;

use crate::stats::Counter;
use client::{Client, Lane};
use cluster::resp::reply::Step as ReplyStep;
use cluster::resp::request::{Ceilings, Frame, Short, Step, Wrong, inline_to_resp};
use cluster::resp::write;
use cluster::slot::Slot;
use command::{CommandId, Flags, Keys, Serve};
use limits::{CHUNK_KEPT, LARGE};
use link::{Link, Use};
use request::{NO_SLOT, NONE, RequestId, Stage};
use std::io::IoSlice;

/// The id under which declared commands are counted.
fn declared_id() -> CommandId {
    command::count() as CommandId
}

/// Clients.
impl Relay {
    pub fn client_opened(&mut self, peer: &str) -> ClientId {
        // Unique among the workers of a proxy without a word between them.
        let id = self.next_client << 10 | u64::from(self.worker & 1023);
        self.next_client += 1;
        self.stats.add(Counter::ClientsAccepted, 1);
        let client = self.clients.insert(Client::new(id, peer, false, self.now.us)) as ClientId;
        self.introduce(client);
        if self.clients.len() > self.settings.clients_max as usize {
            let client = &mut self.clients[client as usize];
            client.out.append(&mut self.pool, b"-ERR max number of clients reached\r\n");
            client.closing = true;
        } else if self.draining {
            self.resumable.push(client);
        }
        if self.clients[client as usize].closing {
            self.mark_client(client);
        }
        self.go_on();
        client
    }

    /// Goes on with a client that another worker handed over.
    pub fn client_adopted(&mut self, state: ClientState) -> ClientId {
        let client = self.clients.insert(Client::new(state.id, &state.peer, false, self.now.us));
        self.introduce(client as ClientId);
        self.reintroduce(client as ClientId, state);
        if self.draining {
            self.resumable.push(client as ClientId);
        }
        self.go_on();
        client as ClientId
    }

    /// Takes a client out that is between requests; None if it is not (any more). The id ends with it.
    pub fn client_hand_over(&mut self, id: ClientId) -> Option<ClientState> {
        let client = self.clients.get_mut(id as usize)?;
        if !client.at_boundary() {
            client.boundary_told = false;
            return None;
        }
        let client = self.clients.remove(id as usize);
        self.forget_marks(id, client.dirty, client.pressed);
        self.stats.add(Counter::ClientsHandedOver, 1);
        Some(self.state_of(id, client))
    }

    /// Bytes read from a client (not empty). The relay has used or copied them when this returns.
    pub fn client_sent(&mut self, id: ClientId, bytes: &[u8]) {
        self.stats.add(Counter::ClientBytesIn, bytes.len() as u64);
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        client.heard_us = self.now.us;
        client.boundary_told = false;
        if client.input.is_empty() {
            let used = self.read_short_requests(id, bytes);
            let used = if used < bytes.len() { used + self.feed(id, &bytes[used..]) } else { used };
            if used < bytes.len() {
                let rest = self.pool.keep(&bytes[used..]);
                self.clients[id as usize].input = rest;
            }
        } else {
            let mut input = std::mem::take(&mut client.input);
            self.pool.extend(&mut input, bytes);
            self.feed_kept(id, input);
        }
        self.gate(id);
        self.go_on();
    }

    /// No more bytes will come from the client: `CloseClient` once everything it asked has been answered. As
    /// `client_hung_up`, beside.
    pub fn client_finished(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id as usize) {
            client.finished = true;
            self.client_hung_up(id);
        }
    }

    /// A client that is not read has closed its side, though bytes of it may be unread. May be said again. Nothing waits for
    /// it at an instance from now on; whatever else it asked is answered.
    pub fn client_hung_up(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id as usize) {
            client.hung_up = true;
            self.hang_up(id);
            self.resumable.push(id);
            self.go_on();
        }
    }

    /// The client's socket is gone, whoever closed it: exactly once for each `client_opened` or `client_adopted`.
    pub fn client_closed(&mut self, id: ClientId) {
        let Some(mut client) = self.clients.try_remove(id as usize) else { return };
        self.stats.add(Counter::ClientsClosed, 1);
        if client.held > 0 {
            self.forget_held(id);
        }
        let mut next = client.head;
        while next != NONE {
            let request = &mut self.requests[next as usize];
            let (this, after) = (next, request.next);
            request.client = NONE;
            match request.stage {
                // Its reply is still to come, and will be dropped.
                Stage::Sent => {}
                Stage::Asked => {
                    self.drop_inquiry(this);
                    self.forget(this);
                }
                Stage::Split => {
                    let fan = request.of;
                    self.orphan_fan(fan);
                    self.forget(this);
                }
                _ => self.forget(this),
            }
            next = after;
        }
        match client.lane {
            Lane::Passing { .. } if self.planted == Some(Planted::KeepWaiting) => {}
            // A link with half a request on it, or with a reply nobody wants, is of no further use.
            Lane::Passing { link, .. } => {
                self.links[link as usize].purpose = Use::Finished;
                self.close_link(link, "the client is gone".to_owned());
            }
            Lane::Waiting { .. } => self.waiting.retain(|&w| w != id),
            // The next client may have this id: nothing of this one's may be taken for its own.
            Lane::Away => self.end_links_of(id),
            Lane::Shared | Lane::Swallowing { .. } => {}
        }
        if let Some(session) = client.session {
            self.session_closed(id, *session);
        }
        self.forget_marks(id, client.dirty, client.pressed);
        self.stop_monitoring(id);
        client.out.clear(&mut self.pool);
        self.pool.give(client.input);
        self.go_on();
    }

    fn end_links_of(&mut self, id: ClientId) {
        let own = |l: &Link| matches!(l.purpose, Use::Exclusive { client } if client == id);
        let own: Vec<LinkId> = self.links.iter().filter(|(_, l)| own(l)).map(|(link, _)| link as LinkId).collect();
        for link in own {
            self.links[link as usize].purpose = Use::Finished;
            self.close_link(link, "the client is gone".to_owned());
        }
    }

    /// Takes a client that is gone off every list: its id may be given again at once.
    fn forget_marks(&mut self, id: ClientId, dirty: bool, pressed: bool) {
        if pressed {
            self.pressed.retain(|&p| p != id);
        }
        if dirty {
            self.dirty_clients.remove(id);
        }
        self.resumable.retain(|&r| r != id);
        self.waiting_retried = false;
    }

    /// What is to be written to the client, if it is in one piece: nearly always. None: `client_output` tells.
    #[inline]
    pub fn client_piece(&self, id: ClientId) -> Option<&[u8]> {
        let client = self.clients.get(id as usize)?;
        // What comes after the gap would be taken for what is missing.
        if client.closed { None } else { client.out.piece() }
    }

    /// Fills `slices` with what is to be written to the client; returns how many. 0: nothing to write.
    pub fn client_output<'a>(&'a self, id: ClientId, slices: &mut [IoSlice<'a>]) -> usize {
        self.clients.get(id as usize).filter(|c| !c.closed).map_or(0, |c| c.out.slices(slices))
    }

    pub fn client_wrote(&mut self, id: ClientId, bytes: usize) {
        self.stats.add(Counter::ClientBytesOut, bytes as u64);
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        client.out.wrote(&mut self.pool, bytes);
        client.progress_us = self.now.us;
        let ends = client.out.is_empty() && (client.closing | client.finished | self.draining);
        if client.pressed | ends || !client.shares() {
            self.wrote_unusually(id, ends);
        }
    }

    /// A client has taken some of its output, and something waits for that.
    #[inline(never)]
    fn wrote_unusually(&mut self, id: ClientId, ends: bool) {
        let client = &mut self.clients[id as usize];
        if client.pressed && client.out.len() <= self.settings.client_output_soft / 2 {
            (client.pressed, client.overrun, client.largest) = (false, false, 0);
            self.pressed.retain(|&p| p != id);
            self.resumable.push(id);
        }
        self.pace_client(id);
        if ends {
            self.resumable.push(id);
        }
        self.go_on();
    }

    /// Takes requests from `buf` as far as they may be taken; how many bytes were used.
    fn feed(&mut self, id: ClientId, buf: &[u8]) -> usize {
        let mut at = 0;
        while at < buf.len() {
            let rest = &buf[at..];
            let client = &mut self.clients[id as usize];
            if client.closing {
                return buf.len();
            }
            let before = client.lane;
            let used = match client.lane {
                Lane::Shared => self.read_requests(id, rest),
                Lane::Waiting { .. } | Lane::Away => 0,
                Lane::Passing { .. } => self.pass(id, rest),
                Lane::Swallowing { ref mut cursor } => match cursor.step(rest) {
                    ReplyStep::Done { len } => {
                        client.lane = Lane::Shared;
                        len
                    }
                    ReplyStep::More { used } => used,
                    ReplyStep::Wrong => {
                        self.close_for_protocol(id, "a large request is not an array of bulk strings");
                        0
                    }
                },
            };
            at += used;
            if used == 0 && self.clients[id as usize].lane == before {
                break;
            }
        }
        if self.clients[id as usize].closing { buf.len() } else { at }
    }

    /// The same for bytes that were kept; what is not used is kept again.
    fn feed_kept(&mut self, id: ClientId, mut input: Vec<u8>) {
        let used = self.feed(id, &input);
        if used == input.len() {
            self.pool.give(input);
        } else if used == 0 {
            self.clients[id as usize].input = input;
        } else if input.len() - used <= CHUNK_KEPT && input.capacity() > CHUNK_KEPT {
            let rest = self.pool.keep(&input[used..]);
            self.pool.give(input);
            self.clients[id as usize].input = rest;
        } else {
            input.drain(..used);
            self.clients[id as usize].input = input;
        }
    }

    /// Takes requests from `buf`; how many bytes they were. Again, if there were any.
    fn read_requests(&mut self, id: ClientId, buf: &[u8]) -> usize {
        let used = self.read_short_requests(id, buf);
        if used < buf.len() { used + self.read_request(id, &buf[used..]) } else { used }
    }

    /// Takes whole short requests from the start of `buf`; how many bytes they were.
    #[inline(never)]
    fn read_short_requests(&mut self, id: ClientId, buf: &[u8]) -> usize {
        let client = &self.clients[id as usize];
        if client.frame.argc != 0 || !client.authenticated || !client.shares() {
            return 0;
        }
        let (mut at, mut taken, mut common) = (0, 0, client.common);
        while self.clients[id as usize].takes_requests(self.settings.client_in_flight_max)
            && let Some(short) = Short::read(&buf[at..])
        {
            let raw = &buf[at..at + short.len];
            at += short.len;
            taken += 1;
            if !common || !self.plain_request(id, &short, raw) {
                self.short_request(id, raw);
                let client = &self.clients[id as usize];
                common = client.common;
                if !client.shares() {
                    break;
                }
            }
            if at == buf.len() {
                break;
            }
        }
        self.stats.add(Counter::Requests, taken);
        if self.samples.is_due(taken) {
            self.sample_short(id, &buf[..at], taken);
        }
        at
    }

    #[inline(never)]
    fn short_request(&mut self, id: ClientId, raw: &[u8]) {
        let mut frame = Frame::default();
        if let Step::Done { .. } = frame.step(raw, &Ceilings::OPEN) {
            self.other_request(id, &frame, raw);
        }
    }

    /// Takes any request from the start of `buf`, or as much of one as is there.
    fn read_request(&mut self, id: ClientId, buf: &[u8]) -> usize {
        let client = &self.clients[id as usize];
        if !client.takes_requests(self.settings.client_in_flight_max) || !client.shares() {
            return 0;
        }
        if client.frame.argc == 0
            && client.common
            && let Some(len) = self.split_at_sight(id, buf)
        {
            return len;
        }
        let client = &mut self.clients[id as usize];
        let ceilings = if client.authenticated { &Ceilings::OPEN } else { &Ceilings::UNAUTHENTICATED };
        let step = client.frame.step(buf, ceilings);
        let frame = client.frame;
        if !matches!(step, Step::More { .. }) {
            client.frame = Frame::default();
        }
        match step {
            Step::Done { len } => {
                self.stats.add(Counter::Requests, 1);
                self.other_request(id, &frame, &buf[..len]);
                if self.samples.is_due(1) || len > LARGE {
                    self.sample_whole(id, &buf[..len]);
                }
                len
            }
            Step::More { need } => {
                if need > LARGE && self.begin_large(id, &frame, buf, need) {
                    self.clients[id as usize].frame = Frame::default();
                }
                0
            }
            Step::Nothing { len } => len,
            Step::Inline { len } => {
                self.inline(id, &buf[..len]);
                len
            }
            Step::Wrong(wrong) => {
                self.wrong(id, wrong);
                0
            }
        }
    }

    /// A line typed by a person.
    #[cold]
    fn inline(&mut self, id: ClientId, text: &[u8]) {
        match inline_to_resp(text) {
            Ok(raw) => {
                let mut frame = Frame::default();
                if let Step::Done { .. } = frame.step(&raw, &Ceilings::OPEN) {
                    self.stats.add(Counter::Requests, 1);
                    self.other_request(id, &frame, &raw);
                }
            }
            Err(wrong) => self.wrong(id, wrong),
        }
    }

    /// Bytes that are not RESP: said in turn, then the connection ends, as in Redis.
    #[cold]
    fn wrong(&mut self, id: ClientId, wrong: Wrong) {
        self.close_for_protocol(id, &wrong.to_string());
    }

    #[cold]
    pub(crate) fn close_for_protocol(&mut self, id: ClientId, why: &str) {
        if self.clients[id as usize].closing {
            return;
        }
        self.stats.add(Counter::ClientsClosedForProtocol, 1);
        let request = self.open_request(id, declared_id(), NO_SLOT);
        let mut reply = Vec::new();
        write::error(&mut reply, &format!("ERR Protocol error: {why}"));
        self.answer(request, &reply);
        self.clients[id as usize].closing = true;
        self.resumable.push(id);
    }

    /// Sends a request of a command of one key on its way, which nearly all are. False: it is none.
    #[inline(always)]
    fn plain_request(&mut self, id: ClientId, short: &Short<'_>, raw: &[u8]) -> bool {
        if let Some(command) = command::lookup(short.name)
            && self.plain[usize::from(command)].takes(short.argc)
        {
            let slot = self.routes.slot_of(short.key);
            let request = self.open_request(id, command, slot);
            self.place(request, id, slot, raw);
            return true;
        }
        false
    }

    /// One whole request: what it is decides which way it goes.
    #[inline(never)]
    fn other_request(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) {
        if self.clients[id as usize].watched {
            self.show_request(id, raw);
        }
        if self.clients[id as usize].session.is_some() && self.in_session(id, frame, raw) {
            return;
        }
        if !self.settings.declared_commands.is_empty() && self.declared(id, frame, raw) {
            return;
        }
        let Some((command_id, command)) = self.screen(id, frame, raw) else { return };
        match command.serve {
            Serve::Keyed => {
                let slot = match command.keys {
                    Keys::One { at } if usize::from(at) < cluster::resp::request::KEPT => {
                        self.routes.slot_of(frame.kept[usize::from(at)].of(raw))
                    }
                    _ => match self.one_slot(id, command_id, command, frame.argc, raw) {
                        Some(slot) if command.flags.contains(Flags::NO_MANDATORY_KEYS) => {
                            return self.run_script(id, command_id, slot, raw);
                        }
                        Some(slot) if command::asks_to_block(command, raw) => {
                            return self.begin_blocking(id, command_id, slot, raw);
                        }
                        Some(slot) => slot,
                        None => return,
                    },
                };
                let request = self.open_request(id, command_id, slot);
                self.place(request, id, slot, raw);
            }
            Serve::Blocking => {
                if let Some(slot) = self.one_slot(id, command_id, command, frame.argc, raw) {
                    self.begin_blocking(id, command_id, slot, raw);
                }
            }
            Serve::Session(asked) => self.session_request(id, command_id, asked, frame, raw),
            Serve::Publish => self.publish(id, command_id, raw),
            Serve::Local(command::Local::Hello) if self.clients[id as usize].head != NONE => {
                // Replies in flight are in the protocol they were asked in.
                self.begin_alone(id, command_id, NO_SLOT, raw, 0);
            }
            Serve::Local(local) => self.local(id, command_id, local, raw),
            Serve::Split(_) | Serve::Fan(_) => {
                if command.arity == -3 && frame.argc.is_multiple_of(2) && command.name == "mset" {
                    let text = "ERR wrong number of arguments for 'mset' command";
                    return self.refuse_here(id, command_id, Counter::ErrorsArity, text);
                }
                let request = self.open_request(id, command_id, NO_SLOT);
                self.place_wide(request, raw);
            }
            Serve::Denied(_) => self.refuse_unserved(id, command_id, command),
        }
    }

    /// Sends a request of one slot on its way, holds it, or answers why it has none.
    #[inline(always)]
    fn place(&mut self, id: RequestId, client: ClientId, slot: Slot, raw: &[u8]) {
        let route = self.routes.slots[usize::from(slot)];
        if route.special() || !self.held.is_empty() {
            return self.place_special(id, client, slot, raw);
        }
        let first = route.first(self.clients[client as usize].resp3);
        let link = self.routes.lane(first, client, self.settings.links_per_instance);
        self.put(link, id, slot, raw);
    }

    /// The same for a request of any kind that has waited.
    fn place_again(&mut self, id: RequestId, raw: &[u8]) {
        let request = &self.requests[id as usize];
        match request.slot {
            NO_SLOT => self.place_wide(id, raw),
            slot => self.place(id, request.client, slot, raw),
        }
    }

    #[cold]
    fn place_special(&mut self, id: RequestId, client: ClientId, slot: Slot, raw: &[u8]) {
        let route = self.routes.slots[usize::from(slot)];
        if route.link == NONE {
            self.refuse(id, Counter::ErrorsNoOwner, &scatter::no_owner(slot));
        } else if route.waits()
            || self.clients[client as usize].held_wide > 0
            || (route.moving && self.must_fetch(client, self.requests[id as usize].command, raw))
        {
            self.hold(id, raw);
        } else {
            let first = route.first(self.clients[client as usize].resp3);
            let link = self.routes.lane(first, client, self.settings.links_per_instance);
            self.put(link, id, slot, raw);
        }
    }

    /// Says whether the client is to be read, where that has changed.
    #[inline(always)]
    fn gate(&mut self, id: ClientId) {
        let client = &self.clients[id as usize];
        if !client.stopped && client.shares() && client.takes_requests(self.settings.client_in_flight_max) {
            return;
        }
        self.gate_unusually(id);
    }

    #[inline(never)]
    fn gate_unusually(&mut self, id: ClientId) {
        let client = &self.clients[id as usize];
        let open = match client.lane {
            Lane::Shared => client.takes_requests(self.settings.client_in_flight_max),
            Lane::Swallowing { .. } => !client.closing,
            Lane::Waiting { .. } | Lane::Away => false,
            Lane::Passing { .. } => self.passes(id),
        };
        let client = &mut self.clients[id as usize];
        if open == client.stopped && !client.closed {
            client.stopped = !open;
            self.deeds.push_back(if open { Deed::ReadAgain { client: id } } else { Deed::StopReading { client: id } });
        }
    }

    /// Goes on with clients for which something has changed.
    #[inline(always)]
    fn go_on(&mut self) {
        if !self.resumable.is_empty() {
            self.resume_all();
        }
    }

    #[inline(never)]
    fn resume_all(&mut self) {
        while let Some(id) = self.resumable.pop() {
            self.waiting_retried = false;
            self.resume(id);
        }
    }

    fn resume(&mut self, id: ClientId) {
        if !self.clients.contains(id as usize) {
            return;
        }
        if self.clients[id as usize].lane == Lane::Away && self.clients[id as usize].head == NONE {
            self.clients[id as usize].lane = Lane::Shared;
        }
        self.try_waiting(id);
        let input = std::mem::take(&mut self.clients[id as usize].input);
        if input.is_empty() {
            self.pool.give(input);
        } else {
            self.feed_kept(id, input);
        }
        self.gate(id);
        let draining = self.draining;
        let client = &mut self.clients[id as usize];
        let answered = client.head == NONE && client.out.is_empty();
        let said_all = client.closing || (client.finished && !matches!(client.lane, Lane::Waiting { .. }));
        if answered && said_all {
            self.close_client(id);
        } else if draining && !client.boundary_told && client.at_boundary() {
            client.boundary_told = true;
            self.deeds.push_back(Deed::AtBoundary { client: id });
        }
    }
}
