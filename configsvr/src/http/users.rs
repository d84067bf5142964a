//! `users`: whom clients of all proxies may be, beside those that a proxy's own configuration names.

use super::Api;
use super::change::change;
use super::documented::{AnswerWord, UserWord};
use super::extract::{At, Said, Terms};
use super::problem::{ChangeProblems, Problem, ReadProblems};
use super::words::{Answer, DryRun, IdempotencyKey, NewUser};
use crate::control::command::Command;
use axum::Json;
use axum::extract::State;
use cluster::user::User;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(set, remove))
}

/// All users, by name. What their passwords hash to is not shown.
#[utoipa::path(get, path = "/api/v1/users", tag = "users",
    responses((status = 200, description = "the users", body = Vec<UserWord>), ReadProblems))]
async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<User>>, Problem> {
    let settings = api.desk.view.borrow().settings.clone().ok_or_else(Problem::no_cluster)?;
    Ok(Json(settings.users.iter().map(User::shown).collect()))
}

/// Adds a user, or says anew what it may do. Every proxy serves it when this returns; clients that are connected as this
/// user may from then on do what it says.
#[utoipa::path(put, path = "/api/v1/users/{name}", tag = "users",
    params(("name" = String, Path, example = "app"), DryRun, IdempotencyKey), request_body = NewUser,
    responses((status = 200, description = "set", body = AnswerWord), ChangeProblems))]
async fn set(
    State(api): State<Arc<Api>>,
    At(name): At<String>,
    terms: Terms,
    Said(new): Said<NewUser>,
) -> Result<Json<Answer>, Problem> {
    let NewUser { password_sha256, categories, keys, channels, read_only, admin } = new;
    let user = User { name, password_sha256, categories, keys, channels, read_only, admin };
    change(&api, terms, Command::SetUser { user }).await
}

/// Removes a user. Its clients are closed.
#[utoipa::path(delete, path = "/api/v1/users/{name}", tag = "users",
    params(("name" = String, Path, example = "app"), DryRun, IdempotencyKey),
    responses((status = 200, description = "removed", body = AnswerWord), ChangeProblems))]
async fn remove(State(api): State<Arc<Api>>, At(name): At<String>, terms: Terms) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::RemoveUser { name }).await
}
