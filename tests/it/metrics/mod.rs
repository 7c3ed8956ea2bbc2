//! Metrics: what Prometheus and its tools make of them, and whether they are true
//! (docs/metrics.md).

mod counters;
mod examples;
mod histograms;
mod history;
mod scraper;
mod scripts;

use crate::harness::not_checked;
use std::process::Command;

/// Whether this machine has Prometheus and its tool.
fn needs_prometheus() -> bool {
    let runs = |program| Command::new(program).arg("--version").output().is_ok();
    let there = ["prometheus", "promtool"].into_iter().all(runs);
    if !there {
        not_checked("there is no prometheus (Debian's package prometheus)");
    }
    there
}
