//! `sealkv snapshot`: save a backup, look at one, make a data directory out of one.
//!
//! Promise: a file under its final name is whole, synced and has the hash that it ends with;
//! `status` and `restore` work without a server and send nothing anywhere.
//! Not known here: the bytes of a backup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::connect::connect;
use super::output::{Format, Table, print, print_json};
use super::{CliError, Global};
use crate::backup::{BackupError, BackupReader, Header, Summary};
use crate::config::{ClusterError, InitialCluster, KeySource, MemberUrl, UrlError};
use crate::start::{Restore, RestoreFailed};

const SHA256_BYTES: usize = 32;
const BLOB_BYTES_MAX: usize = 64 << 20;
const BAR: &str = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Save a backup of the first endpoint that can be reached. It is sealed: keep the root key of
    /// that member (DATA_DIR.key, or its passphrase) apart from it, and do keep it.
    Save { file: PathBuf },
    /// What a backup says of itself: hash, revision, keys, size, and whose root key opens it.
    Status { file: PathBuf },
    /// Make the data directory of a new cluster's member out of a backup. Run it once for each
    /// member, with the same file.
    Restore(Box<RestoreArguments>),
}

#[derive(Debug, Args)]
pub(super) struct RestoreArguments {
    file: PathBuf,
    /// The directory to make; NAME.sealkv by default.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// This member's name.
    #[arg(long, default_value = "default")]
    name: String,
    /// The members of the new cluster: name=url,name=url.
    #[arg(long)]
    initial_cluster: Option<String>,
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// This member's peer URLs, as in --initial-cluster.
    #[arg(long, default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: String,
    /// The key file of the member that the backup was saved from; DATA_DIR.key by default. The
    /// restored member is started with it too.
    #[arg(long, alias = "key-file", conflicts_with = "passphrase_file")]
    root_key_file: Option<PathBuf>,
    /// A file with the passphrase of the member that the backup was saved from.
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
    /// Take a file without the hash at its end, or with another. Its contents are authenticated
    /// in any case.
    #[arg(long)]
    skip_hash_check: bool,
    /// How far to move the revision, so that clients see none twice.
    #[arg(long, default_value_t = 0, requires = "mark_compacted",
          value_parser = clap::value_parser!(i64).range(0..))]
    bump_revision: i64,
    /// Everything up to the moved revision counts as compacted: watchers start anew.
    #[arg(long, requires = "bump_revision")]
    mark_compacted: bool,
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
        Command::Status { file } => status(file, global.write_out),
        Command::Restore(arguments) => restore(arguments, global.write_out).await,
    }
}

async fn save(path: &Path, global: &Global) -> Result<(), CliError> {
    let client = MaintenanceClient::new(connect(global).await?);
    let mut client = client.max_decoding_message_size(BLOB_BYTES_MAX);
    let mut stream = client.snapshot(pb::SnapshotRequest {}).await?.into_inner();
    let mut download = Download::begin(path)?;
    let bar = progress_bar();
    // However long: the server reads its whole state once before the first byte.
    while let Some(message) = stream.message().await? {
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

/// A file under another name until it is whole.
struct Download {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    digest: Sha256,
    /// What may be the closing hash.
    tail: Vec<u8>,
    bytes: u64,
    published: bool,
}

impl Download {
    fn begin(path: &Path) -> Result<Self, SnapshotFailed> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".part");
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(at(&temporary))?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            file,
            digest: Sha256::new(),
            tail: Vec::new(),
            bytes: 0,
            published: false,
        })
    }

    fn take(&mut self, blob: &[u8]) -> Result<(), SnapshotFailed> {
        self.file.write_all(blob).map_err(at(&self.temporary))?;
        self.bytes += blob.len() as u64;
        self.tail.extend_from_slice(blob);
        let before = self.tail.len().saturating_sub(SHA256_BYTES);
        self.digest.update(&self.tail[..before]);
        self.tail.drain(..before);
        Ok(())
    }

    fn publish(mut self) -> Result<u64, SnapshotFailed> {
        let bytes = self.bytes;
        if bytes % 512 != SHA256_BYTES as u64 {
            return Err(SnapshotFailed::Incomplete { bytes });
        }
        if self.digest.clone().finalize()[..] != self.tail[..] {
            return Err(SnapshotFailed::Hash);
        }
        self.file.sync_all().map_err(at(&self.temporary))?;
        fs::rename(&self.temporary, &self.path).map_err(at(&self.path))?;
        self.published = true;
        let parent = self
            .path
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let synced = File::open(parent).and_then(|directory| directory.sync_all());
        synced.map_err(at(parent))?;
        Ok(bytes)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn open(path: &Path) -> Result<BackupReader<BufReader<File>>, SnapshotFailed> {
    let file = File::open(path).map_err(at(path))?;
    BackupReader::new(BufReader::new(file)).map_err(unusable(path))
}

fn status(path: &Path, format: Format) -> Result<(), CliError> {
    let reader = open(path)?;
    let header = reader.header().clone();
    let summary = reader.finish(false).map_err(unusable(path))?;
    match format {
        Format::Json => print_json(&status_json(&header, &summary))?,
        Format::Table => print(&status_text(&header, &summary))?,
    }
    Ok(())
}

/// The first four bytes of the SHA-256, where etcd shows a CRC.
fn short_hash(summary: &Summary) -> u32 {
    let sha256 = summary.sha256.unwrap_or_default();
    u32::from_be_bytes([sha256[0], sha256[1], sha256[2], sha256[3]])
}

fn status_json(header: &Header, summary: &Summary) -> serde_json::Value {
    let data_keys = header.data_keys.iter().map(|key| {
        json!({
            "prefix_key_id": key.prefix_key_id,
            "version": key.dek_version,
            "values": key.values,
        })
    });
    json!({
        "hash": short_hash(summary),
        "revision": header.revision,
        "totalKey": header.records,
        "totalSize": summary.bytes,
        "version": header.storage_version,
        "sha256": hex::encode(summary.sha256.unwrap_or_default()),
        "compact_revision": header.compact_revision,
        "cluster_id": format!("{:x}", header.cluster_id),
        "member_id": format!("{:x}", header.member_id),
        "keyring_id": hex::encode(header.envelope.keyring_id().as_bytes()),
        "root_version": header.envelope.root_version(),
        "key_provider": header.envelope.provider().as_str(),
        "data_keys": data_keys.collect::<Vec<_>>(),
    })
}

fn status_text(header: &Header, summary: &Summary) -> String {
    let mut table = Table::new(&["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"]);
    table.row([
        format!("{:08x}", short_hash(summary)),
        header.revision.to_string(),
        header.records.to_string(),
        summary.bytes.to_string(),
        header.storage_version.clone(),
    ]);
    let mut keys = Table::new(&["KEY", "VERSION", "VALUES"]);
    for key in &header.data_keys {
        keys.row([
            key.prefix_key_id.to_string(),
            key.dek_version.to_string(),
            key.values.to_string(),
        ]);
    }
    format!(
        "{}\ncluster {:x}, keyring {}, root version {}\nopened by the key provider ({}) of member \
         {:x}\n\n{}",
        table.text(),
        header.cluster_id,
        hex::encode(header.envelope.keyring_id().as_bytes()),
        header.envelope.root_version(),
        header.envelope.provider(),
        header.member_id,
        keys.text(),
    )
}

async fn restore(arguments: &RestoreArguments, format: Format) -> Result<(), CliError> {
    if arguments.mark_compacted && arguments.bump_revision == 0 {
        return Err(SnapshotFailed::NothingToMark.into());
    }
    let plan = plan(arguments)?;
    let path = &arguments.file;
    let file = File::open(path).map_err(at(path))?;
    let restored = plan.run(BufReader::new(file)).await;
    let restored = restored.map_err(|source| SnapshotFailed::Restore {
        path: path.clone(),
        source,
    })?;
    let (cluster_id, member_id) = (
        format!("{:x}", restored.cluster_id),
        format!("{:x}", restored.member_id),
    );
    let data_dir = plan.data_dir.display();
    match format {
        Format::Json => print_json(&json!({
            "data_dir": plan.data_dir,
            "name": plan.name,
            "cluster_id": cluster_id,
            "member_id": member_id,
            "revision": restored.revision,
        }))?,
        Format::Table => print(&format!(
            "restored {data_dir}: member {member_id} ({}) of cluster {cluster_id}, revision {}\n\
             start it with {}\n",
            plan.name,
            restored.revision,
            provider_flags(&plan.key_source),
        ))?,
    }
    Ok(())
}

fn provider_flags(source: &KeySource) -> String {
    match source {
        KeySource::GeneratedKeyFile { path } | KeySource::KeyFile { path } => {
            format!("--root-key-file={}", path.display())
        }
        KeySource::Passphrase { path } => {
            format!(
                "--key-provider=passphrase --passphrase-file={}",
                path.display()
            )
        }
    }
}

fn plan(arguments: &RestoreArguments) -> Result<Restore, SnapshotFailed> {
    let name = arguments.name.clone();
    let data_dir = arguments.data_dir.clone();
    let data_dir = data_dir.unwrap_or_else(|| PathBuf::from(format!("{name}.sealkv")));
    let peer_urls = MemberUrl::parse_list(&arguments.initial_advertise_peer_urls)?;
    let initial_cluster = match &arguments.initial_cluster {
        Some(given) => InitialCluster::parse(given)?,
        None => InitialCluster::of(&name, &peer_urls),
    };
    let key_source = match (&arguments.root_key_file, &arguments.passphrase_file) {
        (_, Some(path)) => KeySource::Passphrase { path: path.clone() },
        (Some(path), None) => KeySource::KeyFile { path: path.clone() },
        (None, None) => KeySource::KeyFile {
            path: beside(&data_dir),
        },
    };
    Ok(Restore {
        data_dir,
        name,
        initial_cluster,
        advertise_peer_urls: peer_urls,
        cluster_token: arguments.initial_cluster_token.clone(),
        key_source,
        skip_hash_check: arguments.skip_hash_check,
        revision_bump: arguments.bump_revision,
    })
}

/// Where a server that is given no key file looks for it.
fn beside(data_dir: &Path) -> PathBuf {
    let mut path = data_dir.as_os_str().to_owned();
    path.push(".key");
    path.into()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SnapshotFailed {
    let path = path.to_owned();
    move |source| SnapshotFailed::Io { path, source }
}

fn unusable(path: &Path) -> impl FnOnce(BackupError) -> SnapshotFailed {
    let path = path.to_owned();
    move |source| SnapshotFailed::Backup { path, source }
}
