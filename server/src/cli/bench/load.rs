//! A number of requests, shared out among clients that ask one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tonic::Status;

use super::report::{Measured, Report};

/// How much is asked and how fast: `rate` in requests per second, 0 for as many as can be.
pub(super) struct Load {
    pub(super) total: u64,
    pub(super) rate: u32,
}

impl Load {
    /// Request `number` is made by whichever client is free. The answer says in which of the reports it counts.
    pub(super) async fn run<Client, Ask, Answer, const REPORTS: usize>(
        self,
        clients: Vec<Client>,
        ask: Ask,
    ) -> [Report; REPORTS]
    where
        Client: Clone + Send + 'static,
        Ask: Fn(Client, u64) -> Answer + Clone + Send + 'static,
        Answer: Future<Output = (usize, Result<(), Status>)> + Send + 'static,
    {
        let next = Arc::new(AtomicU64::new(0));
        let measured: Arc<[Mutex<Measured>; REPORTS]> =
            Arc::new(std::array::from_fn(|_| Mutex::default()));
        let start = Instant::now();
        let Self { total, rate } = self;
        let clients: Vec<_> = clients
            .into_iter()
            .map(|client| {
                let (next, ask, measured) = (Arc::clone(&next), ask.clone(), Arc::clone(&measured));
                tokio::spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return;
                        }
                        wait_turn(start, number, rate).await;
                        let asked = Instant::now();
                        let (report, answer) = ask(client.clone(), number).await;
                        measured[report].lock().record(&answer, asked.elapsed());
                    }
                })
            })
            .collect();
        for client in clients {
            // A client ends early only with the runtime, and then nobody reads the report.
            let _ = client.await;
        }
        let total = start.elapsed();
        std::array::from_fn(|report| {
            Report::new(std::mem::take(&mut *measured[report].lock()), total)
        })
    }
}

/// With a rate, request `number` is due `number / rate` seconds after the start.
pub(super) async fn wait_turn(start: Instant, number: u64, rate: u32) {
    if rate > 0 {
        let due = start + Duration::from_secs_f64(number as f64 / f64::from(rate));
        tokio::time::sleep_until(due.into()).await;
    }
}
