//! A backup on its way to a file.
//!
//! Promise: under its final name it is whole, synced and has the hash that it ends with; whatever
//! goes wrong before leaves no file, and an older one as it was.
//! Not known here: where the bytes come from.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{SnapshotFailed, at};

const SHA256_BYTES: usize = 32;
/// Of which a backup is a multiple, its hash aside.
const BLOCK_BYTES: u64 = 512;

/// A file under another name until it is whole.
pub(super) struct Download {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    digest: Sha256,
    /// What may be the closing hash.
    tail: Vec<u8>,
    pub(super) bytes: u64,
    published: bool,
}

impl Download {
    pub(super) fn begin(path: &Path) -> Result<Self, SnapshotFailed> {
        let mut temporary = path.as_os_str().to_owned();
        // Two who save to one file do not write to each other's.
        temporary.push(format!(".part-{}", std::process::id()));
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

    pub(super) fn take(&mut self, blob: &[u8]) -> Result<(), SnapshotFailed> {
        self.file.write_all(blob).map_err(at(&self.temporary))?;
        self.bytes += blob.len() as u64;
        self.tail.extend_from_slice(blob);
        let before = self.tail.len().saturating_sub(SHA256_BYTES);
        self.digest.update(&self.tail[..before]);
        self.tail.drain(..before);
        Ok(())
    }

    pub(super) fn publish(mut self) -> Result<u64, SnapshotFailed> {
        let bytes = self.bytes;
        if bytes % BLOCK_BYTES != SHA256_BYTES as u64 {
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
