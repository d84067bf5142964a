//! Requests of no key: sent as they are to every group (FLUSHALL, KEYS, SCRIPT LOAD ...) or to one (SCAN). Whatever
//! tells of keys tells of those alone whose slots the answering group owns: while slots move there are copies elsewhere.

use super::command::{self, Fan as Kind};
use super::fan::{Fan, Merge, Part, least};
use super::limits::{ERRANDS_MAX, RANDOM_KEY_TRIES};
use super::link::{Link, State, Use};
use super::request::{RequestId, Stage};
use super::route::Target;
use super::scan;
use super::state::Relay;
use super::{ClientId, Deed, LinkId};
use crate::stats::Counter;
use cluster::group::GroupId;
use cluster::resp::request::Args;
use cluster::resp::{reply, write};

const RANDOMKEY: &[u8] = b"*1\r\n$9\r\nRANDOMKEY\r\n";
pub(super) const NOBODY: &str = "ERR twemslot: no group owns any slot yet";

impl Relay {
    /// Sends a request to the groups that it concerns, or holds it.
    pub(super) fn ask_groups(&mut self, id: RequestId, kind: Kind, raw: &[u8]) {
        if self.must_wait(self.requests[id as usize].client, kind) {
            return self.hold(id, raw);
        }
        match kind {
            Kind::Scan => self.scan(id, raw),
            Kind::RandomKey => self.ask_each(id, kind, Merge::RandomKey { tries: 1 }, raw),
            Kind::Size => self.count_keys(id),
            Kind::ScriptLoad => {
                self.saw_script(Args::new(raw).nth(2).unwrap_or_default());
                self.ask_each(id, kind, Merge::Groups(kind), raw);
            }
            _ => self.ask_each(id, kind, Merge::Groups(kind), raw),
        }
    }

    /// Whether something that is held must come first. A walk over keys need not wait for a slot; but it keeps its
    /// place among its client's requests.
    pub(super) fn must_wait(&self, client: ClientId, kind: Kind) -> bool {
        match kind {
            Kind::Kill | Kind::Stats => false,
            Kind::Scan => self.clients[client as usize].held > 0,
            _ => {
                let client = &self.clients[client as usize];
                client.held_wide + client.held_moving > 0 || self.routes.slots.iter().any(|r| r.waits())
            }
        }
    }

    fn ask_each(&mut self, id: RequestId, kind: Kind, merge: Merge, raw: &[u8]) {
        let client = self.requests[id as usize].client;
        let beside = matches!(kind, Kind::Kill | Kind::Stats);
        if beside && self.links.iter().filter(|(_, l)| l.purpose == Use::Errand).count() >= ERRANDS_MAX {
            let text = format!("ERR twemslot: {ERRANDS_MAX} connections for such requests are open; nothing was sent");
            return self.refuse(id, Counter::ErrorsOverload, &text);
        }
        let mut fan = Fan { merge, ..self.new_fan() };
        fan.groups.clear();
        for at in 0..self.routes.targets.len() {
            let target = &self.routes.targets[at];
            let (group, owns) = (target.group, target.owns_slots);
            let Some(link) = self.way_to(target, client) else { continue };
            let up = self.links[link as usize].state == State::Up;
            if !(owns || for_later(kind) && up) {
                continue;
            }
            let link = if beside { self.errand(link) } else { link };
            fan.parts.push(Part { link, ..Part::default() });
            fan.groups.push(group);
            if matches!(kind, Kind::First | Kind::NumSub | Kind::ConfigGet) {
                break;
            }
        }
        if fan.parts.is_empty() {
            self.drop_fan(fan);
            return self.refuse(id, Counter::ErrorsNoOwner, NOBODY);
        }
        let parts = fan.parts.len();
        let fan_id = self.open_fan(id, fan);
        for part in 0..parts {
            self.send_part(fan_id, part, raw);
        }
    }

    /// The link that a client's requests take to a group: it speaks as the client does.
    pub(super) fn way_to(&self, target: &Target, client: ClientId) -> Option<LinkId> {
        let at = if self.clients[client as usize].resp3 { self.links_of_each } else { 0 };
        let first = *target.links.get(at).or(target.links.first())?;
        Some(self.routes.lane(first, client, self.settings.links_per_instance))
    }

    /// A link for one request, to where another one leads.
    fn errand(&mut self, like: LinkId) -> LinkId {
        let like = &self.links[like as usize];
        let addr = like.addr.clone();
        let mut new = Link::new(addr.clone(), like.group, like.entry, None, Use::Errand, self.now.us);
        new.resp3 = like.resp3;
        let link = self.links.insert(new) as LinkId;
        self.deeds.push_back(Deed::Connect { link, addr });
        link
    }

    /// SCAN: the next group's turn, or the same group's again.
    fn scan(&mut self, id: RequestId, raw: &[u8]) {
        let mut args = Args::new(raw);
        let (argc, name, cursor) = (args.left(), args.next().unwrap_or_default(), args.next().and_then(scan::parse));
        let Some(cursor) = cursor else {
            return self.refuse(id, Counter::ErrorsArity, "ERR invalid cursor");
        };
        let client = self.requests[id as usize].client;
        let lane = |place: usize| {
            let target = self.routes.owners().nth(place)?;
            Some((target.group, self.way_to(target, client)?))
        };
        let process = |place| {
            let link = &self.links[lane(place)?.1 as usize];
            (link.state == State::Up).then_some(link.process.as_str())
        };
        let place = self.routes.table.place(cursor, process);
        let Some((group, link)) = lane(place.group) else {
            return self.refuse(id, Counter::ErrorsNoOwner, NOBODY);
        };
        let mut request = Vec::with_capacity(raw.len() + 20);
        write::array(&mut request, argc as usize);
        write::bulk(&mut request, name);
        write::bulk(&mut request, place.instance.to_string().as_bytes());
        request.extend_from_slice(args.rest());
        let merge = Merge::Scan { place: place.group as u16, owners: self.routes.table.print() };
        let mut fan = Fan { merge, ..self.new_fan() };
        fan.groups.clear();
        fan.groups.push(group);
        fan.parts.push(Part { link, ..Part::default() });
        let fan_id = self.open_fan(id, fan);
        self.send_part(fan_id, 0, &request);
    }

    /// The replies are all there: the answer to the client. False: it is not to be answered yet.
    pub(super) fn merge_groups(&mut self, fan: &mut Fan, out: &mut Vec<u8>) -> bool {
        let kind = match fan.merge {
            Merge::Groups(kind) => kind,
            Merge::RandomKey { .. } => Kind::RandomKey,
            Merge::Size(_) => Kind::Size,
            _ => Kind::Scan,
        };
        match kind {
            Kind::Kill if any_of(fan, |reply| !is_error(reply)).is_some() => out.extend_from_slice(b"+OK\r\n"),
            Kind::Kill => {
                let other = |reply: &[u8]| !reply.starts_with(b"-NOTBUSY");
                out.extend_from_slice(any_of(fan, other).unwrap_or(&fan.parts[0].reply));
            }
            Kind::Any => {
                out.extend_from_slice(any_of(fan, |reply| !is_error(reply)).unwrap_or(&fan.parts[0].reply));
            }
            _ => match failure(fan, changes(kind)) {
                Some(error) => out.extend_from_slice(&error),
                None => return self.merge_good(fan, kind, out),
            },
        }
        true
    }

    /// The same where no reply is an error.
    fn merge_good(&mut self, fan: &mut Fan, kind: Kind, out: &mut Vec<u8>) -> bool {
        let first = &fan.parts[0].reply;
        match kind {
            Kind::Ok => out.extend_from_slice(b"+OK\r\n"),
            Kind::Least => least(fan, out),
            Kind::ConfigGet => without_secrets(first, out),
            Kind::Stats => out.extend_from_slice(any_of(fan, runs_a_script).unwrap_or(first)),
            Kind::NumSub => self.merge_subscribers(fan, out),
            Kind::Keys => self.merge_keys(fan, out),
            Kind::RandomKey => return self.merge_random_key(fan, out),
            Kind::Size => return self.merge_size(fan, out),
            Kind::Scan => self.merge_scan(fan, out),
            Kind::ScriptFlush => {
                self.forget_scripts();
                out.extend_from_slice(first);
            }
            Kind::Each | Kind::ScriptLoad | Kind::First | Kind::Any | Kind::Kill => out.extend_from_slice(first),
        }
        true
    }

    /// PUBSUB NUMSUB: an instance counts this relay's one link for all its clients.
    fn merge_subscribers(&self, fan: &Fan, out: &mut Vec<u8>) {
        let shard = self.requests.get(fan.parent).is_some_and(|r| command::get(r.command).name == "pubsub|shardnumsub");
        let elements: Vec<&[u8]> = reply::Elements::new(&fan.parts[0].reply).into_iter().flatten().collect();
        write::array(out, elements.len());
        for pair in elements.chunks_exact(2) {
            let (links, clients) = self.pubsub.subscribers(reply::text(pair[0]).unwrap_or_default(), shard);
            out.extend_from_slice(pair[0]);
            write::integer(out, (reply::integer(pair[1]).unwrap_or_default() - links).max(0) + clients);
        }
    }

    /// Whether a key, as a reply gives it, is one of those that this group owns.
    pub(super) fn owns(&self, group: GroupId, key: &[u8]) -> bool {
        reply::text(key).is_some_and(|key| self.routes.shows(group, self.routes.slot_of(key)))
    }

    /// Appends those of the keys that the group owns, and the number of them before them.
    fn own_keys<'a>(&self, keys: impl Iterator<Item = (GroupId, &'a [u8])>, out: &mut Vec<u8>) {
        let (mut own, mut n) = (Vec::new(), 0);
        for (group, key) in keys {
            if self.owns(group, key) {
                own.extend_from_slice(key);
                n += 1;
            }
        }
        write::array(out, n);
        out.extend_from_slice(&own);
    }

    fn merge_keys<'a>(&self, fan: &'a Fan, out: &mut Vec<u8>) {
        let max = self.settings.client_output_max;
        if fan.parts.iter().map(|p| p.reply.len()).sum::<usize>() > max {
            let text =
                format!("ERR twemslot: the reply is larger than client_output_max {max}; SCAN gives it in parts");
            return write::error(out, &text);
        }
        let keys_of = |(part, group): (&'a Part, &'a GroupId)| {
            reply::Elements::new(&part.reply).into_iter().flatten().map(|key| (*group, key))
        };
        self.own_keys(fan.parts.iter().zip(&fan.groups).flat_map(keys_of), out);
    }

    /// Any of those that came; if only copies did, the groups are asked again.
    fn merge_random_key(&mut self, fan: &mut Fan, out: &mut Vec<u8>) -> bool {
        let Merge::RandomKey { tries } = fan.merge else { return true };
        let came = || fan.parts.iter().zip(&fan.groups).filter(|(p, _)| reply::text(&p.reply).is_some());
        let own: Vec<&[u8]> =
            came().filter(|&(p, &group)| self.owns(group, &p.reply)).map(|(p, _)| &p.reply[..]).collect();
        let client = self.requests[fan.parent as usize].client;
        if own.is_empty() && came().next().is_some() && tries < RANDOM_KEY_TRIES {
            if self.must_wait(client, Kind::RandomKey) {
                self.requests[fan.parent as usize].stage = Stage::Waiting;
                self.hold(fan.parent, RANDOMKEY);
            } else {
                self.ask_each(fan.parent, Kind::RandomKey, Merge::RandomKey { tries: tries + 1 }, RANDOMKEY);
            }
            return false;
        }
        let nil: &[u8] = if self.clients[client as usize].resp3 { b"_\r\n" } else { b"$-1\r\n" };
        let pick = self.random() as usize % own.len().max(1);
        out.extend_from_slice(own.get(pick).copied().unwrap_or(nil));
        true
    }

    fn merge_scan(&self, fan: &Fan, out: &mut Vec<u8>) {
        let (Merge::Scan { place, owners }, part, group) = (fan.merge, &fan.parts[0], fan.groups[0]) else { return };
        let mut halves = reply::Elements::new(&part.reply).into_iter().flatten();
        let cursor = halves.next().and_then(reply::text).and_then(scan::parse);
        let keys = halves.next().and_then(reply::Elements::new);
        let (Some(cursor), Some(keys)) = (cursor, keys) else {
            return write::error(out, &format!("ERR twemslot: group {group} answered SCAN with something else"));
        };
        // The reply has just come over this link, which is still there.
        let process = self.links.get(part.link as usize).map_or("", |link| &link.process);
        let Some(next) = self.routes.table.next(owners, place.into(), cursor, process) else {
            let text =
                format!("ERR twemslot: group {group} gave the SCAN cursor {cursor}, which is larger than 40 bits");
            return write::error(out, &text);
        };
        write::array(out, 2);
        write::bulk(out, next.to_string().as_bytes());
        self.own_keys(keys.map(|key| (group, key)), out);
    }
}

/// Whether groups that own nothing yet are to know of it, too.
fn for_later(kind: Kind) -> bool {
    matches!(kind, Kind::Each | Kind::ScriptLoad | Kind::ScriptFlush)
}

/// Whether it matters that only some groups have done it.
fn changes(kind: Kind) -> bool {
    for_later(kind) || kind == Kind::Ok
}

fn is_error(reply: &[u8]) -> bool {
    reply.first() == Some(&b'-')
}

/// The first reply of this kind.
fn any_of(fan: &Fan, is: impl Fn(&[u8]) -> bool) -> Option<&[u8]> {
    fan.parts.iter().map(|p| &p.reply[..]).find(|reply| is(reply))
}

/// The error that stands for the whole. It says which group it is from, unless all say the same; and "nothing was sent"
/// only where that is true of every group.
fn failure(fan: &Fan, changes: bool) -> Option<Vec<u8>> {
    const NOTHING: &[u8] = b"; nothing was sent";
    let errors = || fan.parts.iter().zip(&fan.groups).filter(|(p, _)| is_error(&p.reply));
    let (part, group) = errors().find(|(p, _)| !p.reply.ends_with(b"; nothing was sent\r\n")).or(errors().next())?;
    let failed = errors().count();
    if failed == fan.parts.len() && errors().all(|(p, _)| p.reply == part.reply) {
        return Some(part.reply.clone());
    }
    let error = part.reply.strip_suffix(b"\r\n").unwrap_or(&part.reply);
    let (error, unsent) = error.strip_suffix(NOTHING).map_or((error, &b""[..]), |error| (error, NOTHING));
    let mut text = error.to_vec();
    // Errors made here name the group already.
    if !error.windows(10).any(|w| w == b"twemslot: ") {
        text.extend_from_slice(format!(" (group {group})").as_bytes());
    }
    let in_part: &[u8] = b"; other groups have done their part";
    text.extend_from_slice(if changes && failed < fan.parts.len() { in_part } else { unsent });
    text.extend_from_slice(b"\r\n");
    Some(text)
}

/// Whether a reply to FUNCTION STATS tells of a script or function that runs: the value behind the first name.
fn runs_a_script(raw: &[u8]) -> bool {
    let script = reply::Elements::new(raw).and_then(|mut elements| elements.nth(1));
    script.is_some_and(|script| matches!(script.first(), Some(b'*' | b'%')) && script != b"*-1\r\n")
}

/// CONFIG GET's pairs, less those whose value nobody should see.
fn without_secrets(raw: &[u8], out: &mut Vec<u8>) {
    const SECRETS: [&[u8]; 6] = [
        b"requirepass",
        b"masterauth",
        b"primaryauth",
        b"masteruser",
        b"tls-key-file-pass",
        b"tls-client-key-file-pass",
    ];
    let Some(elements) = reply::Elements::new(raw) else { return out.extend_from_slice(raw) };
    let elements: Vec<&[u8]> = elements.collect();
    let open = |pair: &&[&[u8]]| {
        let name = reply::text(pair[0]).unwrap_or_default().to_ascii_lowercase();
        !SECRETS.contains(&name.as_slice())
    };
    let pairs: Vec<&[&[u8]]> = elements.chunks_exact(2).filter(open).collect();
    match raw.first() {
        Some(b'%') => write::header(out, b'%', pairs.len() as i64),
        _ => write::array(out, pairs.len() * 2),
    }
    for pair in pairs {
        out.extend_from_slice(pair[0]);
        // Database 0 alone is served.
        let one = reply::text(pair[0]).is_some_and(|name| name.eq_ignore_ascii_case(b"databases"));
        out.extend_from_slice(if one { b"$1\r\n1\r\n" } else { pair[1] });
    }
}
