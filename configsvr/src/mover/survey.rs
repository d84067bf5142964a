//! Measures what a group's slots hold, without being felt: a walk over some of a replica's keys, in small steps with pauses
//! between them. Only where there is no replica the primary is asked, and then more slowly.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use super::line::Line;
use super::preflight;
use crate::agent::link::Access;
use crate::control::measure::{Memory, Part, Sample, Sampled};
use cluster::group::GroupId;
use cluster::instance::Addr;
use cluster::resp::reply::{Elements, integer, text};
use cluster::resp::write;
use cluster::slot::{Slot, TagRule, slot_of};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// What SCAN is asked for at once: half a millisecond of the instance.
const COUNT: &[u8] = b"500";
/// After each step, so many times as long as it took nothing is asked: a replica is busy half of the time at most, a primary
/// a fifth.
const REST_REPLICA: u32 = 1;
const REST_PRIMARY: u32 = 4;
/// A walk takes no longer; what it has met by then is the sample.
const LIMIT: Duration = Duration::from_secs(8);
/// Asking for its memory is one question.
const MEMORY_LIMIT: Duration = Duration::from_secs(2);
/// What these connections are called.
const NAME: &[u8] = b"survey";

/// A group, and who of it may be asked.
#[derive(Debug, Clone)]
pub struct Place {
    pub group: GroupId,
    /// In step with their primary.
    pub replicas: Vec<Addr>,
    pub primary: Addr,
    pub slot_count: u16,
    pub tag_rule: TagRule,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    pub keys: u64,
    /// Each key is asked for its size. Otherwise all of a group are taken to be alike.
    pub sizes: bool,
}

impl Depth {
    /// For a plan by keys: with 1024 slots over two groups, 600 of each slot.
    pub const KEYS: Self = Self { keys: 300_000, sizes: false };
    /// For a plan by memory: a size costs more than a name.
    pub const MEMORY: Self = Self { keys: 60_000, sizes: true };
    /// To say about how much a plan moves.
    pub const GLANCE: Self = Self { keys: 20_000, sizes: false };
}

/// Walks over keys of one group. The error names whom it asked, and why that gave nothing.
pub async fn survey(place: &Place, depth: Depth, access: &Access) -> Result<Sample, String> {
    let mut whys = Vec::new();
    for (addr, primary) in place.replicas.iter().map(|addr| (addr, false)).chain([(&place.primary, true)]) {
        match walk(place, addr, primary, depth, access).await {
            Ok(sample) => return Ok(sample),
            Err(why) => whys.push(why),
        }
    }
    Err(whys.join("; "))
}

/// How much of its memory an instance uses.
pub async fn memory(addr: &Addr, access: &Access) -> Result<Memory, String> {
    let asked = async { preflight::memory(&mut Line::open(addr, access).await?).await };
    timeout(MEMORY_LIMIT, asked).await.unwrap_or_else(|_| Err(format!("{addr}: no answer in time")))
}

async fn walk(place: &Place, addr: &Addr, primary: bool, depth: Depth, access: &Access) -> Result<Sample, String> {
    let begun = Instant::now();
    let mut line = Line::open(addr, access).await?;
    line.done(&[b"CLIENT", b"SETNAME", NAME]).await?;
    if line.say(&[b"INFO", b"persistence"]).await?.lines().any(|l| l.trim_end() == "loading:1") {
        return Err(format!("{addr}: is still loading its data"));
    }
    let mut met = Met::default();
    let (mut cursor, rest) = (b"0".to_vec(), if primary { REST_PRIMARY } else { REST_REPLICA });
    loop {
        let step = Instant::now();
        cursor = met.step(place, &mut line, &cursor, depth).await?;
        if cursor == b"0" || met.scanned >= depth.keys || begun.elapsed() > LIMIT {
            break;
        }
        sleep(step.elapsed() * rest).await;
    }
    // Now, when it is over: a replica may be catching up.
    let said = line.say(&[b"INFO", b"memory"]).await?;
    let dataset = said.lines().find_map(|l| l.trim_end().strip_prefix("used_memory_dataset:")?.parse::<u64>().ok());
    let keys = integer(&line.done(&[b"DBSIZE"]).await?).unwrap_or(0).max(0) as u64;
    let Met { slots, scanned, sized } = met;
    let took_ms = begun.elapsed().as_millis() as u64;
    let told = Sampled { group: place.group, addr: addr.clone(), primary, keys, scanned, sized, took_ms };
    Ok(Sample { told, dataset_bytes: dataset, slots })
}

/// What a walk has met so far.
#[derive(Default)]
struct Met {
    slots: BTreeMap<Slot, Part>,
    scanned: u64,
    sized: u64,
}

impl Met {
    /// The cursor to go on with.
    async fn step(&mut self, place: &Place, line: &mut Line, cursor: &[u8], depth: Depth) -> Result<Vec<u8>, String> {
        let reply = line.done(&[b"SCAN", cursor, b"COUNT", COUNT]).await?;
        let mut parts = Elements::new(&reply).into_iter().flatten();
        let next = parts.next().and_then(text).ok_or_else(|| format!("{}: SCAN makes no sense", line.addr()))?;
        let keys: Vec<&[u8]> = parts.next().and_then(Elements::new).into_iter().flatten().filter_map(text).collect();
        let sizes = if depth.sizes { sizes(line, &keys).await? } else { vec![0; keys.len()] };
        for (key, bytes) in keys.iter().zip(sizes) {
            let part = self.slots.entry(slot_of(key, place.tag_rule, place.slot_count)).or_default();
            (part.keys, part.bytes) = (part.keys + 1, part.bytes + bytes);
        }
        self.scanned += keys.len() as u64;
        self.sized += if depth.sizes { keys.len() as u64 } else { 0 };
        Ok(next.to_vec())
    }
}

async fn sizes(line: &mut Line, keys: &[&[u8]]) -> Result<Vec<u64>, String> {
    let mut requests = Vec::new();
    keys.iter().for_each(|key| write::request(&mut requests, &[b"MEMORY", b"USAGE", key]));
    let replies = line.ask_all(&requests, keys.len()).await?;
    let size = |raw: &Vec<u8>| match raw.first() {
        Some(b'-') => {
            let said = String::from_utf8_lossy(&raw[1..]).trim_end().to_owned();
            Err(format!("{}: MEMORY USAGE: {said}", line.addr()))
        }
        _ => Ok(integer(raw).unwrap_or(0).max(0) as u64), // no number: it ended meanwhile
    };
    replies.iter().map(size).collect()
}
