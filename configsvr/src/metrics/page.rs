//! One answer to Prometheus while it is written: families of metrics, one after the other.

use prometheus::proto;

/// Names and values of labels.
pub(super) type Labels<'a> = [(&'a str, &'a str)];

/// What has been written so far.
#[derive(Default)]
pub(super) struct Page {
    pub(super) families: Vec<proto::MetricFamily>,
}

impl Page {
    /// A value that goes up and down. Values of one name are given one after the other.
    pub(super) fn gauge(&mut self, name: &str, help: &str, labels: &Labels<'_>, value: f64) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.add(proto::MetricType::GAUGE, name, help, metric);
    }

    /// A value that only grows, while the process that it is of lives.
    pub(super) fn count(&mut self, name: &str, help: &str, labels: &Labels<'_>, value: f64) {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.add(proto::MetricType::COUNTER, name, help, metric);
    }

    /// A gauge without labels that is a truth.
    pub(super) fn flag(&mut self, name: &str, help: &str, truth: bool) {
        self.gauge(name, help, &[], f64::from(u8::from(truth)));
    }

    fn add(&mut self, kind: proto::MetricType, name: &str, help: &str, metric: proto::Metric) {
        let name = super::full(name);
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
}

fn labelled(labels: &Labels<'_>) -> proto::Metric {
    let label = |&(name, value): &(&str, &str)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name(name.into());
        pair.set_value(value.into());
        pair
    };
    proto::Metric::from_label(labels.iter().map(label).collect())
}
