//! Hands a topology to a proxy: PUT to its admin port, which answers once every worker serves it.

use crate::config::Secret;
use crate::control::event::PushFault;
use crate::tls::{Dialer, Tls};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::http::request::Builder;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::time::Duration;
use tokio::time::timeout;

/// How long the proxy may wait for its workers; they need milliseconds.
const BARRIER_MS: u64 = 3_000;
/// The whole call, with connecting.
const CALL_TIMEOUT: Duration = Duration::from_millis(BARRIER_MS + 2_000);
/// For what people want to know.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// A machine that is off does not refuse connections.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer is a few lines.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The way to all proxies; connections are kept.
#[derive(Debug, Clone)]
pub struct Pusher {
    client: Client<Dialer, Full<Bytes>>,
    token: Option<Secret>,
}

impl Pusher {
    /// `token`: what proxies ask for at their admin port; `tls`: for those whose address begins with https://.
    pub fn new(token: Option<Secret>, tls: Tls) -> Self {
        let connector = Dialer::new(CONNECT_TIMEOUT, tls);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(2).build(connector);
        Self { client, token }
    }

    /// The epoch the proxy serves after it; with `quiet`, once nothing for held slots is in flight there.
    pub async fn push(&self, admin_addr: &str, epoch: u64, message: &str, quiet: bool) -> Result<u64, PushFault> {
        match timeout(CALL_TIMEOUT, self.put(admin_addr, epoch, message, quiet)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PushFault::Unreachable(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))),
        }
    }

    /// What the proxy's admin port says at `path`.
    pub async fn read(&self, admin_addr: &str, path: &str) -> Result<Value, PushFault> {
        let uri = format!("{}{path}", base(admin_addr));
        match timeout(READ_TIMEOUT, self.get_well(&uri)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PushFault::Unreachable(format!("no answer within {} s", READ_TIMEOUT.as_secs()))),
        }
    }

    async fn get_well(&self, uri: &str) -> Result<Value, PushFault> {
        let call = self.call(Method::GET, uri)?.body(Full::default());
        let (status, json) = self.ask(call.map_err(|e| PushFault::Refused(e.to_string()))?).await?;
        if status.is_success() { Ok(json) } else { Err(refused(status, &json)) }
    }

    async fn put(&self, admin_addr: &str, epoch: u64, message: &str, quiet: bool) -> Result<u64, PushFault> {
        let uri = format!("{}/api/v1/topology?timeout_ms={BARRIER_MS}&quiet={quiet}", base(admin_addr));
        let call = self.call(Method::PUT, &uri)?.body(Full::from(message.to_owned()));
        let call = call.map_err(|e| PushFault::Refused(e.to_string()))?;
        let (status, json) = self.ask(call).await?;
        if status != StatusCode::CONFLICT {
            return judge(status, &json);
        }
        // It serves another topology of this epoch, or a later one: which?
        let serving = self.get(&format!("{}/api/v1/topology/status", base(admin_addr))).await?["epoch"].as_u64();
        match serving.filter(|serving| *serving > epoch) {
            Some(serving) => Err(PushFault::Newer { serving }),
            None => judge(status, &json),
        }
    }

    async fn get(&self, uri: &str) -> Result<Value, PushFault> {
        let call = self.call(Method::GET, uri)?.body(Full::default());
        let (_, json) = self.ask(call.map_err(|e| PushFault::Refused(e.to_string()))?).await?;
        Ok(json)
    }

    fn call(&self, method: Method, uri: &str) -> Result<Builder, PushFault> {
        let call = Request::builder().method(method).uri(uri).header(CONTENT_TYPE, "application/json");
        Ok(match &self.token {
            Some(token) => call.header(AUTHORIZATION, format!("Bearer {}", token.reveal())),
            None => call,
        })
    }

    async fn ask(&self, call: Request<Full<Bytes>>) -> Result<(StatusCode, Value), PushFault> {
        let answer = self.client.request(call).await.map_err(|e| PushFault::Unreachable(causes(&e)))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|e| PushFault::Unreachable(e.to_string()))?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

/// A proxy that speaks TLS at its admin port says so in its address.
fn base(admin_addr: &str) -> String {
    if admin_addr.starts_with("https://") { admin_addr.to_owned() } else { format!("http://{admin_addr}") }
}

fn judge(status: StatusCode, json: &Value) -> Result<u64, PushFault> {
    if status.is_success() {
        let said = json["epoch"].as_u64();
        return said.ok_or_else(|| PushFault::Refused("its answer names no epoch: is this a proxy?".into()));
    }
    Err(refused(status, json))
}

fn refused(status: StatusCode, json: &Value) -> PushFault {
    let message = json["error"]["message"].as_str().unwrap_or("no reason given");
    PushFault::Refused(format!("{}: {message}", status.as_u16()))
}

/// An error and what caused it, on one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_are_judged() {
        assert_eq!(judge(StatusCode::OK, &json!({"epoch": 7})), Ok(7));
        let told = json!({"error": {"message": "this port needs a token"}});
        assert!(matches!(judge(StatusCode::UNAUTHORIZED, &told), Err(PushFault::Refused(w)) if w.contains("token")));
        assert!(judge(StatusCode::OK, &Value::Null).is_err());
    }
}
