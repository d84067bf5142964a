//! `migrations`: slots that change hands with their keys while clients write.

use super::Api;
use super::change::change;
use super::documented::{AnswerWord, MigrationWord};
use super::extract::{Asked, At, Said, Terms};
use super::problem::{ChangeProblems, Problem, ReadProblems};
use super::words::{Answer, DryRun, IdempotencyKey, MigrationChange, NewMigrations, Whose};
use crate::control::command::{Command, NewMove, NewMoves, Steering};
use crate::control::task::TaskView;
use axum::Json;
use axum::extract::State;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(list, start))
        .routes(routes!(show))
        .routes(routes!(limit))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
        .routes(routes!(reverse))
}

/// Migrations, the latest last: a bounded number of them. How far they are is known to the leader alone.
#[utoipa::path(get, path = "/api/v1/migrations", tag = "migrations", params(Whose),
    responses((status = 200, description = "the migrations", body = Vec<MigrationWord>), ReadProblems))]
async fn list(State(api): State<Arc<Api>>, _: Asked<Whose>) -> Json<Vec<TaskView>> {
    Json(api.desk.view.borrow().migrations.clone())
}

/// One of them.
#[utoipa::path(get, path = "/api/v1/migrations/{id}", tag = "migrations", params(("id" = u64, Path), Whose),
    responses((status = 200, description = "the migration", body = MigrationWord), ReadProblems))]
async fn show(State(api): State<Arc<Api>>, At(id): At<u64>, _: Asked<Whose>) -> Result<Json<TaskView>, Problem> {
    let found = api.desk.view.borrow().migrations.iter().find(|m| m.task.id == id).cloned();
    let absent = || Problem::absent("no_such_migration", format!("no migration {id}"), "see GET /api/v1/migrations");
    found.map(Json).ok_or_else(absent)
}

/// Begins one migration for each move. Each waits until its groups are free.
#[utoipa::path(post, path = "/api/v1/migrations", tag = "migrations", params(DryRun, IdempotencyKey),
    request_body = NewMigrations,
    responses((status = 200, description = "they are in the store", body = AnswerWord), ChangeProblems))]
async fn start(
    State(api): State<Arc<Api>>,
    terms: Terms,
    Said(new): Said<NewMigrations>,
) -> Result<Json<Answer>, Problem> {
    let moves = new.moves.into_iter().map(|m| NewMove { from: m.from, to: m.to, slots: m.slots, count: m.count });
    let NewMigrations { mode, window, epoch, skip_audit, force, .. } = new;
    let limits = new.limits.at_first();
    let new = NewMoves { moves: moves.collect(), mode, limits, window, epoch, skip_audit, force, planned_for: None };
    change(&api, terms, Command::StartMigrations(new)).await
}

async fn steer(api: &Api, terms: Terms, id: u64, steering: Steering) -> Result<Json<Answer>, Problem> {
    change(api, terms, Command::SteerMigration { id, steering }).await
}

/// How hard it may push, at once; what is not named stays.
#[utoipa::path(patch, path = "/api/v1/migrations/{id}", tag = "migrations",
    params(("id" = u64, Path), DryRun, IdempotencyKey), request_body = MigrationChange,
    responses((status = 200, description = "noted", body = AnswerWord), ChangeProblems))]
async fn limit(
    State(api): State<Arc<Api>>,
    At(id): At<u64>,
    terms: Terms,
    Said(new): Said<MigrationChange>,
) -> Result<Json<Answer>, Problem> {
    steer(&api, terms, id, Steering { limits: Some(new.limits()), force: new.force, ..Steering::default() }).await
}

/// Nothing goes on until it is resumed; what was copied is kept up to date.
#[utoipa::path(post, path = "/api/v1/migrations/{id}/pause", tag = "migrations",
    params(("id" = u64, Path), DryRun, IdempotencyKey),
    responses((status = 200, description = "noted", body = AnswerWord), ChangeProblems))]
async fn pause(State(api): State<Arc<Api>>, At(id): At<u64>, terms: Terms) -> Result<Json<Answer>, Problem> {
    steer(&api, terms, id, Steering { paused: Some(true), ..Steering::default() }).await
}

/// It goes on where it stood.
#[utoipa::path(post, path = "/api/v1/migrations/{id}/resume", tag = "migrations",
    params(("id" = u64, Path), DryRun, IdempotencyKey),
    responses((status = 200, description = "noted", body = AnswerWord), ChangeProblems))]
async fn resume(State(api): State<Arc<Api>>, At(id): At<u64>, terms: Terms) -> Result<Json<Answer>, Problem> {
    steer(&api, terms, id, Steering { paused: Some(false), ..Steering::default() }).await
}

/// The source keeps its slots, the copy is removed. Not once the target serves them.
#[utoipa::path(post, path = "/api/v1/migrations/{id}/cancel", tag = "migrations",
    params(("id" = u64, Path), DryRun, IdempotencyKey),
    responses((status = 200, description = "noted", body = AnswerWord), ChangeProblems))]
async fn cancel(State(api): State<Arc<Api>>, At(id): At<u64>, terms: Terms) -> Result<Json<Answer>, Problem> {
    steer(&api, terms, id, Steering { cancelled: Some(true), ..Steering::default() }).await
}

/// Begins another one, which brings the same slots back.
#[utoipa::path(post, path = "/api/v1/migrations/{id}/reverse", tag = "migrations",
    params(("id" = u64, Path), DryRun, IdempotencyKey),
    responses((status = 200, description = "it is in the store", body = AnswerWord), ChangeProblems))]
async fn reverse(State(api): State<Arc<Api>>, At(id): At<u64>, terms: Terms) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::ReverseMigration { id }).await
}
