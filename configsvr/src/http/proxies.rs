//! `proxies`: they register by heartbeat; people list, drain and remove them. Also how smart clients find them.

use super::Api;
use super::change::{ask, change};
use super::documented::{AnswerWord, BeatAnswerWord, BeatWord};
use super::extract::{Asked, At, Said, Terms};
use super::problem::{ChangeProblems, Problem, ReadProblems};
use super::words::{Answer, BeatAnswer, Drain, DryRun, IdempotencyKey, Proxy, Whose, flag};
use crate::control::command::{Beat, Command};
use crate::desk::Call;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, remove))
        .routes(routes!(beat))
        .routes(routes!(drain))
}

/// Which proxies are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// Only those that are alive and not draining: where a client may connect.
    #[serde(default, deserialize_with = "flag")]
    #[param(value_type = Option<bool>)]
    alive: bool,
    /// The leader answers, whoever is asked: only it knows heartbeats and the progress of pushes.
    #[serde(default, deserialize_with = "flag")]
    #[param(value_type = Option<bool>)]
    #[expect(dead_code, reason = "seen by `forward` before a handler is called")]
    leader: bool,
}

/// The proxies, by id.
#[utoipa::path(get, path = "/api/v1/proxies", tag = "proxies", params(Listing),
    responses((status = 200, description = "the proxies", body = Vec<Proxy>), ReadProblems))]
async fn list(State(api): State<Arc<Api>>, Asked(listing): Asked<Listing>) -> Json<Vec<Proxy>> {
    let view = api.desk.view.borrow().clone();
    let wanted = |p: &Proxy| !listing.alive || (p.alive && !p.draining);
    Json(view.proxies.iter().map(Proxy::from).filter(wanted).collect())
}

/// One proxy.
#[utoipa::path(get, path = "/api/v1/proxies/{id}", tag = "proxies", params(("id" = String, Path), Whose),
    responses((status = 200, description = "the proxy", body = Proxy), ReadProblems))]
async fn show(State(api): State<Arc<Api>>, At(id): At<String>, _: Asked<Whose>) -> Result<Json<Proxy>, Problem> {
    let view = api.desk.view.borrow().clone();
    let proxy = view.proxies.iter().find(|p| p.record.id == id).map(Proxy::from);
    let absent =
        || Problem::absent("no_such_proxy", format!("no proxy {id:?} is registered"), "see GET /api/v1/proxies");
    proxy.map(Json).ok_or_else(absent)
}

/// Forgets a proxy now. One that lives comes back with its next heartbeat.
#[utoipa::path(delete, path = "/api/v1/proxies/{id}", tag = "proxies", params(("id" = String, Path), DryRun, IdempotencyKey),
    responses((status = 200, description = "forgotten", body = AnswerWord), ChangeProblems))]
async fn remove(State(api): State<Arc<Api>>, At(id): At<String>, terms: Terms) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::RemoveProxy { id }).await
}

/// A proxy's heartbeat: registers it, keeps it registered, and tells it the epoch in force.
#[utoipa::path(post, path = "/api/v1/proxies/{id}/beat", tag = "proxies", params(("id" = String, Path)),
    request_body = BeatWord, responses((status = 200, description = "heard", body = BeatAnswerWord), ChangeProblems))]
async fn beat(
    State(api): State<Arc<Api>>,
    At(id): At<String>,
    Said(beat): Said<Beat>,
) -> Result<Json<BeatAnswer>, Problem> {
    if beat.id != id {
        let message = format!("the heartbeat of {:?} was sent to the path of {id:?}", beat.id);
        return Err(Problem::invalid("wrong_proxy", message, "send it to its own path"));
    }
    ask(&api, |answer| Call::Beat(beat, answer)).await.map(Json)
}

/// Takes a proxy out of service, or back in.
#[utoipa::path(post, path = "/api/v1/proxies/{id}/drain", tag = "proxies",
    params(("id" = String, Path), DryRun, IdempotencyKey), request_body = Drain,
    responses((status = 200, description = "it will be told", body = AnswerWord), ChangeProblems))]
async fn drain(
    State(api): State<Arc<Api>>,
    At(id): At<String>,
    terms: Terms,
    Said(new): Said<Drain>,
) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::DrainProxy { id, draining: new.draining }).await
}
