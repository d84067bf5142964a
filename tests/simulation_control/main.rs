//! The simulation of the control plane: three whole controls over an adversarial store and leadership, proxies that lag and
//! die, operators that ask again; driven by one seed.
//!
//! ```text
//! cargo test -p tests --test simulation_control            256 seeds, and every planted bug
//! SIM_SEED=17 cargo test -p tests --test simulation_control replay -- --nocapture
//! SIM_SEED=17 SIM_NOTES=1000000 ...                        more of the story
//! SIM_SEEDS=0..10000 cargo test -p tests --test simulation_control sweep -- --nocapture
//! ```
//! A seed decides everything. Then all faults end, and everything must heal. Read `world` for what happens, `weather` for
//! the faults, `truth` and `operator` for what must hold, `plant` for the mistakes that must be found.
#![allow(clippy::print_stdout, reason = "a failing seed tells its story")]

mod world;
mod weather;
mod healing;
mod operator;
mod proxies;
mod members;
mod plant;
mod truth;
mod store;
#[path = "../simulation/rng.rs"]
#[expect(dead_code, reason = "shared with the simulation of the data plane, which also cuts bytes")]
mod rng;

use plant::Plant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::{Summary, World};

const SEEDS: u64 = 256;

/// A run that went wrong.
#[derive(Debug)]
struct Failure {
    seed: u64,
    what: String,
}

fn run(seed: u64, plant: Option<Plant>) -> Result<Summary, Failure> {
    let told = catch_unwind(AssertUnwindSafe(|| World::new(seed, plant, false).run()));
    told.unwrap_or_else(|panic| Err(format!("panic: {}", words_of(&*panic)))).map_err(|what| Failure { seed, what })
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// The same run again, this time with a record of its events.
fn story(seed: u64) -> String {
    let max = std::env::var("SIM_NOTES").ok().and_then(|max| max.parse().ok()).unwrap_or(100);
    let mut world = World::new(seed, None, true);
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
    println!("{}", story(first.seed));
    for failure in failures.iter().take(20) {
        println!("seed {}: {}", failure.seed, failure.what);
    }
    let seed = first.seed;
    panic!(
        "{} of {of} seeds failed; replay: SIM_SEED={seed} cargo test -p tests --test simulation_control replay -- --nocapture",
        failures.len()
    );
}

/// How many changes were made, refused, pushed; and elections.
fn sums(summaries: &[Summary]) -> [u64; 4] {
    let sum = |of: fn(&Summary) -> u64| summaries.iter().map(of).sum();
    [sum(|s| s.changes as u64), sum(|s| s.refused as u64), sum(|s| s.pushes as u64), sum(|s| s.elections)]
}

#[test]
fn every_seed_holds() {
    let (failures, summaries) = sweep_of(0..SEEDS, None, usize::MAX);
    report(&failures, SEEDS);
    let [changes, refused, pushes, elections] = sums(&summaries);
    println!("{SEEDS} seeds: {changes} changes, {refused} refused, {pushes} pushes, {elections} elections");
    assert!(
        changes > 10 * SEEDS / 2 && pushes > 20 * SEEDS && elections > 3 * SEEDS,
        "the world does not do what it should"
    );
}

/// `SIM_SEED=n`: one seed, with its story.
#[test]
fn replay() {
    let Some(seed) = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()) else { return };
    println!("{}", story(seed));
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
    println!("{of} seeds: changes, refused, pushes, elections {:?}", sums(&summaries));
}

#[test]
fn same_seed_same_run() {
    for seed in [1, 2, 3] {
        let summary = || run(seed, None).map_err(|failure| failure.what);
        assert_eq!(summary(), summary(), "seed {seed}");
    }
}

/// The checkers are worth something only if they see what is wrong.
#[test]
fn planted_bugs_are_found() {
    for plant in Plant::ALL {
        let (failures, _) = sweep_of(0..SEEDS, Some(plant), 1);
        let Some(first) = failures.first() else { panic!("{plant:?} was not found in {SEEDS} seeds") };
        println!("{plant:?}: seed {}: {}", first.seed, first.what);
    }
}
