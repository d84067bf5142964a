//! How a plan reads: what each group has and will have, what moves, what it costs, and what it goes by.

use super::show::{bytes, lasting, or_dash, table};
use crate::control::balance::{Move, Share};
use crate::control::measure::{By, Estimate, Measured, Room, Sampled};
use crate::http::words::Rebalanced;

/// The whole of it.
pub(super) fn words(plan: &Rebalanced) -> String {
    let mut lines = vec![shares(plan)];
    lines.extend(plan.balance.moves.iter().map(given));
    if plan.balance.moves.is_empty() {
        lines.push("nothing to do".to_owned());
    } else {
        lines.extend(plan.estimate.as_ref().map(estimate));
        lines.extend(plan.room.iter().map(room));
    }
    lines.extend(measured(plan.by, &plan.measured));
    lines.extend(plan.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

fn shares(plan: &Rebalanced) -> String {
    let load = |n: u64| if plan.by == By::Memory { bytes(n) } else { n.to_string() };
    let row = |s: &Share| {
        let all = [s.group.to_string(), s.weight.to_string(), s.slots_before.to_string(), s.slots_after.to_string()];
        let loads = [load(s.load_before), load(s.load_after)];
        all.into_iter().chain(loads).take(if plan.by == By::Slots { 4 } else { 6 }).collect()
    };
    let unit = match plan.by {
        By::Slots => None,
        By::Keys => Some("KEYS"),
        By::Memory => Some("MEMORY"),
        By::Ops => Some("REQUESTS/S"),
    };
    let header: Vec<&str> =
        ["GROUP", "WEIGHT", "SLOTS", "THEN"].into_iter().chain(unit).chain(unit.map(|_| "THEN")).collect();
    table(&header, plan.balance.shares.iter().map(row))
}

fn given(one: &Move) -> String {
    let slots: usize = one.slots.iter().map(|s| usize::from(s.to - s.from) + 1).sum();
    format!("group {} gives {slots} slots to group {}", one.from, one.to)
}

fn estimate(told: &Estimate) -> String {
    let what = format!("{} slots with about {} keys ({} of memory) move", told.slots, told.keys, bytes(told.bytes));
    let by = told.speed.map_or_else(
        || "at the limits".to_owned(),
        |speed| format!("at the limits, or the {} keys/s of migration {}", speed.keys_per_s, speed.migration),
    );
    match told.ms {
        Some(ms) => format!("{what}: about {}, {by}", lasting(ms)),
        None => format!("{what}; how long that takes is not known before something was moved"),
    }
}

/// Whether what comes to an instance fits.
pub(super) fn room(room: &Room) -> String {
    let role = if room.primary { "primary" } else { "replica" };
    let of = if room.of_host { " (its machine's)" } else { "" };
    let has = format!("uses {} of {}{of}", or_dash(room.used_bytes.map(bytes)), or_dash(room.most_bytes.map(bytes)));
    let mark = if room.enough { "" } else { "! too little: " };
    format!("{mark}{} ({role} of group {}) {has}, and about {} come", room.addr, room.group, bytes(room.coming_bytes))
}

/// What it goes by, how much of it was looked at, and when.
fn measured(by: By, told: &Measured) -> Vec<String> {
    let age = lasting(told.age_ms);
    let mut lines = Vec::new();
    if let Some(ops) = &told.ops {
        let window = lasting(ops.window_ms);
        let proxies = ops.proxies.join(", ");
        lines.push(format!("by {}: {} requests within {window} at {proxies}", by.word(), ops.requests));
    }
    let sampled = |s: &Sampled| {
        let (part, role) = (percent(s.scanned, s.keys), if s.primary { "primary" } else { "replica" });
        let sizes = if s.sized > 0 { ", with their sizes" } else { "" };
        format!("group {}: {} of {} keys{sizes} ({part}) at {} ({role})", s.group, s.scanned, s.keys, s.addr)
    };
    lines.extend(told.samples.iter().map(sampled));
    if !lines.is_empty() {
        lines.insert(0, format!("measured, beginning {age} ago:"));
    }
    lines
}

fn percent(part: u64, of: u64) -> String {
    match of {
        0 => "none".to_owned(),
        _ if part >= of => "all".to_owned(),
        _ => format!("{:.1} %", part as f64 * 100.0 / of as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plan_is_read_at_a_glance() {
        let plan: Rebalanced = serde_json::from_value(json!({
            "epoch": 7, "by": "memory", "begun": [], "notes": ["mind"],
            "balance": {
                "moves": [{ "from": 1, "to": 2, "slots": [{ "from": 0, "to": 9 }, { "from": 12, "to": 12 }] }],
                "shares": [
                    { "group": 1, "weight": 1, "slots_before": 20, "slots_after": 9, "load_before": 4096, "load_after": 2048 },
                    { "group": 2, "weight": 1, "slots_before": 0, "slots_after": 11, "load_before": 0, "load_after": 2048 }] },
            "measured": { "age_ms": 1500, "samples": [{ "group": 1, "addr": "127.0.0.1:3", "primary": false, "keys": 1000,
                "scanned": 250, "sized": 250, "took_ms": 3 }] },
            "estimate": { "slots": 11, "keys": 500, "bytes": 2048, "ms": 5000,
                "speed": { "migration": 4, "keys_per_s": 100, "bytes_per_s": 9 } },
            "room": [{ "group": 2, "addr": "127.0.0.1:4", "primary": true, "coming_bytes": 2048, "used_bytes": 1024,
                "most_bytes": 2047, "of_host": false, "enough": false }],
        }))
        .expect("a plan");
        let text = "\
GROUP  WEIGHT  SLOTS  THEN  MEMORY   THEN
1      1       20     9     4.0 KiB  2.0 KiB
2      1       0      11    0 B      2.0 KiB
group 1 gives 11 slots to group 2
11 slots with about 500 keys (2.0 KiB of memory) move: about 5 s, at the limits, or the 100 keys/s of migration 4
! too little: 127.0.0.1:4 (primary of group 2) uses 1.0 KiB of 2.0 KiB, and about 2.0 KiB come
measured, beginning 2 s ago:
group 1: 250 of 1000 keys, with their sizes (25.0 %) at 127.0.0.1:3 (replica)
note: mind";
        assert_eq!(words(&plan), text);
        let mut idle = plan;
        (idle.by, idle.balance.moves, idle.measured, idle.notes) =
            (By::Slots, Vec::new(), Measured::default(), Vec::new());
        assert!(words(&idle).ends_with("2      1       0      11\nnothing to do"), "{}", words(&idle));
    }
}
