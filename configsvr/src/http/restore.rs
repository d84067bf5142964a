//! `store/import`: a whole store at once, from what `store/export` gave, into a store without a cluster. So a cluster moves
//! from one back end to another, and comes back from a backup.
//!
//! `settings` is written last: until then there is no cluster, whatever else lies there. What belongs to the control plane
//! that was exported (its leader, its members, the proxies it heard of) stays out, and so does its audit trail: its keys
//! are revisions of another store.

use super::Api;
use super::clock::time_ms;
use super::documented::AnswerWord;
use super::extract::{Said, Terms};
use super::problem::{ChangeProblems, Problem};
use super::words::{Answer, DryRun, EXPORT_FORMAT, Export, IdempotencyKey};
use crate::control::layout::{
    self, AUDIT, Audit, EPOCH, Epoch, FAILOVERS, GROUPS, GUARDS, LEADER, PROXIES, ROSTER, SETTINGS, SLOTS, Settings, SlotEntry,
};
use crate::control::task::TASKS;
use crate::store::{Compare, Op, Snapshot, TXN_MAX, Txn, Verdict};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cluster::group::Group;
use cluster::instance::{Instance, Role};
use cluster::slot::Slot;
use cluster::wire::{self, Message};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// How the audit trail calls it.
const WHAT: &str = "store.import";

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(restore))
}

/// Loads what `GET /api/v1/store/export` gave into a store without a cluster: the same topology under the same epoch. What
/// is changed in the exported cluster after its export is lost, and proxies that saw it refuse the older epoch.
#[utoipa::path(post, path = "/api/v1/store/import", tag = "records", params(DryRun, IdempotencyKey), request_body = Export,
    responses((status = 200, description = "it is in force", body = AnswerWord), ChangeProblems))]
async fn restore(
    State(api): State<Arc<Api>>,
    terms: Terms,
    Said(export): Said<Export>,
) -> Result<Json<Answer>, Problem> {
    let plan = Plan::read(&export)?;
    if let Some(answer) = done_before(&api, &terms) {
        return Ok(Json(answer));
    }
    let fence = fence(&api).await?;
    let there = api.store.range("").await?;
    if there.entries.iter().any(|e| e.key == SETTINGS) {
        let hint = "import into a control plane without a cluster; POST /api/v1/import with `replace` changes one that is there";
        return Err(Problem::new(StatusCode::CONFLICT, "not_empty", "there is a cluster already", hint));
    }
    let answer = plan.answer();
    if !terms.dry_run {
        tracing::info!(who = terms.who, epoch = answer.epoch, "a store is imported");
        let audit = plan.audit(terms, &export, &answer);
        for txn in plan.transactions(&fence, &there, &audit) {
            write(&api, txn).await?;
        }
    }
    Ok(Json(answer))
}

/// The answer that this very call was given before.
fn done_before(api: &Api, terms: &Terms) -> Option<Answer> {
    let key = terms.idempotency_key.as_ref()?;
    let view = api.desk.view.borrow().clone();
    let (_, audit) = view.audit.iter().find(|(_, a)| a.what == WHAT && a.idempotency_key.as_ref() == Some(key))?;
    let answer: Answer = serde_json::from_value(audit.answer.clone()).ok()?;
    Some(Answer { repeated: true, ..answer })
}

/// What must be true for each write: that this member leads.
async fn fence(api: &Api) -> Result<Compare, Problem> {
    let nobody = || Problem::unavailable("no_leader", "this member does not lead any more", "try again in a second");
    let token = api.desk.view.borrow().token.ok_or_else(nobody)?;
    let entry = api.store.get(LEADER).await?.ok_or_else(nobody)?;
    let leader: Option<layout::Leader> = serde_json::from_str(&entry.value).ok();
    if leader.is_none_or(|l| l.token != token) {
        return Err(nobody());
    }
    Ok(Compare::ValueIs { key: LEADER.to_owned(), value: entry.value })
}

async fn write(api: &Api, txn: Txn) -> Result<(), Problem> {
    match api.store.commit(txn).await? {
        Verdict::Done(_) => Ok(()),
        Verdict::Refused(_) => {
            let message = "the leader changed, or somebody made a cluster meanwhile";
            let hint = "see GET /api/v1/cluster; if there is none, import again";
            Err(Problem::new(StatusCode::CONFLICT, "changed_meanwhile", message, hint))
        }
    }
}

/// What is to be written, checked as a whole.
#[derive(Debug)]
struct Plan {
    settings: String,
    epoch: Epoch,
    /// The rest, by key.
    rest: BTreeMap<String, String>,
}

impl Plan {
    fn read(export: &Export) -> Result<Self, Problem> {
        if export.format != EXPORT_FORMAT {
            let message = format!("format {:?} is not {EXPORT_FORMAT:?}", export.format);
            return Err(unfit(message));
        }
        let mut rest: BTreeMap<String, String> = BTreeMap::new();
        for entry in &export.entries {
            if rest.insert(entry.key.clone(), entry.value.clone()).is_some() {
                return Err(unfit(format!("{} is there twice", entry.key)));
            }
        }
        let settings =
            rest.remove(SETTINGS).ok_or_else(|| unfit(format!("{SETTINGS} is missing: there was no cluster")))?;
        let epoch = rest.remove(EPOCH).ok_or_else(|| unfit(format!("{EPOCH} is missing")))?;
        let epoch: Epoch = parse(EPOCH, &epoch)?;
        rest.retain(|key, _| !of_the_control_plane(key));
        topology(&parse(SETTINGS, &settings)?, &epoch, &rest)?;
        Ok(Self { settings, epoch, rest })
    }

    fn answer(&self) -> Answer {
        let keys = self.rest.len() + 2;
        let notes = vec!["the audit trail, members and proxies of the exported control plane were left out".to_owned()];
        Answer { epoch: self.epoch.epoch, result: json!({ "keys": keys }), notes, repeated: false }
    }

    fn audit(&self, terms: Terms, export: &Export, answer: &Answer) -> Audit {
        Audit {
            at: time_ms(),
            who: terms.who,
            what: WHAT.to_owned(),
            command: json!({ "command": "store_import", "store": export.store, "revision": export.revision }),
            epoch_before: 0,
            epoch_after: answer.epoch,
            before: Value::Null,
            after: answer.result.clone(),
            idempotency_key: terms.idempotency_key,
            answer: json!(answer),
        }
    }

    /// Each holds only while this member leads and there is no cluster. What an import that was cut short has left goes.
    fn transactions(&self, fence: &Compare, there: &Snapshot, audit: &Audit) -> Vec<Txn> {
        let compares = vec![fence.clone(), Compare::Absent { key: SETTINGS.to_owned() }];
        let put = |key: &str, value: &str| Op::Put { key: key.to_owned(), value: value.to_owned(), lease: None };
        let stale = there.entries.iter().map(|e| &e.key).filter(|k| known(k) && !self.rest.contains_key(*k));
        let mut ops: Vec<Op> = stale.map(|key| Op::Delete { key: key.clone() }).collect();
        ops.extend(self.rest.iter().map(|(key, value)| put(key, value)));
        let mut txns: Vec<Txn> =
            ops.chunks(TXN_MAX).map(|ops| Txn { compares: compares.clone(), ops: ops.to_vec() }).collect();
        let audit = put(&layout::audit_key(there.revision), &json!(audit).to_string());
        let last = vec![audit, put(EPOCH, &json!(self.epoch).to_string()), put(SETTINGS, &self.settings)];
        txns.push(Txn { compares, ops: last });
        txns
    }
}

fn unfit(message: impl Into<String>) -> Problem {
    Problem::invalid("bad_export", message, "give what GET /api/v1/store/export answered, unchanged")
}

fn parse<T: DeserializeOwned>(key: &str, value: &str) -> Result<T, Problem> {
    serde_json::from_str(value).map_err(|e| unfit(format!("{key}: {e}")))
}

/// Of the cluster, and nobody else's.
fn known(key: &str) -> bool {
    key.starts_with(SLOTS) || key.starts_with(GROUPS)
}

fn of_the_control_plane(key: &str) -> bool {
    key == LEADER || [PROXIES, ROSTER, AUDIT, GUARDS, FAILOVERS, TASKS, "members/"].iter().any(|prefix| key.starts_with(prefix))
}

/// The topology that it would be, or what is wrong with it.
fn topology(settings: &Settings, epoch: &Epoch, rest: &BTreeMap<String, String>) -> Result<(), Problem> {
    let (mut groups, mut slots) = (Vec::new(), Vec::new());
    for (key, value) in rest {
        if let Some(number) = key.strip_prefix(SLOTS) {
            slots.extend(slot(key, number, &parse(key, value)?)?);
        } else if key.starts_with(GROUPS) {
            groups.push(group(key, parse(key, value)?)?);
        } else if !known(key) {
            return Err(unfit(format!("{key} is no key of a cluster")));
        }
    }
    // What is not folded into the slots' own keys yet goes before them.
    let unfolded = |slot: Slot| epoch.unfolded.iter().any(|r| (r.from..=r.to).contains(&slot));
    slots.retain(|r: &wire::Range| !unfolded(r.from));
    let range = |r: &layout::SlotRange| Some(wire::Range { from: r.from, to: r.to, group: r.group?, ..EMPTY });
    slots.extend(epoch.unfolded.iter().filter_map(range));
    let Settings { name, slot_count, tag_rule, .. } = settings.clone();
    let message = Message { epoch: epoch.epoch, name, slot_count, tag_rule, groups, slots };
    message.check().map(drop).map_err(|faults| unfit(faults.join("; ")))
}

const EMPTY: wire::Range = wire::Range { from: 0, to: 0, group: 0, state: wire::State::Normal, target: None };

fn slot(key: &str, number: &str, entry: &SlotEntry) -> Result<Option<wire::Range>, Problem> {
    let slot = entry.slot_id.checked_sub(1).and_then(|s| Slot::try_from(s).ok());
    match slot {
        Some(slot) if number == entry.slot_id.to_string() => {
            Ok((entry.group_id != 0).then_some(wire::Range { from: slot, to: slot, group: entry.group_id, ..EMPTY }))
        }
        _ => Err(unfit(format!("{key}: its slot_id is {}", entry.slot_id))),
    }
}

fn group(key: &str, group: layout::Group) -> Result<Group, Problem> {
    if key != layout::group_key(group.group_id) {
        return Err(unfit(format!("{key}: its group_id is {}", group.group_id)));
    }
    let instance = |addr, role| Instance { addr, role, run_id: None, zone: None };
    let primary = std::iter::once(instance(group.primary, Role::Primary));
    let instances = primary.chain(group.replicas.into_iter().map(|addr| instance(addr, Role::Replica))).collect();
    Ok(Group { id: group.group_id, name: group.group_name, instances })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::words::Exported;

    fn export(change: impl Fn(&mut BTreeMap<String, String>)) -> Export {
        let mut all = BTreeMap::from(
            [
                ("settings", r#"{"name":"shop","slot_count":300}"#),
                ("epoch", r#"{"epoch":7,"unfolded":[{"from":0,"to":1,"group":2}]}"#),
                ("leader", "{}"),
                ("proxies/p1", "{}"),
                ("audit/00000000000000000001", "{}"),
                ("members/1", "{}"),
                ("migration-tasks/1", "{}"),
                ("group-instances/1", r#"{"group_id":1,"primary":"10.0.0.1:1","replicas":["10.0.0.2:1"]}"#),
                ("group-instances/2", r#"{"group_id":2,"primary":"10.0.0.3:1"}"#),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        all.extend(
            (1..=300).map(|n| (format!("{SLOTS}{n}"), format!(r#"{{"slot_id":{n},"group_id":1,"action":{{}}}}"#))),
        );
        change(&mut all);
        let entries = all.into_iter().map(|(key, value)| Exported { key, value }).collect();
        Export { format: EXPORT_FORMAT.to_owned(), revision: 9, store: "x".to_owned(), entries }
    }

    #[test]
    fn settings_come_last_and_every_write_is_fenced() {
        let plan = Plan::read(&export(|_| ())).expect("fit");
        let fence = Compare::ValueIs { key: LEADER.to_owned(), value: "me".to_owned() };
        let terms = Terms { who: "ann".to_owned(), dry_run: false, idempotency_key: Some("k".to_owned()) };
        let audit = plan.audit(terms, &export(|_| ()), &plan.answer());
        let left =
            crate::store::Entry { key: "group-instances/9".to_owned(), value: String::new(), modified: 1, lease: None };
        let own = crate::store::Entry { key: LEADER.to_owned(), ..left.clone() };
        let txns = plan.transactions(&fence, &Snapshot { revision: 3, entries: vec![left, own] }, &audit);
        assert!(txns.iter().all(|t| t.ops.len() <= TXN_MAX));
        assert!(txns.iter().all(|t| t.compares == [fence.clone(), Compare::Absent { key: SETTINGS.to_owned() }]));
        let key = |op: &Op| match op {
            Op::Put { key, .. } | Op::Delete { key } => key.clone(),
        };
        let keys: Vec<String> = txns.iter().flat_map(|t| &t.ops).map(key).collect();
        assert_eq!(keys.len(), 1 + 300 + 2 + 3);
        assert_eq!(
            (keys[0].as_str(), &keys[keys.len() - 2..]),
            ("group-instances/9", ["epoch".to_owned(), "settings".to_owned()].as_slice())
        );
        let ours: Vec<&String> = keys.iter().filter(|k| of_the_control_plane(k)).collect();
        assert_eq!(ours, ["audit/00000000000000000003"], "this import's own");
        let last = txns.last().expect("some").ops[1].clone();
        let Op::Put { value, .. } = last else { panic!("{last:?}") };
        assert!(value.starts_with(r#"{"epoch":7,"unfolded":[{"#), "{value}");
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        for (key, value, word) in [
            ("settings", None, "settings is missing"),
            ("epoch", None, "epoch is missing"),
            ("epoch", Some("{"), "epoch:"),
            ("group-instances/1", None, "owner 1 is not a group"),
            ("group-instances/1", Some(r#"{"group_id":3,"primary":"10.0.0.1:1"}"#), "its group_id is 3"),
            ("slot-to-group-mapping/slot5", Some(r#"{"slot_id":6,"group_id":1}"#), "its slot_id is 6"),
            ("slot-to-group-mapping/slot301", Some(r#"{"slot_id":301,"group_id":1}"#), "not within 0-299"),
            ("something", Some("{}"), "something is no key"),
        ] {
            let export = export(|all| {
                all.remove(key);
                all.extend(value.map(|v| (key.to_owned(), v.to_owned())));
            });
            let problem = Plan::read(&export).err().unwrap_or_else(|| panic!("{key} {value:?} was taken"));
            assert!(problem.error.message.contains(word), "{key}: {}", problem.error.message);
        }
    }
}
