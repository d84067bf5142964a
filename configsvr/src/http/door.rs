//! What every call goes through, whatever it asks: how many at once, for how long, and what if something breaks.

use super::Api;
use super::limits::{CALL_LIMIT, CALLS_MAX, IMPORT_LIMIT, PLAN_LIMIT};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::sync::Arc;

/// Bounds how many calls are under way, and how long each takes until its answer begins. Health is always answered.
pub(super) async fn bound(State(api): State<Arc<Api>>, call: Request, next: Next) -> Response {
    if super::is_health(call.uri().path()) {
        return next.run(call).await;
    }
    let Ok(_place) = api.places.try_acquire() else {
        return Problem::busy(&format!("{CALLS_MAX} calls are under way")).into_response();
    };
    let limit = match call.uri().path() {
        path if super::is_import(path) => IMPORT_LIMIT,
        "/api/v1/rebalance" => PLAN_LIMIT,
        _ => CALL_LIMIT,
    };
    let answer = tokio::time::timeout(limit, next.run(call)).await;
    answer.unwrap_or_else(|_| Problem::unknown(format!("no answer within {limit:?}")).into_response())
}

/// A handler that panics is a fault of ours; the caller gets an answer all the same.
#[expect(clippy::needless_pass_by_value, reason = "the layer asks for this shape")]
pub(super) fn broken(panic: Box<dyn Any + Send + 'static>) -> axum::http::Response<Body> {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!("a handler broke: {}", said.unwrap_or("no message"));
    let message = "this program made a mistake";
    let hint = "its log says more; please report it";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, hint).into_response()
}

/// There is no such path.
pub(super) async fn no_such_path(uri: Uri) -> Problem {
    Problem::absent("no_such_path", format!("{} does not exist", uri.path()), "see /openapi.json for what does")
}

/// There is, but not for this. The router adds `Allow`.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let message = format!("{} does not know {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", message, "see /openapi.json for what it knows")
}
