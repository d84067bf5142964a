//! The relay: the pure half of a worker. Bytes, events and `now` go in; buffers to write and deeds to do come out. No
//! socket, clock or randomness is in here, so the whole of it runs in a seeded simulation.
//!
//! The path of a request, once down and once up:
//!
//! ```text
//! client_sent -> feed -> read_requests -> request -> place -> put              (bytes are on the link's buffer)
//! link_sent   -> read_replies -> reply -> answer                               (bytes are on the client's buffer)
//! ```
//! `answer` is where replies are put in order: a client's requests are a list, and only the head's reply is written.
//! Other arms leave this path at one `match` in `request`: `local` (answered here), `scatter` (several groups),
//! `hold` (waits for a slot), `exclusive` (too large to share a link).

mod local;
mod exclusive;
mod scatter;
mod hold;
mod state;
mod link;
mod client;
mod route;
mod request;
mod buffer;
pub mod command;
pub mod limits;

#[cfg(test)]
mod stories;

pub use state::Relay;

use client::{Client, Lane};
use cluster::instance::Addr;
use cluster::resp::reply::{Cursor, Step as ReplyStep};
use cluster::resp::request::{Args, Ceilings, Frame, Step, Wrong, inline_to_resp};
use cluster::resp::write;
use cluster::slot::Slot;
use cluster::topology::{SlotState, Topology};
use command::{Command, CommandId, Flags, Keys, Serve};
use limits::{CHUNK_KEPT, EXCLUSIVE_IDLE_US, LARGE, OVERRUN_US, STALL_US, Settings, TICK_IDLE_US, TICK_US};
use link::{Greeted, Link, State, Use};
use request::{NO_SLOT, NONE, PING, Request, RequestId, Stage};
use route::Target;
use std::io::IoSlice;
use std::sync::Arc;

use crate::mail::LinkStatus;
use crate::stats::{Counter, Gauge, OfGroup, Stats};

/// One reading of the clocks; the shell takes it once a loop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic microseconds since some start.
    pub us: u64,
    /// Microseconds since 1970, for TIME only.
    pub unix_us: u64,
}

/// A client's index. Given by `client_opened`; ends with `client_closed`, after which it may be given again.
pub type ClientId = u32;
/// A link's index. A socket for it lives from `Deed::Connect` to `link_closed`.
pub type LinkId = u32;

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Open a socket to an instance; then call `link_opened`, or `link_closed` with the cause.
    Connect {
        link: LinkId,
        addr: Addr,
    },
    /// Close the socket, then call `link_closed`. What is in the link's output is dropped.
    CloseLink {
        link: LinkId,
    },
    /// Close the socket, then call `client_closed`. What is in the client's output has been written, or is dropped.
    CloseClient {
        client: ClientId,
    },
    /// Do not read from the client until `ReadAgain`.
    StopReading {
        client: ClientId,
    },
    ReadAgain {
        client: ClientId,
    },
    /// The same for a link that serves one client alone.
    StopReadingLink {
        link: LinkId,
    },
    ReadLinkAgain {
        link: LinkId,
    },
    /// Memory is short: do not accept until `AcceptAgain`.
    StopAccepting,
    AcceptAgain,
    /// Every request in flight was sent under `epoch`, and none for a slot that it holds is in flight.
    Quiet {
        epoch: u64,
    },
    /// The worker drains and the client is between requests: hand it over (`client_hand_over`) or close it.
    AtBoundary {
        client: ClientId,
    },
    /// Something a person should know.
    Tell {
        level: Level,
        text: String,
    },
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
}

/// What a client is, between two requests: enough for another worker to go on with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClientState {
    pub id: u64,
    pub peer: String,
    pub name: String,
    pub authenticated: bool,
}

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
        let authenticated = self.settings.client_password.is_none();
        self.stats.add(Counter::ClientsAccepted, 1);
        let client = self.clients.insert(Client::new(id, peer, authenticated, self.now.us)) as ClientId;
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
        let client = self.clients.insert(Client::new(state.id, &state.peer, state.authenticated, self.now.us));
        self.clients[client].name = state.name.into();
        if self.draining {
            self.resumable.push(client as ClientId);
            self.go_on();
        }
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
        self.stats.add(Counter::ClientsHandedOver, 1);
        Some(ClientState {
            id: client.id,
            peer: client.peer.into(),
            name: client.name.into(),
            authenticated: client.authenticated,
        })
    }

    /// Bytes read from a client (not empty). The relay has used or copied them when this returns.
    pub fn client_sent(&mut self, id: ClientId, bytes: &[u8]) {
        self.stats.add(Counter::ClientBytesIn, bytes.len() as u64);
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        client.heard_us = self.now.us;
        client.boundary_told = false;
        if client.input.is_empty() {
            let used = self.feed(id, bytes);
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

    /// No more bytes will come from the client: `CloseClient` once everything it asked has been answered.
    pub fn client_finished(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id as usize) {
            client.finished = true;
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
            // A link with half a request on it, or with a reply nobody wants, is of no further use.
            Lane::Passing { link, .. } => {
                self.links[link as usize].purpose = Use::Finished;
                self.close_link(link, "the client is gone".to_owned());
            }
            Lane::Waiting { .. } => self.waiting.retain(|&w| w != id),
            _ => {}
        }
        if client.pressed {
            self.pressed.retain(|&p| p != id);
        }
        if client.dirty {
            self.dirty_clients.retain(|&d| d != id);
        }
        self.resumable.retain(|&r| r != id);
        client.out.clear(&mut self.pool);
        self.pool.give(client.input);
        self.go_on();
    }

    /// Fills `slices` with what is to be written to the client; returns how many. 0: nothing to write.
    pub fn client_output<'a>(&'a self, id: ClientId, slices: &mut [IoSlice<'a>]) -> usize {
        self.clients.get(id as usize).map_or(0, |c| c.out.slices(slices))
    }

    pub fn client_wrote(&mut self, id: ClientId, bytes: usize) {
        self.stats.add(Counter::ClientBytesOut, bytes as u64);
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        client.out.wrote(&mut self.pool, bytes);
        if client.pressed {
            client.progress_us = self.now.us;
            if client.out.len() <= self.settings.client_output_soft / 2 {
                (client.pressed, client.overrun) = (false, false);
                self.pressed.retain(|&p| p != id);
                self.resumable.push(id);
            }
        }
        let client = &self.clients[id as usize];
        if client.lane != Lane::Shared {
            self.pace_client(id);
        }
        let client = &self.clients[id as usize];
        if client.out.is_empty() && (client.closing || client.finished || self.draining) {
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
                Lane::Waiting { .. } => 0,
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

    /// Takes whole requests from `buf`; how many bytes they were.
    fn read_requests(&mut self, id: ClientId, buf: &[u8]) -> usize {
        let mut at = 0;
        let mut frame = std::mem::take(&mut self.clients[id as usize].frame);
        while at < buf.len() {
            let client = &self.clients[id as usize];
            if !client.takes_requests(self.settings.client_in_flight_max) {
                break;
            }
            let ceilings = if client.authenticated { &Ceilings::OPEN } else { &Ceilings::UNAUTHENTICATED };
            let rest = &buf[at..];
            match frame.step(rest, ceilings) {
                Step::Done { len } => {
                    at += len;
                    self.request(id, &frame, &rest[..len]);
                    frame = Frame::default();
                }
                Step::More { need } => {
                    if need > LARGE && self.begin_large(id, &frame, rest) {
                        frame = Frame::default();
                    }
                    break;
                }
                Step::Nothing { len } => at += len,
                Step::Inline { len } => {
                    at += len;
                    self.inline(id, &rest[..len]);
                }
                Step::Wrong(wrong) => {
                    self.wrong(id, wrong);
                    break;
                }
            }
        }
        self.clients[id as usize].frame = frame;
        at
    }

    /// A line typed by a person.
    #[cold]
    fn inline(&mut self, id: ClientId, text: &[u8]) {
        match inline_to_resp(text) {
            Ok(raw) => {
                let mut frame = Frame::default();
                if let Step::Done { .. } = frame.step(&raw, &Ceilings::OPEN) {
                    self.request(id, &frame, &raw);
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

    /// Which command it is, if it may be asked; otherwise it has been answered.
    #[inline]
    fn screen(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) -> Option<(CommandId, &'static Command)> {
        let name = frame.kept[0].of(raw);
        let Some(mut command_id) = command::lookup(name) else {
            self.unknown(id, frame, raw);
            return None;
        };
        let mut command = command::get(command_id);
        if command.container && frame.argc > 1 {
            let Some(sub) = command::lookup_sub(command_id, frame.kept[1].of(raw)) else {
                self.unknown(id, frame, raw);
                return None;
            };
            command_id = sub;
            command = command::get(sub);
        }
        if !self.clients[id as usize].authenticated && !command.flags.contains(Flags::NO_AUTH) {
            self.refuse_here(id, command_id, Counter::ErrorsAuth, "NOAUTH Authentication required.");
            return None;
        }
        if self.denied[usize::from(command_id)] {
            let text = format!("ERR twemslot: '{}' is refused by denied_commands", command.name);
            self.refuse_here(id, command_id, Counter::ErrorsNotServed, &text);
            return None;
        }
        let fits = if command.arity >= 0 {
            frame.argc == command.arity as u32
        } else {
            frame.argc >= u32::from(command.arity.unsigned_abs())
        };
        if !fits {
            let text = format!("ERR wrong number of arguments for '{}' command", command.name);
            self.refuse_here(id, command_id, Counter::ErrorsArity, &text);
            return None;
        }
        Some((command_id, command))
    }

    /// One whole request: what it is decides which way it goes.
    #[inline]
    fn request(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) {
        self.stats.add(Counter::Requests, 1);
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
                        Some(slot) => slot,
                        None => return,
                    },
                };
                let request = self.open_request(id, command_id, slot);
                self.place(request, raw);
            }
            Serve::Local(local) => self.local(id, command_id, local, raw),
            Serve::Split(_) | Serve::Fan(_) => {
                if command.arity == -3 && frame.argc.is_multiple_of(2) && command.name == "mset" {
                    let text = "ERR wrong number of arguments for 'mset' command";
                    return self.refuse_here(id, command_id, Counter::ErrorsArity, text);
                }
                let request = self.open_request(id, command_id, NO_SLOT);
                self.place(request, raw);
            }
            Serve::Later(what) => {
                let text = format!("ERR twemslot: '{}' is not served yet: {what} are not supported", command.name);
                self.refuse_here(id, command_id, Counter::ErrorsNotServed, &text);
            }
            Serve::Denied(reason) => {
                let text = format!("ERR twemslot: '{}' is not served: {reason}", command.name);
                self.refuse_here(id, command_id, Counter::ErrorsNotServed, &text);
            }
        }
    }

    /// The one slot of all keys of a command, or it has been refused.
    fn one_slot(
        &mut self,
        id: ClientId,
        command_id: CommandId,
        command: &Command,
        argc: u32,
        raw: &[u8],
    ) -> Option<Slot> {
        let mut slot = None;
        let mut crossed = false;
        let routes = &self.routes;
        let found = command::for_each_key(command, argc, raw, |key| {
            let this = routes.slot_of(key);
            crossed |= slot.is_some_and(|s| s != this);
            slot = Some(this);
        });
        if command.keys == Keys::Sort {
            // A pattern reaches other keys: they must be in the key's slot, which only a tag can promise.
            let one = self.routes.slot_count() == 1;
            let same = |prefix| slot == Some(self.routes.slot_of(prefix));
            command::sort_patterns(raw, |p| crossed |= !one && !command::fixed_prefix(p).is_some_and(same));
        }
        let (counter, text) = if let Err(fault) = found {
            (Counter::ErrorsArity, fault.to_string())
        } else if crossed {
            (Counter::ErrorsCrossSlot, "CROSSSLOT Keys in request don't hash to the same slot".to_owned())
        } else if command::asks_to_block(command, raw) {
            let text = format!(
                "ERR twemslot: '{}' with BLOCK is not served yet: blocking commands are not supported",
                command.name
            );
            (Counter::ErrorsNotServed, text)
        } else if command::asks_other_database(command, raw) {
            (Counter::ErrorsNotServed, "ERR DB index is out of range (a cluster has database 0 only)".to_owned())
        } else if let Some(slot) = slot {
            return Some(slot);
        } else {
            (Counter::ErrorsArity, format!("ERR wrong number of arguments for '{}' command", command.name))
        };
        self.refuse_here(id, command_id, counter, &text);
        None
    }

    #[cold]
    fn unknown(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) {
        if !self.clients[id as usize].authenticated {
            return self.refuse_here(id, declared_id(), Counter::ErrorsAuth, "NOAUTH Authentication required.");
        }
        let show = |arg: &[u8]| String::from_utf8_lossy(&arg[..arg.len().min(128)]).into_owned();
        let name = frame.kept[0].of(raw);
        let mut text = match command::lookup(name) {
            Some(_) => {
                let sub = show(frame.kept[1].of(raw));
                format!("ERR unknown subcommand '{sub}'. Try {} HELP.", show(name).to_ascii_uppercase())
            }
            None => format!("ERR unknown command '{}', with args beginning with: ", show(name)),
        };
        if command::lookup(name).is_none() {
            for arg in Args::new(raw).skip(1) {
                if text.len() > 128 {
                    break;
                }
                text.push_str(&format!("'{}' ", show(arg)));
            }
        }
        self.refuse_here(id, declared_id(), Counter::ErrorsUnknownCommand, &text);
    }

    /// A command that the operator has declared. False: it is none.
    #[cold]
    fn declared(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) -> bool {
        let name = frame.kept[0].of(raw);
        let sub = frame.kept(1, raw).unwrap_or_default();
        let matches = |d: &&limits::Declared| match d.name.split_once(' ') {
            Some((container, wanted)) => {
                name.eq_ignore_ascii_case(container.as_bytes()) && sub.eq_ignore_ascii_case(wanted.as_bytes())
            }
            None => name.eq_ignore_ascii_case(d.name.as_bytes()),
        };
        let Some(declared) = self.settings.declared_commands.iter().find(matches).cloned() else { return false };
        let command = declared_id();
        if !self.clients[id as usize].authenticated {
            self.refuse_here(id, command, Counter::ErrorsAuth, "NOAUTH Authentication required.");
            return true;
        }
        let mut slot = None;
        let mut crossed = false;
        if declared.first_key > 0 {
            let argc = i64::from(frame.argc);
            let last =
                if declared.last_key < 0 { argc + i64::from(declared.last_key) } else { i64::from(declared.last_key) };
            let last = last.max(i64::from(declared.first_key));
            let keys = Args::new(raw).take(last as usize + 1).skip(declared.first_key as usize);
            for key in keys.step_by(declared.key_step.max(1) as usize) {
                let this = self.routes.slot_of(key);
                crossed |= slot.is_some_and(|s| s != this);
                slot = Some(this);
            }
        }
        let (counter, text) = match (slot, declared.all_groups) {
            _ if crossed => {
                (Counter::ErrorsCrossSlot, "CROSSSLOT Keys in request don't hash to the same slot".to_owned())
            }
            (Some(slot), _) => {
                let request = self.open_request(id, command, slot);
                self.place(request, raw);
                return true;
            }
            (None, true) => {
                let request = self.open_request(id, command, NO_SLOT);
                self.place(request, raw);
                return true;
            }
            (None, false) => {
                (Counter::ErrorsArity, format!("ERR wrong number of arguments for '{}' command", declared.name))
            }
        };
        self.refuse_here(id, command, counter, &text);
        true
    }

    /// Sends a request on its way, holds it, or answers why it has none.
    #[inline]
    fn place(&mut self, id: RequestId, raw: &[u8]) {
        let request = &self.requests[id as usize];
        if request.slot == NO_SLOT {
            return self.place_wide(id, raw);
        }
        let route = self.routes.slots[usize::from(request.slot)];
        let client = request.client;
        if route.special() || self.clients[client as usize].held_wide > 0 {
            return self.place_special(id, raw);
        }
        let link = self.routes.lane(route.link, client, self.settings.links_per_instance);
        self.put(link, id, raw);
    }

    #[cold]
    fn place_special(&mut self, id: RequestId, raw: &[u8]) {
        let slot = self.requests[id as usize].slot;
        if self.routes.slots[usize::from(slot)].link == NONE {
            self.refuse(id, Counter::ErrorsNoOwner, &scatter::no_owner(slot));
        } else {
            self.hold(id, raw);
        }
    }

    /// Says whether the client is to be read, where that has changed.
    #[inline]
    fn gate(&mut self, id: ClientId) {
        let client = &self.clients[id as usize];
        let open = match client.lane {
            Lane::Shared => client.takes_requests(self.settings.client_in_flight_max),
            Lane::Swallowing { .. } => !client.closing,
            Lane::Waiting { .. } => false,
            Lane::Passing { .. } => self.passes(id),
        };
        let client = &mut self.clients[id as usize];
        if open == client.stopped && !client.closed {
            client.stopped = !open;
            self.deeds.push_back(if open { Deed::ReadAgain { client: id } } else { Deed::StopReading { client: id } });
        }
    }

    /// Goes on with clients for which something has changed.
    #[inline]
    fn go_on(&mut self) {
        while let Some(id) = self.resumable.pop() {
            self.resume(id);
        }
    }

    fn resume(&mut self, id: ClientId) {
        if !self.clients.contains(id as usize) {
            return;
        }
        self.try_large(id);
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

/// Links.
impl Relay {
    pub fn link_opened(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(id as usize).filter(|l| l.state == State::Connecting) else { return };
        let name = format!("px:{}:{}", self.settings.proxy_name, self.worker);
        link.heard_us = self.now.us;
        link.greet(&self.settings, &name, &mut self.pool);
        self.mark_link(id);
    }

    /// Bytes read from an instance.
    pub fn link_sent(&mut self, id: LinkId, bytes: &[u8]) {
        self.stats.add(Counter::LinkBytesIn, bytes.len() as u64);
        let Some(link) = self.links.get_mut(id as usize) else { return };
        if matches!(link.state, State::Closing | State::Down { .. }) {
            return;
        }
        link.heard_us = self.now.us;
        if link.entry != usize::MAX {
            self.stats.add_of_group(link.entry, OfGroup::BytesIn, bytes.len() as u64);
        }
        if link.input.is_empty() {
            self.read_replies(id, bytes, 0);
        } else {
            let mut input = std::mem::take(&mut link.input);
            let seen = std::mem::take(&mut link.seen);
            self.pool.extend(&mut input, bytes);
            self.read_replies(id, &input, seen);
            self.pool.give(input);
        }
        if self.routes.unsettled {
            self.settle();
        }
        if self.links.get(id as usize).is_some_and(|l| !l.shared()) {
            self.pace_link(id);
        }
        self.go_on();
    }

    /// Takes replies from `buf`, whose first `seen` bytes the cursor knows; what is not whole is kept.
    fn read_replies(&mut self, id: LinkId, buf: &[u8], mut seen: usize) {
        let mut at = 0;
        loop {
            let Some(link) = self.links.get_mut(id as usize) else { return };
            if matches!(link.state, State::Closing | State::Down { .. }) {
                return;
            }
            match link.cursor.step(&buf[at + seen..]) {
                ReplyStep::Done { len } => {
                    let len = seen + len;
                    let streamed = std::mem::take(&mut link.streamed);
                    link.cursor = Cursor::default();
                    if !self.reply(id, &buf[at..at + len], streamed > 0) {
                        return;
                    }
                    at += len;
                    seen = 0;
                    if at == buf.len() {
                        return;
                    }
                }
                ReplyStep::More { used } => {
                    let used = seen + used;
                    let to_come = link.cursor.bulk_left();
                    let large = link.streamed > 0 || used as u64 + to_come > LARGE as u64;
                    if large && used > 0 && !link.greeting() && link.fifo.front().is_some_and(|&r| r != PING) {
                        link.streamed += used as u64;
                        let front = link.fifo[0];
                        let whole = link.streamed + to_come;
                        self.reply_part(front, &buf[at..at + used], whole);
                        at += used;
                        seen = 0;
                    } else {
                        seen = used;
                    }
                    let Some(link) = self.links.get_mut(id as usize) else { return };
                    if at < buf.len() {
                        link.input = self.pool.keep(&buf[at..]);
                        link.seen = seen;
                    }
                    return;
                }
                ReplyStep::Wrong => {
                    let text = format!("{} answered with something that is not RESP", link::whose(link));
                    self.tell(Level::Warn, text.clone());
                    return self.close_link(id, text);
                }
            }
        }
    }

    /// A whole reply, or the last part of a streamed one. False: the link is of no further use.
    #[inline]
    fn reply(&mut self, id: LinkId, bytes: &[u8], streamed: bool) -> bool {
        let link = &mut self.links[id as usize];
        if link.greeting() {
            return self.greeting_reply(id, bytes);
        }
        let Some(request_id) = link.fifo.pop_front() else {
            // Nobody asked: whatever it is, the order of replies can no longer be trusted.
            let text = format!("{} sent a reply that nobody asked for", link::whose(link));
            self.tell(Level::Warn, text.clone());
            self.close_link(id, text);
            return false;
        };
        link.expired = link.expired.saturating_sub(1);
        if request_id == PING {
            return true;
        }
        let error = bytes.first() == Some(&b'-') && !streamed;
        let entry = link.entry;
        if error {
            self.note_error(entry, bytes);
        }
        let request = &self.requests[request_id as usize];
        let (stage, slot, sent_us) = (request.stage, request.slot, request.sent_us);
        self.observe_instance(entry, sent_us, error);
        self.left_link(slot);
        if stage == Stage::Fragment {
            self.fragment_reply(request_id, bytes);
        } else if streamed {
            self.answer_streamed(request_id, bytes);
        } else {
            self.answer(request_id, bytes);
        }
        match self.links[id as usize].purpose {
            Use::Exclusive { .. } => self.large_answered(id),
            Use::Retiring if self.links[id as usize].fifo.is_empty() => {
                self.close_link(id, "its instance has left the topology".to_owned());
            }
            _ => {}
        }
        true
    }

    /// Part of a reply that is too large to be kept whole on the link.
    fn reply_part(&mut self, request: RequestId, part: &[u8], whole: u64) {
        if self.requests[request as usize].stage == Stage::Fragment {
            self.fragment_part(request, part);
        } else {
            self.answer_part(request, part, whole);
        }
    }

    /// The last part of a streamed reply.
    fn answer_streamed(&mut self, id: RequestId, last: &[u8]) {
        self.answer_part(id, last, last.len() as u64);
        let request = &mut self.requests[id as usize];
        let client = request.client;
        self.stats.add_of_command(request.command, crate::stats::OfCommand::Calls, 1);
        if client == NONE {
            self.forget(id);
        } else if self.clients[client as usize].head == id {
            self.pop_head(client);
        } else {
            request.stage = Stage::Done;
        }
    }

    /// What an instance says of itself in an error is counted, and shown in the link's status.
    #[cold]
    fn note_error(&mut self, entry: usize, bytes: &[u8]) {
        let word = match bytes {
            [b'-', b'L', b'O', b'A', b'D', b'I', b'N', b'G', ..] => OfGroup::RepliesLoading,
            [b'-', b'R', b'E', b'A', b'D', b'O', b'N', b'L', b'Y', ..] => OfGroup::RepliesReadOnly,
            [b'-', b'M', b'A', b'S', b'T', b'E', b'R', b'D', b'O', b'W', b'N', ..] => OfGroup::RepliesMasterDown,
            _ => return,
        };
        if entry != usize::MAX {
            self.stats.add_of_group(entry, word, 1);
        }
    }

    #[cold]
    fn greeting_reply(&mut self, id: LinkId, bytes: &[u8]) -> bool {
        let link = &mut self.links[id as usize];
        match link.greeted(bytes) {
            Greeted::NotYet => true,
            Greeted::Ready => {
                link.state = State::Up;
                link.carried = true;
                (link.attempts, link.written) = (0, 0);
                link.cause.clear();
                link.out.append_all(&mut self.pool, &mut link.queue);
                self.stats.add(Counter::LinksOpened, 1);
                if link.entry != usize::MAX {
                    self.stats.add_of_group(link.entry, OfGroup::LinkOpened, 1);
                }
                if let Use::Exclusive { client } = link.purpose {
                    self.resumable.push(client);
                }
                self.mark_link(id);
                true
            }
            Greeted::Refused(why) => {
                self.close_link(id, why);
                false
            }
        }
    }

    /// The link's socket is gone, whoever closed it: exactly once for each `Deed::Connect`.
    pub fn link_closed(&mut self, id: LinkId, cause: &str) {
        let random = self.random();
        let Some(link) = self.links.get_mut(id as usize) else { return };
        let was = link.state;
        if was != State::Closing {
            link.cause = cause.to_owned();
        }
        let (carried, written) = (link.carried, link.written);
        let gone = link.reset(&mut self.pool);
        let until_us = self.now.us + link::backoff_us(link.attempts, random);
        link.attempts += 1;
        link.state = State::Down { until_us };
        let whose = link::whose(link);
        let (cause, entry, purpose, first) = (link.cause.clone(), link.entry, link.purpose, link.attempts == 1);
        self.stats.add(Counter::LinksFailed, 1);
        if entry != usize::MAX {
            self.stats.add_of_group(entry, OfGroup::LinkFailed, 1);
        }
        if first && purpose == Use::Shared {
            self.tell(Level::Warn, format!("the link to {whose} is down: {cause}"));
        }
        for request_id in gone.into_iter().filter(|&r| r != PING) {
            let request = &self.requests[request_id as usize];
            let (slot, place) = (request.slot, request.place);
            self.left_link(slot);
            if carried && place < written {
                let text =
                    format!("ERR twemslot: the link to {whose} was lost ({cause}); whether this was done is unknown");
                self.refuse(request_id, Counter::ErrorsOutcomeUnknown, &text);
            } else {
                let text = format!("ERR twemslot: {whose} is down: {cause}; nothing was sent");
                self.refuse(request_id, Counter::ErrorsLinkDown, &text);
            }
        }
        if let Use::Exclusive { client } = purpose {
            self.leave_large(client, id);
        }
        if purpose != Use::Shared {
            self.remove_link(id);
        }
        self.settle();
        self.go_on();
    }

    fn remove_link(&mut self, id: LinkId) {
        let link = self.links.remove(id as usize);
        debug_assert!(link.fifo.is_empty(), "a link with requests is removed");
        self.dirty_links.retain(|&d| d != id);
    }

    pub fn link_output<'a>(&'a self, id: LinkId, slices: &mut [IoSlice<'a>]) -> usize {
        self.links.get(id as usize).map_or(0, |l| l.out.slices(slices))
    }

    pub fn link_wrote(&mut self, id: LinkId, bytes: usize) {
        self.stats.add(Counter::LinkBytesOut, bytes as u64);
        let Some(link) = self.links.get_mut(id as usize) else { return };
        link.out.wrote(&mut self.pool, bytes);
        link.written += bytes as u64;
        if link.entry != usize::MAX {
            self.stats.add_of_group(link.entry, OfGroup::BytesOut, bytes as u64);
        }
        if let Use::Exclusive { client } = link.purpose {
            self.resumable.push(client);
            self.go_on();
        }
    }
}

/// What the master says, and time.
impl Relay {
    /// Call once at the head of each loop, before anything else.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// Serves `topology` from now on. Say it between two events, never within one.
    pub fn set_topology(&mut self, topology: Arc<Topology>) {
        let mut targets = Vec::new();
        for group in topology.groups() {
            let Some(primary) = group.primary() else { continue };
            let entry = self.stats.group_entry(group.id).unwrap_or(usize::MAX);
            let links = self.links_to(&primary.addr, group.id, entry, primary.run_id.as_ref());
            targets.push(Target { group: group.id, links, owns_slots: false });
        }
        let kept: Vec<LinkId> = targets.iter().flat_map(|t| t.links.iter().copied()).collect();
        self.retire_links(&kept);
        if self.in_flight.len() != topology.slots().len() {
            self.in_flight = vec![0; topology.slots().len()];
        }
        self.wide_before += std::mem::take(&mut self.wide_now);
        self.stats.add(Counter::TopologiesApplied, 1);
        self.routes.set(topology, targets, &self.in_flight, self.wide_before);
        self.release();
        self.settle();
        self.go_on();
    }

    /// The shared links to an instance: those there are, or new ones.
    fn links_to(&mut self, addr: &Addr, group: u32, entry: usize, run_id: Option<&String>) -> Vec<LinkId> {
        let wanted = self.settings.links_per_instance.max(1) as usize;
        let mut links = self.shared_links.remove(addr).unwrap_or_default();
        for surplus in links.split_off(wanted.min(links.len())) {
            self.retire(surplus);
        }
        for &id in &links {
            let link = &mut self.links[id as usize];
            (link.group, link.entry) = (group, entry);
            if link.run_id.as_ref() != run_id {
                link.run_id = run_id.cloned();
                if run_id.is_some() {
                    self.close_link(id, "the topology expects another process at this address".to_owned());
                }
            }
        }
        while links.len() < wanted {
            let link = Link::new(addr.clone(), group, entry, run_id.cloned(), Use::Shared, self.now.us);
            let id = self.links.insert(link) as LinkId;
            self.deeds.push_back(Deed::Connect { link: id, addr: addr.clone() });
            links.push(id);
        }
        self.shared_links.insert(addr.clone(), links.clone());
        links
    }

    /// Links that the topology no longer uses end when nothing is in flight on them.
    fn retire_links(&mut self, kept: &[LinkId]) {
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
        self.denied = denied;
        self.settings = settings;
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
        let links: Vec<LinkId> = self.links.iter().map(|(id, _)| id as LinkId).collect();
        for id in links {
            self.tick_link(id);
        }
        self.expire_held();
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
        if link.fifo.is_empty() {
            if link.shared() && now.saturating_sub(link.heard_us) >= self.settings.link_ping_us {
                link.out.append(&mut self.pool, b"*1\r\n$4\r\nPING\r\n");
                link.queued += 14;
                link.fifo.push_back(PING);
                // The wait for the answer starts now.
                link.heard_us = now;
                self.mark_link(id);
            }
            return;
        }
        let oldest = link.fifo.iter().find(|&&r| r != PING).map_or(0, |&r| self.requests[r as usize].sent_us);
        let waited = now.saturating_sub(link.heard_us.max(oldest));
        if waited > self.settings.link_dead_us && !link.stopped {
            let text = format!("no byte came for {} ms while replies were owed", waited / 1000);
            return self.close_link(id, text);
        }
        if link.shared() {
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
            let mut late = Request::new(NONE, request.command, request.slot, request.started_us);
            (late.stage, late.sent_us, late.place) = (Stage::Sent, request.sent_us, request.place);
            let late = self.requests.insert(late) as RequestId;
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
        let idle = |c: &Client| c.head == NONE && now.saturating_sub(c.heard_us) > limit;
        let idle: Vec<ClientId> = self.clients.iter().filter(|(_, c)| idle(c)).map(|(id, _)| id as ClientId).collect();
        for id in idle {
            self.close_client(id);
        }
    }

    fn tick_memory(&mut self) {
        let max = self.settings.worker_memory_max;
        let mut lent = self.count_memory();
        while lent > max {
            let most = self.clients.iter().filter(|(_, c)| !c.closed).max_by_key(|(_, c)| c.out.len() + c.input.len());
            let Some((id, client)) = most.filter(|(_, c)| c.out.len() + c.input.len() > 0) else { break };
            let freed = client.out.len() + client.input.len();
            let text =
                format!("buffers take {lent} bytes, more than worker_memory_max {max}, and it holds most of them");
            self.close_for_memory(id as ClientId, &text);
            lent = lent.saturating_sub(freed);
        }
        let accepting = lent < max / 5 * 4;
        if accepting != self.accepting {
            self.accepting = accepting;
            self.deeds.push_back(if accepting { Deed::AcceptAgain } else { Deed::StopAccepting });
        }
        if self.requests.is_empty() && self.clients.iter().all(|(_, c)| c.out.is_empty()) {
            self.pool.trim(64);
            if self.requests.capacity() > 4096 {
                self.requests = slab::Slab::new();
            }
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
        let id = self.dirty_links.pop_front()?;
        self.links[id as usize].dirty = false;
        Some(id)
    }

    pub fn next_dirty_client(&mut self) -> Option<ClientId> {
        let id = self.dirty_clients.pop_front()?;
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
        &mut self.stats
    }

    /// The counts, with the gauges as of now. It looks at every client: for now and then.
    pub fn stats(&mut self) -> &mut Stats {
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
            (Gauge::RequestsInFlight, self.requests.len()),
            (Gauge::RequestsHeld, self.held.len()),
            (Gauge::SlotsHeld, slots_held),
            (Gauge::MemoryBytes, self.pool.lent()),
            (Gauge::ClientOutputBytes, self.clients.iter().map(|(_, c)| c.out.len()).sum()),
            (Gauge::LinkOutputBytes, self.links.iter().map(|(_, l)| l.output_bytes()).sum()),
            (Gauge::LinksUp, up),
            (Gauge::LinksDown, links().count() - up),
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
        let mut in_flight = vec![0u32; self.in_flight.len()];
        for (_, link) in &self.links {
            for &request in link.fifo.iter().filter(|&&r| r != PING) {
                if let Some(n) = in_flight.get_mut(usize::from(self.requests[request as usize].slot)) {
                    *n += 1;
                }
            }
        }
        assert_eq!(in_flight, self.in_flight, "requests in flight, by slot");
        assert_eq!(self.fans.len() as u32, self.wide_now + self.wide_before, "split requests in flight");
    }
}
