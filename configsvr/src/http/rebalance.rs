//! `rebalance`: measures what is to be spread, and makes up the migrations that spread it. Measuring is here and in
//! `mover::survey`; what follows from it is reckoned in `control`, from that alone.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use super::Api;
use super::change::change;
use super::extract::{Said, Terms};
use super::limits::{COUNT_SECONDS, COUNT_SECONDS_DEFAULT, INSTANCES_MAX};
use super::problem::{ChangeProblems, Problem};
use super::traffic;
use super::words::{Answer, DryRun, IdempotencyKey, Rebalance, Rebalanced};
use crate::agent::link::Access;
use crate::control::balance::{Balance, Move, Rules, balance};
use crate::control::command::{Command, NewMove, NewMoves};
use crate::control::limits::MOVES_AT_ONCE;
use crate::control::look::Verdict;
use crate::control::measure::{
    By, Costs, Counted, Measured, Memory, Room, Sample, coming, costs, estimate, lack, speed,
};
use crate::control::repeated;
use crate::control::task::{Limits, Mode, TaskPhase};
use crate::control::view::View;
use crate::mover::survey::{self, Depth, Place};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cluster::group::{Group, GroupId};
use cluster::instance::Addr;
use cluster::topology::Topology;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What was measured by a sample is about so much off.
const SLACK_PERCENT: u64 = 2;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(rebalance))
}

/// Who should own which slots, and the migrations that lead there; what it goes by is measured now. Only with `apply` are
/// they begun: this very plan, or nothing where the topology has changed meanwhile.
#[utoipa::path(post, path = "/api/v1/rebalance", tag = "migrations", params(DryRun, IdempotencyKey),
    request_body = Rebalance,
    responses((status = 200, description = "the plan; begun with `apply`", body = Rebalanced), ChangeProblems))]
async fn rebalance(
    State(api): State<Arc<Api>>,
    terms: Terms,
    Said(new): Said<Rebalance>,
) -> Result<Json<Rebalanced>, Problem> {
    // One view for both: between two of them it might have been begun, and would neither be found nor be left to plan.
    let view = api.desk.view.borrow().clone();
    if new.apply && !terms.dry_run {
        let same = Command::StartMigrations(NewMoves { planned_for: Some(json!(new)), ..NewMoves::default() });
        if let Some(done) = repeated(&view.audit, &terms.who, terms.idempotency_key.as_deref(), &same)? {
            return Ok(Json(told_again(new.by, &done)));
        }
    }
    let Ok(_one) = api.surveys.try_acquire() else {
        return Err(Problem::busy("somebody else measures at the moment, and instances should not feel it"));
    };
    let mut plan = plan(&api, view, &new).await?;
    if !new.apply || terms.dry_run || plan.balance.moves.is_empty() {
        return Ok(Json(plan));
    }
    if new.imagined.is_some() {
        let hint = "add it first: POST /api/v1/groups";
        return Err(Problem::invalid("imagined", "a group that is not there gets no slots", hint));
    }
    if let Some(room) = plan.room.iter().find(|room| !room.enough && !new.force) {
        return Err(no_room(room));
    }
    let moves = plan.balance.moves.iter().map(whole).collect();
    let planned_for = Some(json!(new));
    let Rebalance { window, skip_audit, force, .. } = new;
    let limits = new.limits.at_first();
    let mode = Mode::Copy;
    let wish = NewMoves { moves, mode, limits, window, epoch: Some(plan.epoch), skip_audit, force, planned_for };
    let Json(done) = change(&api, terms, Command::StartMigrations(wish)).await?;
    if done.repeated {
        return Ok(Json(told_again(new.by, &done))); // it was begun while this one measured
    }
    plan.begun = tasks(&done).filter_map(|task| task["id"].as_u64()).collect();
    Ok(Json(plan))
}

fn tasks(done: &Answer) -> impl Iterator<Item = &Value> {
    done.result["migrations"].as_array().into_iter().flatten()
}

/// What was begun the first time.
fn told_again(by: By, done: &Answer) -> Rebalanced {
    let one = |task: &Value| -> Option<Move> {
        let group = |side: &str| serde_json::from_value(task[side].clone()).ok();
        // A very long list of slots was not kept.
        let slots = serde_json::from_value(task["slots"].clone()).unwrap_or_default();
        Some(Move { from: group("from")?, to: group("to")?, slots })
    };
    Rebalanced {
        epoch: done.epoch,
        by,
        balance: Balance { moves: tasks(done).filter_map(one).collect(), shares: Vec::new() },
        measured: Measured::default(),
        estimate: None,
        room: Vec::new(),
        notes: vec!["this was begun before, under the same key: nothing was measured again".to_owned()],
        begun: tasks(done).filter_map(|task| task["id"].as_u64()).collect(),
        repeated: true,
    }
}

fn whole(one: &Move) -> NewMove {
    NewMove { from: one.from, to: one.to, slots: one.slots.clone(), count: None }
}

fn no_room(room: &Room) -> Problem {
    let (max, host) = if room.of_host { (0, room.most_bytes) } else { (room.most_bytes.unwrap_or(0), None) };
    let memory = Memory { used_bytes: room.used_bytes.unwrap_or(0), max_bytes: max, host_bytes: host };
    let (what, hint) = lack(&room.addr, &memory, room.coming_bytes);
    let message = format!("group {}: {what}", room.group);
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_room", message, format!("{hint}; or say force"))
}

/// What a plan is made for.
struct Ground {
    view: Arc<View>,
    topology: Arc<Topology>,
    /// Of each slot, once what is under way is done.
    owners: Vec<Option<GroupId>>,
    rules: Rules,
    limits: Limits,
    /// The instances of a group that is yet to be added.
    imagined: Option<(GroupId, Vec<Addr>)>,
}

impl Ground {
    fn of(view: Arc<View>, new: &Rebalance) -> Result<Self, Problem> {
        let topology = view.topology.clone().ok_or_else(Problem::no_cluster)?;
        if new.imagined.as_ref().is_some_and(|group| group.instances.len() > INSTANCES_MAX) {
            let message = format!("a group of more than {INSTANCES_MAX} instances");
            return Err(Problem::invalid("too_large", message, "add its replicas later"));
        }
        let imagined = new.imagined.as_ref().map(|group| (group.id, group.instances.clone()));
        let known = topology.groups().iter().map(|g| g.id).chain(imagined.iter().map(|(id, _)| *id));
        let mut weights: BTreeMap<GroupId, u32> = known.map(|id| (id, 1)).collect();
        let named = new.weights.keys().chain(&new.givers).chain(&new.takers);
        if let Some(group) = named.into_iter().find(|group| !weights.contains_key(*group)) {
            let hint = "see GET /api/v1/groups";
            return Err(Problem::absent("no_such_group", format!("there is no group {group}"), hint));
        }
        weights.extend(&new.weights);
        if weights.values().all(|w| *w == 0) {
            let hint = "give one of them a weight above 0";
            return Err(Problem::new(StatusCode::CONFLICT, "no_takers", "no group would keep its slots", hint));
        }
        let mut owners: Vec<_> = topology.slots().iter().map(|s| s.group).collect();
        let mut fixed = BTreeSet::new();
        for task in view.migrations.iter().map(|m| &m.task).filter(|t| !t.phase.is_over()) {
            let arrives = !task.cancelled && task.phase != TaskPhase::Undo;
            for slot in task.slots() {
                fixed.insert(slot);
                if let Some(owner) = owners.get_mut(usize::from(slot)).filter(|_| arrives) {
                    *owner = Some(task.to);
                }
            }
        }
        let slack_percent = if new.by == By::Slots { 0 } else { SLACK_PERCENT };
        let (givers, takers) = (new.givers.iter().copied().collect(), new.takers.iter().copied().collect());
        let rules = Rules { weights, fixed, givers, takers, slack_percent };
        Ok(Self { view, topology, owners, rules, limits: new.limits.at_first(), imagined })
    }

    /// Whom to ask about a group's keys: replicas that are in step, and the primary where none is.
    fn place(&self, group: &Group) -> Option<Place> {
        let in_step = |addr: &Addr| {
            let seen = self.view.instances.iter().find(|i| i.addr == *addr);
            seen.is_some_and(|i| i.verdict == Verdict::Up && i.link_up == Some(true))
        };
        Some(Place {
            group: group.id,
            replicas: group.replicas().map(|r| r.addr.clone()).filter(in_step).collect(),
            primary: group.primary()?.addr.clone(),
            slot_count: self.topology.slot_count(),
            tag_rule: self.topology.tag_rule(),
        })
    }

    /// Samples of these groups, or of those that own slots, and who could not be asked.
    async fn survey(&self, of: &BTreeSet<GroupId>, depth: Depth, access: &Access) -> Surveyed {
        // As it is now: a slot that is under way is still at its source.
        let owning: BTreeSet<GroupId> = self.topology.slots().iter().filter_map(|s| s.group).collect();
        let groups = self.topology.groups().iter().filter(|g| owning.contains(&g.id) && of.contains(&g.id));
        let places: Vec<Place> = groups.filter_map(|group| self.place(group)).collect();
        let asked = join_all(places.iter().map(|place| survey::survey(place, depth, access))).await;
        let mut all = Surveyed::default();
        for (place, said) in places.iter().zip(asked) {
            match said {
                Ok(sample) => all.samples.push(sample),
                Err(why) => all.silent.push((place.group, why)),
            }
        }
        all
    }

    fn costs(&self, samples: &[Sample]) -> Costs {
        let now: Vec<_> = self.topology.slots().iter().map(|s| s.group).collect();
        costs(samples, &now)
    }

    /// The instances of a group, its primary first.
    fn instances(&self, group: GroupId) -> Vec<Addr> {
        if let Some((_, instances)) = self.imagined.as_ref().filter(|(id, _)| *id == group) {
            return instances.clone();
        }
        let Some(group) = self.topology.group(group) else { return Vec::new() };
        group.primary().into_iter().chain(group.replicas()).map(|i| i.addr.clone()).collect()
    }
}

/// What walks over keys brought.
#[derive(Default)]
struct Surveyed {
    samples: Vec<Sample>,
    silent: Vec<(GroupId, String)>,
}

async fn plan(api: &Api, view: Arc<View>, new: &Rebalance) -> Result<Rebalanced, Problem> {
    let begun = Instant::now();
    let ground = Ground::of(view, new)?;
    let access = api.instances.as_deref().ok_or_else(|| {
        Problem::unavailable("no_instances", "this member has no way to instances", "ask another member")
    })?;
    let all = ground.rules.weights.keys().copied().collect();
    let (mut surveyed, mut ops) = (Surveyed::default(), None);
    let balance = match new.by {
        By::Slots => balance(&ground.owners, &vec![1; ground.owners.len()], &ground.rules),
        By::Keys | By::Memory => {
            let depth = if new.by == By::Keys { Depth::KEYS } else { Depth::MEMORY };
            surveyed = ground.survey(&all, depth, access).await;
            if let Some((group, why)) = surveyed.silent.first() {
                return Err(unmeasured(new.by, *group, why));
            }
            let costs = ground.costs(&surveyed.samples);
            let loads = if new.by == By::Keys { &costs.keys } else { &costs.bytes };
            balance(&ground.owners, loads, &ground.rules)
        }
        By::Ops => {
            let (requests, counted) = count(api, new.seconds, ground.owners.len()).await?;
            let balance = balance(&ground.owners, &requests, &ground.rules);
            let balance = per_second(balance, counted.window_ms);
            ops = Some(counted);
            balance
        }
    };
    let giving: BTreeSet<GroupId> = balance.moves.iter().map(|one| one.from).collect();
    if matches!(new.by, By::Slots | By::Ops) {
        surveyed = ground.survey(&giving, Depth::GLANCE, access).await;
    }
    let mut notes: Vec<String> = surveyed.silent.iter().map(|(group, why)| unknown(*group, why)).collect();
    let (balance, left) = bounded(balance);
    notes.extend(left);
    let costs = ground.costs(&surveyed.samples);
    let room = room(&ground, &balance, &costs, access, &mut notes).await;
    let told = surveyed.silent.is_empty();
    let speed = speed(ground.view.migrations.iter().map(|m| &m.task));
    let estimate = told.then(|| estimate(&balance.moves, &costs, &ground.limits, speed));
    let samples = surveyed.samples.into_iter().map(|sample| sample.told).collect();
    let measured = Measured { age_ms: begun.elapsed().as_millis() as u64, samples, ops };
    let (epoch, by) = (ground.topology.epoch(), new.by);
    Ok(Rebalanced { epoch, by, balance, measured, estimate, room, notes, begun: Vec::new(), repeated: false })
}

fn unmeasured(by: By, group: GroupId, why: &str) -> Problem {
    let message = format!("the {} of group {group} cannot be measured: {why}", by.word());
    let hint = "bring one of its instances back, or go by slots";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not_measured", message, hint)
}

fn unknown(group: GroupId, why: &str) -> String {
    format!("how much moves is unknown, and so is whether there is room: nobody of group {group} could be asked: {why}")
}

/// One transaction begins so many migrations.
fn bounded(mut balance: Balance) -> (Balance, Option<String>) {
    let all = balance.moves.len();
    balance.moves.truncate(MOVES_AT_ONCE);
    let note = format!("these are the first {MOVES_AT_ONCE} of {all} moves; when they are done, the same again");
    (balance, (all > MOVES_AT_ONCE).then_some(note))
}

/// Requests of the window as requests a second.
fn per_second(mut balance: Balance, window_ms: u64) -> Balance {
    for share in &mut balance.shares {
        for load in [&mut share.load_before, &mut share.load_after] {
            *load = load.saturating_mul(1000) / window_ms.max(1);
        }
    }
    balance
}

/// Counts the requests of each slot for a while.
async fn count(api: &Api, seconds: Option<u64>, slots: usize) -> Result<(Vec<u64>, Counted), Problem> {
    let seconds = seconds.unwrap_or(COUNT_SECONDS_DEFAULT);
    if !COUNT_SECONDS.contains(&seconds) {
        let message = format!("requests are counted for {} to {} s", COUNT_SECONDS.start(), COUNT_SECONDS.end());
        return Err(Problem::invalid("bad_seconds", message, "5 s tell enough where there is traffic"));
    }
    let first = traffic::counts(api).await?;
    let begun = Instant::now();
    sleep(Duration::from_secs(seconds)).await;
    let second = traffic::counts(api).await?;
    let window_ms = begun.elapsed().as_millis() as u64;
    let mut requests = vec![0u64; slots];
    for (id, then) in &first {
        let Some(now) = second.get(id).filter(|now| now.started_ms.abs_diff(then.started_ms) < 1000) else {
            let message =
                format!("the ops cannot be measured: proxy {id} went, or began anew, while they were counted");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not_measured", message, "try again"));
        };
        for (sum, (now, then)) in requests.iter_mut().zip(now.requests.iter().zip(&then.requests)) {
            *sum += now.saturating_sub(*then);
        }
    }
    let all = requests.iter().sum();
    if all == 0 {
        let message = format!("the ops cannot be measured: no proxy had a request for a key within {seconds} s");
        let hint = "try while there is traffic, count for longer, or go by keys";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not_measured", message, hint));
    }
    Ok((requests, Counted { window_ms, requests: all, proxies: first.into_keys().collect() }))
}

/// Whether what comes fits, at every instance that it comes to.
async fn room(ground: &Ground, plan: &Balance, costs: &Costs, access: &Access, notes: &mut Vec<String>) -> Vec<Room> {
    let mut all = Vec::new();
    for (group, bytes) in coming(&plan.moves, costs) {
        let instances = ground.instances(group);
        let asked = join_all(instances.iter().map(|addr| survey::memory(addr, access))).await;
        for (at, (addr, said)) in instances.into_iter().zip(asked).enumerate() {
            if let Err(why) = &said {
                notes.push(format!("whether group {group} has room is not known of one instance: {why}"));
            }
            all.push(Room::of(group, addr, at == 0, bytes, said.ok()));
        }
    }
    all
}
