//! What is asked for, slot by slot and key by key: the answers of the admin port to what rebalancing and people want to
//! know. Counts come from the statistics pages; keys and slow requests from the workers, one text each.

use super::Master;
use super::event::{Answer, Question};
use super::{clock, metrics};
use crate::relay::Sampled;
use cluster::topology::Topology;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Keys that are told of, of all workers together.
const KEYS_MAX: usize = 256;

/// What an admin wants to hear of all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Survey {
    HotKeys,
    BigKeys,
    /// At most so many entries.
    Slowlog(usize),
}

impl Survey {
    pub(super) fn of(question: &Question) -> Option<Self> {
        match question {
            Question::HotKeys => Some(Self::HotKeys),
            Question::BigKeys => Some(Self::BigKeys),
            Question::Slowlog { count } => Some(Self::Slowlog(*count)),
            _ => None,
        }
    }

    /// How workers are asked.
    pub(super) fn question(self) -> crate::relay::Question {
        match self {
            Self::HotKeys | Self::BigKeys => crate::relay::Question::Keys,
            Self::Slowlog(count) => crate::relay::Question::Slowlog { count },
        }
    }

    /// The answer, from the text of each worker that has given one.
    pub(super) fn answer<'a>(self, texts: impl Iterator<Item = &'a str>, topology: Option<&Topology>) -> Answer {
        if let Self::Slowlog(count) = self {
            return Answer::Json(slowlog(texts, count));
        }
        let all: Vec<Sampled> = texts.filter_map(|text| serde_json::from_str(text).ok()).collect();
        let group = |slot: u16| topology.and_then(|t| t.slots().get(usize::from(slot))?.group);
        let keys = if self == Self::HotKeys { hot(&all, group) } else { big(&all, group) };
        Answer::Json(json!({
            "sampled_one_in": all.iter().map(|s| s.every).max().unwrap_or_default(),
            "workers": all.len(),
            "keys": keys,
        }))
    }
}

/// The same key of several workers is one; each worker's window is its own, so rates are summed.
fn hot(all: &[Sampled], group: impl Fn(u16) -> Option<u32>) -> Vec<Value> {
    let mut keys: BTreeMap<(u16, &str), (f64, f64)> = BTreeMap::new();
    for sampled in all {
        let seconds = sampled.window_ms.max(1000) as f64 / 1000.0;
        for hot in &sampled.hot {
            let (rate, error) = keys.entry((hot.slot, &hot.key)).or_default();
            *rate += hot.requests as f64 / seconds;
            *error += hot.error as f64 / seconds;
        }
    }
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    keys.truncate(KEYS_MAX);
    let shown = |((slot, key), (rate, error)): ((u16, &str), (f64, f64))| json!({"key": key, "slot": slot, "group": group(slot), "requests_per_s": tenths(rate), "error_per_s": tenths(error)});
    keys.into_iter().map(shown).collect()
}

fn tenths(n: f64) -> f64 {
    (n * 10.0).round() / 10.0
}

fn big(all: &[Sampled], group: impl Fn(u16) -> Option<u32>) -> Vec<Value> {
    let mut keys: BTreeMap<(u16, &str), (u64, &str, u64)> = BTreeMap::new();
    for big in all.iter().flat_map(|s| &s.big) {
        let (bytes, command, age_ms) = keys.entry((big.slot, &big.key)).or_insert((0, "", u64::MAX));
        if big.bytes > *bytes {
            (*bytes, *command) = (big.bytes, &big.command);
        }
        *age_ms = big.age_ms.min(*age_ms);
    }
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_by_key(|(_, (bytes, ..))| std::cmp::Reverse(*bytes));
    keys.truncate(KEYS_MAX);
    let shown = |((slot, key), (bytes, command, age_ms)): ((u16, &str), (u64, &str, u64))| json!({"key": key, "slot": slot, "group": group(slot), "bytes": bytes, "command": command, "age_ms": age_ms});
    keys.into_iter().map(shown).collect()
}

/// The entries of all workers, newest first.
fn slowlog<'a>(texts: impl Iterator<Item = &'a str>, count: usize) -> Value {
    let lines = texts.flat_map(str::lines);
    let mut entries: Vec<Value> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
    entries.sort_by_key(|e| std::cmp::Reverse((e["unix_s"].as_u64(), e["id"].as_u64().map(|id| id >> 10))));
    entries.truncate(count);
    json!({ "entries": entries })
}

impl Master {
    /// Requests for each slot since the proxy started. They only grow: whoever asks twice knows the rate.
    pub(super) fn slots_traffic(&self) -> Answer {
        let slots = self.topology.as_ref().map_or(0, |t| usize::from(t.slot_count()));
        let stats = metrics::sum(&self.pages_without(None));
        Answer::Json(json!({
            "epoch": self.epoch(),
            "slot_count": slots,
            "time_unix_ms": clock::unix_ms(clock::wall()),
            "uptime_ms": clock::since(self.started).as_millis() as u64,
            "requests": &stats.of_slots()[..slots.min(stats.of_slots().len())],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{BigKey, HotKey};

    fn text(requests: u64, bytes: u64) -> String {
        let key = "k".to_owned();
        let hot = vec![HotKey { key: key.clone(), slot: 3, requests, error: 2 }];
        let big = vec![BigKey { key, slot: 3, bytes, command: format!("c{bytes}"), age_ms: bytes }];
        serde_json::to_string(&Sampled { every: 128, window_ms: 2000, hot, big }).expect("JSON")
    }

    fn told(survey: Survey, texts: &[String]) -> Value {
        match survey.answer(texts.iter().map(String::as_str), None) {
            Answer::Json(json) => json,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn workers_that_say_the_same_key_are_summed() {
        let texts = [text(10, 5), text(30, 4), String::new()];
        let hot = told(Survey::HotKeys, &texts);
        assert_eq!((&hot["workers"], &hot["sampled_one_in"]), (&json!(2), &json!(128)));
        assert_eq!(
            hot["keys"],
            json!([{"key": "k", "slot": 3, "group": null, "requests_per_s": 20.0, "error_per_s": 2.0}])
        );
        let big = told(Survey::BigKeys, &texts);
        assert_eq!(
            big["keys"],
            json!([{"key": "k", "slot": 3, "group": null, "bytes": 5, "command": "c5", "age_ms": 4}])
        );
    }

    #[test]
    fn slow_requests_of_all_workers_are_one_log() {
        let texts =
            ["{\"id\":1,\"unix_s\":5}\n{\"id\":2,\"unix_s\":3}\n".to_owned(), "{\"id\":9,\"unix_s\":4}\n".to_owned()];
        let log = told(Survey::Slowlog(2), &texts);
        assert_eq!(log["entries"], json!([{"id": 1, "unix_s": 5}, {"id": 9, "unix_s": 4}]));
    }
}
