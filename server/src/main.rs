//! The binary: hands its arguments to the server or to a subcommand.
//!
//! Promise: output that nobody reads is no reason to panic; a process stopped by a signal dies of
//! that signal; flags that cannot be read exit with 2, everything else that fails with 1.
//! Not known here: what either of them does.

use std::io::Write as _;
use std::process::ExitCode;

use server::config::{Asked, Config, flags_help};
use server::shutdown::{Shutdown, die_of};
use server::{cli, logging, start, tls};

/// A fifth more requests than the system's allocator on the same cores.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Ok(arguments) = std::env::args_os().map(|word| word.into_string()).collect() else {
        complain("arguments must be UTF-8");
        return ExitCode::from(2);
    };
    let arguments: Vec<String> = arguments;
    match arguments.get(1).map(String::as_str) {
        Some("server") => serve(&arguments[2..]),
        Some("help") if arguments.len() == 2 => show(&help()),
        Some(word) if !word.starts_with('-') || cli::is_client_option(word) => cli::run(&arguments),
        _ => serve(arguments.get(1..).unwrap_or_default()),
    }
}

fn serve(arguments: &[String]) -> ExitCode {
    // A variable that is not text can be none of ours.
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match Config::ask(arguments, &environment) {
        Ok(Asked::Help) => show(&help()),
        Ok(Asked::Version) => show(&cli::version_text()),
        Ok(Asked::Serve(config)) => run(*config),
        Err(error) => {
            for mistake in error.mistakes() {
                complain(&mistake.to_string());
            }
            complain("see sealkv --help");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(config: Config) -> ExitCode {
    let logging = logging::start(
        config.log_level,
        config.log_format,
        &config.log_outputs,
        config.log_rotation,
    );
    if let Err(error) = logging {
        complain(&error.to_string());
        return ExitCode::FAILURE;
    }
    if let Some(file) = &config.file {
        tracing::info!(
            path = %file.path.display(),
            "loaded server configuration, other configuration command line flags and environment \
             variables will be ignored if provided"
        );
        for name in &file.ignored {
            tracing::warn!(name, "ignored, since a configuration file is given");
        }
    }
    for variable in &config.unknown_variables {
        tracing::warn!(variable, "unrecognized environment variable");
    }
    for flag in &config.meaningless_flags {
        tracing::warn!(
            flag,
            "this flag has no meaning in sealkv and changes nothing"
        );
    }
    if config.unsafe_no_fsync {
        tracing::warn!(
            "--unsafe-no-fsync: a power cut loses acknowledged writes, and this member's votes \
             with them; for tests alone"
        );
    }
    for gate in config.features.kept_on() {
        tracing::warn!(gate, "this feature gate cannot be turned off in sealkv");
    }
    tls::warn_of_unused(&config);
    let mut plain_peers = config
        .listen_peer_urls
        .iter()
        .filter(|url| !url.is_secure());
    if let Some(url) = plain_peers.find(|url| !url.is_local()) {
        tracing::warn!(
            listener = %url,
            "peers talk without TLS: whoever reaches this address reads key names and may take part"
        );
    }
    server::serve::raise_file_limit();
    let shutdown = Shutdown::new();
    let ended = start::run(config, shutdown.clone());
    if let Err(error) = ended {
        tracing::error!(%error, "the server ended");
        return ExitCode::FAILURE;
    }
    match shutdown.signal() {
        Some(number) => die_of(number),
        None => ExitCode::SUCCESS,
    }
}

fn help() -> String {
    let mut text = String::from(
        "sealkv: an etcd v3 server that seals what it stores\n\nUsage:\n  sealkv [flags]\n    \
         Start a server.\n  sealkv SUBCOMMAND [--help]\n",
    );
    for (subcommand, does) in cli::SUBCOMMANDS {
        text.push_str(&format!("  sealkv {subcommand}\n    {does}\n"));
    }
    text.push_str(
        "  sealkv --version\n    Print the version.\n\nEvery flag may also be set by the \
         environment variable SEALKV_FLAG or ETCD_FLAG,\nin capitals and with _ for -.\n\n",
    );
    text.push_str(&flags_help());
    text
}

fn show(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    // Whoever closed the pipe has read enough.
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    ExitCode::SUCCESS
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "sealkv: {text}");
}
