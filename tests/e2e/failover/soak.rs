//! Each fault many times; one JSON line a fault. `SOAK=20`: so often; `SOAK_FAULT=switchover`: only that one.

use crate::scene::{Fault, Scene, turn};
use anyhow::{Result, ensure};
use serde_json::json;

const FAULTS: [Fault; 6] =
    [Fault::Kill, Fault::Freeze(1_000), Fault::Freeze(5_000), Fault::Empty, Fault::WithLeader(200), Fault::Switchover];

/// The value below which so many percent are.
fn percentile(sorted: &[u128], percent: usize) -> u128 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0)
}

#[test]
fn soak() -> Result<()> {
    let Some(runs) = std::env::var("SOAK").ok().and_then(|runs| runs.parse::<usize>().ok()) else { return Ok(()) };
    let _turn = turn();
    let mut scene = Scene::begin()?;
    let only = std::env::var("SOAK_FAULT").ok();
    for fault in FAULTS.into_iter().filter(|fault| only.as_ref().is_none_or(|name| *name == fault.name())) {
        let (mut gaps, mut demoted) = (Vec::new(), Vec::new());
        let [mut failovers, mut acked, mut lost, mut duplicated, mut others] = [0; 5];
        for _ in 0..runs {
            let seen = scene.suffer(fault)?;
            failovers += seen.failovers;
            acked += seen.acked;
            lost += seen.found.lost;
            duplicated += seen.found.duplicated + seen.found.phantom;
            others += seen.found.order + seen.found.stale;
            eprintln!(
                "    {}: {:?}, {:?}",
                fault.name(),
                seen.gap,
                seen.records.iter().map(|r| r["times"].to_string()).collect::<Vec<_>>()
            );
            gaps.push(seen.gap.as_millis());
            demoted.extend(seen.demoted.map(|took| took.as_millis()));
            // A group is not replaced twice in ten seconds.
            std::thread::sleep(std::time::Duration::from_secs(if fault.replaces() { 11 } else { 0 }));
        }
        gaps.sort_unstable();
        demoted.sort_unstable();
        let wanted = if fault.replaces() { runs } else { 0 };
        println!(
            "{}",
            json!({
                "fault": fault.name(), "runs": runs, "failovers": failovers,
                "false_failovers": failovers.saturating_sub(wanted), "acked": acked, "lost": lost,
                "duplicated": duplicated, "order_or_stale": others,
                "max_write_gap_ms": {"p50": percentile(&gaps, 50) as u64, "p99": percentile(&gaps, 99) as u64},
                "demoted_ms_max": demoted.last().map(|ms| *ms as u64),
            })
        );
        ensure!(duplicated == 0, "{}: {duplicated} duplicates or phantoms", fault.name());
    }
    Ok(())
}
