//! The key file: 32 random bytes beside, never inside, the data directory.
//!
//! Promise: a file that others may read is refused; a new one appears whole or not at all, only
//! for its owner, and never beside data that another key sealed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use super::{Provider, ProviderError, ProviderKind, SlotContext, unwrap_under, wrap_under};
use crate::aead::Xaes256Gcm;
use crate::encoding::{DecodeError, Reader};
use crate::private_file;
use crate::secret::{SECRET_BYTES, Secret, random};

const FORMAT: u8 = 1;
const SUITE_XAES_256_GCM: u8 = 1;
const PROLOGUE: [u8; 2] = [FORMAT, SUITE_XAES_256_GCM];

/// A key file that cannot be used. Names the file and what to do.
#[derive(Debug, Error)]
pub enum KeyFileError {
    #[error("key file {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "key file {} is missing, and the data directory beside it has data that only it opens; \
         bring the file back, no new one is made",
        path.display()
    )]
    MissingBesideData { path: PathBuf },
    #[error(
        "key file {} may be read by others (mode {mode:04o}); run: chmod 600 {}",
        path.display(), path.display()
    )]
    ReadableByOthers { path: PathBuf, mode: u32 },
    #[error("key file {} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("key file {} must be exactly 32 random bytes, and is not", path.display())]
    WrongSize { path: PathBuf },
    /// Text, or one byte over and over: no random source wrote this.
    #[error("key file {} does not hold random bytes", path.display())]
    NotRandom { path: PathBuf },
}

pub struct FileProvider {
    aead: Xaes256Gcm,
}

impl FileProvider {
    pub fn from_secret(key: &Secret) -> Self {
        let aead = Xaes256Gcm::new(&key.derive(b"sealkv/provider/file/1/encrypt"));
        Self { aead }
    }

    /// Reads a key file that has to be there.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        Ok(Self::from_secret(&read_key(path)?))
    }

    /// Reads the key file, or makes one where there is none and nothing is sealed yet. The second
    /// value says whether it was made. A crash leaves no file, or a whole one.
    pub fn load_or_generate(path: &Path, data_exists: bool) -> Result<(Self, bool), KeyFileError> {
        let at = |source| KeyFileError::Io {
            path: path.to_owned(),
            source,
        };
        if fs::exists(path).map_err(at)? {
            return Ok((Self::load(path)?, false));
        }
        if data_exists {
            let path = path.to_owned();
            return Err(KeyFileError::MissingBesideData { path });
        }
        private_file::write(path, Secret::random().expose()).map_err(at)?;
        // What counts is what a restart will read.
        Ok((Self::load(path)?, true))
    }
}

fn read_key(path: &Path) -> Result<Secret, KeyFileError> {
    let path_buf = || path.to_owned();
    let at = |source| KeyFileError::Io {
        path: path_buf(),
        source,
    };
    // A pipe would block the open; look before.
    if !fs::metadata(path).map_err(at)?.is_file() {
        return Err(KeyFileError::NotAFile { path: path_buf() });
    }
    let file = File::open(path).map_err(at)?;
    let mode = file.metadata().map_err(at)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path_buf();
        return Err(KeyFileError::ReadableByOthers { path, mode });
    }
    // One byte more than a key shows a file that is too long; the buffer never grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES + 1));
    file.take(SECRET_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(at)?;
    let key =
        Secret::from_slice(&bytes).ok_or_else(|| KeyFileError::WrongSize { path: path_buf() })?;
    if is_plainly_not_random(&bytes) {
        return Err(KeyFileError::NotRandom { path: path_buf() });
    }
    Ok(key)
}

/// True of random bytes once in 2^45 key files or less often.
fn is_plainly_not_random(bytes: &[u8]) -> bool {
    let text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    bytes.iter().all(text) || bytes.iter().all(|byte| *byte == bytes[0])
}

impl Provider for FileProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::File
    }

    fn wrap(&self, context: &SlotContext, slot_secret: &Secret) -> Result<Vec<u8>, ProviderError> {
        let prologue = (self.kind(), &PROLOGUE[..]);
        Ok(wrap_under(
            &self.aead,
            prologue,
            context,
            slot_secret,
            &random(),
        ))
    }

    fn unwrap(&self, context: &SlotContext, wrapped: &[u8]) -> Result<Secret, ProviderError> {
        read_prologue(wrapped).map_err(|error| ProviderError::Malformed(self.kind(), error))?;
        unwrap_under(&self.aead, (self.kind(), PROLOGUE.len()), context, wrapped)
    }
}

fn read_prologue(wrapped: &[u8]) -> Result<(), DecodeError> {
    match Reader::new(wrapped).array()? {
        PROLOGUE => Ok(()),
        [FORMAT, found] => Err(DecodeError::UnknownSuite { found }),
        [found, _] => Err(DecodeError::UnknownFormat {
            found: u16::from(found),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member_key::DirectoryId;
    use crate::slot::SlotKeyPair;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn put(path: &Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode set");
    }

    fn error_of(path: &Path) -> KeyFileError {
        FileProvider::load(path).err().expect("refused")
    }

    #[test]
    fn a_made_key_file_is_the_owner_s_alone_and_opens_again() {
        let directory = directory();
        let path = directory.path().join("m.key");
        let (first, made) = FileProvider::load_or_generate(&path, false).expect("made");
        assert!(made);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);

        let (second, made) = FileProvider::load_or_generate(&path, true).expect("read");
        assert!(!made);
        let slot = SlotKeyPair::generate();
        let context = SlotContext {
            member_id: 1,
            directory_id: DirectoryId::from_bytes([2; 16]),
            public_key: slot.public(),
        };
        let wrapped = first.wrap(&context, slot.secret()).expect("wrapped");
        assert!(second.unwrap(&context, &wrapped).ok().as_ref() == Some(slot.secret()));
        let elsewhere = SlotContext {
            member_id: 2,
            ..context
        };
        assert_eq!(
            second.unwrap(&elsewhere, &wrapped).err(),
            Some(ProviderError::WrongKey(ProviderKind::File))
        );
    }

    #[test]
    fn a_leftover_of_a_crash_is_no_obstacle() {
        let directory = directory();
        let path = directory.path().join("m.key");
        put(&directory.path().join("m.key.tmp"), b"half", 0o644);
        FileProvider::load_or_generate(&path, false).expect("made");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);
    }

    #[test]
    fn no_key_file_is_made_beside_data() {
        let directory = directory();
        let path = directory.path().join("m.key");
        let error = FileProvider::load_or_generate(&path, true).err();
        assert!(matches!(
            error,
            Some(KeyFileError::MissingBesideData { .. })
        ));
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_and_the_cure_named() {
        let directory = directory();
        let path = directory.path().join("m.key");
        for mode in [0o640, 0o604, 0o644, 0o660, 0o610] {
            put(&path, &Secret::random().expose()[..], mode);
            let error = error_of(&path);
            assert!(matches!(error, KeyFileError::ReadableByOthers { .. }));
            let cure = format!("chmod 600 {}", path.display());
            assert!(error.to_string().ends_with(&cure), "{error}");
        }
        put(&path, &Secret::random().expose()[..], 0o400);
        assert!(FileProvider::load(&path).is_ok());
    }

    #[test]
    fn foreign_content_is_refused() {
        let directory = directory();
        let path = directory.path().join("m.key");
        for length in [0, 31, 33, 65] {
            put(&path, &vec![0xa5; length], 0o600);
            assert!(matches!(error_of(&path), KeyFileError::WrongSize { .. }));
        }
        for content in [[0; 32], *b"0123456789abcdef0123456789abcde\n"] {
            put(&path, &content, 0o600);
            assert!(matches!(error_of(&path), KeyFileError::NotRandom { .. }));
        }
        let error = error_of(directory.path());
        assert!(matches!(error, KeyFileError::NotAFile { .. }));
        let error = error_of(&directory.path().join("none"));
        assert!(matches!(error, KeyFileError::Io { .. }));
    }
}
