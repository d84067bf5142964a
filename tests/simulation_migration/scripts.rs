//! Stories without chance: slots that move, and are where they belong, also when the leader dies after any of its steps.

use crate::world::{Deed, Due, Summary, World, port};
use crate::{caught, story};
use cluster::instance::Addr;
use configsvr::control::command::{Command, NewMove, NewMoves, Steering};
use configsvr::control::task::Mode;
use std::sync::atomic::{AtomicUsize, Ordering};

/// When it begins: everybody knows everybody by then, and there is something to move.
const AT: u64 = 3_000;

fn addr(group: u32) -> Addr {
    format!("127.0.0.1:{}", port(group, 0)).parse().expect("an address")
}

fn start(from: u32, to: u32) -> Deed {
    let moves = vec![NewMove { from, to, slots: Vec::new(), count: Some(2) }];
    Deed::Ask(Command::StartMigrations(NewMoves { moves, ..NewMoves::default() }))
}

fn on_access(from: u32, to: u32) -> Deed {
    let moves = vec![NewMove { from, to, slots: Vec::new(), count: Some(2) }];
    Deed::Ask(Command::StartMigrations(NewMoves { moves, mode: Mode::OnAccess, ..NewMoves::default() }))
}

fn cancel() -> Deed {
    let steering = Steering { cancelled: Some(true), ..Steering::default() };
    Deed::Ask(Command::SteerMigration { id: 1, steering })
}

/// Nothing happens but this; the world does not end before `until`.
fn told(deeds: &[(u64, Deed)], until: u64, crash: Option<(usize, bool)>) -> World {
    let mut world = World::new(8, None, false);
    for (at, deed) in deeds {
        world.after(AT + at, Due::Do(deed.clone()));
    }
    world.weather_until = AT + until;
    world.crash_after = Some(crash.unwrap_or((usize::MAX, true)));
    world
}

fn good(deeds: &[(u64, Deed)], until: u64, crash: Option<(usize, bool)>) -> Summary {
    match caught(told(deeds, until, crash)) {
        Ok(summary) => summary,
        Err(why) => panic!("{}\n{deeds:?}, the leader dies at {crash:?}: {why}", story(told(deeds, until, crash))),
    }
}

/// Every crash point of a story: the leader dies before, or right after, each of its steps.
fn at_every_step(deeds: &[(u64, Deed)], until: u64, least: usize, judge: impl Fn(&Summary) + Sync) -> usize {
    let plain = good(deeds, until, None);
    judge(&plain);
    assert!(plain.actions >= least, "{deeds:?}: {} steps are no story", plain.actions);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= 2 * plain.actions {
                        return;
                    }
                    judge(&good(deeds, until, Some((at / 2 + 1, at % 2 == 1))));
                }
            });
        }
    });
    plain.actions
}

#[test]
fn slots_move_wherever_the_leader_dies() {
    let steps = at_every_step(&[(0, start(1, 2))], 1_500, 20, |s| {
        // A wish that died with the leader was never made.
        assert_eq!((s.committed, s.forgiven), (s.begun, 0), "{s:?}");
    });
    println!("{steps} steps, each with a death before and after it");
}

#[test]
fn a_cancelled_migration_leaves_nothing_wherever_the_leader_dies() {
    at_every_step(&[(0, start(1, 2)), (25, cancel())], 1_500, 7, |s| assert_eq!(s.forgiven, 0, "{s:?}"));
}

#[test]
fn slots_move_on_access_wherever_the_leader_dies() {
    let steps = at_every_step(&[(0, on_access(1, 2))], 1_500, 15, |s| {
        assert_eq!((s.committed, s.on_access, s.forgiven), (s.begun, s.begun, 0), "{s:?}");
    });
    println!("{steps} steps, each with a death before and after it");
}

#[test]
fn either_primary_dies_at_any_moment_of_a_move_on_access() {
    for group in [1, 2] {
        for at in 0..16 {
            let summary = good(&[(0, on_access(1, 2)), (10 + at * 20, Deed::Kill(addr(group)))], 8_000, None);
            assert_eq!((summary.committed, summary.on_access), (1, 1), "group {group}, {at}: {summary:?}");
        }
    }
}

#[test]
fn a_move_on_access_that_is_cancelled_in_time_leaves_nothing() {
    for at in 0..20 {
        let summary = good(&[(0, on_access(1, 2)), (at * 8, cancel())], 1_500, None);
        assert_eq!((summary.cancelled + summary.on_access, summary.forgiven), (1, 0), "{at}: {summary:?}");
    }
}

#[test]
fn slots_come_back_when_it_is_reversed_at_once() {
    let reverse = || Deed::Ask(Command::ReverseMigration { id: 1 });
    let deeds: Vec<_> = std::iter::once((0, start(1, 2))).chain((1..40).map(|n| (n * 20, reverse()))).collect();
    let summary = good(&deeds, 6_000, None);
    assert!(summary.begun >= 2 && summary.committed == summary.begun && summary.forgiven == 0, "{summary:?}");
}

#[test]
fn a_frozen_proxy_keeps_the_slots_where_they_are() {
    let summary = good(&[(0, Deed::FreezeProxy(0, 2_500)), (5, start(1, 2))], 8_000, None);
    assert!(summary.fences > 1 && summary.committed == 1 && summary.forgiven == 0, "{summary:?}");
}

#[test]
fn a_proxy_that_nobody_hears_keeps_the_slots_where_they_are() {
    // Its registration is over before the migration begins, and all that lead later have never heard of it.
    let mut deeds: Vec<_> = (0..3).map(|n| (0, Deed::Cut("p0".to_owned(), format!("m{n}"), 14_000))).collect();
    deeds.extend((0..3).map(|n| (5_000, Deed::CrashMember(n))));
    deeds.push((9_500, start(1, 2)));
    let summary = good(&deeds, 20_000, None);
    assert!(summary.committed == 1 && summary.forgiven == 0, "{summary:?}");
}

#[test]
fn either_primary_dies_at_any_moment() {
    for group in [1, 2] {
        for at in 0..12 {
            let summary = good(&[(0, start(1, 2)), (10 + at * 20, Deed::Kill(addr(group)))], 8_000, None);
            assert_eq!(summary.committed, 1, "group {group}, {at}: {summary:?}");
        }
    }
}
