//! `members`: who makes up the control plane. What is behind it is consensus; here is only how it is asked.

use super::Api;
use super::extract::{At, Said, Terms};
use super::problem::{ChangeProblems, Problem, ReadProblems};
use super::words::{DryRun, IdempotencyKey, Member, NewMember, Whose};
use crate::control::command::Refusal;
use axum::Json;
use axum::extract::State;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Membership, as consensus knows and changes it. Each change answers with the members after it; done twice, the second
/// time changes nothing and says so by succeeding. `who` is for the log. `dry_run`: say whether it could be done.
pub trait Members: Send + Sync + 'static {
    fn list(&self) -> BoxFuture<'_, Result<Vec<Member>, Refusal>>;
    /// As a learner: it gets the log, and does not vote.
    fn add(&self, who: String, new: NewMember, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>>;
    /// A learner votes from now on.
    fn promote(&self, who: String, name: String, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>>;
    fn remove(&self, who: String, name: String, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>>;
}

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(remove)).routes(routes!(promote))
}

/// The members, by id.
#[utoipa::path(get, path = "/api/v1/members", tag = "members", params(Whose),
    responses((status = 200, description = "the members", body = Vec<Member>), ReadProblems))]
async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<Member>>, Problem> {
    Ok(Json(api.members.list().await?))
}

/// Adds a member, which learns and does not vote yet.
#[utoipa::path(post, path = "/api/v1/members", tag = "members", params(DryRun, IdempotencyKey), request_body = NewMember,
    responses((status = 200, description = "the members now", body = Vec<Member>), ChangeProblems))]
async fn add(
    State(api): State<Arc<Api>>,
    terms: Terms,
    Said(new): Said<NewMember>,
) -> Result<Json<Vec<Member>>, Problem> {
    Ok(Json(api.members.add(terms.who, new, terms.dry_run).await?))
}

/// Lets a member vote.
#[utoipa::path(post, path = "/api/v1/members/{name}/promote", tag = "members",
    params(("name" = String, Path), DryRun, IdempotencyKey),
    responses((status = 200, description = "the members now", body = Vec<Member>), ChangeProblems))]
async fn promote(
    State(api): State<Arc<Api>>,
    At(name): At<String>,
    terms: Terms,
) -> Result<Json<Vec<Member>>, Problem> {
    Ok(Json(api.members.promote(terms.who, name, terms.dry_run).await?))
}

/// Removes a member.
#[utoipa::path(delete, path = "/api/v1/members/{name}", tag = "members",
    params(("name" = String, Path), DryRun, IdempotencyKey),
    responses((status = 200, description = "the members now", body = Vec<Member>), ChangeProblems))]
async fn remove(State(api): State<Arc<Api>>, At(name): At<String>, terms: Terms) -> Result<Json<Vec<Member>>, Problem> {
    Ok(Json(api.members.remove(terms.who, name, terms.dry_run).await?))
}
