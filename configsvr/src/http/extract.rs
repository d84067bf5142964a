//! What handlers take out of a call: each says no in this API's own shape.

use super::limits::{BODY_BYTES_MAX, IMPORT_BYTES_MAX, KEY_BYTES_MAX};
use super::problem::Problem;
use super::words::DryRun;
use crate::config::Role;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The caller: the name of the token, put there by `auth`.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) name: String,
    /// None: no tokens are asked for.
    pub(super) role: Option<Role>,
}

/// A part of the path.
pub(super) struct At<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let hint = "see /openapi.json for what this path takes";
        let part = Path::<T>::from_request_parts(parts, state).await;
        part.map(|Path(part)| Self(part)).map_err(|e| Problem::invalid("bad_path", e.body_text(), hint))
    }
}

/// The query.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let hint = "see /openapi.json for what this path takes";
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|e| Problem::invalid("bad_query", e.body_text(), hint))
    }
}

/// What goes with a change: who asks, whether it is in earnest, and the key under which it is done once.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) who: String,
    pub(super) dry_run: bool,
    pub(super) idempotency_key: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Terms {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Asked(DryRun { dry_run }) = Asked::from_request_parts(parts, state).await?;
        let who = parts.extensions.get::<Caller>().map_or_else(|| "anonymous".to_owned(), |c| c.name.clone());
        Ok(Self { who, dry_run, idempotency_key: idempotency_key(&parts.headers)? })
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let good = |k: &&str| (1..=KEY_BYTES_MAX).contains(&k.len()) && k.bytes().all(|b| b.is_ascii_graphic());
    match (key.to_str().ok().filter(good), keys.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(Problem::bad_key()),
    }
}

/// The body, as JSON.
pub(super) struct Said<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Said<T> {
    type Rejection = Problem;

    async fn from_request(call: Request, _: &S) -> Result<Self, Problem> {
        // Not only for order's sake: a web page cannot send this type to another site without being asked first.
        if !is_json(call.headers()) {
            let message = "the body must be JSON, and be said to be";
            let hint = "send `Content-Type: application/json`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message, hint));
        }
        let limit = body_limit(call.uri().path());
        let bytes = read(call.into_body(), limit).await?;
        let hint = "see /openapi.json for what this path takes";
        let said = serde_json::from_slice(&bytes);
        said.map(Self).map_err(|e| Problem::invalid("bad_body", format!("the body: {e}"), hint))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|k| k.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// How many bytes a call to this path may bring.
pub(super) fn body_limit(path: &str) -> usize {
    if super::is_import(path) { IMPORT_BYTES_MAX } else { BODY_BYTES_MAX }
}

/// A whole body, if it is not too long.
pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => {
            let message = format!("the body is longer than {limit} bytes");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message, "send less in one call"))
        }
        Err(e) => Err(Problem::invalid("body_cut_short", format!("the body ended early: {e}"), "send it again")),
    }
}
