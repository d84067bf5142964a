//! Each fault many times at full load; one JSON line a fault. `SOAK=20`: so often, pauses that must be borne five times as
//! often; `SOAK_FAULT=switchover`: only those whose name begins so.

use crate::scene::{Fault, Pace, Scene, Seen, turn};
use crate::sentinel;
use anyhow::{Result, ensure};
use configsvr::playground::StoreKind;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A group is not replaced twice in so long.
const REST: Duration = Duration::from_secs(11);
/// From one run to the next the leader lives so much longer: after twenty it has died, or was frozen, in each step of a
/// failover.
const LATER_MS: u64 = 25;

/// One kind of fault, run after run.
type Faults = fn(u64) -> Fault;

/// With the store in configsvr itself.
const EMBEDDED: [Faults; 11] = [
    |_| Fault::Kill,
    |_| Fault::Freeze(1_000),
    |_| Fault::Freeze(5_000),
    |_| Fault::Empty,
    |_| Fault::Misconf(5_000),
    |_| Fault::Busy(3_000),
    |_| Fault::Loading(3_000),
    |_| Fault::Hog(5_000),
    |run| Fault::WithLeader(run * LATER_MS),
    |run| Fault::FrozenLeader(run * LATER_MS),
    |_| Fault::Switchover,
];
/// With an etcd of three.
const ETCD: [Faults; 2] = [|_| Fault::Kill, |_| Fault::Host];

/// What is promised of each fault: the longest gap without a write in milliseconds, p99, on a machine with nothing else to do;
/// and how soon an old primary follows after it woke.
fn goal_ms(fault: Fault) -> Option<u64> {
    match fault {
        Fault::Kill | Fault::Empty => Some(1_000),
        Fault::Freeze(5_000) => Some(2_000),
        Fault::Switchover => Some(50),
        _ => None,
    }
}
const DEMOTED_MS: u128 = 500;

/// The value below which so many percent are.
fn percentile(sorted: &[u128], percent: usize) -> u128 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0)
}

/// All runs of a fault together.
#[derive(Default)]
pub(crate) struct Sum {
    runs: usize,
    failovers: usize,
    false_failovers: usize,
    acked: usize,
    lost: usize,
    revived: usize,
    duplicated: usize,
    others: usize,
    rates: Vec<usize>,
    gaps: Vec<u128>,
    demoted: Vec<u128>,
}

impl Sum {
    pub(crate) fn add(&mut self, fault: Fault, seen: &Seen) {
        self.runs += 1;
        self.failovers += seen.failovers;
        self.false_failovers += seen.failovers.saturating_sub(usize::from(fault.replaces()));
        self.acked += seen.acked;
        self.lost += seen.found.lost;
        self.revived += seen.found.revived;
        self.duplicated += seen.found.duplicated + seen.found.phantom;
        self.others += seen.found.order + seen.found.stale;
        self.rates.push(seen.rate);
        self.gaps.push(seen.gap.as_millis());
        self.demoted.extend(seen.demoted.map(|took| took.as_millis()));
    }

    /// Which of the goals it did not reach. All runs are made before anybody complains.
    fn missed(&self, fault: Fault) -> Vec<String> {
        let mut all = Vec::new();
        if self.false_failovers > 0 {
            all.push(format!("{}: {} false failovers", fault.name(), self.false_failovers));
        }
        if !fault.replaces() || fault == Fault::Switchover {
            let (lost, others) = (self.lost, self.others);
            if lost + others > 0 {
                all.push(format!("{}: {lost} writes lost, {others} out of order or stale", fault.name()));
            }
        }
        let p99 = percentile(&self.gaps, 99);
        if let Some(goal) = goal_ms(fault).filter(|goal| p99 > u128::from(*goal)) {
            all.push(format!("{}: a gap of {p99} ms, the goal is {goal}", fault.name()));
        }
        if let Some(slow) = self.demoted.iter().max().filter(|ms| **ms > DEMOTED_MS) {
            all.push(format!("{}: an old primary was demoted after {slow} ms", fault.name()));
        }
        all
    }

    pub(crate) fn line(&mut self, fault: &str, on: &str) -> Value {
        self.gaps.sort_unstable();
        self.rates.sort_unstable();
        json!({
            "fault": fault, "on": on, "runs": self.runs, "failovers": self.failovers,
            "false_failovers": self.false_failovers, "acked": self.acked, "lost": self.lost, "revived": self.revived,
            "duplicated": self.duplicated, "order_or_stale": self.others,
            "operations_per_s_before": self.rates.get(self.rates.len() / 2),
            "max_write_gap_ms": {
                "p50": percentile(&self.gaps, 50) as u64,
                "p99": percentile(&self.gaps, 99) as u64,
            },
            "demoted_ms_max": self.demoted.iter().max().map(|ms| *ms as u64),
        })
    }
}

fn wanted(fault: Fault) -> bool {
    std::env::var("SOAK_FAULT").ok().is_none_or(|name| fault.name().starts_with(&name))
}

fn all(runs: u64, store: StoreKind, faults: &[Faults]) -> Result<()> {
    if !faults.iter().any(|fault| wanted(fault(0))) {
        return Ok(());
    }
    let mut scene = Scene::with(Pace::FULL, store)?;
    let mut missed = Vec::new();
    let on = if store == StoreKind::Etcd { "etcd" } else { "embedded" };
    for fault in faults.iter().filter(|fault| wanted(fault(0))) {
        let mut sum = Sum::default();
        let runs = if fault(0) == Fault::Freeze(1_000) { 5 * runs } else { runs };
        for run in 0..runs {
            let (fault, began) = (fault(run), Instant::now());
            let seen = scene.suffer(fault)?;
            let phases: Vec<String> = seen.records.iter().map(|r| r["times"].to_string()).collect();
            eprintln!("    {fault:?}: {:?}, {phases:?}", seen.gap);
            for example in &seen.found.examples {
                eprintln!("        {example}");
            }
            sum.add(fault, &seen);
            scene.turn_to_the_other_group();
            if fault.replaces() {
                std::thread::sleep((REST / 2).saturating_sub(began.elapsed()));
            }
        }
        println!("{}", sum.line(&fault(0).name(), on));
        ensure!(sum.duplicated == 0, "{}: {} duplicates or phantoms", fault(0).name(), sum.duplicated);
        // What lost nothing has not lost a deletion.
        ensure!(sum.lost > 0 || sum.revived == 0, "{}: {} came back", fault(0).name(), sum.revived);
        missed.extend(sum.missed(fault(0)));
    }
    ensure!(missed.is_empty(), "goals that were missed: {missed:?}");
    Ok(())
}

fn runs(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn soak() -> Result<()> {
    let Some(runs) = runs("SOAK") else { return Ok(()) };
    let _turn = turn();
    all(runs, StoreKind::Embedded, &EMBEDDED)?;
    all(runs, StoreKind::Etcd, &ETCD)
}

/// The same faults, clients and checker, on what many run today.
#[test]
fn soak_of_sentinel() -> Result<()> {
    let Some(runs) = runs("SOAK_SENTINEL") else { return Ok(()) };
    let _turn = turn();
    let mut scene = sentinel::Scene::begin()?;
    let faults = [Fault::Kill, Fault::Freeze(1_000), Fault::Freeze(5_000), Fault::Empty, Fault::Switchover];
    for fault in faults.into_iter().filter(|fault| wanted(*fault)) {
        let mut sum = Sum::default();
        for _ in 0..runs {
            let seen = scene.suffer(fault)?;
            eprintln!("    {fault:?}: {:?}", seen.gap);
            sum.add(fault, &seen);
        }
        println!("{}", sum.line(&fault.name(), "sentinel"));
    }
    Ok(())
}
