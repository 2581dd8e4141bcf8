//! One thread and one single-threaded runtime per core, for connections.
//!
//! Promise: a connection stays on the worker it was given to; new ones go to the worker that
//! serves the fewest.
//! Not known here: what a connection is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    turn: AtomicUsize,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// Counts a connection for as long as it is served.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// One for each core that this process may use.
    pub fn start_per_core() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Self::start(cores)
    }

    pub fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut workers = Vec::with_capacity(count);
        for index in 0..count.max(1) {
            workers.push(Worker::start(index, stop.clone())?);
        }
        Ok(Self {
            workers,
            turn: AtomicUsize::new(0),
            stop,
        })
    }

    pub(super) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        // The turn breaks ties, so that idle workers are used one after the other.
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn =
            (0..self.workers.len()).map(|i| &self.workers[(first + i) % self.workers.len()]);
        let Some(worker) = in_turn.min_by_key(|w| w.connections.load(Ordering::Relaxed)) else {
            return;
        };
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let place = Place(worker.connections.clone());
        worker.handle.spawn(async move {
            let _place = place;
            connection.await;
        });
    }
}

impl Worker {
    fn start(index: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            // A connection's task should not wait behind a long run of others' tasks.
            .event_interval(61)
            .build()?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new()
            .name(format!("serve-{index}"))
            .spawn(move || {
                runtime.block_on(stop.cancelled());
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle,
            connections: Arc::default(),
            thread: Some(thread),
        })
    }
}

impl Drop for Workers {
    /// Whatever is still served ends here.
    fn drop(&mut self) {
        self.stop.cancel();
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A worker dropped by one of its own tasks must not wait for itself.
                if thread.thread().id() != std::thread::current().id() {
                    let _ = thread.join();
                }
            }
        }
    }
}
