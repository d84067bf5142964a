//! What Prometheus reads of a configsvr. Counters are counted where things happen; the rest is taken from the view when
//! somebody asks.

use crate::control::view::View;
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// All metrics of this member.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    leading: IntGauge,
    leader_known: IntGauge,
    epoch: IntGauge,
    revision: IntGauge,
    store_reachable: IntGauge,
    store_invalid: IntGauge,
    alarms: IntGauge,
    groups: IntGauge,
    slots_unowned: IntGauge,
    proxies: IntGauge,
    proxies_behind: IntGauge,
    proxy_epoch: IntGaugeVec,
    instance_verdict: IntGaugeVec,
    instance_votes: IntGaugeVec,
    failovers: IntGaugeVec,
    failover_ms: IntGaugeVec,
    failover_lost_bytes: IntGaugeVec,
    failover_vetoes: IntGauge,
    migrations: IntGaugeVec,
    migration_progress: IntGaugeVec,
    migration_lag_bytes: IntGaugeVec,
    migration_pause_ms: IntGaugeVec,
    pub(crate) calls: IntCounterVec,
    pub(crate) deeds: IntCounterVec,
    pub(crate) elections: IntCounter,
}

impl Metrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(full(name), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(full(name), help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let proxy_epoch = Opts::new(full("proxy_epoch"), "Epoch that all workers of the proxy serve");
        let proxy_epoch = IntGaugeVec::new(proxy_epoch, &["proxy"])?;
        registry.register(Box::new(proxy_epoch.clone()))?;
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let gauges = IntGaugeVec::new(Opts::new(full(name), help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        let elections = IntCounter::new(full("leaderships_total"), "Times this member became the leader")?;
        registry.register(Box::new(elections.clone()))?;
        Ok(Self {
            leading: gauge("leading", "1: this member leads")?,
            leader_known: gauge("leader_known", "1: this member knows who leads")?,
            epoch: gauge("epoch", "The topology's epoch, as this member sees it")?,
            revision: gauge("store_revision", "Latest change of the store that this member has seen")?,
            store_reachable: gauge("store_reachable", "0: the store cannot be reached from here")?,
            store_invalid: gauge("store_invalid_records", "Records of the store that are refused: a hand edit?")?,
            alarms: gauge("alarms", "Things that need somebody's attention")?,
            groups: gauge("groups", "Groups of the cluster")?,
            slots_unowned: gauge("slots_unowned", "Slots that nobody serves")?,
            proxies: gauge("proxies_alive", "Proxies that are registered")?,
            proxies_behind: gauge("proxies_behind", "Registered proxies that serve an older epoch")?,
            proxy_epoch,
            instance_verdict: gauges(
                "instance_verdict",
                "1: what this member makes of the instance",
                &["group", "instance", "verdict"],
            )?,
            instance_votes: gauges(
                "instance_votes",
                "Members that accuse the instance; known to the leader",
                &["group", "instance"],
            )?,
            failovers: gauges("failovers", "Failovers that are remembered", &["group", "kind", "phase"])?,
            failover_ms: gauges(
                "failover_phase_ms",
                "Of the group's last failover: from the doubt to each phase",
                &["group", "phase"],
            )?,
            failover_lost_bytes: gauges(
                "failover_lost_bytes",
                "Of the group's last failover: what only the old primary had, once it came back",
                &["group"],
            )?,
            failover_vetoes: gauge("failover_vetoes", "Failovers that replicas or proxies forbade, since the start")?,
            migrations: gauges("migrations", "Migrations that are remembered", &["phase"])?,
            migration_progress: gauges(
                "migration_progress",
                "Of each migration under way, by the leader: keys met (scanned), keys copied, keys to be copied again \
                 (dirty), and so on",
                &["migration", "what"],
            )?,
            migration_lag_bytes: gauges(
                "migration_lag_bytes",
                "Bytes of the source's writes that the target has not got",
                &["migration"],
            )?,
            migration_pause_ms: gauges(
                "migration_pause_ms",
                "Of each migration that is remembered: how long its slots were held when they changed hands",
                &["migration"],
            )?,
            calls: counters("changes_total", "Changes asked for, by outcome", &["outcome"])?,
            deeds: counters("deeds_total", "Writes, probes, pushes and so on, by outcome", &["deed", "outcome"])?,
            elections,
            registry,
        })
    }

    /// The text that Prometheus reads.
    pub fn render(&self, view: &View) -> Result<String, prometheus::Error> {
        let epoch = view.topology.as_ref().map_or(0, |t| t.epoch());
        self.leading.set(view.leading.into());
        self.leader_known.set(view.leader.is_some().into());
        self.epoch.set(epoch as i64);
        self.revision.set(view.revision as i64);
        self.store_reachable.set(view.store_fault.is_none().into());
        self.store_invalid.set(view.invalid.len() as i64);
        self.alarms.set(view.alarms.len() as i64);
        self.groups.set(view.groups.len() as i64);
        let unowned = view.slots.iter().filter(|r| r.group.is_none()).map(|r| i64::from(r.to - r.from) + 1);
        self.slots_unowned.set(unowned.sum());
        let alive = view.proxies.iter().filter(|p| p.alive);
        self.proxies.set(alive.clone().count() as i64);
        self.proxies_behind.set(alive.clone().filter(|p| p.record.epoch < epoch).count() as i64);
        self.proxy_epoch.reset();
        for proxy in alive {
            self.proxy_epoch.with_label_values(&[&proxy.record.id]).set(proxy.record.epoch as i64);
        }
        self.render_health(view);
        self.render_migrations(view);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|e| prometheus::Error::Msg(e.to_string()))
    }
}

impl Metrics {
    fn render_health(&self, view: &View) {
        self.failover_vetoes.set(view.vetoes as i64);
        self.instance_verdict.reset();
        self.instance_votes.reset();
        for i in &view.instances {
            let (group, addr) = (i.group.to_string(), i.addr.to_string());
            self.instance_verdict.with_label_values(&[&group, &addr, i.verdict.word()]).set(1);
            self.instance_votes.with_label_values(&[&group, &addr]).set(i.votes as i64);
        }
        self.failovers.reset();
        self.failover_ms.reset();
        self.failover_lost_bytes.reset();
        for f in &view.failovers {
            let group = f.group_id.to_string();
            self.failovers.with_label_values(&[&group, f.kind.word(), f.phase.word()]).inc();
            let times = [
                ("decided", Some(f.times.decided)),
                ("chosen", f.times.chosen),
                ("committed", f.times.committed),
                ("ended", f.times.ended),
            ];
            for (phase, at) in times {
                let took = at.map_or(0, |at| at.saturating_sub(f.times.doubted));
                self.failover_ms.with_label_values(&[&group, phase]).set(took as i64);
            }
            if let Some(lost) = f.lost_bytes {
                self.failover_lost_bytes.with_label_values(&[&group]).set(lost as i64);
            }
        }
    }
}

impl Metrics {
    fn render_migrations(&self, view: &View) {
        self.migrations.reset();
        self.migration_progress.reset();
        self.migration_lag_bytes.reset();
        self.migration_pause_ms.reset();
        for m in &view.migrations {
            let id = m.task.id.to_string();
            self.migrations.with_label_values(&[m.task.phase.word()]).inc();
            if let Some(tally) = &m.task.tally {
                self.migration_pause_ms.with_label_values(&[&id]).set(tally.pause_ms as i64);
            }
            let Some(p) = &m.progress else { continue };
            let all = [
                ("scanned_keys", p.scanned),
                ("keys_to_scan", p.to_scan),
                ("copied_keys", p.copied),
                ("copied_bytes", p.bytes),
                ("applied_commands", p.applied),
                ("dirty_keys", p.dirty),
            ];
            for (what, value) in all {
                self.migration_progress.with_label_values(&[&id, what]).set(value as i64);
            }
            self.migration_lag_bytes.with_label_values(&[&id]).set(p.lag_bytes as i64);
        }
    }
}

fn full(name: &str) -> String {
    format!("twemslot_configsvr_{name}")
}
