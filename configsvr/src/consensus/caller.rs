//! How members call each other: JSON over HTTP, on the port of the API, with the peers' token.

use super::types::{MemberId, SnapshotMeta, Vote};
use crate::tls::{Dialer, IDLE_LIMIT, Tls};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

pub(super) const APPEND: &str = "/raft/append";
pub(super) const VOTE: &str = "/raft/vote";
pub(super) const SNAPSHOT: &str = "/raft/snapshot";
/// Up to which entry a reader must have applied to see all that was acknowledged.
pub(super) const READ: &str = "/raft/read";
pub(super) const REPORT: &str = "/raft/report";
/// What a member has to say against instances.
pub(super) const BALLOT: &str = "/raft/ballot";
/// Which member the caller wants: one that took over another's address must not answer for it.
pub(super) const TO: &str = "x-twemslot-to";
/// Who calls.
pub(super) const FROM: &str = "x-twemslot-from";

/// The largest call but snapshots. One transaction is at most 1 MiB (`store::TXN_BYTES_MAX`), and JSON makes at most six
/// bytes of one.
pub(super) const BODY_MAX: usize = 8 << 20;
/// The largest snapshot: far more than slots, groups and an audit trail need.
pub(super) const SNAPSHOT_MAX: usize = 256 << 20;
/// A machine that is gone answers nothing at all; one that is there accepts in a millisecond.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// What a member says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) id: MemberId,
    /// It has a log.
    pub(super) initialized: bool,
    /// Its log holds nothing but the first membership: no leader has ever written.
    pub(super) virgin: bool,
    /// It may take part (`admission`).
    pub(super) admitted: bool,
    /// It leads, and a majority followed it a moment ago.
    pub(super) leading: bool,
    /// For how long it has not heard a leader, in milliseconds; of a leader, for how long no majority has heard it.
    pub(super) silence_ms: u64,
    pub(super) last_log: Option<u64>,
    pub(super) voters: Vec<MemberId>,
    /// The caller's log, as far as this member, leading, knows it.
    pub(super) matched: Option<u64>,
}

/// A whole snapshot on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Parcel {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    /// The tree as JSON.
    pub(super) tree: String,
}

/// Why a call had no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoAnswer(pub(super) String);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAnswer {}

/// Cheap to clone; keeps connections.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    client: Client<Dialer, Full<Bytes>>,
    tls: Tls,
    token: HeaderValue,
    from: MemberId,
}

impl Caller {
    pub(super) fn new(from: MemberId, token: &str, tls: Tls) -> anyhow::Result<Self> {
        let mut token: HeaderValue = format!("Bearer {token}")
            .parse()
            .map_err(|_| anyhow::anyhow!("the peers' token holds characters that HTTP headers must not"))?;
        token.set_sensitive(true);
        let connector = Dialer::new(CONNECT_LIMIT, tls.clone());
        let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE_LIMIT).build(connector);
        Ok(Self { client, tls, token, from })
    }

    /// Body and answer as JSON.
    pub(super) async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        (to, addr): (MemberId, &str),
        path: &str,
        body: &Q,
        limit: Duration,
    ) -> Result<A, NoAnswer> {
        let body = serde_json::to_vec(body).map_err(|e| NoAnswer(e.to_string()))?;
        self.send((to, addr), path, body, limit).await
    }

    /// As `call`, with a body that is JSON already.
    pub(super) async fn send<A: DeserializeOwned>(
        &self,
        (to, addr): (MemberId, &str),
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<A, NoAnswer> {
        let failed = |why: &dyn fmt::Display| NoAnswer(format!("member {to} at {addr}: {why}"));
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}://{addr}{path}", self.tls.scheme()))
            .header(AUTHORIZATION, self.token.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(TO, to)
            .header(FROM, self.from)
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| failed(&e))?;
        let answer = async {
            let answer = self.client.request(request).await.map_err(|e| failed(&causes(&e)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), BODY_MAX).collect().await.map_err(|e| failed(&e))?.to_bytes();
            if status != StatusCode::OK {
                return Err(failed(&format!("{status}: {}", String::from_utf8_lossy(&body))));
            }
            serde_json::from_slice(&body).map_err(|e| failed(&e))
        };
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(failed(&format!("no answer in {limit:?}"))))
    }

    /// What a member says of itself.
    pub(super) async fn report(&self, to: (MemberId, &str), limit: Duration) -> Result<Report, NoAnswer> {
        self.call(to, REPORT, &(), limit).await
    }
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
