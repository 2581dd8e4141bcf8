//! What a benchmark measured, and the text that etcd's `tools/benchmark` makes of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use tonic::Status;

/// Latencies are kept in nanoseconds with this many exact digits, up to an hour.
const DIGITS: u8 = 3;
const NANOSECONDS_MAX: u64 = 3_600_000_000_000;
const PERCENTILES: [f64; 8] = [10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9];
const BUCKETS: u64 = 10;
const BAR_WIDTH: u64 = 40;

/// What all clients together saw.
pub(super) struct Measured {
    latencies: Histogram<u64>,
    refused: BTreeMap<String, u64>,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            latencies: Histogram::new_with_bounds(1, NANOSECONDS_MAX, DIGITS)
                .expect("the bounds are in order and three digits can be had"),
            refused: BTreeMap::new(),
        }
    }
}

impl Measured {
    pub(super) fn record(&mut self, answer: &Result<(), Status>, latency: Duration) {
        match answer {
            Ok(()) => self.answered(latency),
            Err(status) => self.refused(status),
        }
    }

    /// Counts what another client saw as well.
    pub(super) fn add(&mut self, other: Self) {
        self.latencies
            .add(other.latencies)
            .expect("both have the same bounds");
        for (error, count) in other.refused {
            *self.refused.entry(error).or_default() += count;
        }
    }

    fn answered(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanoseconds.max(1));
    }

    fn refused(&mut self, status: &Status) {
        *self
            .refused
            .entry(format!("{:?}: {}", status.code(), status.message()))
            .or_default() += 1;
    }
}

pub(super) struct Report {
    measured: Measured,
    total: Duration,
}

impl Report {
    pub(super) fn new(measured: Measured, total: Duration) -> Self {
        Self { measured, total }
    }

    /// etcd's words and layout; `precise` prints every digit.
    pub(super) fn text(&self, precise: bool) -> String {
        let mut text = String::new();
        if !self.measured.latencies.is_empty() {
            text += &self.summary(precise);
            text += &self.bars(precise);
            text += &self.percentiles(precise);
        }
        if !self.measured.refused.is_empty() {
            text += "\nError distribution:\n";
            for (error, count) in &self.measured.refused {
                let _ = writeln!(text, "  [{count}]\t{error}");
            }
        }
        text
    }

    fn summary(&self, precise: bool) -> String {
        let latencies = &self.measured.latencies;
        let seconds = |nanoseconds: f64| number(nanoseconds / 1e9, precise);
        let per_second = latencies.len() as f64 / self.total.as_secs_f64();
        format!(
            "\nSummary:\n  Total:\t{} secs.\n  Slowest:\t{} secs.\n  Fastest:\t{} secs.\n  Average:\t{} secs.\n  Stddev:\t{} secs.\n  Requests/sec:\t{}\n",
            number(self.total.as_secs_f64(), precise),
            seconds(latencies.max() as f64),
            seconds(latencies.min() as f64),
            seconds(latencies.mean()),
            seconds(latencies.stdev()),
            number(per_second, precise),
        )
    }

    fn bars(&self, precise: bool) -> String {
        let latencies = &self.measured.latencies;
        let (fastest, slowest) = (latencies.min(), latencies.max());
        let bound = |bucket: u64| fastest + (slowest - fastest) / BUCKETS * bucket;
        let bounds = (0..BUCKETS).map(bound).chain([slowest]);
        let mut below = 0;
        let counts: Vec<(u64, u64)> = bounds
            .map(|bound| {
                let up_to = latencies.count_between(0, bound).max(below);
                let count = up_to - below;
                below = up_to;
                (bound, count)
            })
            .collect();
        let greatest = counts
            .iter()
            .map(|(_, count)| *count)
            .max()
            .unwrap_or(0)
            .max(1);
        let mut text = String::from("\nResponse time histogram:\n");
        for (bound, count) in counts {
            let bar = "∎".repeat(usize::try_from(count * BAR_WIDTH / greatest).unwrap_or(0));
            let _ = writeln!(
                text,
                "  {} [{count}]\t|{bar}",
                number(bound as f64 / 1e9, precise)
            );
        }
        text
    }

    fn percentiles(&self, precise: bool) -> String {
        let mut text = String::from("\nLatency distribution:\n");
        for percentile in PERCENTILES {
            let nanoseconds = self
                .measured
                .latencies
                .value_at_quantile(percentile / 100.0);
            let _ = writeln!(
                text,
                "  {percentile}% in {} secs.",
                number(nanoseconds as f64 / 1e9, precise)
            );
        }
        text
    }
}

fn number(value: f64, precise: bool) -> String {
    if precise {
        value.to_string()
    } else {
        format!("{value:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_milliseconds(latencies: impl Iterator<Item = u64>) -> Report {
        let mut measured = Measured::default();
        latencies.for_each(|latency| measured.answered(Duration::from_millis(latency)));
        Report::new(measured, Duration::from_secs(2))
    }

    #[test]
    fn the_report_has_etcds_lines() {
        let text = of_milliseconds(1..=100).text(false);
        for line in [
            "Summary:",
            "  Total:\t2.0000 secs.",
            "  Requests/sec:\t50.0000",
            "  50% in 0.0500 secs.",
            "  99% in 0.099",
            "  99.9% in 0.1",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
        assert!(!text.contains("Error distribution"));
    }

    #[test]
    fn every_latency_lies_in_one_bar() {
        let text = of_milliseconds(1..=1_000).text(false);
        let counted: u64 = text
            .lines()
            .filter_map(|line| {
                line.split_once('[')?
                    .1
                    .split_once(']')?
                    .0
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        assert_eq!(counted, 1_000);
    }

    #[test]
    fn refusals_are_counted_by_their_text_and_not_as_latencies() {
        let mut measured = Measured::default();
        measured.refused(&Status::unavailable("etcdserver: no leader"));
        measured.refused(&Status::unavailable("etcdserver: no leader"));
        let text = Report::new(measured, Duration::from_secs(1)).text(false);
        assert_eq!(
            text,
            "\nError distribution:\n  [2]\tUnavailable: etcdserver: no leader\n"
        );
    }
}
