//! What the OpenAPI document says of types that belong to others.

use super::*;

/// The words that documentation has of its own are those that travel.
#[test]
fn documented_words_are_the_words() {
    let document = json_of(&document());
    let properties = |name: &str| -> Vec<String> {
        let schema = &document["components"]["schemas"][name]["properties"];
        schema.as_object().unwrap_or_else(|| panic!("{name}: no such schema")).keys().cloned().collect()
    };
    let keys = |value: &Value| -> Vec<String> { value.as_object().expect("an object").keys().cloned().collect() };
    let message = json_of(
        r#"{"epoch":1,"name":"a","slot_count":2,"groups":[{"id":1,"name":"g","instances":[{"addr":
        "127.0.0.1:1","role":"primary","run_id":"r","zone":"z"}],"copies":true}],"tag_rule":"redis","slots":[{"from":0,"to":1,"group":1,
        "state":"moving","target":2}],"users":[{"name":"u","password_sha256":["h"],"categories":["all"],"keys":["*"],
        "channels":["*"],"read_only":true,"admin":true}]}"#,
    );
    let message: ::cluster::wire::Message = serde_json::from_value(message).expect("a message");
    let message = json!(message);
    let sight = json!({"addr": "127.0.0.1:1", "links_up": 1, "links": 1, "last_reply_ms": 1});
    let beat: crate::control::command::Beat = serde_json::from_value(json!({"id": "p", "version": "1", "addr": "a",
        "admin_addr": "b", "zone": "z", "epoch": 1, "started_at": 1, "from_disk": true, "leaving": true, "instances": [sight]}))
    .expect("a beat");
    let answer = Answer { epoch: 1, result: Value::Null, notes: vec![String::new()], repeated: true };
    for (name, value) in [
        ("Topology", message.clone()),
        ("TopologyGroup", message["groups"][0].clone()),
        ("TopologyInstance", message["groups"][0]["instances"][0].clone()),
        ("TopologyRange", message["slots"][0].clone()),
        ("User", message["users"][0].clone()),
        ("Range", json!(layout::SlotRange { from: 0, to: 1, group: None })),
        ("News", json!(news("x"))),
        ("Answer", json!(answer)),
        ("Beat", json!(beat)),
        ("Sight", json!(beat.instances[0])),
        ("BeatAnswer", json!(BeatAnswer { epoch: 1, draining: true, registered: true, next_ms: 1 })),
        ("Problem", json_of(r#"{"error":{}}"#)),
    ] {
        assert_eq!(properties(name), keys(&value), "{name}");
    }
    let whole = migration_with_everything();
    for (name, value) in [
        ("Migration", &whole),
        ("Span", &whole["slots"][0]),
        ("Limits", &whole["limits"]),
        ("TaskTimes", &whole["times"]),
        ("Tally", &whole["tally"]),
        ("Findings", &whole["audit"]),
        ("Mark", &whole["mark"]),
        ("Progress", &whole["progress"]),
    ] {
        assert_eq!(properties(name), keys(value), "{name}");
    }
    let plan = plan_with_everything();
    for (name, value) in [
        ("Rebalanced", &plan),
        ("Balance", &plan["balance"]),
        ("Move", &plan["balance"]["moves"][0]),
        ("Share", &plan["balance"]["shares"][0]),
        ("Measured", &plan["measured"]),
        ("Sampled", &plan["measured"]["samples"][0]),
        ("Counted", &plan["measured"]["ops"]),
        ("Estimate", &plan["estimate"]),
        ("Speed", &plan["estimate"]["speed"]),
        ("Room", &plan["room"][0]),
    ] {
        assert_eq!(properties(name), keys(value), "{name}");
    }
}

/// As it travels, with nothing left out.
fn migration_with_everything() -> Value {
    let audit = json!({ "compared": 1, "equal": 1, "changed": 0, "missing": 0, "different": 0, "extra": 0,
        "told_apart": true, "examples": [] });
    let progress = json!({ "attempt": 1, "scanned": 1, "to_scan": 2, "copied": 1, "bytes": 1, "applied": 0, "dirty": 0,
        "lag_bytes": 0, "age_ms": 1, "eta_ms": 2, "held_ms": 3 });
    let tally = json!({ "keys": 1, "bytes": 2, "applied": 3, "pause_ms": 4, "removed": 5 });
    let times = json!({ "created": 1, "begun": 2, "fenced": 3, "committed": 4, "ended": 5 });
    let view = json!({ "id": 1, "from": 1, "to": 2, "slots": [{ "from": 0, "to": 1 }], "mode": "on_access", "state": 3,
        "phase": "copy", "paused": true, "cancelled": true, "limits": {}, "window": "22:00-06:00", "skip_audit": true, "force": true,
        "epoch": 3, "fences": 1, "times": times, "tally": tally, "audit": audit, "mark": { "replid": "a", "offset": 1 }, "reverses": 9, "note": "n",
        "slot_count": 2, "stage": "copying", "trouble": "t", "progress": progress });
    let view: crate::control::task::TaskView = serde_json::from_value(view).expect("a migration");
    json!(view)
}

fn plan_with_everything() -> Value {
    let sampled = json!({ "group": 1, "addr": "127.0.0.1:1", "primary": true, "keys": 2, "scanned": 1, "sized": 1,
        "took_ms": 1 });
    let share =
        json!({ "group": 1, "weight": 1, "slots_before": 2, "slots_after": 1, "load_before": 2, "load_after": 1 });
    let plan = json!({ "epoch": 7, "by": "ops", "notes": [], "begun": [1], "repeated": true,
        "balance": { "moves": [{ "from": 1, "to": 2, "slots": [] }], "shares": [share] },
        "measured": { "age_ms": 1, "samples": [sampled],
            "ops": { "window_ms": 1, "requests": 2, "proxies": ["p"] } },
        "estimate": { "slots": 1, "keys": 2, "bytes": 3, "ms": 4,
            "speed": { "migration": 1, "keys_per_s": 2, "bytes_per_s": 3 } },
        "room": [{ "group": 2, "addr": "127.0.0.1:1", "primary": true, "coming_bytes": 1, "used_bytes": 2,
            "most_bytes": 3, "of_host": false, "enough": true }] });
    let plan: words::Rebalanced = serde_json::from_value(plan).expect("a plan");
    json!(plan)
}
