//! Who has failed to authenticate must wait before it may try again.
//!
//! Promise: the wait doubles with every failure and is bounded, per user and per source, whether
//! the user exists or not; what is remembered is bounded too. A user whom others attack waits, and
//! is never locked out; a source that tries on while it should wait is refused.
//! Not known here: clocks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Failures that cost nothing: people mistype.
const FREE_OF_USER: u32 = 5;
/// Many users may share an address.
const FREE_OF_SOURCE: u32 = 50;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Without a failure for as long everything is forgotten.
const MEMORY: Duration = Duration::from_secs(600);
const REMEMBERED_MAX: usize = 8192;
/// A source with as much waiting before it does not get in line.
const LINE_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Source(IpAddr),
}

#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u32,
    last: Duration,
    /// No try before this.
    not_before: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: HashMap<Who, Failures>,
}

/// The source has more tries in line than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineFull;

fn both(user: &str, source: Option<IpAddr>) -> impl Iterator<Item = Who> {
    [Some(Who::User(user.to_owned())), source.map(Who::Source)]
        .into_iter()
        .flatten()
}

impl Backoff {
    /// How long to wait before this try; it counts as a failure until it succeeds.
    pub(super) fn begin(
        &mut self,
        user: &str,
        source: Option<IpAddr>,
        now: Duration,
    ) -> Result<Duration, LineFull> {
        self.make_room(now);
        let line = source.map_or(Duration::ZERO, |it| self.wait(&Who::Source(it), now));
        if line > LINE_MAX {
            return Err(LineFull);
        }
        let of_user = self.wait(&Who::User(user.to_owned()), now);
        let wait = line.max(of_user.min(WAIT_MAX));
        for who in both(user, source) {
            // Tries of one source follow each other; those of a user come from many sources.
            let (free, from) = match who {
                Who::User(_) => (FREE_OF_USER, now + wait),
                Who::Source(_) => (FREE_OF_SOURCE, now + line),
            };
            let failures = self.failures.entry(who).or_default();
            if now.saturating_sub(failures.last) > MEMORY {
                *failures = Failures::default();
            }
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
            failures.not_before = from.saturating_add(wait_after(failures.count, free));
        }
        Ok(wait)
    }

    fn wait(&self, who: &Who, now: Duration) -> Duration {
        let failures = self.failures.get(who);
        failures.map_or(Duration::ZERO, |it| it.not_before.saturating_sub(now))
    }

    /// The try that was begun was right. A source does not get rid of its other failures by one
    /// right password.
    pub(super) fn succeeded(&mut self, user: &str, source: Option<IpAddr>) {
        self.failures.remove(&Who::User(user.to_owned()));
        if let Some(failures) = source.and_then(|it| self.failures.get_mut(&Who::Source(it))) {
            failures.count = failures.count.saturating_sub(1);
            if failures.count <= FREE_OF_SOURCE {
                failures.not_before = Duration::ZERO;
            }
        }
    }

    fn make_room(&mut self, now: Duration) {
        if self.failures.len() + 2 <= REMEMBERED_MAX {
            return;
        }
        self.failures
            .retain(|_, it| now.saturating_sub(it.last) <= MEMORY);
        if self.failures.len() + 2 > REMEMBERED_MAX {
            // Whoever can fill the memory has paid for it with as many tries.
            let mut lasts: Vec<Duration> = self.failures.values().map(|it| it.last).collect();
            lasts.sort_unstable();
            let middle = lasts[lasts.len() / 2];
            self.failures.retain(|_, it| it.last > middle);
        }
    }
}

fn wait_after(count: u32, free: u32) -> Duration {
    match count.checked_sub(free + 1) {
        None => Duration::ZERO,
        Some(over) => FIRST_WAIT.saturating_mul(1 << over.min(16)).min(WAIT_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn source(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn the_wait_doubles_up_to_its_bound() {
        let mut backoff = Backoff::default();
        let mut now = NOW;
        let mut waits = Vec::new();
        for _ in 0..14 {
            let wait = backoff.begin("alice", None, now).unwrap();
            now += wait;
            waits.push(wait.as_millis());
        }
        assert_eq!(waits[..6], [0; 6]);
        assert_eq!(waits[6..], [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn a_right_password_ends_the_wait_of_its_user() {
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.begin("alice", source(1), NOW).unwrap();
        }
        assert!(backoff.begin("alice", source(1), NOW).unwrap() > Duration::ZERO);
        backoff.succeeded("alice", source(1));
        assert_eq!(backoff.begin("alice", source(1), NOW), Ok(Duration::ZERO));
    }

    #[test]
    fn a_source_that_tries_many_users_waits_then_is_refused_and_others_are_not() {
        let mut backoff = Backoff::default();
        let mut tries = (0..200).map(|number| {
            let user = format!("user{number}");
            backoff.begin(&user, source(1), NOW)
        });
        assert!(
            tries
                .by_ref()
                .take(51)
                .all(|wait| wait == Ok(Duration::ZERO))
        );
        assert!(tries.next().unwrap().unwrap() > Duration::ZERO);
        assert_eq!(tries.last(), Some(Err(LineFull)));
        assert_eq!(backoff.begin("another", source(2), NOW), Ok(Duration::ZERO));
    }

    #[test]
    fn a_user_whom_others_attack_is_not_refused() {
        let mut backoff = Backoff::default();
        for number in 0..200 {
            backoff.begin("alice", source(number), NOW).unwrap();
        }
        assert_eq!(backoff.begin("alice", source(201), NOW), Ok(WAIT_MAX));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten() {
        let mut backoff = Backoff::default();
        for number in 0..3 * REMEMBERED_MAX {
            let now = NOW + Duration::from_millis(number as u64);
            backoff.begin(&format!("user{number}"), None, now).unwrap();
            assert!(backoff.failures.len() <= REMEMBERED_MAX);
        }
        let later = NOW + Duration::from_secs(3600);
        for _ in 0..6 {
            assert_eq!(backoff.begin("user1", None, later), Ok(Duration::ZERO));
        }
    }
}
