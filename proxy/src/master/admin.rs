//! The admin port: HTTP, on a thread of its own. It reads calls, asks the master's loop, and writes the answers;
//! nothing is decided here.
#![expect(clippy::disallowed_methods, reason = "a shell: binds the admin port")]

use super::event::{Answer, Event, Problem, Question};
use super::metrics;
use crate::config::AdminTokens;
use cluster::wire;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// Connections at once; the next one waits in the queue of the socket.
const CONNECTIONS_MAX: usize = 512;
/// Of them from one address, which has no use for more: who opens them and is silent shuts nobody else out, and least of all
/// the health checks. More are closed at once.
const CONNECTIONS_OF_ONE_MAX: usize = 64;
/// A topology of 1024 groups and 16384 slots takes less than 2 MiB.
const BODY_BYTES_MAX: usize = 4 << 20;
/// A caller that dribbles is cut off; also how long an idle connection is kept.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a PUT waits for the workers if it does not say.
const BARRIER_TIMEOUT_MS: u64 = 5_000;
/// Entries of the slow log, if the caller does not say, and at most.
const SLOWLOG_COUNT: usize = 128;
const SLOWLOG_COUNT_MAX: usize = 10_000;
const BARRIER_TIMEOUT_MAX_MS: u64 = 60_000;

/// The master's hold on the admin thread.
#[derive(Debug)]
pub(super) struct Admin {
    tokens: watch::Sender<AdminTokens>,
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
    moves: UnboundedSender<TcpListener>,
    /// Our copy of the socket, for the next image of the master.
    pub(super) socket: TcpListener,
}

/// What each call needs.
#[derive(Debug)]
struct Desk {
    tokens: watch::Receiver<AdminTokens>,
    /// None: calls are not encrypted.
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    events: Sender<Event>,
}

impl Admin {
    /// Binds the address.
    pub(super) fn bind(addr: SocketAddr) -> Result<TcpListener, String> {
        let bound = TcpListener::bind(addr).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        bound.map_err(|e| format!("admin {addr}: {}", super::listeners::explain(&e)))
    }

    /// Starts the thread; `beside` runs on it, too.
    pub(super) fn start(
        socket: TcpListener,
        tokens: AdminTokens,
        tls: Option<Arc<ServerConfig>>,
        events: Sender<Event>,
        beside: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tokens, guards) = watch::channel(tokens);
        let (tls, certificates) = watch::channel(tls);
        let (moves, moved) = unbounded_channel();
        let desk = Arc::new(Desk { tokens: guards, tls: certificates, events });
        let first = socket.try_clone()?;
        let thread = std::thread::Builder::new().name("admin".into());
        thread.spawn(move || {
            runtime.block_on(async {
                tokio::spawn(beside);
                serve(first, moved, desk).await;
            });
        })?;
        Ok(Self { tokens, tls, moves, socket })
    }

    pub(super) fn set_tokens(&self, tokens: AdminTokens) {
        self.tokens.send_replace(tokens);
    }

    /// How new connections are met; None: unencrypted.
    pub(super) fn set_tls(&self, tls: Option<Arc<ServerConfig>>) {
        self.tls.send_replace(tls);
    }

    /// Goes on at another socket; connections of the old one are finished.
    pub(super) fn move_to(&mut self, socket: TcpListener) -> io::Result<()> {
        self.moves.send(socket.try_clone()?).map_err(|_| io::Error::other("the admin thread is gone"))?;
        self.socket = socket;
        Ok(())
    }
}

/// Who is connected: each connection holds one more reference.
type Callers = BTreeMap<IpAddr, Arc<()>>;

/// One more connection of a caller. None: it has enough.
fn one_more(callers: &mut Callers, addr: IpAddr) -> Option<Arc<()>> {
    callers.retain(|_, caller| Arc::strong_count(caller) > 1);
    let caller = callers.entry(addr).or_default();
    (Arc::strong_count(caller) <= CONNECTIONS_OF_ONE_MAX).then(|| Arc::clone(caller))
}

async fn serve(first: TcpListener, mut moved: UnboundedReceiver<TcpListener>, desk: Arc<Desk>) {
    let (places, mut callers) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Callers::new());
    let mut next = Some(first);
    while let Some(socket) = next.take() {
        let socket = match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(e) => return tracing::error!(error = %e, "the admin port is lost"),
        };
        tokio::select! {
            never = accept(&socket, &places, &mut callers, &desk) => match never {},
            new = moved.recv() => next = new,
        }
    }
}

async fn accept(
    socket: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
    callers: &mut Callers,
    desk: &Arc<Desk>,
) -> Infallible {
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else { continue };
        let (stream, caller) = match socket.accept().await {
            Ok((stream, from)) => match one_more(callers, from.ip()) {
                Some(caller) => (stream, caller),
                None => {
                    tracing::debug!(%from, "has {CONNECTIONS_OF_ONE_MAX} connections to the admin port, and gets no more");
                    continue;
                }
            },
            Err(e) => {
                tracing::warn!(error = %e, "the admin port cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: do not spin
                continue;
            }
        };
        let desk = Arc::clone(desk);
        tokio::spawn(async move {
            let tls = desk.tls.borrow().clone();
            match tls {
                None => converse(desk, stream).await,
                Some(tls) => match timeout(READ_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await {
                    Ok(Ok(stream)) => converse(desk, stream).await,
                    Ok(Err(e)) => tracing::debug!(error = %e, "no TLS at the admin port"),
                    Err(_) => tracing::debug!("a TLS handshake at the admin port took too long"),
                },
            }
            drop((place, caller));
        });
    }
}

/// All calls of one connection.
async fn converse(desk: Arc<Desk>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let calls = service_fn(move |call| answer(Arc::clone(&desk), call));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
    if let Err(e) = http.serve_connection(TokioIo::new(stream), calls).await {
        tracing::debug!(error = %e, "an admin connection ended");
    }
}

async fn answer(desk: Arc<Desk>, call: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answered = match respond(&desk, call).await {
        Ok(response) => response,
        Err(problem) => refuse(&problem),
    };
    Ok(answered)
}

async fn respond(desk: &Desk, call: Request<Incoming>) -> Result<Response<Full<Bytes>>, Problem> {
    let path = call.uri().path().to_owned();
    if !matches!(path.as_str(), "/healthz" | "/readyz") {
        authorize(desk, &call)?;
    }
    let question = match (call.method(), path.as_str()) {
        (&Method::GET, "/healthz") => return Ok(reply(StatusCode::OK, "text/plain", "ok\n".into())),
        (&Method::GET, "/readyz") => Question::Ready,
        (&Method::GET, "/metrics") => Question::Metrics,
        (&Method::GET, "/api/v1/topology") => Question::Topology,
        (&Method::PUT, "/api/v1/topology") => put_topology(call).await?,
        (&Method::GET, "/api/v1/topology/status") => Question::TopologyStatus,
        (&Method::GET, "/api/v1/workers") => Question::Workers,
        (&Method::GET, "/api/v1/slots/traffic") => Question::SlotsTraffic,
        (&Method::GET, "/api/v1/hotkeys") => Question::HotKeys,
        (&Method::GET, "/api/v1/bigkeys") => Question::BigKeys,
        (&Method::GET, "/api/v1/slowlog") => Question::Slowlog { count: count_of(call.uri().query())? },
        (&Method::GET, "/api/v1/config") => Question::Config,
        (&Method::POST, "/api/v1/reload") => Question::Reload,
        (method, path) => return Err(no_such(method, path)),
    };
    let (reply_to, asked) = oneshot::channel();
    let sent = desk.events.send(Event::Ask(question, reply_to));
    sent.map_err(|_| stopping())?;
    match asked.await.map_err(|_| stopping())? {
        Answer::Json(json) => Ok(reply(StatusCode::OK, JSON, format!("{json}\n"))),
        Answer::Text(text) => Ok(reply(StatusCode::OK, JSON, text)),
        Answer::Metrics(snapshot) => match metrics::render(&snapshot) {
            Ok(text) => Ok(reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)),
            Err(e) => Err(Problem::new(500, "internal", e.to_string(), "report this")),
        },
        Answer::Standing(_) => Err(Problem::new(500, "internal", "an answer nobody asked for", "report this")),
        Answer::Problem(problem) => Err(problem),
    }
}

const JSON: &str = "application/json";

/// The paths, and what can be done with each.
const PATHS: &[(&str, &str)] = &[
    ("/healthz", "GET"),
    ("/readyz", "GET"),
    ("/metrics", "GET"),
    ("/api/v1/topology", "GET, PUT"),
    ("/api/v1/topology/status", "GET"),
    ("/api/v1/workers", "GET"),
    ("/api/v1/slots/traffic", "GET"),
    ("/api/v1/hotkeys", "GET"),
    ("/api/v1/bigkeys", "GET"),
    ("/api/v1/slowlog", "GET"),
    ("/api/v1/config", "GET"),
    ("/api/v1/reload", "POST"),
];

fn no_such(method: &Method, path: &str) -> Problem {
    match PATHS.iter().find(|p| p.0 == path) {
        Some((_, methods)) => {
            Problem::new(405, "method_not_allowed", format!("{method} {path}: only {methods}"), methods)
        }
        None => Problem::new(404, "not_found", format!("{path} does not exist"), "the API is below /api/v1/"),
    }
}

fn stopping() -> Problem {
    Problem::new(503, "stopping", "the proxy is stopping", "ask another proxy")
}

fn authorize(desk: &Desk, call: &Request<Incoming>) -> Result<(), Problem> {
    let tokens = desk.tokens.borrow();
    let Some(all) = tokens.all.as_deref() else { return Ok(()) };
    let given = call.headers().get(AUTHORIZATION).and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
    let is = |token: &str| bool::from(given.unwrap_or_default().ct_eq(token.as_bytes()));
    if is(all) {
        return Ok(());
    }
    if tokens.metrics.as_deref().is_some_and(is) {
        if (call.method(), call.uri().path()) == (&Method::GET, "/metrics") {
            return Ok(());
        }
        let hint = "use the token of admin_token or admin_token_file";
        return Err(Problem::new(403, "forbidden", "this token is for GET /metrics alone", hint));
    }
    let hint = "send `Authorization: Bearer TOKEN` with the token of admin_token or admin_token_file";
    Err(Problem::new(401, "unauthorized", "this port needs a token", hint))
}

async fn put_topology(call: Request<Incoming>) -> Result<Question, Problem> {
    let (milliseconds, quiet) = barrier_of(call.uri().query().unwrap_or_default())?;
    let body = read_body(call.into_body()).await?;
    let topology = wire::parse(&body).map_err(|faults| {
        let message = format!("not a topology: {}", faults.join("; "));
        let hint = "nothing was changed; mend every fault and send it again";
        Problem { faults, ..Problem::new(422, "invalid_topology", message, hint) }
    })?;
    Ok(Question::PutTopology { topology: Box::new(topology), timeout: Duration::from_millis(milliseconds), quiet })
}

fn barrier_of(query: &str) -> Result<(u64, bool), Problem> {
    let (mut milliseconds, mut quiet) = (BARRIER_TIMEOUT_MS, false);
    for part in query.split('&').filter(|p| !p.is_empty()) {
        match part.split_once('=').unwrap_or((part, "")) {
            ("timeout_ms", n) if n.parse().is_ok_and(|n: u64| n <= BARRIER_TIMEOUT_MAX_MS) => {
                milliseconds = n.parse().unwrap_or(BARRIER_TIMEOUT_MS);
            }
            ("quiet", "true" | "1") => quiet = true,
            ("quiet", "false" | "0") => quiet = false,
            _ => {
                let hint = "known are timeout_ms=0..60000 and quiet=true|false";
                return Err(Problem::new(400, "bad_query", format!("{part:?} is not understood"), hint));
            }
        }
    }
    Ok((milliseconds, quiet))
}

/// How many entries of the slow log are wanted.
fn count_of(query: Option<&str>) -> Result<usize, Problem> {
    let Some(query) = query.filter(|q| !q.is_empty()) else { return Ok(SLOWLOG_COUNT) };
    let count = query.strip_prefix("count=").and_then(|n| n.parse().ok()).filter(|n| *n <= SLOWLOG_COUNT_MAX);
    count.ok_or_else(|| {
        Problem::new(400, "bad_query", format!("{query:?} is not understood"), "known is count=0..10000")
    })
}

async fn read_body(body: Incoming) -> Result<Bytes, Problem> {
    let collected = timeout(READ_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let collected = collected.map_err(|_| Problem::new(408, "too_slow", "the body took too long", "send it faster"))?;
    collected.map(http_body_util::Collected::to_bytes).map_err(|e| {
        if e.downcast_ref::<LengthLimitError>().is_some() {
            return Problem::new(413, "too_large", "the body is larger than 4 MiB", "a topology is smaller");
        }
        Problem::new(400, "bad_body", format!("the body cannot be read: {e}"), "send it again")
    })
}

fn refuse(problem: &Problem) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = reply(status, JSON, format!("{}\n", problem.json()));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(problem.hint));
    }
    response
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::mpsc::{Receiver, channel};

    /// An admin port whose questions are all answered with their own text.
    fn start(token: Option<&str>) -> (Admin, SocketAddr) {
        let (events, inbox): (_, Receiver<Event>) = channel();
        let socket = Admin::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
        let addr = socket.local_addr().expect("addr");
        let tokens = AdminTokens { all: token.map(str::to_owned), metrics: Some("for-metrics".into()) };
        let admin = Admin::start(socket, tokens, None, events, async {}).expect("start");
        std::thread::spawn(move || {
            for event in inbox {
                if let Event::Ask(question, reply) = event {
                    _ = reply.send(Answer::Json(json!(format!("{question:?}"))));
                }
            }
        });
        (admin, addr)
    }

    #[test]
    fn who_is_silent_shuts_nobody_else_out() {
        let (_admin, addr) = start(None);
        let other = SocketAddr::from(([127, 0, 0, 2], 0));
        let silent: Vec<socket2::Socket> = (0..2 * CONNECTIONS_OF_ONE_MAX)
            .map(|_| {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
                socket.bind(&other.into()).expect("another address");
                socket.connect(&addr.into()).expect("connect");
                socket
            })
            .collect();
        let start = std::time::Instant::now();
        assert!(call(addr, "GET /healthz", b"").contains("200 OK"));
        assert!(start.elapsed() < READ_TIMEOUT / 2, "it had to wait until they were cut off");
        drop(silent);
    }

    fn call(addr: SocketAddr, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(addr).expect("connect");
        let head = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        let head = head.replacen(" AUTH ", " HTTP/1.1\r\nauthorization: Bearer s3cret\r\nx-rest: ", 1);
        stream.write_all(head.as_bytes()).expect("head");
        _ = stream.write_all(body); // a body that is too large is refused before it is read
        let mut text = String::new();
        _ = stream.read_to_string(&mut text);
        text
    }

    #[test]
    fn calls_become_questions() {
        let (_admin, addr) = start(None);
        let put = br#"{"epoch":1,"groups":[],"slots":[]}"#;
        for (head, body, answer) in [
            ("GET /healthz", &b""[..], "200 OK"),
            ("GET /api/v1/topology", b"", "\"Topology\""),
            ("PUT /api/v1/topology?timeout_ms=70&quiet=true", put, "timeout: 70ms, quiet: true"),
            ("PUT /api/v1/topology?timeout=7", put, "400 Bad Request"),
            ("PUT /api/v1/topology", b"{\"epoch\":0,\"groups\":[],\"slots\":[]}", "epoch 0"),
            ("PUT /api/v1/topology", b"{", "422 Unprocessable"),
            ("GET /api/v1/hotkeys", b"", "\"HotKeys\""),
            ("GET /api/v1/slowlog?count=7", b"", "count: 7"),
            ("GET /api/v1/slowlog?count=all", b"", "400 Bad Request"),
            ("POST /api/v1/workers", b"", "405 Method"),
            ("GET /api/v2", b"", "404 Not Found"),
        ] {
            let text = call(addr, head, body);
            assert!(text.contains(answer), "{head}: {text}");
        }
        assert!(call(addr, "PUT /api/v1/topology", &vec![b' '; BODY_BYTES_MAX + 1]).contains("413 "));
    }

    #[test]
    fn a_token_guards_all_but_health() {
        let (admin, addr) = start(Some("s3cret"));
        assert!(call(addr, "GET /api/v1/workers", b"").contains("401 Unauthorized"));
        assert!(call(addr, "GET /metrics", b"").contains("401 Unauthorized"));
        assert!(call(addr, "GET /readyz", b"").contains("200 OK"));
        assert!(call(addr, "GET /api/v1/workers AUTH ", b"").contains("200 OK"));
        admin.set_tokens(AdminTokens { all: Some("other".into()), metrics: Some("s3cret".into()) });
        assert!(call(addr, "GET /metrics AUTH ", b"").contains("200 OK"));
        for other in ["GET /api/v1/workers", "PUT /api/v1/topology", "POST /metrics"] {
            assert!(call(addr, &format!("{other} AUTH "), b"").contains("403 Forbidden"), "{other}");
        }
        admin.set_tokens(AdminTokens { all: Some("other".into()), metrics: None });
        for one in ["GET /api/v1/workers", "GET /metrics"] {
            assert!(call(addr, &format!("{one} AUTH "), b"").contains("401 Unauthorized"), "{one}");
        }
    }

    #[test]
    fn the_port_moves_while_it_serves() {
        let (mut admin, old) = start(None);
        let socket = Admin::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
        let new = socket.local_addr().expect("addr");
        admin.move_to(socket).expect("move");
        assert!(call(new, "GET /healthz", b"").contains("200 OK"));
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(old).is_ok() {
            assert!(std::time::Instant::now() < deadline, "the old port still accepts");
        }
    }
}
