//! Metrics for Prometheus, in its text format and in OpenMetrics.
//!
//! [`families`] has every metric with its help and labels: whoever renders, documents or tests
//! them reads it. All samples of a family stand together.

mod process;
mod servers;
#[cfg(test)]
mod tests;
mod text;

use crate::metrics::servers::Labelled;
use crate::metrics::text::Text;
use crate::status::{ServerStatus, Status, WorkerStatus};

/// A text format.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exposition {
    /// Prometheus text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// The content type, for HTTP.
    pub fn content_type(self) -> &'static str {
        match self {
            Exposition::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A metric with all its samples.
pub struct Family {
    /// The name. A counter's ends with `_total`.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What it says, in one sentence, with the unit.
    pub help: &'static str,
    /// The names of the labels, besides the `le` of a histogram.
    pub labels: &'static [&'static str],
    samples: Samples,
}

/// What the samples of a metric are.
enum Samples {
    /// One, which has no label.
    One(fn(&Status) -> u64),
    /// One of each worker that has it.
    EachWorker(fn(&WorkerStatus) -> Option<u64>),
    /// One of each server.
    EachServer(fn(&ServerStatus) -> u64),
    /// What this writes.
    Written(fn(&State<'_>, &mut Text)),
}

impl Family {
    /// A gauge with one sample.
    const fn gauge(name: &'static str, help: &'static str, value: fn(&Status) -> u64) -> Family {
        Family { name, kind: Kind::Gauge, help, labels: &[], samples: Samples::One(value) }
    }

    /// A counter with one sample.
    const fn counter(name: &'static str, help: &'static str, value: fn(&Status) -> u64) -> Family {
        Family { name, kind: Kind::Counter, help, labels: &[], samples: Samples::One(value) }
    }

    /// A metric whose samples have these labels, and are what this writes.
    const fn written(
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        write: fn(&State<'_>, &mut Text),
    ) -> Family {
        Family { name, kind, help, labels, samples: Samples::Written(write) }
    }

    /// A metric with a sample of each worker.
    const fn of_workers(
        kind: Kind,
        name: &'static str,
        help: &'static str,
        value: fn(&WorkerStatus) -> Option<u64>,
    ) -> Family {
        Family { name, kind, help, labels: process::LABELS, samples: Samples::EachWorker(value) }
    }

    /// A metric with a sample of each server.
    const fn of_servers(
        kind: Kind,
        name: &'static str,
        help: &'static str,
        value: fn(&ServerStatus) -> u64,
    ) -> Family {
        Family { name, kind, help, labels: servers::LABELS, samples: Samples::EachServer(value) }
    }
}

/// What the values of a metric are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A number that rises and falls.
    Gauge,
    /// A number that only grows.
    Counter,
    /// Always 1: the labels are the value.
    Info,
    /// A number for each range of durations, which only grows.
    Histogram,
}

impl Kind {
    /// The kind as one word.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Info => "info",
            Kind::Histogram => "histogram",
        }
    }
}

/// A state, with what all metrics of servers need.
struct State<'s> {
    status: &'s Status,
    servers: Vec<Labelled<'s>>,
}

/// All metrics, in the order in which they are rendered.
pub fn families() -> impl Iterator<Item = &'static Family> {
    process::FAMILIES.iter().chain(servers::FAMILIES)
}

/// The metrics of a state.
pub fn render(status: &Status, exposition: Exposition) -> String {
    let state = State { status, servers: servers::labelled(status) };
    let mut text = Text::new(exposition, state.servers.len());
    for family in families() {
        text.begin(family);
        match family.samples {
            Samples::One(value) => text.number("", value(status)),
            Samples::EachWorker(value) => process::each(status, value, &mut text),
            Samples::EachServer(value) => servers::each(&state, value, &mut text),
            Samples::Written(write) => write(&state, &mut text),
        }
    }
    text.finish()
}
