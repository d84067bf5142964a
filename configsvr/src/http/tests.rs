//! The API against a desk whose loop is a test: real sockets, real calls.

mod documents;
mod again;

use super::*;
use crate::control::command::{Answer, BeatAnswer, Kind, ProxyView, Refusal, Request};
use crate::control::event::News;
use crate::control::layout::{self, Audit};
use crate::control::view::{GroupView, View};
use crate::desk::Call;
use crate::http::words::{Member, NewMember};
use crate::store::{Compare, Entry, Fault, LeaseId, Notice, Op, Snapshot, Txn, Verdict};
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, ready};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};

/// Keys and values, and nothing else.
struct FakeStore(tokio::sync::Mutex<BTreeMap<String, String>>);

impl FakeStore {
    async fn list(&self, prefix: &str) -> Snapshot {
        let all = self.0.lock().await;
        let entry = |(key, value): (&String, &String)| Entry {
            key: key.clone(),
            value: value.clone(),
            modified: 1,
            lease: None,
        };
        Snapshot { revision: 99, entries: all.iter().filter(|(k, _)| k.starts_with(prefix)).map(entry).collect() }
    }

    async fn write(&self, txn: Txn) -> Verdict {
        let mut all = self.0.lock().await;
        let holds = |compare: &Compare| match compare {
            Compare::Absent { key } => !all.contains_key(key),
            Compare::ModifiedAt { .. } => false,
            Compare::UnwrittenSince { .. } => true,
            Compare::ValueIs { key, value } => all.get(key) == Some(value),
        };
        if !txn.compares.iter().all(holds) {
            return Verdict::Refused(99);
        }
        for op in txn.ops {
            match op {
                Op::Put { key, value, .. } => all.insert(key, value),
                Op::Delete { key } => all.remove(&key),
            };
        }
        Verdict::Done(100)
    }
}

impl Store for FakeStore {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, Fault>> {
        let key = key.to_owned();
        Box::pin(async move { Ok(self.list(&key).await.entries.into_iter().find(|e| e.key == key)) })
    }
    fn range(&self, prefix: &str) -> BoxFuture<'_, Result<Snapshot, Fault>> {
        let prefix = prefix.to_owned();
        Box::pin(async move { Ok(self.list(&prefix).await) })
    }
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Verdict, Fault>> {
        Box::pin(async move { Ok(self.write(txn).await) })
    }
    fn watch(&self) -> mpsc::Receiver<Notice> {
        mpsc::channel(1).1
    }
    fn grant(&self, _: Duration) -> BoxFuture<'_, Result<LeaseId, Fault>> {
        Box::pin(ready(Err(Fault::Unavailable("a fake".to_owned()))))
    }
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(ready(Err(Fault::NoLease(lease))))
    }
    fn revoke(&self, _: LeaseId) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(ready(Ok(())))
    }
    fn describe(&self) -> String {
        "fake".to_owned()
    }
}

/// Says back what it is asked.
struct FakeMembers;

impl FakeMembers {
    fn answer(&self, name: String) -> BoxFuture<'_, Result<Vec<Member>, Refusal>> {
        let (addr, leader, reachable) = ("127.0.0.1:1".to_owned(), true, Some(true));
        Box::pin(ready(Ok(vec![Member { id: 1, name, addr, voter: true, leader, reachable, behind: Some(0) }])))
    }
}

impl Members for FakeMembers {
    fn list(&self) -> BoxFuture<'_, Result<Vec<Member>, Refusal>> {
        self.answer("m1".to_owned())
    }
    fn add(&self, who: String, new: NewMember, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>> {
        self.answer(format!("{who} adds {} {} {} {dry_run}", new.id, new.name, new.addr))
    }
    fn promote(&self, who: String, name: String, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>> {
        self.answer(format!("{who} promotes {name} {dry_run}"))
    }
    fn remove(&self, who: String, name: String, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>> {
        self.answer(format!("{who} removes {name} {dry_run}"))
    }
}

/// The leader's, as the store has it.
const TOKEN: layout::Token = layout::Token { term: 1, member: 1 };

/// One member, served on a port of its own.
struct Served {
    addr: SocketAddr,
    view: watch::Sender<Arc<View>>,
    news: broadcast::Sender<News>,
}

/// What the loop does with a request.
type Judge = fn(Request) -> Result<Answer, Refusal>;

/// Agrees, and says what it was asked for.
fn agree(r: Request) -> Result<Answer, Refusal> {
    let result = json!({ "who": r.who, "command": r.command, "dry_run": r.dry_run, "key": r.idempotency_key });
    Ok(Answer { epoch: 8, result, notes: Vec::new(), repeated: false })
}

async fn serve(member: &str, tokens: &[(&str, Role)], view: View, judge: Judge) -> Served {
    let (calls, mut asked) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(call) = asked.recv().await {
            match call {
                Call::Change(request, answer) => drop(answer.send(judge(request))),
                Call::Beat(beat, answer) => {
                    drop(answer.send(Ok(BeatAnswer {
                        epoch: beat.epoch + 1,
                        draining: false,
                        registered: true,
                        next_ms: 1000,
                    })));
                }
            }
        }
    });
    let (view, seen) = watch::channel(Arc::new(view));
    let news = broadcast::channel(4).0;
    let desk = Desk { calls, view: seen, news: news.clone() };
    let token = |(name, role): &(&str, Role)| Token { name: (*name).to_owned(), role: *role, sha256: Hash::of(name) };
    let tokens = tokens.iter().map(token).collect();
    let trail = (1..=7).map(|n| (layout::audit_key(n), audit(n)));
    let leader = json!({ "token": TOKEN, "member": member, "addr": "127.0.0.1:1" }).to_string();
    let keys = trail.chain([(layout::LEADER.to_owned(), leader)]);
    let store = Arc::new(FakeStore(tokio::sync::Mutex::new(keys.collect())));
    let metrics: Metrics = Box::new(|| panic!("no metrics today"));
    let router = router(Api::new(desk, member.to_owned(), tokens, Arc::new(FakeMembers), store, metrics));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    Served { addr, view, news }
}

fn audit(at: u64) -> String {
    let none = Value::Null;
    let entry = Audit {
        at,
        who: "ann".to_owned(),
        what: "groups.add".to_owned(),
        command: none.clone(),
        epoch_before: at,
        epoch_after: at + 1,
        before: none.clone(),
        after: none.clone(),
        idempotency_key: Some("k".to_owned()),
        answer: none,
    };
    serde_json::to_string(&entry).expect("text")
}

/// A cluster of one group, in which slot 0 moves and slot 9 has no owner.
fn view(leading: bool, leader: Option<(&str, SocketAddr)>) -> View {
    let instance = |port: u16, role: &str| json!({ "addr": format!("127.0.0.1:{port}"), "role": role });
    let group = |id: u32| json!({ "id": id, "instances": [instance(7000 + id as u16, "primary")] });
    let message = json!({ "epoch": 7, "name": "shop", "slot_count": 10, "groups": [group(1), group(2)], "slots": [
        { "from": 0, "to": 0, "group": 1, "state": "moving", "target": 2 }, { "from": 1, "to": 8, "group": 1 }] });
    let addr = |port: u16| format!("127.0.0.1:{port}").parse().expect("an address");
    let record = layout::Proxy {
        id: "p1".to_owned(),
        version: "0.1.0".to_owned(),
        addr: "127.0.0.1:1".to_owned(),
        admin_addr: "127.0.0.1:2".to_owned(),
        zone: String::new(),
        epoch: 7,
        draining: false,
        started_at: 1,
        left: false,
    };
    let gone = layout::Proxy { id: "p2".to_owned(), ..record.clone() };
    let proxy =
        |record, alive| ProxyView { record, alive, last_beat_ms: None, push_fault: None, instances: Vec::new() };
    View {
        leading,
        token: leading.then_some(TOKEN),
        leader: leader.map(|(name, addr)| (name.to_owned(), addr.to_string())),
        settings: Some(layout::Settings {
            name: "shop".to_owned(),
            slot_count: 10,
            tag_rule: Default::default(),
            proxy_ttl_s: 10,
            automation_paused: false,
            users: Vec::new(),
        }),
        topology: Some(Arc::new(cluster_of(&message))),
        message: Some(message.to_string().into()),
        groups: vec![GroupView {
            id: 1,
            name: "g1".to_owned(),
            primary: addr(7001),
            replicas: vec![addr(7009)],
            slots: 9,
        }],
        proxies: vec![proxy(record, true), proxy(gone, false)],
        alarms: vec![news("invalid_edit")],
        audit: Arc::new((4..=7).map(|n| (n, serde_json::from_str(&audit(n)).expect("an entry"))).collect()),
        ..View::default()
    }
}

fn cluster_of(message: &Value) -> ::cluster::topology::Topology {
    ::cluster::wire::parse(message.to_string().as_bytes()).expect("a topology")
}

fn news(kind: &str) -> News {
    let (subject, message) = ("x".to_owned(), "look".to_owned());
    News { kind: kind.to_owned(), alarm: true, settled: false, subject, message, epoch: 7 }
}

fn leading() -> View {
    view(true, Some(("m1", SocketAddr::from(([127, 0, 0, 1], 1)))))
}

fn client() -> Client<HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).build(HttpConnector::new())
}

/// `call` is `METHOD /path`; then `name: value` headers; a body is said to be JSON unless a header says otherwise.
async fn call(addr: SocketAddr, call: &str, headers: &[&str], body: &str) -> (StatusCode, HeaderMap, String) {
    let (method, path) = call.split_once(' ').expect("METHOD /path");
    let mut request = axum::http::Request::builder().method(method).uri(format!("http://{addr}{path}"));
    for (name, value) in headers.iter().map(|h| h.split_once(": ").expect("name: value")) {
        request = request.header(name, value);
    }
    if !body.is_empty() && !headers.iter().any(|h| h.starts_with("content-type")) {
        request = request.header("content-type", "application/json");
    }
    let request = request.body(Body::from(body.to_owned())).expect("a call");
    let (head, body) = client().request(request).await.expect("an answer").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (head.status, head.headers, String::from_utf8(body.to_vec()).expect("text"))
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What is wrong, if the answer is a problem in the one shape.
fn code(body: &str) -> String {
    let problem = json_of(body);
    let error = problem["error"].as_object().unwrap_or_else(|| panic!("another shape: {body}"));
    assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "hint", "message"]);
    assert!(error.values().all(|v| v.as_str().is_some_and(|t| !t.is_empty() && !t.contains('\n'))), "{body}");
    error["code"].as_str().expect("a word").to_owned()
}

#[tokio::test]
async fn every_change_reaches_the_loop_as_a_command() {
    let m = serve("m1", &[], leading(), agree).await;
    let group = r#"{"primary":{"addr":"127.0.0.1:1"},"replicas":[{"addr":"127.0.0.1:2","zone":"z"}]}"#;
    let topology = r#"{"topology":{"epoch":1,"groups":[],"slots":[]}}"#;
    for (path, body, expected) in [
        ("POST /api/v1/cluster", r#"{"name":"a"}"#, json!({"command": "create_cluster", "slot_count": 1024})),
        ("PATCH /api/v1/settings", r#"{"proxy_ttl_s":9}"#, json!({"command": "settings", "proxy_ttl_s": 9})),
        ("POST /api/v1/import", topology, json!({"command": "import", "replace": false, "probe": true})),
        (
            "POST /api/v1/groups",
            group,
            json!({"command": "add_group", "id": null, "take_data": false,
            "replicas": [{"addr": "127.0.0.1:2", "zone": "z"}]}),
        ),
        ("PATCH /api/v1/groups/3", r#"{"name":"b"}"#, json!({"command": "rename_group", "id": 3, "name": "b"})),
        ("DELETE /api/v1/groups/3", "", json!({"command": "remove_group", "id": 3})),
        (
            "POST /api/v1/groups/3/instances",
            r#"{"addr":"[::1]:5","take_data":true}"#,
            json!({"command": "add_instance", "group": 3, "instance": {"addr": "[::1]:5"}, "take_data": true}),
        ),
        (
            "DELETE /api/v1/groups/3/instances/unix:%2Frun%2Fa.sock",
            "",
            json!({"command": "remove_instance", "group": 3, "addr": "unix:/run/a.sock"}),
        ),
        (
            "POST /api/v1/groups/3/instances/127.0.0.1:2/follow",
            "",
            json!({"command": "follow_primary", "group": 3, "addr": "127.0.0.1:2"}),
        ),
        (
            "POST /api/v1/slots/assign",
            r#"{"ranges":[{"from":0,"to":4,"group":1}],"force":true}"#,
            json!({"command": "assign_slots", "ranges": [{"from": 0, "to": 4, "group": 1}], "force": true}),
        ),
        ("POST /api/v1/slots/spread", "{}", json!({"command": "spread_slots", "groups": []})),
        (
            "POST /api/v1/proxies/p%2F1/drain",
            r#"{"draining":true}"#,
            json!({"command": "drain_proxy", "id": "p/1", "draining": true}),
        ),
        ("DELETE /api/v1/proxies/p1", "", json!({"command": "remove_proxy", "id": "p1"})),
        (
            "PATCH /api/v1/migrations/3",
            r#"{"keys_per_s":5}"#,
            json!({"command": "steer_migration", "id": 3, "limits": {"keys_per_s": 5}}),
        ),
    ] {
        let (status, headers, answer) = call(m.addr, path, &["idempotency-key: k1"], body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        assert_eq!(headers["x-twemslot-leader"], "m1");
        let result = json_of(&answer)["result"].clone();
        assert_eq!((&result["who"], &result["key"]), (&json!("anonymous"), &json!("k1")), "{path}");
        for (key, value) in expected.as_object().expect("an object") {
            assert_eq!(&result["command"][key], value, "{path}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_dry_run_is_one() {
    let m = serve("m1", &[], leading(), agree).await;
    for (query, expected) in [("", false), ("?dry_run", true), ("?dry_run=true", true), ("?dry_run=false", false)] {
        let answer = call(m.addr, &format!("DELETE /api/v1/groups/3{query}"), &[], "").await.2;
        assert_eq!(json_of(&answer)["result"]["dry_run"], json!(expected), "{query}");
    }
}

#[tokio::test]
async fn every_refusal_has_the_one_shape() {
    let m = serve("m1", &[], leading(), agree).await;
    let long = "x".repeat(limits::BODY_BYTES_MAX + 1);
    let key = format!("idempotency-key: {}", "k".repeat(129));
    let text = "content-type: text/plain";
    for (path, headers, body, status, expected) in [
        ("GET /nowhere", vec![], "", 404, "no_such_path"),
        ("GET /api/v1/groups/9", vec![], "", 404, "no_such_group"),
        ("GET /api/v1/proxies/9", vec![], "", 404, "no_such_proxy"),
        ("PUT /api/v1/groups", vec![], "", 405, "no_such_method"),
        ("GET /api/v1/groups/abc", vec![], "", 400, "bad_path"),
        ("DELETE /api/v1/groups/-1", vec![], "", 400, "bad_path"),
        ("DELETE /api/v1/groups/1/instances/example.com:1", vec![], "", 400, "bad_path"),
        ("GET /api/v1/slots?per_slot=maybe", vec![], "", 400, "bad_query"),
        ("GET /api/v1/slots?what=7", vec![], "", 400, "bad_query"),
        ("GET /api/v1/audit?limit=0", vec![], "", 400, "bad_query"),
        ("DELETE /api/v1/groups/1?dry_run=perhaps", vec![], "", 400, "bad_query"),
        ("POST /api/v1/groups", vec![], "{", 400, "bad_body"),
        ("POST /api/v1/groups", vec![], r#"{"primary":{"addr":"nonsense"}}"#, 400, "bad_body"),
        ("POST /api/v1/slots/assign", vec![], r#"{"ranges":[],"forced":true}"#, 400, "bad_body"),
        ("POST /api/v1/members", vec![], r#"{"id":4,"name":"a b","addr":"10.0.0.4:6390"}"#, 400, "bad_member"),
        ("POST /api/v1/members", vec![], r#"{"id":4,"name":"m4","addr":"0.0.0.0:6390"}"#, 400, "bad_member"),
        ("POST /api/v1/groups", vec![text], "{}", 415, "not_json"),
        ("POST /api/v1/groups", vec![], "", 415, "not_json"),
        ("POST /api/v1/groups", vec![], &long, 413, "body_too_large"),
        ("DELETE /api/v1/groups/1", vec![&key], "", 400, "bad_idempotency_key"),
        ("DELETE /api/v1/groups/1", vec!["idempotency-key: a b"], "", 400, "bad_idempotency_key"),
        ("DELETE /api/v1/groups/1", vec!["idempotency-key: "], "", 400, "bad_idempotency_key"),
        ("DELETE /api/v1/groups/1", vec!["origin: http://evil.example"], "", 403, "foreign_origin"),
        ("GET /api/v1/groups", vec!["host: evil.example"], "", 403, "foreign_origin"),
        ("GET /metrics", vec![], "", 500, "internal"),
    ] {
        let (got, headers, answer) = call(m.addr, path, &headers, body).await;
        assert_eq!((got.as_u16(), code(&answer).as_str()), (status, expected), "{path}: {answer}");
        assert_eq!(headers["content-type"], "application/json");
        if status == 405 {
            assert_eq!(headers["allow"], "GET,HEAD,POST");
        }
    }
    let beat = r#"{"id":"p2","version":"1","addr":"a","admin_addr":"b","epoch":1,"started_at":1}"#;
    assert_eq!(code(&call(m.addr, "POST /api/v1/proxies/p1/beat", &[], beat).await.2), "wrong_proxy");
    let answer = call(m.addr, "POST /api/v1/proxies/p2/beat", &[], beat).await.2;
    assert_eq!(json_of(&answer), json!({"epoch": 2, "draining": false, "registered": true, "next_ms": 1000}));
}

#[tokio::test]
async fn a_refusal_of_the_loop_keeps_its_words_and_gets_its_status() {
    fn refuse(r: Request) -> Result<Answer, Refusal> {
        let kind = serde_json::from_value(json!(r.idempotency_key)).expect("a kind");
        let (message, hint) = ("no".to_owned(), "do not".to_owned());
        Err(Refusal { kind, code: "x_y".to_owned(), message, hint })
    }
    let m = serve("m1", &[], leading(), refuse).await;
    for (kind, status, again) in [
        (Kind::Invalid, 400, false),
        (Kind::Absent, 404, false),
        (Kind::Conflict, 409, false),
        (Kind::Unfit, 422, false),
        (Kind::Busy, 429, true),
        (Kind::Unavailable, 503, true),
        (Kind::Unknown, 504, false),
    ] {
        let key = format!("idempotency-key: {}", json!(kind).as_str().expect("a word"));
        let (got, headers, answer) = call(m.addr, "DELETE /api/v1/groups/1", &[&key], "").await;
        assert_eq!((got.as_u16(), headers.contains_key("retry-after")), (status, again), "{kind:?}");
        assert_eq!(json_of(&answer), json!({"error": {"code": "x_y", "message": "no", "hint": "do not"}}));
    }
}

#[tokio::test]
async fn without_a_token_nothing_but_health_answers() {
    let m = serve("m1", &[("boss", Role::Admin)], leading(), agree).await;
    let document: Value = serde_json::from_str(&super::document()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let mut asked = 0;
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys().filter(|m| *m != "parameters") {
            let line = format!("{} {}", method.to_uppercase(), path.replace(['{', '}'], ""));
            let (got, _, answer) = call(m.addr, &line, &[], "").await;
            let open = ["/healthz", "/readyz"].contains(&path.as_str());
            assert_eq!(got.as_u16() == 401, !open, "{line}: {got}: {answer}");
            asked += 1;
        }
    }
    assert!(asked > 50, "{asked} routes");
}

#[tokio::test]
async fn a_token_opens_what_its_role_may() {
    let tokens = [("reader", Role::Read), ("boss", Role::Admin), ("proxy", Role::Proxy)];
    let m = serve("m1", &tokens, leading(), agree).await;
    let beat = r#"{"id":"p","version":"1","addr":"a","admin_addr":"b","epoch":1,"started_at":1}"#;
    for (path, body, nobody, reader, boss, proxy) in [
        ("GET /healthz", "", 200, 200, 200, 200),
        ("GET /readyz", "", 200, 200, 200, 200),
        ("GET /api/v1/groups", "", 401, 200, 200, 403),
        ("GET /api/v1/topology", "", 401, 200, 200, 200),
        ("GET /api/v1/proxies/p1", "", 401, 200, 200, 200),
        ("GET /api/v1/proxies", "", 401, 200, 200, 403),
        ("GET /api/v1/store/export", "", 401, 403, 200, 403),
        ("GET /openapi.json", "", 401, 200, 200, 403),
        ("GET /nowhere", "", 401, 404, 404, 403),
        ("DELETE /api/v1/groups/1", "", 401, 403, 200, 403),
        ("POST /api/v1/proxies/p/beat", beat, 401, 403, 200, 200),
        ("POST /api/v1/members/m2/promote", "", 401, 403, 200, 403),
    ] {
        for (who, status) in [("", nobody), ("reader", reader), ("boss", boss), ("proxy", proxy)] {
            let header = format!("authorization: Bearer {who}");
            let headers: &[&str] = if who.is_empty() { &[] } else { &[&header] };
            let (got, headers, answer) = call(m.addr, path, headers, body).await;
            assert_eq!(got.as_u16(), status, "{path} by {who:?}: {answer}");
            assert_eq!(headers.contains_key("www-authenticate"), status == 401, "{path} by {who:?}");
            assert!(status < 400 || !code(&answer).is_empty());
        }
    }
    let answer = call(m.addr, "DELETE /api/v1/groups/1", &["authorization: bearer boss"], "").await.2;
    assert_eq!(json_of(&answer)["result"]["who"], "boss");
    let answer = call(m.addr, "POST /api/v1/members/m2/promote?dry_run", &["authorization: Bearer boss"], "").await.2;
    assert_eq!(json_of(&answer)[0]["name"], "boss promotes m2 true");
}

#[tokio::test]
async fn whoever_guesses_has_to_wait() {
    let m = serve("m1", &[("boss", Role::Admin)], leading(), agree).await;
    for n in 0..limits::FAILURES_MAX {
        let (status, ..) = call(m.addr, "GET /api/v1/groups", &[&format!("authorization: Bearer x{n}")], "").await;
        assert_eq!(status, 401, "{n}");
    }
    let (status, headers, answer) = call(m.addr, "GET /api/v1/groups", &["authorization: Bearer boss"], "").await;
    assert_eq!((status.as_u16(), code(&answer).as_str()), (429, "too_many_failures"));
    assert!(headers.contains_key("retry-after"));
    assert_eq!(call(m.addr, "GET /healthz", &[], "").await.0, 200);
}

#[tokio::test]
async fn changes_go_to_the_leader() {
    let tokens = [("boss", Role::Admin)];
    let boss = "authorization: Bearer boss";
    let leader = serve("m1", &tokens, leading(), agree).await;
    let follower = serve("m2", &tokens, view(false, Some(("m1", leader.addr))), |_| panic!("asked a follower")).await;
    let body = r#"{"name":"b"}"#;
    let (status, headers, answer) =
        call(follower.addr, "PATCH /api/v1/groups/3?dry_run", &[boss, "idempotency-key: k"], body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&headers["x-twemslot-leader"], &headers["x-twemslot-member"]),
        (&"m1".parse().expect("a name"), &"m1".parse().expect("a name"))
    );
    let result = json_of(&answer)["result"].clone();
    assert_eq!(result["who"], "boss");
    assert_eq!(
        (&result["key"], &result["dry_run"], &result["command"]["name"]),
        (&json!("k"), &json!(true), &json!("b"))
    );
    for (path, member) in [("GET /api/v1/cluster", "m2"), ("GET /api/v1/cluster?leader=true", "m1")] {
        assert_eq!(json_of(&call(follower.addr, path, &[boss], "").await.2)["member"], member);
    }
    // Whoever reads after its change sees it: the answer waits until the follower knows what the leader knew.
    leader.view.send_replace(Arc::new(View { revision: 9, ..leading() }));
    let change = tokio::spawn(async move { call(follower.addr, "DELETE /api/v1/groups/3", &[boss], "").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!change.is_finished(), "the follower has not seen revision 9");
    follower.view.send_replace(Arc::new(View { revision: 9, ..view(false, Some(("m1", leader.addr))) }));
    assert_eq!(change.await.expect("an answer").0, 200);
    // A leader that has just lost: it does not pass on what was passed on.
    leader.view.send_replace(Arc::new(view(false, Some(("m2", follower.addr)))));
    let (status, headers, answer) = call(follower.addr, "DELETE /api/v1/groups/3", &[boss], "").await;
    assert_eq!((status.as_u16(), code(&answer).as_str()), (503, "no_leader"), "{answer}");
    assert_eq!(headers["retry-after"], "1");
    // Nobody is there, and nobody is known.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for leader in [Some(("m1", nobody)), None] {
        follower.view.send_replace(Arc::new(view(false, leader)));
        let (status, headers, answer) = call(follower.addr, "DELETE /api/v1/groups/3", &[boss], "").await;
        assert_eq!((status.as_u16(), code(&answer).as_str()), (503, "no_leader"), "{answer}");
        assert_eq!(headers["retry-after"], "1");
    }
    assert_eq!(call(follower.addr, "GET /readyz", &[], "").await.0, 503);
    assert_eq!(call(follower.addr, "GET /healthz", &[], "").await.0, 200);
}

#[tokio::test]
async fn reads_say_what_the_view_says() {
    let m = serve("m1", &[], leading(), agree).await;
    let get = async |path: &str| json_of(&call(m.addr, &format!("GET {path}"), &[], "").await.2);
    let groups =
        json!([{"id": 1, "name": "g1", "primary": "127.0.0.1:7001", "replicas": ["127.0.0.1:7009"], "slots": 9}]);
    assert_eq!(get("/api/v1/groups").await, groups);
    assert_eq!(get("/api/v1/groups/1").await, groups[0]);
    let ranges = json!([{"from": 0, "to": 0, "group": 1, "state": "moving", "target": 2},
        {"from": 1, "to": 8, "group": 1, "state": "normal"}, {"from": 9, "to": 9, "group": null, "state": "normal"}]);
    assert_eq!(get("/api/v1/slots").await, json!({"epoch": 7, "slot_count": 10, "ranges": ranges}));
    assert_eq!(get("/api/v1/slots?per_slot").await["ranges"].as_array().map(Vec::len), Some(10));
    let ids = |list: Value| list.as_array().expect("a list").iter().map(|p| p["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(get("/api/v1/proxies").await), ["p1", "p2"]);
    assert_eq!(ids(get("/api/v1/proxies?alive").await), ["p1"]);
    assert_eq!(get("/api/v1/settings").await["proxy_ttl_s"], 10);
    let status = get("/api/v1/cluster").await;
    assert_eq!((&status["leader"], &status["slots_unassigned"]), (&json!("m1"), &json!(1)));
    let problems = status["problems"].to_string();
    assert!(["1 slots", "proxy p2", "invalid_edit"].iter().all(|w| problems.contains(w)), "{problems}");
    let export = get("/api/v1/store/export").await;
    assert_eq!((&export["format"], &export["revision"]), (&json!("twemslot-store-1"), &json!(99)));
    m.view.send_replace(Arc::new(View::default()));
    for path in ["/api/v1/slots", "/api/v1/topology", "/api/v1/settings"] {
        assert_eq!(get(path).await["error"]["code"], "no_cluster", "{path}");
    }
    assert_eq!(get("/api/v1/cluster").await["created"], false);
}

#[tokio::test]
async fn the_topology_has_a_tag() {
    let m = serve("m1", &[], leading(), agree).await;
    let (status, headers, body) = call(m.addr, "GET /api/v1/topology", &[], "").await;
    assert_eq!((status.as_u16(), &headers["etag"]), (200, &"\"7\"".parse().expect("a tag")));
    assert_eq!(cluster_of(&json_of(&body)).epoch(), 7);
    for (known, expected) in [("\"7\"", 304), ("\"6\", W/\"7\"", 304), ("\"6\"", 200), ("*", 304)] {
        let header = format!("if-none-match: {known}");
        assert_eq!(call(m.addr, "GET /api/v1/topology", &[&header], "").await.0.as_u16(), expected, "{known}");
    }
}

#[tokio::test]
async fn the_trail_is_read_in_parts() {
    let m = serve("m1", &[], leading(), agree).await;
    let (mut seen, mut before) = (Vec::new(), String::new());
    for _ in 0..9 {
        let trail = json_of(&call(m.addr, &format!("GET /api/v1/audit?limit=2{before}"), &[], "").await.2);
        let revisions = trail.as_array().expect("a list").iter().map(|e| e["revision"].as_u64().expect("a number"));
        let revisions: Vec<u64> = revisions.collect();
        let Some(last) = revisions.last() else { break };
        before = format!("&before={last}");
        seen.extend(revisions);
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1], "the latest at hand, the rest from the store, none twice");
}

#[tokio::test]
async fn listeners_hear_the_alarms_of_now_the_news_and_what_they_missed() {
    let m = serve("m1", &[], leading(), agree).await;
    let request =
        axum::http::Request::get(format!("http://{}/api/v1/events", m.addr)).body(Body::empty()).expect("a call");
    let mut stream = client().request(request).await.expect("an answer").into_body().into_data_stream();
    let mut heard = String::new();
    let mut hear = async |word: &str| {
        while !heard.contains(word) {
            let next = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
            let bytes = next.unwrap_or_else(|_| panic!("no {word} in {heard}")).expect("no end").expect("no fault");
            heard.push_str(std::str::from_utf8(&bytes).expect("text"));
        }
    };
    hear("event: invalid_edit\n").await;
    m.news.send(news("leader")).expect("somebody listens");
    hear("event: leader\ndata: {").await;
    (0..5).for_each(|_| drop(m.news.send(news("topology"))));
    hear("event: lagged\ndata: {\"missed\":1}").await;
    hear("event: topology\n").await;
}

#[tokio::test]
async fn a_store_is_taken_in_once() {
    let m = serve("m1", &[], leading(), agree).await;
    let path = "POST /api/v1/store/import";
    let group = r#"{"group_id":1,"primary":"127.0.0.1:7001"}"#;
    let entries = json!([{"key": "epoch", "value": "{\"epoch\":7}"}, {"key": "group-instances/1", "value": group},
        {"key": "settings", "value": "{\"name\":\"shop\",\"slot_count\":10}"}]);
    let body = json!({"format": words::EXPORT_FORMAT, "revision": 5, "store": "x", "entries": entries}).to_string();
    let (status, _, answer) = call(m.addr, &format!("{path}?dry_run"), &[], &body).await;
    assert_eq!((status.as_u16(), &json_of(&answer)["epoch"]), (200, &json!(7)), "{answer}");
    let (status, _, answer) = call(m.addr, path, &[], &body).await;
    assert_eq!((status.as_u16(), &json_of(&answer)["result"]), (200, &json!({"keys": 3})), "{answer}");
    let export = json_of(&call(m.addr, "GET /api/v1/store/export", &[], "").await.2);
    let value = |key: &str| {
        let entries = export["entries"].as_array().expect("a list");
        entries.iter().find(|e| e["key"] == key).map(|e| e["value"].as_str().expect("text").to_owned())
    };
    assert_eq!(value("group-instances/1").as_deref(), Some(group));
    assert_eq!(value("epoch").as_deref(), Some(r#"{"epoch":7}"#));
    let (status, _, answer) = call(m.addr, path, &[], &body).await;
    assert_eq!((status.as_u16(), code(&answer).as_str()), (409, "not_empty"));
    // Another member has taken the lead in the store, and this one does not know it yet.
    let late = serve("m2", &[], View { token: Some(layout::Token { term: 0, member: 2 }), ..leading() }, agree).await;
    let (status, _, answer) = call(late.addr, path, &[], &body).await;
    assert_eq!((status.as_u16(), code(&answer).as_str()), (503, "no_leader"));
}

#[tokio::test]
async fn listeners_are_bounded() {
    let m = serve("m1", &[], leading(), agree).await;
    let mut streams = Vec::new();
    for n in 0..limits::LISTENERS_MAX {
        let request = axum::http::Request::get(format!("http://{}/api/v1/events", m.addr)).body(Body::empty());
        let answer = client().request(request.expect("a call")).await.expect("an answer");
        assert_eq!(answer.status(), 200, "{n}");
        streams.push(answer.into_body());
    }
    let (status, headers, answer) = call(m.addr, "GET /api/v1/events", &[], "").await;
    assert_eq!((status.as_u16(), code(&answer).as_str()), (429, "busy"));
    assert!(headers.contains_key("retry-after"));
}

#[tokio::test]
async fn the_document_names_what_there_is() {
    let m = serve("m1", &[], leading(), agree).await;
    let text = call(m.addr, "GET /openapi.json", &[], "").await.2;
    assert_eq!(text, document());
    let document = json_of(&text);
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods").iter().filter(|(m, _)| *m != "parameters") {
            let there = path.replace("{id}", "1").replace("{addr}", "127.0.0.1:1").replace("{name}", "m2");
            if path != "/api/v1/events" {
                let answer = call(m.addr, &format!("{} {there}", method.to_uppercase()), &[], "").await;
                assert_ne!(answer.0, 405, "{method} {path}");
                assert!(
                    operation["responses"][answer.0.as_str()].is_object(),
                    "{method} {path}: {} is not documented",
                    answer.0
                );
            }
            assert!(operation["responses"]["401"]["content"].is_object(), "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}: says nothing");
        }
    }
    let mut at = 0;
    while let Some(found) = text[at..].find("\"$ref\":\"#/components/schemas/") {
        let name = text[at + found..].split(['/', '"']).nth(6).expect("a name");
        assert!(document["components"]["schemas"][name].is_object(), "{name} is not there");
        at += found + 1;
    }
    assert!(at > 0, "no reference was found");
}
