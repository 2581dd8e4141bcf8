//! What one call may ask of the host: the imports of the contract, granted and counted.
//!
//! Promise: a request that leaves the plugin's prefixes or its budget never reaches the
//! server.

use std::sync::Arc;

use wasmtime::component::Resource;

use crate::budget::{LogBudget, Series};
use crate::contract::{NoSecret, config, kv, lease, logging, metrics, secrets, shorten, types};
use crate::host_calls::{HostCalls, LogLine, Metric, MetricValue, RangeRequest};
use crate::instance::State;
use crate::limits::{
    LOG_CONTEXT_BYTES_MAX, LOG_MESSAGE_BYTES_MAX, Limits, METRIC_LABELS_MAX, METRIC_TEXT_BYTES_MAX,
    RANGE_BYTES_MAX, RANGE_ROWS_MAX,
};
use crate::manifest::{Manifest, Settings};

/// The budgets that outlive a call: a plugin's log rate and its metric series.
#[derive(Debug)]
pub(crate) struct Budgets {
    log: LogBudget,
    series: Series,
}

impl Budgets {
    pub(crate) fn new(limits: &Limits) -> Budgets {
        Budgets {
            log: LogBudget::new(limits.log_lines_per_second),
            series: Series::default(),
        }
    }
}

pub(crate) struct Capabilities {
    /// `None` while nothing is granted.
    manifest: Option<Arc<Manifest>>,
    settings: Settings,
    server: Arc<dyn HostCalls>,
    budgets: Arc<Budgets>,
    calls_max: u32,
    calls: u32,
    log_lines_dropped: u32,
}

/// The guest made more host calls than it may; what it gets is a trap.
#[derive(Debug, thiserror::Error)]
#[error("too many host calls")]
struct TooManyHostCalls;

impl Capabilities {
    pub(crate) fn granted(
        manifest: Arc<Manifest>,
        server: Arc<dyn HostCalls>,
        budgets: Arc<Budgets>,
    ) -> Capabilities {
        Capabilities {
            settings: manifest.settings().clone(),
            calls_max: manifest.limits().host_calls,
            manifest: Some(manifest),
            server,
            budgets,
            calls: 0,
            log_lines_dropped: 0,
        }
    }

    /// No reads, no grants; log lines go to `server`.
    pub(crate) fn none(settings: Settings, server: Arc<dyn HostCalls>) -> Capabilities {
        let limits = Limits::lifecycle();
        Capabilities {
            manifest: None,
            settings,
            server,
            budgets: Arc::new(Budgets::new(&limits)),
            calls_max: limits.host_calls,
            calls: 0,
            log_lines_dropped: 0,
        }
    }

    pub(crate) fn host_calls(&self) -> u32 {
        self.calls.min(self.calls_max)
    }

    pub(crate) fn host_calls_exceeded(&self) -> bool {
        self.calls > self.calls_max
    }

    pub(crate) fn log_lines_dropped(&self) -> u32 {
        self.log_lines_dropped
    }

    /// Past the budgets of the guest: for lines the host adds.
    pub(crate) fn log(&self, line: LogLine) {
        self.server.log(line);
    }

    fn count(&mut self) -> wasmtime::Result<()> {
        self.calls = self.calls.saturating_add(1);
        if self.host_calls_exceeded() {
            return Err(wasmtime::Error::new(TooManyHostCalls));
        }
        Ok(())
    }

    fn read(&self, asked: kv::RangeRequest) -> Result<RangeRequest, kv::Error> {
        let manifest = self.manifest.as_ref().ok_or(kv::Error::PermissionDenied)?;
        if asked.key.is_empty() {
            return Err(kv::Error::InvalidArgument("empty key".to_owned()));
        }
        if asked.revision < 0 {
            return Err(kv::Error::InvalidArgument("negative revision".to_owned()));
        }
        if !manifest.may_read(&asked.key, &asked.range_end) {
            return Err(kv::Error::PermissionDenied);
        }
        Ok(RangeRequest {
            key: asked.key,
            range_end: asked.range_end,
            rows_max: match asked.limit {
                0 => RANGE_ROWS_MAX,
                limit => limit.min(RANGE_ROWS_MAX),
            },
            bytes_max: RANGE_BYTES_MAX,
            revision: asked.revision,
            keys_only: asked.keys_only || manifest.keys_only(),
        })
    }

    fn metric(&mut self, name: String, labels: metrics::Labels, value: MetricValue) {
        if metric_name(&name)
            && labels.len() <= METRIC_LABELS_MAX
            && labels
                .iter()
                .all(|(label, text)| metric_name(label) && text.len() <= METRIC_TEXT_BYTES_MAX)
            && self.budgets.series.admit(&name, &labels)
        {
            self.server.metric(Metric {
                name,
                labels,
                value,
            });
        }
    }
}

/// Prometheus's alphabet, without the colon that is kept for rules.
fn metric_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.len() <= METRIC_TEXT_BYTES_MAX
        && name.bytes().next().is_some_and(letter)
        && name
            .bytes()
            .all(|byte| letter(byte) || byte.is_ascii_digit())
}

impl types::Host for State {}

impl kv::Host for State {
    async fn range(
        &mut self,
        asked: kv::RangeRequest,
    ) -> wasmtime::Result<Result<kv::RangeResponse, kv::Error>> {
        self.capabilities.count()?;
        let request = match self.capabilities.read(asked) {
            Ok(request) => request,
            Err(refused) => return Ok(Err(refused)),
        };
        let answer = self.capabilities.server.range(request).await;
        Ok(answer.map(Into::into).map_err(Into::into))
    }
}

impl lease::Host for State {
    async fn time_to_live(&mut self, id: i64) -> wasmtime::Result<Result<i64, kv::Error>> {
        self.capabilities.count()?;
        if self.capabilities.manifest.is_none() {
            return Ok(Err(kv::Error::PermissionDenied));
        }
        let answer = self.capabilities.server.time_to_live(id).await;
        Ok(answer.map_err(Into::into))
    }
}

impl logging::Host for State {
    async fn log(
        &mut self,
        level: logging::Level,
        context: String,
        message: String,
    ) -> wasmtime::Result<()> {
        self.capabilities.count()?;
        if !self.capabilities.budgets.log.take() {
            self.capabilities.log_lines_dropped += 1;
            return Ok(());
        }
        self.capabilities.log(LogLine {
            level: level.into(),
            context: shorten(context, LOG_CONTEXT_BYTES_MAX),
            message: shorten(message, LOG_MESSAGE_BYTES_MAX),
        });
        Ok(())
    }
}

impl metrics::Host for State {
    async fn counter_add(
        &mut self,
        name: String,
        delta: u64,
        labels: metrics::Labels,
    ) -> wasmtime::Result<()> {
        self.capabilities.count()?;
        self.capabilities
            .metric(name, labels, MetricValue::CounterAdd(delta));
        Ok(())
    }

    async fn gauge_set(
        &mut self,
        name: String,
        value: f64,
        labels: metrics::Labels,
    ) -> wasmtime::Result<()> {
        self.capabilities.count()?;
        self.capabilities
            .metric(name, labels, MetricValue::GaugeSet(value));
        Ok(())
    }

    async fn histogram_observe(
        &mut self,
        name: String,
        value: f64,
        labels: metrics::Labels,
    ) -> wasmtime::Result<()> {
        self.capabilities.count()?;
        self.capabilities
            .metric(name, labels, MetricValue::HistogramObserve(value));
        Ok(())
    }
}

impl config::Host for State {
    async fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.capabilities.count()?;
        Ok(self.capabilities.settings.members().get(&key).cloned())
    }

    async fn get_all(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        self.capabilities.count()?;
        let members = self.capabilities.settings.members();
        Ok(members
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
}

impl secrets::Host for State {
    async fn get(
        &mut self,
        _name: String,
    ) -> wasmtime::Result<Result<Resource<NoSecret>, secrets::Error>> {
        self.capabilities.count()?;
        Ok(Err(secrets::Error::Denied))
    }
}

impl secrets::HostSecret for State {
    async fn reveal(&mut self, secret: Resource<NoSecret>) -> wasmtime::Result<Vec<u8>> {
        self.capabilities.count()?;
        match *self.resources.get(&secret)? {}
    }

    async fn drop(&mut self, secret: Resource<NoSecret>) -> wasmtime::Result<()> {
        match self.resources.delete(secret)? {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_keep_to_prometheus_alphabet() {
        for good in ["a", "_a1", "http_requests_total"] {
            assert!(metric_name(good), "{good}");
        }
        for bad in ["", "1a", "a-b", "a:b", "é", &"a".repeat(65)] {
            assert!(!metric_name(bad), "{bad}");
        }
    }
}
