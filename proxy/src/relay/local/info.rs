//! INFO: sections of the proxy's own, with the fields that people and tools look for, and sums over what the groups'
//! primaries say. `INFO GROUP` is what one group's primary says.

use super::super::inquiry::Form;
use super::super::link::State;
use super::super::question::Question;
use super::super::state::Relay;
use super::super::{ClientId, CommandId, command};
use crate::stats::{Counter, Gauge, OfCommand, Stats};
use cluster::group::GroupId;
use cluster::resp::{reply, write};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Every section in its place, and whether all groups are asked for it.
const SECTIONS: [(&str, bool); 13] = [
    ("server", false),
    ("clients", false),
    ("memory", true),
    ("persistence", true),
    ("stats", true),
    ("replication", false),
    ("cpu", true),
    ("commandstats", false),
    ("errorstats", true),
    ("cluster", false),
    ("keyspace", true),
    ("twemslot", false),
    ("groups", true),
];
/// What INFO without a section leaves out, as Redis does.
const RARE: [&str; 1] = ["commandstats"];

/// What the primaries say, by group; None: one that did not answer.
struct Said(Vec<(GroupId, Option<BTreeMap<String, String>>)>);

impl Said {
    fn of(groups: &[(GroupId, Vec<u8>)]) -> Self {
        let fields = |raw: &Vec<u8>| {
            let text = String::from_utf8_lossy(reply::text(raw)?).into_owned();
            let pairs = text.lines().filter_map(|line| line.split_once(':'));
            Some(pairs.map(|(field, value)| (field.to_owned(), value.trim().to_owned())).collect())
        };
        Self(groups.iter().map(|(group, raw)| (*group, fields(raw))).collect())
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |(_, fields)| fields.as_ref()?.get(field).map(String::as_str))
    }

    fn sum(&self, field: &str) -> u64 {
        self.values(field).filter_map(|value| value.parse::<u64>().ok()).sum()
    }

    fn largest(&self, field: &str) -> u64 {
        self.values(field).filter_map(|value| value.parse().ok()).max().unwrap_or(0)
    }

    /// The value where all say the same.
    fn common(&self, field: &str) -> Option<&str> {
        let mut values = self.0.iter().filter_map(|(_, fields)| fields.as_ref()?.get(field).map(String::as_str));
        let first = values.next()?;
        values.all(|value| value == first).then_some(first)
    }

    /// The fields of `name:a=1,b=2`, summed over the groups.
    fn summed_pairs(&self, name: &str, field: &str) -> u64 {
        self.values(name).filter_map(|value| pair(value, field)?.parse::<u64>().ok()).sum()
    }
}

/// The value of `field` in `a=1,b=2`.
fn pair<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    text.split(',').filter_map(|part| part.split_once('=')).find(|(name, _)| *name == field).map(|(_, value)| value)
}

impl Relay {
    /// `INFO [section ...]`, or `INFO GROUP [section ...]`.
    pub(super) fn info_request(&mut self, id: ClientId, command: CommandId, args: &[&[u8]]) {
        let words: Vec<String> = args.iter().map(|arg| String::from_utf8_lossy(arg).to_ascii_lowercase()).collect();
        let is_section = |word: &str| word_of_all(word) || word == "default" || SECTIONS.iter().any(|s| s.0 == word);
        if let Some((first, more)) = words.split_first()
            && !is_section(first)
            && let Some(group) = self.group_named(args[0])
        {
            let mut request = Vec::new();
            let sections = more.iter().map(String::as_bytes);
            write::request(&mut request, &std::iter::once(&b"INFO"[..]).chain(sections).collect::<Vec<_>>());
            return self.ask_primary(id, command, group, &request);
        }
        let sections = sections_of(&words);
        let wants = |asks: bool| sections.iter().any(|name| SECTIONS.iter().any(|s| s.0 == name && s.1 == asks));
        if !wants(true) && sections.iter().all(|name| name == "server" || name == "replication" || name == "cluster") {
            let mut reply = Vec::new();
            write::bulk(&mut reply, self.info(&sections, "", &[]).as_bytes());
            return self.answer_here(id, command, &reply);
        }
        let surveys = wants(true);
        let Some(request) = self.open_inquiry(id, command) else { return };
        self.note_inquiry(request, Question::Totals, Form::Info(sections), String::new());
        if surveys && let Some((fan, groups)) = self.open_survey(request) {
            if let Some(inquiry) = self.inquiries.last_mut() {
                (inquiry.fan, inquiry.groups) =
                    (Some(fan), groups.into_iter().map(|group| (group, Vec::new())).collect());
            }
            self.send_survey(fan, b"*1\r\n$4\r\nINFO\r\n");
        }
    }

    /// The text of these sections; `others` is what the master said of the other workers' statistics.
    pub(super) fn info(&mut self, sections: &[String], others: &str, groups: &[(GroupId, Vec<u8>)]) -> String {
        let totals = self.totals(others);
        let said = Said::of(groups);
        let mut text = String::new();
        for (name, _) in SECTIONS.iter().filter(|(name, _)| sections.iter().any(|wanted| wanted == name)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let mut title = name.to_string();
            title[..1].make_ascii_uppercase();
            _ = write!(text, "# {title}\r\n");
            let mut lines = Lines { text: &mut text };
            match *name {
                "server" => self.server_section(&mut lines),
                "clients" => self.clients_section(&totals, &mut lines),
                "memory" => memory_section(&totals, &said, &mut lines),
                "persistence" => persistence_section(&said, &mut lines),
                "stats" => stats_section(&totals, &said, &mut lines),
                "replication" => {
                    lines.put("role", "master");
                    lines.put("connected_slaves", 0);
                    // Nobody replicates a proxy.
                    lines.put("master_repl_offset", 0);
                }
                "cpu" => cpu_section(&said, &mut lines),
                "commandstats" => command_section(&totals, &mut lines),
                "errorstats" => error_section(&totals, &said, &mut lines),
                "cluster" => lines.put("cluster_enabled", u8::from(!self.settings.cluster_nodes.is_empty())),
                "keyspace" => keyspace_section(&said, &mut lines),
                "twemslot" => self.own_section(&totals, &mut lines),
                _ => self.groups_section(&said, &mut lines),
            }
        }
        text
    }

    /// The oldest version among the instances: what every group can do.
    pub(super) fn redis_version(&self) -> String {
        let parse = |v: &str| v.split('.').map(|n| n.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
        let known = self.links.iter().map(|(_, l)| l.version.as_str()).filter(|v| !v.is_empty());
        known.min_by_key(|v| parse(v)).unwrap_or("0.0.0").to_owned()
    }

    fn server_section(&self, lines: &mut Lines<'_>) {
        lines.put("redis_version", self.redis_version());
        lines.put("redis_mode", if self.settings.cluster_nodes.is_empty() { "standalone" } else { "cluster" });
        lines.put("twemslot_version", env!("CARGO_PKG_VERSION"));
        lines.put("arch_bits", 64);
        lines.put("multiplexing_api", "epoll");
        lines.put("run_id", self.node_id(&self.settings.advertise));
        let port = self.settings.advertise.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        lines.put("tcp_port", port.unwrap_or(0));
        lines.put("server_time_usec", self.now.unix_us);
        let up_s = self.now.us.saturating_sub(self.started_us) / 1_000_000;
        lines.put("uptime_in_seconds", up_s);
        lines.put("uptime_in_days", up_s / 86_400);
    }

    fn clients_section(&self, totals: &Stats, lines: &mut Lines<'_>) {
        lines.put("connected_clients", totals.gauge(Gauge::Clients));
        lines.put("maxclients", self.settings.clients_max);
        lines.put("blocked_clients", totals.gauge(Gauge::ClientsBlocked));
        lines.put("tracking_clients", 0);
    }

    fn own_section(&self, totals: &Stats, lines: &mut Lines<'_>) {
        lines.put("worker", self.worker);
        lines.put("topology_epoch", self.routes.epoch());
        lines.put("slots", self.routes.slot_count());
        lines.put("slots_held", self.stats.gauge(Gauge::SlotsHeld));
        lines.put("groups", self.routes.targets.len());
        let up = self.links.iter().filter(|(_, l)| l.shared() && l.state == State::Up).count();
        lines.put("links_up", up);
        lines.put("requests_in_flight", totals.gauge(Gauge::RequestsInFlight));
        lines.put("requests_held", totals.gauge(Gauge::RequestsHeld));
        lines.put("proxy_memory", totals.gauge(Gauge::MemoryBytes));
        lines.put("proxy_memory_max_of_a_worker", self.settings.worker_memory_max);
    }

    /// A line for each group, those that did not answer too.
    fn groups_section(&self, said: &Said, lines: &mut Lines<'_>) {
        let Some(topology) = &self.routes.topology else { return };
        for (group, fields) in &said.0 {
            let Some(known) = topology.group(*group) else { continue };
            let addr = known.primary().map(|i| i.addr.to_string()).unwrap_or_default();
            let field = |name: &str| fields.as_ref().and_then(|f| f.get(name)).map_or("0", String::as_str);
            let keys = pair(field("db0"), "keys").unwrap_or("0");
            let value = format!(
                "name={},primary={addr},answered={},keys={keys},used_memory={},ops_per_sec={},connected_slaves={}",
                known.name,
                u8::from(fields.is_some()),
                field("used_memory"),
                field("instantaneous_ops_per_sec"),
                field("connected_slaves"),
            );
            lines.put(&format!("group{group}"), value);
        }
    }
}

fn word_of_all(word: &str) -> bool {
    matches!(word, "all" | "everything")
}

/// The sections that are asked for, in their order. What is no section of ours is left out, as in Redis.
fn sections_of(words: &[String]) -> Vec<String> {
    let all = words.iter().any(|word| word_of_all(word));
    let usual = words.is_empty() || words.iter().any(|word| word == "default");
    let wanted = |name: &str| all || (usual && !RARE.contains(&name)) || words.iter().any(|word| word == name);
    SECTIONS.iter().filter(|(name, _)| wanted(name)).map(|(name, _)| (*name).to_owned()).collect()
}

/// `field:value` lines.
struct Lines<'a> {
    text: &'a mut String,
}

impl Lines<'_> {
    fn put(&mut self, field: &str, value: impl std::fmt::Display) {
        _ = write!(self.text, "{field}:{value}\r\n");
    }
}

/// Bytes as people read them.
fn human(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("G", 30), ("M", 20), ("K", 10), ("B", 0)];
    let (unit, shift) = UNITS.into_iter().find(|(_, shift)| bytes >> shift > 0).unwrap_or(("B", 0));
    match shift {
        0 => format!("{bytes}B"),
        _ => format!("{:.2}{unit}", bytes as f64 / (1u64 << shift) as f64),
    }
}

fn memory_section(totals: &Stats, said: &Said, lines: &mut Lines<'_>) {
    for field in ["used_memory", "used_memory_rss", "used_memory_peak", "used_memory_dataset"] {
        let sum = said.sum(field);
        lines.put(field, sum);
        lines.put(&format!("{field}_human"), human(sum));
    }
    // Without a bound anywhere there is none in all.
    let max = if said.values("maxmemory").any(|max| max == "0") { 0 } else { said.sum("maxmemory") };
    lines.put("maxmemory", max);
    lines.put("maxmemory_human", human(max));
    lines.put("maxmemory_policy", said.common("maxmemory_policy").unwrap_or("differs"));
    let used = said.sum("used_memory").max(1);
    lines.put("mem_fragmentation_ratio", format!("{:.2}", said.sum("used_memory_rss") as f64 / used as f64));
    lines.put("mem_clients_normal", totals.gauge(Gauge::MemoryBytes));
}

fn persistence_section(said: &Said, lines: &mut Lines<'_>) {
    for field in ["loading", "async_loading", "rdb_bgsave_in_progress", "aof_rewrite_in_progress"] {
        lines.put(field, said.largest(field));
    }
    lines.put("rdb_changes_since_last_save", said.sum("rdb_changes_since_last_save"));
    lines.put("aof_enabled", said.common("aof_enabled").unwrap_or("differs"));
    for field in ["rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status"] {
        lines.put(field, if said.values(field).all(|status| status == "ok") { "ok" } else { "err" });
    }
}

fn stats_section(totals: &Stats, said: &Said, lines: &mut Lines<'_>) {
    for (field, counter) in [
        ("total_connections_received", Counter::ClientsAccepted),
        ("total_commands_processed", Counter::Requests),
        ("total_net_input_bytes", Counter::ClientBytesIn),
        ("total_net_output_bytes", Counter::ClientBytesOut),
        ("total_error_replies", Counter::RepliesError),
    ] {
        lines.put(field, totals.get(counter));
    }
    for field in [
        "instantaneous_ops_per_sec",
        "expired_keys",
        "evicted_keys",
        "keyspace_hits",
        "keyspace_misses",
        "total_eviction_exceeded_time",
    ] {
        lines.put(field, said.sum(field));
    }
    // We subscribe at every group: each has all channels, and a sum would count them again and again.
    for field in ["pubsub_channels", "pubsub_patterns", "pubsubshard_channels", "latest_fork_usec"] {
        lines.put(field, said.largest(field));
    }
    lines.put("rejected_connections", 0);
}

/// What the primaries have used, in seconds; a proxy's own is known to its machine.
fn cpu_section(said: &Said, lines: &mut Lines<'_>) {
    for field in ["used_cpu_sys", "used_cpu_user", "used_cpu_sys_children", "used_cpu_user_children"] {
        let seconds: f64 = said.values(field).filter_map(|value| value.parse::<f64>().ok()).sum();
        lines.put(field, format!("{seconds:.6}"));
    }
}

fn command_section(totals: &Stats, lines: &mut Lines<'_>) {
    for id in 0..command::count() as CommandId {
        let (calls, us) = (totals.of_command(id, OfCommand::Calls), totals.of_command(id, OfCommand::UsSum));
        if calls > 0 {
            let each = us as f64 / calls as f64;
            let failed = totals.of_command(id, OfCommand::Errors);
            let value =
                format!("calls={calls},usec={us},usec_per_call={each:.2},rejected_calls=0,failed_calls={failed}");
            lines.put(&format!("cmdstat_{}", command::get(id).name), value);
        }
    }
}

/// Errors by their first word: the proxy's own, and those of the instances.
fn error_section(totals: &Stats, said: &Said, lines: &mut Lines<'_>) {
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    let own = [
        ("CROSSSLOT", &[Counter::ErrorsCrossSlot][..]),
        ("NOAUTH", &[Counter::ErrorsAuth]),
        ("TRYAGAIN", &[Counter::ErrorsHeldTooLong]),
        (
            "ERR",
            &[
                Counter::ErrorsUnknownCommand,
                Counter::ErrorsNotServed,
                Counter::ErrorsArity,
                Counter::ErrorsNoOwner,
                Counter::ErrorsLinkDown,
                Counter::ErrorsOutcomeUnknown,
                Counter::ErrorsTimeout,
                Counter::ErrorsOverload,
            ],
        ),
    ];
    for (word, counters) in own {
        errors.insert(word.to_owned(), counters.iter().map(|&counter| totals.get(counter)).sum());
    }
    for fields in said.0.iter().filter_map(|(_, fields)| fields.as_ref()) {
        for (field, value) in fields.iter().filter(|(field, _)| field.starts_with("errorstat_")) {
            let count = pair(value, "count").and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
            *errors.entry(field["errorstat_".len()..].to_owned()).or_default() += count;
        }
    }
    for (word, count) in errors.into_iter().filter(|(_, count)| *count > 0) {
        lines.put(&format!("errorstat_{word}"), format!("count={count}"));
    }
}

fn keyspace_section(said: &Said, lines: &mut Lines<'_>) {
    let (keys, expires) = (said.summed_pairs("db0", "keys"), said.summed_pairs("db0", "expires"));
    if keys == 0 {
        return;
    }
    // Each group's mean counts as often as keys of it expire.
    let weighted = |value: &str| {
        let number = |field| pair(value, field)?.parse::<u128>().ok();
        Some(number("expires")? * number("avg_ttl")?)
    };
    let ttl: u128 = said.values("db0").filter_map(weighted).sum();
    lines.put("db0", format!("keys={keys},expires={expires},avg_ttl={}", ttl / u128::from(expires.max(1))));
}
