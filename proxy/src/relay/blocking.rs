//! Requests that may wait at their instance: each on a link of the client's own, which is closed when the client goes or
//! closes its side, so that nothing is popped for nobody. When the slot is held or moves, the instance is told to stop waiting
//! (CLIENT UNBLOCK), and the request is asked again with the time that remains, wherever the slot is then.

use super::client::{Client, Lane};
use super::command::{self, CommandId, Serve, Session as Asked, Timeout};
use super::fan::{Merge, Part};
use super::limits::{UNBLOCK_AGAIN_US, UNBLOCK_GIVE_UP_US};
use super::link::{Link, Own, State, Use};
use super::request::{NO_SLOT, PING};
use super::session::{Blocked, Interrupted, Why};
use super::state::Relay;
use super::{ClientId, LinkId, Planted};
use crate::stats::Counter;
use cluster::resp::request::Args;
use cluster::resp::write;
use cluster::slot::Slot;

/// What stands before WAIT: it counts the replicas that have what *this* connection wrote last, and the client's
/// writes went over others. This one is written after them and replicated, and changes nothing.
const BARRIER: [&[u8]; 3] = [b"PUBLISH", b"__twemslot", b""];

/// `XREAD ... $` cannot be asked again: `$` would stand for a later entry, and those between would never be read. "Nothing"
/// would hide it, since who hears that asks for `$` again; Redis, too, ends a wait so when its instance leads no more.
const FROM_NOW: &str = "UNBLOCKED twemslot: the slot was moved while this waited, and what $ stood for is not known \
                        elsewhere; nothing was read: ask from the last id that is known";

impl Relay {
    /// A request that may block. Its time begins now, wherever it has to wait.
    pub(super) fn begin_blocking(&mut self, id: ClientId, command: CommandId, slot: Slot, raw: &[u8]) {
        let us = Timeout::of(command::get(command), raw).and_then(|t| t.us);
        let deadline_us = us.map(|us| self.now.us.saturating_add(us));
        self.clients[id as usize].session().blocked = Some(Blocked { deadline_us, ..Blocked::default() });
        self.begin_alone(id, command, slot, raw, 0);
    }

    /// Sends a request that may block, when its turn has come, with the time that remains. "Nothing" is for instances to
    /// say: one whose time was over before its turn came is asked all the same, and waits for next to nothing.
    pub(super) fn block(&mut self, id: ClientId, command: CommandId, slot: Slot, raw: &[u8]) {
        let now = self.now.us;
        let Blocked { deadline_us, asked, .. } = self.clients[id as usize].session().blocked.take().unwrap_or_default();
        let sent = match (Timeout::of(command::get(command), raw), deadline_us) {
            (_, Some(at)) if at <= now && asked => return self.answer_nothing(id, command),
            (Some(timeout), Some(at)) => timeout.with(raw, at.saturating_sub(now)),
            _ => raw.to_vec(),
        };
        if self.start_alone(id, None, (command, slot), &sent, 0).is_some() {
            let raw = self.pool.keep(raw);
            self.clients[id as usize].session().blocked =
                Some(Blocked { raw, deadline_us, asked: true, interrupted: None });
        }
    }

    /// A client has closed its side. Most that do are dead, and what is popped for the dead is lost: the links on which its
    /// request waits are closed, and it gets no further than that. So does Redis with a blocked client when it reads the
    /// end. One that reads on is told, as what came before is owed to it.
    pub(super) fn hang_up(&mut self, id: ClientId) {
        let client = &mut self.clients[id as usize];
        if !client.blocks() && client.lane != Lane::Away {
            return;
        }
        client.closing = true;
        let own = |l: &Link| l.purpose == Use::Exclusive { client: id };
        let own: Vec<LinkId> = self.links.iter().filter(|(_, l)| own(l)).map(|(link, _)| link as LinkId).collect();
        for link in own {
            self.close_link(link, "the client has closed its side".to_owned());
        }
    }

    /// The turn of a request has come that may wait. True: its client has closed its side meanwhile, and it is not asked.
    pub(super) fn waits_for_nobody(&mut self, id: ClientId, command: CommandId) -> bool {
        let client = &self.clients[id as usize];
        let blocks = client.session.as_ref().is_some_and(|s| s.blocked.is_some());
        let waits = blocks || matches!(command::get(command).serve, Serve::Session(Asked::Wait | Asked::WaitAof));
        if !(waits && client.hung_up) {
            return false;
        }
        self.waits_no_more(id);
        let text = "ERR twemslot: the client has closed its side, and nobody would be left to wait; nothing was sent";
        self.refuse_here(id, command, Counter::ErrorsNotServed, text);
        self.clients[id as usize].closing = true;
        true
    }

    /// A reply has come on a client's own link. True: it only says that the wait was interrupted, and the request goes
    /// on elsewhere.
    pub(super) fn interrupted(&mut self, id: ClientId, on: LinkId, reply: &[u8]) -> bool {
        let on_it = |c: &&mut Client| matches!(c.lane, Lane::Passing { link, .. } if link == on);
        let client = self.clients.get_mut(id as usize).filter(on_it);
        let Some(session) = client.and_then(|c| c.session.as_mut()) else { return false };
        let Some(blocked) = session.blocked.take() else { return false };
        let nothing = matches!(reply, b"*-1\r\n" | b"$-1\r\n" | b"_\r\n");
        let moved = blocked.interrupted.is_some_and(|i| i.why == Why::Moved);
        if !moved || !nothing || self.planted == Some(Planted::InterruptionAnswers) {
            self.pool.give(blocked.raw);
            self.clients[id as usize].tidy_session();
            return false;
        }
        let client = &mut self.clients[id as usize];
        let Lane::Passing { link, request, .. } = client.lane else { return false };
        let (command, slot) = (self.requests[request as usize].command, self.requests[request as usize].slot);
        let deadline_us = blocked.deadline_us;
        let over = deadline_us.is_some_and(|at| at <= self.now.us);
        if !over && command::asks_from_now(command::get(command), &blocked.raw) {
            client.tidy_session();
            self.pool.give(blocked.raw);
            self.left_link(slot);
            self.refuse(request, Counter::ErrorsNotServed, FROM_NOW);
            self.large_answered(link);
            return true;
        }
        client.session().blocked = Some(Blocked { deadline_us, asked: true, ..Blocked::default() });
        self.left_link(slot);
        self.pop_head(id);
        self.clients[id as usize].lane = Lane::Shared;
        self.large_answered(link);
        self.begin_alone(id, command, slot, &blocked.raw, 0);
        self.pool.give(blocked.raw);
        true
    }

    /// A topology has come: a blocked client whose slot is held or has another owner must let go of it. So must one whose
    /// slot settles since there are other links to it: everybody waits for what is under way there.
    pub(super) fn interrupt_if_moved(&mut self, id: ClientId) {
        let client = &self.clients[id as usize];
        let Lane::Passing { link, request, .. } = client.lane else { return };
        let Some(blocked) = client.session.as_ref().and_then(|s| s.blocked.as_ref()) else { return };
        let slot = self.requests[request as usize].slot;
        let settles = self.routes.slots.get(usize::from(slot)).is_some_and(|route| route.settling);
        if blocked.interrupted.is_none() && (settles || !self.still_leads(slot, link)) {
            self.interrupt(id, link, Why::Moved);
        }
    }

    fn interrupt(&mut self, id: ClientId, link: LinkId, why: Why) {
        let now = self.now.us;
        if let Some(blocked) = self.clients[id as usize].session().blocked.as_mut() {
            blocked.interrupted = Some(Interrupted { since: now, told: now, why });
        }
        self.interrupting.push(id);
        self.unblock_link(link, why);
    }

    /// Tells the instance at the other end of a link that its client shall wait no longer. Told twice, it may hear the second
    /// only when the wait is over: so nobody waits on this link again.
    fn unblock_link(&mut self, link: LinkId, why: Why) {
        let how: &[u8] = if why == (Why::Asked { with_error: true }) { b"ERROR" } else { b"TIMEOUT" };
        let Some(own) = self.links.get(link as usize) else { return };
        let (Some(server_id), State::Up) = (own.server_id, own.state) else { return };
        let shared = self.shared_links.get(&own.addr).into_iter().flatten();
        let Some(&via) = shared.into_iter().find(|&&l| self.links[l as usize].state == State::Up) else { return };
        let mut bytes = Vec::new();
        write::request(&mut bytes, &[b"CLIENT", b"UNBLOCK", server_id.to_string().as_bytes(), how]);
        let via_link = &mut self.links[via as usize];
        via_link.fifo.push_back(PING);
        via_link.own.push_back(Own::Unblock);
        via_link.queued += bytes.len() as u64;
        via_link.out.append(&mut self.pool, &bytes);
        self.mark_link(via);
        self.links[link as usize].spent = true;
    }

    /// The instance may have been told before it had begun to wait, or could not be told while the link came up: it is told
    /// again. One that does not hear is left.
    pub(super) fn tick_interrupted(&mut self) {
        let now = self.now.us;
        for id in std::mem::take(&mut self.interrupting) {
            let Some(client) = self.clients.get_mut(id as usize) else { continue };
            let Lane::Passing { link, .. } = client.lane else { continue };
            let Some(blocked) = client.session.as_mut().and_then(|s| s.blocked.as_mut()) else { continue };
            let Some(Interrupted { since, told, why }) = blocked.interrupted else { continue };
            self.interrupting.push(id);
            if now.saturating_sub(since) > UNBLOCK_GIVE_UP_US {
                let text = match why {
                    Why::Moved => "its slot has moved, and the instance does not let go of a blocked request",
                    Why::Asked { .. } => "CLIENT UNBLOCK, and the instance does not let go of a blocked request",
                };
                self.close_link(link, text.to_owned());
            } else if now.saturating_sub(told) > UNBLOCK_AGAIN_US {
                blocked.interrupted = Some(Interrupted { since, told: now, why });
                self.unblock_link(link, why);
            }
        }
    }

    /// CLIENT UNBLOCK of a client of this worker, by its CLIENT ID; whether it was blocked.
    pub(super) fn unblock(&mut self, client_id: u64, with_error: bool) -> bool {
        let found = self.clients.iter().find(|(_, c)| c.id == client_id).map(|(id, _)| id as ClientId);
        let Some(id) = found else { return false };
        let client = &self.clients[id as usize];
        if client.lane == Lane::Away {
            return self.unblock_wait(id, with_error);
        }
        let Some(blocked) = client.session.as_ref().and_then(|s| s.blocked.as_ref()) else { return false };
        if blocked.interrupted.is_some_and(|i| i.why != Why::Moved) {
            return false; // it is being unblocked already
        }
        match client.lane {
            Lane::Passing { link, .. } => {
                self.interrupting.retain(|&other| other != id);
                self.interrupt(id, link, Why::Asked { with_error });
                true
            }
            Lane::Waiting { command, .. } => {
                self.stop_waiting(id, command, with_error);
                true
            }
            _ => false,
        }
    }

    /// The same of a client in WAIT: every instance that has not answered yet is told, once for each CLIENT UNBLOCK.
    fn unblock_wait(&mut self, id: ClientId, with_error: bool) -> bool {
        let waits = |l: &Link| l.purpose == Use::Exclusive { client: id } && l.state == State::Up;
        let links: Vec<LinkId> = self.links.iter().filter(|(_, l)| waits(l)).map(|(link, _)| link as LinkId).collect();
        for &link in &links {
            self.unblock_link(link, Why::Asked { with_error });
        }
        !links.is_empty()
    }

    /// Answers a blocked request that is with no instance at the moment.
    fn stop_waiting(&mut self, id: ClientId, command: CommandId, with_error: bool) {
        self.waits_no_more(id);
        if with_error {
            let text = "UNBLOCKED client unblocked via CLIENT UNBLOCK";
            self.refuse_here(id, command, Counter::ErrorsNotServed, text);
        } else {
            self.answer_nothing(id, command);
        }
    }

    fn waits_no_more(&mut self, id: ClientId) {
        self.waiting.retain(|&w| w != id);
        let client = &mut self.clients[id as usize];
        client.lane = Lane::Shared;
        let session = client.session();
        let (blocked, alone) = (session.blocked.take().unwrap_or_default(), std::mem::take(&mut session.alone));
        client.tidy_session();
        self.pool.give(blocked.raw);
        self.pool.give(alone);
        self.resumable.push(id);
    }

    /// The time is over.
    fn answer_nothing(&mut self, id: ClientId, command: CommandId) {
        let one = matches!(command::get(command).name, "blmove" | "brpoplpush") && !self.clients[id as usize].resp3;
        let nil = if one { b"$-1\r\n" } else { self.nil_array(id) };
        self.answer_here(id, command, nil);
    }

    /// Blocked requests whose slot is held wait as long as they would have at the instance. True: it is one. One whose
    /// time is over and that no instance was ever asked waits like any other request: there may be something for it.
    pub(super) fn expire_blocked(&mut self, id: ClientId, command: CommandId) -> bool {
        let client = &self.clients[id as usize];
        let Some(blocked) = client.session.as_ref().and_then(|s| s.blocked.as_ref()) else { return false };
        let over = blocked.deadline_us.is_some_and(|at| at <= self.now.us);
        if over && blocked.asked {
            self.stop_waiting(id, command, false);
            return true;
        }
        !over
    }

    /// WAIT and WAITAOF: asked of every group, and the least of the answers is the answer.
    pub(super) fn wait_for_replicas(&mut self, id: ClientId, command: CommandId, raw: &[u8]) {
        let firsts: Vec<LinkId> =
            self.routes.targets.iter().filter(|t| t.owns_slots).filter_map(|t| t.links.first().copied()).collect();
        if firsts.is_empty() {
            return self.refuse_here(id, command, Counter::ErrorsNoOwner, "ERR twemslot: no group owns any slot yet");
        }
        if let Some(text) = wait_fault(command, raw) {
            return self.refuse_here(id, command, Counter::ErrorsArity, text);
        }
        let mut bytes = Vec::new();
        write::request(&mut bytes, &BARRIER);
        bytes.extend_from_slice(raw);
        let mut parts = Vec::new();
        for first in firsts {
            match self.exclusive_link(first, id) {
                Some(link) => parts.push(Part { link, ..Part::default() }),
                None => {
                    parts.iter().for_each(|p| self.release_link(p.link));
                    let text = "ERR twemslot: too many clients wait already; nothing was asked";
                    return self.refuse_here(id, command, Counter::ErrorsOverload, text);
                }
            }
        }
        let request = self.open_request(id, command, NO_SLOT);
        self.clients[id as usize].lane = Lane::Away;
        let links: Vec<LinkId> = parts.iter().map(|p| p.link).collect();
        let least = command::get(command).serve == Serve::Session(Asked::Wait);
        let merge = if least { Merge::Least } else { Merge::LeastOfEach };
        let fan = self.open_waiting_fan(request, merge, parts);
        for (part, link) in links.into_iter().enumerate() {
            let link = &mut self.links[link as usize];
            link.fifo.push_back(PING);
            link.own.push_back(Own::Part);
            self.send_part(fan, part, &bytes);
        }
    }

    /// Whether the instance of a link on which a request blocks has gone without a word (frozen, or without power), as the
    /// shared links to it tell: they are asked all the time. None of them is up and none had a byte for so long that a link
    /// is dead; or one leads to another process now.
    pub(super) fn instance_is_gone(&self, link: LinkId) -> bool {
        let own = &self.links[link as usize];
        let shared = self.shared_links.get(&own.addr).map_or(&[][..], |links| links);
        let mut shared = shared.iter().map(|&id| &self.links[id as usize]).peekable();
        let other = |l: &Link| !l.process.is_empty() && !own.process.is_empty() && l.process != own.process;
        let silent = |l: &Link| self.now.us.saturating_sub(l.byte_us) > self.settings.link_dead_us;
        let any = shared.peek().is_some();
        let (up, down): (Vec<&Link>, Vec<&Link>) = shared.partition(|l| l.state == State::Up);
        any && (up.iter().any(|l| other(l)) || (up.is_empty() && down.iter().all(|l| silent(l))))
    }

    /// Whether a client's own link may be silent for long: its request blocks.
    pub(super) fn may_be_silent(&self, link: LinkId) -> bool {
        let Use::Exclusive { client } = self.links[link as usize].purpose else { return false };
        let Some(client) = self.clients.get(client as usize) else { return false };
        client.lane == Lane::Away || client.session.as_ref().is_some_and(|s| s.blocked.is_some())
    }
}

/// What Redis would say to these arguments, which it must not say to several groups in several ways.
fn wait_fault(command: CommandId, raw: &[u8]) -> Option<&'static str> {
    let args: Vec<&[u8]> = Args::new(raw).collect();
    let numbers: Option<Vec<i64>> =
        args[1..].iter().map(|a| std::str::from_utf8(a).ok().and_then(|t| t.parse().ok())).collect();
    match numbers {
        None if command::get(command).name == "wait" && args.len() > 2 && args[1].iter().all(u8::is_ascii_digit) => {
            Some("ERR timeout is not an integer or out of range")
        }
        None => Some("ERR value is not an integer or out of range"),
        Some(n) if n.last().is_some_and(|&t| t < 0) => Some("ERR timeout is negative"),
        Some(_) => None,
    }
}
