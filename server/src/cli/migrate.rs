//! `sealkv migrate`: moves a live etcd's keys, leases, users and roles into another cluster.
//!
//! ```text
//! leases ─► keys as of one revision (copy) ─► changes since then (follow) ─► … ─► cut over:
//!   the source's last revision ─► both sides read and compared by hash ─► the state key goes
//! ```
//!
//! Promise: the source is only read. Broken off at any moment, the next run goes on where this one
//! was; the target is never left with a key that the source had not. Memory is bounded by pages.
//! Not known here: which of the two is sealkv; both are spoken to as etcd.

mod batch;
mod copy;
mod follow;
mod leases;
mod pages;
mod progress;
mod side;
mod state;
mod users;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use proto::etcdserverpb as pb;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::connect::{dial, endpoints};
use super::output::{Format, json_bytes, print, print_json, show_bytes};
use super::{CliError, Global};
use crate::config::UrlError;
use follow::Followed;
use leases::Leases;
use pages::Scope;
use progress::Progress;
use side::{Credentials, Role, Side};
use state::{Kept, Phase, State};
use users::{Passwords, Users};

/// How often both sides are read again when keys with a lease ended in between.
const COMPARES_MAX: usize = 3;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The cluster to move from: a comma list of endpoints, which are only read.
    #[arg(long)]
    from: String,
    /// The cluster to move to; without it that of --endpoints.
    #[arg(long)]
    to: Option<String>,
    /// Only keys that begin with this.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Copy, catch up with what changed meanwhile, compare and end, instead of following until
    /// Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Copy nothing; compare both sides as they are now.
    #[arg(long, conflicts_with = "once")]
    verify: bool,
    /// The target may hold keys; those that the source has not are deleted.
    #[arg(long)]
    overwrite: bool,
    /// Leave users and roles alone.
    #[arg(long)]
    skip_users: bool,
    /// Passwords for users, as NAME:PASSWORD lines; they cannot be read from the source.
    #[arg(long, value_name = "FILE")]
    passwords: Option<PathBuf>,
    /// Who asks the source: NAME:PASSWORD, or NAME with the password in SEALKV_FROM_PASSWORD.
    #[arg(long, value_name = "USER")]
    from_user: Option<String>,
    /// Who writes to the target: NAME:PASSWORD, or NAME with the password in SEALKV_TO_PASSWORD.
    #[arg(long, value_name = "USER")]
    to_user: Option<String>,
    /// How long a cluster may be unreachable, in seconds; then run it again to go on.
    #[arg(long, default_value_t = 60)]
    patience: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum MigrateError {
    #[error("{side}: cannot {doing}: {} ({:?})", .status.message(), .status.code())]
    Call {
        side: Role,
        doing: &'static str,
        status: Box<Status>,
    },
    #[error(
        "{side} cannot be reached any more ({url}: cannot {doing}: {}); run the same command again \
         to go on", .status.message()
    )]
    Unreachable {
        side: Role,
        url: String,
        doing: &'static str,
        status: Box<Status>,
    },
    #[error(
        "{side} wants to know who asks: give it {flag} NAME:PASSWORD of a user with the root role"
    )]
    LoginNeeded { side: Role, flag: &'static str },
    #[error("{flag}: {error}")]
    Endpoints { flag: &'static str, error: UrlError },
    #[error("--from and --to are the same cluster")]
    SameCluster,
    #[error("the target holds {keys} keys already: --overwrite makes it the source's copy")]
    NotEmpty { keys: i64 },
    #[error("the target is being filled from another cluster or with another --prefix ({found})")]
    OtherMigration { found: String },
    #[error("another migration writes to the target")]
    Rival,
    #[error("the target's state key cannot be read; delete it to begin anew")]
    StateUnreadable,
    #[error(
        "{differing} keys differ, among them {}", .examples.iter().map(|key| show_bytes(key))
            .collect::<Vec<_>>().join(", ")
    )]
    Differs {
        differing: u64,
        examples: Vec<Bytes>,
    },
    #[error("{}: {source}", path.display())]
    Passwords {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}:{line}: is not NAME:PASSWORD", path.display())]
    PasswordLine { path: PathBuf, line: usize },
    #[error("{flag}: {name} has no password: write NAME:PASSWORD or set {variable}")]
    NoPassword {
        flag: &'static str,
        name: String,
        variable: &'static str,
    },
    #[error("the program stops")]
    Stopped,
    #[error("cannot hear signals: {0}")]
    Signals(std::io::Error),
}

impl MigrateError {
    fn says(&self, text: &str) -> bool {
        matches!(self, Self::Call { status, .. } if status.message() == text)
    }
}

struct Migration {
    source: Arc<Side>,
    target: Arc<Side>,
    scope: Scope,
    leases: Leases,
    kept: Kept,
    progress: Progress,
}

pub(super) async fn run(migrate: &Migrate, global: &Global) -> Result<(), CliError> {
    let to = migrate.to.as_deref().unwrap_or(&global.endpoints);
    let from = (Role::Source, migrate.from.as_str(), &migrate.from_user);
    let source = side(from, "SEALKV_FROM_PASSWORD", migrate, global).await?;
    let to = (Role::Target, to, &migrate.to_user);
    let target = side(to, "SEALKV_TO_PASSWORD", migrate, global).await?;
    let scope = Scope::of_prefix(migrate.prefix.as_bytes());
    let source_id = cluster_id(&source).await?;
    if source_id == cluster_id(&target).await? {
        return Err(MigrateError::SameCluster.into());
    }
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone()));
    let kept = begin(migrate, &target, &scope, format!("{source_id:x}")).await?;
    let leases = Leases::new(source.clone(), target.clone());
    let mut migration = Migration {
        source,
        target,
        scope,
        leases,
        kept,
        progress: Progress::new(),
    };
    let outcome = if migrate.verify {
        migration.verify_now().await
    } else {
        migration.run(migrate, &stop).await
    };
    signals.abort();
    migration.progress.end();
    let report = outcome?;
    if !migrate.verify {
        migration.kept.remove(&migration.target).await?;
    }
    match global.write_out {
        Format::Json => print_json(&report.json())?,
        Format::Table => print(&report.text())?,
    }
    Ok(())
}

async fn side(
    (role, list, user): (Role, &str, &Option<String>),
    variable: &'static str,
    migrate: &Migrate,
    global: &Global,
) -> Result<Arc<Side>, CliError> {
    let flag = match role {
        Role::Source => "--from",
        Role::Target => "--to",
    };
    let credentials = match user {
        Some(user) => Some(credentials(user, role.user_flag(), variable)?),
        None => None,
    };
    let mut channels = Vec::new();
    let mut refused = None;
    let urls = endpoints(list, global.security.default_scheme())
        .map_err(|error| MigrateError::Endpoints { flag, error })?;
    for url in urls {
        match dial(&url, global).await {
            Ok(channel) => channels.push((url.to_string(), channel)),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if channels.is_empty() => return Err(error.into()),
        _ => {}
    }
    let patience = Duration::from_secs(migrate.patience);
    Ok(Arc::new(
        Side::new(role, channels, credentials, patience).await?,
    ))
}

fn credentials(
    user: &str,
    flag: &'static str,
    variable: &'static str,
) -> Result<Credentials, MigrateError> {
    if let Some((name, password)) = user.split_once(':') {
        return Ok(Credentials {
            name: name.to_owned(),
            password: password.to_owned(),
        });
    }
    let name = user.to_owned();
    match std::env::var(variable) {
        Ok(password) => Ok(Credentials { name, password }),
        Err(_) => Err(MigrateError::NoPassword {
            flag,
            name,
            variable,
        }),
    }
}

async fn cluster_id(side: &Side) -> Result<u64, MigrateError> {
    let request = pb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        count_only: true,
        ..Default::default()
    };
    let header = side.range(request).await?.header;
    Ok(header.map_or(0, |header| header.cluster_id))
}

/// The first signal asks for the cut over, the second ends the process with the state kept.
async fn stop_on_signal(stop: CancellationToken) -> Result<(), MigrateError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(MigrateError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(MigrateError::Signals)?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if stop.is_cancelled() {
            std::process::exit(1);
        }
        stop.cancel();
    }
}

/// What an earlier run left, or a new beginning in a target that may be filled.
async fn begin(
    migrate: &Migrate,
    target: &Side,
    scope: &Scope,
    source: String,
) -> Result<Kept, MigrateError> {
    let fresh = State {
        source,
        prefix: migrate.prefix.clone(),
        phase: Phase::Copying {
            revision: 0,
            next: scope.key.clone(),
        },
    };
    if migrate.verify {
        return Ok(Kept::new(fresh));
    }
    if let Some(kept) = Kept::find(target).await? {
        let same = kept.state.source == fresh.source && kept.state.prefix == fresh.prefix;
        if !same {
            let found = format!(
                "source {}, prefix {:?}",
                kept.state.source, kept.state.prefix
            );
            return Err(MigrateError::OtherMigration { found });
        }
        return Ok(kept);
    }
    let keys = count(target, scope, 0).await?.0;
    if keys > 0 && !migrate.overwrite {
        return Err(MigrateError::NotEmpty { keys });
    }
    Ok(Kept::new(fresh))
}

/// Keys in the scope, and the revision at which they were counted.
async fn count(side: &Side, scope: &Scope, revision: i64) -> Result<(i64, i64), MigrateError> {
    let request = pb::RangeRequest {
        key: scope.key.clone(),
        range_end: scope.range_end.clone(),
        count_only: true,
        revision,
        ..Default::default()
    };
    let answer = side.range(request).await?;
    Ok((answer.count, answer.header.map_or(0, |h| h.revision)))
}

impl Migration {
    async fn run(
        &mut self,
        migrate: &Migrate,
        stop: &CancellationToken,
    ) -> Result<Report, MigrateError> {
        let users = match (migrate.skip_users, &migrate.passwords) {
            (true, _) => None,
            (false, None) => Some(Passwords::default()),
            (false, Some(path)) => Some(Passwords::read(path)?),
        };
        let users = match users {
            Some(passwords) => Some(users::copy(&self.source, &self.target, &passwords).await?),
            None => None,
        };
        if self.leases.copy_all().await? {
            // Its keys may have gone with it.
            self.copy_anew();
        }
        let keeper = tokio::spawn(self.leases.clone().keep());
        let outcome = self.until_same(migrate.once, stop).await;
        keeper.abort();
        let mut report = outcome?;
        report.users = users;
        report.leases = self.leases.count();
        report.changes = self.progress.changes;
        Ok(report)
    }

    fn copy_anew(&mut self) {
        self.kept.state.phase = Phase::Copying {
            revision: 0,
            next: self.scope.key.clone(),
        };
    }

    async fn until_same(
        &mut self,
        once: bool,
        stop: &CancellationToken,
    ) -> Result<Report, MigrateError> {
        if once {
            stop.cancel();
        }
        let mut compares = 0;
        loop {
            let followed = match self.copy_and_follow(stop).await {
                Ok(followed) => followed,
                // It has ended in the target, or what is copied is compacted in the source.
                Err(error)
                    if error.says("etcdserver: requested lease not found")
                        || error.says("etcdserver: mvcc: required revision has been compacted") =>
                {
                    self.leases.forget();
                    Followed::Lagged
                }
                Err(error) => return Err(error),
            };
            let Followed::Through(revision) = followed else {
                self.progress
                    .note("the target has fallen behind; copying again");
                self.copy_anew();
                continue;
            };
            self.leases.renew_all().await?;
            self.progress.note("comparing both sides");
            let at_target = self.newest_revision(&self.target).await?;
            let compared = self.compare(revision, at_target).await?;
            compares += 1;
            if compared.is_same() || compares >= COMPARES_MAX {
                return Report::of(compared, revision);
            }
        }
    }

    async fn copy_and_follow(
        &mut self,
        stop: &CancellationToken,
    ) -> Result<Followed, MigrateError> {
        if let Phase::Copying { revision: 0, next } = self.kept.state.phase.clone() {
            let (keys, revision) = count(&self.source, &self.scope, 0).await?;
            self.progress.copying(u64::try_from(keys).unwrap_or(0));
            let phase = Phase::Copying { revision, next };
            self.kept.commit(&self.target, Vec::new(), phase).await?;
        }
        let copied = self.copy().await?;
        if !stop.is_cancelled() {
            self.progress.note(
                "the keys are copied; changes are followed. Stop the writers, then Ctrl-C to cut over",
            );
        }
        self.follow(copied, stop).await
    }

    async fn verify_now(&mut self) -> Result<Report, MigrateError> {
        let source = self.newest_revision(&self.source).await?;
        let target = self.newest_revision(&self.target).await?;
        Report::of(self.compare(source, target).await?, source)
    }
}

/// What was moved, and that both sides are the same.
#[derive(Debug)]
struct Report {
    keys: u64,
    revision: i64,
    hash: String,
    leases: usize,
    changes: u64,
    users: Option<Users>,
}

impl Report {
    fn of(compared: copy::Compared, revision: i64) -> Result<Self, MigrateError> {
        if !compared.is_same() {
            return Err(MigrateError::Differs {
                differing: compared.differing,
                examples: compared.examples,
            });
        }
        let keys = compared.keys;
        let (hash, _) = compared.hashes();
        Ok(Self {
            keys,
            revision,
            hash,
            leases: 0,
            changes: 0,
            users: None,
        })
    }

    fn text(&self) -> String {
        let Self {
            keys,
            revision,
            hash,
            leases,
            changes,
            users,
        } = self;
        let mut text = format!(
            "{keys} keys are the same on both sides, as of revision {revision} of the source\n\
             sha256 {hash}\n{leases} leases, {changes} changes followed\n"
        );
        if let Some(users) = users {
            text.push_str(&format!("{} users, {} roles\n", users.users, users.roles));
            if !users.without_password.is_empty() {
                text.push_str(&format!(
                    "without a password, which cannot be read from the source: {}\n\
                     run this again with --passwords FILE to give them theirs\n",
                    users.without_password.join(", ")
                ));
            }
            if users.auth_enabled {
                text.push_str(
                    "authentication is on in the source; turn it on in the target when its users \
                     have passwords: etcdctl auth enable\n",
                );
            }
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let mut shown = json!({
            "keys": self.keys,
            "revision": self.revision,
            "sha256": self.hash,
            "leases": self.leases,
            "changes": self.changes,
        });
        if let Some(users) = &self.users {
            shown["users"] = json!(users.users);
            shown["roles"] = json!(users.roles);
            shown["auth_enabled_in_source"] = json!(users.auth_enabled);
            let names = users.without_password.iter();
            shown["users_without_password"] =
                names.map(|name| json_bytes(name.as_bytes())).collect();
        }
        shown
    }
}
