//! Stories without chance: what must happen, how soon, and that it happens, too, when the leader dies after any of its steps.

use crate::plant::Plant;
use crate::world::{Deed, Due, Summary, World, port};
use crate::{caught, story};
use cluster::instance::Addr;
use configsvr::control::command::Command;

/// When the fault comes: everybody knows everybody by then.
const AT: u64 = 3_000;

fn addr(n: u16) -> Addr {
    format!("127.0.0.1:{}", port(1, n)).parse().expect("an address")
}

/// A world in which one thing happens.
fn world(deeds: &[(u64, Deed)]) -> World {
    let mut world = World::new(7, None, false);
    world.weather_until = 0;
    for (at, deed) in deeds {
        world.after(AT + at, Due::Do(deed.clone()));
    }
    world
}

/// Runs it and waits for `until`; the world does not end before.
fn told(deeds: &[(u64, Deed)], until: u64, crash: Option<(usize, bool)>) -> World {
    let mut world = world(deeds);
    world.weather_until = AT + until;
    world.crash_after = crash;
    world
}

fn good(deeds: &[(u64, Deed)], until: u64, crash: Option<(usize, bool)>) -> Summary {
    match caught(told(deeds, until, crash)) {
        Ok(summary) => summary,
        Err(why) => panic!("{}\n{deeds:?}, the leader dies at {crash:?}: {why}", story(told(deeds, until, crash))),
    }
}

/// Every crash point of a story: the leader dies before, or right after, each of its steps.
fn at_every_step(deeds: &[(u64, Deed)], until: u64) -> usize {
    let steps = good(deeds, until, None).actions;
    assert!(steps > 8, "{deeds:?}: {steps} steps are no story");
    for step in 1..=steps {
        for after in [false, true] {
            let crash = Some((step, after));
            if good(deeds, until, crash).committed == 0 {
                panic!(
                    "{}\n{deeds:?}: nobody took over, the leader dies at {crash:?}",
                    story(told(deeds, until, crash))
                );
            }
        }
    }
    steps
}

#[test]
fn a_dead_primary_is_replaced_wherever_the_leader_dies() {
    let steps = at_every_step(&[(0, Deed::Kill(addr(0)))], 6_000);
    println!("kill: {steps} steps, each with a death before and after it");
}

#[test]
fn a_frozen_primary_is_replaced_wherever_the_leader_dies() {
    at_every_step(&[(0, Deed::Freeze(addr(0), 5_000))], 8_000);
}

/// ... where nobody may have taken over at the end.
fn well_at_every_step(deeds: &[(u64, Deed)], until: u64) {
    for step in 1..=good(deeds, until, None).actions {
        for after in [false, true] {
            good(deeds, until, Some((step, after)));
        }
    }
}

/// Where nobody leads at that moment its replicas may have taken over its emptiness before anybody could keep them from it:
/// that is Redis's own, and `conf/redis.conf` says what helps.
#[test]
fn an_empty_restart_ends_wherever_the_leader_dies() {
    well_at_every_step(&[(0, Deed::Restart(addr(0), 20, 0))], 8_000);
}

/// The first candidate is gone before it can be promoted.
#[test]
fn the_second_candidate_takes_over_wherever_the_leader_dies() {
    at_every_step(&[(0, Deed::Kill(addr(0))), (330, Deed::Kill(addr(1)))], 14_000);
}

#[test]
fn a_forced_failover_ends_wherever_the_leader_dies() {
    well_at_every_step(&[(0, Deed::Ask(Command::Failover { group: 1, to: Some(addr(2)) }))], 6_000);
}

#[test]
fn a_switchover_loses_nothing_wherever_the_leader_dies() {
    let ask = Deed::Ask(Command::Switchover { group: 1, to: Some(addr(1)) });
    let deeds = [(0, ask)];
    let steps = good(&deeds, 4_000, None).actions;
    for step in 1..=steps {
        for after in [false, true] {
            // It may be called off; what was acknowledged is there in any case.
            let summary = good(&deeds, 6_000, Some((step, after)));
            assert_eq!(summary.forgiven, 0, "the leader died at step {step}");
        }
    }
}

#[test]
fn an_empty_restart_wipes_nobody() {
    let deeds = [(0, Deed::Restart(addr(0), 20, 0))];
    let summary = good(&deeds, 6_000, None);
    assert_eq!(summary.committed, 1, "{}\n{summary:?}", story(told(&deeds, 6_000, None)));
    assert!(summary.forgiven < 30, "{summary:?}: the replicas had nearly all of it");
}

/// An old primary is cut off with a proxy that writes on there; when it is back, its successor forgets everything. Whoever
/// is furthest then is not of the history that counts.
pub(crate) fn histories_that_parted(plant: Option<Plant>) -> Result<Summary, String> {
    let old = addr(0).to_string();
    let rest = ["m0", "m1", "m2", "p0"].map(str::to_owned).into_iter().chain([addr(1), addr(2)].map(|a| a.to_string()));
    let mut deeds: Vec<_> = rest.map(|other| (0, Deed::Cut(other, old.clone(), 3_000))).collect();
    deeds.extend((0..3).map(|n| (0, Deed::Cut(format!("m{n}"), "p1".to_owned(), 3_000))));
    deeds.push((3_300, Deed::Restart(addr(1), 20, 0)));
    caught(World { plant, ..told(&deeds, 9_000, None) })
}

/// Wanted is one that lacks what was written since it was cut off from its primary.
pub(crate) fn a_candidate_that_is_behind(plant: Option<Plant>) -> Result<Summary, String> {
    let cut = Deed::Cut(addr(1).to_string(), addr(0).to_string(), 4_000);
    let ask = Deed::Ask(Command::Switchover { group: 1, to: Some(addr(1)) });
    caught(World { plant, ..told(&[(0, cut), (500, ask)], 9_000, None) })
}

#[test]
fn a_switchover_waits_for_what_its_candidate_lacks() {
    let summary = a_candidate_that_is_behind(None).expect("all is well");
    assert_eq!(summary.forgiven, 0, "{summary:?}");
}

#[test]
fn what_is_further_on_another_history_is_not_chosen() {
    let summary = histories_that_parted(None).expect("all is well");
    assert_eq!(summary.committed, 2, "{summary:?}");
}

#[test]
fn a_short_pause_is_no_death() {
    for ms in [200, 600, 1_000] {
        let summary = good(&[(0, Deed::Freeze(addr(0), ms))], 4_000, None);
        assert_eq!(summary.decided, 0, "after {ms} ms: {summary:?}");
    }
}

#[test]
fn a_control_plane_that_is_cut_off_replaces_nobody() {
    let cut = |n: usize| (0, Deed::Cut(format!("m{n}"), addr(0).to_string(), 6_000));
    let summary = good(&[cut(0), cut(1), cut(2)], 9_000, None);
    assert_eq!(summary.decided, 0, "{summary:?}");
    let cut = |n: usize, group: u32| (0, Deed::Cut(format!("m{n}"), format!("127.0.0.1:{}", port(group, 0)), 6_000));
    let all: Vec<_> = (0..3).flat_map(|n| (1..=3).map(move |group| cut(n, group))).collect();
    assert_eq!(good(&all, 9_000, None).decided, 0);
}

#[test]
fn observers_that_stood_still_accuse_nobody() {
    let pauses: Vec<_> = (0..3).map(|n| (0, Deed::PauseMember(n, 3_000))).collect();
    assert_eq!(good(&pauses, 8_000, None).decided, 0);
}

/// The replica that was chosen is another, empty process by the time it is told to lead; or it was just recorded as the
/// primary, and nobody follows it yet.
#[test]
fn a_candidate_that_restarts_empty_wipes_nobody() {
    for ms in (200..700).step_by(10) {
        let deeds = [(0, Deed::Kill(addr(0))), (ms, Deed::Restart(addr(1), 1, 0))];
        let summary = good(&deeds, 12_000, None);
        assert!(summary.committed >= 1 && summary.forgiven < 30, "after {ms} ms: {summary:?}");
    }
}

/// The one that is nearest by its address lacks what was written in the last two seconds.
#[test]
fn whoever_has_most_takes_over() {
    for lacking in [1, 2] {
        let cut = Deed::Cut(addr(lacking).to_string(), addr(0).to_string(), 2_000);
        let deeds = [(0, cut), (1_900, Deed::Kill(addr(0)))];
        let summary = good(&deeds, 8_000, None);
        assert!(summary.committed == 1 && summary.forgiven < 30, "{lacking} lacks some: {summary:?}");
    }
}

/// The successor dies before the third follows it, or while that still takes over a whole data set: the third is next, as
/// soon as one failover may follow another.
#[test]
fn a_successor_that_dies_is_replaced() {
    for ms in (350..1_500).step_by(50) {
        let deeds = [(0, Deed::Kill(addr(0))), (ms, Deed::Kill(addr(1)))];
        let summary = good(&deeds, 16_000, None);
        let in_time = summary.heir == Some(addr(2)) && summary.took < 13_000;
        assert!(in_time, "{}\nafter {ms} ms: {summary:?}", story(told(&deeds, 16_000, None)));
    }
}

/// Two groups' primaries are out of the control plane's sight at once, and no proxy says what it sees: is it the control plane
/// that is cut off?
#[test]
fn too_many_at_once_are_not_replaced() {
    let cut = |n: usize, group: u32| (0, Deed::Cut(format!("m{n}"), format!("127.0.0.1:{}", port(group, 0)), 6_000));
    let mut deeds: Vec<_> = (0..3).flat_map(|n| (1..=2).map(move |group| cut(n, group))).collect();
    let silent = |n: usize, p: usize| (0, Deed::Cut(format!("m{n}"), format!("p{p}"), 6_000));
    deeds.extend((0..3).flat_map(|n| (0..2).map(move |p| silent(n, p))));
    // Nor do their replicas hear them, which would be reason enough to wait.
    let deaf = |group: u32, n: u16| {
        (0, Deed::Cut(format!("127.0.0.1:{}", port(group, n)), format!("127.0.0.1:{}", port(group, 0)), 6_000))
    };
    deeds.extend((1..=2).flat_map(|group| (1..=2).map(move |n| deaf(group, n))));
    assert_eq!(good(&deeds, 9_000, None).decided, 0);
}

#[test]
fn the_second_candidate_takes_over_when_the_first_dies() {
    let deeds = [(0, Deed::Kill(addr(0))), (330, Deed::Kill(addr(1))), (330, Deed::Kill(addr(2)))];
    let summary = good(&deeds, 12_000, None);
    assert!(summary.decided >= 1, "{summary:?}");
}
