//! `slots`, and the `topology` as proxies read it.

use super::Api;
use super::change::change;
use super::documented::{AnswerWord, TopologyWord};
use super::extract::{Asked, Caller, Said, Terms};
use super::problem::{ChangeProblems, Problem, ReadProblems};
use super::words::{Answer, Assignment, DryRun, IdempotencyKey, Slots, SlotsOf, Spread, Whose, flag};
use crate::config::Role;
use crate::control::command::Command;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use cluster::topology::{SlotOwner, SlotState, Topology};
use cluster::wire;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(assign)).routes(routes!(spread)).routes(routes!(topology))
}

/// How slots are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// An entry for each slot rather than the shortest list of ranges.
    #[serde(default, deserialize_with = "flag")]
    #[param(value_type = Option<bool>)]
    per_slot: bool,
}

/// Who owns which slots.
#[utoipa::path(get, path = "/api/v1/slots", tag = "slots", params(Listing),
    responses((status = 200, description = "every slot, in order", body = Slots), ReadProblems))]
async fn list(State(api): State<Arc<Api>>, Asked(listing): Asked<Listing>) -> Result<Json<Slots>, Problem> {
    let topology = api.desk.view.borrow().topology.clone().ok_or_else(Problem::no_cluster)?;
    let ranges = ranges(&topology, listing.per_slot);
    Ok(Json(Slots { epoch: topology.epoch(), slot_count: topology.slot_count(), ranges }))
}

fn ranges(topology: &Topology, per_slot: bool) -> Vec<SlotsOf> {
    let mut ranges: Vec<SlotsOf> = Vec::new();
    for (slot, &SlotOwner { group, state }) in (0..).zip(topology.slots()) {
        let (state, target) = match state {
            SlotState::Normal => (wire::State::Normal, None),
            SlotState::Held => (wire::State::Held, None),
            SlotState::Moving { target } => (wire::State::Moving, Some(target)),
        };
        match ranges.last_mut() {
            Some(last) if !per_slot && (last.group, last.state, last.target) == (group, state, target) => {
                last.to = slot
            }
            _ => ranges.push(SlotsOf { from: slot, to: slot, group, state, target }),
        }
    }
    ranges
}

/// Gives slots to groups. A slot that another group owns is refused unless `force`: its keys stay behind there.
#[utoipa::path(post, path = "/api/v1/slots/assign", tag = "slots", params(DryRun, IdempotencyKey), request_body = Assignment,
    responses((status = 200, description = "given", body = AnswerWord), ChangeProblems))]
async fn assign(
    State(api): State<Arc<Api>>,
    terms: Terms,
    Said(new): Said<Assignment>,
) -> Result<Json<Answer>, Problem> {
    let Assignment { ranges, force } = new;
    change(&api, terms, Command::AssignSlots { ranges, force }).await
}

/// Spreads the slots that nobody owns evenly.
#[utoipa::path(post, path = "/api/v1/slots/spread", tag = "slots", params(DryRun, IdempotencyKey), request_body = Spread,
    responses((status = 200, description = "spread", body = AnswerWord), ChangeProblems))]
async fn spread(State(api): State<Arc<Api>>, terms: Terms, Said(new): Said<Spread>) -> Result<Json<Answer>, Problem> {
    change(&api, terms, Command::SpreadSlots { groups: new.groups }).await
}

/// The topology in force, as it is pushed to proxies; what passwords hash to is for proxies alone. `ETag` is its epoch.
#[utoipa::path(get, path = "/api/v1/topology", tag = "slots",
    params(Whose, ("If-None-Match" = Option<String>, Header, description = "the `ETag` of the one that is known")),
    responses((status = 200, description = "the topology", body = TopologyWord),
        (status = 304, description = "it is the one that is known"), ReadProblems))]
async fn topology(
    State(api): State<Arc<Api>>,
    Extension(Caller { role, .. }): Extension<Caller>,
    _: Asked<Whose>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let view = api.desk.view.borrow().clone();
    let (Some(topology), Some(message)) = (&view.topology, &view.message) else { return Err(Problem::no_cluster()) };
    let tag = format!("\"{}\"", topology.epoch());
    let known = headers.get(header::IF_NONE_MATCH).and_then(|t| t.to_str().ok()).unwrap_or_default();
    let is_known = known.split(',').any(|t| matches!(t.trim().trim_start_matches("W/"), t if t == tag || t == "*"));
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let kind = (header::CONTENT_TYPE, "application/json".to_owned());
    // Proxies must know what passwords hash to, and nobody else.
    let text = match role {
        None | Some(Role::Proxy) => message.to_string(),
        Some(_) => wire::print(&topology.shown()),
    };
    Ok(([kind, (header::ETAG, tag)], text).into_response())
}
