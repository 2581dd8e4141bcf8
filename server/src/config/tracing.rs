//! Where spans of clients' calls are sent, if anywhere.
//!
//! Source: etcd 3.7.1, `server/embed/config_tracing.go`.

use super::mistake::Problem;
use super::settle::Settling;

/// What a rate of samples is out of.
pub const SAMPLES_PER: u32 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// Host and port of a collector.
    pub address: String,
    pub service_name: String,
    pub instance_id: Option<String>,
    /// Of the calls whose client has not decided by itself; at most [`SAMPLES_PER`].
    pub samples_per_million: u32,
}

impl Settling<'_> {
    /// As in etcd, the other flags are not looked at while tracing is off.
    pub(super) fn tracing(&mut self) -> Option<Tracing> {
        if !self
            .given
            .bool("enable-distributed-tracing")
            .unwrap_or(false)
        {
            return None;
        }
        let text = |flag, default: &str| self.given.text(flag).unwrap_or(default).to_owned();
        let address = text("distributed-tracing-address", "localhost:4317");
        let service_name = text("distributed-tracing-service-name", "etcd");
        let instance_id = text("distributed-tracing-instance-id", "");
        let rate = self.given.signed("distributed-tracing-sampling-rate");
        let rate = u32::try_from(rate.unwrap_or(0));
        let samples_per_million = match rate {
            Ok(rate) if rate <= SAMPLES_PER => rate,
            Ok(_) => {
                let most = u64::from(SAMPLES_PER);
                self.mistake(
                    "distributed-tracing-sampling-rate",
                    Problem::TooLarge { most },
                );
                0
            }
            Err(_) => {
                self.mistake("distributed-tracing-sampling-rate", Problem::Unsigned);
                0
            }
        };
        Some(Tracing {
            address,
            service_name,
            instance_id: Some(instance_id).filter(|id| !id.is_empty()),
            samples_per_million,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, asking};

    fn ask(arguments: &[&str]) -> Result<Config, String> {
        asking::ask(arguments).map_err(|error| error.mistakes()[0].to_string())
    }

    #[test]
    fn the_rate_is_looked_at_once_tracing_is_on() {
        let wrong = "--distributed-tracing-sampling-rate=1000001";
        assert_eq!(ask(&[wrong]).unwrap().tracing, None);
        assert_eq!(
            ask(&["--enable-distributed-tracing", wrong]).unwrap_err(),
            "--distributed-tracing-sampling-rate: must be at most 1000000"
        );
        let config = ask(&["--enable-distributed-tracing"]).unwrap();
        assert_eq!(config.tracing.unwrap().samples_per_million, 0);
    }
}
