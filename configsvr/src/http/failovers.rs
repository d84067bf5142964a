//! `failovers`, and what people can do about them: replace a primary, tell what failover is to know.

use super::Api;
use super::change::change;
use super::documented::{AnswerWord, FailoverWord, GuardWord, InstanceWord};
use super::extract::{Asked, At, Said, Terms};
use super::problem::{ChangeProblems, Problem, ReadProblems};
use super::words::{Answer, DryRun, IdempotencyKey, NewGuard, NewInstanceGuard, NewPrimary, Whose};
use crate::control::command::Command;
use crate::control::health::InstanceView;
use crate::control::layout::{Failover, Guard};
use axum::Json;
use axum::extract::State;
use cluster::group::GroupId;
use cluster::instance::Addr;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(instances))
        .routes(routes!(guards))
        .routes(routes!(switchover))
        .routes(routes!(failover))
        .routes(routes!(guard))
        .routes(routes!(guard_instance))
}

/// Changes of primaries, the latest last: a bounded number of them.
#[utoipa::path(get, path = "/api/v1/failovers", tag = "failovers",
    responses((status = 200, description = "the failovers", body = Vec<FailoverWord>), ReadProblems))]
async fn list(State(api): State<Arc<Api>>) -> Json<Vec<Failover>> {
    Json(api.desk.view.borrow().failovers.clone())
}

/// One of them, with all it rests on.
#[utoipa::path(get, path = "/api/v1/failovers/{id}", tag = "failovers", params(("id" = String, Path)),
    responses((status = 200, description = "the failover", body = FailoverWord), ReadProblems))]
async fn show(State(api): State<Arc<Api>>, At(id): At<String>) -> Result<Json<Failover>, Problem> {
    let view = api.desk.view.borrow().clone();
    let same = |f: &&Failover| f.id == id || f.id.trim_start_matches('0') == id;
    let found = view.failovers.iter().find(same).cloned();
    let absent = || Problem::absent("no_such_failover", format!("no failover {id:?}"), "see GET /api/v1/failovers");
    found.map(Json).ok_or_else(absent)
}

/// All instances, as the member that answers sees them.
#[utoipa::path(get, path = "/api/v1/instances", tag = "failovers", params(Whose),
    responses((status = 200, description = "the instances", body = Vec<InstanceWord>), ReadProblems))]
async fn instances(State(api): State<Arc<Api>>, _: Asked<Whose>) -> Json<Vec<InstanceView>> {
    Json(api.desk.view.borrow().instances.clone())
}

/// What failover knows and was told of each group.
#[utoipa::path(get, path = "/api/v1/guards", tag = "failovers",
    responses((status = 200, description = "the guards", body = Vec<GuardWord>), ReadProblems))]
async fn guards(State(api): State<Arc<Api>>) -> Json<Vec<Guard>> {
    Json(api.desk.view.borrow().guards.clone())
}

/// Another primary, without loss: it is begun when this answers; see its record for the end.
#[utoipa::path(post, path = "/api/v1/groups/{id}/switchover", tag = "failovers",
    params(("id" = u32, Path), DryRun, IdempotencyKey), request_body = NewPrimary,
    responses((status = 200, description = "begun", body = AnswerWord), ChangeProblems))]
async fn switchover(
    State(api): State<Arc<Api>>,
    At(group): At<GroupId>,
    terms: Terms,
    Said(new): Said<NewPrimary>,
) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::Switchover { group, to: new.to }).await
}

/// The primary is taken for dead now. What no replica has is lost.
#[utoipa::path(post, path = "/api/v1/groups/{id}/failover", tag = "failovers",
    params(("id" = u32, Path), DryRun, IdempotencyKey), request_body = NewPrimary,
    responses((status = 200, description = "begun", body = AnswerWord), ChangeProblems))]
async fn failover(
    State(api): State<Arc<Api>>,
    At(group): At<GroupId>,
    terms: Terms,
    Said(new): Said<NewPrimary>,
) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::Failover { group, to: new.to }).await
}

/// Maintenance, and how long a primary may say nothing.
#[utoipa::path(patch, path = "/api/v1/groups/{id}/guard", tag = "failovers",
    params(("id" = u32, Path), DryRun, IdempotencyKey), request_body = NewGuard,
    responses((status = 200, description = "noted", body = AnswerWord), ChangeProblems))]
async fn guard(
    State(api): State<Arc<Api>>,
    At(group): At<GroupId>,
    terms: Terms,
    Said(new): Said<NewGuard>,
) -> Result<Json<Answer>, Problem> {
    let NewGuard { hang_ms, maintenance } = new;
    change(&api, terms, Command::Guard { group, hang_ms, maintenance }).await
}

/// Whether an instance is preferred, or never becomes primary.
#[utoipa::path(patch, path = "/api/v1/groups/{id}/instances/{addr}/guard", tag = "failovers",
    params(("id" = u32, Path), ("addr" = String, Path, example = "10.0.0.2:6379"), DryRun, IdempotencyKey),
    request_body = NewInstanceGuard, responses((status = 200, description = "noted", body = AnswerWord), ChangeProblems))]
async fn guard_instance(
    State(api): State<Arc<Api>>,
    At((group, addr)): At<(GroupId, Addr)>,
    terms: Terms,
    Said(new): Said<NewInstanceGuard>,
) -> Result<Json<Answer>, Problem> {
    let NewInstanceGuard { prefer, never } = new;
    change(&api, terms, Command::GuardInstance { group, addr, prefer, never }).await
}
