//! Something made of files, made again when they change.
//!
//! Promise: what is in force was made of files that were read together and understood; new bytes
//! that cannot be used are tried once, logged once, and change nothing; files that did not change
//! are not read.
//! Not known here: what is in the files.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::TlsError;
use super::pem::Files;
use crate::clock;

/// A file this young may change again without its times showing it.
const SETTLED_AFTER_MS: i64 = 2_000;

type Make<T> = Box<dyn Fn(&Files) -> Result<T, TlsError> + Send + Sync>;

pub(super) struct Source<T> {
    /// For the log.
    what: &'static str,
    paths: Vec<PathBuf>,
    make: Make<T>,
    current: ArcSwap<T>,
    seen: Mutex<Seen>,
}

/// The last attempt, whether it came to anything or not.
struct Seen {
    stamps: Vec<Option<Stamp>>,
    /// `None`: files could not be read.
    digest: Option<[u8; 32]>,
    /// The text of what was logged last, until an attempt succeeds.
    failed: Option<String>,
}

/// What tells that a file is another one, short of reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    settled: bool,
}

pub(super) trait Refresh: Send + Sync {
    /// Blocks on the disk.
    fn refresh(&self);
}

impl<T> std::fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("what", &self.what)
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Source<T> {
    pub(super) fn load(
        what: &'static str,
        paths: Vec<PathBuf>,
        make: impl Fn(&Files) -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, TlsError> {
        // Before the bytes: a change in between is seen next time.
        let stamps = stamps(&paths);
        let files = Files::read(&paths)?;
        let current = make(&files)?;
        Ok(Arc::new(Self {
            what,
            paths,
            make: Box::new(make),
            current: ArcSwap::from_pointee(current),
            seen: Mutex::new(Seen {
                stamps,
                digest: Some(digest(&files)),
                failed: None,
            }),
        }))
    }

    pub(super) fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    fn attempt(&self, seen: &mut Seen) -> Result<bool, TlsError> {
        let files = Files::read(&self.paths).inspect_err(|_| seen.digest = None)?;
        let digest = digest(&files);
        if seen.digest.replace(digest) == Some(digest) {
            return Ok(false);
        }
        self.current.store(Arc::new((self.make)(&files)?));
        Ok(true)
    }
}

impl<T: Send + Sync + 'static> Refresh for Source<T> {
    fn refresh(&self) {
        let mut seen = self.seen.lock();
        let stamps = stamps(&self.paths);
        let settled = stamps.iter().flatten().all(|stamp| stamp.settled);
        if settled && seen.stamps == stamps {
            return;
        }
        seen.stamps = stamps;
        match self.attempt(&mut seen) {
            Ok(true) => {
                seen.failed = None;
                tracing::info!(files = %list(&self.paths), "{} in force again from changed files", self.what);
            }
            Ok(false) => {}
            Err(error) => {
                let error = error.to_string();
                if seen.failed.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "changed files of {} cannot be used; what was in force stays in force",
                        self.what
                    );
                    seen.failed = Some(error);
                }
            }
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let shown = paths.iter().map(|path| path.display().to_string());
    shown.collect::<Vec<_>>().join(", ")
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| std::fs::metadata(path as &Path).ok().map(Stamp::of);
    paths.iter().map(stamp).collect()
}

impl Stamp {
    fn of(file: Metadata) -> Self {
        let modified_ms = file.mtime() * 1000 + file.mtime_nsec() / 1_000_000;
        Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
            settled: clock::wall_ms() - modified_ms > SETTLED_AFTER_MS,
        }
    }
}

fn digest(files: &Files) -> [u8; 32] {
    let mut hash = Sha256::new();
    for bytes in files.0.values() {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes.as_slice());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Its length; what begins with `x` is refused.
    fn lengths(path: &Path) -> (Arc<Source<usize>>, Arc<AtomicUsize>) {
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = attempts.clone();
        let source = Source::load("a test", vec![path.to_owned()], move |files| {
            counted.fetch_add(1, Ordering::Relaxed);
            let bytes = files.0.values().next().unwrap();
            if bytes.starts_with(b"x") {
                return Err(TlsError::NoRoots { flag: "x" });
            }
            Ok(bytes.len())
        });
        (source.unwrap(), attempts)
    }

    #[test]
    fn new_bytes_come_into_force_and_broken_ones_are_tried_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "abc").unwrap();
        let (source, attempts) = lengths(&path);
        source.refresh();
        assert_eq!(
            (*source.current(), attempts.load(Ordering::Relaxed)),
            (3, 1)
        );
        std::fs::write(&path, "abcd").unwrap();
        source.refresh();
        assert_eq!(
            (*source.current(), attempts.load(Ordering::Relaxed)),
            (4, 2)
        );
        for _ in 0..3 {
            std::fs::write(&path, "xy").unwrap();
            source.refresh();
        }
        assert_eq!(
            (*source.current(), attempts.load(Ordering::Relaxed)),
            (4, 3)
        );
        assert!(source.seen.lock().failed.is_some());
        std::fs::remove_file(&path).unwrap();
        source.refresh();
        assert_eq!(*source.current(), 4);
        // The same bytes as those in force: nothing is wrong any more.
        std::fs::write(&path, "abcd").unwrap();
        source.refresh();
        assert_eq!(*source.current(), 4);
        assert!(source.seen.lock().failed.is_none());
    }

    #[test]
    fn a_file_that_rests_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "abc").unwrap();
        let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(old).unwrap();
        let (source, _) = lengths(&path);
        // Were it read, it would be seen to differ.
        source.seen.lock().digest = None;
        source.refresh();
        assert!(source.seen.lock().digest.is_none());
        file.set_modified(old - Duration::from_secs(1)).unwrap();
        source.refresh();
        assert!(source.seen.lock().digest.is_some());
    }
}
