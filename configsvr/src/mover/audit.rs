//! After the slots changed hands, and before the source's copies are removed: whether the target holds what the source held.
//! The source's copies are frozen by then; what clients changed at the target meanwhile is told apart by the target's own
//! stream of writes since the drain.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use super::attach;
use super::core::print::Print;
use super::core::shown;
use super::core::slots::Slots;
use super::core::table::Table;
use super::core::touched::Touched;
use super::line::Line;
use super::name::{Name, Part};
use crate::agent::link::Access;
use crate::control::job::{Audit, Findings, Mark};
use cluster::resp::reply::{Elements, integer, text};
use cluster::resp::write;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Keys that are looked at together.
const BATCH: usize = 64;
/// What SCAN is asked for at once.
const COUNT: &[u8] = b"1000";
/// Values of more bytes are read in pieces.
const LARGE: i64 = 256 << 10;
/// Elements (bytes) of a piece.
const PIECE: usize = 1000;
const PIECE_TEXT: usize = 256 << 10;
/// Lifetimes are asked for one side after the other.
const TTL_MS: i64 = 100;
/// Examples of what differs.
const EXAMPLES: usize = 10;
/// The target's stream comes within so long.
const FOLLOW: Duration = Duration::from_secs(5);

/// How a key looks at one side.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    kind: String,
    ttl: i64,
    print: [u8; 32],
}

struct Auditor {
    source: Line,
    target: Line,
    follower: Option<Follower>,
    found: Findings,
}

/// The target's writes since the drain.
struct Follower {
    line: Line,
    touched: Touched,
}

/// Compares every key.
pub(super) async fn audit(audit: &Audit, access: &Access) -> Result<Findings, String> {
    let name = Name::new(&audit.task, audit.token, 0);
    let slots = Slots::new(&audit.slots, audit.tag_rule, audit.slot_count);
    let source = name.connect(&audit.source.primary, access, Part::Reader).await?;
    let mut target = name.connect(&audit.target.primary, access, Part::Reader).await?;
    let follower = match &audit.mark {
        Some(mark) => follow(audit, mark, &name, &slots, &mut target, access).await,
        None => None,
    };
    let found = Findings { told_apart: follower.is_some(), ..Findings::default() };
    let mut auditor = Auditor { source, target, follower, found };
    auditor.pass(&slots, audit.keys_per_s, true).await?;
    auditor.pass(&slots, audit.keys_per_s, false).await?;
    Ok(auditor.found)
}

/// Attaches to the target's stream at the mark, if its backlog still has it.
async fn follow(
    audit: &Audit,
    mark: &Mark,
    name: &Name,
    slots: &Slots,
    target: &mut Line,
    access: &Access,
) -> Option<Follower> {
    let raw = target.done(&[b"COMMAND"]).await.ok()?;
    let table = Table::read(&raw)?;
    for addr in audit.target.replicas.iter().chain([&audit.target.primary]) {
        let Ok(mut line) = name.connect(addr, access, Part::Reader).await else { continue };
        let Ok(info) = line.say(&[b"INFO", b"replication"]).await else { continue };
        let number = |field: &str| {
            info.lines().find_map(|l| l.trim_end().strip_prefix(field)?.strip_prefix(':')?.parse::<u64>().ok())
        };
        let kept = number("repl_backlog_active") == Some(1)
            && number("repl_backlog_first_byte_offset").is_some_and(|first| first <= mark.offset + 1);
        if !kept {
            continue; // asking would cost a full copy
        }
        match attach::again(addr, &mark.replid, mark.offset, name, access).await {
            Ok(attached) => {
                let mut touched = Touched::new(table, slots.clone(), mark.offset);
                touched.push(&attached.first).ok()?;
                return Some(Follower { line: attached.line, touched });
            }
            Err(why) => tracing::info!(%addr, why, "cannot follow the target's writes for an audit"),
        }
    }
    None
}

impl Auditor {
    /// Walks over one side's keys and compares them with the other's.
    async fn pass(&mut self, slots: &Slots, keys_per_s: u64, of_source: bool) -> Result<(), String> {
        let (mut cursor, begun, mut seen) = (b"0".to_vec(), Instant::now(), 0u64);
        loop {
            let walked = if of_source { &mut self.source } else { &mut self.target };
            let reply = walked.done(&[b"SCAN", &cursor, b"COUNT", COUNT]).await?;
            let parts: Vec<&[u8]> = Elements::new(&reply).map(Iterator::collect).unwrap_or_default();
            let [next, keys] = parts.as_slice() else { return Err("SCAN makes no sense".to_owned()) };
            let keys = Elements::new(keys).into_iter().flatten().filter_map(text).filter(|key| slots.hold(key));
            let ours: Vec<Vec<u8>> = keys.map(<[u8]>::to_vec).collect();
            for some in ours.chunks(BATCH) {
                if of_source {
                    self.compare(some).await?
                } else {
                    self.extra(some).await?
                }
                seen += some.len() as u64;
                if keys_per_s > 0 {
                    let due = Duration::from_secs_f64(seen as f64 / keys_per_s as f64);
                    sleep(due.saturating_sub(begun.elapsed())).await;
                }
            }
            self.read_stream().await?;
            cursor = text(next).unwrap_or(b"0").to_vec();
            if cursor == b"0" {
                return Ok(());
            }
        }
    }

    async fn compare(&mut self, keys: &[Vec<u8>]) -> Result<(), String> {
        let begun = Instant::now();
        let here = looks(&mut self.source, keys).await?;
        let there = looks(&mut self.target, keys).await?;
        let between = begun.elapsed().as_millis() as i64;
        for ((key, a), b) in keys.iter().zip(here).zip(there) {
            let Some(a) = a else { continue }; // it ended
            self.found.compared += 1;
            match b {
                Some(b) if same(&a, &b, between) => self.found.equal += 1,
                b => self.differs(key, &a, b.is_none()).await?,
            }
        }
        Ok(())
    }

    /// A key looks different: because somebody wrote it since, because it ended just now, or because the copy is wrong.
    async fn differs(&mut self, key: &Vec<u8>, before: &Look, missing: bool) -> Result<(), String> {
        if self.written_since(key).await? {
            self.found.changed += 1;
            return Ok(());
        }
        let one = std::slice::from_ref(key);
        let begun = Instant::now();
        let a = looks(&mut self.source, one).await?.pop().flatten();
        let b = looks(&mut self.target, one).await?.pop().flatten();
        let between = begun.elapsed().as_millis() as i64;
        match (&a, &b) {
            (None, None) => self.found.equal += 1,
            (Some(a), Some(b)) if same(a, b, between) => self.found.equal += 1,
            // Clocks differ by no more than the preflight allows.
            (Some(one), None) | (None, Some(one)) if (0..2 * TTL_MS).contains(&one.ttl) => self.found.equal += 1,
            _ if self.written_since(key).await? => self.found.changed += 1,
            // Nobody can say who wrote it.
            _ if !self.found.told_apart => self.found.changed += 1,
            _ => {
                if missing && b.is_none() {
                    self.found.missing += 1;
                } else {
                    self.found.different += 1;
                }
                self.example(format!("{}: a {} at the source, {}", shown(key), before.kind, seen(b.as_ref())));
            }
        }
        Ok(())
    }

    /// Keys of the target that the source does not have.
    async fn extra(&mut self, keys: &[Vec<u8>]) -> Result<(), String> {
        let mut requests = Vec::new();
        keys.iter().for_each(|key| write::request(&mut requests, &[b"EXISTS", key]));
        let there = self.source.ask_all(&requests, keys.len()).await?;
        for (key, _) in keys.iter().zip(there).filter(|(_, raw)| integer(raw) == Some(0)) {
            if !self.found.told_apart || self.written_since(key).await? {
                continue;
            }
            // It may have ended at the source a moment ago.
            let now = looks(&mut self.target, std::slice::from_ref(key)).await?.pop().flatten();
            if now.as_ref().is_some_and(|look| !(0..2 * TTL_MS).contains(&look.ttl)) && !self.written_since(key).await?
            {
                self.found.extra += 1;
                self.example(format!("{}: not at the source, {}", shown(key), seen(now.as_ref())));
            }
        }
        Ok(())
    }

    fn example(&mut self, text: String) {
        if self.found.examples.len() < EXAMPLES {
            self.found.examples.push(text);
        }
    }

    /// Whether the target's stream up to now names the key.
    async fn written_since(&mut self, key: &[u8]) -> Result<bool, String> {
        if self.follower.is_none() {
            return Ok(false);
        }
        if self.follower.as_ref().is_some_and(|f| f.touched.has(key)) {
            return Ok(true);
        }
        let now = attach::look(&mut self.target).await?.offset;
        let end = Instant::now() + FOLLOW;
        loop {
            self.read_stream().await?;
            let Some(follower) = &self.follower else { return Ok(false) };
            if follower.touched.taken() >= now {
                return Ok(follower.touched.has(key));
            }
            if Instant::now() > end {
                return Err(format!("{}: its stream of writes does not come", follower.line.addr()));
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Reads what there is of the target's stream, and says that it is read.
    async fn read_stream(&mut self) -> Result<(), String> {
        let Some(follower) = &mut self.follower else { return Ok(()) };
        let mut bytes = Vec::new();
        follower.line.try_read(&mut bytes).map_err(|e| follower.line.said(&e))?;
        follower.touched.push(&bytes)?;
        // Never a real offset: WAIT would count it.
        let mut request = Vec::new();
        write::request(&mut request, &[b"REPLCONF", b"ACK", b"0"]);
        _ = follower.line.try_write(&request);
        Ok(())
    }
}

fn same(a: &Look, b: &Look, between: i64) -> bool {
    let alive = (a.ttl < 0) == (b.ttl < 0);
    a.kind == b.kind && a.print == b.print && alive && (a.ttl - b.ttl).abs() <= TTL_MS + between
}

fn seen(look: Option<&Look>) -> String {
    match look {
        Some(look) => format!("a {} of another content or time to live at the target", look.kind),
        None => "nothing at the target".to_owned(),
    }
}

/// How keys look; None: there is none.
async fn looks(line: &mut Line, keys: &[Vec<u8>]) -> Result<Vec<Option<Look>>, String> {
    let mut requests = Vec::new();
    for key in keys {
        write::request(&mut requests, &[b"TYPE", key]);
        write::request(&mut requests, &[b"PTTL", key]);
        write::request(&mut requests, &[b"MEMORY", b"USAGE", key]);
    }
    let heads = line.ask_all(&requests, 3 * keys.len()).await?;
    let kinds: Vec<String> =
        heads.chunks(3).map(|r| String::from_utf8_lossy(text(&r[0]).unwrap_or(b"none")).into_owned()).collect();
    let large = |i: usize| integer(&heads[3 * i + 2]).unwrap_or(0) > LARGE;
    let mut requests = Vec::new();
    let mut asked = 0;
    for (i, key) in keys.iter().enumerate().filter(|(i, _)| !large(*i)) {
        asked += whole(&kinds[i], key, &mut requests);
    }
    let mut values = line.ask_all(&requests, asked).await?.into_iter();
    let mut found = Vec::with_capacity(keys.len());
    for (i, key) in keys.iter().enumerate() {
        let kind = kinds[i].clone();
        let mut print = Print::default();
        if large(i) {
            in_pieces(line, &kind, key, &mut print).await?;
        } else {
            for nth in 0..whole(&kind, key, &mut Vec::new()) {
                let raw = values.next().unwrap_or_default();
                add(&kind, nth, &raw, &mut print);
            }
        }
        let ttl = integer(&heads[3 * i + 1]).unwrap_or(-2);
        found.push((kind != "none").then(|| Look { kind, ttl, print: print.finish() }));
    }
    Ok(found)
}

/// Asks for a value as a whole; how many replies that brings.
fn whole(kind: &str, key: &[u8], out: &mut Vec<u8>) -> usize {
    match kind {
        "string" => write::request(out, &[b"GET", key]),
        "list" => write::request(out, &[b"LRANGE", key, b"0", b"-1"]),
        "hash" => write::request(out, &[b"HGETALL", key]),
        "set" => write::request(out, &[b"SMEMBERS", key]),
        "zset" => write::request(out, &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
        "stream" => {
            write::request(out, &[b"XRANGE", key, b"-", b"+"]);
            write::request(out, &[b"XINFO", b"GROUPS", key]);
            return 2;
        }
        "none" => return 0,
        // Of a module: its own words for it.
        _ => write::request(out, &[b"DUMP", key]),
    }
    1
}

fn add(kind: &str, nth: usize, raw: &[u8], print: &mut Print) {
    match kind {
        "stream" if nth == 1 => groups(raw, print),
        "hash" => print.set(raw, 2),
        "set" => print.set(raw, 1),
        "zset" => print.scored(raw),
        "list" | "stream" => print.list(raw),
        _ => print.bytes(text(raw).unwrap_or(raw)),
    }
}

/// Consumer groups of a stream: what each has delivered, and what is pending. How many entries it has read, and consumers
/// that never got one, Redis does not always replicate itself: a replica of 7.0.15 has no `entries-read` after XREADGROUP,
/// and no consumer that only asked for its own history.
fn groups(raw: &[u8], print: &mut Print) {
    for group in Elements::new(raw).into_iter().flatten() {
        let fields: Vec<&[u8]> = Elements::new(group).into_iter().flatten().collect();
        for pair in fields.chunks_exact(2) {
            if matches!(text(pair[0]), Some(b"name" | b"pending" | b"last-delivered-id")) {
                print.bytes(pair[1]);
            }
        }
    }
}

async fn in_pieces(line: &mut Line, kind: &str, key: &[u8], print: &mut Print) -> Result<(), String> {
    match kind {
        "string" => {
            for from in (0usize..).step_by(PIECE_TEXT) {
                let (from, to) = (from.to_string(), (from + PIECE_TEXT - 1).to_string());
                let raw = line.done(&[b"GETRANGE", key, from.as_bytes(), to.as_bytes()]).await?;
                match text(&raw) {
                    Some(bytes) if !bytes.is_empty() => print.bytes(bytes),
                    _ => return Ok(()),
                }
            }
            Ok(())
        }
        "list" => {
            for from in (0usize..).step_by(PIECE) {
                let (from, to) = (from.to_string(), (from + PIECE - 1).to_string());
                let raw = line.done(&[b"LRANGE", key, from.as_bytes(), to.as_bytes()]).await?;
                if raw.starts_with(b"*0") {
                    return Ok(());
                }
                print.list(&raw);
            }
            Ok(())
        }
        "hash" => walk(line, b"HSCAN", key, kind, print).await,
        "set" => walk(line, b"SSCAN", key, kind, print).await,
        "zset" => walk(line, b"ZSCAN", key, kind, print).await,
        _ => {
            let mut requests = Vec::new();
            let n = whole(kind, key, &mut requests);
            let replies = line.ask_all(&requests, n).await?;
            replies.iter().enumerate().for_each(|(nth, raw)| add(kind, nth, raw, print));
            Ok(())
        }
    }
}

async fn walk(line: &mut Line, name: &[u8], key: &[u8], kind: &str, print: &mut Print) -> Result<(), String> {
    let mut cursor = b"0".to_vec();
    loop {
        let raw = line.done(&[name, key, &cursor, b"COUNT", PIECE.to_string().as_bytes()]).await?;
        let mut parts = Elements::new(&raw).into_iter().flatten();
        cursor = parts.next().and_then(text).unwrap_or(b"0").to_vec();
        add(kind, 0, parts.next().unwrap_or_default(), print);
        if cursor == b"0" {
            return Ok(());
        }
    }
}
