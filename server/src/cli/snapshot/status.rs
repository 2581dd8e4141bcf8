//! What a backup says of itself, and whether a key bundle opens it.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::super::CliError;
use super::super::output::{Format, Table, print, print_json};
use super::{SnapshotFailed, at, progress_bar, unusable};
use crate::backup::{BackupReader, Header, Summary};
use crate::start::Bundle;

#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArguments {
    file: PathBuf,
    /// Whether this key bundle holds the root key that the backup needs.
    #[arg(long)]
    key_bundle: Option<PathBuf>,
    /// The bundle's passphrase: then the bundle is opened, and with it the backup's key.
    #[arg(long, requires = "key_bundle")]
    bundle_passphrase_file: Option<PathBuf>,
}

impl StatusArguments {
    /// Says nothing if there is nothing wrong, or no bundle.
    fn check_bundle(&self, header: &Header) -> Result<(), SnapshotFailed> {
        let Some(path) = self.key_bundle.clone() else {
            return Ok(());
        };
        let opened = self.bundle_passphrase_file.is_some();
        let passphrase_file = self.bundle_passphrase_file.clone().unwrap_or_default();
        let bundle = Bundle {
            path,
            passphrase_file,
        };
        let loaded = bundle.load()?;
        let path = || self.file.clone();
        let sealed = |source| SnapshotFailed::Sealed {
            path: path(),
            source,
        };
        header.envelope.check_bundle(&loaded).map_err(sealed)?;
        if opened {
            let root = bundle.open(&loaded)?;
            header.envelope.open(&root).map_err(sealed)?;
        }
        Ok(())
    }
}

pub(super) fn status(arguments: &StatusArguments, format: Format) -> Result<(), CliError> {
    let path: &Path = &arguments.file;
    let file = File::open(path).map_err(at(path))?;
    let bar = progress_bar();
    bar.set_length(file.metadata().map_or(0, |file| file.len()));
    let reader = BackupReader::new(BufReader::new(bar.wrap_read(file))).map_err(unusable(path))?;
    let header = reader.header().clone();
    let summary = reader.finish(false);
    bar.finish_and_clear();
    let summary = summary.map_err(unusable(path))?;
    arguments.check_bundle(&header)?;
    match format {
        Format::Json => print_json(&status_json(&header, &summary))?,
        Format::Table => {
            print(&status_text(&header, &summary))?;
            if let Some(bundle) = &arguments.key_bundle {
                print(&format!("key bundle {} opens it\n", bundle.display()))?;
            }
        }
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
