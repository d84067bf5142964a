//! What Prometheus reads of a configsvr. Counters are counted where things happen; the rest is taken from the view when
//! somebody asks. Every label is bounded: by the cluster's size, or by words of ours.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock and /proc")]

mod migrations;
mod page;

use crate::control::command::ProxyView;
use crate::control::layout::Failover;
use crate::control::look::{InstanceView, Load};
use crate::control::view::View;
use cluster::instance::Role;
use page::Page;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry, TextEncoder};
use std::time::{SystemTime, UNIX_EPOCH};

/// All metrics of this member.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    started_unix_s: f64,
    pub(crate) calls: IntCounterVec,
    pub(crate) deeds: IntCounterVec,
    pub(crate) elections: IntCounter,
    pub reloads: IntCounterVec,
}

impl Metrics {
    /// Counts from zero. Errors: a name is not one for Prometheus.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(full(name), help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let elections = IntCounter::new(full("leaderships_total"), "Times this member became the leader.")?;
        registry.register(Box::new(elections.clone()))?;
        let reloads =
            counters("reloads_total", "Times the certificates were to be read again, by result.", &["result"])?;
        // From the start, so that the first is an increase.
        for result in ["ok", "failed"] {
            reloads.with_label_values(&[result]);
        }
        Ok(Self {
            calls: counters("changes_total", "Changes asked for, by result.", &["result"])?,
            deeds: counters("deeds_total", "Writes, probes, pushes and so on, by result.", &["deed", "result"])?,
            elections,
            reloads,
            registry,
            started_unix_s: unix_s(),
        })
    }

    /// The text that Prometheus reads.
    pub fn render(&self, view: &View) -> Result<String, prometheus::Error> {
        let mut page = Page::default();
        self.process(&mut page);
        member(&mut page, view);
        cluster(&mut page, view);
        proxies(&mut page, &view.proxies);
        instances(&mut page, &view.instances);
        loads(&mut page, &view.instances);
        failovers(&mut page, view);
        migrations::tell(&mut page, view);
        let mut families = self.registry.gather();
        families.append(&mut page.families);
        TextEncoder::new().encode_to_string(&families)
    }

    fn process(&self, page: &mut Page) {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.gauge("build_info", "Always 1; the label says which version runs.", &version, 1.0);
        page.gauge("start_time_seconds", "When the process started, since 1970.", &[], self.started_unix_s);
        page.gauge("resident_memory_bytes", "Memory in use.", &[], resident_bytes());
    }
}

/// The text that Prometheus reads of a member that has something to say of everything: the vocabulary.
pub fn specimen() -> Result<String, prometheus::Error> {
    let metrics = Metrics::new()?;
    metrics.calls.with_label_values(&["done"]).inc();
    metrics.deeds.with_label_values(&["push", "ok"]).inc();
    let addr = |text: &str| text.parse().map_err(|_| prometheus::Error::Msg(format!("{text} is no address")));
    let load = Load {
        memory_bytes: Some(1),
        memory_max_bytes: Some(1),
        clients: Some(1),
        commands: Some(1),
        keys: Some(1),
        evicted_keys: Some(1),
    };
    let seen = |addr, role| InstanceView {
        group: 1,
        addr,
        role,
        verdict: crate::control::look::Verdict::Up,
        votes: 0,
        heard_ms: Some(1),
        offset: Some(1),
        link_up: Some(true),
        run_id: None,
        version: None,
        fault: None,
        load: Some(load),
    };
    let json = r#"{"proxy":{"id":"p","version":"1","addr":"a","admin_addr":"b","zone":"","epoch":1,"started_at":1},
        "failover":{"id":"1","group_id":1,"kind":"failover","phase":"done","epoch":1,"old":"127.0.0.1:1","why":"",
        "lost_bytes":0,"times":{"doubted":1,"decided":1,"chosen":1,"committed":1,"ended":1,"reported":1}},
        "migration":{"id":1,"from":1,"to":2,"slots":[],"state":3,"phase":"copy","times":{"created":1},"slot_count":0,
        "tally":{"keys":1,"bytes":1,"applied":1,"pause_ms":1},"progress":{"attempt":1,"scanned":1,"to_scan":1,"copied":1,
        "bytes":1,"applied":1,"dirty":1,"lag_bytes":1,"age_ms":1}},
        "alarm":{"kind":"k","alarm":true,"settled":false,"subject":"s","message":"m","epoch":1}}"#;
    let json: serde_json::Value = serde_json::from_str(json).map_err(|e| prometheus::Error::Msg(e.to_string()))?;
    let failed = |e: serde_json::Error| prometheus::Error::Msg(e.to_string());
    let primary = addr("127.0.0.1:1")?;
    let view = View {
        groups: vec![crate::control::view::GroupView {
            id: 1,
            name: "g1".into(),
            primary: addr("127.0.0.1:1")?,
            replicas: Vec::new(),
            slots: 1,
        }],
        proxies: vec![ProxyView {
            record: serde_json::from_value(json["proxy"].clone()).map_err(failed)?,
            alive: true,
            last_beat_ms: Some(1),
            push_fault: None,
            instances: Vec::new(),
        }],
        instances: vec![seen(primary, Role::Primary), seen(addr("127.0.0.1:2")?, Role::Replica)],
        failovers: vec![serde_json::from_value(json["failover"].clone()).map_err(failed)?],
        migrations: vec![serde_json::from_value(json["migration"].clone()).map_err(failed)?],
        alarms: vec![serde_json::from_value(json["alarm"].clone()).map_err(failed)?],
        ..View::default()
    };
    metrics.render(&view)
}

fn member(page: &mut Page, view: &View) {
    page.flag("leading", "1: this member leads.", view.leading);
    page.flag("leader_known", "1: this member knows who leads.", view.leader.is_some());
    let help = "Latest change of the store that this member has seen.";
    page.gauge("store_revision", help, &[], view.revision as f64);
    let reachable = view.heard && view.store_fault.is_none();
    page.flag("store_reachable", "0: the store cannot be reached from here, or was not yet.", reachable);
    let help = "Records of the store that are refused, as after a hand edit.";
    page.gauge("store_invalid_records", help, &[], view.invalid.len() as f64);
    page.gauge("alarms", "Things that need somebody's attention.", &[], view.alarms.len() as f64);
    for alarm in &view.alarms {
        let labels = [("kind", alarm.kind.as_str()), ("subject", alarm.subject.as_str())];
        page.gauge("alarm_active", "1 for each thing that needs somebody's attention.", &labels, 1.0);
    }
}

fn cluster(page: &mut Page, view: &View) {
    let epoch = view.topology.as_ref().map_or(0, |t| t.epoch());
    page.gauge("topology_epoch", "The topology's epoch, as this member sees it; 0: none.", &[], epoch as f64);
    page.gauge("groups", "Groups of the cluster.", &[], view.groups.len() as f64);
    let unowned = view.slots.iter().filter(|r| r.group.is_none()).map(|r| f64::from(r.to - r.from) + 1.0);
    page.gauge("slots_unowned", "Slots that nobody serves.", &[], unowned.sum());
    for group in &view.groups {
        let labels = [("group", &*group.id.to_string())];
        page.gauge("group_slots", "Slots that the group owns.", &labels, group.slots as f64);
    }
    let alive = view.proxies.iter().filter(|p| p.alive);
    page.gauge("proxies_alive", "Proxies that are registered.", &[], alive.clone().count() as f64);
    let behind = alive.filter(|p| p.record.epoch < epoch).count();
    page.gauge("proxies_behind", "Registered proxies that serve an older epoch.", &[], behind as f64);
}

fn proxies(page: &mut Page, proxies: &[ProxyView]) {
    let alive = || proxies.iter().filter(|p| p.alive);
    for proxy in alive() {
        let help = "Epoch that all workers of the proxy serve.";
        page.gauge("proxy_topology_epoch", help, &[("proxy", &proxy.record.id)], proxy.record.epoch as f64);
    }
    for (proxy, ms) in alive().filter_map(|p| Some((p, p.last_beat_ms?))) {
        let help = "Since the proxy's last heartbeat; known to the leader.";
        page.gauge("proxy_beat_age_seconds", help, &[("proxy", &proxy.record.id)], seconds(ms));
    }
    for proxy in alive() {
        let failed = f64::from(u8::from(proxy.push_fault.is_some()));
        let help = "1: the proxy has not taken the last topology; known to the leader.";
        page.gauge("proxy_push_failed", help, &[("proxy", &proxy.record.id)], failed);
    }
}

/// One value for each instance that has it.
fn each(
    page: &mut Page,
    instances: &[InstanceView],
    (name, help): (&str, &str),
    value: impl Fn(&InstanceView) -> Option<f64>,
) {
    for (i, value) in instances.iter().filter_map(|i| Some((i, value(i)?))) {
        let (group, addr) = (i.group.to_string(), i.addr.to_string());
        let labels = [("group", group.as_str()), ("addr", addr.as_str()), ("role", role(i.role))];
        // Of the same instance as another role it is another series: a counter may not go on there, and none does.
        if name.ends_with("_total") {
            page.count(name, help, &labels[..2], value);
        } else {
            page.gauge(name, help, &labels, value);
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
    }
}

fn instances(page: &mut Page, all: &[InstanceView]) {
    let up = ("instance_up", "0: this member takes the instance for dead.");
    each(page, all, up, |i| Some(f64::from(u8::from(!i.verdict.is_down()))));
    for i in all {
        let (group, addr) = (i.group.to_string(), i.addr.to_string());
        let labels = [("group", group.as_str()), ("addr", addr.as_str()), ("verdict", i.verdict.word())];
        page.gauge("instance_verdict", "Always 1; the label is what this member makes of the instance.", &labels, 1.0);
    }
    let votes = ("instance_votes", "Members that accuse the instance; known to the leader.");
    each(page, all, votes, |i| Some(i.votes as f64));
    let heard = ("instance_heard_age_seconds", "Since the instance's last reply to this member.");
    each(page, all, heard, |i| i.heard_ms.map(seconds));
    let offset = ("instance_replication_offset_bytes", "How far the instance has its group's history.");
    each(page, all, offset, |i| i.offset.map(|n| n as f64));
    let head = |group: u32| {
        let primary = all.iter().find(|i| i.group == group && i.role == Role::Primary);
        primary.and_then(|p| p.offset)
    };
    let lag = ("instance_replication_lag_bytes", "How much of its primary's history a replica lacks.");
    let of_replica = |i: &InstanceView| i.offset.filter(|_| i.role == Role::Replica);
    each(page, all, lag, |i| Some(head(i.group)?.saturating_sub(of_replica(i)?) as f64));
    let link = ("instance_replication_link_up", "1: the replica is connected to its primary.");
    each(page, all, link, |i| i.link_up.map(|up| f64::from(u8::from(up))));
}

fn loads(page: &mut Page, all: &[InstanceView]) {
    let of = |n: fn(&Load) -> Option<u64>| move |i: &InstanceView| Some(n(i.load.as_ref()?)? as f64);
    let memory = ("instance_memory_bytes", "Memory that the instance's data takes, as it says.");
    each(page, all, memory, of(|l| l.memory_bytes));
    let max = ("instance_memory_max_bytes", "Memory that its data may take; missing: it has no bound.");
    each(page, all, max, of(|l| l.memory_max_bytes));
    each(page, all, ("instance_clients", "Connections to the instance."), of(|l| l.clients));
    each(page, all, ("instance_keys", "Keys that the instance holds."), of(|l| l.keys));
    let commands = ("instance_commands_total", "Commands that the instance has executed since it started.");
    each(page, all, commands, of(|l| l.commands));
    let evicted = ("instance_evicted_keys_total", "Keys that the instance has dropped to make room.");
    each(page, all, evicted, of(|l| l.evicted_keys));
}

fn failovers(page: &mut Page, view: &View) {
    let help = "Failovers that replicas or proxies forbade, since this member started.";
    page.count("failover_vetoes_total", help, &[], view.vetoes as f64);
    let under_way = view.failovers.iter().filter(|f| f.times.ended.is_none()).count();
    page.gauge("failovers_active", "Changes of primaries that are under way.", &[], under_way as f64);
    let mut kept: std::collections::BTreeMap<[String; 3], u32> = std::collections::BTreeMap::new();
    for f in &view.failovers {
        *kept.entry([f.group_id.to_string(), f.kind.word().into(), f.phase.word().into()]).or_default() += 1;
    }
    for ([group, kind, phase], n) in &kept {
        let labels = [("group", group.as_str()), ("kind", kind), ("phase", phase)];
        let help = "Changes of primaries that are remembered, by the phase they are in or ended in.";
        page.gauge("failovers", help, &labels, f64::from(*n));
    }
    // A group's last.
    let last: std::collections::BTreeMap<u32, &Failover> = view.failovers.iter().map(|f| (f.group_id, f)).collect();
    for (group, f) in &last {
        let labels = [("group", &*group.to_string()), ("kind", f.kind.word())];
        let help = "When the group's last change of primary was decided, since 1970.";
        page.gauge("failover_decided_time_seconds", help, &labels, seconds(f.times.decided));
    }
    for (group, f) in &last {
        phases(page, &group.to_string(), f);
    }
    losses(page, view);
}

/// An old primary may come back after others have been primary: the group's last loss is that which was told of last, and one
/// of nothing hides none.
fn losses(page: &mut Page, view: &View) {
    let mut last: std::collections::BTreeMap<u32, (bool, u64, u64)> = std::collections::BTreeMap::new();
    for (f, lost) in view.failovers.iter().filter_map(|f| Some((f, f.lost_bytes?))) {
        // Of a record that does not say when, the end is the earliest.
        let at = f.times.reported.or(f.times.ended).unwrap_or(f.times.decided);
        let kept = last.entry(f.group_id).or_default();
        *kept = (*kept).max((lost > 0, at, lost));
    }
    for (group, (_, _, lost)) in &last {
        let help = "What only an old primary of the group had, by the last one that came back with anything.";
        page.gauge("failover_lost_bytes", help, &[("group", &group.to_string())], *lost as f64);
    }
    for (group, (_, at, _)) in &last {
        let help = "When that old primary said so, since 1970.";
        page.gauge("failover_lost_time_seconds", help, &[("group", &group.to_string())], seconds(*at));
    }
}

fn phases(page: &mut Page, group: &str, f: &Failover) {
    let times = [
        ("decided", Some(f.times.decided)),
        ("chosen", f.times.chosen),
        ("committed", f.times.committed),
        ("ended", f.times.ended),
    ];
    for (phase, at) in times.into_iter().filter_map(|(phase, at)| Some((phase, at?))) {
        let took = seconds(at.saturating_sub(f.times.doubted));
        let help = "Of the group's last change of primary: from the doubt to each phase that was reached.";
        page.gauge("failover_phase_seconds", help, &[("group", group), ("phase", phase)], took);
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn full(name: &str) -> String {
    format!("twemslot_configsvr_{name}")
}

fn unix_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Zero where the kernel does not tell.
fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    (kib.unwrap_or(0) * 1024) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failover(id: u64, group: u32, lost: &str, times: &str) -> Failover {
        let json = format!(
            r#"{{"id":"{id:020}","group_id":{group},"kind":"failover","phase":"done","epoch":{id},"old":"127.0.0.1:1","why":"",
            {lost}"times":{{"doubted":1000,"decided":1000,"committed":1000{times}}}}}"#
        );
        serde_json::from_str(&json).expect("a record")
    }

    fn told(failovers: Vec<Failover>) -> Vec<String> {
        let mut page = Page::default();
        losses(&mut page, &View { failovers, ..View::default() });
        let text = TextEncoder::new().encode_to_string(&page.families).expect("a page");
        text.lines().filter(|l| !l.starts_with('#')).map(|l| l.replace("twemslot_configsvr_failover_", "")).collect()
    }

    /// An old primary that comes back late is told of, whatever changes of primaries there were meanwhile.
    #[test]
    fn the_last_loss_is_told_whenever_it_is_heard_of() {
        let late = failover(1, 1, r#""lost_bytes":77,"#, r#","ended":2000,"reported":9000000"#);
        let between = failover(2, 1, "", r#","ended":3000"#);
        let nothing = failover(3, 1, r#""lost_bytes":0,"#, r#","ended":4000,"reported":9900000"#);
        let other = failover(4, 2, r#""lost_bytes":0,"#, r#","ended":5000,"reported":6000"#);
        let wanted = ["lost_bytes{group=\"1\"} 77", "lost_bytes{group=\"2\"} 0"];
        let times = ["lost_time_seconds{group=\"1\"} 9000", "lost_time_seconds{group=\"2\"} 6"];
        assert_eq!(told(vec![late, between, nothing, other]), [wanted, times].concat());
    }

    #[test]
    fn a_store_that_was_never_heard_of_is_not_reachable() {
        let reachable = |view: View| {
            let mut page = Page::default();
            member(&mut page, &view);
            let text = TextEncoder::new().encode_to_string(&page.families).expect("a page");
            text.lines().any(|line| line == "twemslot_configsvr_store_reachable 1")
        };
        assert!(!reachable(View::default()));
        assert!(reachable(View { heard: true, ..View::default() }));
        assert!(!reachable(View { heard: true, store_fault: Some("away".to_owned()), ..View::default() }));
    }

    /// As records were before they said when.
    #[test]
    fn a_loss_of_an_old_record_is_of_its_end() {
        let old = failover(1, 1, r#""lost_bytes":5,"#, r#","ended":2000"#);
        assert_eq!(told(vec![old]), ["lost_bytes{group=\"1\"} 5", "lost_time_seconds{group=\"1\"} 2"]);
        assert!(told(vec![failover(1, 1, "", "")]).is_empty());
    }
}
