//! One run of a member: from its start to the crash that ends it.
//!
//! Promise: everything that runs for a member runs in its life, to the last task. When the life
//! ends no line of it runs any more, as after a kill; while it is paused nothing of it runs, but
//! time goes on, as under SIGSTOP.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use openraft::OptionalSend;
use openraft::async_runtime::AsyncRuntime;
use openraft::impls::TokioRuntime;
use openraft::rt::deterministic_rng::DeterministicRng;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::{AbortHandle, JoinHandle};

thread_local! {
    /// Whose task is being polled.
    static CURRENT: RefCell<Option<Arc<Life>>> = const { RefCell::new(None) };
}

/// Finished tasks are forgotten when there are this many.
const TASKS_KEPT: usize = 256;

pub(crate) struct Life {
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    ended: bool,
    paused: bool,
    /// To be polled when the pause is over.
    held_back: Vec<Waker>,
    tasks: Vec<AbortHandle>,
}

impl Life {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            ended: false,
            paused: false,
            held_back: Vec::new(),
            tasks: Vec::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    /// The life in which the caller runs.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    pub(super) fn spawn<F>(self: &Arc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let living = Living {
            life: Arc::clone(self),
            future: Box::pin(future),
        };
        let task = tokio::spawn(living);
        let mut state = self.state.lock();
        if state.ended {
            // The other end of a call may be late to see it.
            task.abort();
            return task;
        }
        if state.tasks.len() >= TASKS_KEPT {
            state.tasks.retain(|task| !task.is_finished());
        }
        state.tasks.push(task.abort_handle());
        task
    }

    pub(super) fn end(&self) {
        let tasks = {
            let mut state = self.state.lock();
            state.ended = true;
            std::mem::take(&mut state.tasks)
        };
        for task in tasks {
            task.abort();
        }
    }

    pub(super) fn pause(&self) {
        self.state.lock().paused = true;
    }

    pub(super) fn resume(&self) {
        let held_back = {
            let mut state = self.state.lock();
            state.paused = false;
            std::mem::take(&mut state.held_back)
        };
        for waker in held_back {
            waker.wake();
        }
    }

    fn random(&self) -> u64 {
        self.state.lock().rng.random()
    }

    /// Whether a task of it may run now; if not, the waker is called when it may.
    fn may_run(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        if state.paused && !state.ended {
            state.held_back.push(waker.clone());
        }
        !state.ended && !state.paused
    }
}

struct Living<F> {
    life: Arc<Life>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Living<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if !self.life.may_run(context.waker()) {
            return Poll::Pending;
        }
        let outer = CURRENT.replace(Some(Arc::clone(&self.life)));
        let polled = self.future.as_mut().poll(context);
        CURRENT.set(outer);
        polled
    }
}

/// Whether the caller runs in a simulation.
pub(crate) fn is_simulated() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// tokio's runtime. In a simulation its tasks belong to the life that spawns them and its random
/// numbers to the seed.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

type Seeded = DeterministicRng<TokioRuntime>;

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = super::watch::OrderedWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match Life::current() {
            Some(life) => life.spawn(future),
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let seed = Life::current().map_or_else(rand::random, |life| life.random());
        Seeded::scope(seed, async { Seeded::thread_rng() })
            .now_or_never()
            .expect("it waits for nothing")
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
