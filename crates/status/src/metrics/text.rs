//! The writing of samples. It is called some ten thousand times for a thousand servers, and so
//! formats numbers without `std::fmt`.

use crate::histogram::{Bounds, Histogram};
use crate::metrics::{Exposition, Family, Kind};

/// The text so far.
pub(super) struct Text {
    exposition: Exposition,
    text: String,
    /// The name of the present family.
    name: &'static str,
    /// The head of the present family, until its first sample.
    head: Option<&'static Family>,
}

impl Text {
    /// An empty text that will have so many servers.
    pub(super) fn new(exposition: Exposition, servers: usize) -> Text {
        let text = String::with_capacity(16_384 + servers * 8192);
        Text { exposition, text, name: "", head: None }
    }

    /// Begins a family. One without samples leaves nothing behind.
    pub(super) fn begin(&mut self, family: &'static Family) {
        (self.name, self.head) = (family.name, Some(family));
    }

    /// A sample with a whole number. `labels` are as [`label`] makes them, or empty.
    pub(super) fn number(&mut self, labels: &str, value: u64) {
        self.sample("", labels, "", |text| push_number(text, value));
    }

    /// A sample with a moment, in seconds since 1970.
    pub(super) fn moment(&mut self, labels: &str, unix: i64) {
        self.sample("", labels, "", |text| {
            if unix < 0 {
                text.push('-');
            }
            push_number(text, unix.unsigned_abs());
        });
    }

    /// A sample with a duration of so many microseconds, in seconds.
    pub(super) fn seconds(&mut self, labels: &str, micros: u64) {
        self.sample("", labels, "", |text| push_seconds(text, micros));
    }

    /// The samples of a histogram; `les` has the label of each bucket ([`les`]).
    pub(super) fn histogram(&mut self, labels: &str, les: &[String], histogram: &Histogram) {
        let mut below = 0_u64;
        for (le, bucket) in les.iter().zip(histogram.buckets) {
            below = below.saturating_add(bucket);
            self.sample("_bucket", labels, le, |text| push_number(text, below));
        }
        self.sample("_sum", labels, "", |text| push_seconds(text, histogram.sum));
        self.sample("_count", labels, "", |text| push_number(text, below));
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> String {
        match self.exposition {
            Exposition::Prometheus => {}
            Exposition::OpenMetrics => self.text.push_str("# EOF\n"),
        }
        self.text
    }

    fn sample(&mut self, suffix: &str, labels: &str, more: &str, value: impl FnOnce(&mut String)) {
        if let Some(family) = self.head.take() {
            self.head(family);
        }
        let text = &mut self.text;
        text.push_str(self.name);
        text.push_str(suffix);
        if !(labels.is_empty() && more.is_empty()) {
            text.push('{');
            text.push_str(labels);
            if !(labels.is_empty() || more.is_empty()) {
                text.push(',');
            }
            text.push_str(more);
            text.push('}');
        }
        text.push(' ');
        value(text);
        text.push('\n');
    }

    fn head(&mut self, family: &Family) {
        let (name, kind) = match self.exposition {
            Exposition::Prometheus => (family.name, prometheus_kind(family.kind)),
            Exposition::OpenMetrics => open_metrics_head(family),
        };
        for (what, value) in [("TYPE", kind), ("UNIT", self.unit(name)), ("HELP", family.help)] {
            if !value.is_empty() {
                for part in ["# ", what, " ", name, " ", value, "\n"] {
                    self.text.push_str(part);
                }
            }
        }
    }

    /// The unit of a family, which is the end of its name; none in the other format.
    fn unit(&self, name: &str) -> &'static str {
        match self.exposition {
            Exposition::Prometheus => "",
            Exposition::OpenMetrics => {
                let is_unit =
                    |unit: &&str| name.strip_suffix(*unit).is_some_and(|rest| rest.ends_with('_'));
                ["seconds", "bytes"].into_iter().find(is_unit).unwrap_or("")
            }
        }
    }
}

/// Prometheus has no type for information.
fn prometheus_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Gauge | Kind::Info => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
    }
}

/// The name of a family in OpenMetrics, and its type. The name of a counter and of information
/// lacks the end that its samples have. Where a gauge has that name, the counter keeps its own, and
/// has no type.
fn open_metrics_head(family: &Family) -> (&'static str, &'static str) {
    let is_taken = |name: &str| super::families().any(|other| other.name == name);
    let (name, kind) = (family.name, family.kind);
    match kind {
        Kind::Gauge | Kind::Histogram => (name, kind.name()),
        Kind::Info => (name.strip_suffix("_info").unwrap_or(name), kind.name()),
        Kind::Counter => match name.strip_suffix("_total").filter(|short| !is_taken(short)) {
            Some(short) => (short, kind.name()),
            None => (name, "unknown"),
        },
    }
}

/// A label as it stands in a sample.
pub(super) fn label(name: &str, value: &str) -> String {
    let mut label = String::with_capacity(name.len() + value.len() + 3);
    label.push_str(name);
    label.push_str("=\"");
    for letter in value.chars() {
        match letter {
            '\\' => label.push_str("\\\\"),
            '"' => label.push_str("\\\""),
            '\n' => label.push_str("\\n"),
            letter => label.push(letter),
        }
    }
    label.push('"');
    label
}

/// The labels of all buckets, in their order.
pub(super) fn les(bounds: &Bounds) -> Vec<String> {
    let bounds = bounds.iter().map(|bound| label("le", &canonical(*bound)));
    bounds.chain([label("le", "+Inf")]).collect()
}

/// A bound of so many microseconds, in seconds, as OpenMetrics writes it: `2e-05`, `0.001`, `1.0`.
fn canonical(micros: u64) -> String {
    match micros {
        // Not more than a digit: there are no finer bounds.
        ..100 => format!("{}e-05", micros / 10),
        _ => {
            let mut text = String::new();
            push_seconds(&mut text, micros);
            if !text.contains('.') {
                text.push_str(".0");
            }
            text
        }
    }
}

fn push_number(text: &mut String, value: u64) {
    // 2^64 has twenty digits.
    let mut digits = [0_u8; 20];
    let (mut first, mut rest) = (digits.len(), value);
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text.extend(digits[first..].iter().map(|digit| char::from(*digit)));
}

fn push_seconds(text: &mut String, micros: u64) {
    push_number(text, micros / 1_000_000);
    let mut rest = micros % 1_000_000;
    if rest == 0 {
        return;
    }
    text.push('.');
    let mut unit = 100_000;
    while rest > 0 {
        text.push(char::from(b'0' + (rest / unit) as u8));
        (rest, unit) = (rest % unit, unit / 10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::{CONNECT, LENGTH};

    #[test]
    fn numbers_are_exact() {
        for number in [0, 7, 10, 1_234_567, u64::MAX] {
            let mut text = String::new();
            push_number(&mut text, number);
            assert_eq!(text, number.to_string());
        }
        let seconds = [0, 1, 20, 1_500_000, 60_000_000, 1_000_001, u64::MAX].map(|micros| {
            let mut text = String::new();
            push_seconds(&mut text, micros);
            text
        });
        let expected =
            ["0", "0.000001", "0.00002", "1.5", "60", "1.000001", "18446744073709.551615"];
        assert_eq!(seconds, expected);
    }

    #[test]
    fn bounds_are_the_numbers_that_they_mean() {
        for bounds in [&CONNECT, &LENGTH] {
            for bound in bounds {
                let text = canonical(*bound);
                let seconds: f64 = text.parse().unwrap();
                assert_eq!((seconds * 1e6).round() as u64, *bound, "{text}");
            }
        }
        let some = [CONNECT[0], CONNECT[2], CONNECT[14], LENGTH[22]].map(canonical);
        assert_eq!(some, ["2e-05", "0.0001", "1.0", "20000.0"]);
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("address", "a\"b\\c\nd\u{e9}"), r#"address="a\"b\\c\ndé""#);
    }
}
