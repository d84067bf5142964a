//! Calls to the API: finds it, tries one member after the other, and asks again while no leader is known. A change carries
//! an idempotency key, so asking again never does it twice. A member that is frozen still lets us connect, so whatever may
//! take long is preceded by a knock: who does not answer that is passed over.
#![expect(clippy::disallowed_methods, reason = "a shell: calls, reads files and waits")]

use super::fault::{Fault, Result};
use super::https::{self, Https};
use crate::http::limits::{CALL_LIMIT, IMPORT_LIMIT, PLAN_LIMIT};
use crate::http::problem::Problem;
use crate::http::words::Cluster;
use crate::http::words::Group;
use cluster::group::GroupId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use ureq::http::{Request, Response};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, TcpConnector};
use ureq::{Agent, AsSendBody, Body};

/// Members are near; one that takes longer to connect to is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Who is alive says so at once, however busy it is.
const KNOCK_LIMIT: Duration = Duration::from_millis(1500);
/// For what a member knows by itself.
const READ_LIMIT: Duration = Duration::from_secs(3);
/// Beyond the API's own limit: it is the API that had better say what became of a change.
const GRACE: Duration = Duration::from_secs(5);
/// A new leader is elected within two seconds; whoever waits longer had better know.
const PATIENCE: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(250);
/// An export of the largest cluster with its audit trail.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Where the API may be, as it was said.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// `--api`: one or more, with commas between.
    pub api: Option<String>,
    pub state_dir: PathBuf,
    pub token_file: Option<PathBuf>,
    /// For https: who signed the API's certificate.
    pub ca: Option<PathBuf>,
    /// ... and what it sees of us, where it asks.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Who is told how runs went.
    pub pushgateway: Option<String>,
}

/// The members of one control plane.
#[derive(Debug)]
pub(super) struct Client {
    /// `http://host:port`; the one that answered last comes first.
    members: Vec<String>,
    token: Option<String>,
    agent: Agent,
    pushgateway: Option<String>,
    keys: u64,
}

/// What is asked of the API.
#[derive(Debug, Clone)]
pub(super) struct Ask<'a> {
    pub method: &'a str,
    /// With its query.
    pub path: String,
    pub body: Option<Value>,
}

impl Ask<'_> {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: None }
    }

    /// How long one member may take to answer in full.
    fn limit(&self) -> Duration {
        let path = self.path.split('?').next().unwrap_or_default();
        match path {
            "/api/v1/import" | "/api/v1/store/import" | "/api/v1/store/export" => IMPORT_LIMIT + GRACE,
            "/api/v1/rebalance" => PLAN_LIMIT + GRACE,
            _ if self.method == "GET" && !asks_others(path) => READ_LIMIT,
            _ => CALL_LIMIT + GRACE,
        }
    }
}

/// Reads for which a member asks the store, proxies or instances, some of which may be silent.
fn asks_others(path: &str) -> bool {
    let others = ["audit", "bigkeys", "hotkeys", "slots/traffic", "store/servers"];
    let noun = path.strip_prefix("/api/v1/").unwrap_or_default();
    others.contains(&noun) || noun.ends_with("/maxmemory")
}

/// One member, asked by itself.
#[derive(Debug)]
pub(super) struct Reached {
    pub url: String,
    /// When its answer was there, by our clock, and how long that took.
    pub heard_ms: u64,
    pub took_ms: u64,
    pub said: Result<Cluster>,
}

/// Why one call to one member gave nothing.
#[derive(Debug)]
pub(super) enum Miss {
    /// Nobody was there, or nobody leads: somebody else may know, or the same one soon.
    Later(Fault),
    /// That is the answer.
    Final(Fault),
}

impl Client {
    pub(super) fn find(reach: &Reach) -> Result<Self> {
        let members = match &reach.api {
            Some(list) => list.split(',').map(str::trim).filter(|u| !u.is_empty()).map(url).collect::<Result<_>>()?,
            None => playground(&reach.state_dir)?,
        };
        if members.is_empty() {
            return Err(Fault::new("no address of the API was given", "--api http://HOST:6390[,URL...]"));
        }
        let caller = https::caller(reach.ca.as_deref(), reach.cert.as_deref(), reach.key.as_deref())?;
        if caller.is_none() && members.iter().any(|m| m.starts_with("https://")) {
            return Err(Fault::new("https: whom to trust?", "--ca FILE, or TWEMSLOT_CA: who signed its certificate"));
        }
        let config = Agent::config_builder().http_status_as_error(false).proxy(None).max_redirects(0);
        let config = config.timeout_connect(Some(CONNECT_LIMIT)).timeout_global(Some(CALL_LIMIT)).build();
        let connector = ().chain(TcpConnector::default()).chain(Https(caller));
        let agent = Agent::with_parts(config, connector, DefaultResolver::default());
        let pushgateway = reach.pushgateway.as_deref().map(url).transpose()?;
        Ok(Self { members, token: token(reach.token_file.as_deref())?, agent, pushgateway, keys: 0 })
    }

    /// Asks, and reads the answer.
    pub(super) fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        read(&self.ask(&Ask::get(path))?, path)
    }

    /// As `get`; but the leader's own knowledge where it can be had, else what any member knows.
    pub(super) fn of_leader<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let of_leader = format!("{path}?leader=true");
        match self.round(&Ask::get(of_leader), None) {
            Ok(text) => read(&text, path),
            Err(Miss::Final(fault)) => Err(fault),
            Err(Miss::Later(_)) => self.get(path),
        }
    }

    /// The answer's body. Waits a while for a leader. What is not known to be done is asked for twice at least, if only of
    /// one member: the second answer tells.
    pub(super) fn ask(&mut self, ask: &Ask<'_>) -> Result<String> {
        let key = (ask.method != "GET").then(|| self.key());
        let start = Instant::now();
        let mut asked = 0;
        loop {
            let answer = self.round(ask, key.as_deref());
            asked += self.members.len();
            match answer {
                Ok(text) => return Ok(text),
                Err(Miss::Final(fault)) => return Err(fault),
                Err(Miss::Later(fault)) if asked > 1 && start.elapsed() >= PATIENCE => return Err(fault),
                Err(Miss::Later(_)) => std::thread::sleep(PAUSE),
            }
        }
    }

    pub(super) fn pushgateway(&self) -> Option<&str> {
        self.pushgateway.as_deref()
    }

    /// Puts a text at any address; our token is not for it.
    pub(super) fn put(&self, url: &str, text: String) -> Result<()> {
        let hint = "does a pushgateway run there? --pushgateway or TWEMSLOT_PUSHGATEWAY names it";
        match self.agent.put(url).send(text) {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(Fault::new(format!("{url} answered {}", answer.status()), hint)),
            Err(e) => Err(Fault::new(format!("{url}: {e}"), hint)),
        }
    }

    /// Different for every change that is ever asked for from this machine.
    fn key(&mut self) -> String {
        self.keys += 1;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("ctl-{}-{}-{}", now.as_nanos(), std::process::id(), self.keys)
    }

    /// Each member once.
    fn round(&mut self, ask: &Ask<'_>, key: Option<&str>) -> std::result::Result<String, Miss> {
        let mut last = Fault::new("nobody was asked", "");
        for at in 0..self.members.len() {
            match self.one(&self.members[at], ask, key) {
                Ok(text) => {
                    self.members.swap(0, at);
                    return Ok(text);
                }
                Err(Miss::Later(fault)) => last = fault,
                Err(miss) => return Err(miss),
            }
        }
        Err(Miss::Later(last))
    }

    fn one(&self, member: &str, ask: &Ask<'_>, key: Option<&str>) -> std::result::Result<String, Miss> {
        let limit = ask.limit();
        if limit > READ_LIMIT {
            self.knock(member)?;
        }
        let url = format!("{member}{}", ask.path);
        let answer = self.send(&url, ask, key, limit, Some(limit));
        let mut answer = answer.map_err(|e| Miss::Later(unreachable(&url, &e)))?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let body = body.map_err(|e| Miss::Later(unreachable(&url, &e)))?;
        match status {
            200..=299 => Ok(body),
            // The same key again is safe, whatever became of the first call.
            429 | 502..=504 => Err(Miss::Later(refused(status, &body, &url))),
            _ => Err(Miss::Final(refused(status, &body, &url))),
        }
    }

    /// Whether somebody answers at all, whatever it is.
    fn knock(&self, member: &str) -> std::result::Result<(), Miss> {
        let url = format!("{member}/healthz");
        let answer = self.send(&url, &Ask::get("/healthz"), None, KNOCK_LIMIT, Some(KNOCK_LIMIT));
        let read = answer.and_then(|mut a| a.body_mut().read_to_string()); // to its end: its connection serves again
        read.map(drop).map_err(|e| Miss::Later(unreachable(&url, &e)))
    }

    /// `head`: how long until an answer begins; `whole`: until it has ended.
    fn send(
        &self,
        url: &str,
        ask: &Ask<'_>,
        key: Option<&str>,
        head: Duration,
        whole: Option<Duration>,
    ) -> std::result::Result<Response<Body>, ureq::Error> {
        let mut call = Request::builder().method(ask.method).uri(url);
        if let Some(token) = &self.token {
            call = call.header("authorization", format!("Bearer {token}"));
        }
        if let Some(key) = key {
            call = call.header("idempotency-key", key);
        }
        match &ask.body {
            Some(body) => {
                self.run(call.header("content-type", "application/json").body(body.to_string())?, head, whole)
            }
            None if ask.method == "GET" => self.run(call.body(())?, head, whole),
            None => self.run(call.body(String::new())?, head, whole),
        }
    }

    fn run(
        &self,
        call: Request<impl AsSendBody>,
        head: Duration,
        whole: Option<Duration>,
    ) -> std::result::Result<Response<Body>, ureq::Error> {
        let call = self.agent.configure_request(call).timeout_recv_response(Some(head)).timeout_global(whole);
        self.agent.run(call.build())
    }

    /// What each member that was named says of the cluster. Who says nothing is asked last from now on.
    pub(super) fn each(&mut self) -> Vec<Reached> {
        let all: Vec<Reached> = self.members.iter().map(|member| self.look(member.clone())).collect();
        let silent = |member: &String| all.iter().any(|r| r.url == *member && r.said.is_err());
        self.members.sort_by_key(silent);
        all
    }

    /// What the member at this address says of the cluster. It is spoken to as those are that were named.
    pub(super) fn look_at(&self, addr: &str) -> Reached {
        let secret = self.members.iter().any(|m| m.starts_with("https://"));
        self.look(format!("{}://{addr}", if secret { "https" } else { "http" }))
    }

    fn look(&self, url: String) -> Reached {
        let ask = Ask::get("/api/v1/cluster");
        let start = Instant::now();
        let said = match self.one(&url, &ask, None) {
            Ok(text) => read(&text, &ask.path),
            Err(Miss::Later(fault) | Miss::Final(fault)) => Err(fault),
        };
        Reached { url, heard_ms: now_ms(), took_ms: start.elapsed().as_millis() as u64, said }
    }

    /// What each member that was named answers to this.
    pub(super) fn of_each(&self, path: &str) -> Vec<(String, Result<String>)> {
        let one = |member: &String| match self.one(member, &Ask::get(path), None) {
            Ok(text) => (member.clone(), Ok(text)),
            Err(Miss::Later(fault) | Miss::Final(fault)) => (member.clone(), Err(fault)),
        };
        self.members.iter().map(one).collect()
    }

    /// A stream of lines without end, from the first member that gives it. That one is asked last the next time.
    pub(super) fn listen(&mut self, path: &str) -> std::result::Result<impl Read + Send + use<>, Miss> {
        let mut last = Fault::new("nobody was asked", "");
        for at in 0..self.members.len() {
            let url = format!("{}{path}", self.members[at]);
            match self.send(&url, &Ask::get(path), None, READ_LIMIT, None) {
                Ok(answer) if answer.status() == 200 => {
                    self.members.rotate_left(at + 1);
                    return Ok(answer.into_body().into_reader());
                }
                Ok(mut answer) => {
                    let status = answer.status().as_u16();
                    last = refused(status, &answer.body_mut().read_to_string().unwrap_or_default(), &url);
                    if !matches!(status, 429 | 502..=504) {
                        return Err(Miss::Final(last));
                    }
                }
                Err(e) => last = unreachable(&url, &e),
            }
        }
        Err(Miss::Later(last))
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// An answer's JSON.
pub(super) fn read<T: DeserializeOwned>(text: &str, path: &str) -> Result<T> {
    let hint = "twemslotctl and configsvr should be of one version";
    serde_json::from_str(text).map_err(|e| Fault::new(format!("the answer to {path} is not understood: {e}"), hint))
}

/// A part of a path: what is not plainly a name is escaped.
pub(super) fn part(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A group's id, by its id or its name.
pub(super) fn id_of(client: &mut Client, group: &str) -> Result<GroupId> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let groups: Vec<Group> = client.get("/api/v1/groups")?;
    let ids: Vec<GroupId> = groups.iter().filter(|g| g.name == group).map(|g| g.id).collect();
    match ids.as_slice() {
        [id] => Ok(*id),
        [] => Err(Fault::new(format!("no group is called {group:?}"), "see `twemslotctl groups list`")),
        _ => Err(Fault::new(format!("{} groups are called {group:?}", ids.len()), "say its id")),
    }
}

fn refused(status: u16, body: &str, url: &str) -> Fault {
    match serde_json::from_str::<Problem>(body) {
        Ok(Problem { error, .. }) => Fault::new(error.message, error.hint),
        Err(_) => Fault::new(format!("{url} answered {status}: {}", body.trim()), "is that the API of a configsvr?"),
    }
}

fn unreachable(url: &str, e: &ureq::Error) -> Fault {
    let why = match e {
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        e => e.to_string(),
    };
    Fault::new(
        format!("{url}: {why}"),
        "does the configsvr run there? --api, TWEMSLOT_API or --state-dir say where it is",
    )
}

fn url(text: &str) -> Result<String> {
    let text = text.trim_end_matches('/');
    match text.split_once("://") {
        None => Ok(format!("http://{text}")),
        Some(("http" | "https", _)) => Ok(text.to_owned()),
        Some((other, _)) => Err(Fault::new(format!("{text}: the API does not speak {other}"), "http:// or https://")),
    }
}

fn token(file: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = file else { return Ok(std::env::var("TWEMSLOT_TOKEN").ok().filter(|t| !t.is_empty())) };
    let hint = "--token-file names a file with the token alone in it";
    let text = std::fs::read_to_string(path).map_err(|e| Fault::new(format!("{}: {e}", path.display()), hint))?;
    match text.trim() {
        "" => Err(Fault::new(format!("{} is empty", path.display()), hint)),
        token => Ok(Some(token.to_owned())),
    }
}

/// `playground.json`, as far as it matters here.
#[derive(Serialize, Deserialize)]
struct Listing {
    processes: Vec<Process>,
}

#[derive(Serialize, Deserialize)]
struct Process {
    kind: String,
    addr: String,
    admin_addr: Option<String>,
}

/// The API of a playground.
fn playground(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join("playground.json");
    let hint = "say where the API is: --api URL, or TWEMSLOT_API; or start a playground: twemslotctl playground up";
    let text = std::fs::read_to_string(&path)
        .map_err(|_| Fault::new(format!("no API was named, and no playground runs in {}", dir.display()), hint))?;
    let listing: Listing =
        serde_json::from_str(&text).map_err(|e| Fault::new(format!("{}: {e}", path.display()), hint))?;
    let configsvrs = listing.processes.into_iter().filter(|p| p.kind == "configsvr");
    let members: Vec<String> = configsvrs.map(|p| format!("http://{}", p.admin_addr.unwrap_or(p.addr))).collect();
    if members.is_empty() {
        return Err(Fault::new(format!("the playground in {} has no configsvr", dir.display()), hint));
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};

    #[test]
    fn an_address_is_enough() {
        assert_eq!(url("10.0.0.1:6390").as_deref(), Ok("http://10.0.0.1:6390"));
        assert_eq!(url("http://a:1/").as_deref(), Ok("http://a:1"));
        assert_eq!(url("https://a:1").as_deref(), Ok("https://a:1"));
        assert!(url("ftp://a:1").is_err());
    }

    #[test]
    fn a_playground_is_found_by_its_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(playground(dir.path()).expect_err("nothing there").what.contains("no playground runs"));
        let write = |json: &str| std::fs::write(dir.path().join("playground.json"), json).expect("written");
        write(r#"{"processes":[{"kind":"redis","name":"r","pid":1,"addr":"a:1","admin_addr":null}]}"#);
        assert!(playground(dir.path()).expect_err("no configsvr").what.contains("no configsvr"));
        write(
            r#"{"processes":[{"kind":"configsvr","name":"c1","pid":1,"addr":"127.0.0.1:6390","admin_addr":"127.0.0.1:6391"},
               {"kind":"configsvr","name":"c2","pid":1,"addr":"127.0.0.1:6392","admin_addr":null}]}"#,
        );
        assert_eq!(
            playground(dir.path()),
            Ok(vec!["http://127.0.0.1:6391".to_owned(), "http://127.0.0.1:6392".to_owned()])
        );
    }

    #[test]
    fn what_may_take_long_is_given_time() {
        let limit = |method, path: &str| Ask { method, path: path.to_owned(), body: None }.limit();
        for quick in ["/api/v1/cluster?leader=true", "/api/v1/groups", "/healthz", "/metrics"] {
            assert_eq!(limit("GET", quick), READ_LIMIT, "{quick}");
        }
        for slow in ["/api/v1/audit?limit=9", "/api/v1/slots/traffic", "/api/v1/groups/1/maxmemory?leader=true"] {
            assert_eq!(limit("GET", slow), CALL_LIMIT + GRACE, "{slow}");
        }
        assert_eq!(limit("PATCH", "/api/v1/groups/1?dry_run=true"), CALL_LIMIT + GRACE);
        assert_eq!(limit("POST", "/api/v1/rebalance"), PLAN_LIMIT + GRACE);
        assert_eq!(limit("POST", "/api/v1/store/import?dry_run=true"), IMPORT_LIMIT + GRACE);
    }

    /// Members: the first is frozen, so that the kernel lets us in and nobody answers; the others answer each call with
    /// their number. Calls that came are sent on, by their first lines and keys.
    fn two_and_a_frozen_one() -> (std::net::TcpListener, Client, std::sync::mpsc::Receiver<String>) {
        let bind = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let (frozen, others) = (bind(), [bind(), bind()]);
        let all = [&frozen, &others[0], &others[1]].map(|l| l.local_addr().expect("bound").to_string());
        let (send, calls) = std::sync::mpsc::channel();
        for (n, listener) in others.into_iter().enumerate() {
            let send = send.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.expect("a caller");
                    let mut lines = BufReader::new(stream.try_clone().expect("ours")).lines().map_while(|l| l.ok());
                    let first = lines.next().unwrap_or_default();
                    let keyed = lines.take_while(|l| !l.is_empty()).find(|l| l.starts_with("idempotency-key"));
                    send.send(format!("{n} {first} {}", keyed.is_some())).expect("somebody listens");
                    let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n{n}");
                    stream.write_all(answer.as_bytes()).expect("sent");
                }
            });
        }
        let reach = Reach { api: Some(all.join(",")), ..Reach::default() };
        (frozen, Client::find(&reach).expect("addresses"), calls)
    }

    #[test]
    fn a_frozen_member_is_passed_over() {
        let (_frozen, mut client, calls) = two_and_a_frozen_one();
        let start = Instant::now();
        let change = Ask { method: "POST", path: "/change".to_owned(), body: None };
        assert_eq!(client.ask(&change).as_deref(), Ok("0"));
        assert!((KNOCK_LIMIT..2 * KNOCK_LIMIT).contains(&start.elapsed()), "{:?}", start.elapsed());
        let came: Vec<String> = calls.try_iter().collect();
        assert_eq!(came, ["0 GET /healthz HTTP/1.1 false", "0 POST /change HTTP/1.1 true"]);
        // Who has answered is asked first from now on.
        let start = Instant::now();
        assert_eq!(client.get::<u32>("/read"), Ok(0));
        assert!(start.elapsed() < KNOCK_LIMIT, "{:?}", start.elapsed());
    }

    #[test]
    fn listeners_go_from_member_to_member() {
        let (_frozen, mut client, _calls) = two_and_a_frozen_one();
        let mut hear = || {
            let mut text = String::new();
            client.listen("/events").expect("a stream").read_to_string(&mut text).expect("its end");
            text
        };
        assert_eq!([hear(), hear(), hear()], ["0", "1", "0"]);
    }

    #[test]
    fn a_refusal_keeps_the_words_of_the_api() {
        let body = r#"{"error":{"code":"x","message":"no such group","hint":"look"}}"#;
        assert_eq!(refused(404, body, "u"), Fault::new("no such group", "look"));
        assert!(refused(502, "<html>", "http://a").what.contains("http://a answered 502"));
    }
}
