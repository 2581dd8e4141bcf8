//! The TLS handshakes under way on a listener, so many and no more.
//!
//! Policy when there are too many: the oldest gives way. An honest handshake takes milliseconds;
//! one that has waited longest behind so many others is the likeliest to be none.
//! Not known here: TLS.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
pub(super) struct Handshakes {
    under_way: Arc<Mutex<UnderWay>>,
    most: usize,
}

#[derive(Debug, Default)]
struct UnderWay {
    /// In order of their numbers.
    queue: VecDeque<(u64, CancellationToken)>,
    next: u64,
}

/// A handshake's place; leaving it is dropping it.
#[derive(Debug)]
pub(super) struct Turn {
    under_way: Arc<Mutex<UnderWay>>,
    number: u64,
    gives_way: CancellationToken,
}

impl Handshakes {
    pub(super) fn at_most(most: usize) -> Self {
        Self {
            under_way: Arc::default(),
            most,
        }
    }

    pub(super) fn begin(&self) -> Turn {
        let gives_way = CancellationToken::new();
        let mut under_way = self.under_way.lock();
        let number = under_way.next;
        under_way.next += 1;
        under_way.queue.push_back((number, gives_way.clone()));
        if under_way.queue.len() > self.most
            && let Some((_, oldest)) = under_way.queue.pop_front()
        {
            oldest.cancel();
        }
        drop(under_way);
        Turn {
            under_way: self.under_way.clone(),
            number,
            gives_way,
        }
    }
}

impl Turn {
    /// Completes when this handshake must make room.
    pub(super) async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock();
        if let Ok(place) = under_way
            .queue
            .binary_search_by_key(&self.number, |(number, _)| *number)
        {
            under_way.queue.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn the_oldest_gives_way_and_those_that_ended_do_not_count() {
        let handshakes = Handshakes::at_most(2);
        let first = handshakes.begin();
        let second = handshakes.begin();
        drop(handshakes.begin());
        assert!(first.gives_way().now_or_never().is_some());
        assert!(second.gives_way().now_or_never().is_none());
        drop(first);
        let third = handshakes.begin();
        assert!(second.gives_way().now_or_never().is_none());
        drop(third);
        drop(second);
        assert!(handshakes.under_way.lock().queue.is_empty());
    }
}
