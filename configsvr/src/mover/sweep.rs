//! Removes all keys of some slots at one instance: copies before a new attempt or after a cancel, originals after the slots
//! changed hands.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use super::Confirm;
use super::core::slots::Slots;
use super::line::Line;
use super::name::{Name, Part};
use crate::agent::link::Access;
use crate::control::job::Sweep;
use cluster::resp::reply::{Elements, integer, text};
use cluster::resp::write;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// What SCAN is asked for at once: about a millisecond of the instance.
const COUNT: &[u8] = b"1000";
/// Keys of one UNLINK. What they hold is freed beside the instance's main thread.
const KEYS: usize = 128;

/// Sweeps as a deed: how many keys were removed. Killing what is left of the task's own copying comes first.
pub(super) async fn sweep(sweep: &Sweep, access: &Access, confirm: &Confirm) -> Result<u64, String> {
    let name = Name::new(&sweep.task, sweep.token, 0);
    let mut line = name.connect(&sweep.at, access, Part::Sweeper).await?;
    confirm(sweep.token).await?;
    if sweep.count_only {
        return count(&mut line, &Slots::from(sweep)).await;
    }
    clear(&mut line, &Slots::from(sweep), sweep.keys_per_s).await
}

/// How many keys of `slots` there are; some may be counted twice.
async fn count(line: &mut Line, slots: &Slots) -> Result<u64, String> {
    let (mut cursor, mut found) = (b"0".to_vec(), 0);
    loop {
        let (next, keys) = scan(line, &cursor, slots).await?;
        found += keys.len() as u64;
        cursor = next;
        if cursor == b"0" {
            return Ok(found);
        }
    }
}

/// A step of a walk over all keys: the cursor to go on with, and the keys of `slots` that were met.
async fn scan(line: &mut Line, cursor: &[u8], slots: &Slots) -> Result<(Vec<u8>, Vec<Vec<u8>>), String> {
    let (next, keys) = met(line, cursor).await?;
    Ok((next, keys.into_iter().filter(|key| slots.hold(key)).collect()))
}

/// As `scan`, with all keys.
pub(super) async fn met(line: &mut Line, cursor: &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>), String> {
    let reply = line.done(&[b"SCAN", cursor, b"COUNT", COUNT]).await?;
    let mut parts = Elements::new(&reply).into_iter().flatten();
    let next = parts.next().and_then(text).ok_or_else(|| format!("{}: SCAN makes no sense", line.addr()))?;
    let keys = parts.next().and_then(Elements::new).into_iter().flatten();
    Ok((next.to_vec(), keys.filter_map(text).map(<[u8]>::to_vec).collect()))
}

/// Removes the keys of `slots`; `keys_per_s` 0: no limit.
pub(super) async fn clear(line: &mut Line, slots: &Slots, keys_per_s: u64) -> Result<u64, String> {
    let (mut cursor, mut removed, begun) = (b"0".to_vec(), 0, Instant::now());
    loop {
        let (next, ours) = scan(line, &cursor, slots).await?;
        for some in ours.chunks(KEYS) {
            removed += unlink(line, some).await?;
            if keys_per_s > 0 {
                let due = Duration::from_secs_f64(removed as f64 / keys_per_s as f64);
                sleep(due.saturating_sub(begun.elapsed())).await;
            }
        }
        cursor = next;
        if cursor == b"0" {
            return Ok(removed);
        }
    }
}

/// Removes keys. Servers before Redis 4 know only DEL.
pub(super) async fn unlink(line: &mut Line, keys: &[Vec<u8>]) -> Result<u64, String> {
    let mut said = Vec::new();
    for word in [&b"UNLINK"[..], b"DEL"] {
        let mut request = Vec::new();
        write::array(&mut request, keys.len() + 1);
        write::bulk(&mut request, word);
        keys.iter().for_each(|key| write::bulk(&mut request, key));
        said = line.ask_all(&request, 1).await?.pop().unwrap_or_default();
        if !said.starts_with(b"-ERR unknown command") {
            break;
        }
    }
    match integer(&said) {
        Some(n) => Ok(n.max(0) as u64),
        None => Err(format!("{}: UNLINK: {}", line.addr(), String::from_utf8_lossy(&said).trim_end())),
    }
}
