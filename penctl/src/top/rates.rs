//! What happens per second, from the counters of the last few reports.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::overview::{Overview, Slot};

/// The counters of the last few seconds. Workers report their counters once a second, so the
/// difference of two reports alone would jump.
#[derive(Debug, Default)]
pub struct Rates {
    samples: VecDeque<Sample>,
}

/// The time that rates are the mean of.
const WINDOW: Duration = Duration::from_secs(3);

/// The counters of one report.
#[derive(Debug)]
struct Sample {
    at: Instant,
    uptime: Option<u64>,
    accepted: Option<u64>,
    servers: HashMap<Slot, Totals>,
    /// Processor time in milliseconds, by the number of the worker.
    busy: HashMap<u64, u64>,
}

/// The counters of a server.
#[derive(Clone, Copy, Debug)]
struct Totals {
    connections: Option<u64>,
    sent: u64,
    received: u64,
}

impl Rates {
    /// Takes a report that arrived at this moment.
    pub fn take(&mut self, at: Instant, overview: &Overview) {
        let servers = overview.servers.iter().map(|server| {
            let totals =
                Totals { connections: server.total, sent: server.sent, received: server.received };
            (server.slot, totals)
        });
        let busy = overview.worker_list.iter().map(|worker| (worker.number, worker.busy));
        let sample = Sample {
            at,
            uptime: overview.uptime,
            accepted: overview.accepted,
            servers: servers.collect(),
            busy: busy.collect(),
        };
        // Another pen answers: its counters have nothing to do with those before.
        if self.samples.back().is_some_and(|last| last.uptime > sample.uptime) {
            self.samples.clear();
        }
        self.samples.push_back(sample);
        while self.samples.len() > 2 && self.samples[1].at + WINDOW <= at {
            self.samples.pop_front();
        }
    }

    /// Forgets all reports.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// Clients accepted per second.
    pub fn accepted(&self) -> Option<f64> {
        self.per_second(|sample| sample.accepted)
    }

    /// New connections of a server per second.
    pub fn connections(&self, slot: Slot) -> Option<f64> {
        self.per_second(|sample| sample.servers.get(&slot)?.connections)
    }

    /// Bytes per second to a server, and from it.
    pub fn bytes(&self, slot: Slot) -> Option<(f64, f64)> {
        let sent = self.per_second(|sample| Some(sample.servers.get(&slot)?.sent))?;
        Some((sent, self.per_second(|sample| Some(sample.servers.get(&slot)?.received))?))
    }

    /// The share of a processor that a worker uses.
    pub fn busy(&self, worker: u64) -> Option<f64> {
        self.per_second(|sample| sample.busy.get(&worker).copied()).map(|busy| busy / 1000.0)
    }

    /// The growth of a counter per second. `None`: it is not known, or it fell.
    fn per_second(&self, counter: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        let growth = counter(last)?.checked_sub(counter(first)?)?;
        (seconds > 0.0).then(|| growth as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_mean_of_some_seconds() {
        let begin = Instant::now();
        let mut rates = Rates::default();
        let mut report = |second: u64, uptime: u64, accepted: u64| {
            let overview =
                Overview { uptime: Some(uptime), accepted: Some(accepted), ..Overview::default() };
            rates.take(begin + Duration::from_secs(second), &overview);
            (rates.accepted(), rates.samples.len())
        };
        assert_eq!(report(0, 10, 100), (None, 1));
        assert_eq!(report(1, 11, 100), (Some(0.0), 2));
        assert_eq!(report(2, 12, 130), (Some(15.0), 3));
        assert_eq!(report(3, 13, 130), (Some(10.0), 4));
        assert_eq!(report(4, 14, 160), (Some(20.0), 4), "the first is too old");
        assert_eq!(report(5, 0, 3), (None, 1), "another pen");
        assert_eq!(report(6, 1, 5).0, Some(2.0));
        assert_eq!(report(7, 2, 2).0, None, "a counter that fell has no rate");
    }
}
