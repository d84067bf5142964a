//! What is asked of both sides before anything is copied, so that what cannot work is refused at once and in one line.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use super::core::Fault;
use super::core::slots::Slots;
use super::core::table::Table;
use super::line::Line;
use crate::control::measure::{self, Memory};
use cluster::resp::reply::{Elements, integer, text};
use cluster::resp::write;
use std::collections::BTreeMap;
use std::time::Instant;

/// Clocks may differ by so much: the target ends keys by its own.
const SKEW_MS: i64 = 100;
/// Keys of the source that are looked at for an estimate of what moves.
const SAMPLES: usize = 256;
/// A sample for the trial of formats is no larger.
const TRIAL_BYTES: i64 = 64 << 10;
/// Where a copy is tried at the target, for a moment.
const TRIAL_KEY: &[u8] = b"twemslot:trial";

/// What is known of the source.
pub(super) struct Ground {
    pub(super) table: Table,
    pub(super) keys: u64,
}

/// Looks at both sides. `source`: where copies are read; `target`: its writer, confirmed.
pub(super) async fn check(source: &mut Line, target: &mut Line) -> Result<(), Fault> {
    places(source, target).await?;
    clocks(source, target).await
}

/// Whether both are what they should be.
pub(super) async fn places(source: &mut Line, target: &mut Line) -> Result<(), Fault> {
    let there = Info::of(target).await?;
    let here = Info::of(source).await?;
    for (line, info) in [(&*source, &here), (&*target, &there)] {
        if info.is("cluster_enabled", "1") {
            let why = format!("{}: runs in cluster mode, which moves its slots itself: turn it off", line.addr());
            return Err(Fault::hopeless(why));
        }
    }
    if !there.is("role", "master") {
        return Err(Fault::failed(format!("{} is no primary", target.addr())));
    }
    if there.is("loading", "1") || here.is("loading", "1") {
        return Err(Fault::failed("an instance is still loading its data"));
    }
    Ok(())
}

/// Whether it is a primary.
pub(super) async fn is_primary(line: &mut Line) -> Result<(), Fault> {
    match Info::of(line).await?.is("role", "master") {
        true => Ok(()),
        false => Err(Fault::failed(format!("{} is no primary", line.addr()))),
    }
}

/// Whether it knows a command: called with nothing, one that it knows lacks its arguments.
pub(super) async fn knows(line: &mut Line, command: &str) -> Result<bool, Fault> {
    let said = line.ask(&[command.as_bytes()]).await.map_err(Fault::failed)?;
    Ok(String::from_utf8_lossy(&said).contains("wrong number of arguments"))
}

/// Some keys of the source and their sizes, and how many it has.
pub(super) struct Drawn {
    keys: u64,
    samples: Vec<(Vec<u8>, i64)>,
}

pub(super) async fn draw(source: &mut Line) -> Result<Drawn, Fault> {
    let keys = keys(source).await?;
    Ok(Drawn { keys, samples: samples(source, keys).await? })
}

/// Whether what moves fits into the target and its replicas, by an estimate.
pub(super) async fn room(
    source: &Line,
    target: &mut Line,
    mut replicas: Vec<Line>,
    slots: &Slots,
    drawn: &Drawn,
) -> Result<(), Fault> {
    let Drawn { keys, samples } = drawn;
    if samples.is_empty() {
        return Ok(());
    }
    let moving: i64 = samples.iter().filter(|(key, _)| slots.hold(key)).map(|(_, size)| size).sum();
    let needed = moving.max(0) as u64 * keys / samples.len() as u64;
    for (nth, line) in std::iter::once(target).chain(&mut replicas).enumerate() {
        let memory = match memory(line).await {
            Ok(memory) => memory,
            Err(_) if nth > 0 => continue, // a replica that is not there takes nothing
            Err(why) => return Err(Fault::failed(why)),
        };
        // A sample may be off; what is refused here must not fit for sure.
        if memory.lacks(needed - needed / 4) {
            let (what, hint) = measure::lack(line.addr(), &memory, needed);
            let why = format!("{what} from {}: {hint}, or resume it with --force", source.addr());
            return Err(Fault::hopeless(why));
        }
    }
    Ok(())
}

/// How much of its memory an instance uses.
pub(super) async fn memory(line: &mut Line) -> Result<Memory, String> {
    let said = line.say(&[b"INFO", b"memory"]).await?;
    Ok(read_memory(&said))
}

pub(super) fn read_memory(said: &str) -> Memory {
    let number =
        |name: &str| said.lines().find_map(|l| l.trim_end().strip_prefix(name)?.strip_prefix(':')?.parse::<u64>().ok());
    Memory {
        used_bytes: number("used_memory").unwrap_or(0),
        max_bytes: number("maxmemory").unwrap_or(0),
        host_bytes: number("total_system_memory"),
    }
}

async fn keys(line: &mut Line) -> Result<u64, Fault> {
    let said = line.done(&[b"DBSIZE"]).await.map_err(Fault::failed)?;
    Ok(integer(&said).unwrap_or(0).max(0) as u64)
}

/// What the copy has to know of the source.
pub(super) async fn look(source: &mut Line) -> Result<Ground, Fault> {
    let raw = source.done(&[b"COMMAND"]).await.map_err(Fault::hopeless)?;
    let table =
        Table::read(&raw).ok_or_else(|| Fault::hopeless(format!("{}: COMMAND makes no sense", source.addr())))?;
    Ok(Ground { table, keys: keys(source).await? })
}

/// INFO.
struct Info(BTreeMap<String, String>);

impl Info {
    async fn of(line: &mut Line) -> Result<Self, Fault> {
        let mut all = BTreeMap::new();
        for section in [&b"server"[..], b"replication", b"persistence", b"cluster"] {
            let said = line.say(&[b"INFO", section]).await.map_err(Fault::failed)?;
            all.extend(
                said.lines().filter_map(|l| l.trim_end().split_once(':')).map(|(k, v)| (k.to_owned(), v.to_owned())),
            );
        }
        Ok(Self(all))
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.0.get(name).is_some_and(|v| v == value)
    }
}

/// Whether two clocks are near enough.
pub(super) async fn clocks(source: &mut Line, target: &mut Line) -> Result<(), Fault> {
    let begun = Instant::now();
    let (here, here_rtt) = clock(source, begun).await?;
    let (there, there_rtt) = clock(target, begun).await?;
    let skew = there - here;
    // A slow answer says less about the clock.
    if skew.abs() > SKEW_MS + here_rtt + there_rtt {
        return Err(Fault::hopeless(format!(
            "the clocks of {} and {} differ by {skew} ms, at most {SKEW_MS} are allowed: keys would end at the wrong time; \
             set the clocks",
            source.addr(),
            target.addr()
        )));
    }
    Ok(())
}

/// An instance's clock less ours, in milliseconds, and how long the answer took.
async fn clock(line: &mut Line, begun: Instant) -> Result<(i64, i64), Fault> {
    let before = begun.elapsed().as_millis() as i64;
    let raw = line.done(&[b"TIME"]).await.map_err(Fault::failed)?;
    let after = begun.elapsed().as_millis() as i64;
    let mut parts = Elements::new(&raw).into_iter().flatten();
    let mut part = || parts.next().and_then(text).and_then(|t| std::str::from_utf8(t).ok()?.parse::<i64>().ok());
    match (part(), part()) {
        (Some(s), Some(us)) => Ok((s * 1000 + us / 1000 - (before + after) / 2, after - before)),
        _ => Err(Fault::failed(format!("{}: TIME makes no sense", line.addr()))),
    }
}

/// Some keys of the source and their sizes.
async fn samples(source: &mut Line, keys: u64) -> Result<Vec<(Vec<u8>, i64)>, Fault> {
    if keys == 0 {
        return Ok(Vec::new());
    }
    let requests = b"*1\r\n$9\r\nRANDOMKEY\r\n".repeat(SAMPLES);
    let found = source.ask_all(&requests, SAMPLES).await.map_err(Fault::failed)?;
    let found: Vec<Vec<u8>> = found.iter().filter_map(|raw| Some(text(raw)?.to_vec())).collect();
    let mut requests = Vec::new();
    found.iter().for_each(|key| write::request(&mut requests, &[b"MEMORY", b"USAGE", key]));
    let sizes = source.ask_all(&requests, found.len()).await.map_err(Fault::failed)?;
    if let Some(error) = sizes.iter().find(|raw| raw.first() == Some(&b'-')) {
        let error = String::from_utf8_lossy(error).trim_end().to_owned();
        return Err(Fault::hopeless(format!(
            "{}: MEMORY USAGE: {error}: sizes must be known before copying; slots of such a server move with --mode on-access",
            source.addr()
        )));
    }
    Ok(found.into_iter().zip(sizes.iter().map(|raw| integer(raw).unwrap_or(0))).collect())
}

/// Whether the target reads what the source writes: newer servers write newer formats.
pub(super) async fn formats(source: &mut Line, target: &mut Line, drawn: &Drawn) -> Result<(), Fault> {
    let Some((key, _)) = drawn.samples.iter().find(|(_, size)| (1..TRIAL_BYTES).contains(size)) else { return Ok(()) };
    let raw = source.done(&[b"DUMP", key]).await.map_err(Fault::hopeless)?;
    let Some(payload) = text(&raw) else { return Ok(()) }; // it ended meanwhile
    let reply = target.ask(&[b"RESTORE", TRIAL_KEY, b"1000", payload, b"REPLACE"]).await.map_err(Fault::failed)?;
    target.done(&[b"UNLINK", TRIAL_KEY]).await.map_err(Fault::failed)?;
    let said = String::from_utf8_lossy(&reply).trim_end().to_owned();
    let starts = |word: &str| said.starts_with(word);
    match () {
        () if said.contains("payload version") => Err(Fault::hopeless(format!(
            "{} cannot read what {} writes: it is older; let the target run at least the source's version ({said})",
            target.addr(),
            source.addr()
        ))),
        () if starts("-OOM") => {
            Err(Fault::hopeless(format!("{} is out of memory: raise its maxmemory ({said})", target.addr())))
        }
        () if starts("-MISCONF") => {
            Err(Fault::hopeless(format!("{} cannot write its disk: repair that ({said})", target.addr())))
        }
        () if starts("-READONLY") => Err(Fault::failed(format!("{} is no primary", target.addr()))),
        () if starts("-NO") => Err(Fault::hopeless(format!("{} refuses RESTORE: {said}", target.addr()))),
        () => Ok(()), // a type of a module, perhaps: its slots need not move
    }
}
