//! The vocabulary of metrics: METRICS.md is what both programs can say, each name says its unit, and what real servers say is
//! in it. After a change: `TWEMSLOT_WRITE=1 cargo test -p tests --test metrics`.

use anyhow::{Context, Result, ensure};
use configsvr::playground::{Options, Playground, ask, http, until};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// What a healthy, small cluster says nothing of.
const SILENT: &[&str] = &[
    "twemslot_configsvr_alarm_active",
    "twemslot_configsvr_failovers",
    "twemslot_configsvr_failover_decided_time_seconds",
    "twemslot_configsvr_failover_lost_bytes",
    "twemslot_configsvr_failover_lost_time_seconds",
    "twemslot_configsvr_failover_phase_seconds",
    "twemslot_configsvr_instance_memory_max_bytes",
    "twemslot_configsvr_changes_total",
    "twemslot_configsvr_migrations",
    "twemslot_configsvr_migration_phase",
    "twemslot_configsvr_migration_keys_copied_total",
    "twemslot_configsvr_migration_bytes_copied_total",
    "twemslot_configsvr_migration_commands_applied_total",
    "twemslot_configsvr_migration_keys_scanned_total",
    "twemslot_configsvr_migration_keys_to_scan",
    "twemslot_configsvr_migration_dirty_keys",
    "twemslot_configsvr_migration_lag_bytes",
    "twemslot_configsvr_migration_pause_seconds",
];
/// The words a name may end with: a unit, or the plural of what is counted. `_total` is of counters alone.
const UNITS: [&str; 4] = ["_seconds", "_bytes", "_seconds_total", "_bytes_total"];
/// Gauges that are truths, numbers of things, or say something by their labels.
const PLAIN: &[&str] = &[
    "alarm_active",
    "alarms",
    "build_info",
    "clients",
    "clients_blocked",
    "configsvr_reachable",
    "draining",
    "failovers",
    "failovers_active",
    "group_links_up",
    "group_primary",
    "group_requests_in_flight",
    "group_slots",
    "groups",
    "instance_clients",
    "instance_keys",
    "instance_replication_link_up",
    "instance_up",
    "instance_verdict",
    "instance_votes",
    "leader_known",
    "leading",
    "links",
    "migration_dirty_keys",
    "migration_keys_to_scan",
    "migration_phase",
    "migrations",
    "migrations_active",
    "orphans",
    "proxies_alive",
    "proxies_behind",
    "proxy_push_failed",
    "proxy_topology_epoch",
    "requests_held",
    "requests_in_flight",
    "slots_held",
    "slots_unowned",
    "store_invalid_records",
    "store_reachable",
    "store_revision",
    "topology_epoch",
    "topology_epoch_served",
    "topology_from_disk",
    "worker_clients",
    "workers",
    "workers_configured",
];

/// One metric.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

/// What is said in a text that Prometheus reads, by name.
fn read(text: &str) -> Result<BTreeMap<String, Metric>> {
    let mut all: BTreeMap<String, Metric> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            last = name.to_owned();
            ensure!(!all.contains_key(name), "{name} is said twice");
            all.entry(last.clone()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            all.get_mut(name).with_context(|| format!("{name}: without HELP"))?.kind = kind.to_owned();
        } else if !line.is_empty() {
            let metric = all.get_mut(&last).with_context(|| format!("{line}: without a name before it"))?;
            ensure!(line.starts_with(&last), "{line}: below {last}");
            let labels =
                line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
            let names = labels.split("\",").filter_map(|pair| pair.split_once("=\"")).map(|(name, _)| name.to_owned());
            metric.labels.extend(names.filter(|name| name != "le"));
        }
    }
    Ok(all)
}

fn vocabulary() -> Result<BTreeMap<String, Metric>> {
    let proxy = proxy::master::specimen().map_err(anyhow::Error::msg)?;
    let mut all = read(&proxy)?;
    all.extend(read(&configsvr::metrics::specimen()?)?);
    Ok(all)
}

fn table(all: &BTreeMap<String, Metric>) -> String {
    let mut text = String::from(
        "# Metrics\n\nWritten by `TWEMSLOT_WRITE=1 cargo test -p tests --test metrics`: do not edit.\n\n\
         All that Prometheus can be told: `twemslot_proxy_*` at `/metrics` of each proxy's admin port, `twemslot_configsvr_*` at\n\
         `/metrics` of each member of the control plane. Values of labels are bounded: by the commands there are, by groups,\n\
         instances, proxies and workers, by 16 ranges of slots, and by words of ours. `addr` is an instance's address (`instance` is\n\
         Prometheus's own word for whom it asks). What depends on something (a failover, an alarm) is missing until there is one.\n",
    );
    for (program, title) in [("twemslot_proxy_", "The proxy"), ("twemslot_configsvr_", "The control plane")] {
        text.push_str(&format!("\n## {title}\n\n| name | kind | labels | what it says |\n|---|---|---|---|\n"));
        for (name, m) in all.iter().filter(|(name, _)| name.starts_with(program)) {
            let labels: Vec<String> = m.labels.iter().map(|l| format!("`{l}`")).collect();
            writeln!(text, "| `{name}` | {} | {} | {} |", m.kind, labels.join(" "), m.help).expect("to a string");
        }
    }
    text
}

#[test]
fn the_table_is_what_the_programs_say() -> Result<()> {
    let (path, made) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../METRICS.md"), table(&vocabulary()?));
    if std::env::var_os("TWEMSLOT_WRITE").is_some() {
        fs::write(&path, &made)?;
    }
    let written = fs::read_to_string(&path)?;
    ensure!(written == made, "METRICS.md is old: TWEMSLOT_WRITE=1 cargo test -p tests --test metrics");
    Ok(())
}

#[test]
fn names_say_their_unit_and_help_is_a_sentence() -> Result<()> {
    for (name, m) in vocabulary()? {
        let short = name.trim_start_matches("twemslot_proxy_").trim_start_matches("twemslot_configsvr_");
        ensure!(short != name, "{name}: whose is it?");
        let has_unit = UNITS.iter().any(|unit| name.ends_with(unit));
        let good = match m.kind.as_str() {
            "counter" => name.ends_with("_total"),
            "histogram" => has_unit && !name.ends_with("_total"),
            _ => !name.ends_with("_total") && (has_unit || PLAIN.contains(&short)),
        };
        ensure!(good, "{name}: a {} whose name does not say its unit, as _seconds, _bytes or _total", m.kind);
        ensure!(!name.contains("_ms") && !name.contains("_us"), "{name}: seconds are the unit of time");
        ensure!(m.help.len() > 8 && m.help.ends_with('.'), "{name}: its help is no sentence: {:?}", m.help);
        ensure!(!m.labels.contains("instance"), "{name}: `instance` is Prometheus's own label");
    }
    Ok(())
}

fn scrape(addr: SocketAddr) -> Result<BTreeMap<String, Metric>> {
    read(&http::get(addr, "/metrics")?.body)
}

#[test]
fn real_servers_say_what_the_table_says() -> Result<()> {
    let options = Options { groups: 1, replicas: 1, proxies: 1, configsvrs: 1, workers: Some(1), ..Options::default() };
    let playground = Playground::start(options)?;
    ask(playground.proxy_addr()?, &["SET", "k", "v"])?;
    let (proxy, member) = (playground.admin_addr()?, playground.configsvrs()[0].addr());
    let known = vocabulary()?;
    let missing = |said: &BTreeMap<String, Metric>| -> Vec<String> {
        let silent = |name: &&String| !said.contains_key(*name) && !SILENT.contains(&name.as_str());
        known.keys().filter(silent).cloned().collect()
    };
    let said = until("all of the table", LIMIT, || {
        let mut said = scrape(proxy)?;
        said.extend(scrape(member)?);
        Ok(match missing(&said) {
            none if none.is_empty() => Ok(said),
            some => Err(format!("not said: {some:?}")),
        })
    })?;
    for (name, m) in said {
        let listed = known.get(&name).with_context(|| format!("{name} is not in the table"))?;
        ensure!((&listed.kind, &listed.help) == (&m.kind, &m.help), "{name}: {m:?}, and the table has {listed:?}");
        ensure!(m.labels.is_subset(&listed.labels), "{name}: labels {:?}, listed {:?}", m.labels, listed.labels);
    }
    Ok(())
}

/// What is asked for is found: by slot, by key, by size.
#[test]
fn traffic_is_told_by_slot_and_key() -> Result<()> {
    let proxy_conf = "key_sample_every: 1\n".to_owned();
    let options = Options { proxies: 1, configsvrs: 1, workers: Some(2), proxy_conf, ..Options::default() };
    let playground = Playground::start(options)?;
    let (addr, member) = (playground.proxy_addr()?, playground.configsvrs()[0].addr());
    for _ in 0..20 {
        ask(addr, &["GET", "hot"])?;
    }
    ask(addr, &["SET", "big", &"x".repeat(100_000)])?;
    ask(addr, &["SET", "middle", &"x".repeat(70_000)])?;
    ask(addr, &["GET", "big"])?;
    // Of those that are split not each one is looked at.
    for _ in 0..8 {
        ask(addr, &["MGET", "a", "b", "c"])?;
    }
    let slot_of = |key: &str| usize::from(cluster::slot::slot_of(key.as_bytes(), cluster::slot::TagRule::Redis, 1024));
    for at in [playground.admin_addr()?, member] {
        until("traffic", LIMIT, || {
            let slots = http::get(at, "/api/v1/slots/traffic")?.json()?;
            let hot = http::get(at, "/api/v1/hotkeys")?.json()?;
            let big = http::get(at, "/api/v1/bigkeys")?.json()?;
            let requests = |key: &str| slots["requests"][slot_of(key)].as_u64().unwrap_or(0);
            let good = hot["keys"][0]["key"] == "hot"
                && hot["keys"][0]["slot"] == slot_of("hot")
                && hot["keys"][0]["requests_per_s"].as_f64() > Some(0.0)
                && big["keys"][0]["key"] == "big"
                && big["keys"][0]["bytes"].as_u64() >= Some(100_000)
                && big["keys"][1]["key"] == "middle"
                && requests("hot") == 20
                && requests("b") >= 1;
            Ok(if good { Ok(()) } else { Err(format!("{hot} {big} hot: {} b: {}", requests("hot"), requests("b"))) })
        })?;
    }
    let slow = http::get(playground.admin_addr()?, "/api/v1/slowlog?count=5")?;
    ensure!(slow.json()?["entries"].is_array(), "{}", slow.body);
    Ok(())
}
