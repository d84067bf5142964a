//! Clients at full load through each of some proxies, for trials that are not written in Rust; and the checker's verdict.
//!
//! ```text
//! history-load CLIENTS ADDR...      so many clients at each address
//! > fault                           on its standard input: here it comes
//! > end                             all stop; one JSON line for each address, and it ends
//! ```
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program of the trials")]

use anyhow::{Context, Result};
use serde_json::json;
use std::io::BufRead;
use std::net::SocketAddr;
use std::time::Duration;
use tests::history::{Load, Op, Outcome, Plan};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let clients = words.next().context("history-load CLIENTS ADDR...")?.parse()?;
    let addrs = words.map(|word| Ok(word.parse()?)).collect::<Result<Vec<SocketAddr>>>()?;
    let loads: Vec<Load> = addrs.iter().enumerate().map(|(n, addr)| Load::start(&plan(n, *addr, clients))).collect();
    let mut at = 0;
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "fault" => at = loads.first().map_or(0, Load::now),
            "end" => break,
            other => eprintln!("{other:?}: fault or end"),
        }
    }
    for (addr, load) in addrs.iter().zip(loads) {
        let (history, found) = load.finish().with_context(|| addr.to_string())?;
        let done = |op: &&Op| op.what.writes() && op.outcome == Outcome::Done;
        let mut times: Vec<u64> = history.iter().filter(done).map(|op| op.completed).collect();
        times.sort_unstable();
        let before = history.iter().filter(|op| op.outcome == Outcome::Done && op.completed < at).count();
        let gaps = times.windows(2).filter(|pair| pair[1] >= at).map(|pair| (pair[1] - pair[0], pair[0]));
        let (gap, since) = gaps.max().unwrap_or((u64::MAX, at));
        println!(
            "{}",
            json!({
                "addr": addr, "acked": times.len(), "operations_per_s_before": before as u64 * 1_000_000 / at.max(1),
                "gap_ms": gap / 1000, "silent_after_ms": since.saturating_sub(at) / 1000,
                "lost": found.lost, "revived": found.revived, "duplicated": found.duplicated + found.phantom, "order_or_stale": found.order + found.stale,
                "examples": found.examples,
            })
        );
    }
    Ok(())
}

fn plan(n: usize, addr: SocketAddr, clients: usize) -> Plan {
    let name = format!("load{}of{n}", std::process::id()); // a dash would end it
    Plan { name, proxies: vec![addr], clients, keys: 32, pause: Duration::ZERO, all_types: false }
}
