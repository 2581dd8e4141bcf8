//! How far the rebuilding of a member has come, in a file beside its data directory.
//!
//! Promise: after a crash the file has the old words or the new ones.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RebuildFailed;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) cluster_id: u64,
    pub(super) old_id: u64,
    /// Once it has been added.
    pub(super) new_id: Option<u64>,
}

impl Note {
    pub(super) fn new(cluster_id: u64, old_id: u64) -> Self {
        Self {
            cluster_id,
            old_id,
            new_id: None,
        }
    }

    pub(super) fn path(data_dir: &Path) -> PathBuf {
        let mut path = data_dir.as_os_str().to_owned();
        path.push(".rebuilding");
        path.into()
    }

    pub(super) fn find(data_dir: &Path) -> Result<Option<Self>, RebuildFailed> {
        let path = Self::path(data_dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RebuildFailed::Note { path, source }),
        };
        let note = serde_json::from_slice(&text).map_err(io::Error::other);
        note.map(Some)
            .map_err(|source| RebuildFailed::Note { path, source })
    }

    pub(super) fn save(&self, data_dir: &Path) -> Result<(), RebuildFailed> {
        let path = Self::path(data_dir);
        let mut new = path.clone().into_os_string();
        new.push(".new");
        let text = serde_json::to_vec(self).expect("numbers are JSON");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        });
        written.map_err(|source| RebuildFailed::Note { path, source })
    }

    pub(super) fn remove(&self, data_dir: &Path) -> Result<(), RebuildFailed> {
        let path = Self::path(data_dir);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RebuildFailed::Note { path, source })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_found_as_it_was_left() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("data");
        assert_eq!(Note::find(&data_dir).unwrap(), None);
        let mut note = Note::new(u64::MAX, 7);
        note.save(&data_dir).unwrap();
        note.new_id = Some(8);
        note.save(&data_dir).unwrap();
        assert_eq!(Note::find(&data_dir).unwrap(), Some(note.clone()));
        note.remove(&data_dir).unwrap();
        note.remove(&data_dir).unwrap();
        assert_eq!(Note::find(&data_dir).unwrap(), None);
    }
}
