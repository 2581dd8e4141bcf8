//! The data directory of one member.
//!
//! ```text
//! DATA_DIR/LOCK        held while a process uses the directory
//!          CURRENT     the name of the live state, replaced by one rename
//!          state-N/    a store; a number is used once
//!          member.key  the storage keys, wrapped
//!          inherited.root   of a restored member: the root key, until its slot opens it
//!          log/        the raft log, or a link to the directory it lies in
//!          UNFINISHED  until everything is in it that a restore has to put there
//! ```
//!
//! Promise: a crash at any moment leaves the old state or the new one, and the next open removes
//! what was left over. An etcd data directory is refused by its `member/` and not touched.
//! Not known here: what is in a state, a log or `member.key`.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::DirectoryError;
use super::log_directory;
use super::sealed::RowSealer;
use super::store::{Store, StoreOptions};

const LOCK: &str = "LOCK";
const CURRENT: &str = "CURRENT";
/// Written first, then renamed to `CURRENT`.
const CURRENT_NEW: &str = "CURRENT.new";
const STATE_PREFIX: &str = "state-";
const MEMBER_KEY: &str = "member.key";
/// Only in a restored directory, until the member has been enrolled.
const INHERITED_ROOT: &str = "inherited.root";
const LOG: &str = "log";
const UNFINISHED: &str = "UNFINISHED";
/// etcd keeps everything below this directory.
const ETCD_MEMBER: &str = "member";

/// An open data directory. Other processes are kept out until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    /// The number of the live state.
    current: Option<u64>,
    next_state: u64,
    _lock: File,
    /// Of a raft log that lies elsewhere.
    log_lock: Option<File>,
}

/// A store that becomes the live state when it is published, and is removed if it is not.
#[must_use = "an unpublished state is removed"]
pub struct StagedState {
    store: Store,
    number: u64,
    published: bool,
}

/// Where a member's states live, one of them at a time.
pub trait StateDirectory: Send {
    /// An empty store beside the live one.
    fn stage_state(&mut self, keys: keys::StorageKeys) -> Result<StagedState, DirectoryError>;

    /// Makes a staged state the live one, durably, at once.
    fn publish_state(
        &mut self,
        staged: StagedState,
        superseded: &Store,
    ) -> Result<Store, DirectoryError>;
}

impl StateDirectory for DataDir {
    fn stage_state(&mut self, keys: keys::StorageKeys) -> Result<StagedState, DirectoryError> {
        self.stage(keys, StoreOptions::default())
    }

    fn publish_state(
        &mut self,
        staged: StagedState,
        superseded: &Store,
    ) -> Result<Store, DirectoryError> {
        self.publish(staged, Some(superseded))
    }
}

impl DataDir {
    /// Creates the directory, for its owner alone, if it is missing.
    pub fn open(root: &Path) -> Result<Self, DirectoryError> {
        if root.join(ETCD_MEMBER).exists() {
            let path = root.to_owned();
            return Err(DirectoryError::Etcd { path });
        }
        create_dir(root)?;
        let lock = lock(&root.join(LOCK))?;
        if root.join(UNFINISHED).exists() {
            let path = root.to_owned();
            return Err(DirectoryError::Unfinished { path });
        }
        let current = read_current(root)?;
        let newest = remove_leftovers(root, current)?;
        Ok(Self {
            root: root.to_owned(),
            current,
            next_state: newest + 1,
            _lock: lock,
            log_lock: None,
        })
    }

    /// Where the raft log is to lie: in this directory if `wal_dir` is none. To be told before
    /// the log is looked for.
    pub fn keep_log_in(&mut self, wal_dir: Option<&Path>) -> Result<(), DirectoryError> {
        self.log_lock = log_directory::place(&self.log(), wal_dir)?;
        Ok(())
    }

    /// Whether a process has the directory open. One that is just being made counts as well.
    pub fn is_in_use(root: &Path) -> bool {
        let lock = OpenOptions::new().write(true).open(root.join(LOCK));
        !lock.is_ok_and(|lock| lock.try_lock().is_ok())
    }

    /// Refused while a process has it open, or if it is an etcd's; so is a directory for the log
    /// that is not empty. Neither need be there.
    pub fn check_unused(root: &Path, wal_dir: Option<&Path>) -> Result<(), DirectoryError> {
        if root.join(ETCD_MEMBER).exists() {
            let path = root.to_owned();
            return Err(DirectoryError::Etcd { path });
        }
        // What lies inside goes where the directory goes.
        let outside = |place: &&Path| !place.starts_with(root);
        if let Some(place) = wal_dir.filter(outside).filter(|place| place.is_dir()) {
            log_directory::check_empty(place)?;
        }
        match root.is_dir() {
            true => lock(&root.join(LOCK)).map(drop),
            false => Ok(()),
        }
    }

    /// Renames the directory, for good: whoever starts in its place finds nothing. Gives the new
    /// name, and nothing if there was no directory.
    pub fn set_aside(root: &Path) -> Result<Option<PathBuf>, DirectoryError> {
        if !root.is_dir() {
            return Ok(None);
        }
        let _lock = lock(&root.join(LOCK))?;
        let numbered = |number: u32| {
            let mut name = root.as_os_str().to_owned();
            name.push(format!(".lost-{number}"));
            PathBuf::from(name)
        };
        let aside = (1..).map(numbered).find(|path| !path.exists());
        let aside = aside.expect("fewer than four billion directories stand beside this one");
        fs::rename(root, &aside).map_err(io_error(root))?;
        match root.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent)?,
            _ => sync_dir(Path::new("."))?,
        }
        Ok(Some(aside))
    }

    /// From now on nobody opens it, until [`DataDir::finish`].
    pub fn begin(&self) -> Result<(), DirectoryError> {
        let path = self.root.join(UNFINISHED);
        let made = File::create(&path).and_then(|file| file.sync_all());
        made.map_err(io_error(&path))?;
        sync_dir(&self.root)
    }

    pub fn finish(&self) -> Result<(), DirectoryError> {
        let path = self.root.join(UNFINISHED);
        fs::remove_file(&path).map_err(io_error(&path))?;
        sync_dir(&self.root)
    }

    /// Nothing of a member is in it: no state, no log, no `member.key`.
    pub fn is_new(&self) -> bool {
        self.current.is_none() && !self.member_key().exists() && !self.log().exists()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn member_key(&self) -> PathBuf {
        self.root.join(MEMBER_KEY)
    }

    pub fn inherited_root(&self) -> PathBuf {
        self.root.join(INHERITED_ROOT)
    }

    pub fn log(&self) -> PathBuf {
        Self::log_in(&self.root)
    }

    pub fn log_in(root: &Path) -> PathBuf {
        root.join(LOG)
    }

    /// A new state was published once.
    pub fn has_state(&self) -> bool {
        self.current.is_some()
    }

    /// The live state, nothing before the first one is published.
    pub fn open_state(
        &self,
        sealer: impl RowSealer + 'static,
        options: StoreOptions,
    ) -> Result<Option<Store>, DirectoryError> {
        let Some(number) = self.current else {
            return Ok(None);
        };
        let path = self.state(number);
        let store = Store::open(&path, sealer, options);
        store
            .map(Some)
            .map_err(|source| DirectoryError::Store { path, source })
    }

    /// An empty store beside the live one: the first state of a member, or a received snapshot.
    pub fn stage(
        &mut self,
        sealer: impl RowSealer + 'static,
        options: StoreOptions,
    ) -> Result<StagedState, DirectoryError> {
        let number = self.next_state;
        self.next_state += 1;
        let path = self.state(number);
        let store = Store::create(&path, sealer, options)
            .map_err(|source| DirectoryError::Store { path, source })?;
        Ok(StagedState {
            store,
            number,
            published: false,
        })
    }

    /// Makes a staged state the live one, by one rename after everything in it is synced.
    ///
    /// `superseded` is the store that was live: its files go with its last view.
    pub fn publish(
        &mut self,
        mut staged: StagedState,
        superseded: Option<&Store>,
    ) -> Result<Store, DirectoryError> {
        let failed = |path: PathBuf| move |source| DirectoryError::Store { path, source };
        staged
            .store
            .persist()
            .map_err(failed(self.state(staged.number)))?;
        sync_dir(&self.root)?;
        write_current(&self.root, staged.number)?;
        staged.published = true;
        self.current = Some(staged.number);
        if let Some(store) = superseded {
            store.retire();
        }
        Ok(staged.store.clone())
    }

    fn state(&self, number: u64) -> PathBuf {
        self.root.join(state_name(number))
    }
}

impl StagedState {
    #[cfg(test)]
    pub(super) fn new(store: Store, number: u64) -> Self {
        let published = false;
        Self {
            store,
            number,
            published,
        }
    }

    #[cfg(test)]
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl Drop for StagedState {
    fn drop(&mut self) {
        if !self.published {
            self.store.retire();
        }
    }
}

fn state_name(number: u64) -> String {
    format!("{STATE_PREFIX}{number}")
}

fn state_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix(STATE_PREFIX)?.parse().ok()?;
    (state_name(number) == name).then_some(number)
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { path, source }
}

pub(super) fn create_dir(root: &Path) -> Result<(), DirectoryError> {
    if root.is_dir() {
        return Ok(());
    }
    let created = DirBuilder::new().recursive(true).mode(0o700).create(root);
    created.map_err(io_error(root))?;
    match root
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

pub(super) fn lock(path: &Path) -> Result<File, DirectoryError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = file.map_err(io_error(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let path = path.to_owned();
            Err(DirectoryError::Locked { path })
        }
        Err(TryLockError::Error(source)) => Err(io_error(path)(source)),
    }
}

fn read_current(root: &Path) -> Result<Option<u64>, DirectoryError> {
    let path = root.join(CURRENT);
    let name = match fs::read(&path) {
        Ok(name) => name,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(&path)(source)),
    };
    let name = std::str::from_utf8(&name)
        .ok()
        .and_then(|name| name.strip_suffix('\n'));
    let Some(number) = name.and_then(state_number) else {
        return Err(DirectoryError::Current { path });
    };
    let state = root.join(state_name(number));
    match state.is_dir() {
        true => Ok(Some(number)),
        false => Err(DirectoryError::MissingState { path: state }),
    }
}

/// Removes every state but the live one. Gives the greatest number in use.
///
/// A state without `CURRENT` was never published if there is no log either: the first publication
/// comes before the log's first byte. With a log, `CURRENT` has been lost and nothing is removed.
fn remove_leftovers(root: &Path, current: Option<u64>) -> Result<u64, DirectoryError> {
    let mut newest = current.unwrap_or_default();
    let leftovers = states(root)?
        .into_iter()
        .filter(|number| Some(*number) != current);
    for number in leftovers {
        if current.is_none() && root.join(LOG).exists() {
            let path = root.join(CURRENT);
            return Err(DirectoryError::MissingState { path });
        }
        newest = newest.max(number);
        let path = root.join(state_name(number));
        fs::remove_dir_all(&path).map_err(io_error(&path))?;
    }
    let path = root.join(CURRENT_NEW);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path)(error)),
        _ => Ok(newest),
    }
}

fn states(root: &Path) -> Result<Vec<u64>, DirectoryError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(root).map_err(io_error(root))? {
        let entry = entry.map_err(io_error(root))?;
        numbers.extend(entry.file_name().to_str().and_then(state_number));
    }
    Ok(numbers)
}

fn write_current(root: &Path, number: u64) -> Result<(), DirectoryError> {
    let new = root.join(CURRENT_NEW);
    let written = File::create(&new).and_then(|mut file| {
        writeln!(file, "{}", state_name(number))?;
        file.sync_all()
    });
    written.map_err(io_error(&new))?;
    let current = root.join(CURRENT);
    fs::rename(&new, &current).map_err(io_error(&current))?;
    sync_dir(root)
}

pub(super) fn sync_dir(path: &Path) -> Result<(), DirectoryError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error(path))
}

#[cfg(test)]
mod tests {
    use keys::StorageKeys;

    use super::*;
    use crate::storage::Keyspace;

    fn open(root: &Path) -> DataDir {
        DataDir::open(root).unwrap()
    }

    fn options() -> StoreOptions {
        StoreOptions::default()
    }

    fn mark(store: &Store, row: &[u8]) {
        let mut batch = store.batch();
        batch.put(Keyspace::Raft, b"applied", row);
        store.commit(batch).unwrap();
    }

    fn marked(dir: &DataDir, keys: &StorageKeys) -> Vec<u8> {
        let store = dir.open_state(keys.clone(), options()).unwrap().unwrap();
        store
            .view()
            .get(Keyspace::Raft, b"applied")
            .unwrap()
            .unwrap()
            .to_vec()
    }

    /// A directory with one published state.
    fn published(root: &Path, keys: &StorageKeys) -> (DataDir, Store) {
        let mut dir = open(root);
        let staged = dir.stage(keys.clone(), options()).unwrap();
        mark(staged.store(), b"1");
        let store = dir.publish(staged, None).unwrap();
        (dir, store)
    }

    fn state_names(root: &Path) -> Vec<u64> {
        let mut names = states(root).unwrap();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_published_state_is_the_live_one_and_the_old_goes_with_its_last_view() {
        let (root, keys) = (tempfile::tempdir().unwrap(), StorageKeys::ephemeral());
        let (mut dir, first) = published(root.path(), &keys);
        let view = first.view();
        let staged = dir.stage(keys.clone(), options()).unwrap();
        mark(staged.store(), b"2");
        let second = dir.publish(staged, Some(&first)).unwrap();
        drop(first);
        assert_eq!(state_names(root.path()), [1, 2]);
        assert_eq!(view.get(Keyspace::Raft, b"applied").unwrap().unwrap(), "1");
        drop(view);
        assert_eq!(state_names(root.path()), [2]);
        drop((second, dir));
        let dir = open(root.path());
        assert!(dir.has_state() && !dir.is_new());
        assert_eq!(marked(&dir, &keys), b"2");
    }

    #[test]
    fn an_unpublished_state_is_removed_when_dropped_and_its_number_not_used_again() {
        let (root, keys) = (tempfile::tempdir().unwrap(), StorageKeys::ephemeral());
        let (mut dir, _store) = published(root.path(), &keys);
        drop(dir.stage(keys.clone(), options()).unwrap());
        assert_eq!(state_names(root.path()), [1]);
        let staged = dir.stage(keys, options()).unwrap();
        assert_eq!(state_names(root.path()), [1, 3]);
        drop(staged);
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_state_and_after_it_the_new() {
        let keys = StorageKeys::ephemeral();
        for is_renamed in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let (mut dir, first) = published(root.path(), &keys);
            let staged = dir.stage(keys.clone(), options()).unwrap();
            mark(staged.store(), b"2");
            staged.store().persist().unwrap();
            // As a kill leaves it: no destructor runs, and nobody uses the files any more.
            let crashed = tempfile::tempdir().unwrap();
            copy(root.path(), crashed.path());
            drop((staged, first));
            let root = crashed.path();
            match is_renamed {
                false => fs::write(root.join(CURRENT_NEW), "state-2\n").unwrap(),
                true => write_current(root, 2).unwrap(),
            }
            let dir = open(root);
            assert_eq!(state_names(root), [if is_renamed { 2 } else { 1 }]);
            assert!(!root.join(CURRENT_NEW).exists());
            let expected = if is_renamed { b"2" } else { b"1" };
            assert_eq!(marked(&dir, &keys), expected);
        }
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.path().is_dir() {
                true => copy(&entry.path(), &to),
                false => drop(fs::copy(entry.path(), &to).unwrap()),
            }
        }
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let root = tempfile::tempdir().unwrap();
        let dir = open(root.path());
        assert!(matches!(
            DataDir::open(root.path()),
            Err(DirectoryError::Locked { .. })
        ));
        drop(dir);
        assert!(open(root.path()).is_new());
    }

    #[test]
    fn a_directory_of_etcd_is_refused_and_not_touched() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("member/snap")).unwrap();
        fs::write(root.path().join("member/snap/db"), "etcd").unwrap();
        assert!(matches!(
            DataDir::open(root.path()),
            Err(DirectoryError::Etcd { .. })
        ));
        let names: Vec<_> = fs::read_dir(root.path()).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn a_new_directory_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("a/b");
        assert!(open(&root).is_new());
        assert_eq!(
            fs::metadata(&root).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn a_current_that_names_nothing_or_a_lost_one_is_refused_and_nothing_removed() {
        let (root, keys) = (tempfile::tempdir().unwrap(), StorageKeys::ephemeral());
        drop(published(root.path(), &keys));
        let current = root.path().join(CURRENT);
        for name in [
            "",
            "state-1",
            "state-01\n",
            "../state-1\n",
            "state-1\nx\n",
            "log\n",
            "\u{fffd}",
        ] {
            fs::write(&current, name).unwrap();
            let refused = DataDir::open(root.path());
            assert!(
                matches!(refused, Err(DirectoryError::Current { .. })),
                "{name:?}"
            );
        }
        fs::write(&current, "state-9\n").unwrap();
        let refused = DataDir::open(root.path());
        assert!(matches!(refused, Err(DirectoryError::MissingState { .. })));
        fs::remove_file(&current).unwrap();
        fs::create_dir(root.path().join(LOG)).unwrap();
        let refused = DataDir::open(root.path());
        assert!(matches!(refused, Err(DirectoryError::MissingState { .. })));
        assert_eq!(state_names(root.path()), [1]);
    }

    #[test]
    fn a_state_of_an_unfinished_birth_is_removed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("state-1")).unwrap();
        fs::create_dir(root.path().join("state-x")).unwrap();
        let dir = open(root.path());
        assert!(dir.is_new());
        assert!(root.path().join("state-x").exists());
        assert_eq!(state_names(root.path()), [0; 0]);
        assert_eq!(dir.next_state, 2);
    }
}
