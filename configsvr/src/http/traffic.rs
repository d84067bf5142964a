//! What the cluster is asked for, key by key and slot by slot: no member knows, so it asks every proxy, and sums.

use super::Api;
use super::problem::{Problem, ReadProblems};
use super::words::{BigKey, BigKeys, HotKey, HotKeys, SlotsTraffic};
use crate::agent::push::Pusher;
use crate::control::event::PushFault;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::future::join_all;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Keys that are told of.
const KEYS_MAX: usize = 256;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(hot)).routes(routes!(big)).routes(routes!(slots))
}

/// The keys asked for most in the last half to whole minute, as a sample of the requests tells.
#[utoipa::path(get, path = "/api/v1/hotkeys", tag = "traffic",
    responses((status = 200, description = "the keys, the most asked for first", body = HotKeys), ReadProblems))]
async fn hot(State(api): State<Arc<Api>>) -> Result<Json<HotKeys>, Problem> {
    let heard = ask(&api, "/api/v1/hotkeys").await?;
    let mut keys: BTreeMap<(u16, String), HotKey> = BTreeMap::new();
    for key in heard.answers.iter().flat_map(|(_, answer)| list::<HotKey>(&answer["keys"])) {
        match keys.get_mut(&(key.slot, key.key.clone())) {
            Some(known) => {
                known.requests_per_s += key.requests_per_s;
                known.error_per_s += key.error_per_s;
            }
            None => drop(keys.insert((key.slot, key.key.clone()), key)),
        }
    }
    let mut keys: Vec<HotKey> = keys.into_values().collect();
    keys.sort_by(|a, b| b.requests_per_s.total_cmp(&a.requests_per_s));
    keys.truncate(KEYS_MAX);
    Ok(Json(HotKeys { keys, proxies: heard.ids(), silent: heard.silent }))
}

/// Keys whose value came or went in one piece of more than 64 KiB in the last hour: each such write, and a sample of reads.
#[utoipa::path(get, path = "/api/v1/bigkeys", tag = "traffic",
    responses((status = 200, description = "the keys, the largest first", body = BigKeys), ReadProblems))]
async fn big(State(api): State<Arc<Api>>) -> Result<Json<BigKeys>, Problem> {
    let heard = ask(&api, "/api/v1/bigkeys").await?;
    let mut keys: BTreeMap<(u16, String), BigKey> = BTreeMap::new();
    for key in heard.answers.iter().flat_map(|(_, answer)| list::<BigKey>(&answer["keys"])) {
        let at = (key.slot, key.key.clone());
        let age_ms = keys.get(&at).map_or(key.age_ms, |known| known.age_ms.min(key.age_ms));
        let larger = keys.remove(&at).filter(|known| known.bytes > key.bytes).unwrap_or(key);
        keys.insert(at, BigKey { age_ms, ..larger });
    }
    let mut keys: Vec<BigKey> = keys.into_values().collect();
    keys.sort_by_key(|k| std::cmp::Reverse(k.bytes));
    keys.truncate(KEYS_MAX);
    Ok(Json(BigKeys { keys, proxies: heard.ids(), silent: heard.silent }))
}

/// Requests for each slot since the proxies started, summed. They grow while the same proxies answer: ask twice for a rate.
#[utoipa::path(get, path = "/api/v1/slots/traffic", tag = "traffic",
    responses((status = 200, description = "a number for each slot", body = SlotsTraffic), ReadProblems))]
async fn slots(State(api): State<Arc<Api>>) -> Result<Json<SlotsTraffic>, Problem> {
    let slot_count = api.desk.view.borrow().settings.as_ref().ok_or_else(Problem::no_cluster)?.slot_count;
    let heard = ask(&api, "/api/v1/slots/traffic").await?;
    let mut requests = vec![0u64; usize::from(slot_count)];
    for (_, answer) in &heard.answers {
        for (sum, more) in requests.iter_mut().zip(list::<u64>(&answer["requests"])) {
            *sum += more;
        }
    }
    Ok(Json(SlotsTraffic { slot_count, requests, proxies: heard.ids(), silent: heard.silent }))
}

/// What one proxy has counted.
pub(super) struct Counts {
    pub(super) requests: Vec<u64>,
    /// When it began, in milliseconds since 1970 by its own clock.
    pub(super) started_ms: u64,
}

/// What every live proxy has counted so far, by its id. One that is silent is refused: nobody knows what it has.
pub(super) async fn counts(api: &Api) -> Result<BTreeMap<String, Counts>, Problem> {
    let heard = ask(api, "/api/v1/slots/traffic").await?;
    let why = heard.silent.first().cloned();
    let why = why.or_else(|| heard.answers.is_empty().then(|| "no proxy is alive".to_owned()));
    if let Some(why) = why {
        let message = format!("the ops cannot be measured: {why}");
        let hint = "see `twemslotctl proxies list`; or go by keys";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not_measured", message, hint));
    }
    let counts = |answer: &Value| {
        let ms = |name: &str| answer[name].as_u64().unwrap_or(0);
        let started_ms = ms("time_unix_ms").saturating_sub(ms("uptime_ms"));
        Counts { requests: list(&answer["requests"]), started_ms }
    };
    Ok(heard.answers.iter().map(|(id, answer)| (id.clone(), counts(answer))).collect())
}

/// What is there and looks as it should.
fn list<T: DeserializeOwned>(value: &Value) -> Vec<T> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|one| serde_json::from_value(one.clone()).ok()).collect()
}

/// What proxies have said.
struct Heard {
    answers: Vec<(String, Value)>,
    /// Who has said nothing, and why.
    silent: Vec<String>,
}

impl Heard {
    fn ids(&self) -> Vec<String> {
        self.answers.iter().map(|(id, _)| id.clone()).collect()
    }
}

/// Asks all live proxies at once.
async fn ask(api: &Api, path: &str) -> Result<Heard, Problem> {
    let Some(pusher) = &api.proxies else {
        return Err(Problem::unavailable("no_proxies", "this member has no way to proxies", "ask another member"));
    };
    let view = api.desk.view.borrow().clone();
    let alive = view.proxies.iter().filter(|p| p.alive);
    let calls = alive.map(|p| one(pusher, p.record.id.clone(), p.record.admin_addr.clone(), path));
    let mut heard = Heard { answers: Vec::new(), silent: Vec::new() };
    for outcome in join_all(calls).await {
        match outcome {
            Ok(answer) => heard.answers.push(answer),
            Err(why) => heard.silent.push(why),
        }
    }
    Ok(heard)
}

async fn one(pusher: &Pusher, id: String, admin_addr: String, path: &str) -> Result<(String, Value), String> {
    match pusher.read(&admin_addr, path).await {
        Ok(answer) => Ok((id, answer)),
        Err(PushFault::Refused(why) | PushFault::Unreachable(why)) => Err(format!("{id} ({admin_addr}): {why}")),
        Err(PushFault::Newer { .. }) => Err(format!("{id} ({admin_addr}): an answer to another question")),
    }
}
