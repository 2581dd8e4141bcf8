//! `sealkv keys backup`: the root key under a passphrase, in a file apart from every member.
//!
//! Promise: the root key is opened here, with the key file or passphrase of the member that is
//! asked, and crosses no wire; a file that is there is not replaced.
//! Not known here: the bytes of a bundle.

use std::path::PathBuf;

use clap::Args;
use keys::{Argon2Cost, BackupEnvelope, KeyBundle, PassphraseProvider};
use proto::sealkv::v1::KeysEnvelopeRequest;
use proto::sealkv::v1::keys_client::KeysClient;
use serde_json::json;

use super::CliError;
use super::login::Session;
use super::output::{Format, print, print_json};
use crate::config::KeySource;
use crate::start::{BundleError, StartError, open_provider};

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The bundle to make.
    file: PathBuf,
    /// A file with the passphrase to seal it under.
    #[arg(long)]
    bundle_passphrase_file: PathBuf,
    /// The key file of the member that is asked.
    #[arg(long, alias = "key-file", required_unless_present = "passphrase_file")]
    root_key_file: Option<PathBuf>,
    /// A file with the passphrase of the member that is asked.
    #[arg(long, conflicts_with = "root_key_file")]
    passphrase_file: Option<PathBuf>,
}

/// Why there is no bundle. One line for a person.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupFailed {
    #[error("the member's answer {0}")]
    Envelope(#[from] keys::DecodeError),
    #[error(transparent)]
    Provider(#[from] StartError),
    #[error("the root key does not open: {0}")]
    Sealed(#[from] keys::OpenBackupError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("the root key cannot be sealed: {0}")]
    Seal(#[from] keys::ProviderError),
}

pub(super) async fn run(
    backup: &Backup,
    mut client: KeysClient<Session>,
    format: Format,
) -> Result<(), CliError> {
    let answer = client.envelope(KeysEnvelopeRequest {}).await?.into_inner();
    let (bundle, member_id) = make(backup, &answer.envelope)?;
    let keyring = bundle.keyring_id().to_string();
    let version = bundle.root_version();
    match format {
        Format::Json => print_json(&json!({
            "path": backup.file,
            "keyring_id": keyring,
            "root_version": version,
            "member_id": format!("{member_id:x}"),
        }))?,
        Format::Table => print(&format!(
            "Key bundle saved at {}: root key version {version} of keyring {keyring}\n\
             with its passphrase it opens every backup made under that root key; keep both, apart\n",
            backup.file.display()
        ))?,
    }
    Ok(())
}

fn make(backup: &Backup, envelope: &[u8]) -> Result<(KeyBundle, u64), BackupFailed> {
    let envelope = BackupEnvelope::decode(envelope)?;
    // A mistake in either file is found before the other costs a second of Argon2.
    let path = &backup.bundle_passphrase_file;
    let passphrase = PassphraseProvider::from_file(path, Argon2Cost::DEFAULT);
    let passphrase = passphrase.map_err(BundleError::from)?;
    let source = match (&backup.root_key_file, &backup.passphrase_file) {
        (Some(path), _) => KeySource::KeyFile { path: path.clone() },
        (None, path) => KeySource::Passphrase {
            path: path.clone().unwrap_or_default(),
        },
    };
    let root = envelope.open_root(&*open_provider(&source, true)?)?;
    let bundle = KeyBundle::seal(&root, &passphrase)?;
    bundle.save(&backup.file).map_err(BundleError::from)?;
    Ok((bundle, envelope.member_id()))
}
