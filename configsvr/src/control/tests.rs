//! Stories: control's behaviour as texts (`testdata/*.txt`), with a store that does what it is told.
//!
//! ```text
//! m leads 3                         raft: member m leads in term 3 (n1: another control on the same store)
//! m follows                         raft: somebody else
//! m? KEY COMMAND                    somebody asks; COMMAND is JSON, or a word of `command`; KEY: idempotency, or -
//! = ok 5 TEXT...                    the last call's answer: its epoch, and words of its JSON
//! = not_leader TEXT...              ... or the code of its refusal, and words of message and hint
//! = waits                           ... or none yet
//! store KEY JSON                    a hand edit; `store KEY` deletes; `store KEY ~ OLD NEW` replaces a text
//! KEY has TEXT... | KEY is gone     what the store holds
//! push p1 epoch 5                   the proxy is given this; `push p1 takes`, `refuses WHY`, `serves 9`: its answer
//! beat p1 epoch 4                   the proxy says that it lives
//! news KIND TEXT...                 people are told this
//! epoch 5 | no topology             what is in force
//! hold writes | release writes      transactions wait | are done;  lose writes: done, but nobody says so;
//! drop writes: neither              hold watch | release watch: the watch is late
//! ```
//! Others: `wait MS`, `instance PORT KEY=JSON...` (what a probe sees), `dead PORT`, `told A to follow B`, `expire p1`, `goodbye p1`,
//! `store is lost`, `store is back`, `alarm KIND` and `no alarm KIND`, `invalid TEXT`, `dry COMMAND`.

use super::command::{Answer, Beat, Command, Refusal, Request, Seen};
use super::event::{Action, Event, Leadership, News, PushFault};
use super::layout::Token;
use super::limits::AUDIT_MAX;
use super::{Control, Member};
use crate::store::{Change, Compare, Entry, Fault, LeaseId, Notice, Op, Revision, Snapshot, Txn, Verdict};
use cluster::instance::{Addr, Role};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};

#[derive(Default)]
struct Store {
    revision: Revision,
    entries: BTreeMap<String, Entry>,
}

impl Store {
    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent { key } => !self.entries.contains_key(key),
            Compare::ModifiedAt { key, revision } => self.entries.get(key).is_some_and(|e| e.modified == *revision),
            Compare::ValueIs { key, value } => self.entries.get(key).is_some_and(|e| e.value == *value),
            Compare::UnwrittenSince { prefix, revision } => {
                self.entries.values().all(|e| !e.key.starts_with(prefix) || e.modified <= *revision)
            }
        }
    }

    fn commit(&mut self, txn: &Txn) -> (Verdict, Option<Notice>) {
        assert!(txn.ops.len() <= crate::store::TXN_MAX && txn.compares.len() <= crate::store::TXN_MAX, "{txn:?}");
        if !txn.compares.iter().all(|c| self.holds(c)) {
            return (Verdict::Refused(self.revision), None);
        }
        self.revision += 1;
        let mut changes = Vec::new();
        for op in &txn.ops {
            match op.clone() {
                Op::Put { key, value, lease } => {
                    let entry = Entry { key: key.clone(), value, modified: self.revision, lease };
                    self.entries.insert(key, entry.clone());
                    changes.push(Change::Put(entry));
                }
                Op::Delete { key } => {
                    if self.entries.remove(&key).is_some() {
                        changes.push(Change::Delete { key });
                    }
                }
            }
        }
        let revision = self.revision;
        (Verdict::Done(revision), Some(Notice::Changed { revision, changes }))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Writes {
    Done,
    Held,
    Lost,
    Dropped,
}

struct World {
    controls: BTreeMap<String, Control>,
    store: Store,
    now: u64,
    instances: BTreeMap<u16, Option<Seen>>,
    writes: Writes,
    held: VecDeque<(String, u64, Txn)>,
    /// Notices that the watch has not told yet, while it is held.
    late: Option<Vec<Notice>>,
    calls: u64,
    answers: BTreeMap<u64, Result<Answer, Refusal>>,
    pushes: BTreeMap<String, (String, u64, u64)>,
    told: Vec<(Addr, Addr)>,
    news: Vec<News>,
    leases: LeaseId,
    at: String,
}

fn addr(port: u16) -> Addr {
    format!("127.0.0.1:{port}").parse().expect("an address")
}

fn port(addr: &Addr) -> u16 {
    addr.to_string().rsplit(':').next().and_then(|p| p.parse().ok()).expect("a port")
}

impl World {
    fn new() -> Self {
        Self {
            controls: BTreeMap::new(),
            store: Store::default(),
            now: 1_000,
            instances: BTreeMap::new(),
            writes: Writes::Done,
            held: VecDeque::new(),
            late: None,
            calls: 0,
            answers: BTreeMap::new(),
            pushes: BTreeMap::new(),
            told: Vec::new(),
            news: Vec::new(),
            leases: 0,
            at: String::new(),
        }
    }

    fn member(&mut self, name: &str) {
        if self.controls.contains_key(name) {
            return;
        }
        let addr = format!("127.0.0.1:639{}", self.controls.len());
        self.controls.insert(name.to_owned(), Control::new(Member { name: name.to_owned(), addr }, 7));
        let entries = self.store.entries.values().cloned().collect();
        let listed = Notice::Listed(Snapshot { revision: self.store.revision, entries });
        self.event(name, Event::Committed(listed));
    }

    fn event(&mut self, name: &str, event: Event) {
        let control = self.controls.get_mut(name).expect("a member");
        let actions = control.step(self.now, 1_700_000_000_000 + self.now, event);
        for action in actions {
            self.act(name, action);
        }
    }

    fn act(&mut self, name: &str, action: Action) {
        match action {
            Action::Answer { call, outcome } => {
                assert!(self.answers.insert(call, outcome).is_none(), "{}: answered twice", self.at);
            }
            Action::AnswerBeat { .. } => {}
            Action::Write { deed, txn } => match self.writes {
                Writes::Held => self.held.push_back((name.to_owned(), deed, txn)),
                Writes::Dropped => {
                    let outcome = Err(Fault::Unknown("dropped".to_owned()));
                    self.event(name, Event::Wrote { deed, outcome });
                }
                Writes::Done | Writes::Lost => self.write(name, deed, &txn),
            },
            Action::Probe { deed, addrs } => {
                let see = |a: &Addr| match self.instances.get(&port(a)) {
                    Some(Some(seen)) => (a.clone(), Ok(seen.clone())),
                    _ => (a.clone(), Err("connection refused".to_owned())),
                };
                let seen = addrs.iter().map(see).collect();
                self.event(name, Event::Probed { deed, seen });
            }
            Action::Follow { deed, instance, primary, .. } => {
                self.told.push((instance, primary));
                self.event(name, Event::Followed { deed, outcome: Ok(()) });
            }
            Action::Grant { deed, .. } => {
                self.leases += 1;
                let outcome = Ok(self.leases);
                self.event(name, Event::Granted { deed, outcome });
            }
            Action::KeepAlive { deed, lease } => {
                let there = self.store.entries.values().any(|e| e.lease == Some(lease));
                let outcome = if there { Ok(()) } else { Err(Fault::NoLease(lease)) };
                self.event(name, Event::KeptAlive { deed, outcome });
            }
            Action::Push { deed, proxy, epoch, .. } => _ = self.pushes.insert(proxy, (name.to_owned(), deed, epoch)),
            Action::Watch { .. } | Action::Poll | Action::Move { .. } | Action::Drop { .. } => {}
            Action::Sweep { .. } | Action::Audit { .. } => {}
            Action::Order { deed, .. } => {
                let outcome = Err("connection refused".to_owned());
                self.event(name, Event::Ordered { deed, outcome });
            }
            Action::Tell(news) => self.news.push(news),
        }
    }

    fn write(&mut self, name: &str, deed: u64, txn: &Txn) {
        let (verdict, notice) = self.store.commit(txn);
        let outcome = if self.writes == Writes::Lost { Err(Fault::Unknown("lost".to_owned())) } else { Ok(verdict) };
        notice.into_iter().for_each(|notice| self.publish(notice));
        self.event(name, Event::Wrote { deed, outcome });
    }

    fn publish(&mut self, notice: Notice) {
        match &mut self.late {
            Some(late) => late.push(notice),
            None => {
                for name in self.controls.keys().cloned().collect::<Vec<_>>() {
                    self.event(&name, Event::Committed(notice.clone()));
                }
            }
        }
    }

    fn edit(&mut self, op: Op) {
        let (_, notice) = self.store.commit(&Txn { compares: vec![], ops: vec![op] });
        notice.into_iter().for_each(|notice| self.publish(notice));
    }

    fn ask(&mut self, name: &str, key: &str, command: &str, dry_run: bool) {
        self.calls += 1;
        let command: Command = command_of(command);
        let idempotency_key = (key != "-").then(|| key.to_owned());
        let request = Request { who: "ann".to_owned(), command, idempotency_key, dry_run };
        self.event(name, Event::Asked { call: self.calls, request });
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let rest = |n: usize| line.splitn(n + 1, ' ').nth(n).unwrap_or_default();
        match *words.as_slice() {
            [name, "leads", term] => {
                self.member(name);
                let token = Token { term: term.parse().expect("a term"), member: self.controls.len() as u64 };
                self.event(name, Event::Leadership(Leadership::Leading(token)));
            }
            [name, "follows"] => {
                self.member(name);
                self.event(name, Event::Leadership(Leadership::Following(None)));
            }
            ["dry", ..] => self.ask("m", "-", rest(1), true),
            [name, key, ..] if name.ends_with('?') => self.ask(&name[..name.len() - 1], key, rest(2), false),
            ["=", "waits"] => assert!(!self.answers.contains_key(&self.calls), "{}: {:?}", self.at, self.answers),
            ["=", "ok", epoch, ref wanted @ ..] => {
                let Some(Ok(answer)) = self.answers.get(&self.calls) else { self.fail(&self.answers.get(&self.calls)) };
                assert_eq!(answer.epoch.to_string(), epoch, "{}: {answer:?}", self.at);
                self.has(&json!(answer).to_string(), wanted);
            }
            ["=", code, ref wanted @ ..] => {
                let Some(Err(refusal)) = self.answers.get(&self.calls) else {
                    self.fail(&self.answers.get(&self.calls))
                };
                assert_eq!(refusal.code, code, "{}: {refusal:?}", self.at);
                self.has(&format!("{} ({})", refusal.message, refusal.hint), wanted);
            }
            ["store", "is", "lost"] => self.publish(Notice::Lost("connection refused".to_owned())),
            ["store", "is", "back"] => {
                let entries = self.store.entries.values().cloned().collect();
                self.publish(Notice::Listed(Snapshot { revision: self.store.revision, entries }));
            }
            ["store", key, "~", old, new] => {
                let entry = self.store.entries.get(key).expect("a key").clone();
                assert!(entry.value.contains(old), "{}: {}", self.at, entry.value);
                self.edit(Op::Put { key: entry.key, value: entry.value.replace(old, new), lease: entry.lease });
            }
            ["store", key] => self.edit(Op::Delete { key: key.to_owned() }),
            ["store", key, ..] => {
                self.edit(Op::Put { key: key.to_owned(), value: rest(2).to_owned(), lease: None });
            }
            [key, "is", "gone"] => assert!(!self.store.entries.contains_key(key), "{}", self.at),
            [key, "has", ref wanted @ ..] => {
                let key = if key == "audit" { self.last_audit() } else { key.to_owned() };
                let Some(entry) = self.store.entries.get(&key) else { self.fail(&self.store.entries.keys()) };
                self.has(&entry.value, wanted);
            }
            ["push", proxy, "epoch", epoch] => {
                let Some((_, _, pushed)) = self.pushes.get(proxy) else { self.fail(&self.pushes) };
                assert_eq!(pushed.to_string(), epoch, "{}", self.at);
            }
            ["no", "push", proxy] => assert!(!self.pushes.contains_key(proxy), "{}", self.at),
            ["push", proxy, ref words @ ..] => {
                let (name, deed, epoch) = self.pushes.remove(proxy).expect("a push");
                let outcome = match words {
                    ["takes"] => Ok(epoch),
                    ["serves", epoch] => Err(PushFault::Newer { serving: epoch.parse().expect("an epoch") }),
                    ["refuses", why] => Err(PushFault::Refused((*why).to_owned())),
                    _ => panic!("{}: takes, serves EPOCH or refuses WHY", self.at),
                };
                self.event(&name, Event::Pushed { deed, outcome });
            }
            [word @ ("beat" | "goodbye"), proxy, "epoch", epoch] => {
                let beat = Beat {
                    id: proxy.to_owned(),
                    version: "0.1.0".to_owned(),
                    addr: "127.0.0.1:6380".to_owned(),
                    admin_addr: format!("127.0.0.1:{proxy}"),
                    zone: String::new(),
                    epoch: epoch.parse().expect("an epoch"),
                    started_at: 5,
                    from_disk: false,
                    leaving: word == "goodbye",
                    instances: vec![],
                };
                self.calls += 1;
                let names: Vec<String> = self.controls.keys().cloned().collect();
                for name in names.iter().filter(|n| self.controls[*n].acting()).cloned().collect::<Vec<_>>() {
                    self.event(&name, Event::Beat { call: self.calls, beat: beat.clone() });
                }
            }
            ["waits", "for", proxy] => assert!(self.awaited().contains(&proxy.to_owned()), "{}", self.at),
            ["no", "wait", "for", proxy] => assert!(!self.awaited().contains(&proxy.to_owned()), "{}", self.at),
            ["expire", proxy] => self.edit(Op::Delete { key: format!("proxies/{proxy}") }),
            ["news", kind, ref wanted @ ..] => {
                let found = self.news.iter().position(|n| n.kind == kind && holds_all(&json!(n).to_string(), wanted));
                let Some(found) = found else { self.fail(&self.news) };
                self.news.drain(..=found);
            }
            ["alarm", kind] => assert!(self.alarms().contains(&kind.to_owned()), "{}: {:?}", self.at, self.alarms()),
            ["no", "alarm", kind] => {
                assert!(!self.alarms().contains(&kind.to_owned()), "{}: {:?}", self.at, self.alarms());
            }
            ["invalid", ref wanted @ ..] => {
                let invalid = self.controls["m"].view(self.now).invalid.join("\n");
                self.has(&invalid, wanted);
            }
            ["epoch", epoch] => {
                for (name, control) in &self.controls {
                    let now = control.view(self.now).topology.map(|t| t.epoch().to_string());
                    assert_eq!(now.as_deref(), Some(epoch), "{}: of {name}", self.at);
                }
            }
            ["no", "topology"] => assert!(self.controls["m"].view(self.now).topology.is_none(), "{}", self.at),
            ["slots", wanted] => {
                let slots = self.controls["m"].view(self.now).slots;
                let owner = |g: Option<u32>| g.map_or("-".to_owned(), |g| g.to_string());
                let text: Vec<String> =
                    slots.iter().map(|r| format!("{}-{}:{}", r.from, r.to, owner(r.group))).collect();
                assert_eq!(text.join(","), wanted, "{}", self.at);
            }
            ["hold", "writes"] => self.writes = Writes::Held,
            ["lose", "writes"] => self.writes = Writes::Lost,
            ["drop", "writes"] => self.writes = Writes::Dropped,
            ["do", "writes"] => self.writes = Writes::Done,
            ["release", "writes"] => {
                self.writes = Writes::Done;
                while let Some((name, deed, txn)) = self.held.pop_front() {
                    self.write(&name, deed, &txn);
                }
            }
            ["hold", "watch"] => self.late = Some(Vec::new()),
            ["release", "watch"] => self.late.take().into_iter().flatten().for_each(|notice| self.publish(notice)),
            ["wait", ms] => {
                self.now += ms.parse::<u64>().expect("milliseconds");
                for name in self.controls.keys().cloned().collect::<Vec<_>>() {
                    self.event(&name, Event::Tick);
                }
            }
            ["dead", port] => _ = self.instances.insert(port.parse().expect("a port"), None),
            ["instance", port, ref facts @ ..] => self.instance(port.parse().expect("a port"), facts),
            ["told", instance, "to", "follow", primary] => {
                let pair = (addr(instance.parse().expect("a port")), addr(primary.parse().expect("a port")));
                assert!(self.told.contains(&pair), "{}: {:?}", self.at, self.told);
            }
            _ => panic!("{}: what is {line:?}?", self.at),
        }
    }

    fn instance(&mut self, port: u16, facts: &[&str]) {
        let seen = Seen {
            addr: addr(port),
            run_id: format!("run{port}"),
            version: "7.0.15".into(),
            server: "redis".into(),
            cluster_mode: false,
            role: Role::Primary,
            follows: None,
            keys: 0,
            other_databases: 0,
            loading: false,
        };
        let mut seen = json!(seen);
        for fact in facts {
            let (name, value) = fact.split_once('=').expect("NAME=JSON");
            seen[name] = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        }
        self.instances.insert(port, Some(serde_json::from_value(seen).expect("facts")));
    }

    fn last_audit(&self) -> String {
        self.store.entries.keys().rfind(|k| k.starts_with("audit/")).expect("an audit").clone()
    }

    /// Proxies that whoever leads would wait for.
    fn awaited(&self) -> Vec<String> {
        let acting = self.controls.values().filter(|c| c.acting());
        acting.flat_map(|c| c.fleet().behind(u64::MAX)).map(str::to_owned).collect()
    }

    fn alarms(&self) -> Vec<String> {
        let all = self.controls.values().flat_map(|c| c.view(self.now).alarms);
        all.map(|n| n.kind).collect()
    }

    fn has(&self, text: &str, wanted: &[&str]) {
        assert!(holds_all(text, wanted), "{}: {wanted:?} not in {text}", self.at);
    }

    fn fail(&self, what: &dyn std::fmt::Debug) -> ! {
        panic!("{}: {what:?}", self.at)
    }
}

/// Each word is in the text; `_` is a blank.
fn holds_all(text: &str, wanted: &[&str]) -> bool {
    wanted.iter().all(|word| text.contains(&word.replace('_', " ")) || text.contains(word))
}

/// JSON, or one of the words that stories use most.
fn command_of(text: &str) -> Command {
    let words: Vec<&str> = text.split_whitespace().collect();
    let instance = |port: &str| json!({ "addr": addr(port.parse().expect("a port")) });
    let json = match *words.as_slice() {
        ["create", slots] => {
            json!({"command":"create_cluster","name":"shop","slot_count":slots.parse::<u16>().expect("slots"),"tag_rule":"redis"})
        }
        ["group", primary, ref replicas @ ..] => {
            let replicas: Vec<_> = replicas.iter().map(|p| instance(p)).collect();
            json!({"command":"add_group","id":null,"name":null,"primary":instance(primary),"replicas":replicas,"take_data":false})
        }
        ["replica", group, port] => {
            json!({"command":"add_instance","group":group.parse::<u32>().expect("a group"),"instance":instance(port),"take_data":false})
        }
        ["spread"] => json!({"command":"spread_slots","groups":[]}),
        ["assign", from, to, group] => {
            let number = |text: &str| text.parse::<u32>().expect("a number");
            let range = json!({"from":number(from),"to":number(to),"group":number(group)});
            json!({"command":"assign_slots","ranges":[range],"force":true})
        }
        ["rename", group, name] => {
            json!({"command":"rename_group","id":group.parse::<u32>().expect("a group"),"name":name})
        }
        ["ttl", s] => json!({"command":"settings","proxy_ttl_s":s.parse::<u64>().expect("seconds")}),
        ["drain", id] => json!({"command":"drain_proxy","id":id,"draining":true}),
        ["forget", id] => json!({"command":"remove_proxy","id":id}),
        _ => serde_json::from_str(text).expect("a command"),
    };
    serde_json::from_value(json).expect("a command")
}

fn tell(name: &str, text: &str) {
    let mut world = World::new();
    world.member("m");
    for (n, line) in (1..).zip(text.lines()) {
        let line = line.split("  #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        world.at = format!("{name}:{n}: {line}");
        if line == "---" {
            world = World::new();
            world.member("m");
            continue;
        }
        world.line(line);
    }
}

macro_rules! stories {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            tell(stringify!($name), include_str!(concat!("testdata/", stringify!($name), ".txt")));
        }
    )*};
}

stories! { changes leadership edits proxies probes }

/// The ring of audits is bounded, and what is in it stays in order.
#[test]
fn old_audits_go() {
    let mut world = World::new();
    world.member("m");
    world.line("m leads 1");
    world.line("m? - create 16");
    for n in 0..AUDIT_MAX + 50 {
        world.line(&format!("m? k{n} ttl {}", 3 + n % 50));
        world.line("= ok 1");
    }
    let audits = || world.store.entries.keys().filter(|k| k.starts_with("audit/"));
    assert_eq!(audits().count(), AUDIT_MAX);
    let seen = world.controls["m"].view(world.now).audit;
    assert!(seen.len() == AUDIT_MAX && seen.is_sorted_by_key(|(revision, _)| *revision));
}

/// All proxies are told at once; each that fails waits for a time of its own.
#[test]
fn two_hundred_proxies_are_pushed_to_in_one_go() {
    let mut world = World::new();
    world.member("m");
    world.line("m leads 1");
    world.line("m? - create 16");
    for n in 0..200 {
        world.line(&format!("beat p{n} epoch 1"));
    }
    world.line("wait 10");
    assert!(world.pushes.is_empty(), "nobody is behind");
    world.line("instance 6401");
    world.line("m? - group 6401");
    assert_eq!(world.pushes.len(), 200);
    for n in 0..200 {
        world.line(&format!("push p{n} refuses no"));
    }
    let mut waves = Vec::new();
    for _ in 0..12 {
        world.line("wait 10");
        waves.push(world.pushes.len());
    }
    assert!(waves[3] == 0 && *waves.last().expect("waves") == 200, "{waves:?}");
    assert!(waves.iter().filter(|n| (1..200).contains(*n)).count() > 2, "no jitter: {waves:?}");
}
