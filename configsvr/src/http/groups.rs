//! `groups` and the instances in them.

use super::Api;
use super::change::change;
use super::documented::AnswerWord;
use super::extract::{At, Said, Terms};
use super::problem::{ChangeProblems, Problem, ReadProblems};
use super::words::{Answer, DryRun, Group, IdempotencyKey, NewGroup, NewReplica, Rename};
use crate::control::command::{Command, NewInstance};
use axum::Json;
use axum::extract::State;
use cluster::group::GroupId;
use cluster::instance::Addr;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(show, rename, remove))
        .routes(routes!(add_instance))
        .routes(routes!(remove_instance))
        .routes(routes!(follow))
}

/// All groups, by id.
#[utoipa::path(get, path = "/api/v1/groups", tag = "groups",
    responses((status = 200, description = "the groups", body = Vec<Group>), ReadProblems))]
async fn list(State(api): State<Arc<Api>>) -> Json<Vec<Group>> {
    Json(api.desk.view.borrow().groups.iter().map(Group::from).collect())
}

/// Adds a group, without slots.
#[utoipa::path(post, path = "/api/v1/groups", tag = "groups", params(DryRun, IdempotencyKey), request_body = NewGroup,
    responses((status = 200, description = "added", body = AnswerWord), ChangeProblems))]
async fn add(State(api): State<Arc<Api>>, terms: Terms, Said(new): Said<NewGroup>) -> Result<Json<Answer>, Problem> {
    let NewGroup { id, name, primary, replicas, take_data } = new;
    let replicas = replicas.into_iter().map(Into::into).collect();
    change(&api, terms, Command::AddGroup { id, name, primary: primary.into(), replicas, take_data }).await
}

/// One group.
#[utoipa::path(get, path = "/api/v1/groups/{id}", tag = "groups", params(("id" = u32, Path)),
    responses((status = 200, description = "the group", body = Group), ReadProblems))]
async fn show(State(api): State<Arc<Api>>, At(id): At<GroupId>) -> Result<Json<Group>, Problem> {
    let view = api.desk.view.borrow().clone();
    let group = view.groups.iter().find(|g| g.id == id).map(Group::from);
    group
        .map(Json)
        .ok_or_else(|| Problem::absent("no_such_group", format!("there is no group {id}"), "see GET /api/v1/groups"))
}

/// Renames a group.
#[utoipa::path(patch, path = "/api/v1/groups/{id}", tag = "groups", params(("id" = u32, Path), DryRun, IdempotencyKey),
    request_body = Rename, responses((status = 200, description = "renamed", body = AnswerWord), ChangeProblems))]
async fn rename(
    State(api): State<Arc<Api>>,
    At(id): At<GroupId>,
    terms: Terms,
    Said(new): Said<Rename>,
) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::RenameGroup { id, name: new.name }).await
}

/// Removes a group that owns no slot. Its instances are left as they are.
#[utoipa::path(delete, path = "/api/v1/groups/{id}", tag = "groups", params(("id" = u32, Path), DryRun, IdempotencyKey),
    responses((status = 200, description = "removed", body = AnswerWord), ChangeProblems))]
async fn remove(State(api): State<Arc<Api>>, At(id): At<GroupId>, terms: Terms) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::RemoveGroup { id }).await
}

/// Adds a replica.
#[utoipa::path(post, path = "/api/v1/groups/{id}/instances", tag = "groups",
    params(("id" = u32, Path), DryRun, IdempotencyKey), request_body = NewReplica,
    responses((status = 200, description = "it follows the primary", body = AnswerWord), ChangeProblems))]
async fn add_instance(
    State(api): State<Arc<Api>>,
    At(group): At<GroupId>,
    terms: Terms,
    Said(new): Said<NewReplica>,
) -> Result<Json<Answer>, Problem> {
    let NewReplica { addr, zone, take_data } = new;
    change(&api, terms, Command::AddInstance { group, instance: NewInstance { addr, zone }, take_data }).await
}

/// Removes a replica.
#[utoipa::path(delete, path = "/api/v1/groups/{id}/instances/{addr}", tag = "groups",
    params(("id" = u32, Path), ("addr" = String, Path, example = "10.0.0.2:6379"), DryRun, IdempotencyKey),
    responses((status = 200, description = "removed", body = AnswerWord), ChangeProblems))]
async fn remove_instance(
    State(api): State<Arc<Api>>,
    At((group, addr)): At<(GroupId, Addr)>,
    terms: Terms,
) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::RemoveInstance { group, addr }).await
}

/// Tells an instance once more to follow its group's primary.
#[utoipa::path(post, path = "/api/v1/groups/{id}/instances/{addr}/follow", tag = "groups",
    params(("id" = u32, Path), ("addr" = String, Path, example = "10.0.0.2:6379"), DryRun, IdempotencyKey),
    responses((status = 200, description = "told", body = AnswerWord), ChangeProblems))]
async fn follow(
    State(api): State<Arc<Api>>,
    At((group, addr)): At<(GroupId, Addr)>,
    terms: Terms,
) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::FollowPrimary { group, addr }).await
}
