//! `sealkv snapshot`: save a backup, look at one, make a data directory out of one.
//!
//! Promise: a file under its final name is whole, synced and has the hash that it ends with;
//! `status` and `restore` work without a server and send nothing anywhere.
//! Not known here: the bytes of a backup.

mod download;
mod restore;
mod status;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::connect::connect;
use super::output::{Format, print, print_json};
use super::{CliError, Global};
use crate::backup::BackupError;
use crate::config::{ClusterError, UrlError};
use crate::start::{BundleError, RestoreFailed};
use download::Download;
use restore::RestoreArguments;
use status::StatusArguments;

const BLOB_BYTES_MAX: usize = 64 << 20;
const BAR: &str = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Save a backup of the first endpoint that can be reached. It is sealed: keep the root key of
    /// that member (DATA_DIR.key, or its passphrase) apart from it, and do keep it.
    Save { file: PathBuf },
    /// What a backup says of itself: hash, revision, keys, size, and whose root key opens it.
    Status(StatusArguments),
    /// Make the data directory of a new cluster's member out of a backup. Run it once for each
    /// member, with the same file.
    Restore(Box<RestoreArguments>),
}

/// Why there is no backup, or none that can be used. One line for a person.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotFailed {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} {source}", path.display())]
    Backup { path: PathBuf, source: BackupError },
    #[error(
        "the download ended after {bytes} bytes without its hash; nothing was kept. Is the server \
         still there?"
    )]
    Incomplete { bytes: u64 },
    #[error("what arrived has another hash than the server sent; nothing was kept")]
    Hash,
    #[error("stopped by a signal; nothing was kept")]
    Interrupted,
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("{}: {source}", path.display())]
    Sealed {
        path: PathBuf,
        source: keys::OpenBackupError,
    },
    #[error("--initial-cluster: {0}")]
    Cluster(#[from] ClusterError),
    #[error("--initial-advertise-peer-urls: {0}")]
    Url(#[from] UrlError),
    #[error("--bump-revision must be more than 0 with --mark-compacted")]
    NothingToMark,
    #[error("{}: {source}", path.display())]
    Restore {
        path: PathBuf,
        source: RestoreFailed,
    },
}

pub(super) async fn run(command: &Command, global: &Global) -> Result<(), CliError> {
    match command {
        Command::Save { file } => save(file, global).await,
        Command::Status(arguments) => status::status(arguments, global.write_out),
        Command::Restore(arguments) => restore::restore(arguments, global.write_out).await,
    }
}

async fn save(path: &Path, global: &Global) -> Result<(), CliError> {
    let client = MaintenanceClient::new(connect(global).await?);
    let mut client = client.max_decoding_message_size(BLOB_BYTES_MAX);
    let mut stream = client.snapshot(pb::SnapshotRequest {}).await?.into_inner();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut download = Download::begin(path)?;
    let bar = progress_bar();
    // However long: the server reads its whole state once before the first byte.
    loop {
        let message = tokio::select! {
            message = stream.message() => message?,
            _ = interrupt.recv() => return Err(SnapshotFailed::Interrupted.into()),
            _ = terminate.recv() => return Err(SnapshotFailed::Interrupted.into()),
        };
        let Some(message) = message else { break };
        download.take(&message.blob)?;
        bar.set_length(download.bytes + message.remaining_bytes);
        bar.set_position(download.bytes);
    }
    bar.finish_and_clear();
    let bytes = download.publish()?;
    let text = format!("Snapshot saved at {} ({bytes} bytes)\n", path.display());
    match global.write_out {
        Format::Json => print_json(&json!({ "path": path, "bytes": bytes }))?,
        Format::Table => print(&text)?,
    }
    Ok(())
}

/// On a terminal only.
fn progress_bar() -> ProgressBar {
    let shown = io::stderr().is_terminal();
    let target = if shown {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    match ProgressStyle::with_template(BAR) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SnapshotFailed {
    let path = path.to_owned();
    move |source| SnapshotFailed::Io { path, source }
}

fn unusable(path: &Path) -> impl FnOnce(BackupError) -> SnapshotFailed {
    let path = path.to_owned();
    move |source| SnapshotFailed::Backup { path, source }
}
