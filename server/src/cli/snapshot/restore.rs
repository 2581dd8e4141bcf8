//! A backup made the data directory of a member to be.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::super::CliError;
use super::super::output::{Format, print, print_json};
use super::{SnapshotFailed, at, progress_bar};
use crate::config::{InitialCluster, KeySource, MemberUrl};
use crate::start::{Bundle, Restore};

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArguments {
    file: PathBuf,
    /// The directory to make; NAME.sealkv by default.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// An empty directory for the raft log, which may be missing; in the data directory by
    /// default. The restored member is started with it too.
    #[arg(long)]
    wal_dir: Option<PathBuf>,
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
    /// restored member is started with it too. With a key bundle: that member's own key file,
    /// without which one is made as DATA_DIR.key.
    #[arg(long, alias = "key-file", conflicts_with = "passphrase_file")]
    root_key_file: Option<PathBuf>,
    /// A file with the passphrase of the member that the backup was saved from. With a key
    /// bundle: with the restored member's own passphrase.
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
    /// A key bundle of `sealkv keys backup`: it opens the backup, and no member's key is needed.
    #[arg(long, requires = "bundle_passphrase_file")]
    key_bundle: Option<PathBuf>,
    /// A file with the passphrase of the key bundle.
    #[arg(long, requires = "key_bundle")]
    bundle_passphrase_file: Option<PathBuf>,
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

pub(super) async fn restore(arguments: &RestoreArguments, format: Format) -> Result<(), CliError> {
    if arguments.mark_compacted && arguments.bump_revision == 0 {
        return Err(SnapshotFailed::NothingToMark.into());
    }
    let plan = plan(arguments)?;
    let path = &arguments.file;
    let file = File::open(path).map_err(at(path))?;
    let bar = progress_bar();
    bar.set_length(file.metadata().map_or(0, |file| file.len()));
    let restored = plan.run(BufReader::new(bar.wrap_read(file))).await;
    bar.finish_and_clear();
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
            "wal_dir": plan.wal_dir,
            "name": plan.name,
            "cluster_id": cluster_id,
            "member_id": member_id,
            "revision": restored.revision,
        }))?,
        Format::Table => print(&format!(
            "restored {data_dir}: member {member_id} ({}) of cluster {cluster_id}, revision {}\n\
             start it with {}{}\n",
            plan.name,
            restored.revision,
            provider_flags(&plan.key_source),
            log_flag(plan.wal_dir.as_deref()),
        ))?,
    }
    Ok(())
}

fn log_flag(wal_dir: Option<&Path>) -> String {
    let flag = wal_dir.map(|path| format!(" --wal-dir={}", path.display()));
    flag.unwrap_or_default()
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
        (None, None) if arguments.key_bundle.is_some() => KeySource::GeneratedKeyFile {
            path: beside(&data_dir),
        },
        (None, None) => KeySource::KeyFile {
            path: beside(&data_dir),
        },
    };
    let bundle = arguments.key_bundle.clone();
    let bundle = bundle.zip(arguments.bundle_passphrase_file.clone());
    Ok(Restore {
        data_dir,
        wal_dir: arguments.wal_dir.clone(),
        name,
        initial_cluster,
        advertise_peer_urls: peer_urls,
        cluster_token: arguments.initial_cluster_token.clone(),
        key_source,
        bundle: bundle.map(|(path, passphrase_file)| Bundle {
            path,
            passphrase_file,
        }),
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
