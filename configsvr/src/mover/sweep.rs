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
    clear(&mut line, &Slots::from(sweep), sweep.keys_per_s).await
}

/// Removes the keys of `slots`; `keys_per_s` 0: no limit.
pub(super) async fn clear(line: &mut Line, slots: &Slots, keys_per_s: u64) -> Result<u64, String> {
    let (mut cursor, mut removed, begun) = (b"0".to_vec(), 0, Instant::now());
    loop {
        let reply = line.done(&[b"SCAN", &cursor, b"COUNT", COUNT]).await?;
        let mut parts = Elements::new(&reply).into_iter().flatten();
        let next = parts.next().and_then(text).ok_or_else(|| format!("{}: SCAN makes no sense", line.addr()))?;
        let keys = parts.next().and_then(Elements::new).into_iter().flatten();
        let ours: Vec<&[u8]> = keys.filter_map(text).filter(|key| slots.hold(key)).collect();
        for some in ours.chunks(KEYS) {
            removed += unlink(line, some).await?;
            if keys_per_s > 0 {
                let due = Duration::from_secs_f64(removed as f64 / keys_per_s as f64);
                sleep(due.saturating_sub(begun.elapsed())).await;
            }
        }
        cursor = next.to_vec();
        if cursor == b"0" {
            return Ok(removed);
        }
    }
}

async fn unlink(line: &mut Line, keys: &[&[u8]]) -> Result<u64, String> {
    let mut request = Vec::new();
    write::array(&mut request, keys.len() + 1);
    write::bulk(&mut request, b"UNLINK");
    keys.iter().for_each(|key| write::bulk(&mut request, key));
    let reply = line.ask_all(&request, 1).await?.pop().unwrap_or_default();
    match integer(&reply) {
        Some(n) => Ok(n.max(0) as u64),
        None => Err(format!("{}: UNLINK: {}", line.addr(), String::from_utf8_lossy(&reply).trim_end())),
    }
}
