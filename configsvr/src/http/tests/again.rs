//! The same wish again, under the same key.

use super::*;

/// As the first time left it in the audit: the moves were made up for a wish.
fn begun(wish: &Value) -> View {
    let task = json!({ "id": 4, "from": 1, "to": 2, "slots": [{ "from": 1, "to": 4 }] });
    let answer = Answer { epoch: 7, result: json!({ "migrations": [task] }), notes: Vec::new(), repeated: false };
    let command = json!({ "command": "start_migrations", "moves": [], "planned_for": wish });
    let (who, key) = ("anonymous".to_owned(), Some("k1".to_owned()));
    let first: Audit = serde_json::from_str(&audit(8)).expect("an entry");
    let first = Audit { who, command, idempotency_key: key, answer: json!(answer), ..first };
    View { audit: Arc::new(vec![(8, first)]), ..leading() }
}

/// Its first answer was lost. A plan made now would find its slots on their way already, and begin nothing.
#[tokio::test]
async fn a_plan_that_was_begun_is_told_again() {
    let wish = json!({ "weights": { "1": 0 }, "apply": true });
    let wish: words::Rebalance = serde_json::from_value(wish).expect("a wish");
    let m = serve("m1", &[], begun(&json!(wish)), |_| panic!("nothing is begun")).await;
    let path = "POST /api/v1/rebalance";
    let (status, _, answer) = call(m.addr, path, &["idempotency-key: k1"], &json!(wish).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let told = json_of(&answer);
    assert_eq!((&told["begun"], &told["repeated"], &told["epoch"]), (&json!([4]), &json!(true), &json!(7)));
    let moved = json!([{ "from": 1, "to": 2, "slots": [{ "from": 1, "to": 4 }] }]);
    assert_eq!(told["balance"]["moves"], moved);
    let other = json!({ "weights": { "2": 0 }, "apply": true }).to_string();
    let (status, _, answer) = call(m.addr, path, &["idempotency-key: k1"], &other).await;
    assert_eq!((status.as_u16(), code(&answer).as_str()), (409, "key_reused"));
    // Without the key, or only to see: a plan of its own. This member cannot measure.
    for (path, headers) in [(path, &[][..]), ("POST /api/v1/rebalance?dry_run", &["idempotency-key: k1"])] {
        let (status, _, answer) = call(m.addr, path, headers, &json!(wish).to_string()).await;
        assert_eq!((status.as_u16(), code(&answer).as_str()), (503, "no_instances"));
    }
}

/// It was begun while this one still measured, and what was measured came out otherwise.
#[test]
fn a_plan_is_known_by_what_it_was_made_for() {
    use crate::control::command::{Command, NewMove, NewMoves};
    use crate::control::repeated;
    let wish = |weight: u32| json!({ "weights": { "1": weight }, "apply": true });
    let view = begun(&wish(0));
    let moves = vec![NewMove { from: 1, to: 2, slots: Vec::new(), count: Some(9) }];
    let plan =
        |planned_for| Command::StartMigrations(NewMoves { moves: moves.clone(), planned_for, ..NewMoves::default() });
    let asked = |who: &str, planned_for| repeated(&view.audit, who, Some("k1"), &plan(planned_for));
    assert!(asked("anonymous", Some(wish(0))).is_ok_and(|told| told.is_some_and(|told| told.repeated)));
    assert_eq!(asked("ann", Some(wish(0))), Ok(None));
    for other in [Some(wish(1)), None] {
        assert_eq!(asked("anonymous", other).map_err(|why| why.code), Err("key_reused".to_owned()));
    }
}
