//! The way back: a link opens and greets, its replies are taken one by one and find their requests, and when it is
//! lost every request on it is told what is known of it.

use super::fence::Lost;
use super::limits::LARGE;
use super::link::{self, Greeted, State, Use};
use super::request::{NONE, PING, RequestId, Stage};
use super::state::Relay;
use super::{Level, LinkId};
use crate::stats::{Counter, OfCommand, OfGroup};
use cluster::resp::reply::{self, Cursor, Step as ReplyStep};
use std::io::IoSlice;

impl Relay {
    pub fn link_opened(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(id as usize).filter(|l| l.state == State::Connecting) else { return };
        let name = format!("px:{}:{}", self.settings.proxy_name, self.worker);
        link.heard_us = self.now.us;
        link.lost_before = self.orphans.lost();
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
        (link.heard_us, link.byte_us) = (self.now.us, self.now.us);
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
        if !self.pushing.is_empty() {
            self.push_later();
        }
        if self.links.get(id as usize).is_some_and(|l| !l.shared()) {
            self.pace_link(id);
        }
        self.go_on();
    }

    /// Takes whole short replies from the start of `buf`, which comes from a link that all clients share; how many bytes
    /// they were.
    #[inline]
    fn read_short_replies(&mut self, id: LinkId, buf: &[u8]) -> usize {
        let link = &self.links[id as usize];
        if link.purpose != Use::Shared || link.greeting() || link.streamed > 0 || !link.cursor.at_start() {
            return 0;
        }
        let (entry, mut at) = (link.entry, 0);
        while let Some(len) = reply::quick(&buf[at..]).or_else(|| self.read_values(id, &buf[at..])) {
            let link = &mut self.links[id as usize];
            let Some(request_id) = link.fifo.pop_front() else { break };
            link.expired = link.expired.saturating_sub(1);
            if request_id != PING {
                self.request_answered(request_id, entry, &buf[at..at + len]);
            } else if !self.own_reply(id, &buf[at..at + len]) {
                return buf.len();
            }
            at += len;
        }
        at
    }

    /// The length of the reply to a part of MGET, if `buf` starts with all of it.
    #[inline(never)]
    fn read_values(&mut self, id: LinkId, buf: &[u8]) -> Option<usize> {
        let request = *self.links[id as usize].fifo.front().filter(|_| buf.first() == Some(&b'*'))?;
        self.fragment_values(request, buf)
    }

    /// An instance has answered a request.
    #[inline(always)]
    fn request_answered(&mut self, id: RequestId, entry: usize, reply: &[u8]) {
        let request = &self.requests[id as usize];
        let (stage, slot, sent_us) = (request.stage, request.slot, request.sent_us);
        self.observe_instance(entry, sent_us);
        self.left_link(slot);
        if stage == Stage::Fragment {
            self.fragment_reply(id, reply);
        } else {
            self.answer(id, reply);
        }
    }

    /// Takes replies from `buf`, whose first `seen` bytes the cursor knows; what is not whole is kept.
    fn read_replies(&mut self, id: LinkId, buf: &[u8], mut seen: usize) {
        let mut at = 0;
        if seen == 0 {
            at = self.read_short_replies(id, buf);
        }
        if at == buf.len() {
            return;
        }
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
                    if !self.reply(id, &buf[at..at + len], streamed) {
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

    /// A whole reply, or the last part of one of which so many bytes have been passed on already. False: the link is of no further use.
    fn reply(&mut self, id: LinkId, bytes: &[u8], streamed: u64) -> bool {
        let link = &mut self.links[id as usize];
        if link.greeting() {
            return self.greeting_reply(id, bytes);
        }
        if link.purpose == Use::PubSub && self.published(id, bytes) {
            return true;
        }
        let link = &mut self.links[id as usize];
        let Some(request_id) = link.fifo.pop_front() else {
            // Nobody asked: whatever it is, the order of replies can no longer be trusted.
            let text = format!("{} sent a reply that nobody asked for", link::whose(link));
            self.tell(Level::Warn, text.clone());
            self.close_link(id, text);
            return false;
        };
        link.expired = link.expired.saturating_sub(1);
        if request_id == PING {
            return self.own_reply(id, bytes);
        }
        let entry = link.entry;
        if let Use::Exclusive { client } = link.purpose
            && self.interrupted(client, id, bytes)
        {
            return true;
        }
        if streamed > 0 {
            self.sample_large_reply(request_id, streamed + bytes.len() as u64);
            self.streamed_reply(request_id, entry, bytes);
        } else {
            if bytes.first() == Some(&b'-') {
                self.note_error(id, entry, bytes);
                if bytes.starts_with(b"-NOSCRIPT") {
                    self.script_missing(id, request_id);
                }
            }
            self.request_answered(request_id, entry, bytes);
        }
        match self.links[id as usize].purpose {
            Use::Exclusive { .. } => self.large_answered(id),
            Use::Errand => self.close_link(id, "its errand is done".to_owned()),
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
    fn streamed_reply(&mut self, id: RequestId, entry: usize, last: &[u8]) {
        let request = &self.requests[id as usize];
        let (stage, slot, sent_us) = (request.stage, request.slot, request.sent_us);
        self.observe_instance(entry, sent_us);
        self.left_link(slot);
        if stage == Stage::Fragment {
            return self.fragment_reply(id, last);
        }
        self.answer_part(id, last, last.len() as u64);
        let request = &mut self.requests[id as usize];
        let client = request.client;
        self.stats.add_of_command(request.command, OfCommand::Calls, 1);
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
    fn note_error(&mut self, id: LinkId, entry: usize, bytes: &[u8]) {
        if bytes.starts_with(b"-READONLY") {
            let link = &mut self.links[id as usize];
            link.doubted = link.shared();
        }
        if entry == usize::MAX {
            return;
        }
        self.stats.add_of_group(entry, OfGroup::Errors, 1);
        let word = match bytes {
            [b'-', b'L', b'O', b'A', b'D', b'I', b'N', b'G', ..] => OfGroup::RepliesLoading,
            [b'-', b'R', b'E', b'A', b'D', b'O', b'N', b'L', b'Y', ..] => OfGroup::RepliesReadOnly,
            [b'-', b'M', b'A', b'S', b'T', b'E', b'R', b'D', b'O', b'W', b'N', ..] => OfGroup::RepliesMasterDown,
            _ => return,
        };
        self.stats.add_of_group(entry, word, 1);
    }

    #[cold]
    fn greeting_reply(&mut self, id: LinkId, bytes: &[u8]) -> bool {
        let link = &mut self.links[id as usize];
        match link.greeted(bytes) {
            Greeted::NotYet => true,
            Greeted::Introduced => self.introduced(id),
            Greeted::Ready => self.greeting_done(id),
            Greeted::Scripts => self.told_of_scripts(id, bytes),
            Greeted::Loaded => link.greeting() || self.introduced(id),
            Greeted::Asked(orphan, killed) => self.asked_in_greeting(id, orphan, killed),
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
        link.heard_before_us = link.last_heard_us();
        let (carried, written) = (link.carried, link.written);
        let begun = if link.streamed > 0 { link.fifo.front().copied() } else { None };
        let (addr, server_id, process) = (link.addr.clone(), link.server_id, std::mem::take(&mut link.process));
        let lost = Lost { requests: link.reset(&mut self.pool), carried, written, server_id, process };
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
        self.orphans.not_asked_on(&addr, id);
        if purpose != Use::Errand {
            self.orphaned(&addr, &lost);
        }
        for request_id in lost.requests.into_iter().filter(|&r| r != PING) {
            let request = &self.requests[request_id as usize];
            let (slot, place) = (request.slot, request.place);
            self.left_link(slot);
            if begun == Some(request_id) {
                self.cut_off(request_id);
            }
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
            self.own_link_lost(client, id);
        }
        if purpose == Use::PubSub {
            self.pubsub_link_lost(id);
        }
        let wanted = match purpose {
            Use::Shared => true,
            Use::Fence => self.still_fences(&addr),
            Use::PubSub => self.pubsub.links.contains(&id),
            _ => false,
        };
        if !wanted {
            self.remove_link(id);
        }
        self.tend(&addr);
        self.settle();
        self.go_on();
    }

    /// The start of its reply has been passed on and the rest will not come: an error now would be read as the rest,
    /// so its client is closed.
    fn cut_off(&mut self, id: RequestId) {
        let (client, mute) = (self.requests[id as usize].client, self.requests[id as usize].mute);
        if !mute && self.clients.get(client as usize).is_some_and(|c| c.head == id) {
            self.close_client(client);
        }
    }

    pub(super) fn remove_link(&mut self, id: LinkId) {
        let link = self.links.remove(id as usize);
        debug_assert!(link.fifo.is_empty(), "a link with requests is removed");
        self.dirty_links.remove(id);
    }

    /// As `client_piece`.
    #[inline]
    pub fn link_piece(&self, id: LinkId) -> Option<&[u8]> {
        self.links.get(id as usize)?.out.piece()
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
