//! Calls to an admin port on this machine.

use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::time::Duration;
use ureq::config::ConfigBuilder;
use ureq::http::{Method, Request, Response};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

/// A topology is acknowledged by every worker before the call returns: longer than the proxy's own limit for it.
const LIMIT: Duration = Duration::from_secs(30);

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON (status {}): {}", self.status, self.body))
    }
}

/// `GET path`.
pub fn get(addr: SocketAddr, path: &str) -> Result<Answer> {
    let call = Request::builder().method(Method::GET).uri(uri(addr, path)).body(())?;
    answer(agent().run(call), addr, path)
}

/// `PUT path` with a JSON body.
pub fn put(addr: SocketAddr, path: &str, json: &str) -> Result<Answer> {
    send(Method::PUT, addr, path, json)
}

/// `POST path` with a JSON body, or an empty one.
pub fn post(addr: SocketAddr, path: &str, json: &str) -> Result<Answer> {
    send(Method::POST, addr, path, json)
}

/// Any call, with headers and a limit of its own.
pub fn call(
    method: &str,
    addr: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    json: &str,
    limit: Duration,
) -> Result<Answer> {
    let mut call = Request::builder().method(method).uri(uri(addr, path)).header("content-type", "application/json");
    for (name, value) in headers {
        call = call.header(*name, *value);
    }
    let agent: Agent = settings(limit).build().into();
    answer(agent.run(call.body(json.to_owned())?), addr, path)
}

fn send(method: Method, addr: SocketAddr, path: &str, json: &str) -> Result<Answer> {
    let call = Request::builder().method(method).uri(uri(addr, path)).header("content-type", "application/json");
    answer(agent().run(call.body(json.to_owned())?), addr, path)
}

fn uri(addr: SocketAddr, path: &str) -> String {
    format!("http://{addr}{path}")
}

fn agent() -> Agent {
    settings(LIMIT).build().into()
}

/// Whatever `http_proxy` says in the environment, this machine is asked directly.
fn settings(limit: Duration) -> ConfigBuilder<AgentScope> {
    let settings = Agent::config_builder().timeout_global(Some(limit)).http_status_as_error(false).proxy(None);
    settings.allow_non_standard_methods(true)
}

fn answer(response: Result<Response<Body>, ureq::Error>, addr: SocketAddr, path: &str) -> Result<Answer> {
    let mut response = response.with_context(|| format!("no answer from http://{addr}{path}"))?;
    let body = response.body_mut().read_to_string().with_context(|| format!("http://{addr}{path}"))?;
    Ok(Answer { status: response.status().as_u16(), body })
}
