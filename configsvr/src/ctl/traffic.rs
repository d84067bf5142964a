//! The verbs about what the cluster is asked for.

use super::client::Client;
use super::fault::Result;
use super::show::{bytes, json, or_dash, say, table};
use crate::http::words::{BigKey, BigKeys, HotKey, HotKeys, SlotsTraffic};
use clap::Args;
use std::process::ExitCode;

/// Which keys are asked for most, or are largest.
#[derive(Debug, Args)]
pub struct Top {
    /// So many of them.
    #[arg(long, default_value_t = 20)]
    count: usize,
}

pub(super) fn hot(client: &mut Client, as_json: bool, top: &Top) -> Result<ExitCode> {
    let mut hot: HotKeys = client.get("/api/v1/hotkeys")?;
    hot.keys.truncate(top.count);
    if as_json {
        json(&hot)?;
    } else {
        say(&with_silent(hot_table(&hot.keys), &hot.silent))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn big(client: &mut Client, as_json: bool, top: &Top) -> Result<ExitCode> {
    let mut big: BigKeys = client.get("/api/v1/bigkeys")?;
    big.keys.truncate(top.count);
    if as_json {
        json(&big)?;
    } else {
        say(&with_silent(big_table(&big.keys), &big.silent))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn slots(client: &mut Client, as_json: bool, top: &Top) -> Result<ExitCode> {
    let traffic: SlotsTraffic = client.get("/api/v1/slots/traffic")?;
    if as_json {
        json(&traffic)?;
    } else {
        say(&with_silent(slot_table(&traffic.requests, top.count), &traffic.silent))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn slot_table(requests: &[u64], count: usize) -> String {
    let all: u64 = requests.iter().sum();
    let mut slots: Vec<(usize, u64)> = requests.iter().copied().enumerate().filter(|(_, n)| *n > 0).collect();
    slots.sort_by_key(|(slot, n)| (std::cmp::Reverse(*n), *slot));
    slots.truncate(count);
    let share = |n: u64| format!("{:.1} %", n as f64 * 100.0 / all as f64);
    table(&["SLOT", "REQUESTS", "SHARE"], slots.iter().map(|(s, n)| vec![s.to_string(), n.to_string(), share(*n)]))
}

fn with_silent(mut table: String, silent: &[String]) -> String {
    for why in silent {
        table = format!("{table}\n! {why}");
    }
    table
}

fn hot_table(keys: &[HotKey]) -> String {
    let row = |k: &HotKey| {
        let rate = format!("{:.1}", k.requests_per_s);
        let error = if k.error_per_s > 0.0 { format!("-{:.1}", k.error_per_s) } else { "exact".to_owned() };
        vec![rate, error, k.slot.to_string(), or_dash(k.group), k.key.clone()]
    };
    table(&["REQUESTS/S", "MAY BE", "SLOT", "GROUP", "KEY"], keys.iter().map(row))
}

fn big_table(keys: &[BigKey]) -> String {
    let row = |k: &BigKey| {
        let seen = format!("{} s ago", k.age_ms / 1000);
        vec![bytes(k.bytes), k.command.clone(), seen, k.slot.to_string(), or_dash(k.group), k.key.clone()]
    };
    table(&["SIZE", "COMMAND", "SEEN", "SLOT", "GROUP", "KEY"], keys.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_for_people() {
        let hot = HotKey { key: "user:1".into(), slot: 17, group: Some(2), requests_per_s: 123.46, error_per_s: 1.0 };
        let text = "REQUESTS/S  MAY BE  SLOT  GROUP  KEY\n123.5       -1.0    17    2      user:1";
        assert_eq!(hot_table(&[hot]), text);
        let big = BigKey { key: "b".into(), slot: 1, group: None, bytes: 3 << 20, command: "set".into(), age_ms: 5999 };
        let text = "SIZE     COMMAND  SEEN     SLOT  GROUP  KEY\n3.0 MiB  set      5 s ago  1     -      b";
        assert_eq!(with_silent(big_table(&[big]), &[]), text);
        assert_eq!(with_silent(String::new(), &["p1: away".into()]), "\n! p1: away");
        let text = "SLOT  REQUESTS  SHARE\n2     30        75.0 %\n0     10        25.0 %";
        assert_eq!(slot_table(&[10, 0, 30], 20), text);
    }
}
