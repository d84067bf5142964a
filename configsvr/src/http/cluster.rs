//! `cluster`, `settings`, `import`: what concerns the whole.

use super::Api;
use super::change::change;
use super::clock::time_ms;
use super::documented::AnswerWord;
use super::extract::{Asked, Said, Terms};
use super::problem::{ChangeProblems, Problem, ReadProblems};
use super::words::{
    Answer, Cluster, DryRun, Group, IdempotencyKey, Import, Member, NewCluster, NewSettings, Proxy, Settings,
    StoreState, Whose,
};
use crate::control::command::Command;
use crate::control::health::{InstanceView, Verdict};
use crate::control::view::View;
use axum::Json;
use axum::extract::State;
use cluster::instance::Role;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(show, create)).routes(routes!(settings, set)).routes(routes!(import))
}

/// The whole cluster on one screen.
#[utoipa::path(get, path = "/api/v1/cluster", tag = "cluster", params(Whose),
    responses((status = 200, description = "how it stands", body = Cluster), ReadProblems))]
async fn show(State(api): State<Arc<Api>>, _: Asked<Whose>) -> Json<Cluster> {
    let members = api.members.list().await;
    let view = api.desk.view.borrow().clone();
    Json(status(&api, &view, members.map_err(|r| r.message)))
}

fn status(api: &Api, view: &View, members: Result<Vec<Member>, String>) -> Cluster {
    let settings = view.settings.as_ref();
    let (members, silent) = match members {
        Ok(members) => (members, None),
        Err(why) => (Vec::new(), Some(format!("members: {why}"))),
    };
    let unassigned = view.topology.as_ref().map_or(0, |t| t.slots().iter().filter(|s| s.group.is_none()).count());
    let mut cluster = Cluster {
        created: settings.is_some(),
        name: settings.map(|s| s.name.clone()),
        slot_count: settings.map(|s| s.slot_count),
        tag_rule: settings.map(|s| s.tag_rule),
        epoch: view.topology.as_ref().map_or(0, |t| t.epoch()),
        member: api.member.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time_ms: time_ms(),
        leading: view.leading,
        leader: view.leader.as_ref().map(|(name, _)| name.clone()),
        leader_addr: view.leader.as_ref().map(|(_, addr)| addr.clone()),
        store: StoreState { kind: api.store.describe(), revision: view.revision, fault: view.store_fault.clone() },
        members,
        groups: view.groups.iter().map(Group::from).collect(),
        slots_unassigned: unassigned as u32,
        proxies: view.proxies.iter().map(Proxy::from).collect(),
        alarms: view.alarms.clone(),
        invalid: view.invalid.clone(),
        problems: Vec::new(),
    };
    cluster.problems = problems(&cluster);
    cluster.problems.extend(view.instances.iter().filter_map(ailing));
    cluster.problems.extend(silent);
    cluster
}

/// What is wrong with an instance, as this member sees it.
fn ailing(i: &InstanceView) -> Option<String> {
    let what = match (i.verdict, i.link_up) {
        (Verdict::Refused, _) => "refuses connections: is it running?",
        (Verdict::Hang, _) => "does not answer",
        (Verdict::Reborn, _) => "was started anew, and may be empty",
        (_, Some(false)) => "has no link to its primary, and falls behind",
        (Verdict::Up | Verdict::Unknown, _) => return None,
    };
    let role = if i.role == Role::Primary { "primary" } else { "replica" };
    Some(format!("{} of group {} ({}) {what}", i.addr, i.group, role))
}

/// All that somebody should look at.
fn problems(c: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    if c.leader.is_none() {
        found.push("no leader: nothing can be changed".to_owned());
    }
    found.extend(c.store.fault.iter().map(|fault| format!("store: {fault}")));
    found.extend(c.invalid.iter().map(|fault| format!("the store holds something invalid: {fault}")));
    found.extend(c.alarms.iter().map(|a| format!("alarm {} {}: {}", a.kind, a.subject, a.message)));
    let lost = c.members.iter().filter(|m| m.reachable == Some(false));
    found.extend(lost.map(|m| format!("member {} ({}): the leader does not hear from it", m.name, m.addr)));
    if !c.created {
        found.push("no cluster: create one with `twemslotctl cluster create --name NAME`".to_owned());
        return found;
    }
    if c.slots_unassigned > 0 {
        found.push(format!("{} slots have no owner: requests for them are refused", c.slots_unassigned));
    }
    let alarmed = |p: &Proxy| c.alarms.iter().any(|a| a.subject == p.id); // it is said already
    found.extend(c.proxies.iter().filter(|p| !alarmed(p)).filter_map(|p| p.problem(c.epoch)));
    found
}

/// Begins a cluster in an empty store.
#[utoipa::path(post, path = "/api/v1/cluster", tag = "cluster", params(DryRun, IdempotencyKey), request_body = NewCluster,
    responses((status = 200, description = "it begins", body = AnswerWord), ChangeProblems))]
async fn create(
    State(api): State<Arc<Api>>,
    terms: Terms,
    Said(new): Said<NewCluster>,
) -> Result<Json<Answer>, Problem> {
    let NewCluster { name, slot_count, tag_rule } = new;
    change(&api, terms, Command::CreateCluster { name, slot_count, tag_rule }).await
}

/// What holds for the whole cluster.
#[utoipa::path(get, path = "/api/v1/settings", tag = "cluster",
    responses((status = 200, description = "the settings", body = Settings), ReadProblems))]
async fn settings(State(api): State<Arc<Api>>) -> Result<Json<Settings>, Problem> {
    let settings = api.desk.view.borrow().settings.clone().ok_or_else(Problem::no_cluster)?;
    let crate::control::layout::Settings { name, slot_count, tag_rule, proxy_ttl_s, automation_paused, .. } = settings;
    Ok(Json(Settings { name, slot_count, tag_rule, proxy_ttl_s, automation_paused }))
}

/// Changes settings; those that are not named stay.
#[utoipa::path(patch, path = "/api/v1/settings", tag = "cluster", params(DryRun, IdempotencyKey), request_body = NewSettings,
    responses((status = 200, description = "changed", body = AnswerWord), ChangeProblems))]
async fn set(State(api): State<Arc<Api>>, terms: Terms, Said(new): Said<NewSettings>) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::Settings { proxy_ttl_s: new.proxy_ttl_s, automation_paused: new.automation_paused })
        .await
}

/// Takes in a whole topology at once.
#[utoipa::path(post, path = "/api/v1/import", tag = "cluster", params(DryRun, IdempotencyKey), request_body = Import,
    responses((status = 200, description = "it is in force", body = AnswerWord), ChangeProblems))]
async fn import(
    State(api): State<Arc<Api>>,
    terms: Terms,
    Said(import): Said<Import>,
) -> Result<Json<Answer>, Problem> {
    let Import { topology, replace, probe } = import;
    change(&api, terms, Command::Import { topology, replace, probe }).await
}
