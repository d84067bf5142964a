//! Requests that concern several groups: split by key and merged (MGET, MSET, DEL ...). One fragment a group, however
//! many keys. What goes to every group, whatever its slots (FLUSHALL, KEYS ...), is sent by `wide.rs`.

use super::command::{self, CommandId, Fan as Kind, Serve, Split};
use super::fan::{Fan, Merge, Part, error_of, merged};
use super::limits::{PARKED, SPLIT_KEYS_MAX};
use super::request::{NO_SLOT, NONE, RequestId, Stage};
use super::state::Relay;
use super::{ClientId, LinkId};
use crate::stats::Counter;
use cluster::group::GroupId;
use cluster::resp::request::Args;
use cluster::resp::write;
use cluster::slot::Slot;

/// Room before a part's keys for its header: `*` and the count, `$` and the name, with their line ends.
const HEADER_ROOM: usize = 40;
/// The generation of fans that no barrier waits for.
const UNCOUNTED: u32 = u32::MAX;
/// The shortest key on the wire: `$0`, nothing, and their line ends.
const KEY_BYTES_MIN: usize = 6;
/// Runs of keys for which a fan keeps room between requests.
const RUNS_KEPT: usize = 4096;

impl Relay {
    /// Sends a request of several slots on its ways, or holds it.
    pub(super) fn place_wide(&mut self, id: RequestId, raw: &[u8]) {
        let command = self.requests[id as usize].command;
        if usize::from(command) >= command::count() {
            // Declared by the operator, for all groups.
            return self.ask_groups(id, Kind::Each, raw);
        }
        match command::get(command).serve {
            Serve::Split(split) => self.split(id, split, raw),
            Serve::Fan(kind) => self.ask_groups(id, kind, raw),
            Serve::Publish => self.place_publish(id, raw),
            _ => self.ask_groups(id, Kind::Each, raw),
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
        let cut = self.cut(split, buf);
        let Some(len) = cut.len else {
            self.drop_fan(cut.fan);
            return None;
        };
        self.stats.add(Counter::Requests, 1);
        let id = self.open_request(client, command, NO_SLOT);
        self.send_cut(id, split, cut, &buf[..len]);
        if self.samples.is_due(1) {
            self.sample_whole(client, &buf[..len]);
        }
        Some(len)
    }

    fn split(&mut self, id: RequestId, split: Split, raw: &[u8]) {
        let cut = self.cut(split, raw);
        self.send_cut(id, split, cut, raw);
    }

    /// One walk over the keys of a request, which goes into parts on the way.
    fn cut(&mut self, split: Split, raw: &[u8]) -> Cut {
        let fan = self.new_fan();
        let (routes, spare) = (&self.routes, &mut self.fan_bytes);
        let any = |key: &[u8]| {
            let route = routes.way_of(key);
            (route.link, route.waits())
        };
        // One look for tags in all keys is cheaper than one in each.
        let mask = routes.mask().filter(|_| memchr::memchr(b'{', raw).is_none());
        match (split, mask) {
            (Split::Mset, Some(mask)) => Cut::new::<2>(fan, spare, raw, |key| (routes.link_of(key, mask), false)),
            (Split::Mset, None) => Cut::new::<2>(fan, spare, raw, any),
            (_, Some(mask)) => Cut::new::<1>(fan, spare, raw, |key| (routes.link_of(key, mask), false)),
            (_, None) => Cut::new::<1>(fan, spare, raw, any),
        }
    }

    /// Sends a cut request on its ways, holds it, or answers why it has none.
    fn send_cut(&mut self, id: RequestId, split: Split, cut: Cut, raw: &[u8]) {
        let Cut { mut fan, unowned, waits, .. } = cut;
        let client = self.requests[id as usize].client;
        let step = if split == Split::Mset { 2 } else { 1 };
        let keys: usize = fan.parts.iter().map(|p| p.keys as usize).sum();
        if unowned {
            self.drop_fan(fan);
            let mut slots = Args::new(raw).skip(1).step_by(step).map(|key| self.routes.slot_of(key));
            let slot = slots.find(|slot| self.routes.slots[usize::from(*slot)].link == NONE);
            self.refuse(id, Counter::ErrorsNoOwner, &no_owner(slot.unwrap_or_default()));
        } else if keys > SPLIT_KEYS_MAX {
            self.drop_fan(fan);
            let text = format!("ERR twemslot: {keys} keys in one command, at most {SPLIT_KEYS_MAX}");
            self.refuse(id, Counter::ErrorsNotServed, &text);
        } else if waits
            || self.clients[client as usize].held_wide > 0
            || (self.routes.moves && self.must_fetch(client, self.requests[id as usize].command, raw))
        {
            self.drop_fan(fan);
            self.hold(id, raw);
        } else {
            let resp3 = self.clients[client as usize].resp3;
            for part in &mut fan.parts {
                let first = if resp3 { self.routes.first3(part.link, self.links_of_each) } else { part.link };
                part.link = self.routes.lane(first, client, self.settings.links_per_instance);
            }
            fan.merge = if split == Split::Mget { Merge::Values } else { merge_counts(split) };
            if fan.merge == Merge::Values {
                fan.expect_values();
            }
            self.stats.add(Counter::RequestsSplit, u64::from(fan.parts.len() > 1));
            let fan_id = self.open_fan(id, fan);
            self.send_parts(fan_id, Args::new(raw).next().unwrap_or_default(), step);
        }
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
        fragment.sent_us = 0;
        self.put(link, id, NO_SLOT, raw);
    }

    /// A fan of a question to every group that has slots, held or not, not sent yet; whose each part is. None: no group
    /// has any.
    pub(super) fn open_survey(&mut self, id: RequestId) -> Option<(u32, Vec<GroupId>)> {
        let owners = self.routes.targets.iter().filter(|target| target.owns_slots);
        let ways: Vec<(GroupId, LinkId)> = owners.filter_map(|t| Some((t.group, *t.links.first()?))).collect();
        if ways.is_empty() {
            return None;
        }
        let parts = ways.iter().map(|&(_, link)| Part { link, ..Part::default() }).collect();
        let fan = self.open_waiting_fan(id, Merge::Survey, parts);
        self.requests[id as usize].stage = Stage::Asked;
        Some((fan, ways.into_iter().map(|(group, _)| group).collect()))
    }

    /// Sends the same to every part of a survey.
    pub(super) fn send_survey(&mut self, fan: u32, raw: &[u8]) {
        let parts = self.fans.get(fan as usize).map_or(0, |fan| fan.parts.len());
        for part in 0..parts {
            self.send_part(fan, part, raw);
        }
    }

    /// Sends a request on this link, whatever its keys.
    pub(super) fn send_to_one(&mut self, client: ClientId, command: CommandId, link: LinkId, raw: &[u8]) {
        let id = self.open_request(client, command, NO_SLOT);
        let mut fan = self.new_fan();
        fan.merge = Merge::Groups(Kind::First);
        fan.groups.clear();
        fan.parts.push(Part { link, ..Part::default() });
        let fan = self.open_fan(id, fan);
        self.send_part(fan, 0, raw);
    }

    /// An empty fan; its vectors come from an earlier one.
    pub(super) fn new_fan(&mut self) -> Fan {
        Fan { generation: self.routes.generation, ..self.spare_fans.pop().unwrap_or_default() }
    }

    pub(super) fn drop_fan(&mut self, mut fan: Fan) {
        for part in fan.parts.drain(..) {
            self.pool.give(part.reply);
            if part.request.capacity() > 0 {
                self.keep_request(part.request);
            }
        }
        fan.order.clear();
        fan.ends.clear();
        if self.spare_fans.len() < 64 && fan.order.capacity().max(fan.ends.capacity()) <= RUNS_KEPT {
            self.spare_fans.push(fan);
        }
    }

    pub(super) fn open_fan(&mut self, parent: RequestId, mut fan: Fan) -> u32 {
        (fan.parent, fan.pending) = (parent, fan.parts.len() as u32);
        let id = self.fans.insert(fan) as u32;
        let request = &mut self.requests[parent as usize];
        (request.stage, request.sent_us) = (Stage::Split, 0);
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

    /// The client of a split request is gone, or has been answered: what the instances said is given back, and what they
    /// will say is not kept.
    pub(super) fn orphan_fan(&mut self, fan: u32) {
        let fan = &mut self.fans[fan as usize];
        fan.parent = NONE;
        for part in fan.parts.iter_mut().filter(|part| !part.reply.is_empty()) {
            self.pool.give(std::mem::take(&mut part.reply));
        }
    }

    /// Part of a fragment's reply. False: nobody wants it.
    pub(super) fn fragment_part(&mut self, id: RequestId, piece: &[u8]) -> bool {
        let (fan_id, part) = self.fragment(id);
        let fan = &mut self.fans[fan_id as usize];
        if !fan.is_wanted() {
            return false;
        }
        self.pool.extend(&mut fan.parts[part].reply, piece);
        self.look_at_fan(fan_id, piece.len());
        true
    }

    /// So many more bytes of a reply wait for other parts.
    #[cold]
    fn look_at_fan(&mut self, fan_id: u32, more: usize) {
        let fan = &self.fans[fan_id as usize];
        let (max, parent) = (self.settings.client_output_max, fan.parent);
        let most = fan.parts.iter().map(|part| part.reply.len()).max().unwrap_or_default();
        // One group's part may be as large as the bound, and so may the others' together.
        if most > max || fan.bytes() - most > max {
            let text = format!("ERR twemslot: the reply is larger than client_output_max {max}");
            self.refuse_fan(fan_id, Counter::ErrorsOverload, &text);
        } else if parent != NONE {
            self.look_at_parked(self.requests[parent as usize].client, more);
        }
    }

    /// A fragment's reply, or its last part, or our error in its stead.
    pub(super) fn fragment_reply(&mut self, id: RequestId, piece: &[u8]) {
        let (fan_id, part) = self.fragment(id);
        let sent_us = self.requests[id as usize].sent_us;
        self.forget(id);
        let fan = &mut self.fans[fan_id as usize];
        if fan.is_wanted() {
            self.pool.extend(&mut fan.parts[part].reply, piece);
        }
        fan.pending -= 1;
        if fan.pending > 0 {
            if piece.len() > PARKED {
                self.look_at_fan(fan_id, piece.len());
            }
            return;
        }
        let fan = self.fans.remove(fan_id as usize);
        match fan.generation {
            UNCOUNTED => {}
            now if now == self.routes.generation => self.wide_now -= 1,
            _ => self.wide_before -= 1,
        }
        if fan.parent != NONE {
            // All were sent together, so the last to answer took longest.
            self.requests[fan.parent as usize].sent_us = sent_us;
        }
        let fan = self.merge(fan);
        self.drop_fan(fan);
    }

    /// The length of the reply that `raw` starts with, if it is a whole one of values to a fragment.
    pub(super) fn fragment_values(&mut self, id: RequestId, raw: &[u8]) -> Option<usize> {
        let request = self.requests.get(id).filter(|r| r.stage == Stage::Fragment)?;
        let (fan, part) = (&mut self.fans[request.of as usize], request.generation as usize);
        if fan.merge == Merge::Values { fan.values_of(part, raw) } else { None }
    }

    /// Our error in the stead of a fragment's reply, of which a part may be here already.
    pub(super) fn fragment_refused(&mut self, id: RequestId, error: &[u8]) {
        let (fan_id, part) = self.fragment(id);
        self.fans[fan_id as usize].parts[part].reply.clear();
        self.fragment_reply(id, error);
    }

    /// Answers a split request with an error before its fragments are all back.
    pub(super) fn refuse_fan(&mut self, fan_id: u32, counter: Counter, text: &str) {
        let fan = &mut self.fans[fan_id as usize];
        let survey = fan.merge == Merge::Survey;
        if let Merge::Fetch(_) = fan.merge {
            return; // it waits on
        }
        let parent = fan.parent;
        if parent == NONE {
            return;
        }
        self.orphan_fan(fan_id);
        if survey {
            // The request is the inquiry's to answer, with what there is.
            self.surveyed(parent, &[]);
        } else {
            self.refuse(parent, counter, text);
        }
    }

    /// The fan and the part of a fragment.
    pub(super) fn fragment(&self, id: RequestId) -> (u32, usize) {
        let request = &self.requests[id as usize];
        (request.of, request.generation as usize)
    }

    fn merge(&mut self, mut fan: Fan) -> Fan {
        if let Merge::Fetch(job) = fan.merge {
            self.fetch_answered(job, &fan);
            return fan;
        }
        if fan.parent == NONE {
            return fan;
        }
        if fan.merge == Merge::Survey {
            self.surveyed(fan.parent, &fan.parts);
            return fan;
        }
        let mut reply = std::mem::take(&mut self.scratch);
        reply.clear();
        // An error anywhere is the answer: half a reply would be a wrong one.
        if matches!(fan.merge, Merge::Groups(_) | Merge::RandomKey { .. } | Merge::Size(_) | Merge::Scan { .. }) {
            if !self.merge_groups(&mut fan, &mut reply) {
                self.scratch = reply;
                return fan;
            }
        } else if let Some(error) = error_of(&fan) {
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

/// A request cut into parts, none of them sent.
struct Cut {
    /// Its parts' links are the first ones to the keys' owners.
    fan: Fan,
    /// One of the keys has no owner.
    unowned: bool,
    /// The slot of one of the keys is held or settles.
    waits: bool,
    /// The request's length, if it is whole.
    len: Option<usize>,
}

/// Keys that follow one another to one owner.
struct Run<'a> {
    /// The first link to the owner; NONE: nobody owns them.
    link: LinkId,
    /// The request from the first of them on.
    start: Args<'a>,
}

impl Cut {
    /// `fan` is empty; `spare` holds buffers for the parts' requests. Every `STEP`th argument is a key; `way_of` tells
    /// the first link to its owner, and whether it must wait.
    #[inline(always)]
    fn new<const STEP: u32>(
        fan: Fan,
        spare: &mut Vec<Vec<u8>>,
        raw: &[u8],
        way_of: impl Fn(&[u8]) -> (LinkId, bool),
    ) -> Self {
        let mut cut = Self { fan, unowned: false, waits: false, len: None };
        let mut args = Args::new(raw);
        args.next();
        // As many runs as there may be, not as there are: else a fan that is used again grows some time.
        cut.fan.order.reserve((args.left() as usize).min(raw.len() / KEY_BYTES_MIN));
        let mut run = Run { link: NONE, start: args.clone() };
        loop {
            let before = args.clone();
            let Some(key) = args.next() else { break };
            let (link, waits) = way_of(key);
            if waits || link != run.link {
                cut.waits |= waits;
                cut.add_run::<STEP>(spare, &run, &before);
                run = Run { link, start: before };
            }
            if STEP == 2 {
                args.next();
            }
        }
        cut.add_run::<STEP>(spare, &run, &args);
        cut.len = (args.left() == 0).then(|| raw.len() - args.rest().len());
        cut
    }

    /// The keys of a run, which ends before `behind`, go as they stand to the part for them. A call, so that the loop
    /// over the keys has the registers to itself.
    #[inline(never)]
    fn add_run<const STEP: u32>(&mut self, spare: &mut Vec<Vec<u8>>, run: &Run<'_>, behind: &Args<'_>) {
        let keys = (run.start.left() - behind.left()) / STEP;
        if run.link == NONE {
            self.unowned |= keys > 0;
            return;
        }
        let fan = &mut self.fan;
        let at = match fan.parts.iter().position(|p| p.link == run.link) {
            Some(at) => at,
            None => add_part(fan, run.link, spare.pop().unwrap_or_default()),
        };
        let part = &mut fan.parts[at];
        part.keys += keys;
        let bytes = run.start.rest();
        part.request.extend_from_slice(&bytes[..bytes.len() - behind.rest().len()]);
        fan.order.push((at as u32, keys));
    }
}

#[inline(never)]
fn add_part(fan: &mut Fan, link: LinkId, mut request: Vec<u8>) -> usize {
    request.resize(HEADER_ROOM, 0);
    fan.parts.push(Part { link, request, ..Part::default() });
    fan.parts.len() - 1
}

fn merge_counts(split: Split) -> Merge {
    if split == Split::Mset { Merge::Ok } else { Merge::Sum }
}

pub(super) fn no_owner(slot: Slot) -> String {
    format!("ERR twemslot: slot {slot} has no owner: assign it to a group")
}
