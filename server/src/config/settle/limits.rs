//! How many, how large, how long.

use std::time::Duration;

use super::super::Keepalive;
use super::super::mistake::Problem;
use super::Settling;

const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
const ELECTION_MS_MAX: u64 = 50_000;
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Settling<'_> {
    pub(super) fn at_least_one(&mut self, flag: &'static str, default: u64) -> u64 {
        let value = self.given.unsigned(flag).unwrap_or(default);
        if value == 0 {
            self.mistake(flag, Problem::Zero);
        }
        value
    }

    pub(super) fn size(&mut self, flag: &'static str, default: u64, most: u64) -> usize {
        let value = self.at_least_one(flag, default);
        if value > most {
            self.mistake(flag, Problem::TooLarge { most });
        }
        usize::try_from(value).unwrap_or(usize::MAX)
    }

    /// etcd takes a negative number, and then no learner.
    pub(super) fn learners(&self) -> usize {
        let most = self.given.signed("max-learners").unwrap_or(1);
        usize::try_from(most).unwrap_or(0)
    }

    pub(super) fn streams(&mut self) -> u32 {
        let most = u64::from(u32::MAX);
        let value = self.at_least_one("max-concurrent-streams", most);
        u32::try_from(value).unwrap_or_else(|_| {
            self.mistake("max-concurrent-streams", Problem::TooLarge { most });
            u32::MAX
        })
    }

    pub(in crate::config) fn duration(&self, flag: &'static str, default_ms: u64) -> Duration {
        self.given
            .duration(flag)
            .unwrap_or(Duration::from_millis(default_ms))
    }

    pub(super) fn quota(&self) -> Option<u64> {
        match self.given.signed("quota-backend-bytes").unwrap_or(0) {
            0 => Some(QUOTA_BYTES_DEFAULT),
            bytes => u64::try_from(bytes).ok(),
        }
    }

    pub(super) fn raft_times(&mut self) -> (Duration, Duration) {
        let heartbeat_ms = self.at_least_one("heartbeat-interval", 100);
        let election_ms = self.at_least_one("election-timeout", 1000);
        if heartbeat_ms != 0 && election_ms != 0 && heartbeat_ms.saturating_mul(5) > election_ms {
            let problem = Problem::ElectionTooShort {
                election_ms,
                heartbeat_ms,
            };
            self.mistake("election-timeout", problem);
        }
        if election_ms > ELECTION_MS_MAX {
            self.mistake("election-timeout", Problem::ElectionTooLong { election_ms });
        }
        (
            Duration::from_millis(heartbeat_ms),
            Duration::from_millis(election_ms),
        )
    }

    pub(super) fn keepalive(&self) -> Keepalive {
        let interval = self.duration("grpc-keepalive-interval", 2 * 60 * 60 * 1000);
        let timeout = self.duration("grpc-keepalive-timeout", 20_000);
        let on = !interval.is_zero() && !timeout.is_zero();
        Keepalive {
            interval: on.then_some(interval),
            timeout,
        }
    }

    /// 0 leaves it to gRPC, as in etcd.
    pub(super) fn client_ping_interval_min(&self) -> Duration {
        match self.duration("grpc-keepalive-min-time", 5_000) {
            Duration::ZERO => Duration::from_secs(5 * 60),
            interval => interval,
        }
    }

    pub(super) fn progress_interval(&mut self) -> Duration {
        let interval = self.duration("watch-progress-notify-interval", 600_000);
        if interval < PROGRESS_INTERVAL_MIN {
            let least = PROGRESS_INTERVAL_MIN;
            self.mistake(
                "watch-progress-notify-interval",
                Problem::TooShort { least },
            );
        }
        interval
    }
}
