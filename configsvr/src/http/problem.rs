//! The one shape in which this API says no, and the one place that knows which status a refusal has.

use super::limits::KEY_BYTES_MAX;
use crate::control::command::{Kind, Refusal};
use crate::store::Fault;
use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use utoipa::openapi::response::{Response as Doc, ResponseBuilder};
use utoipa::openapi::{ContentBuilder, Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

/// Every answer outside of 2xx and 304 has this body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    pub error: Detail,
    #[serde(skip)]
    #[schema(ignore)]
    status: u16,
    #[serde(skip)]
    #[schema(ignore)]
    retry_after_s: Option<u32>,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Detail {
    /// A word for programs: `no_such_group`, `slot_taken`, `unauthorized`.
    #[schema(value_type = String)]
    pub code: Cow<'static, str>,
    /// What is wrong, and where. One line.
    pub message: String,
    /// What to do about it. One line.
    pub hint: String,
}

impl Problem {
    pub fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let error = Detail { code: code.into(), message: message.into(), hint: hint.into() };
        Self { error, status: status.as_u16(), retry_after_s: None }
    }

    /// The caller may try again after so many seconds.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn invalid(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message, hint)
    }

    pub(super) fn absent(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message, hint)
    }

    pub(super) fn no_cluster() -> Self {
        let hint = "create one: POST /api/v1/cluster, or `twemslotctl cluster create --name NAME`";
        Self::absent("no_cluster", "there is no cluster yet", hint)
    }

    pub(super) fn busy(what: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", what, "try again in a second").retry_after(1)
    }

    pub(super) fn unavailable(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message, hint).retry_after(1)
    }

    /// Nobody can say whether it was done.
    pub(super) fn unknown(message: impl Into<String>) -> Self {
        let hint = "look whether it was done; with an Idempotency-Key the same call again is safe";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "unknown", message, hint)
    }

    pub(super) fn bad_key() -> Self {
        let message = "Idempotency-Key: not a key";
        Self::invalid("bad_idempotency_key", message, format!("1 to {KEY_BYTES_MAX} visible ASCII characters"))
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, retry) = match refusal.kind {
            Kind::Invalid => (StatusCode::BAD_REQUEST, None),
            Kind::Absent => (StatusCode::NOT_FOUND, None),
            Kind::Conflict => (StatusCode::CONFLICT, None),
            Kind::Unfit => (StatusCode::UNPROCESSABLE_ENTITY, None),
            Kind::Busy => (StatusCode::TOO_MANY_REQUESTS, Some(1)),
            Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Some(1)),
            Kind::Unknown => (StatusCode::GATEWAY_TIMEOUT, None),
        };
        let mut problem = Self::new(status, refusal.code, refusal.message, refusal.hint);
        problem.retry_after_s = retry;
        problem
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let message = fault.to_string();
        match fault {
            Fault::Unavailable(_) => {
                Self::unavailable("store_unavailable", message, "see GET /api/v1/cluster, `store`")
            }
            Fault::Unknown(_) => Self::unknown(message),
            Fault::Invalid(_) | Fault::NoLease(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store_refused", message, "see the log of this member")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let retry_after_s = self.retry_after_s;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"twemslot\""));
        }
        if let Some(seconds) = retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What any call may be answered, for the OpenAPI document.
const ANY: [(u16, &str); 9] = [
    (400, "malformed: the message says where"),
    (401, "no token, or one that nobody knows"),
    (403, "the token's role may not do this, or a foreign web page asks"),
    (404, "names something that is not there"),
    (405, "this path does not know the method; `Allow` says which it knows"),
    (429, "too many calls, or too many failed logins; see Retry-After"),
    (500, "a fault of this program; its log says more"),
    (503, "not now: no leader is known, or the store cannot be reached; see Retry-After"),
    (504, "no answer in time"),
];

/// What a change may be answered beside.
const CHANGE: [(u16, &str); 4] = [
    (409, "against what is there now; nothing was changed"),
    (413, "the body is too large"),
    (415, "the body is not said to be application/json"),
    (422, "an instance is unfit; the message says which and why"),
];

fn documented(list: &[(u16, &str)]) -> BTreeMap<String, RefOr<Doc>> {
    let body = || ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let answer = |text: &str| ResponseBuilder::new().description(text).content("application/json", body()).build();
    list.iter().map(|(status, text)| (status.to_string(), RefOr::T(answer(text)))).collect()
}

/// The refusals of a call that only reads.
pub(super) enum ReadProblems {}

impl IntoResponses for ReadProblems {
    fn responses() -> BTreeMap<String, RefOr<Doc>> {
        documented(&ANY)
    }
}

/// The refusals of a call that changes something.
pub(super) enum ChangeProblems {}

impl IntoResponses for ChangeProblems {
    fn responses() -> BTreeMap<String, RefOr<Doc>> {
        let mut all = documented(&ANY);
        all.append(&mut documented(&CHANGE));
        all
    }
}
