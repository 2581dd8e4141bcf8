//! The few things the log asks of a disk, and the real one.
//!
//! Promise: bytes passed to `write_at` are on disk when a later `sync_data` of that file has
//! returned; names when `sync_directory` has. Nothing more is relied on.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of log files.
pub trait LogDisk: Send + Sync + 'static {
    /// The names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file; an existing one is an error.
    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>>;
    /// Replaces nothing: the caller never renames onto an existing name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed names durable.
    fn sync_directory(&self) -> io::Result<()>;
}

/// One file. Shared by the writer and any number of readers.
pub trait LogFile: Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buffer` whole, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all bytes, extending the file if they reach past its end.
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes every byte written so far durable, with the length that is needed to read it back.
    fn sync_data(&self) -> io::Result<()>;
}

/// A directory of the file system. Files are readable by their owner alone.
#[derive(Debug)]
pub struct DirectoryDisk {
    path: PathBuf,
    syncs: bool,
}

impl DirectoryDisk {
    /// Opens a directory, making it first if it is absent.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self {
            path: path.to_owned(),
            syncs: true,
        })
    }

    /// Breaks the promise of this module: what was written is on disk when the operating system
    /// gets to it.
    #[must_use]
    pub fn without_syncs(self) -> Self {
        Self {
            syncs: false,
            ..self
        }
    }

    fn file(&self, file: File) -> Arc<dyn LogFile> {
        if self.syncs {
            Arc::new(file)
        } else {
            Arc::new(Unsynced(file))
        }
    }

    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        options
    }
}

impl LogDisk for DirectoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let file = Self::options()
            .create_new(true)
            .open(self.path.join(name))?;
        Ok(self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        Ok(self.file(Self::options().open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        if !self.syncs {
            return Ok(());
        }
        File::open(&self.path)?.sync_all()
    }
}

/// A file that is never synced.
struct Unsynced(File);

impl LogFile for Unsynced {
    fn len(&self) -> io::Result<u64> {
        LogFile::len(&self.0)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        LogFile::read_exact_at(&self.0, offset, buffer)
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        LogFile::write_all_at(&self.0, offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

impl LogFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
