//! One call: a fresh instance, its limits, its answer.
//!
//! Promise: nothing of a call outlives it, and whatever the guest does, the call ends by
//! its deadline with an answer or a [`CallError`].
//! Not known here: threads, manifests' rules.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use wasmtime::component::ResourceTable;
use wasmtime::{Store, Trap};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

use crate::capabilities::Capabilities;
use crate::contract::{WatchPlugin, WatchPluginPre};
use crate::error::{CallError, EngineFault, GuestTrap};
use crate::hooks::Usage;
use crate::host_calls::{LogLevel, LogLine};
use crate::limits::{
    EPOCH_TICK, HOST_CALL_BYTES_MAX, Limits, Meter, RANDOM_BYTES_MAX, RESOURCES_MAX, Refused,
};
use crate::stderr::Stderr;

/// What a store of wasmtime carries for one call.
pub(crate) struct State {
    pub(crate) capabilities: Capabilities,
    meter: Meter,
    wasi: WasiCtx,
    pub(crate) resources: ResourceTable,
    stderr: Stderr,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.resources,
        }
    }
}

impl State {
    fn new(capabilities: Capabilities, limits: &Limits) -> State {
        let stderr = Stderr::default();
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(RESOURCES_MAX);
        State {
            capabilities,
            meter: Meter::new(limits),
            // No arguments, no environment, no stdin; stdout goes nowhere.
            wasi: WasiCtx::builder()
                .stderr(stderr.clone())
                .max_random_size(RANDOM_BYTES_MAX)
                .build(),
            resources,
            stderr,
        }
    }
}

/// A call's answer and what it cost.
#[derive(Debug)]
pub struct Call<T> {
    pub result: Result<T, CallError>,
    pub usage: Usage,
}

pub(crate) type GuestFuture<'a, T> = Pin<Box<dyn Future<Output = wasmtime::Result<T>> + Send + 'a>>;

/// Runs one exported function in an instance of its own.
pub(crate) async fn call<T>(
    plugin: &WatchPluginPre<State>,
    capabilities: Capabilities,
    limits: &Limits,
    function: impl for<'a> FnOnce(&'a WatchPlugin, &'a mut Store<State>) -> GuestFuture<'a, T> + Send,
) -> Call<T> {
    let started = Instant::now();
    let mut store = Store::new(plugin.engine(), State::new(capabilities, limits));
    store.limiter(|state| &mut state.meter);
    store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
    // The guest's own time ends by epochs, its waits on the host by the timer.
    store.set_epoch_deadline(ticks(limits));
    store.epoch_deadline_trap();
    let answer = tokio::time::timeout(limits.on_events_deadline, async {
        let instance = plugin.instantiate_async(&mut store).await?;
        function(&instance, &mut store).await
    })
    .await;
    let state = store.data();
    report_stderr(state);
    let result = match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(call_error(error, state, limits)),
        Err(_elapsed) => Err(CallError::Deadline {
            limit: limits.on_events_deadline,
        }),
    };
    Call {
        result,
        usage: Usage {
            duration: started.elapsed(),
            memory_bytes: state.meter.memory_bytes(),
            host_calls: state.capabilities.host_calls(),
            log_lines_dropped: state.capabilities.log_lines_dropped(),
        },
    }
}

fn ticks(limits: &Limits) -> u64 {
    let ticks = limits.on_events_deadline.as_nanos() / EPOCH_TICK.as_nanos();
    // One more: the tick under way has begun already.
    u64::try_from(ticks).unwrap_or(u64::MAX - 1) + 1
}

/// A panicking guest says why on stderr; without this its author would see a bare trap.
fn report_stderr(state: &State) {
    if let Some(message) = state.stderr.text() {
        state.capabilities.log(LogLine {
            level: LogLevel::Error,
            context: "stderr".to_owned(),
            message,
        });
    }
}

fn call_error(error: wasmtime::Error, state: &State, limits: &Limits) -> CallError {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return CallError::Exit { status: exit.0 };
    }
    if state.capabilities.host_calls_exceeded() {
        return CallError::HostCalls {
            limit: limits.host_calls,
        };
    }
    match (error.downcast_ref::<Trap>().copied(), state.meter.refused()) {
        (Some(Trap::Interrupt), _) => CallError::Deadline {
            limit: limits.on_events_deadline,
        },
        (Some(Trap::StackOverflow), _) => CallError::Stack,
        (_, Some(Refused::Memory)) => CallError::Memory {
            limit_bytes: limits.memory_bytes,
        },
        (_, Some(Refused::Table)) => CallError::Tables,
        (Some(code), None) => CallError::Trap(GuestTrap {
            code,
            detail: EngineFault(error),
        }),
        (None, None) => CallError::Malformed(EngineFault(error)),
    }
}
