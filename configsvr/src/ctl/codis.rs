//! Reads what `codis-admin --config-dump` prints for a Codis 3.x product: its slots and groups become a topology. Pure.
//!
//! The first server of a group is its primary, the others follow it. A slot without a group is nobody's. What is under way
//! (a slot that migrates, a group that promotes) is refused: it must be finished there before anything begins here.

use super::fault::{Fault, Result};
use cluster::group::{Group, GroupId};
use cluster::instance::{Addr, Instance, Role};
use cluster::slot::{Slot, TagRule};
use cluster::wire::{Message, Range, State};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Every Codis 3.x has that many.
const SLOT_COUNT: u16 = 1024;

/// A dump: what concerns us of it. Its proxies are not ours.
#[derive(Debug, Deserialize)]
struct Dump {
    #[serde(default)]
    slots: Vec<SlotMapping>,
    #[serde(default)]
    group: Vec<CodisGroup>,
}

#[derive(Debug, Deserialize)]
struct SlotMapping {
    id: Slot,
    /// 0: nobody.
    group_id: GroupId,
    #[serde(default)]
    action: Action,
}

/// What is under way with a slot, a group or a server; empty where nothing is.
#[derive(Debug, Default, Deserialize)]
struct Action {
    #[serde(default)]
    state: String,
}

#[derive(Debug, Deserialize)]
struct CodisGroup {
    id: GroupId,
    #[serde(default)]
    servers: Vec<CodisServer>,
    #[serde(default)]
    promoting: Action,
}

#[derive(Debug, Deserialize)]
struct CodisServer {
    server: String,
    #[serde(default)]
    datacenter: String,
}

/// A topology, and things to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Converted {
    pub message: Message,
    pub notes: Vec<String>,
}

/// All faults are told at once.
pub(super) fn convert(dump: &str, name: &str) -> Result<Converted> {
    let hint = "give the output of `codis-admin --config-dump --product=NAME` of a Codis 3.x";
    let dump: Dump =
        serde_json::from_str(dump).map_err(|e| Fault::new(format!("not a config dump of Codis 3.x: {e}"), hint))?;
    if dump.group.is_empty() {
        return Err(Fault::new("this dump has no groups", hint));
    }
    let (mut faults, mut notes) = (Vec::new(), Vec::new());
    let groups: Vec<Group> = dump.group.iter().filter_map(|g| group(g, &mut faults, &mut notes)).collect();
    let slots = ranges(&dump.slots, &groups, &mut faults);
    if !faults.is_empty() {
        return Err(Fault::new(faults.join("; "), "finish it in Codis (or correct the dump), then dump again"));
    }
    let owned: usize = slots.iter().map(|r| usize::from(r.to - r.from) + 1).sum();
    if owned < usize::from(SLOT_COUNT) {
        notes.push(format!("{} slots have no group, as in Codis", usize::from(SLOT_COUNT) - owned));
    }
    let (name, tag_rule) = (name.to_owned(), TagRule::Codis);
    Ok(Converted {
        message: Message { epoch: 1, name, slot_count: SLOT_COUNT, tag_rule, groups, slots, users: Vec::new() },
        notes,
    })
}

fn group(group: &CodisGroup, faults: &mut Vec<String>, notes: &mut Vec<String>) -> Option<Group> {
    let id = group.id;
    if !group.promoting.state.is_empty() {
        faults.push(format!("group {id} promotes a server ({})", group.promoting.state));
    }
    if group.servers.is_empty() {
        notes.push(format!("group {id} has no servers and is left out"));
        return None;
    }
    let mut instances = Vec::new();
    for (at, server) in group.servers.iter().enumerate() {
        let role = if at == 0 { Role::Primary } else { Role::Replica };
        let zone = Some(server.datacenter.clone()).filter(|z| !z.is_empty());
        match server.server.parse::<Addr>() {
            Ok(addr) => instances.push(Instance { addr, role, run_id: None, zone }),
            Err(e) => faults.push(format!("group {id}: {e}")),
        }
    }
    Some(Group { id, name: format!("g{id}"), instances, copies: false })
}

/// The shortest list of ranges.
fn ranges(slots: &[SlotMapping], groups: &[Group], faults: &mut Vec<String>) -> Vec<Range> {
    let mut owners: BTreeMap<Slot, GroupId> = BTreeMap::new();
    for slot in slots {
        let (id, group) = (slot.id, slot.group_id);
        if id >= SLOT_COUNT {
            faults.push(format!("slot {id}: Codis has {SLOT_COUNT}"));
        } else if !slot.action.state.is_empty() {
            faults.push(format!("slot {id} migrates ({})", slot.action.state));
        } else if group == 0 {
            continue;
        } else if !groups.iter().any(|g| g.id == group) {
            faults.push(format!("slot {id}: its group {group} is not there, or has no servers"));
        } else if owners.insert(id, group).is_some() {
            faults.push(format!("slot {id} is listed twice"));
        }
    }
    let mut ranges: Vec<Range> = Vec::new();
    for (slot, group) in owners {
        match ranges.last_mut() {
            Some(last) if last.group == group && last.to + 1 == slot => last.to = slot,
            _ => ranges.push(Range { from: slot, to: slot, group, state: State::Normal, target: None }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Two groups, half of the slots each, as codis-admin prints it.
    fn dump() -> Value {
        let slot = |id: u16| json!({"id": id, "group_id": 1 + u32::from(id >= 512), "action": {}});
        let server =
            |addr: &str, zone: &str| json!({"server": addr, "datacenter": zone, "action": {}, "replica_group": false});
        json!({
            "slots": (0..1024).map(slot).collect::<Vec<_>>(),
            "group": [
                {"id": 1, "servers": [server("10.0.0.1:6379", "a"), server("10.0.0.2:6379", "b")], "promoting": {},
                 "out_of_sync": false},
                {"id": 2, "servers": [server("10.0.0.3:6379", "")], "promoting": {}, "out_of_sync": true}],
            "proxy": [{"id": 1, "token": "f0", "start_time": "x", "admin_addr": "10.0.0.9:11080", "proto_type": "tcp4",
                "proxy_addr": "10.0.0.9:19000", "product_name": "shop", "pid": 1, "pwd": "/", "sys": "Linux"}],
        })
    }

    fn fault(dump: &Value) -> String {
        convert(&dump.to_string(), "shop").expect_err("refused").what
    }

    #[test]
    fn a_dump_becomes_a_topology() {
        let converted = convert(&dump().to_string(), "shop").expect("converted");
        assert_eq!(converted.notes, Vec::<String>::new());
        assert_eq!(
            json!(converted.message),
            json!({
                "epoch": 1, "name": "shop", "slot_count": 1024, "tag_rule": "codis",
                "groups": [
                    {"id": 1, "name": "g1", "instances": [{"addr": "10.0.0.1:6379", "role": "primary", "zone": "a"},
                                                           {"addr": "10.0.0.2:6379", "role": "replica", "zone": "b"}]},
                    {"id": 2, "name": "g2", "instances": [{"addr": "10.0.0.3:6379", "role": "primary"}]}],
                "slots": [{"from": 0, "to": 511, "group": 1}, {"from": 512, "to": 1023, "group": 2}],
            })
        );
        let topology = converted.message.check().expect("valid");
        assert_eq!(topology.slot_of(b"{}a"), 0, "as in Codis, an empty tag hashes the empty string");
    }

    #[test]
    fn what_nobody_owns_stays_nobodys() {
        let mut dump = dump();
        dump["slots"][7]["group_id"] = json!(0);
        dump["slots"].as_array_mut().expect("a list").pop();
        dump["group"].as_array_mut().expect("a list").push(json!({"id": 3, "servers": [], "promoting": {}}));
        let converted = convert(&dump.to_string(), "shop").expect("converted");
        assert_eq!(converted.notes, ["group 3 has no servers and is left out", "2 slots have no group, as in Codis"]);
        let froms: Vec<Slot> = converted.message.slots.iter().map(|r| r.from).collect();
        assert_eq!(froms, [0, 8, 512]);
    }

    #[test]
    fn what_is_under_way_or_wrong_is_refused() {
        let with = |change: fn(&mut Value)| {
            let mut dump = dump();
            change(&mut dump);
            fault(&dump)
        };
        let migrating = with(|d| d["slots"][3]["action"] = json!({"index": 1, "state": "migrating", "target_id": 2}));
        assert!(migrating.contains("slot 3 migrates (migrating)"), "{migrating}");
        let promoting = with(|d| d["group"][0]["promoting"] = json!({"index": 1, "state": "preparing"}));
        assert!(promoting.contains("group 1 promotes"), "{promoting}");
        let named = with(|d| d["group"][0]["servers"][0]["server"] = json!("redis-1.example:6379"));
        assert!(named.contains("redis-1.example:6379"), "{named}");
        let orphan = with(|d| d["slots"][0]["group_id"] = json!(9));
        assert!(orphan.contains("slot 0: its group 9"), "{orphan}");
        let twice = with(|d| d["slots"][1]["id"] = json!(0));
        assert!(twice.contains("slot 0 is listed twice"), "{twice}");
        let beyond = with(|d| d["slots"][1]["id"] = json!(1024));
        assert!(beyond.contains("slot 1024"), "{beyond}");
        assert!(fault(&json!({"slots": []})).contains("no groups"));
        assert!(fault(&json!("text")).contains("not a config dump"));
    }
}
