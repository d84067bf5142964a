//! What machines ask about this member itself: alive, ready, metrics, and the document of the API.

use super::Api;
use super::problem::{Problem, ReadProblems};
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz)).routes(routes!(metrics))
}

/// How this member is.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `alive`, `ready`
    status: &'static str,
    member: String,
}

/// This process runs and answers.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()),
    responses((status = 200, description = "it is alive", body = Health), ReadProblems))]
async fn healthz(State(api): State<Arc<Api>>) -> Json<Health> {
    Json(Health { status: "alive", member: api.member.clone() })
}

/// It knows who leads, and the store can be reached.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, description = "it is ready", body = Health), ReadProblems))]
async fn readyz(State(api): State<Arc<Api>>) -> Result<Json<Health>, Problem> {
    let view = api.desk.view.borrow().clone();
    let why = match (&view.leader, &view.store_fault) {
        (None, _) => "no leader is known".to_owned(),
        (_, Some(fault)) => format!("the store cannot be reached: {fault}"),
        _ => return Ok(Json(Health { status: "ready", member: api.member.clone() })),
    };
    Err(Problem::unavailable("not_ready", why, "see GET /api/v1/cluster"))
}

/// For Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "metrics", body = String, content_type = "text/plain"), ReadProblems))]
async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (api.metrics)())
}
