//! What a migration in phase `fetch` makes of the topology, and of what people may wish meanwhile.

use crate::control::command::{Command, Steering};
use crate::control::layout::SlotRange;
use crate::control::plan::plan;
use crate::control::state::{Standing, State};
use crate::control::task::{Limits, task_key};
use crate::store::{Change, Entry, Notice, Snapshot};
use cluster::change::{Change as Wish, apply};
use cluster::topology::SlotState;
use serde_json::{Value, json};

/// Slots 0 and 1 of four move on access from group 1 to group 2; group 2 owns the last one.
fn fetching() -> State {
    let mut entries = vec![
        ("settings".to_owned(), json!({ "name": "t", "slot_count": 4 })),
        ("epoch".to_owned(), json!({ "epoch": 7 })),
        ("migration-tasks/00000000000000000001".to_owned(), task("fetch")),
    ];
    for group in 1..=3 {
        let record = json!({ "group_id": group, "primary": format!("127.0.0.1:{group}") });
        entries.push((format!("group-instances/{group}"), record));
    }
    for (slot, group) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
        let record = json!({ "slot_id": slot, "group_id": group });
        entries.push((format!("slot-to-group-mapping/slot{slot}"), record));
    }
    let mut state = State::default();
    let entries = entries.into_iter().map(|(key, value)| entry(key, &value, 1)).collect();
    state.apply(Notice::Listed(Snapshot { revision: 1, entries }));
    adopted(&mut state);
    state
}

fn task(phase: &str) -> Value {
    json!({ "id": 1, "from": 1, "to": 2, "slots": [{ "from": 0, "to": 1 }], "mode": "on_access", "state": 3, "phase": phase,
        "epoch": 7, "times": { "created": 1 } })
}

fn entry(key: String, value: &Value, modified: u64) -> Entry {
    Entry { key, value: value.to_string(), modified, lease: None }
}

fn put(state: &mut State, key: &str, value: &Value) {
    let revision = state.revision + 1;
    let changes = vec![Change::Put(entry(key.to_owned(), value, revision))];
    state.apply(Notice::Changed { revision, changes });
}

/// As the leader does with what was edited: another epoch, with the sum of what it means.
fn adopted(state: &mut State) {
    let Standing::Edited { epoch, sum } = state.standing else { panic!("{:?}", state.standing) };
    put(state, "epoch", &json!({ "epoch": epoch + 1, "sum": sum }));
    assert_eq!(state.standing, Standing::Valid);
}

fn failover(state: &mut State, group: u32, phase: &str) {
    let record = json!({ "id": format!("{group}"), "group_id": group, "kind": "failover", "phase": phase, "epoch": 8,
        "old": format!("127.0.0.1:{group}"), "why": "", "times": { "doubted": 0, "decided": 0 } });
    put(state, &format!("failovers/{group}"), &record);
    adopted(state);
}

/// `m`oving, `h`eld, `.`
fn states(state: &State) -> String {
    let known = &state.in_force.as_ref().expect("in force").known;
    letters(known.slots().iter().map(|slot| slot.state))
}

fn letters(states: impl Iterator<Item = SlotState>) -> String {
    let letter = |state| match state {
        SlotState::Moving { target: 2 } => 'm',
        SlotState::Held => 'h',
        _ => '.',
    };
    states.map(letter).collect()
}

#[test]
fn slots_move_while_neither_primary_is_replaced() {
    let mut state = fetching();
    assert_eq!(states(&state), "mm..");
    failover(&mut state, 2, "fence");
    assert_eq!(states(&state), "hh.h", "the target's is");
    failover(&mut state, 1, "promote");
    assert_eq!(states(&state), "hhhh", "both are");
    failover(&mut state, 2, "done");
    assert_eq!(states(&state), "hhh.", "the source's is");
    failover(&mut state, 1, "repair");
    assert_eq!(states(&state), "mm..", "they go on");
}

/// What a failover's transaction says of the topology is what is read from the store afterwards.
#[test]
fn a_decision_and_the_store_agree() {
    let state = fetching();
    let known = state.in_force.as_ref().expect("in force").known.clone();
    for (group, wanted) in [(1, "hhh."), (2, "hh.h"), (3, "mm..")] {
        let held = apply(&known, &Wish::Hold { group }).expect("good");
        let held = state.in_step(&held, |other| other == group).expect("good");
        assert_eq!(letters(held.slots().iter().map(|slot| slot.state)), wanted, "group {group} is held");
        let free = apply(&held, &Wish::Release { group, primary: None }).expect("good");
        let free = state.in_step(&free, |_| false).expect("good");
        assert_eq!(letters(free.slots().iter().map(|slot| slot.state)), "mm..", "group {group} is released");
    }
}

#[test]
fn who_gives_a_slot_away_by_hand_is_believed() {
    let mut state = fetching();
    put(&mut state, "slot-to-group-mapping/slot1", &json!({ "slot_id": 1, "group_id": 2 }));
    adopted(&mut state);
    assert_eq!(states(&state), ".m..");
}

#[test]
fn what_moves_on_access_is_left_alone() {
    let state = fetching();
    let steer = |steering| Command::SteerMigration { id: 1, steering };
    let cancel = Steering { cancelled: Some(true), ..Steering::default() };
    let assign = |group| {
        let ranges = vec![SlotRange { from: 0, to: 0, group }];
        Command::AssignSlots { ranges, force: true }
    };
    for (command, code, hint) in [
        (steer(cancel), "migration_over", "let it end, then: twemslotctl migrations reverse 1"),
        (Command::ReverseMigration { id: 1 }, "not_moved", "let it end, then: twemslotctl migrations reverse 1"),
        (assign(Some(3)), "slot_moving", "let the migration"),
        (assign(None), "slot_moving", "let the migration"),
        (Command::RemoveGroup { id: 2 }, "group_owns_slots", "its slots go to other groups"),
    ] {
        let refusal = plan(&state, &command, None, 0).err().unwrap_or_else(|| panic!("{command:?} was taken"));
        assert_eq!(refusal.code, code, "{command:?}: {refusal:?}");
        assert!(refusal.hint.contains(hint), "{command:?}: {refusal:?}");
    }
    let pause = Steering { paused: Some(true), ..Steering::default() };
    assert!(plan(&state, &steer(pause), None, 0).is_ok());
}

/// Two people change a limit each, and neither knows of the other: both are heard.
#[test]
fn a_limit_that_is_not_named_stays_as_it_is_by_then() {
    let mut state = fetching();
    for named in [json!({ "keys_per_s": 5 }), json!({ "bytes_per_s": 7 })] {
        let limits = Some(serde_json::from_value(named).expect("limits"));
        let steering = Steering { limits, ..Steering::default() };
        let done = plan(&state, &Command::SteerMigration { id: 1, steering }, None, 0).expect("good");
        put(&mut state, &task_key(1), &done.after);
    }
    let wanted = Limits { keys_per_s: 5, bytes_per_s: 7, ..Limits::default() };
    assert_eq!(state.tasks[&1].value.limits, wanted);
}
