//! Waiting for a condition with a deadline: no test sleeps for luck.

use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Polls until `condition` gives a value; panics with `what` when `limit` has passed.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain for: {what}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// Like [`until`] for a condition that needs no await.
pub async fn until_true(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    until(what, limit, || {
        let holds = condition();
        async move { holds.then_some(()) }
    })
    .await;
}
