//! From a command to the transaction that does it, judged against what is committed. Nothing here is remembered: a plan
//! that the store refuses is simply made again.

mod migrations;
mod there;

pub(super) use there::{Plan, covered, shortened};

use super::command::{Command, Kind, MemberChange, NewInstance, Refusal};
use super::failover::{self, Begin};
use super::fitness::{self, Fit, Sightings, Wanted};
use super::layout::{self, Epoch, FailoverKind, Guard, Restoring, Settings, SlotRange};
use super::lead::Fence;
use super::limits::{EPOCH_MAX, HANG_RANGE_MS, ID_MAX, PROXY_TTL_S, SLOTS_AT_ONCE};
use super::out::refusal;
use super::state::{Standing, State};
use super::stored::ranges;
use crate::store::{Op, Txn};
use cluster::change::{self, Assignment, Change};
use cluster::group::{Group, GroupId};
use cluster::instance::{Addr, Instance, Role};
use cluster::slot::{SLOT_COUNT_MAX, TagRule};
use cluster::user::User;
use cluster::wire;
use serde_json::{Value, json};
use there::{There, between, is_sound, not_failing_over, put, put_slot, refused};

/// The command's name in the audit.
pub(super) fn what(command: &Command) -> &'static str {
    match command {
        Command::CreateCluster { .. } => "cluster.create",
        Command::Import { .. } => "cluster.import",
        Command::Settings { .. } => "settings.change",
        Command::Guard { .. } => "groups.guard",
        Command::Maxmemory { .. } => "groups.maxmemory",
        Command::Member { change: MemberChange::Add, .. } => "members.add",
        Command::Member { change: MemberChange::Promote, .. } => "members.promote",
        Command::Member { change: MemberChange::Remove, .. } => "members.remove",
        Command::GuardInstance { .. } => "instances.guard",
        Command::Switchover { .. } => "groups.switchover",
        Command::Failover { .. } => "groups.failover",
        Command::AddGroup { .. } => "groups.add",
        Command::RemoveGroup { .. } => "groups.remove",
        Command::RenameGroup { .. } => "groups.rename",
        Command::AddInstance { .. } => "instances.add",
        Command::RemoveInstance { .. } => "instances.remove",
        Command::FollowPrimary { .. } => "instances.follow",
        Command::AssignSlots { .. } => "slots.assign",
        Command::SpreadSlots { .. } => "slots.spread",
        Command::StartMigrations(_) => "migrations.start",
        Command::SteerMigration { .. } => "migrations.steer",
        Command::ReverseMigration { .. } => "migrations.reverse",
        Command::SetUser { .. } => "users.set",
        Command::RemoveUser { .. } => "users.remove",
        Command::DrainProxy { .. } => "proxies.drain",
        Command::RemoveProxy { .. } => "proxies.remove",
    }
}

/// Instances that must be looked at before the command can be judged.
pub(super) fn probes(command: &Command) -> Vec<Addr> {
    match command {
        Command::AddGroup { primary, replicas, .. } => {
            std::iter::once(primary).chain(replicas).map(|i| i.addr.clone()).collect()
        }
        Command::AddInstance { instance, .. } => vec![instance.addr.clone()],
        Command::Import { topology, probe: true, .. } => {
            topology.groups.iter().flat_map(|g| &g.instances).map(|i| i.addr.clone()).collect()
        }
        _ => Vec::new(),
    }
}

/// The plan; or why not. Before anything was probed (`seen`: None) it tells what is wrong anyway, and is not to be done.
pub(super) fn plan(state: &State, command: &Command, seen: Option<&Sightings>, wall: u64) -> Result<Plan, Refusal> {
    let there = || There::of(state);
    match command {
        Command::CreateCluster { name, slot_count, tag_rule } => create(state, name, *slot_count, *tag_rule),
        Command::Import { topology, replace, .. } => import(state, topology, *replace, seen),
        Command::Settings { proxy_ttl_s, automation_paused } => settings(&there()?, *proxy_ttl_s, *automation_paused),
        Command::Maxmemory { group, bytes } => maxmemory(&there()?, *group, *bytes),
        Command::Member { .. } => Ok(there()?.same()),
        Command::Guard { group, hang_ms, maintenance } => guard(&there()?, *group, *hang_ms, *maintenance),
        Command::GuardInstance { group, addr, prefer, never } => {
            guard_instance(&there()?, *group, addr, *prefer, *never)
        }
        Command::Switchover { group, to } => replace_primary(&there()?, *group, to.as_ref(), true, wall),
        Command::Failover { group, to } => replace_primary(&there()?, *group, to.as_ref(), false, wall),
        Command::AddGroup { id, name, primary, replicas, take_data } => {
            let mut instances = vec![new_instance(primary, Role::Primary)];
            instances.extend(replicas.iter().map(|r| new_instance(r, Role::Replica)));
            let id = id.unwrap_or_else(|| state.in_force.as_ref().map_or(1, |now| change::free_id(&now.known)));
            let group = Group { id, name: name.clone().unwrap_or_default(), instances, copies: false };
            add_group(&there()?, group, *take_data, seen)
        }
        Command::RemoveGroup { id } => there()?.change(&Change::RemoveGroup(*id)),
        Command::RenameGroup { id, name } => there()?.change(&Change::RenameGroup { id: *id, name: name.clone() }),
        Command::AddInstance { group, instance, take_data } => {
            add_instance(&there()?, *group, instance, *take_data, seen)
        }
        Command::RemoveInstance { group, addr } => {
            there()?.change(&Change::RemoveInstance { group: *group, addr: addr.clone() })
        }
        Command::FollowPrimary { group, addr } => follow_primary(&there()?, *group, addr),
        Command::AssignSlots { ranges, force } => {
            let assignment = |r: &SlotRange| Assignment { from: r.from, to: r.to, group: r.group };
            there()?.change(&Change::Assign { ranges: ranges.iter().map(assignment).collect(), force: *force })
        }
        Command::SpreadSlots { groups } => there()?.change(&Change::Spread { groups: groups.clone() }),
        Command::StartMigrations(new) => migrations::start(&there()?, new, wall),
        Command::SteerMigration { id, steering } => migrations::steer(&there()?, *id, steering),
        Command::ReverseMigration { id } => migrations::reverse(&there()?, *id, wall),
        Command::SetUser { user } => set_user(&there()?, user),
        Command::RemoveUser { name } => remove_user(&there()?, name),
        Command::DrainProxy { id, draining } => drain_proxy(&there()?, id, *draining),
        Command::RemoveProxy { id } => remove_proxy(&there()?, id),
    }
}

fn create(state: &State, name: &str, slot_count: u16, tag_rule: TagRule) -> Result<Plan, Refusal> {
    change::check_name("cluster name", name).map_err(refused)?;
    if slot_count == 0 || slot_count > SLOT_COUNT_MAX {
        let message = format!("slot count {slot_count}: from 1 to {SLOT_COUNT_MAX}");
        return Err(refusal(
            Kind::Invalid,
            "bad_slot_count",
            message,
            "1024 suits most clusters; it is fixed for ever",
        ));
    }
    let message = wire::Message {
        epoch: state.epoch_in_force() + 1,
        name: name.to_owned(),
        slot_count,
        tag_rule,
        groups: Vec::new(),
        slots: Vec::new(),
        users: Vec::new(),
    };
    begin(state, message)
}

/// The first topology of a store.
fn begin(state: &State, message: wire::Message) -> Result<Plan, Refusal> {
    is_sound(state)?;
    if state.restoring.is_some() {
        let message = "a store is being loaded (twemslotctl store import), or was not loaded to its end";
        let hint = "let it end, or load it again; what was given up is removed by itself within three minutes";
        return Err(refusal(Kind::Conflict, "restoring", message, hint));
    }
    if state.standing != Standing::Empty {
        let name = state.settings.as_ref().map_or("", |s| s.value.name.as_str());
        let hint = "use it, or say that it is to be replaced (import), or another store prefix";
        return Err(refusal(Kind::Conflict, "cluster_exists", format!("there is a cluster already: {name}"), hint));
    }
    if let Some(now) = &state.in_force {
        let now = &now.topology;
        if (now.slot_count(), now.tag_rule()) != (message.slot_count, message.tag_rule) {
            let message = format!("proxies still serve {} with {} slots", now.name(), now.slot_count());
            let hint = "create it with the same slot count and tag rule, or restart all configsvrs and proxies first";
            return Err(refusal(Kind::Conflict, "hash_fixed", message, hint));
        }
    }
    let next = change::checked(message).map_err(refused)?;
    let settings = Settings {
        name: next.name().to_owned(),
        slot_count: next.slot_count(),
        tag_rule: next.tag_rule(),
        proxy_ttl_s: layout::proxy_ttl_default(),
        automation_paused: false,
        users: next.users().to_vec(),
    };
    let mut plan = between(state, None, &next)?;
    plan.ops.push(put(layout::SETTINGS.to_owned(), &settings));
    plan.compares.push(state.as_it_is(layout::SETTINGS));
    plan.after["settings"] = json!(settings);
    plan.result = plan.after.clone();
    Ok(plan)
}

fn import(state: &State, message: &wire::Message, replace: bool, seen: Option<&Sightings>) -> Result<Plan, Refusal> {
    change::may_be_taken(message).map_err(refused)?;
    let mut message = message.clone();
    message.groups.iter_mut().for_each(|group| group.copies = false); // only migrations make some
    let mut follows = Vec::new();
    let mut notes = Vec::new();
    if let Some(seen) = seen {
        for group in &mut message.groups {
            let primary = group.primary().map(|i| i.addr.clone());
            for instance in &mut group.instances {
                let wanted = match &primary {
                    Some(of) if instance.role == Role::Replica => Wanted::Replica { of, take_data: false },
                    _ => Wanted::Primary { take_data: true },
                };
                let fit = fitness::judge(seen, &instance.addr, wanted, None)?;
                take(fit, instance, primary.as_ref(), &mut follows, &mut notes);
            }
        }
    }
    let offered = message.epoch;
    let mut plan = if replace && state.standing != Standing::Empty {
        import_over(&There::of(state)?, message)?
    } else {
        message.epoch = state.epoch_in_force() + 1;
        if message.name.is_empty() {
            message.name = "cluster".to_owned();
        }
        change::check_name("cluster name", &message.name).map_err(refused)?;
        begin(state, message)?
    };
    // Proxies that serve what is taken over must see a newer epoch.
    if plan.epoch.epoch <= offered && offered < EPOCH_MAX {
        plan.epoch.epoch = offered + 1;
    }
    plan.follows = follows;
    plan.notes.extend(notes);
    Ok(plan)
}

/// What is offered instead of what is there; the name goes with it.
fn import_over(there: &There, message: wire::Message) -> Result<Plan, Refusal> {
    let name = if message.name.is_empty() { there.settings.name.clone() } else { message.name.clone() };
    let users = if message.users.is_empty() { there.settings.users.clone() } else { message.users.clone() };
    let mut plan = there.change(&Change::Replace(message))?;
    let settings = Settings { name, users, ..there.settings.clone() };
    if settings != *there.settings {
        change::check_name("cluster name", &settings.name).map_err(refused)?;
        plan.ops.push(put(layout::SETTINGS.to_owned(), &settings));
        plan.compares.push(there.state.as_it_is(layout::SETTINGS));
        (plan.before["settings"], plan.after["settings"]) = (json!(there.settings), json!(settings));
        plan.result = plan.after.clone();
    }
    Ok(plan)
}

/// Notes what a probe found out about an instance.
fn take(
    fit: Fit,
    instance: &mut Instance,
    primary: Option<&Addr>,
    follows: &mut Vec<(Addr, Addr)>,
    notes: &mut Vec<String>,
) {
    instance.run_id = Some(fit.run_id).filter(|id| !id.is_empty());
    if let (true, Some(primary)) = (fit.follow, primary) {
        follows.push((instance.addr.clone(), primary.clone()));
    }
    notes.extend(fit.notes);
}

fn new_instance(new: &NewInstance, role: Role) -> Instance {
    Instance { addr: new.addr.clone(), role, run_id: None, zone: new.zone.clone() }
}

fn add_group(there: &There, mut group: Group, take_data: bool, seen: Option<&Sightings>) -> Result<Plan, Refusal> {
    let primary = group.instances[0].addr.clone();
    let (mut follows, mut notes) = (Vec::new(), Vec::new());
    if let Some(seen) = seen {
        for instance in &mut group.instances {
            let wanted = match instance.role {
                Role::Primary => Wanted::Primary { take_data },
                Role::Replica => Wanted::Replica { of: &primary, take_data: false },
            };
            let fit = fitness::judge(seen, &instance.addr, wanted, Some(there.known))?;
            take(fit, instance, Some(&primary), &mut follows, &mut notes);
        }
    }
    let plan = there.change(&Change::AddGroup(group))?;
    Ok(Plan { follows, notes, ..plan })
}

fn add_instance(
    there: &There,
    id: GroupId,
    new: &NewInstance,
    take_data: bool,
    seen: Option<&Sightings>,
) -> Result<Plan, Refusal> {
    let mut instance = new_instance(new, Role::Replica);
    let primary = primary_of(there, id)?;
    let (mut follows, mut notes) = (Vec::new(), Vec::new());
    if let Some(seen) = seen {
        let wanted = Wanted::Replica { of: primary, take_data };
        let fit = fitness::judge(seen, &new.addr, wanted, Some(there.known))?;
        take(fit, &mut instance, Some(primary), &mut follows, &mut notes);
    }
    let plan = there.change(&Change::AddInstance { group: id, instance })?;
    Ok(Plan { follows, notes, ..plan })
}

fn primary_of<'a>(there: &'a There, id: GroupId) -> Result<&'a Addr, Refusal> {
    let group = change::group_of(there.known, id).map_err(refused)?;
    let none = || refusal(Kind::Conflict, "no_primary", format!("group {id} has no primary"), "correct its record");
    group.primary().map(|i| &i.addr).ok_or_else(none)
}

fn follow_primary(there: &There, id: GroupId, addr: &Addr) -> Result<Plan, Refusal> {
    let group = change::group_of(there.known, id).map_err(refused)?;
    let primary = primary_of(there, id)?;
    if change::instance_of(group, addr).map_err(refused)?.role == Role::Primary {
        let message = format!("instance {addr} is the primary of group {id}: it follows nobody");
        return Err(refusal(Kind::Conflict, "is_primary", message, "name one of the group's replicas"));
    }
    let told = json!({ "instance": addr, "follows": primary });
    let follows = vec![(addr.clone(), primary.clone())];
    Ok(Plan { follows, after: told.clone(), result: told, ..there.same() })
}

fn settings(there: &There, proxy_ttl_s: Option<u64>, automation_paused: Option<bool>) -> Result<Plan, Refusal> {
    let mut settings = there.settings.clone();
    settings.automation_paused = automation_paused.unwrap_or(settings.automation_paused);
    if let Some(ttl) = proxy_ttl_s {
        if !PROXY_TTL_S.contains(&ttl) {
            let (least, most) = PROXY_TTL_S.into_inner();
            let message = format!("proxy_ttl_s {ttl}: from {least} to {most} seconds");
            return Err(refusal(Kind::Invalid, "bad_setting", message, "10 suits most"));
        }
        settings.proxy_ttl_s = ttl;
    }
    let mut plan = there.same();
    plan.ops.push(put(layout::SETTINGS.to_owned(), &settings));
    plan.compares.push(there.state.as_it_is(layout::SETTINGS));
    (plan.before, plan.after, plan.result) = (json!(there.settings), json!(settings), json!(settings));
    Ok(plan)
}

fn set_user(there: &There, user: &User) -> Result<Plan, Refusal> {
    let mut users = there.settings.users.clone();
    let before = users.iter().find(|u| u.name == user.name).map(User::shown);
    match users.iter_mut().find(|u| u.name == user.name) {
        Some(old) => *old = user.clone(),
        None => users.push(user.clone()),
    }
    users.sort_by(|a, b| a.name.cmp(&b.name));
    let mut plan = with_users(there, users)?;
    (plan.before, plan.after, plan.result) = (json!(before), json!(user.shown()), json!(user.shown()));
    Ok(plan)
}

fn remove_user(there: &There, name: &str) -> Result<Plan, Refusal> {
    let (gone, rest): (Vec<User>, Vec<User>) = there.settings.users.iter().cloned().partition(|u| u.name == name);
    if gone.is_empty() {
        let message = format!("there is no user {name}");
        return Err(refusal(
            Kind::Absent,
            "no_such_user",
            message,
            "see GET /api/v1/users; a proxy's own are in its file",
        ));
    }
    let mut plan = with_users(there, rest)?;
    (plan.before, plan.result) = (json!(gone[0].shown()), json!({ "removed": name }));
    Ok(plan)
}

/// The same topology with these users.
fn with_users(there: &There, users: Vec<User>) -> Result<Plan, Refusal> {
    let message = wire::Message { epoch: there.known.epoch() + 1, users, ..wire::Message::from(there.known) };
    let next = change::checked(message).map_err(refused)?;
    let mut plan = between(there.state, Some(there.known), &next)?;
    let settings = Settings { users: next.users().to_vec(), ..there.settings.clone() };
    plan.ops.push(put(layout::SETTINGS.to_owned(), &settings));
    plan.compares.push(there.state.as_it_is(layout::SETTINGS));
    Ok(plan)
}

/// Changes nothing here: whoever asks tells the instances, once it is on record.
fn maxmemory(there: &There, id: GroupId, bytes: u64) -> Result<Plan, Refusal> {
    change::group_of(there.known, id).map_err(refused)?;
    let mut plan = there.same();
    plan.after = json!({ "group": id, "maxmemory_bytes": bytes });
    Ok(plan)
}

/// Writes what failover is to know of a group.
fn guarded(
    there: &There,
    id: GroupId,
    change: impl FnOnce(&mut Guard) -> Result<(), Refusal>,
) -> Result<Plan, Refusal> {
    change::group_of(there.known, id).map_err(refused)?;
    let key = layout::guard_key(id);
    let old = there.state.guard(id).cloned().unwrap_or_else(|| Guard { group_id: id, ..Guard::default() });
    let mut next = old.clone();
    change(&mut next)?;
    let mut plan = there.same();
    plan.compares.push(there.state.as_it_is(&key));
    plan.ops.push(put(key, &next));
    (plan.before, plan.after, plan.result) = (json!(old), json!(next), json!(next));
    Ok(plan)
}

fn guard(there: &There, id: GroupId, hang_ms: Option<u64>, maintenance: Option<bool>) -> Result<Plan, Refusal> {
    if let Some(ms) = hang_ms.filter(|ms| *ms != 0 && !HANG_RANGE_MS.contains(ms)) {
        let (least, most) = HANG_RANGE_MS.into_inner();
        let message = format!("hang_ms {ms}: from {least} to {most}, or 0 for the configuration's");
        return Err(refusal(Kind::Invalid, "bad_setting", message, "1300 suits most; 3000 where commands run long"));
    }
    guarded(there, id, |guard| {
        if let Some(ms) = hang_ms {
            guard.hang_ms = (ms != 0).then_some(ms);
        }
        guard.maintenance = maintenance.unwrap_or(guard.maintenance);
        Ok(())
    })
}

fn guard_instance(
    there: &There,
    id: GroupId,
    addr: &Addr,
    prefer: Option<bool>,
    never: Option<bool>,
) -> Result<Plan, Refusal> {
    let group = change::group_of(there.known, id).map_err(refused)?;
    change::instance_of(group, addr).map_err(refused)?;
    guarded(there, id, |guard| {
        match prefer {
            Some(true) => guard.prefer = Some(addr.clone()),
            Some(false) if guard.prefer.as_ref() == Some(addr) => guard.prefer = None,
            _ => {}
        }
        if let Some(never) = never {
            guard.never.retain(|other| other != addr);
            guard.never.extend(never.then(|| addr.clone()));
        }
        Ok(())
    })
}

/// Begins a planned change of the primary, or a forced one.
fn replace_primary(there: &There, id: GroupId, to: Option<&Addr>, planned: bool, wall: u64) -> Result<Plan, Refusal> {
    let group = change::group_of(there.known, id).map_err(refused)?;
    not_failing_over(there.state, id)?;
    if let Some(task) = there.state.fencing().find(|t| t.from == id || t.to == id) {
        let message = format!("slots of group {id} change hands at this moment (migration {})", task.id);
        return Err(refusal(Kind::Conflict, "slots_held", message, "try again in a second"));
    }
    let primary = primary_of(there, id)?;
    if to == Some(primary) {
        let message = format!("instance {primary} is the primary of group {id} already");
        return Err(refusal(Kind::Conflict, "is_primary", message, "name one of the group's replicas"));
    }
    if let Some(to) = to {
        change::instance_of(group, to).map_err(refused)?;
        if there.state.guard(id).is_some_and(|guard| guard.never.contains(to)) {
            let message = format!("instance {to} is never to be the primary of group {id}");
            let hint = format!("name another one, or say: twemslotctl guard instance --group {id} {to} --never false");
            return Err(refusal(Kind::Conflict, "never_promoted", message, &hint));
        }
    }
    if group.replicas().next().is_none() {
        let message = format!("group {id} has no replica");
        return Err(refusal(Kind::Conflict, "no_replica", message, "add one: twemslotctl instances add"));
    }
    let known = there.state.guard(id).and_then(|g| g.primary.as_ref()).is_some_and(|i| i.addr == *primary);
    if planned && !known {
        let message = format!("the primary of group {id} was not seen at work yet");
        return Err(refusal(Kind::Conflict, "primary_unknown", message, "see whether it answers, and try again"));
    }
    let (kind, why) = match planned {
        true => (FailoverKind::Switchover, "planned"),
        false => (FailoverKind::Forced, "somebody said so"),
    };
    let what =
        Begin { kind, why: why.to_owned(), evidence: Vec::new(), wanted: to.cloned(), old_offset: None, doubted: wall };
    let step = failover::begin(there.state, there.known, group, what, wall);
    let step = step.ok_or_else(|| refusal(Kind::Conflict, "cannot_begin", "the group cannot be held", "try again"))?;
    let after = json!({ "failover": step.record });
    Ok(Plan {
        compares: step.compares,
        ops: step.ops,
        epoch: step.epoch,
        before: json!({ "primary": primary }),
        result: after.clone(),
        after,
        ..there.same()
    })
}

fn no_proxy(there: &There, id: &str) -> Refusal {
    let ids: Vec<&str> = there.state.proxies.keys().map(String::as_str).take(20).collect();
    let hint = if ids.is_empty() { "none is registered".to_owned() } else { format!("registered: {}", ids.join(", ")) };
    let id: String = id.chars().take(ID_MAX).collect();
    refusal(Kind::Absent, "no_such_proxy", format!("there is no proxy {id:?}"), hint)
}

fn drain_proxy(there: &There, id: &str, draining: bool) -> Result<Plan, Refusal> {
    let record = there.state.proxies.get(id).ok_or_else(|| no_proxy(there, id))?;
    let next = layout::Proxy { draining, ..record.value.clone() };
    let value = serde_json::to_string(&next).unwrap_or_default();
    let mut plan = there.same();
    plan.ops.push(Op::Put { key: layout::proxy_key(id), value, lease: record.lease });
    plan.compares.push(there.state.as_it_is(&layout::proxy_key(id)));
    (plan.before, plan.after, plan.result) = (json!(record.value), json!(next), json!(next));
    Ok(plan)
}

fn remove_proxy(there: &There, id: &str) -> Result<Plan, Refusal> {
    let record = there.state.proxies.get(id).map(|item| &item.value).or_else(|| there.state.lost.get(id));
    let record = record.ok_or_else(|| no_proxy(there, id))?;
    let mut plan = there.same();
    for key in [layout::proxy_key(id), layout::roster_key(id)] {
        plan.compares.push(there.state.as_it_is(&key));
        plan.ops.push(Op::Delete { key });
    }
    (plan.before, plan.result) = (json!(record), json!({ "removed": id }));
    Ok(plan)
}

/// What gives an edited topology an epoch of its own.
pub(super) fn adoption(state: &State) -> Option<Plan> {
    let Standing::Edited { epoch, sum } = state.standing else { return None };
    state.epoch.as_ref()?;
    let next = epoch.max(state.epoch_in_force()) + 1;
    Some(Plan {
        compares: Vec::new(),
        ops: Vec::new(),
        follows: Vec::new(),
        epoch: Epoch { epoch: next, unfolded: state.unfolded(), sum: Some(sum) },
        before: Value::Null,
        after: Value::Null,
        result: Value::Null,
        notes: Vec::new(),
    })
}

/// The next slots to be written to their own keys, and the epoch's record without them.
pub(super) fn folding(state: &State) -> Option<(Vec<Op>, Epoch)> {
    let epoch = &state.epoch.as_ref().filter(|e| !e.value.unfolded.is_empty())?.value;
    let unfolded = state.unfolded();
    let all = unfolded.iter().flat_map(|r| (r.from..=r.to).map(|slot| (slot, r.group)));
    let ops = all.clone().take(SLOTS_AT_ONCE).map(|(slot, group)| put_slot(slot, group)).collect();
    let rest = ranges(all.skip(SLOTS_AT_ONCE));
    Some((ops, Epoch { unfolded: rest, ..epoch.clone() }))
}

/// Removes some of what a load of the store has left, and at last its mark. The mark is written each time, so that neither
/// the load nor a copy of this can still do anything afterwards.
pub(super) fn clearing(state: &State, fence: &Fence) -> Txn {
    let compares = vec![fence.compare.clone(), state.as_it_is(layout::EPOCH), state.as_it_is(layout::RESTORING)];
    let mut ops: Vec<Op> = state.topology_keys().take(SLOTS_AT_ONCE).map(|key| Op::Delete { key }).collect();
    match &state.restoring {
        Some(item) if ops.len() == SLOTS_AT_ONCE => {
            let mark = Restoring { token: fence.token, given_up: true, ..item.value };
            ops.push(put(layout::RESTORING.to_owned(), &mark));
        }
        _ => ops.push(Op::Delete { key: layout::RESTORING.to_owned() }),
    }
    Txn { compares, ops }
}
