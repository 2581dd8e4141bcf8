//! The data directory of one member.
//!
//! ```text
//! DATA_DIR/LOCK        held while a process uses the directory
//!          CURRENT     the name of the live state, replaced by one rename
//!          state-N/    a store; a number is used once
//!          member.key  the storage keys, wrapped
//!          log/        the raft log
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
use super::sealed::RowSealer;
use super::store::{Store, StoreOptions};

const LOCK: &str = "LOCK";
const CURRENT: &str = "CURRENT";
/// Written first, then renamed to `CURRENT`.
const CURRENT_NEW: &str = "CURRENT.new";
const STATE_PREFIX: &str = "state-";
const MEMBER_KEY: &str = "member.key";
const LOG: &str = "log";
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
}

/// A store that becomes the live state when it is published, and is removed if it is not.
#[must_use = "an unpublished state is removed"]
pub struct StagedState {
    store: Store,
    number: u64,
    published: bool,
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
        let current = read_current(root)?;
        let newest = remove_leftovers(root, current)?;
        Ok(Self {
            root: root.to_owned(),
            current,
            next_state: newest + 1,
            _lock: lock,
        })
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

    pub fn log(&self) -> PathBuf {
        self.root.join(LOG)
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

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { path, source }
}

fn create_dir(root: &Path) -> Result<(), DirectoryError> {
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

fn lock(path: &Path) -> Result<File, DirectoryError> {
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

fn sync_dir(path: &Path) -> Result<(), DirectoryError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error(path))
}
