//! The WebAssembly engine: what it may do, what it links, how it is interrupted.
//!
//! Promise: compiling and running happen on the host's own threads; a running guest is
//! interrupted within a tick of its deadline as long as anything of the host is left.

use std::sync::Arc;
use std::thread;

use tokio::sync::{Semaphore, oneshot};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Engine, EngineWeak};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::p2::bindings::{cli, random};
use wasmtime_wasi::random::WasiRandom;

use crate::component::Compiled;
use crate::contract::WatchPlugin;
use crate::error::{ComponentError, EngineFault, HostError};
use crate::instance::State;
use crate::limits::EPOCH_TICK;
use crate::workers::Workers;

/// Interfaces of WASI that plain guests need and that reach nothing outside the call.
/// Filesystem and sockets are not among them and not linked.
pub(crate) const WASI_INTERFACES: [&str; 18] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Threads that guests run on; at least 1.
    pub threads: usize,
}

impl Default for HostConfig {
    /// Half the processors: guests at their worst leave the other half to the server.
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        HostConfig {
            threads: (processors / 2).max(1),
        }
    }
}

/// Compiles and runs components. Cheap to clone; its threads end with the last clone and
/// the last [`Compiled`].
#[derive(Clone)]
pub struct Host {
    pub(crate) linker: Arc<Linker<State>>,
    pub(crate) workers: Arc<Workers>,
    compiling: Arc<Semaphore>,
}

impl Host {
    pub fn new(config: &HostConfig) -> Result<Host, HostError> {
        let engine = Engine::new(&engine_config()).map_err(fault)?;
        let linker = linker(&engine).map_err(fault)?;
        let workers = Workers::start(config.threads.max(1)).map_err(HostError::Threads)?;
        let ticker = engine.weak();
        thread::Builder::new()
            .name("plugin-epoch".to_owned())
            .spawn(move || tick(&ticker))
            .map_err(HostError::Threads)?;
        Ok(Host {
            linker: Arc::new(linker),
            workers: Arc::new(workers),
            compiling: Arc::new(Semaphore::new(1)),
        })
    }

    /// Checks, compiles and asks the component to describe itself. Takes from
    /// milliseconds to many seconds, on a thread of its own, one component at a time.
    pub async fn compile(&self, component: Arc<[u8]>) -> Result<Compiled, ComponentError> {
        let permit = Arc::clone(&self.compiling)
            .acquire_owned()
            .await
            .map_err(|_| ComponentError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let host = self.clone();
        thread::Builder::new()
            .name("plugin-compile".to_owned())
            .spawn(move || {
                let compiled = Compiled::compile(&host, &component);
                drop(permit);
                let _caller_gone = reply.send(compiled);
            })
            .map_err(|_| ComponentError::Stopped)?;
        let compiled = answer.await.map_err(|_| ComponentError::Stopped)??;
        compiled.described().await
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.linker.engine()
    }
}

fn fault(error: wasmtime::Error) -> HostError {
    HostError::Engine(EngineFault(error))
}

fn engine_config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // One core for compiling: the server needs the others.
        .parallel_compilation(false)
        // Threads, garbage collection, stack switching and component async are not built in.
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .shared_memory(false);
    config
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    link_wasi(&mut linker)?;
    WatchPlugin::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}

fn link_wasi(l: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(l)?;
    cli::environment::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::exit::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_input::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    random::insecure::add_to_linker::<State, WasiRandom>(l, |s| s.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<State, WasiRandom>(l, |s| s.ctx().ctx.random())?;
    Ok(())
}

/// Ends when nothing holds the engine any more: no host, no component, no running call.
fn tick(engine: &EngineWeak) {
    loop {
        thread::sleep(EPOCH_TICK);
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}
