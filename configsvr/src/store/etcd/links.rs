//! Connections to etcd's members, one client for each. A call goes to the member that answered last and, where it does not
//! answer, to the others in turn; etcd-client itself would fail the call, or hang with it.

use super::options::Options;
use crate::store::{Fault, Server, ServerStatus};
use etcd_client::{Client, Error};
use futures_util::future::join_all;
use std::fmt::Display;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

/// How long a call looks for a member that answers. An election in etcd takes 1 to 2 s and fits in.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(3);
/// Between two rounds through all endpoints.
const PAUSE: Duration = Duration::from_millis(50);

/// The members of etcd.
pub(super) struct Links {
    options: Options,
    links: Vec<Link>,
    /// The one that answered last.
    current: AtomicUsize,
    /// For people; None before the first connection.
    version: watch::Sender<Option<String>>,
}

struct Link {
    endpoint: String,
    known: Mutex<Known>,
}

/// The client in use, and how many there were: who finds one broken may find a newer one here already.
#[derive(Default)]
struct Known {
    number: u64,
    client: Option<Client>,
}

/// Why one attempt at one endpoint came to nothing.
#[derive(Debug)]
pub(super) enum Miss {
    /// Certainly not done.
    Not(String),
    /// It may have been done.
    Perhaps(String),
    /// No other endpoint will say anything else.
    Final(Fault),
}

/// Whether a call may be made again when it may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Nothing to be done at all.
    Read,
    Harmless,
    Harmful,
}

/// The answer, and whether an attempt before it may have been done as well.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    pub(super) perhaps_before: Option<String>,
}

impl Links {
    pub(super) fn new(options: Options) -> Self {
        let link = |endpoint: &String| Link { endpoint: endpoint.clone(), known: Mutex::default() };
        let links = options.endpoints.iter().map(link).collect();
        Self { links, options, current: AtomicUsize::new(0), version: watch::Sender::new(None) }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn describe(&self) -> String {
        let version = self.version.borrow().as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        format!("etcd{version} at {}", self.links[self.current.load(Ordering::Relaxed)].endpoint)
    }

    /// Each endpoint by itself.
    pub(super) async fn servers(&self) -> Vec<Server> {
        join_all((0..self.links.len()).map(|at| self.server(at))).await
    }

    async fn server(&self, at: usize) -> Server {
        let addr = self.links[at].endpoint.clone();
        match self.attempt(at, |mut client| async move { client.status().await }).await {
            Ok(said) => {
                let own = said.header().map(|h| h.member_id());
                let fault = match (said.leader(), said.errors()) {
                    (_, complaints) if !complaints.is_empty() => Some(complaints.join("; ")),
                    (0, _) => Some("it knows no leader".to_owned()),
                    _ => None,
                };
                let bytes = u64::try_from(said.db_size()).unwrap_or(0);
                let leading = own == Some(said.leader());
                Server {
                    addr,
                    status: Some(ServerStatus { version: said.version().to_owned(), leading, bytes }),
                    fault,
                }
            }
            Err(Miss::Not(why) | Miss::Perhaps(why)) => Server { addr, status: None, fault: Some(why) },
            Err(Miss::Final(fault)) => Server { addr, status: None, fault: Some(fault.to_string()) },
        }
    }

    /// Calls until somebody answers.
    pub(super) async fn call<T, F: Future<Output = Result<T, Error>> + Send>(
        &self,
        repeat: Repeat,
        f: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<Answer<T>, Fault> {
        let end = Instant::now() + CALL_LIMIT;
        let mut perhaps_before = None;
        loop {
            let first = self.current.load(Ordering::Relaxed);
            let mut why = String::new();
            for step in 0..self.links.len() {
                let at = (first + step) % self.links.len();
                match self.attempt(at, &f).await {
                    Ok(value) => {
                        self.current.store(at, Ordering::Relaxed);
                        return Ok(Answer { value, perhaps_before });
                    }
                    Err(Miss::Final(fault)) => return Err(fault),
                    Err(Miss::Perhaps(said)) if repeat == Repeat::Harmful => return Err(Fault::Unknown(said)),
                    Err(Miss::Perhaps(said)) if repeat == Repeat::Read => why = said,
                    Err(Miss::Perhaps(said)) => {
                        perhaps_before = Some(said.clone());
                        why = said;
                    }
                    Err(Miss::Not(said)) => why = said,
                }
                if Instant::now() >= end {
                    break;
                }
            }
            if Instant::now() + PAUSE >= end {
                return Err(perhaps_before.map_or(Fault::Unavailable(why), Fault::Unknown));
            }
            sleep(PAUSE).await;
        }
    }

    /// One call to one member.
    pub(super) async fn attempt<T, F: Future<Output = Result<T, Error>> + Send>(
        &self,
        at: usize,
        f: impl FnOnce(Client) -> F + Send,
    ) -> Result<T, Miss> {
        let link = &self.links[at];
        let limit = self.options.timeout();
        let late = |what: &str| format!("{}: no {what} in {limit:?}", link.endpoint);
        let connected = timeout(limit, self.client(link)).await;
        let (number, client) = connected.unwrap_or_else(|_| Err(Miss::Not(late("connection"))))?;
        let miss = match timeout(limit, f(client)).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => judge(&link.endpoint, &error),
            Err(_) => Miss::Perhaps(late("answer")),
        };
        if !matches!(miss, Miss::Final(_)) {
            link.forget(number).await;
        }
        Err(miss)
    }

    /// The next call to this member connects anew, and so gets another token.
    pub(super) async fn renew(&self, at: usize) {
        self.links[at].known.lock().await.client = None;
    }

    /// How many members there are, and which of them answered last.
    pub(super) fn order(&self) -> (usize, usize) {
        (self.links.len(), self.current.load(Ordering::Relaxed))
    }

    async fn client(&self, link: &Link) -> Result<(u64, Client), Miss> {
        let not = |why: &dyn Display| Miss::Not(format!("{}: {why}", link.endpoint));
        let mut known = link.known.lock().await;
        if let Some(client) = &known.client {
            return Ok((known.number, client.clone()));
        }
        let options = self.options.clone();
        let options = tokio::task::spawn_blocking(move || options.connect()).await.map_err(|e| not(&e))?;
        let options = options.map_err(|e| Miss::Final(Fault::Invalid(format!("{e:#}"))))?;
        let client = match Client::connect([link.endpoint.as_str()], Some(options)).await {
            Ok(client) => client,
            // Nothing but a password has been sent.
            Err(error) => match judge(&link.endpoint, &error) {
                Miss::Perhaps(why) => return Err(Miss::Not(why)),
                miss => return Err(miss),
            },
        };
        self.ask_version(&client);
        known.number += 1;
        known.client = Some(client.clone());
        Ok((known.number, client))
    }

    /// In its own time.
    fn ask_version(&self, client: &Client) {
        if self.version.borrow().is_some() {
            return;
        }
        let (mut client, version) = (client.clone(), self.version.clone());
        tokio::spawn(async move {
            if let Ok(status) = client.status().await {
                version.send_replace(Some(status.version().to_owned()));
            }
        });
    }
}

impl Link {
    /// The next call connects anew, unless somebody did already.
    async fn forget(&self, number: u64) {
        let mut known = self.known.lock().await;
        if known.number == number {
            known.client = None;
        }
    }
}

/// What an error means.
fn judge(endpoint: &str, error: &Error) -> Miss {
    let text = format!("{endpoint}: {}", causes(error));
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match error {
        Error::InvalidArgs(_) | Error::InvalidUri(_) => Miss::Final(Fault::Invalid(text)),
        _ if has(&["invalid auth token", "revision of auth store is old"]) => Miss::Not(text),
        _ if has(&[
            "authentication failed",
            "permission denied",
            "authentication is not enabled",
            "user name is empty",
        ]) =>
        {
            Miss::Final(Fault::Invalid(format!("{text}. Check user and password of etcd, and the role's key range")))
        }
        _ if has(&["request is too large", "too many operations", "duplicate key given"]) => {
            Miss::Final(Fault::Invalid(text))
        }
        _ if has(&["database space exceeded"]) => Miss::Final(Fault::Unavailable(format!(
            "{text}. etcd refuses writes: compact and defragment it, then `etcdctl alarm disarm`"
        ))),
        // Whose lease is missing the caller knows.
        _ if has(&["requested lease not found"]) => Miss::Final(Fault::NoLease(0)),
        // Said before anything is done, or without any etcd.
        _ if has(&["no leader", "too many requests", "Connection refused", "connect error", "dns error"]) => {
            Miss::Not(text)
        }
        Error::TransportError(_) => Miss::Not(text),
        _ => Miss::Perhaps(text),
    }
}

/// An error with what caused it: a gRPC status hides a refused connection.
fn causes(error: &Error) -> String {
    let mut text = error.to_string();
    let status = match error {
        Error::GRpcStatus(status) => std::error::Error::source(status),
        Error::TransportError(error) => std::error::Error::source(error),
        _ => None,
    };
    let mut cause = status;
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
