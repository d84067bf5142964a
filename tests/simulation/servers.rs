//! What instances do with their sockets: read requests, execute them one at a time, write replies; give elements to
//! those who wait for them, and messages to those who listen.

use crate::checkers::history::show;
use crate::instance::{Blocked, Effect, Instance};
use crate::store::Wish;
use crate::world::{Event, Plant, World};
use cluster::resp::write;
use std::io::IoSlice;

impl World {
    pub(crate) fn instance_turn(&mut self, i: usize) {
        let instance = &self.instances[i];
        if !instance.alive {
            return;
        }
        if instance.frozen_until > self.now {
            let after = instance.frozen_until - self.now;
            return self.wake(Event::Instance(i), after);
        }
        let slow = instance.slow_until > self.now;
        let open = self.heard_links_of(i);
        for &l in &open {
            self.instance_reads(l);
        }
        self.end_waits(i);
        let mut budget = if slow { 1 } else { 100 };
        let first = self.rng.below(open.len());
        for at in 0..open.len() {
            self.instance_executes(i, open[(first + at) % open.len()], &mut budget);
        }
        let mut more = budget == 0;
        for &l in &open {
            more |= self.instance_writes(l);
        }
        if more {
            let pause = if slow { self.instances[i].pause_us } else { self.rng.range(5, 60) };
            self.wake(Event::Instance(i), pause);
        }
        self.wake_for_waits(i);
    }

    pub(crate) fn open_links_of(&mut self, i: usize) -> Vec<usize> {
        let links = &self.links;
        self.instances[i].links.retain(|&l| !links[l].instance_gone);
        self.instances[i].links.clone()
    }

    /// Those among them whose bytes have arrived.
    fn heard_links_of(&mut self, i: usize) -> Vec<usize> {
        let mut open = self.open_links_of(i);
        let now = self.now;
        if let Some(until) = open.iter().map(|&l| self.links[l].late_until).filter(|&until| until > now).min() {
            self.wake(Event::Instance(i), until - now);
            open.retain(|&l| self.links[l].late_until <= now);
        }
        open
    }

    fn instance_reads(&mut self, l: usize) {
        let conn = &mut self.links[l];
        let bytes = conn.up.read(&mut self.rng);
        conn.peer.input.extend_from_slice(&bytes);
        if !bytes.is_empty() && !conn.worker_gone {
            let w = conn.worker;
            self.wake_soon(Event::Worker(w));
        }
    }

    fn instance_executes(&mut self, i: usize, l: usize, budget: &mut usize) {
        let mut held_back = Vec::new();
        while *budget > 0 && !self.links[l].instance_gone && self.links[l].peer.blocked.is_none() {
            let Some(mut request) = self.links[l].peer.next_request(&mut self.history) else { break };
            *budget -= 1;
            self.note_execution(i, l, &request);
            if self.planted(Plant::Reorder, 40)
                && let Some(next) = self.links[l].peer.next_request(&mut self.history)
            {
                self.links[l].peer.input.splice(..0, std::mem::replace(&mut request, next));
            }
            let mut reply = self.execute(i, l, &request);
            if self.links[l].peer.blocked.is_none() && self.planted(Plant::Retry, 40) {
                reply = self.execute(i, l, &request);
            }
            self.serve_those_who_wait(i);
            if self.planted(Plant::DropReply, 300) {
                continue;
            }
            if held_back.is_empty() && self.planted(Plant::SwapReplies, 100) {
                held_back = reply;
                continue;
            }
            self.links[l].peer.output.extend_from_slice(&reply);
            self.links[l].peer.output.append(&mut held_back);
        }
        self.links[l].peer.output.append(&mut held_back);
    }

    fn note_execution(&mut self, i: usize, l: usize, request: &[u8]) {
        let (w, id, gone) = (self.links[l].worker, self.links[l].peer.id, self.links[l].worker_gone);
        let lost = if gone { ", lost" } else { "" };
        self.note(|| format!("i{i} executes {} (id {id} of w{w}{lost})", show(request)));
    }

    fn planted(&mut self, plant: Plant, one_in: u64) -> bool {
        self.plant == Some(plant) && self.rng.one_in(one_in)
    }

    fn execute(&mut self, i: usize, l: usize, request: &[u8]) -> Vec<u8> {
        if request.starts_with(b"*3\r\n$3\r\nSET") && self.planted(Plant::LoseWrite, 40) {
            return b"+OK\r\n".to_vec();
        }
        let conn = &mut self.links[l];
        let (instance, peer) = (&mut self.instances[i], &mut conn.peer);
        match instance.execute(request, peer, self.now, &self.owners, &mut self.history) {
            Effect::Reply(reply) => reply,
            Effect::Block(wish) => {
                self.block(i, l, wish);
                Vec::new()
            }
            Effect::Unblock(id, error) => {
                let found = self.open_links_of(i).into_iter().find(|&other| self.links[other].peer.id == id);
                let done = found.is_some_and(|other| self.unblock(other, error));
                format!(":{}\r\n", usize::from(done)).into_bytes()
            }
            Effect::Publish(channel, payload) => self.publish_at(i, &channel, &payload),
            Effect::Send { key, to, overwrites } => self.send_key(i, &key, &to, overwrites),
            Effect::Kill(id) => {
                let found =
                    self.open_links_of(i).into_iter().find(|&other| other != l && self.links[other].peer.id == id);
                if let Some(other) = found
                    && self.plant != Some(Plant::KillNothing)
                {
                    self.note(|| format!("i{i} kills connection {id}"));
                    self.cut_link(other);
                }
                format!(":{}\r\n", usize::from(found.is_some())).into_bytes()
            }
        }
    }

    /// An instance sends a key to another one, and does nothing else meanwhile: nothing can come between.
    fn send_key(&mut self, i: usize, key: &[u8], to: &str, overwrites: bool) -> Vec<u8> {
        let now = self.now;
        let well = |t: &Instance| t.alive && t.primary && now >= t.loading_until.max(t.frozen_until);
        let target = self.instances.iter().position(|t| t.addr == to && well(t));
        if !self.instances[i].store.has(key) {
            return if overwrites { b":0\r\n".to_vec() } else { b"+NOKEY\r\n".to_vec() };
        }
        let Some(target) = target.filter(|_| !self.rng.one_in(20)) else {
            return b"-IOERR error or timeout writing to target instance\r\n".to_vec();
        };
        if !overwrites && self.instances[target].store.has(key) {
            return b"-ERR Target instance replied with error: BUSYKEY Target key name already exists.\r\n".to_vec();
        }
        let unknown = self.rng.one_in(20);
        let sent = self.instances[i].store.send(key, unknown);
        self.instances[target].store.put(sent.into_iter().collect());
        self.note(|| format!("i{i} has sent {} to i{target}{}", show(key), if unknown { ", unknowingly" } else { "" }));
        match (unknown, overwrites) {
            (true, _) => b"-IOERR error or timeout reading from target instance\r\n".to_vec(),
            (_, true) => b":1\r\n".to_vec(),
            (_, false) => b"+OK\r\n".to_vec(),
        }
    }

    fn block(&mut self, i: usize, l: usize, wish: Wish) {
        let instance = &mut self.instances[i];
        instance.waits += 1;
        let until = wish.waits_us.filter(|&us| us > 0).map_or(u64::MAX, |us| self.now + us);
        self.links[l].peer.blocked = Some(Blocked { wish, order: instance.waits, until });
    }

    /// Ends the waiting of a connection, if it waits.
    pub(crate) fn unblock(&mut self, l: usize, error: bool) -> bool {
        let Some(blocked) = self.links[l].peer.blocked.take() else { return false };
        let told = if error { b"-UNBLOCKED client unblocked\r\n" } else { blocked.wish.nothing() };
        self.links[l].peer.output.extend_from_slice(told);
        true
    }

    /// Those whose time is over.
    fn end_waits(&mut self, i: usize) {
        for l in self.open_links_of(i) {
            if self.links[l].peer.blocked.as_ref().is_some_and(|blocked| blocked.until <= self.now) {
                self.unblock(l, false);
            }
        }
    }

    fn wake_for_waits(&mut self, i: usize) {
        let open = self.open_links_of(i);
        let until = open.iter().filter_map(|&l| self.links[l].peer.blocked.as_ref()).map(|blocked| blocked.until).min();
        if let Some(until) = until.filter(|&until| until != u64::MAX) {
            self.wake(Event::Instance(i), until.saturating_sub(self.now));
        }
    }

    /// New elements go to those who wait, in the order in which they began.
    fn serve_those_who_wait(&mut self, i: usize) {
        while std::mem::take(&mut self.instances[i].store.pushed) {
            let order = |world: &Self, l: usize| world.links[l].peer.blocked.as_ref().map(|blocked| blocked.order);
            let mut waiting = self.open_links_of(i);
            waiting.retain(|&l| order(self, l).is_some());
            waiting.sort_by_key(|&l| order(self, l));
            for l in waiting {
                let peer = &mut self.links[l].peer;
                if let Some(reply) = self.instances[i].serve(peer, &self.owners, &mut self.history) {
                    let nothing = peer.blocked.take().map(|blocked| blocked.wish.nothing());
                    let lost = self.plant == Some(Plant::LosePop) && self.rng.one_in(20);
                    let told = if lost { nothing.unwrap_or_default() } else { &reply };
                    self.links[l].peer.output.extend_from_slice(told);
                    let (id, w) = (self.links[l].peer.id, self.links[l].worker);
                    self.note(|| format!("i{i} serves id {id} of w{w}: {}", show(&reply)));
                }
            }
        }
    }

    /// A message for all connections that listen; the answer says to how many.
    fn publish_at(&mut self, i: usize, channel: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut receivers = 0;
        for l in self.open_links_of(i) {
            let peer = &mut self.links[l].peer;
            let before = std::mem::take(&mut peer.output);
            for (pattern, topic) in &peer.subscriptions {
                let matches = if *pattern { channel.starts_with(&topic[..3]) } else { channel == topic };
                if matches {
                    receivers += 1;
                    let kind: &[&[u8]] = if *pattern { &[b"pmessage", topic] } else { &[b"message"] };
                    write::array(&mut peer.output, kind.len() + 2);
                    kind.iter().chain(&[channel, payload]).for_each(|part| write::bulk(&mut peer.output, part));
                }
            }
            let fresh = std::mem::replace(&mut peer.output, before);
            if self.planted(Plant::SwapMessages, 20) {
                self.links[l].peer.held_back.extend(fresh);
            } else {
                let peer = &mut self.links[l].peer;
                peer.output.extend(fresh);
                peer.output.append(&mut peer.held_back);
            }
        }
        self.history.published(channel, payload, i, receivers);
        format!(":{receivers}\r\n").into_bytes()
    }

    /// True when there is more to do on this connection.
    fn instance_writes(&mut self, l: usize) -> bool {
        let conn = &mut self.links[l];
        if conn.instance_gone {
            return false;
        }
        if conn.worker_gone || conn.broken {
            conn.peer.output.clear();
        }
        let taken = conn.down.write(&mut self.rng, &[IoSlice::new(&conn.peer.output)]);
        conn.peer.output.drain(..taken);
        if conn.up.ended && conn.up.is_empty() && conn.peer.is_idle() {
            conn.instance_gone = true;
            conn.down.ended = true;
        }
        let more = !conn.up.is_empty() || (!conn.peer.output.is_empty() && conn.down.has_room());
        let (w, gone) = (conn.worker, conn.worker_gone);
        if taken > 0 && !gone {
            self.wake_soon(Event::Worker(w));
        }
        more
    }
}
