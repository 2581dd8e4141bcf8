//! What is counted about plugins, for `/metrics`.
//!
//! Promise: no label and no number tells of a value; a plugin that is not delivered to here any
//! more has no gauges here.

use std::sync::LazyLock;
use std::time::Duration;

use plugins::{CallError, Disposition, Usage};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

struct Families {
    calls: IntCounterVec,
    seconds: HistogramVec,
    traps: IntCounterVec,
    memory_bytes: IntGaugeVec,
    lag_revisions: IntGaugeVec,
    effects: IntCounterVec,
    puts_dropped: IntCounterVec,
    dead_letters: IntCounterVec,
    log_lines: IntCounterVec,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| Families {
    calls: counters(
        "sealkv_plugin_calls_total",
        "Batches handed to a plugin, by what came of them.",
        &["plugin", "result"],
    ),
    seconds: registered(
        HistogramVec::new(
            HistogramOpts::new(
                "sealkv_plugin_call_duration_seconds",
                "How long a plugin worked on a batch.",
            )
            .buckets(
                prometheus::exponential_buckets(0.000_05, 2.0, 18)
                    .expect("the start and the factor are positive"),
            ),
            &["plugin"],
        )
        .expect("the family is well-formed"),
    ),
    traps: counters(
        "sealkv_plugin_traps_total",
        "Calls in which a plugin broke down.",
        &["plugin"],
    ),
    memory_bytes: gauges(
        "sealkv_plugin_memory_bytes",
        "Linear memory that the last call held at most.",
    ),
    lag_revisions: gauges(
        "sealkv_plugin_lag_revisions",
        "Revisions between what a plugin has been given and the store.",
    ),
    effects: counters(
        "sealkv_plugin_effects_total",
        "Writes that plugins returned and that were committed.",
        &["plugin"],
    ),
    puts_dropped: counters(
        "sealkv_plugin_puts_dropped_total",
        "Writes left out because their lease was gone.",
        &["plugin"],
    ),
    dead_letters: counters(
        "sealkv_plugin_dead_letters_total",
        "Changes that a plugin would not have.",
        &["plugin"],
    ),
    log_lines: counters(
        "sealkv_plugin_log_lines_total",
        "Lines that a plugin logged.",
        &["plugin", "level"],
    ),
});

fn registered<C: prometheus::core::Collector + Clone + 'static>(family: C) -> C {
    prometheus::default_registry()
        .register(Box::new(family.clone()))
        .expect("every family is registered once");
    family
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels).expect("it is well-formed"))
}

fn gauges(name: &str, help: &str) -> IntGaugeVec {
    registered(IntGaugeVec::new(Opts::new(name, help), &["plugin"]).expect("it is well-formed"))
}

/// Of one plugin.
#[derive(Clone)]
pub(super) struct Meters {
    name: String,
    traps: IntCounter,
    memory_bytes: IntGauge,
    lag_revisions: IntGauge,
}

impl Meters {
    pub(super) fn of(name: &str) -> Self {
        Meters {
            name: name.to_owned(),
            traps: FAMILIES.traps.with_label_values(&[name]),
            memory_bytes: FAMILIES.memory_bytes.with_label_values(&[name]),
            lag_revisions: FAMILIES.lag_revisions.with_label_values(&[name]),
        }
    }

    pub(super) fn call(&self, result: Result<(), &CallError>, usage: Usage) {
        let name = &self.name[..];
        let disposition = result.map_err(CallError::disposition);
        let said = match disposition {
            Ok(()) => "ok",
            Err(Disposition::Retry { .. }) => "retry",
            Err(Disposition::Reject) => "reject",
            Err(Disposition::Fault) => "fault",
            Err(Disposition::Abandoned) => "abandoned",
        };
        FAMILIES.calls.with_label_values(&[name, said]).inc();
        let seconds = FAMILIES.seconds.with_label_values(&[name]);
        seconds.observe(Duration::as_secs_f64(&usage.duration));
        if disposition == Err(Disposition::Fault) {
            self.traps.inc();
        }
        let bytes = i64::try_from(usage.memory_bytes).unwrap_or(i64::MAX);
        self.memory_bytes.set(bytes);
    }

    pub(super) fn lag(&self, revisions: i64) {
        self.lag_revisions.set(revisions);
    }

    pub(super) fn committed(&self, effects: u64, puts_dropped: u64, dead_letters: u64) {
        let name = &self.name[..];
        let effects_kept = effects.saturating_sub(puts_dropped);
        FAMILIES
            .effects
            .with_label_values(&[name])
            .inc_by(effects_kept);
        FAMILIES
            .puts_dropped
            .with_label_values(&[name])
            .inc_by(puts_dropped);
        FAMILIES
            .dead_letters
            .with_label_values(&[name])
            .inc_by(dead_letters);
    }

    pub(super) fn log_line(&self, level: &str) {
        FAMILIES
            .log_lines
            .with_label_values(&[&self.name[..], level])
            .inc();
    }

    /// It is not delivered to here any more; counters stay, gauges go.
    pub(super) fn end(&self) {
        // Gone already is as good.
        let _ = FAMILIES.memory_bytes.remove_label_values(&[&self.name]);
        let _ = FAMILIES.lag_revisions.remove_label_values(&[&self.name]);
    }
}
