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
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|e| prometheus::Error::Msg(e.to_string()))
    }
}

fn full(name: &str) -> String {
    format!("twemslot_configsvr_{name}")
}
