//! The operators: each has a list of wishes, asks for one after the other, and asks again with the same key until it has
//! an answer it can rely on.

use crate::rng::Rng;
use crate::truth::Truth;
use configsvr::control::command::{Answer, Command, Kind, Refusal, Request};
use serde_json::{Value, json};

/// More than one transaction can hold.
pub(crate) const SLOTS: u16 = 160;

/// What became of one wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Done(u64),
    /// Certainly not done.
    Refused(String),
}

/// One operator.
#[derive(Debug)]
pub(crate) struct Operator {
    n: usize,
    asked: usize,
    wishes: usize,
    /// The request under way: its call, and the member that was asked.
    pub(crate) call: Option<(u64, usize)>,
    request: Option<Request>,
    /// Some copy of the request may be done without our knowing.
    unsure: bool,
    dry: bool,
}

impl Operator {
    pub(crate) fn new(n: usize, wishes: usize) -> Self {
        Self { n, asked: 0, wishes, call: None, request: None, unsure: false, dry: false }
    }

    pub(crate) fn is_content(&self) -> bool {
        self.request.is_none() && self.asked >= self.wishes
    }

    /// The wish under way, or the next one.
    pub(crate) fn wish(&mut self, rng: &mut Rng, truth: &Truth, proxies: usize) -> Option<Request> {
        if self.call.is_some() {
            return None;
        }
        if self.request.is_none() && self.asked < self.wishes {
            self.asked += 1;
            let who = format!("operator{}-{}", self.n, self.asked);
            let command = if self.n == 0 && self.asked == 1 { create() } else { command(rng, truth, proxies) };
            let command: Command = serde_json::from_value(command).expect("a command");
            let dry_run = rng.one_in(20) && self.asked > 1;
            (self.unsure, self.dry) = (false, dry_run);
            self.request = Some(Request { idempotency_key: Some(who.clone()), who, command, dry_run });
        }
        self.request.clone()
    }

    /// Nobody will answer: it may have been done.
    pub(crate) fn unanswered(&mut self) {
        self.call = None;
        self.unsure = true;
    }

    /// An answer; the error says what must never be.
    pub(crate) fn hears(&mut self, outcome: Result<Answer, Refusal>, truth: &Truth) -> Result<Option<Fate>, String> {
        self.call = None;
        let Some(request) = &self.request else { return Err("an answer to nobody".to_owned()) };
        let who = request.who.clone();
        let done = truth.done.get(&who).cloned().unwrap_or_default();
        let fate = match outcome {
            Ok(_) if request.dry_run && !done.is_empty() => return Err(format!("{who}: was dry, but was done")),
            Ok(answer) if request.dry_run => Fate::Done(answer.epoch),
            Ok(answer) => {
                if done != [answer.epoch] {
                    return Err(format!("{who}: answered as done at epoch {}, done at {done:?}", answer.epoch));
                }
                Fate::Done(answer.epoch)
            }
            Err(refusal) if refusal.kind == Kind::Unknown => {
                self.unsure = true;
                return Ok(None);
            }
            Err(refusal) => {
                if !done.is_empty() && !self.unsure {
                    return Err(format!("{who}: {} ({}), but it was done", refusal.code, refusal.message));
                }
                match refusal.kind {
                    Kind::Unavailable | Kind::Busy => return Ok(None),
                    _ => Fate::Refused(refusal.code),
                }
            }
        };
        if let (Fate::Refused(code), false) = (&fate, done.is_empty()) {
            return Err(format!("{who}: done, but then refused with the same key: {code}"));
        }
        self.request = None;
        Ok(Some(fate))
    }

    /// The last wish was only to be judged.
    pub(crate) fn was_dry(&self) -> bool {
        self.dry
    }

    pub(crate) fn who(&self) -> String {
        self.request.as_ref().map(|r| r.who.clone()).unwrap_or_default()
    }
}

fn create() -> Value {
    json!({"command": "create_cluster", "name": "shop", "slot_count": SLOTS, "tag_rule": "redis"})
}

/// Instances of group `g`: 100 g and above.
fn instance(g: u64, n: u64) -> Value {
    json!({"addr": format!("127.0.0.1:{}", 100 * g + n + 1)})
}

fn command(rng: &mut Rng, truth: &Truth, proxies: usize) -> Value {
    let groups: Vec<u64> = truth.content.groups.keys().copied().collect();
    let group = if groups.is_empty() || rng.one_in(20) { rng.range(1, 9) } else { *rng.pick(&groups) };
    let one = if groups.len() < 2 { 0 } else { rng.below(12) };
    match one {
        0 | 1 => {
            let id = rng.range(1, 9);
            let replicas: Vec<Value> = (1..=rng.below(2) as u64).map(|n| instance(id, n)).collect();
            json!({"command": "add_group", "id": id, "name": null, "primary": instance(id, 0), "replicas": replicas, "take_data": false})
        }
        2 => json!({"command": "remove_group", "id": group}),
        3 => json!({"command": "rename_group", "id": group, "name": format!("n{}", rng.next() % 100_000)}),
        4 => {
            json!({"command": "add_instance", "group": group, "instance": instance(group, rng.range(1, 4)), "take_data": false})
        }
        5 => {
            let addr = &instance(group, rng.range(1, 4))["addr"];
            json!({"command": "remove_instance", "group": group, "addr": addr})
        }
        6 => json!({"command": "spread_slots", "groups": []}),
        7..=9 => {
            let from = rng.range(0, u64::from(SLOTS) - 1);
            let most = if rng.one_in(2) { 5 } else { u64::from(SLOTS) };
            let to = (from + rng.range(0, most)).min(u64::from(SLOTS) - 1);
            let to_group = if rng.one_in(6) { Value::Null } else { json!(group) };
            let ranges = json!([{"from": from, "to": to, "group": to_group}]);
            json!({"command": "assign_slots", "ranges": ranges, "force": !rng.one_in(5)})
        }
        10 => json!({"command": "settings", "proxy_ttl_s": rng.range(3, 6)}),
        _ => {
            let id = format!("p{}", rng.below(proxies));
            match rng.below(3) {
                0 => json!({"command": "remove_proxy", "id": id}),
                n => json!({"command": "drain_proxy", "id": id, "draining": n == 1}),
            }
        }
    }
}
