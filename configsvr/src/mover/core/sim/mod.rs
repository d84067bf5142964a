//! The copy between two model servers whose clocks differ, every step in any order, connections that break: at the end both
//! hold the same.
//!
//! `MOVER_SEEDS=0..100000 cargo test -p configsvr --lib sim` tries more.

mod server;

use super::table::tests::sample;
use super::{Copier, Plan, Position};
use crate::control::job::{Goal, JobLimits, Stage};
use crate::mover::core::slots::Slots;
use cluster::slot::TagRule;
use server::{Line, Server, Value};

const SLOTS: u16 = 4;
const SEEDS: u64 = 200;
const STEPS: u64 = 4000;
/// Milliseconds since 1970 when it begins.
const EPOCH: i64 = 1_700_000_000_000;

/// Chance with a seed (splitmix).
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

struct World {
    rng: Rng,
    source: Server,
    target: Server,
    to_source: Line,
    to_target: Line,
    copier: Copier,
    slots: Slots,
    target_away: bool,
    now: u64,
    written: u64,
    /// Requests for pieces of large values.
    pieces: usize,
}

fn position(source: &Server) -> Position {
    Position { replid: "r".to_owned(), offset: source.offset() }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let mut skew = |most: u64| rng.below(2 * most) as i64 - most as i64;
        let (ahead, behind) = (skew(20), skew(20));
        let mut source = Server { before: 1000, clock: EPOCH, ahead, ..Server::default() };
        for _ in 0..200 {
            write(&mut source, &mut rng, 0);
        }
        let slots = Slots::new(&[0, 1, 2], TagRule::Redis, SLOTS);
        let mut target = Server { clock: EPOCH + behind, ..Server::default() };
        target.write(&[b"SET", own(&slots).as_bytes(), b"1"]);
        let mut copier = Copier::new(Plan {
            slots: slots.clone(),
            table: sample(),
            limits: JobLimits::default(),
            replid: "r".to_owned(),
            offset: source.offset(),
            to_scan: 0,
            piece_from: if rng.below(3) == 0 { 1 << 20 } else { 40 + rng.below(100) },
            piece_bytes: 16,
        });
        copier.goal(Goal::Copy);
        let (to_source, to_target) = (Line::default(), Line::default());
        let mut world = Self {
            rng,
            source,
            target,
            to_source,
            to_target,
            copier,
            slots,
            target_away: false,
            now: 0,
            written: 0,
            pieces: 0,
        };
        // Whoever attaches hears SELECT sooner or later.
        cluster::resp::write::request(&mut world.source.stream, &[b"SELECT", b"0"]);
        world
    }

    /// One step of anybody.
    fn step(&mut self, writes: bool, faults: bool) {
        self.now += 1;
        for server in [&mut self.source, &mut self.target] {
            server.clock += 1;
        }
        self.target.purge(false);
        match self.rng.below(24) {
            0..6 if writes => {
                self.written += 1;
                write(&mut self.source, &mut self.rng, self.written);
            }
            6..10 => {
                let from = (self.copier.received() - self.source.before) as usize;
                let there = self.source.stream.len() - from;
                let some = self.rng.below(there as u64 + 1) as usize;
                self.copier.stream_said(&self.source.stream[from..from + some]);
            }
            10..13 => {
                self.source.purge(true);
                _ = self.source.read(&mut self.to_source);
            }
            13..15 => {
                let some = self.cut(self.to_source.replies.len());
                self.copier.source_said(&self.to_source.replies.drain(..some).collect::<Vec<_>>());
            }
            15..18 => _ = self.target.serve(&mut self.to_target),
            18..20 => {
                let some = self.cut(self.to_target.replies.len());
                self.copier.target_said(&self.to_target.replies.drain(..some).collect::<Vec<_>>());
            }
            20 if faults && self.rng.below(12) == 0 => self.fault(),
            21 => self.copier.primary_said(position(&self.source), None),
            _ => self.carry(),
        }
    }

    /// Everybody does what there is to do, until it follows the source and nothing is left.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.now += 1;
            self.carry();
            while self.source.read(&mut self.to_source) {}
            self.copier.source_said(&std::mem::take(&mut self.to_source.replies));
            let from = (self.copier.received() - self.source.before) as usize;
            self.copier.stream_said(&self.source.stream[from..]);
            while self.target.serve(&mut self.to_target) {}
            self.copier.target_said(&std::mem::take(&mut self.to_target.replies));
            self.sane();
            let status = self.copier.status();
            let all = self.copier.taken() == self.source.offset() && status.dirty == 0;
            if status.stage == Stage::Tailing && all && self.to_target.requests.is_empty() {
                return;
            }
        }
        panic!("no end: {:?}", self.copier.status());
    }

    fn cut(&mut self, len: usize) -> usize {
        if self.rng.below(2) == 0 { len } else { self.rng.below(len as u64 + 1) as usize }
    }

    /// The shell's turn.
    fn carry(&mut self) {
        if self.target_away {
            self.target_away = false;
            self.copier.target_back();
        }
        self.copier.step(self.now);
        if let Some(fence) = self.copier.asks_primary() {
            self.copier.primary_said(position(&self.source), Some(fence));
        }
        let asked = [&b"\nLRANGE"[..], b"\nHSCAN", b"\nGETRANGE"];
        self.pieces +=
            asked.iter().filter(|name| self.copier.to_source.windows(name.len()).any(|w| w == **name)).count();
        self.to_source.requests.append(&mut self.copier.to_source);
        self.to_target.requests.append(&mut self.copier.to_target);
    }

    fn fault(&mut self) {
        match self.rng.below(4) {
            0 => {
                self.to_source = Line::default();
                self.copier.source_lost();
            }
            1 => {
                // Some of what was sent is done though nobody hears of it.
                for _ in 0..self.rng.below(4) {
                    self.target.serve(&mut self.to_target);
                }
                self.to_target = Line::default();
                self.copier.target_lost();
                self.target_away = true;
            }
            2 => self.copier.goal(Goal::Pause),
            _ => self.copier.goal(Goal::Copy),
        }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.step(true, true);
            self.sane();
        }
        // A fence that is given up.
        self.copier.goal(Goal::Drain { fence: 1 });
        (0..200).for_each(|_| self.step(true, true));
        self.copier.goal(Goal::Drain { fence: 2 });
        let mut steps = 0;
        while !matches!(self.copier.stage(), Stage::Drained { fence: 2, .. }) {
            self.step(false, false);
            self.sane();
            steps += 1;
            assert!(steps < 1_000_000, "no end: {:?}", self.copier.status());
        }
    }

    fn sane(&self) {
        assert_eq!(self.copier.fault(), None);
    }

    /// Both hold the same of the slots that move; of others the target has what it had.
    fn compare(&mut self) {
        let clock = (self.source.clock + self.source.ahead.max(0)).max(self.target.clock) + 1;
        for server in [&mut self.source, &mut self.target] {
            server.clock = clock; // what one has ended, the other ends soon
            server.purge(false);
        }
        let ours = |server: &Server| {
            server
                .data
                .iter()
                .filter(|(k, _)| self.slots.hold(k))
                .map(|(k, v)| (k.clone(), v.clone(), server.ends.get(k).copied()))
                .collect::<Vec<_>>()
        };
        assert_eq!(ours(&self.source), ours(&self.target));
        let others: Vec<_> = self.target.data.keys().filter(|k| !self.slots.hold(k)).collect();
        assert_eq!(others, [own(&self.slots).as_bytes()], "keys of other slots");
    }
}

/// A key of the target's own.
fn own(slots: &Slots) -> String {
    (0..).map(|n| format!("own{n}")).find(|key| !slots.hold(key.as_bytes())).expect("a slot that stays")
}

/// One write of a client.
fn write(source: &mut Server, rng: &mut Rng, n: u64) {
    let key = |rng: &mut Rng, kind: &str| format!("{kind}{}", rng.below(12)).into_bytes();
    let value = format!("v{n}");
    let v = value.as_bytes();
    let field = format!("f{}", rng.below(20));
    let f = field.as_bytes();
    let (text, list, hash) = (key(rng, "t"), key(rng, "l"), key(rng, "h"));
    let until = (source.clock + 1 + rng.below(200) as i64).to_string();
    let until = until.as_bytes();
    let any = [&text, &list, &hash][rng.below(3) as usize].clone();
    match rng.below(33) {
        0 => source.write(&[b"SET", &text, v]),
        1 | 2 => source.write(&[b"APPEND", &text, b"0123456789"]),
        3 => source.write(&[b"SETRANGE", &text, rng.below(60).to_string().as_bytes(), v]),
        4 | 5 => source.write(&[b"INCR", &key(rng, "c")]),
        6..9 => source.write(&[b"RPUSH", &list, v, b"x"]),
        9 | 10 => source.write(&[b"LPUSH", &list, v]),
        11 => source.write(&[b"LPOP", &list]),
        12 => source.write(&[b"RPOP", &list]),
        13 => source.write(&[b"LTRIM", &list, b"0", rng.below(20).to_string().as_bytes()]),
        14 => source.write(&[b"LSET", &list, rng.below(10).to_string().as_bytes(), v]),
        15..18 => source.write(&[b"HSET", &hash, f, n.to_string().as_bytes()]),
        18 => source.write(&[b"HINCRBY", &hash, f, b"1"]),
        19 => source.write(&[b"HDEL", &hash, f]),
        20 => source.write(&[b"DEL", &text, &list]),
        21 => source.write(&[b"RENAME", &text, &key(rng, "t")]),
        22 => source.write(&[b"RENAME", &hash, &key(rng, "h")]),
        23 => source.write(&[b"RENAME", &list, &key(rng, "t")]),
        24 => source.write(&[b"PEXPIREAT", &any, until]),
        // A session that is used at the last moment lives on.
        25 | 26 => {
            let soon = source.clock + 20;
            let Some(key) = source.ends.iter().find(|(_, at)| **at < soon).map(|(key, _)| key.clone()) else { return };
            match source.data[&key] {
                Value::Text(_) => source.write(&[b"APPEND", &key, v]),
                Value::List(_) => source.write(&[b"RPUSH", &key, v]),
                Value::Hash(_) => source.write(&[b"HSET", &key, f, n.to_string().as_bytes()]),
            }
            if rng.below(2) == 0 {
                source.write(&[b"PEXPIREAT", &key, until]);
            }
        }
        27 => source.write(&[b"SET", &text, v, b"PXAT", until]),
        28 => source.write(&[b"SET", &text, v, b"XX"]),
        29 => source.write(&[b"PERSIST", &any]),
        30 | 31 => source.write(&[b"BITOP", b"OR", &key(rng, "t"), &text, &key(rng, "c")]),
        _ => source.write(&[b"SET", &hash, b"5"]),
    }
}

#[test]
fn source_and_target_hold_the_same_at_the_end() {
    let seeds = std::env::var("MOVER_SEEDS").ok().and_then(|s| -> Option<std::ops::Range<u64>> {
        let (from, to) = s.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    let (mut pieces, seeds) = (0, seeds.unwrap_or(0..SEEDS));
    let least = (seeds.end - seeds.start) as usize;
    for seed in seeds {
        eprintln!("seed {seed}");
        let mut world = World::new(seed);
        world.run();
        world.compare();
        pieces += world.pieces;
    }
    assert!(pieces > least, "{pieces} pieces");
}

/// A hash is written at its last moment and lives on; by the target's clock, or by that of the replica that is read, it has
/// ended when that comes.
#[test]
fn a_key_that_is_written_at_its_last_moment_keeps_the_rest() {
    for (seed, hidden, lives_on) in (0..20).flat_map(|n| [(n, false, true), (n, true, true), (n, false, false)]) {
        let mut world = World::new(seed);
        let key = (0..).map(|n| format!("session{n}")).find(|key| world.slots.hold(key.as_bytes())).expect("a key");
        let key = key.as_bytes();
        let at = |ms: i64| (EPOCH + ms).to_string();
        (world.source.ahead, world.target.clock) = (0, EPOCH);
        world.source.write(&[b"HSET", key, b"user", b"7"]);
        world.source.write(&[b"PEXPIREAT", key, at(1000).as_bytes()]);
        if hidden {
            world.source.ahead = 2000; // read as if it had ended: its primary says otherwise
        }
        world.settle();
        world.source.clock = EPOCH + 999;
        world.source.write(&[b"HSET", key, b"seen", b"1"]);
        if lives_on {
            world.source.write(&[b"PEXPIREAT", key, at(5000).as_bytes()]);
        }
        world.source.ahead = 0;
        world.target.clock = EPOCH + 1001;
        world.target.purge(false);
        world.settle();
        assert_eq!(world.target.ends.contains_key(key), lives_on, "seed {seed}: {:?}", world.target.data.get(key));
        world.compare();
    }
}

/// What a command makes of a key that the target's clock has ended is wrong, too, and what the next one makes of that.
#[test]
fn what_was_made_of_a_key_that_has_ended_is_copied_again() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let key = |name: &str| (0..).map(|n| format!("{name}{n}")).find(|key| world.slots.hold(key.as_bytes()));
        let [session, other, made, last] =
            ["session", "other", "made", "last"].map(|name| key(name).expect("a key").into_bytes());
        (world.source.ahead, world.target.clock) = (0, EPOCH);
        world.source.write(&[b"SET", &session, b"seven", b"PXAT", (EPOCH + 1000).to_string().as_bytes()]);
        world.source.write(&[b"SET", &other, b"eleven"]);
        world.settle();
        world.source.clock = EPOCH + 999;
        world.source.write(&[b"BITOP", b"OR", &made, &session, &other]);
        world.source.write(&[b"RENAME", &made, &last]);
        world.target.clock = EPOCH + 1001;
        world.target.purge(false);
        world.settle();
        world.compare();
    }
}

/// A queue that was empty when it was copied is as any other.
#[test]
fn what_is_not_there_has_no_end() {
    let mut world = World::new(1);
    let key = (0..).map(|n| format!("queue{n}")).find(|key| world.slots.hold(key.as_bytes())).expect("a key");
    world.source.write(&[b"RPUSH", key.as_bytes(), b"x"]);
    world.source.write(&[b"LPOP", key.as_bytes()]);
    world.settle();
    assert!(!world.copier.mortal.has(key.as_bytes()));
    let copied = world.copier.status().copied;
    world.source.write(&[b"RPUSH", key.as_bytes(), b"x"]);
    world.settle();
    world.compare();
    assert_eq!(world.copier.status().copied, copied, "it was copied instead of written");
}

/// A piece of a large string came, but the stream has not, when the connection breaks: it is asked for again, and written once.
#[test]
fn a_piece_that_waits_when_its_connection_breaks_counts_once() {
    let mut broken = 0;
    for seed in 0..20 {
        let mut world = World::new(seed);
        let key = (0..).map(|n| format!("big{n}")).find(|key| world.slots.hold(key.as_bytes())).expect("a key");
        let value: Vec<u8> = (0..2000u32).flat_map(|n| n.to_string().into_bytes()).collect();
        world.source.write(&[b"SET", key.as_bytes(), &value]);
        let mut steps = 0;
        while world.copier.stage() != Stage::Tailing {
            world.now += 1;
            world.carry();
            let asked = world.to_source.requests.windows(9).any(|w| w == b"\nGETRANGE");
            let breaks = asked && world.now.is_multiple_of(2);
            if breaks {
                world.source.write(&[b"INCR", b"c1"]); // what is read comes after this
            }
            while world.source.read(&mut world.to_source) {}
            let replies = std::mem::take(&mut world.to_source.replies);
            world.copier.source_said(&replies);
            if breaks {
                broken += 1;
                world.to_source = Line::default();
                world.copier.source_lost();
                world.carry();
            }
            let from = (world.copier.received() - world.source.before) as usize;
            world.copier.stream_said(&world.source.stream[from..]);
            while world.target.serve(&mut world.to_target) {}
            let replies = std::mem::take(&mut world.to_target.replies);
            world.copier.target_said(&replies);
            world.sane();
            steps += 1;
            assert!(steps < 100_000, "no end: {:?}", world.copier.status());
        }
        world.compare();
    }
    assert!(broken > 100, "{broken} times");
}
