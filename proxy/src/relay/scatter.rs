//! Requests that concern several groups: split by key and merged (MGET, MSET, DEL ...), or sent to every group
//! (FLUSHALL, DBSIZE ...). One fragment a group, however many keys.

use super::command::{self, Fan as Kind, Serve, Split};
use super::fan::{Fan, Merge, Part, Run, error_of, merged};
use super::limits::SPLIT_KEYS_MAX;
use super::request::{NO_SLOT, NONE, RequestId, Stage};
use super::route::Route;
use super::state::Relay;
use super::{ClientId, LinkId};
use crate::stats::Counter;
use cluster::resp::request::Args;
use cluster::resp::write;
use cluster::slot::Slot;

/// Room before a part's keys for its header: `*` and the count, `$` and the name, with their line ends.
const HEADER_ROOM: usize = 40;
/// The generation of fans that no barrier waits for.
const UNCOUNTED: u32 = u32::MAX;
/// Runs of keys for which room is kept between requests.
const RUNS_KEPT: usize = 4096;

impl Relay {
    /// Sends a request of several slots on its ways, or holds it.
    pub(super) fn place_wide(&mut self, id: RequestId, raw: &[u8]) {
        let command = self.requests[id as usize].command;
        if usize::from(command) >= command::count() {
            // Declared by the operator, for all groups.
            return self.broadcast(id, Merge::First, raw);
        }
        match command::get(command).serve {
            Serve::Split(split) => self.split(id, split, raw),
            Serve::Fan(kind) => self.broadcast(id, merge_of(kind), raw),
            Serve::Publish => self.place_publish(id, raw),
            _ => self.broadcast(id, Merge::First, raw),
        }
    }

    /// Takes a request to be split that is whole at the start of `buf`, in one walk; its length. None: the usual way
    /// will tell, also what is wrong with it.
    pub(super) fn split_at_sight(&mut self, client: ClientId, buf: &[u8]) -> Option<usize> {
        let args = Args::new(buf);
        let command = command::lookup(args.clone().next()?)?;
        let Serve::Split(split) = command::get(command).serve else { return None };
        let odd = split == Split::Mset && args.left().is_multiple_of(2);
        let refused = self.denied[usize::from(command)] || !self.settings.declared_commands.is_empty();
        if odd || refused || !command::get(command).takes(args.left()) {
            return None;
        }
        let cut = self.cut(client, split, buf);
        if let Some(len) = cut.len {
            self.stats.add(Counter::Requests, 1);
            let id = self.open_request(client, command, NO_SLOT);
            self.send_cut(id, split, &cut, &buf[..len]);
        }
        let len = cut.len;
        self.keep_runs(cut.runs);
        len
    }

    fn split(&mut self, id: RequestId, split: Split, raw: &[u8]) {
        let cut = self.cut(self.requests[id as usize].client, split, raw);
        self.send_cut(id, split, &cut, raw);
        self.keep_runs(cut.runs);
    }

    /// One walk over the keys of a request: where they go.
    fn cut(&mut self, client: ClientId, split: Split, raw: &[u8]) -> Cut {
        let runs = std::mem::take(&mut self.runs);
        if self.clients[client as usize].resp3 {
            return Cut::new(runs, split, raw, |key| {
                let route = self.routes.way_of(key);
                Route { link: if route.link == NONE { NONE } else { route.link3 }, ..route }
            });
        }
        // One look for tags in all keys is cheaper than one in each.
        if memchr::memchr(b'{', raw).is_none() {
            Cut::new(runs, split, raw, |key| self.routes.way_of_untagged(key))
        } else {
            Cut::new(runs, split, raw, |key| self.routes.way_of(key))
        }
    }

    fn keep_runs(&mut self, mut runs: Vec<Run>) {
        runs.clear();
        runs.shrink_to(RUNS_KEPT);
        self.runs = runs;
    }

    /// Sends a cut request on its ways, holds it, or answers why it has none.
    fn send_cut(&mut self, id: RequestId, split: Split, cut: &Cut, raw: &[u8]) {
        let client = self.requests[id as usize].client;
        let step = if split == Split::Mset { 2 } else { 1 };
        let (mut keys, mut unowned) = (0, false);
        for run in &cut.runs {
            keys += run.keys as usize;
            unowned |= run.link == NONE;
        }
        if unowned {
            let mut slots = Args::new(raw).skip(1).step_by(step).map(|key| self.routes.slot_of(key));
            let slot = slots.find(|slot| self.routes.slots[usize::from(*slot)].link == NONE);
            self.refuse(id, Counter::ErrorsNoOwner, &no_owner(slot.unwrap_or_default()));
        } else if cut.waits || self.clients[client as usize].held_wide > 0 {
            self.hold(id, raw);
        } else if keys > SPLIT_KEYS_MAX {
            let text = format!("ERR twemslot: {keys} keys in one command, at most {SPLIT_KEYS_MAX}");
            self.refuse(id, Counter::ErrorsNotServed, &text);
        } else {
            let mut fan = self.new_fan();
            // As many as there may be, not as there are: else one that is used again grows some time.
            fan.order.reserve(keys);
            self.add_parts(&mut fan, client, cut, raw);
            fan.merge = if split == Split::Mget { Merge::Values } else { merge_counts(split) };
            self.stats.add(Counter::RequestsSplit, u64::from(fan.parts.len() > 1));
            let fan_id = self.open_fan(id, fan);
            self.send_parts(fan_id, Args::new(raw).next().unwrap_or_default(), step);
        }
    }

    /// Each run of keys goes, as it stands, to the request for its link.
    fn add_parts(&mut self, fan: &mut Fan, client: ClientId, cut: &Cut, raw: &[u8]) {
        let mut from = cut.from;
        for run in &cut.runs {
            let link = self.routes.lane(run.link, client, self.settings.links_per_instance);
            let at = match fan.parts.iter().position(|p| p.link == link) {
                Some(at) => at,
                None => self.add_part(fan, link),
            };
            let part = &mut fan.parts[at];
            part.keys += run.keys;
            part.request.extend_from_slice(&raw[from..run.end]);
            from = run.end;
            fan.order.push((at as u32, run.keys));
        }
    }

    fn add_part(&mut self, fan: &mut Fan, link: LinkId) -> usize {
        let mut request = self.fan_bytes.pop().unwrap_or_default();
        request.resize(HEADER_ROOM, 0);
        fan.parts.push(Part { link, request, ..Part::default() });
        fan.parts.len() - 1
    }

    /// Puts each part's header before its keys and sends it.
    fn send_parts(&mut self, fan_id: u32, name: &[u8], step: usize) {
        let mut header = std::mem::take(&mut self.scratch);
        let mut at = 0;
        while let Some(part) = self.fans.get_mut(fan_id as usize).and_then(|f| f.parts.get_mut(at)) {
            header.clear();
            write::array(&mut header, part.keys as usize * step + 1);
            write::bulk(&mut header, name);
            let from = HEADER_ROOM - header.len().min(HEADER_ROOM);
            let mut request = std::mem::take(&mut part.request);
            request[from..HEADER_ROOM].copy_from_slice(&header);
            self.send_part(fan_id, at, &request[from..]);
            self.keep_request(request);
            at += 1;
        }
        self.scratch = header;
    }

    /// Keeps a part's buffer for the next one, as far as that stays bounded.
    fn keep_request(&mut self, mut request: Vec<u8>) {
        if self.fan_bytes.len() < 64 && request.capacity() <= 1 << 20 {
            request.clear();
            self.fan_bytes.push(request);
        }
    }

    pub(super) fn send_part(&mut self, fan_id: u32, part: usize, raw: &[u8]) {
        let Some(fan) = self.fans.get(fan_id as usize) else { return };
        let link = fan.parts[part].link;
        let command = self.requests.get(fan.parent).map_or(0, |r| r.command);
        let id = self.requests.open(NONE, command, NO_SLOT, self.now.us);
        let fragment = &mut self.requests[id as usize];
        (fragment.stage, fragment.of, fragment.generation) = (Stage::Fragment, fan_id, part as u32);
        self.put(link, id, NO_SLOT, raw);
    }

    /// Sends the request as it is to every group that owns slots.
    fn broadcast(&mut self, id: RequestId, merge: Merge, raw: &[u8]) {
        let client = self.requests[id as usize].client;
        let waits = self.clients[client as usize].held_wide > 0 || self.routes.slots.iter().any(|r| r.waits());
        if waits {
            return self.hold(id, raw);
        }
        let mut fan = self.new_fan();
        fan.merge = merge;
        for i in 0..self.routes.targets.len() {
            let target = &self.routes.targets[i];
            let at = if self.clients[client as usize].resp3 { self.links_of_each } else { 0 };
            if let Some(&link) = target.links.get(at).filter(|_| target.owns_slots) {
                let link = self.routes.lane(link, client, self.settings.links_per_instance);
                if !fan.parts.iter().any(|p| p.link == link) {
                    fan.parts.push(Part { link, ..Part::default() });
                }
            }
            if merge == Merge::Settings && !fan.parts.is_empty() {
                break;
            }
        }
        if fan.parts.is_empty() {
            self.drop_fan(fan);
            return self.refuse(id, Counter::ErrorsNoOwner, "ERR twemslot: no group owns any slot yet");
        }
        let parts = fan.parts.len();
        let fan_id = self.open_fan(id, fan);
        for part in 0..parts {
            self.send_part(fan_id, part, raw);
        }
    }

    /// An empty fan; its vectors come from an earlier one.
    pub(super) fn new_fan(&mut self) -> Fan {
        Fan { generation: self.routes.generation, ..self.spare_fans.pop().unwrap_or_default() }
    }

    fn drop_fan(&mut self, mut fan: Fan) {
        for part in fan.parts.drain(..) {
            self.pool.give(part.reply);
            if part.request.capacity() > 0 {
                self.keep_request(part.request);
            }
        }
        fan.order.clear();
        if self.spare_fans.len() < 64 && fan.order.capacity() <= 4096 {
            self.spare_fans.push(fan);
        }
    }

    pub(super) fn open_fan(&mut self, parent: RequestId, mut fan: Fan) -> u32 {
        (fan.parent, fan.pending) = (parent, fan.parts.len() as u32);
        let id = self.fans.insert(fan) as u32;
        let request = &mut self.requests[parent as usize];
        request.stage = Stage::Split;
        request.of = id;
        self.wide_now += 1;
        id
    }

    /// Of a request that changes nothing and may wait: it is in the way of no barrier.
    pub(super) fn open_waiting_fan(&mut self, parent: RequestId, merge: Merge, parts: Vec<Part>) -> u32 {
        let fan = Fan { merge, parts, ..self.new_fan() };
        let id = self.open_fan(parent, fan);
        self.fans[id as usize].generation = UNCOUNTED;
        self.wide_now -= 1;
        id
    }

    /// The client of a split request is gone, or has been answered.
    pub(super) fn orphan_fan(&mut self, fan: u32) {
        self.fans[fan as usize].parent = NONE;
    }

    /// Part of a fragment's reply. False: nobody wants it.
    pub(super) fn fragment_part(&mut self, id: RequestId, piece: &[u8]) -> bool {
        let (fan_id, part) = self.fragment(id);
        let fan = &mut self.fans[fan_id as usize];
        if fan.parent == NONE {
            return false;
        }
        self.pool.extend(&mut fan.parts[part].reply, piece);
        if fan.parts[part].reply.len() > self.settings.client_output_max {
            let text =
                format!("ERR twemslot: the reply is larger than client_output_max {}", self.settings.client_output_max);
            self.refuse_fan(fan_id, Counter::ErrorsOverload, &text);
        }
        true
    }

    /// A fragment's reply, or its last part, or our error in its stead.
    pub(super) fn fragment_reply(&mut self, id: RequestId, piece: &[u8]) {
        let (fan_id, part) = self.fragment(id);
        self.forget(id);
        let fan = &mut self.fans[fan_id as usize];
        if fan.parent != NONE {
            self.pool.extend(&mut fan.parts[part].reply, piece);
        }
        fan.pending -= 1;
        if fan.pending > 0 {
            return;
        }
        let fan = self.fans.remove(fan_id as usize);
        if fan.generation == UNCOUNTED {
        } else if fan.generation == self.routes.generation {
            self.wide_now -= 1;
        } else {
            self.wide_before -= 1;
        }
        let fan = self.merge(fan);
        self.drop_fan(fan);
    }

    /// Our error in the stead of a fragment's reply, of which a part may be here already.
    pub(super) fn fragment_refused(&mut self, id: RequestId, error: &[u8]) {
        let (fan_id, part) = self.fragment(id);
        self.fans[fan_id as usize].parts[part].reply.clear();
        self.fragment_reply(id, error);
    }

    /// Answers a split request with an error before its fragments are all back.
    pub(super) fn refuse_fan(&mut self, fan_id: u32, counter: Counter, text: &str) {
        let parent = std::mem::replace(&mut self.fans[fan_id as usize].parent, NONE);
        if parent != NONE {
            self.refuse(parent, counter, text);
        }
    }

    /// The fan and the part of a fragment.
    pub(super) fn fragment(&self, id: RequestId) -> (u32, usize) {
        let request = &self.requests[id as usize];
        (request.of, request.generation as usize)
    }

    fn merge(&mut self, mut fan: Fan) -> Fan {
        if fan.parent == NONE {
            return fan;
        }
        let mut reply = std::mem::take(&mut self.scratch);
        reply.clear();
        // An error anywhere is the answer: half a reply would be a wrong one.
        if let Some(error) = error_of(&fan) {
            reply.extend_from_slice(&error);
        } else if fan.merge == Merge::Published {
            self.published_to(&fan, &mut reply);
        } else {
            merged(&mut fan, &mut reply);
        }
        self.answer(fan.parent, &reply);
        if reply.capacity() > 1 << 20 {
            reply = Vec::new();
        }
        self.scratch = reply;
        fan
    }
}

/// Where the keys of a request go.
struct Cut {
    runs: Vec<Run>,
    /// Where the first key starts.
    from: usize,
    /// The slot of one of the keys is held or settles.
    waits: bool,
    /// The request's length, if it is whole.
    len: Option<usize>,
}

impl Cut {
    #[inline(always)]
    fn new(mut runs: Vec<Run>, split: Split, raw: &[u8], way_of: impl Fn(&[u8]) -> Route) -> Self {
        let mut args = Args::new(raw);
        args.next();
        let from = raw.len() - args.rest().len();
        let (mut waits, mut link, mut keys, mut end) = (false, NONE, 0, from);
        while let Some(key) = args.next() {
            let route = way_of(key);
            waits |= route.waits();
            if route.link != link && keys > 0 {
                runs.push(Run { link, keys, end });
                keys = 0;
            }
            (link, keys) = (route.link, keys + 1);
            if split == Split::Mset {
                args.next();
            }
            end = raw.len() - args.rest().len();
        }
        runs.push(Run { link, keys, end });
        let len = (args.left() == 0).then_some(end);
        Self { runs, from, waits, len }
    }
}

fn merge_counts(split: Split) -> Merge {
    if split == Split::Mset { Merge::Ok } else { Merge::Sum }
}

fn merge_of(kind: Kind) -> Merge {
    match kind {
        Kind::Ok => Merge::Ok,
        Kind::Sum => Merge::Sum,
        Kind::ConfigGet => Merge::Settings,
    }
}

pub(super) fn no_owner(slot: Slot) -> String {
    format!("ERR twemslot: slot {slot} has no owner: assign it to a group")
}
