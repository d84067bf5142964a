//! What Prometheus is told: the sum of all workers' pages, and what the master knows itself. Every label is bounded:
//! commands by the command table, groups by the statistics page.

use super::procfs;
use crate::os::SharedPage;
use crate::relay::command;
use crate::stats::{BUCKETS, Counter, Gauge, Histogram, OfCommand, OfGroup, Stats, bucket_end, gauge_word};
use prometheus::TextEncoder;
use prometheus::proto;
use std::sync::Arc;

/// What there is to tell; rendered on the admin's thread.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// A page, and whether a worker writes it now: if not, its gauges are of the past.
    pub(super) pages: Vec<(Arc<SharedPage>, bool)>,
    pub(super) workers_live: usize,
    pub(super) workers_wanted: usize,
    pub(super) respawns: u64,
    pub(super) reloads_ok: u64,
    pub(super) reloads_failed: u64,
    pub(super) uptime_s: f64,
    pub(super) started_unix_s: f64,
    pub(super) epoch: u64,
    /// The oldest epoch that a worker serves.
    pub(super) epoch_served: u64,
    pub(super) draining: bool,
    /// None: no configsvr is named.
    pub(super) membership: Option<MembershipNow>,
    pub(super) workers: Vec<WorkerNow>,
    pub(super) slot_count: usize,
    /// Of all workers' buffers together.
    pub(super) buffer_memory_max: usize,
    /// Of each group: its id and its primary's address.
    pub(super) primaries: Vec<(u32, String)>,
}

/// A worker that lives.
#[derive(Debug)]
pub(super) struct WorkerNow {
    pub(super) seat: usize,
    pub(super) pid: u32,
    pub(super) page: Arc<SharedPage>,
}

/// How the proxy and the control plane get on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct MembershipNow {
    pub(super) from_disk: bool,
    pub(super) reachable: bool,
    pub(super) beats_ok: u64,
    pub(super) beats_failed: u64,
    pub(super) last_beat_age_s: Option<f64>,
}

/// Statistics of all workers that live or lived.
pub(super) fn sum(pages: &[(Arc<SharedPage>, bool)]) -> Stats {
    let mut sum = Stats::default();
    for (page, live) in pages {
        let words = page.read();
        sum.add_all(&if *live { Stats::of_page(&words) } else { Stats::resumed(&words) });
    }
    sum
}

/// The text that Prometheus reads.
pub(super) fn render(snapshot: &Snapshot) -> Result<String, prometheus::Error> {
    let stats = sum(&snapshot.pages);
    let mut page = Page::default();
    page.master(snapshot);
    page.workers(&snapshot.workers);
    page.counters(&stats);
    page.gauges(&stats);
    page.commands(&stats);
    page.groups(&stats);
    page.primaries(&snapshot.primaries);
    page.slots(&stats, snapshot.slot_count);
    page.histograms(&stats);
    TextEncoder::new().encode_to_string(&page.families)
}

/// The text that Prometheus reads of a proxy that has something to say of everything: the vocabulary.
///
/// Errors: no memory that processes share can be made.
pub fn specimen() -> Result<String, String> {
    let (shared, _) = SharedPage::create().map_err(|e| e.to_string())?;
    let mut stats = Stats::default();
    stats.add_of_command(0, OfCommand::Calls, 1);
    stats.group_entry(1);
    shared.publish(0, stats.words());
    let page = Arc::new(shared);
    let membership =
        MembershipNow { from_disk: false, reachable: true, beats_ok: 1, beats_failed: 0, last_beat_age_s: Some(0.5) };
    let snapshot = Snapshot {
        pages: vec![(Arc::clone(&page), true)],
        workers_live: 1,
        workers_wanted: 1,
        respawns: 0,
        reloads_ok: 0,
        reloads_failed: 0,
        uptime_s: 1.0,
        started_unix_s: 1.0,
        epoch: 1,
        epoch_served: 1,
        draining: false,
        membership: Some(membership),
        workers: vec![WorkerNow { seat: 0, pid: std::process::id(), page }],
        slot_count: 1024,
        buffer_memory_max: 1 << 30,
        primaries: vec![(1, "127.0.0.1:6379".into())],
    };
    render(&snapshot).map_err(|e| e.to_string())
}

/// Ranges of slots that are told apart.
const SLOT_RANGES: usize = 16;

type Labels<'a> = [(&'a str, &'a str)];

/// Seconds in a count of microseconds.
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[derive(Default)]
struct Page {
    families: Vec<proto::MetricFamily>,
}

impl Page {
    /// One value of a metric; values of one name are given one after the other.
    fn put(&mut self, kind: proto::MetricType, name: &str, help: &str, labels: &Labels<'_>, value: f64) {
        let mut metric = proto::Metric::from_label(labels.iter().map(|l| label(l.0, l.1)).collect());
        if kind == proto::MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.add(kind, name, help, metric);
    }

    fn add(&mut self, kind: proto::MetricType, name: &str, help: &str, metric: proto::Metric) {
        let name = format!("twemslot_proxy_{name}");
        if let Some(family) = self.families.last_mut().filter(|f| f.name() == name) {
            family.mut_metric().push(metric);
            return;
        }
        let mut family = proto::MetricFamily::default();
        family.set_name(name);
        family.set_help(help.into());
        family.set_field_type(kind);
        family.mut_metric().push(metric);
        self.families.push(family);
    }

    fn count(&mut self, name: &str, help: &str, labels: &Labels<'_>, value: f64) {
        self.put(proto::MetricType::COUNTER, name, help, labels, value);
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &Labels<'_>, value: f64) {
        self.put(proto::MetricType::GAUGE, name, help, labels, value);
    }

    fn master(&mut self, s: &Snapshot) {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        self.gauge("build_info", "Always 1; the label says which version runs.", &version, 1.0);
        self.gauge("uptime_seconds", "Time since the master started.", &[], s.uptime_s);
        self.gauge("start_time_seconds", "When the master started, since 1970.", &[], s.started_unix_s);
        self.gauge("workers", "Workers that serve.", &[], s.workers_live as f64);
        self.gauge("workers_configured", "Workers that should serve.", &[], s.workers_wanted as f64);
        self.gauge("draining", "1 while the proxy stops.", &[], f64::from(u8::from(s.draining)));
        self.count("worker_respawns_total", "Workers that died and were replaced.", &[], s.respawns as f64);
        let help = "Reloads of the configuration, by result.";
        self.count("reloads_total", help, &[("result", "ok")], s.reloads_ok as f64);
        self.count("reloads_total", help, &[("result", "failed")], s.reloads_failed as f64);
        self.gauge("topology_epoch", "Epoch of the topology in force; 0: none.", &[], s.epoch as f64);
        let help = "The oldest epoch that a worker serves; 0: none.";
        self.gauge("topology_epoch_served", help, &[], s.epoch_served as f64);
        let help = "Memory that buffers may take: worker_memory_max of each worker.";
        self.gauge("buffer_memory_max_bytes", help, &[], s.buffer_memory_max as f64);
        if let Some(membership) = &s.membership {
            self.membership(membership);
        }
    }

    fn membership(&mut self, m: &MembershipNow) {
        let bit = |truth: bool| f64::from(u8::from(truth));
        let help = "1 while the topology is the disk's because no configsvr answered at the start.";
        self.gauge("topology_from_disk", help, &[], bit(m.from_disk));
        self.gauge("configsvr_reachable", "1 when a configsvr answered the last heartbeat.", &[], bit(m.reachable));
        let help = "Heartbeats to configsvr, by result.";
        self.count("beats_total", help, &[("result", "ok")], m.beats_ok as f64);
        self.count("beats_total", help, &[("result", "failed")], m.beats_failed as f64);
        if let Some(age) = m.last_beat_age_s {
            self.gauge("last_beat_age_seconds", "Since the last heartbeat that was answered.", &[], age);
        }
    }

    /// One by one, to see whether they share the load, and whether one is at its limit: a worker has one processor.
    fn workers(&mut self, workers: &[WorkerNow]) {
        let seats: Vec<String> = workers.iter().map(|w| w.seat.to_string()).collect();
        let all = || seats.iter().zip(workers);
        let help = "Clients that are connected, by worker.";
        for (seat, worker) in all() {
            let clients = worker.page.word(gauge_word(Gauge::Clients));
            self.gauge("worker_clients", help, &[("worker", seat)], clients as f64);
        }
        let help = "Requests of clients, by worker.";
        for (seat, worker) in all() {
            let requests = worker.page.word(Counter::Requests as usize);
            self.count("worker_requests_total", help, &[("worker", seat)], requests as f64);
        }
        let use_of: Vec<procfs::Use> = workers.iter().map(|w| procfs::of(w.pid)).collect();
        let help = "Time on a processor, by worker; 1 s in 1 s is all that a worker can use.";
        for (seat, used) in seats.iter().zip(&use_of) {
            self.count("worker_cpu_seconds_total", help, &[("worker", seat)], used.cpu_s);
        }
        let help = "Memory in use, by worker.";
        for (seat, used) in seats.iter().zip(&use_of) {
            self.gauge("worker_resident_memory_bytes", help, &[("worker", seat)], used.resident_bytes as f64);
        }
    }

    /// Which instance a group's traffic goes to now: to join with the metrics of groups.
    fn primaries(&mut self, primaries: &[(u32, String)]) {
        let help = "Always 1; the labels say which instance is the group's primary.";
        for (group, addr) in primaries {
            self.gauge("group_primary", help, &[("group", &group.to_string()), ("addr", addr)], 1.0);
        }
    }

    /// Ranges rather than slots: a label has few values. All slots: GET /api/v1/slots/traffic.
    fn slots(&mut self, stats: &Stats, slot_count: usize) {
        let help = "Requests, by range of slots; those of split requests as the sample tells.";
        for range in 0..SLOT_RANGES.min(slot_count) {
            let bound = |n: usize| n * slot_count / SLOT_RANGES.min(slot_count);
            let (from, behind) = (bound(range), bound(range + 1));
            let requests: u64 = stats.of_slots().get(from..behind).map_or(0, |slots| slots.iter().sum());
            let slots = format!("{from}-{}", behind - 1);
            self.count("slot_range_requests_total", help, &[("slots", &slots)], requests as f64);
        }
    }

    fn counters(&mut self, stats: &Stats) {
        for (counter, name, labels, help) in COUNTERS {
            self.count(name, help, labels, stats.get(*counter) as f64);
        }
        let help = "Time that requests waited for held slots.";
        self.count("requests_held_seconds_total", help, &[], seconds(stats.get(Counter::HeldUsSum)));
    }

    fn gauges(&mut self, stats: &Stats) {
        for (gauge, name, labels, help) in GAUGES {
            self.gauge(name, help, labels, stats.gauge(*gauge) as f64);
        }
    }

    /// Commands nobody called are left out: there are hundreds.
    fn commands(&mut self, stats: &Stats) {
        let ids = 0..command::count() as u16;
        let called: Vec<u16> = ids.filter(|&id| stats.of_command(id, OfCommand::Calls) > 0).collect();
        for (word, name, help) in OF_COMMAND {
            for &id in &called {
                let value = stats.of_command(id, *word);
                let value = if *word == OfCommand::UsSum { seconds(value) } else { value as f64 };
                self.count(name, help, &[("command", command::get(id).name)], value);
            }
        }
    }

    fn groups(&mut self, stats: &Stats) {
        let ids: Vec<String> =
            (0..stats.groups()).map(|g| (stats.of_group(g, OfGroup::IdPlusOne) - 1).to_string()).collect();
        for (word, is_gauge, name, cause, help) in OF_GROUP {
            for (entry, id) in ids.iter().enumerate() {
                let value = stats.of_group(entry, *word);
                let value = if *word == OfGroup::UsSum { seconds(value) } else { value as f64 };
                let labels = [("group", id.as_str()), ("cause", cause)];
                let labels = if cause.is_empty() { &labels[..1] } else { &labels[..] };
                let kind = if *is_gauge { proto::MetricType::GAUGE } else { proto::MetricType::COUNTER };
                self.put(kind, name, help, labels, value);
            }
        }
    }

    fn histograms(&mut self, stats: &Stats) {
        let commands = 0..command::count() as u16;
        let total_us: u64 = commands.map(|id| stats.of_command(id, OfCommand::UsSum)).sum();
        let instance_us: u64 = (0..stats.groups()).map(|g| stats.of_group(g, OfGroup::UsSum)).sum();
        let help = "Time from a request read to its reply put into the client's buffer.";
        self.histogram("request_duration_seconds", help, stats.histogram(Histogram::Total), total_us);
        let help = "Time from a request put on a link to its reply read: the instance's and the network's share.";
        self.histogram("instance_duration_seconds", help, stats.histogram(Histogram::Instance), instance_us);
    }

    fn histogram(&mut self, name: &str, help: &str, counts: &[u64], sum_us: u64) {
        let mut histogram = proto::Histogram::default();
        let mut seen = 0;
        let mut buckets = Vec::new();
        for (i, count) in counts.iter().enumerate() {
            seen += count;
            // Two to each power of two tell percentiles well enough; the last holds whatever was longer.
            if (i + 1) % 4 == 0 && i + 1 < BUCKETS {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(seconds(bucket_end(i)));
                bucket.set_cumulative_count(seen);
                buckets.push(bucket);
            }
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_count(seen);
        histogram.set_sample_sum(seconds(sum_us));
        let mut metric = proto::Metric::default();
        metric.set_histogram(histogram);
        self.add(proto::MetricType::HISTOGRAM, name, help, metric);
    }
}

fn label(name: &str, value: &str) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    pair
}

type Row<T> = (T, &'static str, &'static Labels<'static>, &'static str);

/// Values of one name stand together.
const COUNTERS: &[Row<Counter>] = &[
    (Counter::ClientsAccepted, "clients_accepted_total", &[], "Clients that connected."),
    (Counter::ClientsClosed, "clients_closed_total", &[], "Clients that left, whoever closed."),
    (Counter::ClientsClosedForMemory, "clients_evicted_total", &[("cause", "memory")], EVICTED),
    (Counter::ClientsClosedForProtocol, "clients_evicted_total", &[("cause", "protocol")], EVICTED),
    (Counter::ClientsHandedOver, "clients_handed_over_total", &[], "Clients given to another worker."),
    (Counter::ClientBytesIn, "client_read_bytes_total", &[], "Bytes read from clients."),
    (Counter::ClientBytesOut, "client_written_bytes_total", &[], "Bytes written to clients."),
    (Counter::LinkBytesIn, "link_read_bytes_total", &[], "Bytes read from instances."),
    (Counter::LinkBytesOut, "link_written_bytes_total", &[], "Bytes written to instances."),
    (Counter::Requests, "requests_total", &[], "Requests of clients."),
    (Counter::RequestsLocal, "requests_local_total", &[], "Requests answered without an instance."),
    (Counter::RequestsSplit, "requests_split_total", &[], "Requests split over groups."),
    (Counter::RequestsLarge, "requests_large_total", &[], "Requests sent on a link of their own."),
    (Counter::RepliesError, "replies_error_total", &[], "Errors given to clients, whoever made them."),
    (Counter::ErrorsUnknownCommand, "errors_total", &[("cause", "unknown_command")], ERRORS),
    (Counter::ErrorsNotServed, "errors_total", &[("cause", "not_served")], ERRORS),
    (Counter::ErrorsArity, "errors_total", &[("cause", "arity")], ERRORS),
    (Counter::ErrorsCrossSlot, "errors_total", &[("cause", "cross_slot")], ERRORS),
    (Counter::ErrorsNoOwner, "errors_total", &[("cause", "no_owner")], ERRORS),
    (Counter::ErrorsLinkDown, "errors_total", &[("cause", "link_down")], ERRORS),
    (Counter::ErrorsOutcomeUnknown, "errors_total", &[("cause", "outcome_unknown")], ERRORS),
    (Counter::ErrorsTimeout, "errors_total", &[("cause", "timeout")], ERRORS),
    (Counter::ErrorsOverload, "errors_total", &[("cause", "overload")], ERRORS),
    (Counter::ErrorsHeldTooLong, "errors_total", &[("cause", "held_too_long")], ERRORS),
    (Counter::ErrorsAuth, "errors_total", &[("cause", "auth")], ERRORS),
    (Counter::Held, "requests_held_total", &[], "Requests that waited for a held slot."),
    (Counter::KeysFetched, "keys_fetched_total", &[], "Keys of moving slots that were brought before a command."),
    (Counter::FetchesFailed, "key_fetches_failed_total", &[], "Tries to bring a key of a moving slot that failed."),
    (Counter::LinksOpened, "links_opened_total", &[], "Links to instances that opened."),
    (Counter::LinksFailed, "links_failed_total", &[], "Links to instances that failed."),
    (Counter::LinksOrphaned, "links_orphaned_total", &[], "Links lost with requests that may still be executed."),
    (Counter::OrphansEnded, "orphans_ended_total", &[], "Lost links of which nothing is left at their instance."),
    (Counter::OrphansGivenUp, "orphans_given_up_total", &[], "Lost links whose instance left and was not reached."),
    (Counter::TopologiesApplied, "topologies_applied_total", &[], "Topologies loaded, summed over workers."),
    (Counter::SettingsApplied, "settings_applied_total", &[], "Changes of settings, summed over workers."),
    (Counter::LoopIterations, "loop_iterations_total", &[], "Turns of the workers' loops."),
    (Counter::LoopEvents, "loop_events_total", &[], "Sockets found ready."),
    (Counter::LoopStalls, "loop_stalls_total", &[], "Turns that took suspiciously long."),
    (Counter::ReadCalls, "read_calls_total", &[], "System calls that read."),
    (Counter::WriteCalls, "write_calls_total", &[], "System calls that wrote."),
];
const EVICTED: &str = "Clients the proxy closed, by cause.";
const ERRORS: &str = "Errors the proxy made itself, by cause.";

const GAUGES: &[Row<Gauge>] = &[
    (Gauge::Clients, "clients", &[], "Clients that are connected."),
    (Gauge::RequestsInFlight, "requests_in_flight", &[], "Requests that wait for an instance."),
    (Gauge::ClientsBlocked, "clients_blocked", &[], "Clients whose request waits at an instance, as BLPOP does."),
    (Gauge::RequestsHeld, "requests_held", &[], "Requests that wait for a held slot."),
    (Gauge::SlotsHeld, "slots_held", &[], "Held slots, summed over workers."),
    (Gauge::MemoryBytes, "buffer_memory_bytes", &[], "Memory in buffers."),
    (Gauge::ClientOutputBytes, "client_output_bytes", &[], "Replies not written to clients yet."),
    (Gauge::LinkOutputBytes, "link_output_bytes", &[], "Requests not written to instances yet."),
    (Gauge::LinksUp, "links", &[("state", "up")], "Links to instances, by state."),
    (Gauge::LinksDown, "links", &[("state", "down")], "Links to instances, by state."),
    (Gauge::Orphans, "orphans", &[], "Lost links of which an instance may still execute something."),
];

const OF_COMMAND: &[(OfCommand, &str, &str)] = &[
    (OfCommand::Calls, "command_calls_total", "Requests, by command."),
    (OfCommand::Errors, "command_errors_total", "Requests answered with an error, by command."),
    (OfCommand::UsSum, "command_duration_seconds_total", "Time from request to reply, by command."),
];

const REPLIES: &str = "Replies of instances that cannot serve, by group and cause.";
const BYTES_IN: &str = "Bytes read, by group.";
const BYTES_OUT: &str = "Bytes written, by group.";
const DURATION: &str = "Time between request sent and reply read, by group.";

/// Word, whether it is a gauge, name, cause, help.
const OF_GROUP: &[(OfGroup, bool, &str, &str, &str)] = &[
    (OfGroup::Requests, false, "group_requests_total", "", "Requests, by group."),
    (OfGroup::Errors, false, "group_errors_total", "", "Errors, by group."),
    (OfGroup::UsSum, false, "group_duration_seconds_total", "", DURATION),
    (OfGroup::LinkOpened, false, "group_links_opened_total", "", "Links opened, by group."),
    (OfGroup::LinkFailed, false, "group_links_failed_total", "", "Links failed, by group."),
    (OfGroup::RepliesLoading, false, "group_unfit_replies_total", "loading", REPLIES),
    (OfGroup::RepliesReadOnly, false, "group_unfit_replies_total", "readonly", REPLIES),
    (OfGroup::RepliesMasterDown, false, "group_unfit_replies_total", "masterdown", REPLIES),
    (OfGroup::BytesIn, false, "group_read_bytes_total", "", BYTES_IN),
    (OfGroup::BytesOut, false, "group_written_bytes_total", "", BYTES_OUT),
    (OfGroup::InFlight, true, "group_requests_in_flight", "", "Requests that wait for replies, by group."),
    (OfGroup::OutputBytes, true, "group_output_bytes", "", "Requests not written yet, by group."),
    (OfGroup::LinkUp, true, "group_links_up", "", "Workers whose link to the primary is usable, by group."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{COUNTERS as COUNTER_WORDS, GAUGES as GAUGE_WORDS};

    fn snapshot(pages: Vec<(Arc<SharedPage>, bool)>) -> Snapshot {
        Snapshot {
            pages,
            workers_live: 1,
            workers_wanted: 2,
            respawns: 3,
            reloads_ok: 4,
            reloads_failed: 5,
            uptime_s: 6.5,
            started_unix_s: 7.0,
            epoch: 8,
            epoch_served: 7,
            draining: false,
            membership: Some(MembershipNow {
                from_disk: true,
                reachable: false,
                beats_ok: 4,
                beats_failed: 2,
                last_beat_age_s: Some(1.5),
            }),
            workers: vec![WorkerNow { seat: 1, pid: std::process::id(), page: page() }],
            slot_count: 1000,
            buffer_memory_max: 2 << 30,
            primaries: vec![(9, "10.0.0.1:6379".into())],
        }
    }

    fn page() -> Arc<SharedPage> {
        let mut stats = Stats::default();
        stats.add(Counter::Requests, 5);
        stats.set(Gauge::Clients, 3);
        let get = command::lookup(b"get").expect("GET is a command");
        stats.add_of_command(get, OfCommand::Calls, 5);
        stats.add_of_command(get, OfCommand::UsSum, 2_000_000);
        let group = stats.group_entry(9).expect("room");
        stats.add_of_group(group, OfGroup::Requests, 4);
        stats.add_of_slot(999, 2);
        stats.observe(Histogram::Total, 3, 1);
        stats.observe(Histogram::Total, 100, 2);
        stats.observe(Histogram::Total, u64::MAX, 1);
        let (shared, _) = SharedPage::create().expect("memfd");
        shared.publish(0, stats.words());
        Arc::new(shared)
    }

    #[test]
    fn pages_are_summed_and_the_dead_have_no_gauges() {
        let text = render(&snapshot(vec![(page(), true), (page(), false)])).expect("text");
        for line in [
            "twemslot_proxy_requests_total 10",
            "twemslot_proxy_clients 3",
            "twemslot_proxy_command_calls_total{command=\"get\"} 10",
            "twemslot_proxy_command_duration_seconds_total{command=\"get\"} 4",
            "twemslot_proxy_group_requests_total{group=\"9\"} 8",
            "twemslot_proxy_group_unfit_replies_total{group=\"9\",cause=\"loading\"} 0",
            "twemslot_proxy_request_duration_seconds_bucket{le=\"0.000004\"} 2",
            "twemslot_proxy_request_duration_seconds_bucket{le=\"0.000128\"} 6",
            "twemslot_proxy_request_duration_seconds_bucket{le=\"+Inf\"} 8",
            "twemslot_proxy_request_duration_seconds_sum 4",
            "twemslot_proxy_reloads_total{result=\"failed\"} 5",
            "twemslot_proxy_topology_epoch 8",
            "twemslot_proxy_topology_from_disk 1",
            "twemslot_proxy_configsvr_reachable 0",
            "twemslot_proxy_beats_total{result=\"failed\"} 2",
            "twemslot_proxy_last_beat_age_seconds 1.5",
            "twemslot_proxy_worker_clients{worker=\"1\"} 3",
            "twemslot_proxy_worker_requests_total{worker=\"1\"} 5",
            "twemslot_proxy_group_primary{group=\"9\",addr=\"10.0.0.1:6379\"} 1",
            "twemslot_proxy_slot_range_requests_total{slots=\"0-61\"} 0",
            "twemslot_proxy_slot_range_requests_total{slots=\"937-999\"} 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn every_word_is_told_once() {
        let told: std::collections::BTreeSet<usize> = COUNTERS.iter().map(|c| c.0 as usize).collect();
        assert_eq!((told.len(), COUNTERS.len()), (COUNTER_WORDS - 1, COUNTER_WORDS - 1), "HeldUsSum is told apart");
        // Epochs and Draining are the master's to tell.
        assert_eq!(GAUGES.len(), GAUGE_WORDS - 3);
    }
}
