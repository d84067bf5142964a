//! Who may do what: bearer tokens with roles, and patience with those who get them wrong.
//!
//! Without tokens in the configuration everything is open; the configuration allows that on a loopback address only. Even
//! there a web page in somebody's browser must not be the caller, so foreign origins and host names are refused.

use super::Api;
use super::clock::now;
use super::extract::Caller;
use super::limits::{ADDRESSES_MAX, FAILURES_MAX, FAILURES_WINDOW};
use super::problem::Problem;
use crate::config::{ApiToken, Role};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use subtle::ConstantTimeEq;
use tokio::sync::Mutex;

/// A token, as it is compared: its hash, never itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Stands in the audit trail.
    pub name: String,
    pub role: Role,
    pub sha256: Hash,
}

impl TryFrom<&ApiToken> for Token {
    type Error = String;

    fn try_from(token: &ApiToken) -> Result<Self, String> {
        let sha256 = Hash::try_from(token.sha256.clone()).map_err(|e| format!("token {}: {e}", token.name))?;
        Ok(Self { name: token.name.clone(), role: token.role, sha256 })
    }
}

/// A SHA-256, as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Of a token as it travels.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl TryFrom<String> for Hash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fault = || "not a SHA-256: 64 hex digits, as `printf %s TOKEN | sha256sum` prints them".to_owned();
        if text.len() != 64 || !text.is_ascii() {
            return Err(fault());
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| fault())?;
        }
        Ok(Self(hash))
    }
}

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Role(&'static [Role]),
}

const READERS: Need = Need::Role(&[Role::Read, Role::Admin]);
const ADMINS: Need = Need::Role(&[Role::Admin]);
const PROXIES: Need = Need::Role(&[Role::Proxy, Role::Admin]);
const ALL: Need = Need::Role(&[Role::Read, Role::Admin, Role::Proxy]);

/// The whole of who may do what.
fn need(method: &Method, path: &str) -> Need {
    let reads = super::reads(method);
    match path {
        "/healthz" | "/readyz" if reads => Need::Nothing,
        "/api/v1/topology" | "/api/v1/members" if reads => ALL,
        "/api/v1/store/export" => ADMINS, // it holds what users' passwords hash to
        // A proxy looks whether it is registered as what it is.
        _ if reads && path.strip_prefix("/api/v1/proxies/").is_some_and(|id| !id.is_empty() && !id.contains('/')) => {
            ALL
        }
        _ if reads => READERS,
        _ if path.starts_with("/api/v1/proxies/") && path.ends_with("/beat") => PROXIES,
        _ => ADMINS,
    }
}

/// Lets through those who may; the rest are told why not.
pub(super) async fn gate(State(api): State<Arc<Api>>, mut call: Request, next: Next) -> Response {
    let client = call.extensions().get::<ConnectInfo<SocketAddr>>().map(|c| c.0.ip());
    let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    match admit(&api, call.method(), call.uri(), call.headers(), client).await {
        Ok(caller) => {
            call.extensions_mut().insert(caller);
            next.run(call).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn admit(api: &Api, method: &Method, uri: &Uri, headers: &HeaderMap, client: IpAddr) -> Result<Caller, Problem> {
    refuse_web_pages(uri, headers, api.tokens.is_empty())?;
    let roles = match need(method, uri.path()) {
        Need::Role(roles) if !api.tokens.is_empty() => roles,
        _ => return Ok(Caller { name: "anonymous".to_owned(), role: None }),
    };
    let hash = Hash::of(bearer(headers)?);
    let now = now();
    let mut failures = api.failures.lock().await;
    failures.check(client, now)?;
    let Some(token) = find(&api.tokens, hash) else {
        failures.count(client, hash, now);
        return Err(unauthorized("nobody knows this token"));
    };
    if roles.contains(&token.role) {
        return Ok(Caller { name: token.name.clone(), role: Some(token.role) });
    }
    let message = format!("token {:?} has the role {:?}, which may not do this", token.name, token.role).to_lowercase();
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", message, "use a token with the role admin"))
}

fn unauthorized(message: &str) -> Problem {
    let hint = "send `Authorization: Bearer TOKEN` (twemslotctl: TWEMSLOT_TOKEN or --token-file)";
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", message, hint)
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(header::AUTHORIZATION).ok_or_else(|| unauthorized("this needs a token"))?;
    let text = value.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or_default();
    let token = Some(token.trim()).filter(|t| scheme.eq_ignore_ascii_case("bearer") && !t.is_empty());
    token.ok_or_else(|| unauthorized("the Authorization header is not `Bearer TOKEN`"))
}

/// All are compared, whichever matches: how long it takes tells nothing.
fn find(tokens: &[Token], hash: Hash) -> Option<&Token> {
    tokens.iter().fold(None, |found, token| {
        if bool::from(token.sha256.0.as_slice().ct_eq(hash.0.as_slice())) { Some(token) } else { found }
    })
}

/// A web page elsewhere can make a browser call us. It cannot hide where it is from.
fn refuse_web_pages(uri: &Uri, headers: &HeaderMap, open: bool) -> Result<(), Problem> {
    let header = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let host = header(header::HOST).or_else(|| uri.authority().map(|a| a.as_str())).unwrap_or_default();
    let refuse = |message: String| {
        let hint = "call the API directly, or open the dashboard under the address it is served from";
        Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", message, hint))
    };
    if let Some(origin) = header(header::ORIGIN) {
        let from = origin.split_once("://").map_or(origin, |(_, from)| from);
        if !from.eq_ignore_ascii_case(host) {
            return refuse(format!("a web page of {origin} asks for something at {host}"));
        }
    }
    // Without tokens an address is all that protects: a name may be anybody's that points here.
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.contains(']') { host } else { name });
    let ours = name.is_empty() || name == "localhost" || name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    if open && !ours {
        return refuse(format!("without tokens this serves its address only, not the name {name}"));
    }
    Ok(())
}

/// Who got it wrong lately.
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_client: BTreeMap<IpAddr, Failure>,
}

#[derive(Debug)]
struct Failure {
    since: Instant,
    /// Each once, and no more than are needed to make it wait: several programs with yesterday's tokens, which take turns,
    /// are no guesser.
    different: Vec<Hash>,
}

/// Shared by all calls, held for a look at the table only.
pub(super) type SharedFailures = Mutex<Failures>;

impl Failures {
    fn check(&self, client: IpAddr, now: Instant) -> Result<(), Problem> {
        let Some(failure) = self.by_client.get(&network(client)) else { return Ok(()) };
        let left = FAILURES_WINDOW.saturating_sub(now.saturating_duration_since(failure.since));
        if failure.different.len() < FAILURES_MAX || left.is_zero() {
            return Ok(());
        }
        let message = format!("{FAILURES_MAX} different wrong tokens came from {client}");
        let hint = format!("wait {} seconds, then use a right one", left.as_secs() + 1);
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", message, hint);
        Err(problem.retry_after(left.as_secs() as u32 + 1))
    }

    fn count(&mut self, client: IpAddr, hash: Hash, now: Instant) {
        let client = network(client);
        if !self.by_client.contains_key(&client) && self.by_client.len() >= ADDRESSES_MAX {
            let oldest = self.by_client.iter().min_by_key(|(_, f)| f.since).map(|(client, _)| *client);
            oldest.and_then(|client| self.by_client.remove(&client));
        }
        let failure = self.by_client.entry(client).or_insert_with(|| Failure { since: now, different: Vec::new() });
        if now.saturating_duration_since(failure.since) >= FAILURES_WINDOW {
            *failure = Failure { since: now, different: Vec::new() };
        }
        if failure.different.len() < FAILURES_MAX && !failure.different.contains(&hash) {
            failure.different.push(hash);
        }
    }
}

/// Who has one IPv6 address usually has 2^64 of them.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V6(v6) => {
            v6.to_ipv4_mapped().map_or_else(|| IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()), IpAddr::V4)
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn guesses_are_counted_and_forgotten() {
        let (mut failures, start) = (Failures::default(), now());
        let (guesser, other) = (ip("10.0.0.1"), ip("10.0.0.2"));
        for n in 0..FAILURES_MAX {
            assert!(failures.check(guesser, start).is_ok(), "{n}");
            failures.count(guesser, Hash::of(&n.to_string()), start);
        }
        let problem = failures.check(guesser, start + Duration::from_secs(1)).expect_err("enough");
        assert_eq!(problem.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(failures.check(other, start).is_ok());
        assert!(failures.check(guesser, start + FAILURES_WINDOW).is_ok());
        failures.count(guesser, Hash::of("x"), start + FAILURES_WINDOW);
        assert!(failures.check(guesser, start + FAILURES_WINDOW).is_ok(), "the count begins anew");
    }

    #[test]
    fn yesterdays_token_locks_nobody_out() {
        let (mut failures, start) = (Failures::default(), now());
        (0..1000).for_each(|_| failures.count(ip("10.0.0.1"), Hash::of("old"), start));
        assert!(failures.check(ip("10.0.0.1"), start).is_ok());
    }

    /// Two proxies of one machine, each with its own, call by turns.
    #[test]
    fn several_old_tokens_by_turns_lock_nobody_out() {
        let (mut failures, start) = (Failures::default(), now());
        for n in 0..1000 {
            failures.count(ip("10.0.0.1"), Hash::of(&(n % (FAILURES_MAX - 1)).to_string()), start);
        }
        assert!(failures.check(ip("10.0.0.1"), start).is_ok());
        failures.count(ip("10.0.0.1"), Hash::of("one more"), start);
        assert!(failures.check(ip("10.0.0.1"), start).is_err());
    }

    #[test]
    fn the_table_is_bounded_and_a_network_counts_as_one() {
        let (mut failures, start) = (Failures::default(), now());
        for n in 0..2 * ADDRESSES_MAX as u32 {
            failures.count(IpAddr::V4(n.into()), Hash::of("x"), start + Duration::from_millis(n.into()));
        }
        assert_eq!(failures.by_client.len(), ADDRESSES_MAX);
        assert!(!failures.by_client.contains_key(&IpAddr::V4(0.into())), "the oldest goes first");
        assert_eq!(network(ip("2001:db8::1")), network(ip("2001:db8::ffff:2")));
        assert_ne!(network(ip("2001:db8::1")), network(ip("2001:db8:0:1::1")));
        assert_eq!(network(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }

    #[test]
    fn a_hash_is_read_or_refused() {
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180-2, "abc"
        assert_eq!(Hash::try_from(known.to_owned()), Ok(Hash::of("abc")));
        assert_eq!(String::from(Hash::of("abc")), known);
        assert!(
            ["", "ba78", &"g".repeat(64), &"ü".repeat(32)].iter().all(|t| Hash::try_from((*t).to_owned()).is_err())
        );
    }

    #[test]
    fn what_is_not_named_needs_an_admin() {
        for (method, path, expected) in [
            (Method::GET, "/healthz", Need::Nothing),
            (Method::POST, "/healthz", ADMINS),
            (Method::GET, "/metrics", READERS),
            (Method::GET, "/nowhere", READERS),
            (Method::GET, "/api/v1/topology", ALL),
            (Method::GET, "/api/v1/groups", READERS),
            (Method::POST, "/api/v1/proxies/p1/beat", PROXIES),
            (Method::POST, "/api/v1/proxies/p1/drain", ADMINS),
            (Method::DELETE, "/api/v1/groups/1", ADMINS),
        ] {
            assert_eq!(need(&method, path), expected, "{method} {path}");
        }
    }
}
