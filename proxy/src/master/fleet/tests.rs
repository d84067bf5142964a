//! Stories of a fleet. A line `> ...` is an event, at a time in milliseconds; the lines `< ...` after it are all the
//! actions it led to.

use super::*;

/// Plays a story and gives the fleet as it stands at its end.
fn story(text: &str) -> Fleet {
    let mut fleet = Fleet::new();
    play(&mut fleet, text);
    fleet
}

fn play(fleet: &mut Fleet, text: &str) {
    let mut done: Vec<String> = Vec::new();
    let mut event = "the start".to_owned();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if let Some(action) = line.strip_prefix("< ") {
            assert!(!done.is_empty(), "after {event}: expected {action:?}, but nothing more is done");
            assert_eq!(done.remove(0), action, "after {event}; then {done:?}");
        } else if let Some(said) = line.strip_prefix("> ") {
            assert!(done.is_empty(), "after {event}: also {done:?}");
            event = said.to_owned();
            let (ms, what) = said.split_once(' ').expect("time and event");
            let actions = fleet.step(ms.parse::<u64>().expect("a time") * 1000, read(what));
            done = actions.iter().map(show).collect();
        } else {
            panic!("{line:?}: begins with neither < nor >");
        }
    }
    assert!(done.is_empty(), "after {event}: also {done:?}");
}

fn read(what: &str) -> Event {
    let words: Vec<&str> = what.split(' ').collect();
    let number = |at: usize| words[at].trim_start_matches('w').parse::<u64>().expect("a number");
    match words[0] {
        "tick" => Event::Tick,
        // layout WORKERS NAME/SOCKETS ... ; a unix socket's name begins with u
        "layout" => Event::Layout(Layout {
            workers: number(1) as usize,
            names: words[2..].iter().map(|w| sockets(w)).collect(),
            drain_timeout_us: 500_000,
        }),
        "topology" => Event::Topology { epoch: number(1) },
        "died" => Event::Died { id: number(1) },
        "ready" => Event::Ready { id: number(1) },
        "listening" => Event::Listening { id: number(1), name: words[2].into() },
        "serving" => Event::Serving { id: number(1), epoch: number(2) },
        "quiet" => Event::Quiet { id: number(1), epoch: number(2) },
        "refused" => Event::Refused { id: number(1), epoch: number(2), why: "no".into() },
        "stop" => Event::Stop { now: words.contains(&"now") },
        _ => panic!("{what:?} is no event"),
    }
}

fn sockets(word: &str) -> (String, Sockets) {
    let (name, count) = word.split_once('/').expect("NAME/SOCKETS");
    (name.into(), Sockets { count: count.parse().expect("a count"), shared: name.starts_with('u') })
}

fn show(action: &Action) -> String {
    match action {
        Action::Spawn { id, seat } => format!("spawn w{id} at {seat}"),
        Action::Kill { id } => format!("kill w{id}"),
        Action::Close { name } => format!("close {name}"),
        Action::Exit => "exit".into(),
        Action::Mourn { seat, delay_us } => format!("mourn {seat}, again in {} ms", delay_us / 1000),
        Action::Send { id, mail } => match mail {
            Mail::Listen { name, socket } => format!("w{id}: listen {name}/{socket}"),
            Mail::Unlisten { name } => format!("w{id}: unlisten {name}"),
            Mail::Topology { epoch } => format!("w{id}: topology {epoch}"),
            Mail::Drain { hand_over: true } => format!("w{id}: drain, hand over"),
            Mail::Drain { hand_over: false } => format!("w{id}: drain"),
        },
    }
}

const TWO: &str = "
    > 0 layout 2 a/2 u/1
    < spawn w1 at 0
    < spawn w2 at 1
    < w1: listen a/0
    < w1: listen u/0
    < w2: listen a/1
    < w2: listen u/0
    > 1 ready w1
    > 1 ready w2
    > 2 listening w1 a
    > 2 listening w1 u
    > 2 listening w2 a
    > 2 listening w2 u
";

#[test]
fn a_worker_that_dies_is_replaced_at_once_on_the_same_sockets() {
    let mut fleet = story(TWO);
    play(
        &mut fleet,
        "
        > 3 topology 7
        < w1: topology 7
        < w2: topology 7
        > 9000 died w2
        < mourn 1, again in 0 ms
        < spawn w3 at 1
        < w3: topology 7
        < w3: listen a/1
        < w3: listen u/0
        ",
    );
    assert_eq!(fleet.views()[1].restarts, 1);
}

#[test]
fn quick_deaths_in_a_row_are_answered_ever_later() {
    let mut fleet = story(
        "
        > 0 layout 1 a/1
        < spawn w1 at 0
        < w1: listen a/0
        > 1 died w1
        < mourn 0, again in 0 ms
        < spawn w2 at 0
        < w2: listen a/0
        > 2 died w2
        < mourn 0, again in 10 ms
        > 11 tick
        > 12 tick
        < spawn w3 at 0
        < w3: listen a/0
        > 13 died w3
        < mourn 0, again in 20 ms
        > 33 tick
        < spawn w4 at 0
        < w4: listen a/0
        > 34 ready w4
        ",
    );
    assert_eq!(fleet.deadline_us(34_000), None);
    play(
        &mut fleet,
        "
        > 9000 died w4
        < mourn 0, again in 0 ms
        < spawn w5 at 0
        < w5: listen a/0
        ",
    );
    for n in 0..20 {
        fleet.step(20_000_000, Event::Died { id: 5 + n });
        assert!(fleet.seats[0].not_before_us <= 25_000_000, "at most five seconds");
        fleet.seats[0].not_before_us = 20_000_000;
        fleet.step(20_000_000, Event::Tick);
    }
    assert_eq!(fleet.views()[0].restarts, 24);
}

#[test]
fn a_worker_that_never_gets_ready_is_killed_and_counts_as_dead() {
    let mut fleet = story(
        "
        > 0 layout 1 a/1
        < spawn w1 at 0
        < w1: listen a/0
        > 10000 tick
        < kill w1
        > 10001 died w1
        < mourn 0, again in 0 ms
        < spawn w2 at 0
        < w2: listen a/0
        > 20001 tick
        < kill w2
        ",
    );
    // Stuck in the kernel: it is not waited for.
    play(&mut fleet, "> 22001 tick\n< spawn w3 at 0\n< w3: listen a/0\n> 22100 died w2\n< mourn 0, again in 10 ms");
}

#[test]
fn growing_adds_workers_and_shrinking_hands_clients_over() {
    let mut fleet = story(TWO);
    play(
        &mut fleet,
        "
        > 10 layout 3 a/3 u/1
        < spawn w3 at 2
        < w3: listen a/2
        < w3: listen u/0
        > 11 ready w3
        > 12 listening w3 a
        > 12 listening w3 u
        > 20 layout 1 a/3 u/1
        < w1: listen a/1
        < w1: listen a/2
        < w2: drain, hand over
        < w3: drain, hand over
        > 21 died w2
        > 520 tick
        < kill w3
        > 521 died w3
        > 600 layout 2 a/3 u/1
        < spawn w4 at 1
        < w4: listen a/1
        < w4: listen u/0
        ",
    );
}

#[test]
fn an_address_leaves_when_the_new_one_is_served_by_all() {
    let mut fleet = story(TWO);
    play(
        &mut fleet,
        "
        > 10 layout 2 b/2 u/1
        < w1: listen b/0
        < w2: listen b/1
        > 11 listening w1 b
        > 11 listening w2 b
        < close a
        < w1: unlisten a
        < w2: unlisten a
        > 20 died w1
        < mourn 0, again in 0 ms
        < spawn w3 at 0
        < w3: listen b/0
        < w3: listen u/0
        ",
    );
}

#[test]
fn a_stop_drains_and_is_bounded() {
    let mut fleet = story(TWO);
    play(
        &mut fleet,
        "
        > 10 stop
        < close a
        < close u
        < w1: drain
        < w2: drain
        > 11 died w1
        > 509 tick
        > 510 tick
        < kill w2
        > 511 died w2
        < exit
        ",
    );
    assert!(fleet.stopping());
}

#[test]
fn a_second_stop_does_not_wait() {
    let mut fleet = story(TWO);
    play(
        &mut fleet,
        "
        > 10 stop
        < close a
        < close u
        < w1: drain
        < w2: drain
        > 12 stop
        < kill w1
        < kill w2
        > 13 died w1
        > 2012 tick
        < exit
        ",
    );
}

#[test]
fn a_topology_is_served_when_every_living_worker_says_so() {
    let mut fleet = story(TWO);
    play(
        &mut fleet,
        "
        > 3 topology 7
        < w1: topology 7
        < w2: topology 7
        > 4 serving w1 7
        > 4 quiet w1 7
        > 5 refused w2 7
        ",
    );
    let progress = fleet.progress(7);
    assert_eq!((progress.serving, progress.unquiet.len()), (1, 1));
    assert_eq!(progress.behind, [Behind { seat: 1, pid: 0, why: Some("no".into()) }]);
    fleet.step(6000, Event::Died { id: 2 });
    let newborn = fleet.progress(7);
    assert_eq!((newborn.serving, newborn.behind.len()), (1, 1), "its successor may already serve an older one");
    play(&mut fleet, "> 7 serving w3 7\n > 7 quiet w3 7");
    assert_eq!(fleet.progress(7), Progress { serving: 2, ..Progress::default() });
}

#[test]
fn clients_go_to_whoever_has_the_fewest_and_stays() {
    let mut fleet = story(TWO);
    let clients = |id: Id| if id == 1 { 10 } else { 8 };
    let heirs: Vec<_> = (0..4).map(|_| fleet.heir(clients)).collect();
    assert_eq!(heirs, [Some(2), Some(2), Some(1), Some(2)]);
    fleet.step(9_000_000, Event::Layout(Layout { workers: 1, ..Layout::default() }));
    assert_eq!(fleet.heir(|_| 0), Some(1));
}

#[test]
fn workers_of_the_old_image_go_when_the_new_ones_serve() {
    let mut before = story(TWO);
    before.step(3000, Event::Topology { epoch: 7 });
    let (next_id, workers) = before.bequest();
    let mut fleet = Fleet::new();
    let names = ["a/2", "u/1"].map(sockets);
    fleet.inherit(next_id, names.into(), workers, 5000);
    play(
        &mut fleet,
        "
        > 5 topology 7
        < w1: topology 7
        < w2: topology 7
        > 5 layout 2 a/2 u/1
        < spawn w3 at 0
        < w3: topology 7
        < spawn w4 at 1
        < w4: topology 7
        < w3: listen a/0
        < w3: listen u/0
        < w4: listen a/1
        < w4: listen u/0
        > 6 ready w3
        > 6 ready w4
        > 6 serving w3 7
        > 6 serving w4 7
        > 7 listening w3 a
        > 7 listening w3 u
        > 7 listening w4 a
        > 7 listening w4 u
        < w1: drain, hand over
        < w2: drain, hand over
        > 8 died w1
        > 9 died w2
        ",
    );
    assert!(fleet.views().iter().all(|v| v.state == "live"));
}

#[test]
fn an_old_worker_that_dies_before_its_successor_serves_is_not_missed() {
    let mut fleet = Fleet::new();
    let (next_id, workers) = story(TWO).bequest();
    fleet.inherit(next_id, ["a/2", "u/1"].map(sockets).into(), workers, 5000);
    play(
        &mut fleet,
        "
        > 5 layout 1 b/1
        < spawn w3 at 0
        < w3: listen a/0
        < w3: listen a/1
        < w3: listen b/0
        < w3: listen u/0
        > 6 died w1
        > 7 ready w3
        > 8 listening w3 b
        < close a
        < w2: unlisten a
        < w3: unlisten a
        < close u
        < w2: unlisten u
        < w3: unlisten u
        < w2: drain, hand over
        ",
    );
}
