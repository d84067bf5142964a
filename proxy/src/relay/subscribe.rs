//! Subscriptions of clients, and the links on which the relay itself subscribes: one to each group, for all of them.
//! A client is told that it listens once every group that can be reached has confirmed it.

use super::client::Lane;
use super::command::{self, CommandId, Local, Serve, Session as Asked};
use super::fan::{Fan, Merge, Part};
use super::limits::{LINK_OUTPUT_MAX, PUBSUB_OUTPUT_MAX, SUBSCRIPTION_BYTES_MAX, SUBSCRIPTION_COST, SUBSCRIPTIONS_MAX};
use super::link::{Link, State, Use};
use super::pubsub::At;
use super::request::{NO_SLOT, NONE, RequestId};
use super::scatter::no_owner;
use super::session::{Farewell, Kind, Session, Topic, Watch};
use super::state::Relay;
use super::{ClientId, Deed, Level, LinkId};
use crate::stats::Counter;
use cluster::instance::Addr;
use cluster::resp::reply::{self, Elements};
use cluster::resp::request::{Args, Frame};
use cluster::resp::write;
use std::collections::BTreeSet;

impl Relay {
    /// A request of a client whose connection carries something. True: it has been taken.
    pub(super) fn in_session(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) -> bool {
        let client = &self.clients[id as usize];
        if client.session.as_ref().is_some_and(|s| s.multi.is_some()) {
            self.queued_request(id, frame, raw);
            return true;
        }
        client.listens() && self.while_listening(id, frame, raw)
    }

    /// A RESP2 client that listens may ask for little: replies and messages look alike to it.
    fn while_listening(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) -> bool {
        let name = frame.kept[0].of(raw);
        let Some(command) = command::lookup(name) else { return false };
        match command::get(command).serve {
            Serve::Session(Asked::Multi | Asked::Exec | Asked::Discard | Asked::Watch | Asked::Unwatch) => {}
            Serve::Session(Asked::Wait | Asked::WaitAof) => {}
            Serve::Session(_) | Serve::Local(Local::Quit) => return false,
            Serve::Local(Local::Ping) => {
                let mut reply = Vec::new();
                write::array(&mut reply, 2);
                write::bulk(&mut reply, b"pong");
                write::bulk(&mut reply, Args::new(raw).nth(1).unwrap_or_default());
                self.answer_here(id, command, &reply);
                return true;
            }
            _ => {}
        }
        let text = format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
            command::get(command).name
        );
        self.refuse_here(id, command, Counter::ErrorsNotServed, &text);
        true
    }

    /// Subscribes or unsubscribes, when its turn has come.
    pub(super) fn subscription(&mut self, id: ClientId, command: CommandId, asked: Asked, raw: &[u8]) {
        let names: Vec<&[u8]> = Args::new(raw).skip(1).collect();
        match asked {
            Asked::Subscribe => self.subscribe(id, command, Kind::Channel, &names, raw),
            Asked::Psubscribe => self.subscribe(id, command, Kind::Pattern, &names, raw),
            Asked::Ssubscribe => self.subscribe(id, command, Kind::Shard, &names, raw),
            Asked::Unsubscribe => self.unsubscribe(id, command, Kind::Channel, &names, raw),
            Asked::Punsubscribe => self.unsubscribe(id, command, Kind::Pattern, &names, raw),
            _ => self.unsubscribe(id, command, Kind::Shard, &names, raw),
        }
    }

    fn subscribe(&mut self, id: ClientId, command: CommandId, kind: Kind, names: &[&[u8]], raw: &[u8]) {
        if self.routes.owners().next().is_none() {
            return self.refuse_here(id, command, Counter::ErrorsNoOwner, "ERR twemslot: no group owns any slot yet");
        }
        // Asked again since some have been confirmed: the last of many is so last, and while it is not nothing else matters.
        if names.iter().rev().any(|name| self.waits_for_topic(id, &(kind, (*name).into()))) {
            return self.begin_alone_later(id, command, raw);
        }
        if let Some(text) = self.too_many_subscriptions(id, kind, names) {
            return self.refuse_here(id, command, Counter::ErrorsOverload, &text);
        }
        self.tend_pubsub_links(true);
        let mut confirmed = true;
        for name in names {
            let topic: Topic = (kind, (*name).into());
            self.pubsub.listen(&topic, id);
            confirmed &= self.confirmed(&topic);
            self.clients[id as usize].session().subscribe(topic);
        }
        if !confirmed {
            // It is looked at again whenever a group has answered.
            return self.begin_alone_later(id, command, raw);
        }
        let mut reply = Vec::new();
        let client = &self.clients[id as usize];
        let session = client.session.as_deref();
        let has = |topic: &Topic| session.is_some_and(|s| s.subscriptions.contains(topic));
        let told = |p: &Self, topic: &Topic| p.pubsub.topics.get(topic).and_then(|l| l.clients.get(&id)) == Some(&true);
        let all = session
            .map_or(0, |s| s.subscriptions.iter().filter(|t| (t.0 == Kind::Shard) == (kind == Kind::Shard)).count());
        let mut fresh: BTreeSet<&[u8]> = names
            .iter()
            .filter(|n| {
                let topic = (kind, Box::from(**n));
                has(&topic) && !told(self, &topic)
            })
            .copied()
            .collect();
        let mut count = all - fresh.len();
        for name in names {
            count += usize::from(fresh.remove(name));
            notice(&mut reply, client.resp3, kind.subscribe(), Some(name), count);
        }
        for name in names {
            if let Some(listeners) = self.pubsub.topics.get_mut(&(kind, Box::from(*name))) {
                listeners.clients.insert(id, true);
            }
        }
        self.clients[id as usize].set_common();
        self.answer_aloud(id, command, &reply);
    }

    fn waits_for_topic(&mut self, id: ClientId, topic: &Topic) -> bool {
        let listeners = self.pubsub.topics.get(topic);
        listeners.is_some_and(|l| l.clients.get(&id) == Some(&false)) && !self.confirmed(topic)
    }

    /// Why a client may not subscribe to these. Those that it has, or that it asked for before and waits for, are no more.
    fn too_many_subscriptions(&self, id: ClientId, kind: Kind, names: &[&[u8]]) -> Option<String> {
        let session = self.clients[id as usize].session.as_deref();
        let has = |name: &&&[u8]| session.is_some_and(|s| s.subscriptions.contains(&(kind, Box::from(**name))));
        let new: BTreeSet<&[u8]> = names.iter().filter(|name| !has(name)).copied().collect();
        if new.is_empty() {
            return None;
        }
        let (many, bytes) = session.map_or((0, 0), |s| (s.subscriptions.len(), s.subscription_bytes));
        let names_of = bytes.saturating_sub(many * SUBSCRIPTION_COST) / 2 + new.iter().map(|n| n.len()).sum::<usize>();
        if many + new.len() > SUBSCRIPTIONS_MAX || names_of > SUBSCRIPTION_BYTES_MAX {
            return Some(format!(
                "ERR twemslot: a client may have {SUBSCRIPTIONS_MAX} subscriptions, with names of {SUBSCRIPTION_BYTES_MAX} \
                 bytes; these would be more, and none of them was made"
            ));
        }
        let full = |l: &&LinkId| self.links[**l as usize].output_bytes() > LINK_OUTPUT_MAX;
        let link = self.pubsub.links.iter().find(full)?;
        let whose = super::link::whose(&self.links[*link as usize]);
        Some(format!("ERR twemslot: {whose} is overloaded: it takes no subscriptions; none of these was made"))
    }

    /// A client is told once the groups know: what it publishes or asks then finds no trace of its subscriptions.
    fn unsubscribe(&mut self, id: ClientId, command: CommandId, kind: Kind, names: &[&[u8]], raw: &[u8]) {
        let client = &mut self.clients[id as usize];
        let resp3 = client.resp3;
        if let Some(farewell) = client.session().farewell.take() {
            return self.take_leave(id, command, farewell, raw);
        }
        let session = client.session();
        let own: Vec<Box<[u8]>> = match names {
            [] => session.subscriptions.iter().filter(|t| t.0 == kind).map(|t| t.1.clone()).collect(),
            _ => names.iter().map(|n| Box::from(*n)).collect(),
        };
        let mut reply = Vec::new();
        let mut gone = Vec::new();
        let counts = |t: &&Topic| (t.0 == Kind::Shard) == (kind == Kind::Shard);
        let mut left = session.subscriptions.iter().filter(counts).count();
        if own.is_empty() {
            notice(&mut reply, resp3, kind.unsubscribe(), None, left);
        }
        for name in own {
            let topic = (kind, name);
            let was = session.unsubscribe(&topic);
            left -= usize::from(was);
            notice(&mut reply, resp3, kind.unsubscribe(), Some(&topic.1), left);
            if was {
                gone.push(topic);
            }
        }
        client.tidy_session();
        for topic in &gone {
            self.leave(id, topic);
        }
        self.take_leave(id, command, Farewell { topics: gone, reply }, raw);
    }

    /// Tells a client of the end of its subscriptions, now or when something has changed.
    fn take_leave(&mut self, id: ClientId, command: CommandId, farewell: Farewell, raw: &[u8]) {
        let owed = |topic: &Topic| {
            let listeners = self.pubsub.topics.get(topic).filter(|l| l.clients.is_empty());
            listeners.is_some_and(|l| l.at.iter().any(|at| at.owed > 0))
        };
        // The last one is answered last.
        if farewell.topics.iter().rev().any(owed) {
            self.clients[id as usize].session().farewell = Some(farewell);
            return self.begin_alone_later(id, command, raw);
        }
        self.answer_aloud(id, command, &farewell.reply);
    }

    /// Notices of subscriptions are given even while CLIENT REPLY is OFF.
    pub(super) fn answer_aloud(&mut self, id: ClientId, command: CommandId, reply: &[u8]) {
        let request = self.open_request(id, command, NO_SLOT);
        self.requests[request as usize].mute = false;
        self.answer(request, reply);
    }

    /// Takes back what a request to subscribe that failed had begun.
    pub(super) fn unsubscribe_again(&mut self, id: ClientId, command: CommandId, raw: &[u8]) {
        let Serve::Session(asked) = command::get(command).serve else { return };
        let Some(kind) = kind_of(asked) else { return };
        for name in Args::new(raw).skip(1) {
            let topic: Topic = (kind, Box::from(name));
            if self.pubsub.topics.get(&topic).and_then(|l| l.clients.get(&id)) == Some(&false) {
                self.clients[id as usize].session().unsubscribe(&topic);
                self.leave(id, &topic);
            }
        }
        self.clients[id as usize].tidy_session();
    }

    /// A client listens to a topic no more.
    fn leave(&mut self, id: ClientId, topic: &Topic) {
        if self.pubsub.left(topic, id) {
            self.ask_links(topic, false);
            self.pubsub.tidy(topic);
        }
    }

    /// Asks every group for a topic, or for no more of it, where that was not what was asked last.
    fn ask_links(&mut self, topic: &Topic, wanted: bool) {
        for link in self.pubsub.links.clone() {
            let Some(listeners) = self.pubsub.topics.get_mut(topic) else { return };
            match listeners.at.iter_mut().find(|at| at.link == link) {
                Some(at) if at.wanted == wanted => continue,
                Some(at) => (at.wanted, at.owed) = (wanted, at.owed + 1),
                None if wanted && self.links[link as usize].state == State::Up => {
                    listeners.at.push(At { link, wanted, owed: 1 });
                }
                None => continue,
            }
            self.pubsub.asked(link, topic, wanted);
            let verb = if wanted { topic.0.subscribe() } else { topic.0.unsubscribe() };
            let mut bytes = Vec::new();
            write::request(&mut bytes, &[verb, &topic.1]);
            let own = &mut self.links[link as usize];
            own.queued += bytes.len() as u64;
            own.out.append(&mut self.pool, &bytes);
            self.mark_link(link);
        }
    }

    /// Whether every group that can be reached publishes the topic to us; those that were not asked are.
    fn confirmed(&mut self, topic: &Topic) -> bool {
        self.ask_links(topic, true);
        let Some(listeners) = self.pubsub.topics.get(topic) else { return true };
        self.pubsub.links.iter().all(|&id| {
            let link = &self.links[id as usize];
            match link.state {
                State::Up => listeners.at.iter().any(|at| at.link == id && at.wanted && at.owed == 0),
                // A group that has nothing to publish, and could not be reached, keeps nobody waiting.
                State::Connecting | State::Greeting => {
                    link.attempts > 0 && !self.routes.owners().any(|t| t.group == link.group)
                }
                State::Down { .. } | State::Closing => true,
            }
        })
    }

    /// Links to subscribe on: one to each group, if anyone listens (or is about to). To those without slots too: what is
    /// published at a group when it gets its first ones would be lost until a link is up.
    fn tend_pubsub_links(&mut self, wanted: bool) {
        if !wanted && self.pubsub.topics.is_empty() && self.pubsub.links.is_empty() {
            return;
        }
        let primary =
            |link: LinkId| self.links.get(link as usize).map(|l| (l.addr.clone(), l.group, l.entry, l.run_id.clone()));
        let wanted: Vec<(Addr, u32, usize, Option<String>)> =
            self.routes.targets.iter().filter_map(|t| primary(*t.links.first()?)).collect();
        let same = |l: &Link, w: &(Addr, u32, usize, Option<String>)| l.addr == w.0;
        for id in std::mem::take(&mut self.pubsub.links) {
            match wanted.iter().find(|w| same(&self.links[id as usize], w)) {
                Some(w) => {
                    self.pubsub.links.push(id);
                    self.expect_process(id, w.3.as_ref());
                }
                None => self.finish_pubsub_link(id),
            }
        }
        for w in &wanted {
            if !self.pubsub.links.iter().any(|&id| same(&self.links[id as usize], w)) {
                let (addr, group, entry, run_id) = w.clone();
                let link = Link::new(addr.clone(), group, entry, run_id, Use::PubSub, self.now.us);
                let link = self.links.insert(link) as LinkId;
                self.pubsub.links.push(link);
                self.deeds.push_back(Deed::Connect { link, addr });
            }
        }
    }

    fn finish_pubsub_link(&mut self, id: LinkId) {
        self.pubsub.lost(id);
        self.links[id as usize].purpose = Use::Finished;
        if matches!(self.links[id as usize].state, State::Down { .. }) {
            self.remove_link(id);
        } else {
            self.close_link(id, "its instance has left the topology".to_owned());
        }
    }

    /// A topology has come.
    pub(super) fn tend_subscriptions(&mut self) {
        self.tend_pubsub_links(false);
        self.retry_waiting();
    }

    /// A link to subscribe on is up: it gets everything.
    pub(super) fn subscribe_all(&mut self, id: LinkId) {
        let mut bytes = Vec::new();
        let mut wanted = Vec::new();
        for (topic, listeners) in self.pubsub.topics.iter_mut().filter(|(_, l)| !l.clients.is_empty()) {
            listeners.at.push(At { link: id, wanted: true, owed: 1 });
            write::request(&mut bytes, &[topic.0.subscribe(), &topic.1]);
            wanted.push(topic.clone());
        }
        wanted.iter().for_each(|topic| self.pubsub.asked(id, topic, true));
        let link = &mut self.links[id as usize];
        link.queued += bytes.len() as u64;
        link.out.append(&mut self.pool, &bytes);
        self.retry_waiting();
    }

    pub(super) fn pubsub_link_lost(&mut self, id: LinkId) {
        self.pubsub.lost(id);
        self.retry_waiting();
    }

    /// Something has changed that clients may wait for.
    fn retry_waiting(&mut self) {
        // A thousand confirmations that come together are looked at once.
        if !self.waiting.is_empty() && !std::mem::replace(&mut self.waiting_retried, true) {
            self.resumable.extend(self.waiting.iter().copied());
        }
    }

    /// What an instance says on a link to subscribe on. False: it is a reply to something of ours.
    pub(super) fn published(&mut self, id: LinkId, bytes: &[u8]) -> bool {
        if bytes.first() != Some(&b'*') {
            return bytes.first() == Some(&b'-') && self.subscription_refused(id, bytes);
        }
        let texts: Vec<Option<&[u8]>> = Elements::new(bytes).into_iter().flatten().map(reply::text).collect();
        match texts.as_slice() {
            [Some(b"message"), Some(channel), _] => self.deliver(&(Kind::Channel, Box::from(*channel)), bytes),
            [Some(b"pmessage"), Some(pattern), _, _] => self.deliver(&(Kind::Pattern, Box::from(*pattern)), bytes),
            [Some(b"smessage"), Some(channel), _] => self.deliver(&(Kind::Shard, Box::from(*channel)), bytes),
            [Some(b"subscribe" | b"unsubscribe"), Some(name), _] => self.confirmed_by(id, Kind::Channel, name),
            [Some(b"psubscribe" | b"punsubscribe"), Some(name), _] => self.confirmed_by(id, Kind::Pattern, name),
            [Some(b"ssubscribe" | b"sunsubscribe"), Some(name), _] => self.confirmed_by(id, Kind::Shard, name),
            // The answer to PING while something is subscribed.
            _ => return false,
        }
        true
    }

    /// A group cannot do what was asked (SSUBSCRIBE before Redis 7, or no right to): who waits for it is told, and it is
    /// as if that group had not been asked. False: it is a reply to something else.
    fn subscription_refused(&mut self, id: LinkId, bytes: &[u8]) -> bool {
        let Some(asked) = self.pubsub.refused(id) else { return false };
        let text = String::from_utf8_lossy(&bytes[1..]).trim_end().to_owned();
        let text = format!("ERR twemslot: {} refuses: {text}", super::link::whose(&self.links[id as usize]));
        let listeners = self.pubsub.topics.get(&asked.topic).filter(|_| asked.wanted);
        let clients: Vec<(ClientId, bool)> = listeners.iter().flat_map(|l| &l.clients).map(|(c, t)| (*c, *t)).collect();
        // Some that listen already, and go on to, have asked again: they would ask for ever.
        let (waiting, listening): (Vec<_>, Vec<_>) =
            clients.into_iter().partition(|(client, told)| !told || self.waits_to_subscribe(*client, &asked.topic));
        if waiting.is_empty() && !listening.is_empty() {
            self.tell(Level::Warn, format!("clients that listen do not hear this group: {text}"));
        }
        for (client, _) in waiting {
            self.refuse_waiting(client, &text);
        }
        self.retry_waiting();
        true
    }

    /// Whether a client's request to subscribe to this topic, among others perhaps, is waiting.
    fn waits_to_subscribe(&self, id: ClientId, topic: &Topic) -> bool {
        let client = &self.clients[id as usize];
        let Lane::Waiting { command, .. } = client.lane else { return false };
        let asks = matches!(command::get(command).serve, Serve::Session(asked) if kind_of(asked) == Some(topic.0));
        asks && client.session.as_ref().is_some_and(|s| Args::new(&s.alone).skip(1).any(|name| *name == *topic.1))
    }

    fn confirmed_by(&mut self, id: LinkId, kind: Kind, name: &[u8]) {
        self.pubsub.answered(id, &(kind, Box::from(name)));
        self.retry_waiting();
    }

    /// Passes a message on to everyone who listens.
    fn deliver(&mut self, topic: &Topic, bytes: &[u8]) {
        let Some(listeners) = self.pubsub.topics.get(topic) else { return };
        let clients: Vec<ClientId> = listeners.clients.iter().filter(|(_, told)| **told).map(|(id, _)| *id).collect();
        for id in clients {
            self.push(id, bytes);
        }
    }

    fn push(&mut self, id: ClientId, bytes: &[u8]) {
        let midway = self.midway(id);
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        if client.closed {
            return;
        }
        let (kind, rest) = (if client.resp3 { &b">"[..] } else { b"*" }, &bytes[1..]);
        if midway {
            let pushes = &mut client.session().pushes;
            pushes.extend_from_slice(kind);
            pushes.extend_from_slice(rest);
            self.pushing.push(id);
        } else {
            client.out.append(&mut self.pool, kind);
            client.out.append(&mut self.pool, rest);
            self.mark_client(id);
        }
        let client = &self.clients[id as usize];
        if client.out.len() + client.session.as_ref().map_or(0, |s| s.pushes.len()) > PUBSUB_OUTPUT_MAX {
            self.close_for_memory(id, "it does not read the messages it has subscribed to");
        }
    }

    /// Whether the client is in the middle of a large reply: a message must not come between its parts.
    fn midway(&self, id: ClientId) -> bool {
        let Some(client) = self.clients.get(id as usize).filter(|c| c.head != NONE) else { return false };
        self.links.iter().any(|(_, l)| l.streamed > 0 && l.fifo.front() == Some(&client.head))
    }

    /// Messages that had to wait for the end of a large reply.
    pub(super) fn push_later(&mut self) {
        for id in std::mem::take(&mut self.pushing) {
            if self.midway(id) {
                self.pushing.push(id);
            } else if let Some(client) = self.clients.get_mut(id as usize)
                && let Some(session) = client.session.as_mut()
            {
                let pushes = std::mem::take(&mut session.pushes);
                client.out.append(&mut self.pool, &pushes);
                client.tidy_session();
                self.mark_client(id);
            }
        }
    }

    /// Sends a message to the owner of its channel's slot: anywhere would do, and so publishers share the load.
    pub(super) fn publish(&mut self, id: ClientId, command: CommandId, raw: &[u8]) {
        let request = self.open_request(id, command, NO_SLOT);
        self.place_publish(request, raw);
    }

    pub(super) fn place_publish(&mut self, id: RequestId, raw: &[u8]) {
        let client = self.requests[id as usize].client;
        let channel = Args::new(raw).nth(1).unwrap_or_default();
        let slot = self.routes.slot_of(channel);
        let route = self.routes.slots[usize::from(slot)];
        if route.link == NONE {
            return self.refuse(id, Counter::ErrorsNoOwner, &no_owner(slot));
        }
        if route.waits() || self.clients[client as usize].held_wide > 0 {
            return self.hold(id, raw);
        }
        let first = route.first(self.clients[client as usize].resp3);
        let link = self.routes.lane(first, client, self.settings.links_per_instance);
        let part = Part { link, request: channel.to_vec(), ..Part::default() };
        let mut fan = self.new_fan();
        fan.merge = Merge::Published;
        fan.parts.push(part);
        let fan = self.open_fan(id, fan);
        self.send_part(fan, 0, raw);
    }

    /// How many clients a message reached: an instance counts this relay's one link for all its clients.
    pub(super) fn published_to(&self, fan: &Fan, out: &mut Vec<u8>) {
        let part = &fan.parts[0];
        let shard = self.requests.get(fan.parent).is_some_and(|r| command::get(r.command).name == "spublish");
        match reply::integer(&part.reply) {
            Some(n) => {
                let (links, clients) = self.pubsub.receivers(&part.request, shard);
                write::integer(out, (n - links).max(0) + clients);
            }
            None => out.extend_from_slice(&part.reply),
        }
    }

    /// What a client's connection carried ends with it.
    pub(super) fn session_closed(&mut self, id: ClientId, session: Session) {
        if let Watch::On { link, .. } = session.watch {
            self.release_link(link);
        }
        for topic in &session.subscriptions {
            self.leave(id, topic);
        }
        self.pool.give(session.alone);
        self.pool.give(session.multi.unwrap_or_default().bytes);
        if let Some(blocked) = session.blocked {
            self.pool.give(blocked.raw);
        }
    }

    /// RESET: as if it had just connected.
    pub(super) fn reset(&mut self, id: ClientId, command: CommandId) {
        self.forget_watch(id);
        self.stop_monitoring(id);
        let client = &mut self.clients[id as usize];
        let session = client.session.take();
        (client.resp3, client.no_evict) = (false, false);
        (client.reply_off, client.reply_skip) = (false, 0);
        client.name = "".into();
        self.introduce(id);
        if let Some(session) = session {
            self.session_closed(id, *session);
        }
        self.answer_here(id, command, b"+RESET\r\n");
    }
}

/// What a request subscribes to, if it does.
fn kind_of(asked: Asked) -> Option<Kind> {
    match asked {
        Asked::Subscribe => Some(Kind::Channel),
        Asked::Psubscribe => Some(Kind::Pattern),
        Asked::Ssubscribe => Some(Kind::Shard),
        _ => None,
    }
}

/// What a client is told of a subscription, and how many it has now.
fn notice(out: &mut Vec<u8>, resp3: bool, verb: &[u8], name: Option<&[u8]>, count: usize) {
    out.extend_from_slice(if resp3 { b">3\r\n" } else { b"*3\r\n" });
    write::bulk(out, &verb.to_ascii_lowercase());
    match name {
        Some(name) => write::bulk(out, name),
        None => out.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
    }
    write::integer(out, count as i64);
}
