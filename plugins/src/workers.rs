//! The threads that guests run on, and nobody else.
//!
//! Promise: a guest occupies one of these threads and no other; a call waits for a free
//! one in the order of asking. A panic inside a call costs that call.
//! Not known here: WebAssembly.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Calls that wait for a thread; whoever comes after them waits to be let in.
const QUEUE_JOBS_MAX: usize = 64;

/// Bounded threads. They end when the last handle is dropped and their queue is done.
pub(crate) struct Workers {
    jobs: mpsc::Sender<Job>,
}

/// The call was not finished: its thread is gone or it panicked.
#[derive(Debug)]
pub(crate) struct Unfinished;

impl Workers {
    pub(crate) fn start(threads: usize) -> io::Result<Workers> {
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..threads {
            let runtime = Builder::new_current_thread().enable_time().build()?;
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("plugin-{index}"))
                .spawn(move || serve(&runtime, &queue))?;
        }
        Ok(Workers { jobs })
    }

    /// Runs `work` on one of the threads. When the caller stops waiting, `work` is dropped
    /// at its next wait.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Unfinished> {
        let (mut reply, answer) = oneshot::channel();
        let job = Box::pin(async move {
            tokio::select! {
                biased;
                () = reply.closed() => {}
                done = work => { let _caller_gone = reply.send(done); }
            }
        });
        self.jobs.send(job).await.map_err(|_| Unfinished)?;
        answer.await.map_err(|_| Unfinished)
    }
}

fn serve(runtime: &Runtime, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // Whoever holds the lock waits for the next job; the others wait for the lock.
        let next = queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        let Some(job) = next else { return };
        // Spawned, because a task's panic is caught and the thread lives on.
        let _panicked = runtime.block_on(async { tokio::spawn(job).await });
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::task::Poll;

    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(work)
    }

    #[test]
    fn a_panic_costs_its_own_call_only() {
        let workers = Workers::start(1).expect("threads");
        block_on(async {
            let panicking = workers.run(async { panic!("a test's own panic") });
            assert!(panicking.await.is_err());
            assert_eq!(workers.run(async { 7 }).await.expect("runs"), 7);
        });
    }

    #[test]
    fn a_call_nobody_waits_for_is_dropped() {
        let workers = Workers::start(1).expect("threads");
        block_on(async {
            let forever = workers.run(pending::<()>());
            assert!(polled_once_and_dropped(forever).await);
            assert_eq!(workers.run(async { 7 }).await.expect("runs"), 7);
        });
    }

    /// Whether the work was still pending: its job is queued, and nobody waits for it.
    async fn polled_once_and_dropped<F: Future>(work: F) -> bool {
        let mut work = Box::pin(work);
        poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_pending())).await
    }
}
