//! Subcommands that talk to a running cluster.
//!
//! Promise: each finds a reachable endpoint before it asks for anything, and asks once; what it
//! prints is a table for people or JSON for programs, on stdout, and errors on stderr.
//! Not known here: the server. These are clients like any other.

mod bench;
mod completion;
mod connect;
mod key_bundle;
mod keys;
mod login;
mod member;
mod migrate;
mod output;
mod plugin;
mod snapshot;
mod status;
mod version;

use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use connect::ConnectError;
pub use version::version_text;

#[derive(Debug, Parser)]
#[command(name = "sealkv", disable_version_flag = true, max_term_width = 100)]
struct Client {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Where to ask: a comma list; the first that can be reached is used.
    #[arg(
        long,
        global = true,
        env = "SEALKV_ENDPOINTS",
        default_value = "127.0.0.1:2379"
    )]
    endpoints: String,
    #[command(flatten)]
    security: connect::Security,
    #[command(flatten)]
    login: login::Login,
    /// How to print.
    #[arg(
        short = 'w',
        long = "write-out",
        visible_short_alias = 'o',
        global = true,
        value_enum,
        default_value_t = output::Format::Table
    )]
    write_out: output::Format,
    /// How long to wait for a connection, in seconds.
    #[arg(long, global = true, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    dial_timeout: u64,
    /// How long to wait for an answer, in seconds.
    #[arg(long, global = true, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    command_timeout: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The keys that values are sealed with.
    #[command(subcommand)]
    Keys(keys::Command),
    /// WebAssembly plugins.
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Members: list them, rebuild one that has lost its data.
    #[command(subcommand)]
    Member(member::Command),
    /// Backups: save one from a member, look at one, make a data directory out of one.
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// The members of a cluster, its keys, its plugins and its alarms at a glance.
    Status,
    /// Load on any endpoint, as etcd's benchmark makes it.
    Bench(bench::Bench),
    /// Moves a live etcd's keys, leases, users and roles into this cluster, and follows it.
    Migrate(migrate::Migrate),
    /// What a shell needs to complete this program's words.
    Completion { shell: completion::ShellName },
    /// Prints the version.
    Version,
}

/// The words that start a subcommand, for help.
pub const SUBCOMMANDS: &[(&str, &str)] = &[
    ("server", "Start a server (as without a subcommand)."),
    (
        "keys list | add PREFIX | rotate PREFIX | backup FILE",
        "The keys that values are sealed with, and a backup of the root key.",
    ),
    (
        "plugin deploy FILE.wasm --watch PREFIX --write PREFIX",
        "Deploy a WebAssembly plugin.",
    ),
    (
        "plugin list | dead-letters | pause | resume | delete",
        "Look at plugins, and manage them.",
    ),
    (
        "member list | rebuild -- FLAGS",
        "List the members; make one anew that has lost its data.",
    ),
    (
        "snapshot save | status | restore FILE",
        "Save a backup, look at it, make a data directory out of it.",
    ),
    ("status", "Members, keys, plugins and alarms at a glance."),
    (
        "migrate --from ENDPOINTS [--to ENDPOINTS]",
        "Move a live etcd's keys, leases, users and roles here.",
    ),
    ("bench put | range KEY", "Measure any etcd endpoint."),
    (
        "completion bash | zsh | fish",
        "Print what a shell needs to complete all this.",
    ),
    ("version", "Print the version."),
];

/// Whether a word that stands before the subcommand is an option of the clients; none of them is
/// a flag of the server.
pub fn is_client_option(word: &str) -> bool {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let options = [
        "--endpoints",
        "--write-out",
        "--dial-timeout",
        "--command-timeout",
        "--cacert",
        "--cert",
        "--key",
        "--insecure-skip-tls-verify",
        "--insecure-transport",
        "-w",
        "-o",
    ];
    // A short option may hold its value; one dash and a long word is a flag as Go writes it.
    options.contains(&name) || ["-wjson", "-wtable", "-ojson", "-otable"].contains(&name)
}

#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("--user: {command} does not log in with it: {instead}")]
    NoLogin {
        command: &'static str,
        instead: &'static str,
    },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", show_status(.0))]
    Status(Box<tonic::Status>),
    #[error("no answer within {seconds} s; whether it was done is not known")]
    Timeout { seconds: u64 },
    #[error(transparent)]
    Plugin(#[from] plugin::PluginFileError),
    #[error(transparent)]
    Migrate(#[from] migrate::MigrateError),
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error(transparent)]
    Snapshot(#[from] snapshot::SnapshotFailed),
    #[error(transparent)]
    Rebuild(#[from] member::RebuildFailed),
    #[error(transparent)]
    KeyBundle(#[from] key_bundle::BackupFailed),
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
    #[error("the answer lacks its {field}")]
    Incomplete { field: &'static str },
}

fn show_status(status: &tonic::Status) -> String {
    match (status.message(), status.code()) {
        ("", tonic::Code::Unimplemented) => "this server does not offer it".to_owned(),
        ("", code) => code.to_string(),
        // tonic's own text; the reason is below it.
        ("transport error", code) => format!("{} ({code:?})", connect::deepest(status)),
        (message, code) => format!("{message} ({code:?})"),
    }
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Arguments with the program's name; does not return for `--help` and for mistakes in them.
pub fn run(arguments: &[String]) -> ExitCode {
    let client = Client::parse_from(arguments);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&CliError::Print(error)),
    };
    match runtime.block_on(client.run()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(CliError::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &CliError) -> ExitCode {
    output::complain(&format!("Error: {error}"));
    ExitCode::FAILURE
}

impl Client {
    async fn run(self) -> Result<(), CliError> {
        self.check_login()?;
        let seconds = self.global.command_timeout;
        let work = async {
            match &self.command {
                Command::Keys(command) => keys::run(command, &self.global).await,
                Command::Plugin(command) => plugin::run(command, &self.global).await,
                Command::Member(command) => member::run(command, &self.global).await,
                Command::Snapshot(command) => snapshot::run(command, &self.global).await,
                Command::Status => status::run(&self.global).await,
                Command::Bench(command) => self.bench(command).await,
                Command::Migrate(command) => migrate::run(command, &self.global).await,
                Command::Completion { shell } => completion::run(*shell, Self::command()),
                Command::Version => version::run(self.global.write_out),
            }
        };
        // These take as long as they must: a benchmark as it was told to, a backup, a migration and
        // a new member as they are large.
        let endless = matches!(
            self.command,
            Command::Bench(_)
                | Command::Migrate(_)
                | Command::Snapshot(_)
                | Command::Member(member::Command::Rebuild(_))
        );
        if endless {
            return work.await;
        }
        let limit = std::time::Duration::from_secs(seconds);
        tokio::time::timeout(limit, work)
            .await
            .map_err(|_| CliError::Timeout { seconds })?
    }

    /// What would not log in must not seem to.
    fn check_login(&self) -> Result<(), CliError> {
        let asked = self.global.login.is_asked_for();
        match self.command {
            Command::Bench(_) if asked => Err(CliError::NoLogin {
                command: "bench",
                instead: "switch authentication off at the server that is measured",
            }),
            Command::Migrate(_) if asked => Err(CliError::NoLogin {
                command: "migrate",
                instead: "use --from-user and --to-user",
            }),
            _ => Ok(()),
        }
    }

    async fn bench(&self, command: &bench::Bench) -> Result<(), CliError> {
        Ok(output::print(&bench::run(command, &self.global).await?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Client, clap::Error> {
        Client::try_parse_from([&["sealkv"], arguments].concat())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Client::command().debug_assert();
    }

    #[test]
    fn options_may_stand_on_either_side_of_the_subcommand() {
        for arguments in [
            &["--endpoints", "http://h:1", "keys", "list", "-w", "json"][..],
            &["keys", "list", "-o", "json", "--endpoints=http://h:1"],
        ] {
            let client = parse(arguments).unwrap();
            assert_eq!(client.global.endpoints, "http://h:1");
            assert_eq!(client.global.write_out, output::Format::Json);
        }
    }

    #[test]
    fn options_of_clients_are_told_from_flags_of_the_server() {
        for word in [
            "--endpoints",
            "--endpoints=h:1",
            "-w",
            "-wjson",
            "-o=json",
            "--write-out",
        ] {
            assert!(is_client_option(word), "{word}");
        }
        for flag in crate::config::FLAGS {
            assert!(
                !is_client_option(&format!("--{}", flag.name)),
                "{}",
                flag.name
            );
            assert!(
                !is_client_option(&format!("-{}", flag.name)),
                "{}",
                flag.name
            );
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for arguments in [
            &["key", "list"][..],
            &["keys"],
            &["keys", "add"],
            &["plugin", "deploy", "f.wasm"],
        ] {
            let error = parse(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
        }
    }
}
