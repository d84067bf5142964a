//! Walks over all keys while everything changes: whatever slots move, processes restart and primaries are exchanged
//! between any two steps, SCAN gives every key that stayed, KEYS gives each of them once, and DBSIZE counts no key twice.

use super::limits::Settings;
use super::{Deed, LinkId, Now, Relay};
use cluster::instance::Addr;
use cluster::resp::reply::{Cursor, Elements, Step as ReplyStep, integer, text};
use cluster::resp::request::{Args, Ceilings, Frame, Step};
use cluster::resp::write;
use cluster::slot::{Slot, TagRule, slot_of};
use cluster::wire;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::Arc;

const SLOTS: u16 = 8;
const GROUPS: usize = 3;
/// Keys that stay.
const STAY: usize = 40;

type Key = Vec<u8>;

fn slot(key: &[u8]) -> Slot {
    slot_of(key, TagRule::Redis, SLOTS)
}

/// A process: its keys, and the order in which it walks over them.
#[derive(Clone, Default)]
struct Server {
    keys: BTreeSet<Key>,
    run: u64,
}

impl Server {
    /// Where a key is in this process's table; never 0.
    fn place(&self, key: &[u8]) -> u64 {
        let mixed = key.iter().fold(self.run, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        (mixed >> 24) | 1
    }

    fn execute(&self, args: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        match args[0] {
            b"SCAN" => self.scan(std::str::from_utf8(args[1]).expect("text").parse().expect("a number"), &mut out),
            b"DBSIZE" => write::integer(&mut out, self.keys.len() as i64),
            b"KEYS" => bulks(self.keys.iter(), &mut out),
            b"CLIENT" => write::integer(&mut out, 1),
            b"ROLE" => out.extend_from_slice(b"*1\r\n$6\r\nmaster\r\n"),
            b"INFO" => write::bulk(&mut out, format!("run_id:{}\r\n", self.run).as_bytes()),
            _ => write::simple(&mut out, "PONG"),
        }
        out
    }

    /// Two keys from a place on, and the place of the next.
    fn scan(&self, from: u64, out: &mut Vec<u8>) {
        let mut keys: Vec<(u64, &Key)> = self.keys.iter().map(|key| (self.place(key), key)).collect();
        keys.retain(|(place, _)| *place >= from);
        keys.sort();
        let next = keys.get(2).map_or(0, |(place, _)| *place);
        let given = keys.iter().filter(|(place, _)| next == 0 || *place < next);
        write::array(out, 2);
        write::bulk(out, next.to_string().as_bytes());
        bulks(given.map(|(_, key)| *key), out);
    }
}

fn bulks<'a>(keys: impl Iterator<Item = &'a Key>, out: &mut Vec<u8>) {
    let keys: Vec<&Key> = keys.collect();
    write::array(out, keys.len());
    keys.into_iter().for_each(|key| write::bulk(out, key));
}

/// What may happen between two steps.
#[derive(Debug, Clone, Copy)]
enum Act {
    Scan,
    Keys,
    Size,
    /// An instance takes what was sent to it, and its replies arrive: two steps, which other things may part.
    Execute(usize),
    Deliver(usize),
    /// The next step of moving a slot.
    Move(Slot, usize),
    Restart(usize),
    Failover(usize),
    /// A key that does not stay comes or goes.
    Noise(u8),
    Wait,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Scan),
        1 => Just(Act::Keys),
        1 => Just(Act::Size),
        8 => (0..GROUPS).prop_map(Act::Execute),
        8 => (0..GROUPS).prop_map(Act::Deliver),
        4 => (0..SLOTS, 0..GROUPS).prop_map(|(slot, to)| Act::Move(slot, to)),
        1 => (0..GROUPS).prop_map(Act::Restart),
        1 => (0..GROUPS).prop_map(Act::Failover),
        2 => any::<u8>().prop_map(Act::Noise),
        1 => Just(Act::Wait),
    ]
}

/// A slot on its way.
#[derive(Clone, Copy)]
enum Move {
    /// Served by its owner as ever, while a copy is made.
    Copying {
        slot: Slot,
        to: usize,
        done: bool,
    },
    Held {
        slot: Slot,
        to: usize,
        epoch: u64,
    },
    Copied {
        slot: Slot,
        to: usize,
        epoch: u64,
    },
    Switched {
        slot: Slot,
        from: usize,
    },
}

/// One connection of the relay's.
struct Conn {
    addr: Addr,
    input: Vec<u8>,
    replies: Vec<u8>,
}

/// One walk, or one KEYS.
struct Asker {
    client: u32,
    waits: bool,
    cursor: u64,
    seen: Vec<Key>,
    /// How often it has come to its end.
    ends: u32,
}

struct World {
    relay: Relay,
    now: Now,
    servers: BTreeMap<Addr, Server>,
    conns: BTreeMap<LinkId, Conn>,
    /// The address of each group's primary.
    primaries: Vec<Addr>,
    owners: Vec<usize>,
    moving: Option<Move>,
    epoch: u64,
    quiet: u64,
    processes: u16,
    scan: Asker,
    keys: Asker,
    size: Asker,
    /// Of the keys that come and go: those that were there all the time since DBSIZE was asked, and those that were at all.
    lasting: BTreeSet<Key>,
    passing: BTreeSet<Key>,
    stay: Vec<Key>,
}

impl World {
    fn new() -> Self {
        let mut relay = Relay::new(Settings::default(), 0, 3, Now { us: 1, unix_us: 0 });
        let mut asker = || Asker { client: relay.client_opened("c"), waits: false, cursor: 0, seen: vec![], ends: 0 };
        let (scan, keys, size) = (asker(), asker(), asker());
        let mut world = Self {
            relay,
            now: Now { us: 1, unix_us: 0 },
            servers: BTreeMap::new(),
            conns: BTreeMap::new(),
            primaries: Vec::new(),
            owners: (0..usize::from(SLOTS)).map(|slot| slot % GROUPS).collect(),
            moving: None,
            epoch: 0,
            quiet: 0,
            processes: 0,
            scan,
            keys,
            size,
            lasting: BTreeSet::new(),
            passing: BTreeSet::new(),
            stay: (0..STAY).map(|n| format!("stay{n}").into_bytes()).collect(),
        };
        for group in 0..GROUPS {
            let keys = world.stay.iter().filter(|key| world.owners[usize::from(slot(key))] == group).cloned().collect();
            let addr = world.start(keys);
            world.primaries.push(addr);
        }
        world.topology();
        world
    }

    /// A new process at a new address.
    fn start(&mut self, keys: BTreeSet<Key>) -> Addr {
        self.processes += 1;
        let addr: Addr = format!("127.0.0.1:{}", self.processes).parse().expect("an address");
        self.servers.insert(addr.clone(), Server { keys, run: u64::from(self.processes) });
        addr
    }

    fn held(&self) -> Option<Slot> {
        match self.moving {
            Some(Move::Held { slot, .. } | Move::Copied { slot, .. }) => Some(slot),
            _ => None,
        }
    }

    fn topology(&mut self) {
        self.epoch += 1;
        let held = self.held();
        let slots = (0..SLOTS).map(|slot| {
            let state = if held == Some(slot) { wire::State::Held } else { wire::State::Normal };
            wire::Range { from: slot, to: slot, group: self.owners[usize::from(slot)] as u32, state, target: None }
        });
        let copies = |id: usize| match self.moving {
            Some(Move::Copying { to, .. } | Move::Held { to, .. } | Move::Copied { to, .. }) => to == id,
            Some(Move::Switched { from, .. }) => from == id,
            None => false,
        };
        let group = |(id, addr): (usize, &Addr)| {
            let copies = copies(id);
            let json = format!(r#"{{"id":{id},"instances":[{{"addr":"{addr}","role":"primary"}}],"copies":{copies}}}"#);
            serde_json::from_str(&json).expect("a group")
        };
        let message = wire::Message {
            epoch: self.epoch,
            name: String::new(),
            slot_count: SLOTS,
            tag_rule: TagRule::Redis,
            groups: self.primaries.iter().enumerate().map(group).collect(),
            slots: slots.collect(),
            users: Vec::new(),
        };
        self.relay.set_topology(Arc::new(message.check().expect("a topology")));
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Scan if !self.scan.waits => {
                let cursor = self.scan.cursor.to_string();
                self.ask(self.scan.client, &[b"SCAN", cursor.as_bytes(), b"COUNT", b"2"]);
                self.scan.waits = true;
            }
            Act::Keys if !self.keys.waits => {
                self.ask(self.keys.client, &[b"KEYS", b"*"]);
                self.keys.waits = true;
            }
            Act::Size if !self.size.waits => {
                self.passing = self.noise();
                self.lasting = self.passing.clone();
                self.ask(self.size.client, &[b"DBSIZE"]);
                self.size.waits = true;
            }
            Act::Execute(group) => self.each_conn(group, Self::execute),
            Act::Deliver(group) => self.each_conn(group, |world, link| {
                let replies = world.conns.get_mut(&link).map(|c| std::mem::take(&mut c.replies)).unwrap_or_default();
                if !replies.is_empty() {
                    world.relay.link_sent(link, &replies);
                }
            }),
            Act::Move(slot, to) => self.go_on_moving(slot, to),
            Act::Restart(group) => {
                self.processes += 1;
                let server = self.servers.get_mut(&self.primaries[group]).expect("a server");
                server.run = u64::from(self.processes);
                self.each_conn(group, |world, link| world.close(link));
            }
            Act::Failover(group) => {
                let keys = self.servers[&self.primaries[group]].keys.clone();
                self.primaries[group] = self.start(keys);
                self.topology();
            }
            Act::Noise(n) => {
                let key = format!("noise{}", n / 2).into_bytes();
                if self.held() == Some(slot(&key)) {
                    return; // nobody writes there
                }
                let owner = &self.primaries[self.owners[usize::from(slot(&key))]];
                let keys = &mut self.servers.get_mut(owner).expect("a server").keys;
                if n % 2 == 0 {
                    keys.insert(key.clone());
                    self.passing.insert(key);
                } else {
                    keys.remove(&key);
                    self.lasting.remove(&key);
                }
            }
            Act::Wait => {
                self.now.us += 50_000;
                self.relay.set_now(self.now);
                self.relay.tick();
            }
            Act::Scan | Act::Keys | Act::Size => {}
        }
        self.deeds();
        self.listen();
        self.relay.check();
    }

    fn copy(&mut self, moved: Slot, to: usize) {
        let from = &self.primaries[self.owners[usize::from(moved)]];
        let copies: Vec<Key> = self.servers[from].keys.iter().filter(|key| slot(key) == moved).cloned().collect();
        let keys = &mut self.servers.get_mut(&self.primaries[to]).expect("a server").keys;
        keys.retain(|key| slot(key) != moved);
        keys.extend(copies);
    }

    /// Copy a slot's keys; hold it; copy what was written since; once nothing is in flight, change its owner; delete what is left.
    fn go_on_moving(&mut self, slot_to_move: Slot, to: usize) {
        match self.moving {
            None if self.owners[usize::from(slot_to_move)] != to => {
                self.moving = Some(Move::Copying { slot: slot_to_move, to, done: false });
                self.topology();
            }
            Some(Move::Copying { slot, to, done }) => {
                if !done {
                    self.copy(slot, to);
                    self.moving = Some(Move::Copying { slot, to, done: true });
                    return;
                }
                self.moving = Some(Move::Held { slot, to, epoch: self.epoch + 1 });
                self.topology();
            }
            Some(Move::Held { slot, to, epoch }) => {
                self.copy(slot, to);
                self.moving = Some(Move::Copied { slot, to, epoch });
            }
            Some(Move::Copied { slot, to, epoch }) if self.quiet >= epoch => {
                let from = std::mem::replace(&mut self.owners[usize::from(slot)], to);
                self.moving = Some(Move::Switched { slot, from });
                self.topology();
            }
            Some(Move::Switched { slot: moved, from }) => {
                let server = self.servers.get_mut(&self.primaries[from]).expect("a server");
                server.keys.retain(|key| slot(key) != moved);
                self.moving = None;
                self.topology();
            }
            _ => {}
        }
    }

    /// Keys that come and go, of slots that their server owns.
    fn noise(&self) -> BTreeSet<Key> {
        let own = |(at, addr): (usize, &Addr)| {
            let theirs = self.servers[addr].keys.iter();
            theirs.filter(move |key| key.starts_with(b"noise") && self.owners[usize::from(slot(key))] == at)
        };
        self.primaries.iter().enumerate().flat_map(own).cloned().collect()
    }

    fn ask(&mut self, client: u32, args: &[&[u8]]) {
        let mut raw = Vec::new();
        write::request(&mut raw, args);
        self.relay.client_sent(client, &raw);
    }

    /// For each connection to a group's primary, and to those it had before.
    fn each_conn(&mut self, group: usize, mut act: impl FnMut(&mut Self, LinkId)) {
        let others: Vec<Addr> = (0..GROUPS).filter(|&g| g != group).map(|g| self.primaries[g].clone()).collect();
        let links: Vec<LinkId> =
            self.conns.iter().filter(|(_, c)| !others.contains(&c.addr)).map(|(&link, _)| link).collect();
        for link in links {
            act(self, link);
        }
    }

    fn execute(&mut self, link: LinkId) {
        let mut slices = [IoSlice::new(&[]); 64];
        let n = self.relay.link_output(link, &mut slices);
        let sent: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
        let Some(conn) = self.conns.get_mut(&link) else { return };
        if !sent.is_empty() {
            self.relay.link_wrote(link, sent.len());
            conn.input.extend(sent);
        }
        while let Step::Done { len } = Frame::default().step(&conn.input, &Ceilings::OPEN) {
            let args: Vec<&[u8]> = Args::new(&conn.input[..len]).collect();
            conn.replies.extend(self.servers[&conn.addr].execute(&args));
            conn.input.drain(..len);
        }
    }

    fn close(&mut self, link: LinkId) {
        if self.conns.remove(&link).is_some() {
            self.relay.link_closed(link, "closed");
        }
    }

    fn deeds(&mut self) {
        while let Some(deed) = self.relay.next_deed() {
            match deed {
                Deed::Connect { link, addr } => {
                    self.conns.insert(link, Conn { addr, input: Vec::new(), replies: Vec::new() });
                    self.relay.link_opened(link);
                }
                Deed::CloseLink { link } => self.close(link),
                Deed::Quiet { epoch } => self.quiet = epoch,
                _ => {}
            }
        }
    }

    /// The clients take their replies.
    fn listen(&mut self) {
        if let Some(reply) = self.answer(self.scan.client) {
            self.scan.waits = false;
            if let Some(mut halves) = Elements::new(&reply) {
                let cursor = halves.next().and_then(text).expect("a cursor");
                self.scan.cursor = std::str::from_utf8(cursor).expect("text").parse().expect("a number");
                let keys = halves.next().and_then(Elements::new).expect("keys");
                self.scan.seen.extend(keys.filter_map(text).map(<[u8]>::to_vec));
            }
            if self.scan.cursor == 0 && reply.first() == Some(&b'*') {
                let seen = std::mem::take(&mut self.scan.seen);
                let lost: Vec<_> = self.stay.iter().filter(|key| !seen.contains(key)).collect();
                assert!(lost.is_empty(), "SCAN left out {lost:?}");
                self.scan.ends += 1;
            }
        }
        self.count();
        if let Some(reply) = self.answer(self.keys.client) {
            self.keys.waits = false;
            if let Some(keys) = Elements::new(&reply) {
                let mut seen: Vec<&[u8]> = keys.filter_map(text).filter(|key| key.starts_with(b"stay")).collect();
                seen.sort();
                let mut stay: Vec<&[u8]> = self.stay.iter().map(Vec::as_slice).collect();
                stay.sort();
                assert_eq!(seen, stay, "KEYS");
                self.keys.ends += 1;
            }
        }
    }

    fn count(&mut self) {
        let Some(reply) = self.answer(self.size.client) else { return };
        self.size.waits = false;
        if let Some(number) = integer(&reply) {
            let (least, most) = (STAY + self.lasting.len(), STAY + self.passing.len());
            assert!((least..=most).contains(&(number as usize)), "DBSIZE {number}, and there were {least} to {most}");
            self.size.ends += 1;
        }
    }

    fn answer(&mut self, client: u32) -> Option<Vec<u8>> {
        let mut slices = [IoSlice::new(&[]); 64];
        let n = self.relay.client_output(client, &mut slices);
        let bytes: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
        if bytes.is_empty() {
            return None;
        }
        self.relay.client_wrote(client, bytes.len());
        assert_eq!(Cursor::default().step(&bytes), ReplyStep::Done { len: bytes.len() }, "one whole reply");
        Some(bytes)
    }

    /// Nothing changes any more: both come to an end.
    fn finish(&mut self) {
        let ends = (self.scan.ends, self.keys.ends, self.size.ends);
        for round in 0.. {
            assert!(round < 1000, "SCAN, KEYS or DBSIZE does not come to an end");
            if self.scan.ends > ends.0 && self.keys.ends > ends.1 && self.size.ends > ends.2 {
                return;
            }
            for group in 0..GROUPS {
                self.act(Act::Execute(group));
                self.act(Act::Deliver(group));
            }
            if self.moving.is_some() {
                self.act(Act::Move(0, 0));
            }
            self.act(Act::Wait);
            self.act(Act::Scan);
            self.act(Act::Keys);
            self.act(Act::Size);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_that_stays_is_left_out(acts in proptest::collection::vec(act(), 0..300)) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        world.finish();
    }
}
