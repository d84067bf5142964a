//! Changes go to the leader: whichever member is asked, the caller gets the leader's answer, and whoever then reads from
//! the member that passed it on sees the change.

use super::Api;
use super::extract::{IDEMPOTENCY_KEY, body_limit, read};
use super::limits::CONNECT_LIMIT;
use super::problem::Problem;
use crate::store::Revision;
use crate::tls::{Dialer, IDLE_LIMIT, Tls};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// On every answer: the member that leads, as far as the one who answers knows.
pub const LEADER: HeaderName = HeaderName::from_static("x-twemslot-leader");
/// On every answer: the member it came from.
pub const MEMBER: HeaderName = HeaderName::from_static("x-twemslot-member");
/// On the answer to a change: what has been read of the store has at least this revision.
const REVISION: HeaderName = HeaderName::from_static("x-twemslot-revision");
/// On a call that a member passes on: by whom. It is not passed on again.
const FORWARDED: HeaderName = HeaderName::from_static("x-twemslot-forwarded-by");

/// So long a member holds back the leader's answer until it knows the change itself: it learns of it with the next message
/// of the leader, a heartbeat later at most. One that is cut off from the store answers all the same.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(1);

/// What of a call the leader needs to see.
const PASSED: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::ACCEPT,
    header::IF_NONE_MATCH,
    HeaderName::from_static(IDEMPOTENCY_KEY),
];

/// Connections to the other members.
#[derive(Debug, Clone)]
pub struct Peers {
    client: Client<Dialer, Body>,
    tls: Tls,
}

impl Peers {
    /// They are met as this member is.
    pub fn new(tls: Tls) -> Self {
        let connector = Dialer::new(CONNECT_LIMIT, tls.clone());
        Self { client: Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE_LIMIT).build(connector), tls }
    }
}

/// Passes on what is for the leader alone.
pub(super) async fn to_leader(State(api): State<Arc<Api>>, call: Request, next: Next) -> Response {
    let view = api.desk.view.borrow().clone();
    let for_leader =
        call.uri().path().starts_with("/api/v1/") && (!super::reads(call.method()) || wants_leader(call.uri()));
    if !for_leader || view.leading {
        return next.run(call).await;
    }
    let passed = match &view.leader {
        _ if call.headers().contains_key(FORWARDED) => {
            Err(nobody("it was passed on to this member, which does not lead"))
        }
        Some((name, addr)) if *name != api.member => pass(&api, name, addr, call).await,
        _ => Err(nobody("no leader is known at the moment")),
    };
    passed.unwrap_or_else(IntoResponse::into_response)
}

/// `?leader=true`: a read that wants the leader's own knowledge.
fn wants_leader(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|p| matches!(p, "leader" | "leader=" | "leader=true"))
}

fn nobody(why: &str) -> Problem {
    Problem::unavailable("no_leader", why, "nothing was changed; try again in a second")
}

async fn pass(api: &Api, name: &str, addr: &str, call: Request) -> Result<Response, Problem> {
    let (parts, body) = call.into_parts();
    let uri = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut onward = Request::builder().method(parts.method).uri(format!("{}://{addr}{uri}", api.peers.tls.scheme()));
    for (header, value) in PASSED.iter().flat_map(|h| parts.headers.get_all(h).iter().map(move |v| (h, v))) {
        onward = onward.header(header, value);
    }
    let onward = onward.header(FORWARDED, &api.member);
    let body = read(body, body_limit(parts.uri.path())).await?;
    let onward = onward.body(Body::from(body)).map_err(|e| nobody(&format!("the leader's address {addr:?}: {e}")))?;
    let answer = api.peers.client.request(onward).await.map_err(|e| no_answer(name, addr, &e))?;
    let mut response = answer.map(Body::new);
    for connection in [header::CONNECTION, header::TRANSFER_ENCODING, header::DATE] {
        response.headers_mut().remove(connection); // of that connection, not of ours
    }
    let revision = response.headers().get(REVISION).and_then(|v| v.to_str().ok()?.parse::<Revision>().ok());
    if let Some(revision) = revision {
        let mut view = api.desk.view.clone();
        _ = timeout(CATCH_UP_LIMIT, view.wait_for(|v| v.revision >= revision)).await; // the change is made, known or not
    }
    Ok(response)
}

fn no_answer(name: &str, addr: &str, e: &hyper_util::client::legacy::Error) -> Problem {
    let why = std::error::Error::source(e).map_or_else(|| e.to_string(), ToString::to_string);
    if e.is_connect() {
        return nobody(&format!("the leader, {name} at {addr}, cannot be reached: {why}"));
    }
    Problem::unknown(format!("the leader, {name} at {addr}, did not answer: {why}"))
}

/// Says on each answer whose it is.
pub(super) async fn sign(State(api): State<Arc<Api>>, call: Request, next: Next) -> Response {
    // Heartbeats change nothing that anybody reads after them.
    let change = !super::reads(call.method()) && !call.uri().path().ends_with("/beat");
    let mut response = next.run(call).await;
    let view = api.desk.view.borrow().clone();
    let leader = view.leader.as_ref().map(|(name, _)| name.clone());
    let headers = response.headers_mut();
    if change && view.leading {
        headers.insert(REVISION, HeaderValue::from(view.revision));
    }
    for (header, name) in [(MEMBER, Some(api.member.clone())), (LEADER, leader)] {
        if let Some(name) = name.and_then(|n| HeaderValue::from_str(&n).ok()) {
            headers.entry(header).or_insert(name); // a leader's answer is signed already
        }
    }
    response
}
