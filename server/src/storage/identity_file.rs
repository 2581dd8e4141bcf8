//! The sealed file that says whose data directory it is, written once.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::directory::DataDir;
use super::error::DirectoryError;

const IDENTITY: &str = "identity";
const IDENTITY_NEW: &str = "identity.new";

impl DataDir {
    fn identity(&self) -> PathBuf {
        self.root().join(IDENTITY)
    }

    /// Replaces the file by one rename, after its bytes are synced.
    pub fn write_identity(&self, sealed: &[u8]) -> Result<(), DirectoryError> {
        let new = self.root().join(IDENTITY_NEW);
        write_synced(&new, sealed).map_err(|source| at(&new, source))?;
        let path = self.identity();
        fs::rename(&new, &path).map_err(|source| at(&path, source))?;
        File::open(self.root())
            .and_then(|directory| directory.sync_all())
            .map_err(|source| at(self.root(), source))
    }

    /// None before the member's first start came that far.
    pub fn read_identity(&self) -> Result<Option<Vec<u8>>, DirectoryError> {
        let path = self.identity();
        match fs::read(&path) {
            Ok(sealed) => Ok(Some(sealed)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(at(&path, source)),
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn at(path: &Path, source: io::Error) -> DirectoryError {
    DirectoryError::Io {
        path: path.to_owned(),
        source,
    }
}
