//! Where calls of other members come in: `/raft/...` beside the API.

use super::caller::{APPEND, BALLOT, BODY_MAX, FROM, Parcel, READ, REPORT, Report, SNAPSHOT, SNAPSHOT_MAX, TO, VOTE};
use super::heard::Heard;
use super::types::{MemberId, Raft};
use crate::control::event::Leadership;
use crate::control::health::Ballot;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use openraft::ServerState;
use openraft::raft::AppendEntriesResponse;
use openraft::storage::Snapshot;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::time::Instant;

/// What the door needs.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) id: MemberId,
    pub(super) raft: Raft,
    pub(super) token: Arc<str>,
    pub(super) heard: Arc<Heard>,
    /// Whether raft may answer others yet (`admission`).
    pub(super) admitted: Arc<AtomicBool>,
    pub(super) leadership: watch::Receiver<Leadership>,
    /// The latest, and when it was made.
    pub(super) ballot: watch::Receiver<(Ballot, Instant)>,
}

/// An answer, or what is wrong with the call.
type Answer = Result<Response, (StatusCode, String)>;

impl Door {
    pub(super) fn router(self) -> Router {
        let raft = Router::new()
            .route(APPEND, post(append))
            .route(VOTE, post(vote))
            .route(READ, post(read))
            .layer(DefaultBodyLimit::max(BODY_MAX))
            .merge(Router::new().route(SNAPSHOT, post(snapshot)).layer(DefaultBodyLimit::max(SNAPSHOT_MAX)))
            .layer(from_fn_with_state(self.clone(), admit));
        let all = raft.route(REPORT, post(report)).route(BALLOT, post(ballot));
        all.layer(from_fn_with_state(self.clone(), authenticate)).with_state(self)
    }

    /// What this member says of itself, to another.
    pub(super) fn report(&self, to: Option<MemberId>) -> Report {
        let metrics = self.raft.metrics().borrow().clone();
        let leading = matches!(&*self.leadership.borrow(), Leadership::Leading(_));
        let replication = metrics.replication.as_ref().filter(|_| leading);
        Report {
            id: self.id,
            initialized: metrics.last_log_index.is_some() || metrics.current_term > 0,
            virgin: metrics.last_log_index.is_none_or(|index| index == 0),
            admitted: self.admitted.load(Ordering::Acquire),
            leading,
            silence_ms: match metrics.state {
                // Just elected: nobody had the time to say so.
                ServerState::Leader => metrics.millis_since_quorum_ack.unwrap_or(0),
                _ => self.heard.silence().as_millis() as u64,
            },
            last_log: metrics.last_log_index,
            voters: metrics.membership_config.voter_ids().collect(),
            matched: to.and_then(|to| replication?.get(&to)?.map(|id| id.index)),
        }
    }
}

/// Only peers come in.
async fn authenticate(State(door): State<Door>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let bearer = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    let token = bearer.strip_prefix(b"Bearer ").unwrap_or_default();
    if !bool::from(token.ct_eq(door.token.as_bytes())) {
        let why = "the peers' token is missing or wrong: it must be the same at all members\n";
        return (StatusCode::UNAUTHORIZED, why).into_response();
    }
    if number(headers, TO).is_some_and(|to| to != door.id) {
        return (StatusCode::MISDIRECTED_REQUEST, format!("this is member {}\n", door.id)).into_response();
    }
    next.run(request).await
}

/// Keeps calls from raft until it is certain that this member's disk holds all it ever promised.
async fn admit(State(door): State<Door>, request: Request, next: Next) -> Response {
    if door.admitted.load(Ordering::Acquire) {
        return next.run(request).await;
    }
    let why = "this member does not know yet whether it was a member before\n";
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(|e| (StatusCode::BAD_REQUEST, format!("not what was expected: {e}\n")))
}

fn answer<T: Serialize>(value: &T) -> Answer {
    let json = serde_json::to_vec(value).map_err(|e| broken(&e))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

fn broken(why: &dyn std::fmt::Display) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n"))
}

async fn append(State(door): State<Door>, body: Bytes) -> Answer {
    let done = door.raft.append_entries(parsed(&body)?).await.map_err(|e| broken(&e))?;
    if !matches!(done, AppendEntriesResponse::HigherVote(_)) {
        door.heard.again();
    }
    answer(&done)
}

async fn vote(State(door): State<Door>, body: Bytes) -> Answer {
    let done = door.raft.vote(parsed(&body)?).await.map_err(|e| broken(&e))?;
    if done.vote_granted {
        // Who votes gives the other time to be heard.
        door.heard.again();
    }
    answer(&done)
}

async fn snapshot(State(door): State<Door>, body: Bytes) -> Answer {
    let Parcel { vote, meta, tree } = parsed(&body)?;
    drop(body);
    door.heard.again();
    let snapshot = Snapshot { meta, snapshot: Box::new(Cursor::new(tree.into_bytes())) };
    let done = door.raft.install_full_snapshot(vote, snapshot).await.map_err(|e| broken(&e))?;
    door.heard.again();
    answer(&done)
}

/// For members that do not lead but want to read what is true.
async fn read(State(door): State<Door>) -> Answer {
    let unable = |e: &dyn std::fmt::Display| (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n"));
    let (read, _) = door.raft.get_read_log_id().await.map_err(|e| unable(&e))?;
    answer(&read.map(|id| id.index))
}

/// The ballot, and how old it is in milliseconds.
async fn ballot(State(door): State<Door>) -> Answer {
    let (ballot, made) = door.ballot.borrow().clone();
    answer(&(ballot, made.elapsed().as_millis() as u64))
}

async fn report(State(door): State<Door>, headers: HeaderMap) -> Answer {
    answer(&door.report(number(&headers, FROM)))
}
