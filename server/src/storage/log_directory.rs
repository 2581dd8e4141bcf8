//! `--wal-dir`: a raft log that lies in a directory of its own, and the link in the data directory
//! that says where.
//!
//! Promise: a data directory has one log, for ever in the place where it was begun; a flag that
//! says otherwise is refused before anything is written. A place that holds files, or that another
//! process uses, is not taken.
//! Not known here: what is in a log.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::directory::{create_dir, io_error, lock, sync_dir};
use super::error::DirectoryError;

/// In the log's own directory.
const LOCK: &str = "LOCK";

/// What there is under the name that the data directory has for the log.
enum Found {
    Nothing,
    Directory,
    LinkTo(PathBuf),
}

/// Holds the log's directory against `wanted`, and links it if this is the first start. The lock
/// of a directory of its own.
pub(super) fn place(log: &Path, wanted: Option<&Path>) -> Result<Option<File>, DirectoryError> {
    match (look(log)?, wanted) {
        (Found::Nothing | Found::Directory, None) => Ok(None),
        (Found::LinkTo(path), None) => Err(DirectoryError::LogElsewhere { path }),
        (Found::Directory, Some(wanted)) if is_same(log, wanted) => Ok(None),
        (Found::Directory, Some(_)) => Err(DirectoryError::LogElsewhere {
            path: log.to_owned(),
        }),
        (Found::LinkTo(path), Some(wanted)) => {
            if !path.is_dir() {
                return Err(DirectoryError::LogMissing { path });
            }
            if !is_same(&path, wanted) {
                return Err(DirectoryError::LogElsewhere { path });
            }
            lock(&path.join(LOCK)).map(Some)
        }
        (Found::Nothing, Some(wanted)) => begin(log, wanted),
    }
}

fn look(log: &Path) -> Result<Found, DirectoryError> {
    match fs::symlink_metadata(log) {
        Ok(found) if found.is_symlink() => {
            let target = fs::read_link(log).map_err(io_error(log))?;
            Ok(Found::LinkTo(target))
        }
        Ok(_) => Ok(Found::Directory),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(source) => Err(io_error(log)(source)),
    }
}

/// Refuses a place that holds anything but a lock.
pub(super) fn check_empty(place: &Path) -> Result<(), DirectoryError> {
    for entry in fs::read_dir(place).map_err(io_error(place))? {
        if entry.map_err(io_error(place))?.file_name() != LOCK {
            return Err(DirectoryError::LogNotEmpty { path: place.into() });
        }
    }
    Ok(())
}

fn begin(log: &Path, wanted: &Path) -> Result<Option<File>, DirectoryError> {
    create_dir(wanted)?;
    if is_same(log, wanted) {
        return Ok(None);
    }
    let place = fs::canonicalize(wanted).map_err(io_error(wanted))?;
    let locked = lock(&place.join(LOCK))?;
    check_empty(&place)?;
    symlink(&place, log).map_err(io_error(log))?;
    if let Some(root) = log.parent() {
        sync_dir(root)?;
    }
    Ok(Some(locked))
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::DataDir;

    fn place_in(root: &Path, wanted: Option<&Path>) -> Result<DataDir, DirectoryError> {
        let mut directory = DataDir::open(&root.join("data"))?;
        directory.keep_log_in(wanted)?;
        Ok(directory)
    }

    #[test]
    fn a_log_of_its_own_directory_stays_where_it_was_begun() {
        let root = tempfile::tempdir().unwrap();
        let (root, wal) = (root.path(), root.path().join("fast/wal"));
        let first = place_in(root, Some(&wal)).unwrap();
        fs::write(first.log().join("0000000000000000.log"), b"x").unwrap();
        assert!(wal.join("0000000000000000.log").exists());
        drop(first);
        drop(place_in(root, Some(&wal)).unwrap());
        for other in [None, Some(root.join("other"))] {
            let error = place_in(root, other.as_deref()).unwrap_err();
            assert!(
                matches!(error, DirectoryError::LogElsewhere { .. }),
                "{error}"
            );
        }
        assert!(!root.join("other").exists());
        fs::remove_dir_all(&wal).unwrap();
        let error = place_in(root, Some(&wal)).unwrap_err();
        assert!(
            matches!(error, DirectoryError::LogMissing { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_log_in_the_data_directory_stays_there() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let first = place_in(root, None).unwrap();
        fs::create_dir(first.log()).unwrap();
        drop(first);
        let error = place_in(root, Some(&root.join("wal"))).unwrap_err();
        assert!(
            matches!(error, DirectoryError::LogElsewhere { .. }),
            "{error}"
        );
        drop(place_in(root, Some(&root.join("data/log"))).unwrap());
    }

    #[test]
    fn a_place_with_files_or_in_use_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        let wal = root.path().join("wal");
        let held = place_in(&root.path().join("a"), Some(&wal)).unwrap();
        let error = place_in(&root.path().join("b"), Some(&wal)).unwrap_err();
        assert!(matches!(error, DirectoryError::Locked { .. }), "{error}");
        drop(held);
        fs::write(wal.join("file"), b"x").unwrap();
        let error = place_in(&root.path().join("b"), Some(&wal)).unwrap_err();
        assert!(
            matches!(error, DirectoryError::LogNotEmpty { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_new_member_finds_no_log_in_the_place_for_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let (root, place) = (directory.path().join("data"), directory.path().join("log"));
        let check = |place: &Path| DataDir::check_unused(&root, Some(place));
        check(&place).unwrap();
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(LOCK), "").unwrap();
        check(&place).unwrap();
        fs::write(place.join("0000000000000001.log"), "").unwrap();
        let refused = check(&place);
        assert!(matches!(refused, Err(DirectoryError::LogNotEmpty { .. })));
        // What lies inside is set aside with the rest.
        fs::create_dir_all(root.join("log")).unwrap();
        fs::write(root.join("log/0000000000000001.log"), "").unwrap();
        check(&root.join("log")).unwrap();
    }
}
