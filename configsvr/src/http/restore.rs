//! `store/import`: a whole store at once, from what `store/export` gave, into a store without a cluster. So a cluster moves
//! from one back end to another, and comes back from a backup.
//!
//! All of it is seen at once, or nothing: where one transaction takes it all, it is one (slots go into `epoch` as
//! `unfolded`, as with any change of many). Otherwise the first puts the mark `restoring`, under which nobody takes groups
//! for a cluster, and the last takes it away; if this member dies in between, the next leader removes what is there.
//!
//! What belongs to the control plane that was exported (its leader, its members, the proxies it heard of) stays out, and so
//! does its audit trail: its keys are revisions of another store.

use super::Api;
use super::clock::time_ms;
use super::documented::AnswerWord;
use super::extract::{Said, Terms};
use super::limits::IMPORT_LIMIT;
use super::problem::{ChangeProblems, Problem};
use super::words::{Answer, DryRun, EXPORT_FORMAT, Export, IdempotencyKey};
use crate::control::layout::{
    self, AUDIT, Audit, EPOCH, Epoch, FAILOVERS, GROUPS, GUARDS, LEADER, PROXIES, RESTORING, ROSTER, Restoring,
    SETTINGS, SLOTS, Settings, SlotEntry, Token,
};
use crate::control::ranges;
use crate::control::task::{TASKS, Task, TaskPhase};
use crate::store::{Compare, Op, Snapshot, TXN_MAX, Txn, Verdict};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cluster::group::{Group, GroupId};
use cluster::instance::{Instance, Role};
use cluster::slot::{Slot, crc32};
use cluster::wire::{self, Message};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::timeout;
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
    if let Some(answer) = done_before(&api, &terms, &plan.command(&export))? {
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
        let token = fence.token;
        let audit = plan.audit(terms, &export, &answer);
        let txns = plan.transactions(&fence, &there, &audit, Restoring { token, begun: time_ms(), given_up: false });
        // Not ended by a caller that goes away.
        let written = tokio::spawn(timeout(IMPORT_LIMIT, write_all(api, txns))).await;
        let slow =
            || Problem::unavailable("too_slow", "the store takes too long", "look at the store, and import again");
        written.map_err(|_| slow())?.map_err(|_| slow())??;
    }
    Ok(Json(answer))
}

async fn write_all(api: Arc<Api>, txns: Vec<Txn>) -> Result<(), Problem> {
    for txn in txns {
        write(&api, txn).await?;
    }
    Ok(())
}

/// The answer that this very call was given before.
fn done_before(api: &Api, terms: &Terms, command: &Value) -> Result<Option<Answer>, Problem> {
    let Some(key) = terms.idempotency_key.as_ref() else { return Ok(None) };
    let view = api.desk.view.borrow().clone();
    let same = |a: &Audit| a.idempotency_key.as_ref() == Some(key) && a.who == terms.who;
    let Some((_, audit)) = view.audit.iter().find(|(_, audit)| same(audit)) else { return Ok(None) };
    if audit.command != *command {
        let message = format!("idempotency key {key:?} was used for another change ({})", audit.what);
        return Err(Problem::new(StatusCode::CONFLICT, "key_reused", message, "a new request needs a new key"));
    }
    let answer: Option<Answer> = serde_json::from_value(audit.answer.clone()).ok();
    Ok(answer.map(|answer| Answer { repeated: true, ..answer }))
}

/// What must be true for each write: that this member leads.
struct Fence {
    token: Token,
    compare: Compare,
}

async fn fence(api: &Api) -> Result<Fence, Problem> {
    let nobody = || Problem::unavailable("no_leader", "this member does not lead any more", "try again in a second");
    let token = api.desk.view.borrow().token.ok_or_else(nobody)?;
    let entry = api.store.get(LEADER).await?.ok_or_else(nobody)?;
    let leader: Option<layout::Leader> = serde_json::from_str(&entry.value).ok();
    if leader.is_none_or(|l| l.token != token) {
        return Err(nobody());
    }
    Ok(Fence { token, compare: Compare::ValueIs { key: LEADER.to_owned(), value: entry.value } })
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
        if let Some(task) = tasks(&rest).find(|task| task.phase == TaskPhase::Fetch) {
            let message =
                format!("migration {} moves keys on access: some are at its source, some at its target", task.id);
            let hint = "let it end, and export again";
            return Err(Problem::new(StatusCode::CONFLICT, "not_at_rest", message, hint));
        }
        rest.retain(|key, _| !of_the_control_plane(key));
        topology(&parse(SETTINGS, &settings)?, &epoch, &rest)?;
        Ok(Self { settings, epoch, rest })
    }

    fn answer(&self) -> Answer {
        let keys = self.rest.len() + 2;
        let left_out = "its leader, members and proxies, guards, failovers, migrations and audit trail were left out";
        let notes = vec![left_out.to_owned()];
        Answer { epoch: self.epoch.epoch, result: json!({ "keys": keys }), notes, repeated: false }
    }

    /// The export in short: another one is another command.
    fn command(&self, export: &Export) -> Value {
        let sum = crc32(json!([self.settings, self.epoch, self.rest]).to_string().as_bytes());
        json!({ "command": "store_import", "store": export.store, "revision": export.revision, "sum": sum })
    }

    fn audit(&self, terms: Terms, export: &Export, answer: &Answer) -> Audit {
        Audit {
            at: time_ms(),
            who: terms.who,
            what: WHAT.to_owned(),
            command: self.command(export),
            epoch_before: 0,
            epoch_after: answer.epoch,
            before: Value::Null,
            after: answer.result.clone(),
            idempotency_key: terms.idempotency_key,
            answer: json!(answer),
        }
    }

    /// Each holds only while this member leads and there is no cluster. Only the last makes one.
    fn transactions(&self, fence: &Fence, there: &Snapshot, audit: &Audit, mark: Restoring) -> Vec<Txn> {
        let compares = [fence.compare.clone(), absent(SETTINGS), absent(EPOCH)];
        let groups = self.rest.iter().filter(|(key, _)| key.starts_with(GROUPS));
        let groups: Vec<Op> = groups.map(|(key, value)| put(key, value)).collect();
        let stale = there.entries.iter().map(|e| &e.key).filter(|key| known(key));
        let stale: Vec<Op> = stale.map(|key| Op::Delete { key: key.clone() }).collect();
        let last = vec![
            put(&layout::audit_key(there.revision), &json!(audit).to_string()),
            put(EPOCH, &json!(self.all_unfolded()).to_string()),
            put(SETTINGS, &self.settings),
        ];
        let marked = there.entries.iter().find(|e| e.key == RESTORING);
        if marked.is_none() && stale.is_empty() {
            let unwritten =
                [SLOTS, GROUPS].map(|p| Compare::UnwrittenSince { prefix: p.to_owned(), revision: there.revision });
            let compares = [&compares[..], &unwritten, &[absent(RESTORING)]].concat();
            let whole = Txn { compares, ops: [&groups[..], &last].concat() };
            if whole.check().is_ok() {
                return vec![whole];
            }
        }
        // The mark goes from hand to hand: of two that load at once, one gets on.
        let mark = json!(mark).to_string();
        let was = marked.map_or_else(|| absent(RESTORING), |e| value_is(RESTORING, &e.value));
        let mut txns = vec![Txn { compares: [&compares[..], &[was]].concat(), ops: vec![put(RESTORING, &mark)] }];
        let compares = [&compares[..], &[value_is(RESTORING, &mark)]].concat();
        let with = |ops: Vec<Op>| Txn { compares: compares.clone(), ops };
        // A group has 16 instances at most: so many of them are never too much for one transaction.
        txns.extend(stale.chunks(TXN_MAX).chain(groups.chunks(TXN_MAX)).map(|ops| with(ops.to_vec())));
        txns.push(with([&last[..], &[Op::Delete { key: RESTORING.to_owned() }]].concat()));
        txns
    }

    /// The epoch's record with all slots in it; the leader writes them to their own keys afterwards.
    fn all_unfolded(&self) -> Epoch {
        let mut owners: BTreeMap<Slot, Option<GroupId>> = BTreeMap::new();
        for (key, value) in self.rest.iter().filter(|(key, _)| key.starts_with(SLOTS)) {
            let Ok(entry) = parse::<SlotEntry>(key, value) else { continue }; // was read before
            let slot = entry.slot_id.checked_sub(1).and_then(|s| Slot::try_from(s).ok());
            owners.extend(slot.map(|slot| (slot, (entry.group_id != 0).then_some(entry.group_id))));
        }
        for range in &self.epoch.unfolded {
            owners.extend((range.from..=range.to).map(|slot| (slot, range.group)));
        }
        Epoch { unfolded: ranges(owners), ..self.epoch.clone() }
    }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned(), value: value.to_owned(), lease: None }
}

fn absent(key: &str) -> Compare {
    Compare::Absent { key: key.to_owned() }
}

fn value_is(key: &str, value: &str) -> Compare {
    Compare::ValueIs { key: key.to_owned(), value: value.to_owned() }
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

/// Migrations of an export, as far as they can be read: they are not imported.
fn tasks(all: &BTreeMap<String, String>) -> impl Iterator<Item = Task> {
    let of_tasks = all.iter().filter(|(key, _)| key.starts_with(TASKS));
    of_tasks.filter_map(|(_, value)| serde_json::from_str(value).ok())
}

fn of_the_control_plane(key: &str) -> bool {
    key == LEADER
        || key == RESTORING
        || [PROXIES, ROSTER, AUDIT, GUARDS, FAILOVERS, TASKS, "members/"].iter().any(|prefix| key.starts_with(prefix))
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
    let Settings { name, slot_count, tag_rule, users, .. } = settings.clone();
    let message = Message { epoch: epoch.epoch, name, slot_count, tag_rule, groups, slots, users };
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
    Ok(Group { id: group.group_id, name: group.group_name, instances, copies: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::event::{Action, Event, Leadership};
    use crate::control::layout::Leader;
    use crate::control::limits::RESTORE_MS;
    use crate::control::{Control, Member};
    use crate::http::words::Exported;
    use crate::store::memory::Memory;
    use crate::store::{Entry, Notice, Store};
    use std::collections::VecDeque;

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

    fn fence() -> Fence {
        let leader = Leader { token: TOKEN, member: "m".to_owned(), addr: "127.0.0.1:1".to_owned() };
        Fence { token: TOKEN, compare: value_is(LEADER, &json!(leader).to_string()) }
    }

    fn made(export: &Export, there: &Snapshot) -> Vec<Txn> {
        let plan = Plan::read(export).expect("fit");
        let terms = Terms { who: "ann".to_owned(), dry_run: false, idempotency_key: Some("k".to_owned()) };
        let audit = plan.audit(terms, export, &plan.answer());
        plan.transactions(&fence(), there, &audit, Restoring { token: TOKEN, begun: 1_000, given_up: false })
    }

    fn keys(txns: &[Txn]) -> Vec<&str> {
        txns.iter().flat_map(|t| &t.ops).map(Op::key).collect()
    }

    const TOKEN: Token = Token { term: 1, member: 1 };

    #[test]
    fn what_one_transaction_takes_is_one() {
        let own = Entry { key: LEADER.to_owned(), value: String::new(), modified: 1, lease: None };
        let txns = made(&export(|_| ()), &Snapshot { revision: 3, entries: vec![own] });
        let all = ["group-instances/1", "group-instances/2", "audit/00000000000000000003", "epoch", "settings"];
        assert_eq!((txns.len(), keys(&txns)), (1, all.to_vec()));
        let Op::Put { value, .. } = &txns[0].ops[3] else { panic!("{txns:?}") };
        let written: Epoch = serde_json::from_str(value).expect("an epoch");
        let range = |from, to, group| layout::SlotRange { from, to, group: Some(group) };
        assert_eq!((written.epoch, written.unfolded), (7, vec![range(0, 1, 2), range(2, 299, 1)]));
        assert!(txns[0].compares.contains(&fence().compare) && txns[0].compares.contains(&absent(SETTINGS)));
    }

    /// Some 500 groups of 2000 slots.
    fn large() -> Export {
        export(|all| {
            all.insert("settings".to_owned(), r#"{"name":"shop","slot_count":2000}"#.to_owned());
            all.extend((1..=500).map(|n| {
                let at = format!("10.1.{}.{}:1", n / 250, n % 250);
                (format!("{GROUPS}{n}"), format!(r#"{{"group_id":{n},"primary":"{at}"}}"#))
            }));
            all.extend((1..=2000).map(|n| {
                let group = n % 500 + 1;
                (format!("{SLOTS}{n}"), format!(r#"{{"slot_id":{n},"group_id":{group},"action":{{}}}}"#))
            }));
        })
    }

    /// A member and the store it writes to; what the member wants written is done at once.
    struct World {
        store: Memory,
        control: Control,
        now: u64,
    }

    impl World {
        async fn snapshot(&self) -> Snapshot {
            self.store.range("").await.expect("an answer")
        }

        async fn tell(&mut self, event: Event) {
            let mut events = VecDeque::from([event]);
            while let Some(event) = events.pop_front() {
                for action in self.control.step(self.now, self.now, event) {
                    let Action::Write { deed, txn } = action else { continue };
                    let outcome = self.store.commit(txn).await;
                    events.push_back(Event::Committed(Notice::Listed(self.snapshot().await)));
                    events.push_back(Event::Wrote { deed, outcome });
                }
            }
        }
    }

    /// The leader has written so much of it (begun at 1,000) when another takes over, a process that began at `now`.
    async fn cut_short(txns: &[Txn], leader: Token, now: u64) -> World {
        let store = Memory::new();
        let Compare::ValueIs { key, value } = fence().compare else { panic!("a value") };
        store.commit(Txn { compares: vec![], ops: vec![put(&key, &value)] }).await.expect("done");
        for txn in txns {
            assert!(matches!(store.commit(txn.clone()).await, Ok(Verdict::Done(_))), "{txn:?}");
        }
        let control = Control::new(Member { name: "n".to_owned(), addr: "127.0.0.1:2".to_owned() }, 7);
        let mut world = World { store, control, now };
        world.tell(Event::Committed(Notice::Listed(world.snapshot().await))).await;
        assert_eq!(world.control.view(0).invalid, Vec::<String>::new(), "after {} transactions", txns.len());
        assert!(world.control.view(0).topology.is_none());
        world.tell(Event::Leadership(Leadership::Leading(leader))).await;
        world
    }

    /// Wherever it is cut short: nobody sees a part of it, and nothing of it stays.
    #[tokio::test]
    async fn no_part_is_ever_seen() {
        let empty = Snapshot { revision: 1, entries: vec![] };
        let txns = made(&large(), &empty);
        assert!(txns.len() > 4 && txns.iter().all(|t| t.check().is_ok()), "{}", txns.len());
        for done in 0..txns.len() {
            let world = cut_short(&txns[..done], Token { term: 2, member: 2 }, 2_000).await;
            let left = world.snapshot().await.entries;
            assert_eq!(left.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), [LEADER], "after {done}");
            // What the first leader still sends is in vain.
            for late in &txns[done..] {
                assert!(matches!(world.store.commit(late.clone()).await, Ok(Verdict::Refused(_))));
            }
        }
        let world = cut_short(&txns, Token { term: 2, member: 2 }, 2_000).await;
        let topology = world.control.view(0).topology.expect("a cluster");
        assert_eq!((topology.groups().len(), topology.epoch()), (500, 8), "edited: its sum is not in the export");
        let all = world.snapshot().await.entries;
        assert_eq!(all.iter().filter(|e| e.key.starts_with(SLOTS)).count(), 2000, "all are at their own keys");
        assert!(!all.iter().any(|e| e.key == RESTORING));
    }

    /// The same leader goes on: nothing is removed under the hands of whoever writes, until nobody can be.
    #[tokio::test]
    async fn a_load_under_way_is_left_alone() {
        let txns = made(&large(), &Snapshot { revision: 1, entries: vec![] });
        let mut world = cut_short(&txns[..3], TOKEN, 900).await;
        let there = world.snapshot().await;
        world.tell(Event::Tick).await;
        assert_eq!(world.snapshot().await.entries.len(), there.entries.len());
        // Begun anew, it removes what is there first.
        let again = made(&large(), &there);
        assert_eq!(keys(&again).len(), keys(&txns).len() + there.entries.len() - 2);
        world.now += RESTORE_MS + 1_000;
        world.tell(Event::Tick).await;
        assert_eq!(world.snapshot().await.entries.len(), 1);
        assert!(matches!(world.store.commit(txns[3].clone()).await, Ok(Verdict::Refused(_))));
    }

    /// A member that starts again may lead again under its old token.
    #[tokio::test]
    async fn a_load_of_an_earlier_process_is_cleared_at_once() {
        let txns = made(&large(), &Snapshot { revision: 1, entries: vec![] });
        let world = cut_short(&txns[..3], TOKEN, 1_001).await;
        assert_eq!(world.snapshot().await.entries.len(), 1);
    }

    const FETCHING: &str = r#"{"id":9,"from":1,"to":2,"slots":[{"from":0,"to":1}],"mode":"on_access","state":3,
        "phase":"fetch","times":{"created":1}}"#;

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
            ("migration-tasks/00000000000000000009", Some(FETCHING), "migration 9 moves keys on access"),
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
