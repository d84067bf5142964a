//! The simulation of migration: three whole controls over groups that hold real data, proxies that hold and confirm, movers
//! that copy and may outlive their leader; driven by one seed.
//!
//! ```text
//! cargo test -p tests --test simulation_migration          a story at every crash point, some seeds, every planted bug
//! SIM_SEED=17 cargo test -p tests --test simulation_migration replay -- --nocapture
//! SIM_SEEDS=0..10000 cargo test -p tests --test simulation_migration sweep -- --nocapture
//! ```
//! Read `world` for what happens, `weather` for the faults, `truth` for what must hold, `mover` for the copying as its
//! contract has it, `plant` for the mistakes that must be found, `scripts` for the story whose every crash point is tried.
#![allow(clippy::print_stdout, reason = "a failing seed tells its story")]

mod scripts;
mod world;
mod weather;
mod healing;
mod ground;
mod fleet;
mod mover;
mod fetcher;
mod lines;
mod ledger;
mod truth;
mod proxies;
mod data;
mod plant;
#[path = "../simulation_failover/instances.rs"]
mod instances;
#[path = "../simulation_failover/members.rs"]
mod members;
#[path = "../simulation_failover/raft.rs"]
mod raft;
#[path = "../simulation_failover/replication.rs"]
mod replication;
#[path = "../simulation/rng.rs"]
#[expect(dead_code, reason = "shared with the simulation of the data plane, which also cuts bytes")]
mod rng;
#[path = "../simulation_control/store.rs"]
mod store;
#[path = "../simulation_failover/watch.rs"]
mod watch;

use plant::Plant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::{Due, Summary, World};

const SEEDS: u64 = 48;
const WEATHER_MS: u64 = 30_000;

/// A run that went wrong.
#[derive(Debug)]
pub(crate) struct Failure {
    seed: u64,
    what: String,
}

/// A world with weather.
fn stormy(seed: u64, plant: Option<Plant>, story: bool) -> World {
    let mut world = World::new(seed, plant, story);
    world.weather_until = WEATHER_MS;
    world.after(2_500, Due::Weather);
    world.after(2_000, Due::Person);
    world
}

/// A panic is a fault like others.
pub(crate) fn caught(mut world: World) -> Result<Summary, String> {
    let told = catch_unwind(AssertUnwindSafe(|| world.run()));
    told.unwrap_or_else(|panic| Err(format!("panic: {}", words_of(&*panic))))
}

fn run(seed: u64, plant: Option<Plant>) -> Result<Summary, Failure> {
    caught(stormy(seed, plant, false)).map_err(|what| Failure { seed, what })
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// The same run again, this time with a record of its events.
pub(crate) fn story(mut world: World) -> String {
    let max = std::env::var("SIM_NOTES").ok().and_then(|max| max.parse().ok()).unwrap_or(100);
    world.notes = Some(Vec::new());
    let end = match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(Ok(summary)) => format!("all is well: {summary:?}"),
        Ok(Err(what)) => what,
        Err(panic) => format!("panic: {}", words_of(&*panic)),
    };
    let notes = world.notes.take().unwrap_or_default();
    let last = notes.len().saturating_sub(max);
    format!("{}\n{:>6} {end}", notes[last..].join("\n"), world.now)
}

/// Runs seeds on all cores; the failures, by seed, and what the others were worth.
fn sweep_of(seeds: std::ops::Range<u64>, plant: Option<Plant>, stop_at: usize) -> (Vec<Failure>, Vec<Summary>) {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<(Vec<Failure>, Vec<Summary>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || found.lock().expect("lock").0.len() >= stop_at {
                        return;
                    }
                    let told = run(seed, plant);
                    let mut found = found.lock().expect("lock");
                    match told {
                        Ok(summary) => found.1.push(summary),
                        Err(failure) => found.0.push(failure),
                    }
                }
            });
        }
    });
    let (mut failures, summaries) = found.into_inner().expect("lock");
    failures.sort_by_key(|failure| failure.seed);
    (failures, summaries)
}

fn report(failures: &[Failure], of: u64) {
    let Some(first) = failures.first() else { return };
    println!("{}", story(stormy(first.seed, None, true)));
    for failure in failures.iter().take(20) {
        println!("seed {}: {}", failure.seed, failure.what);
    }
    let seed = first.seed;
    panic!(
        "{} of {of} seeds failed; replay: SIM_SEED={seed} cargo test -p tests --test simulation_migration replay -- --nocapture",
        failures.len()
    );
}

/// Migrations that were begun, that changed hands, that were cancelled; fences; writes acknowledged and lost with an excuse;
/// migrations on access that are done, and requests that brought their key.
fn sums(summaries: &[Summary]) -> [usize; 8] {
    let sum = |of: fn(&Summary) -> usize| summaries.iter().map(of).sum();
    [
        sum(|s| s.begun),
        sum(|s| s.committed),
        sum(|s| s.cancelled),
        sum(|s| s.fences),
        sum(|s| s.acked),
        sum(|s| s.forgiven),
        sum(|s| s.on_access),
        sum(|s| s.fetched),
    ]
}

#[test]
fn every_seed_holds() {
    let (failures, summaries) = sweep_of(0..SEEDS, None, usize::MAX);
    report(&failures, SEEDS);
    let sums = sums(&summaries);
    println!("{SEEDS} seeds: begun, committed, cancelled, fences, acked, forgiven, on access, fetched {sums:?}");
    let seeds = SEEDS as usize;
    assert!(sums[1] > 2 * seeds && sums[4] > 1000 * seeds, "the world does not do what it should: {sums:?}");
    assert!(sums[6] > seeds / 4 && sums[7] > 10 * seeds, "nothing moves on access: {sums:?}");
    assert!(sums[2] > 0 && sums[3] > sums[1], "nothing is cancelled, or no fence is opened again: {sums:?}");
}

/// `SIM_SEED=n`: one seed, with its story.
#[test]
fn replay() {
    let Some(seed) = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()) else { return };
    println!("{}", story(stormy(seed, None, true)));
    if let Err(failure) = run(seed, None) {
        panic!("seed {seed}: {}", failure.what);
    }
}

/// `SIM_SEEDS=a..b`: as many as wanted.
#[test]
fn sweep() {
    let Ok(text) = std::env::var("SIM_SEEDS") else { return };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse::<u64>().ok()?..to.parse().ok()?));
    let range = range.expect("SIM_SEEDS is written as 0..1000");
    let of = range.end - range.start;
    let (failures, summaries) = sweep_of(range, None, usize::MAX);
    report(&failures, of);
    println!(
        "{of} seeds: begun, committed, cancelled, fences, acked, forgiven, on access, fetched {:?}",
        sums(&summaries)
    );
}

#[test]
fn same_seed_same_run() {
    for seed in [1, 2] {
        let summary = || run(seed, None).map_err(|failure| failure.what);
        assert_eq!(summary(), summary(), "seed {seed}");
    }
}

/// The checkers are worth something only if they see what is wrong.
#[test]
fn planted_bugs_are_found() {
    for plant in Plant::ALL {
        let (failures, _) = sweep_of(0..4 * SEEDS, Some(plant), 1);
        let Some(first) = failures.first() else { panic!("{plant:?} was not found in {} seeds", 4 * SEEDS) };
        println!("{plant:?}: seed {}: {}", first.seed, first.what);
    }
}
