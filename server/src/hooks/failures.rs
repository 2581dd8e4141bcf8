//! What to do about a batch that did not work.
//!
//! Promise: one change that a plugin cannot take is found, set aside and passed; a plugin that
//! keeps breaking down is stopped; nothing is tried in a tight loop.
//! Not known here: why it did not work, and what time it is: both are arguments.

use std::collections::VecDeque;
use std::time::Duration;

use plugins::Disposition;
use plugins::limits::BATCH_EVENTS_MAX;

/// Attempts at one batch before its change is looked for.
const ATTEMPTS_MAX: u32 = 5;
/// Breakdowns within the window that stop a plugin. Those of a search for one bad change do not
/// count: a search among 256 alone has eight.
const TRAPS_MAX: usize = 10;
const TRAPS_WINDOW: Duration = Duration::from_secs(600);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same batch again, after this long; jitter is the caller's.
    Retry(Duration),
    /// The first half of it, at once.
    Narrow,
    /// It is a single change, and this plugin will not have it.
    SetAside { attempts: u32 },
    /// Ten breakdowns in ten minutes.
    Suspend,
}

#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Of the batch at hand, as far as they were its own fault.
    attempts: u32,
    /// Deliveries of it that ended, whoever was at fault.
    waits: u32,
    /// While a bad change is looked for: among how many, and how many are delivered at once.
    search: Option<Search>,
    /// The size of a batch that is delivered again: it must not grow.
    again: Option<usize>,
    traps: VecDeque<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Search {
    suspects: usize,
    at_once: usize,
}

impl Failures {
    /// How many events the next batch may have.
    pub(super) fn events_max(&self) -> usize {
        let at_once = self.search.map_or(BATCH_EVENTS_MAX, |it| it.at_once);
        self.again.map_or(at_once, |again| again.min(at_once))
    }

    /// The number of the next delivery: 1 for the first.
    pub(super) fn next_attempt(&self) -> u32 {
        self.attempts.max(self.waits).saturating_add(1)
    }

    /// So many events worked. While a bad change is looked for it is among the others.
    pub(super) fn batch_done(&mut self, events: usize) {
        self.waits = 0;
        self.again = None;
        if let Some(search) = &mut self.search {
            search.suspects = search.suspects.saturating_sub(events);
            if search.suspects > 0 {
                return;
            }
        }
        self.start_afresh();
    }

    /// Batches are as large as ever.
    pub(super) fn start_afresh(&mut self) {
        let traps = std::mem::take(&mut self.traps);
        *self = Failures {
            traps,
            ..Failures::default()
        };
    }

    /// How long to wait when the server, and not the plugin, was at fault.
    pub(super) fn wait_for_server(&mut self) -> Duration {
        self.waits = self.waits.saturating_add(1);
        backoff(self.waits)
    }

    /// `parts`: into how many the batch can be cut; at `now` of a clock that never jumps.
    pub(super) fn plugin_failed(
        &mut self,
        disposition: Disposition,
        parts: usize,
        now: Duration,
    ) -> Verdict {
        match disposition {
            Disposition::Abandoned => Verdict::Retry(self.wait_for_server()),
            Disposition::Retry { after } => {
                self.waits = self.waits.saturating_add(1);
                self.again = Some(parts.max(1));
                Verdict::Retry(backoff(self.waits).max(after.unwrap_or_default()))
            }
            Disposition::Reject => {
                self.attempts = self.attempts.saturating_add(1);
                self.look_closer(parts)
            }
            Disposition::Fault => self.broke_down(parts, now),
        }
    }

    fn broke_down(&mut self, parts: usize, now: Duration) -> Verdict {
        self.attempts = self.attempts.saturating_add(1);
        if self.search.is_some() {
            return self.look_closer(parts);
        }
        self.traps.push_back(now);
        while self
            .traps
            .front()
            .is_some_and(|&first| now.saturating_sub(first) > TRAPS_WINDOW)
        {
            self.traps.pop_front();
        }
        if self.traps.len() >= TRAPS_MAX {
            return Verdict::Suspend;
        }
        if self.attempts >= ATTEMPTS_MAX {
            return self.look_closer(parts);
        }
        self.again = Some(parts.max(1));
        Verdict::Retry(backoff(self.attempts))
    }

    fn look_closer(&mut self, parts: usize) -> Verdict {
        self.waits = 0;
        self.again = None;
        if parts <= 1 {
            return Verdict::SetAside {
                attempts: self.attempts,
            };
        }
        self.search = Some(Search {
            suspects: parts,
            at_once: parts / 2,
        });
        Verdict::Narrow
    }
}

/// 1 s, 2 s, 4 s and so on, at most 30 s.
fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(5);
    (BACKOFF_MIN * 2_u32.pow(doublings)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    fn fault(failures: &mut Failures, parts: usize) -> Verdict {
        failures.plugin_failed(Disposition::Fault, parts, NOW)
    }

    #[test]
    fn a_rejected_batch_is_halved_until_one_change_is_left() {
        let mut failures = Failures::default();
        let mut parts = 256;
        let mut halvings = 0;
        loop {
            match failures.plugin_failed(Disposition::Reject, parts, NOW) {
                Verdict::Narrow => {
                    halvings += 1;
                    parts = failures.events_max();
                }
                verdict => {
                    assert_eq!(verdict, Verdict::SetAside { attempts: 9 });
                    break;
                }
            }
        }
        assert_eq!((halvings, parts), (8, 1));
        failures.start_afresh();
        assert_eq!(failures.events_max(), BATCH_EVENTS_MAX);
        assert_eq!(failures.next_attempt(), 1);
    }

    #[test]
    fn a_part_that_works_does_not_end_the_search() {
        let mut failures = Failures::default();
        failures.plugin_failed(Disposition::Reject, 8, NOW);
        failures.batch_done(4);
        assert_eq!(failures.events_max(), 4);
        failures.batch_done(4);
        assert_eq!(
            failures.events_max(),
            BATCH_EVENTS_MAX,
            "it worked after all"
        );
    }

    #[test]
    fn a_batch_that_is_delivered_again_does_not_grow() {
        let mut failures = Failures::default();
        fault(&mut failures, 3);
        assert_eq!(failures.events_max(), 3);
        failures.batch_done(3);
        assert_eq!(failures.events_max(), BATCH_EVENTS_MAX);
    }

    #[test]
    fn a_breakdown_is_tried_five_times_before_its_change_is_looked_for() {
        let mut failures = Failures::default();
        let waits = [1, 2, 4, 8].map(Duration::from_secs);
        for wait in waits {
            assert_eq!(fault(&mut failures, 2), Verdict::Retry(wait));
        }
        assert_eq!(failures.next_attempt(), 5);
        assert_eq!(fault(&mut failures, 2), Verdict::Narrow);
        assert_eq!(fault(&mut failures, 1), Verdict::SetAside { attempts: 6 });
    }

    #[test]
    fn ten_breakdowns_in_ten_minutes_suspend() {
        let mut failures = Failures::default();
        for _ in 0..9 {
            assert_ne!(fault(&mut failures, 1), Verdict::Suspend);
            failures.start_afresh();
        }
        assert_eq!(fault(&mut failures, 1), Verdict::Suspend);
        let later = NOW + TRAPS_WINDOW + Duration::from_secs(1);
        let verdict = failures.plugin_failed(Disposition::Fault, 1, later);
        assert_ne!(verdict, Verdict::Suspend, "the others are forgotten");
    }

    #[test]
    fn a_plugin_that_asks_to_be_called_again_is_as_often_as_it_wants() {
        let mut failures = Failures::default();
        let after = Some(Duration::from_secs(60));
        for _ in 0..100 {
            let verdict = failures.plugin_failed(Disposition::Retry { after: None }, 1, NOW);
            assert!(matches!(verdict, Verdict::Retry(wait) if wait <= BACKOFF_MAX));
        }
        let verdict = failures.plugin_failed(Disposition::Retry { after }, 1, NOW);
        assert_eq!(verdict, Verdict::Retry(Duration::from_secs(60)));
        assert_eq!(failures.next_attempt(), 102);
    }
}
