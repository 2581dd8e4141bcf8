//! The key bundle: ROOT under a passphrase, apart from every member.
//!
//! Promise: whoever has the bundle and its passphrase opens every backup made under that ROOT, and
//! nobody learns ROOT from the bundle alone; what the bundle is for can be read without the
//! passphrase; damage is told from a wrong passphrase.
//! Not known here: backups, where the bundle is kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::aead::{Aead, NONCE_BYTES, TAG_BYTES, Xaes256Gcm};
use crate::encoding::{DecodeError, Reader};
use crate::private_file;
use crate::provider::ProviderError;
use crate::provider::passphrase::{Argon2Cost, PassphraseProvider, SALT_BYTES};
use crate::root::Root;
use crate::root_key::RootKey;
use crate::secret::{Commitment, SECRET_BYTES, Secret, SecretBytes, random};
use crate::table::KeyringId;

const MAGIC: &[u8; 17] = b"sealkv-key-bundle";
const FORMAT: u16 = 1;
const CHECKSUM_BYTES: usize = 32;
/// More than any bundle of this format has.
const BUNDLE_BYTES_MAX: u64 = 4096;

#[derive(Clone)]
pub struct KeyBundle {
    keyring_id: KeyringId,
    root_version: u32,
    commitment: Commitment,
    salt: [u8; SALT_BYTES],
    cost: Argon2Cost,
    nonce: [u8; NONCE_BYTES],
    sealed: [u8; SECRET_BYTES + TAG_BYTES],
}

/// Why there is no bundle, or none that can be used.
#[derive(Debug, Error)]
pub enum KeyBundleError {
    #[error("key bundle {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} exists already: a key bundle replaces no file", .0.display())]
    Exists(PathBuf),
    #[error("{} is no key bundle of sealkv", .0.display())]
    NotABundle(PathBuf),
    #[error("key bundle {} is damaged or was cut off", .0.display())]
    Damaged(PathBuf),
    #[error("key bundle {}: it {source}", path.display())]
    Malformed { path: PathBuf, source: DecodeError },
}

/// A bundle does not give its ROOT.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OpenBundleError {
    #[error("the passphrase is not the one this key bundle was sealed with")]
    WrongPassphrase,
    #[error(transparent)]
    Argon2(#[from] ProviderError),
}

impl KeyBundle {
    /// The passphrase is stretched anew, at the cost that its provider has.
    pub fn seal(root: &RootKey, passphrase: &PassphraseProvider) -> Result<Self, ProviderError> {
        Self::seal_with(root, passphrase, random(), random())
    }

    fn seal_with(
        root: &RootKey,
        passphrase: &PassphraseProvider,
        salt: [u8; SALT_BYTES],
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, ProviderError> {
        let mut bundle = Self {
            keyring_id: root.keyring_id(),
            root_version: root.version(),
            commitment: root.commitment(),
            salt,
            cost: passphrase.cost(),
            nonce,
            sealed: [0; SECRET_BYTES + TAG_BYTES],
        };
        let mut sealed = Vec::with_capacity(bundle.sealed.len());
        let associated_data = bundle.associated_data();
        let secret = root.root().secret().expose();
        let aead = bundle.aead(passphrase)?;
        aead.seal(&bundle.nonce, &associated_data, secret, &mut sealed);
        bundle.sealed.copy_from_slice(&sealed);
        Ok(bundle)
    }

    /// Which keyring's root key it holds.
    pub fn keyring_id(&self) -> KeyringId {
        self.keyring_id
    }

    pub fn root_version(&self) -> u32 {
        self.root_version
    }

    pub fn open(&self, passphrase: &PassphraseProvider) -> Result<RootKey, OpenBundleError> {
        let aead = self.aead(passphrase)?;
        let opened = aead.open(&self.nonce, &self.associated_data(), &self.sealed);
        let opened = opened.map(SecretBytes::new).ok();
        let secret = opened.and_then(|bytes| Secret::from_slice(&bytes));
        let secret = secret.ok_or(OpenBundleError::WrongPassphrase)?;
        let root = Root::from_secret(self.keyring_id, self.root_version, secret);
        if root.commitment() != self.commitment {
            return Err(OpenBundleError::WrongPassphrase);
        }
        Ok(RootKey::of(Arc::new(root)))
    }

    fn aead(&self, passphrase: &PassphraseProvider) -> Result<Xaes256Gcm, ProviderError> {
        let stretched = passphrase.stretched(&self.salt, self.cost)?;
        Ok(Xaes256Gcm::new(
            &stretched.derive(b"sealkv/key-bundle/1/encrypt"),
        ))
    }

    fn associated_data(&self) -> Vec<u8> {
        [b"sealkv/key-bundle/1\0", &self.prologue()[..]].concat()
    }

    /// All before the nonce.
    fn prologue(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&FORMAT.to_be_bytes());
        out.extend_from_slice(self.keyring_id.as_bytes());
        out.extend_from_slice(&self.root_version.to_be_bytes());
        out.extend_from_slice(&self.commitment.0);
        out.extend_from_slice(&self.salt);
        self.cost.write(&mut out);
        out
    }
}

/// Bytes.
impl KeyBundle {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.prologue();
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.sealed);
        let checksum: [u8; CHECKSUM_BYTES] = Sha256::digest(&out).into();
        out.extend_from_slice(&checksum);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.take(MAGIC.len())?;
        let found = reader.u16()?;
        if found != FORMAT {
            return Err(DecodeError::UnknownFormat { found });
        }
        let bundle = Self {
            keyring_id: KeyringId::from_bytes(reader.array()?),
            root_version: reader.u32()?,
            commitment: Commitment(reader.array()?),
            salt: reader.array()?,
            cost: Argon2Cost::read(&mut reader)?,
            nonce: reader.array()?,
            sealed: reader.array()?,
        };
        reader.finish()?;
        Ok(bundle)
    }

    /// A new file for its owner alone; a crash leaves none, or a whole one.
    pub fn save(&self, path: &Path) -> Result<(), KeyBundleError> {
        let path_buf = || path.to_owned();
        let at = |source| KeyBundleError::Io {
            path: path_buf(),
            source,
        };
        if fs::exists(path).map_err(at)? {
            return Err(KeyBundleError::Exists(path_buf()));
        }
        private_file::write(path, &self.encode()).map_err(at)
    }

    pub fn load(path: &Path) -> Result<Self, KeyBundleError> {
        use std::io::Read as _;
        let path_buf = || path.to_owned();
        let at = |source| KeyBundleError::Io {
            path: path_buf(),
            source,
        };
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(at)?;
        file.take(BUNDLE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(at)?;
        if !bytes.starts_with(MAGIC) {
            return Err(KeyBundleError::NotABundle(path_buf()));
        }
        let damaged = || KeyBundleError::Damaged(path_buf());
        let (content, checksum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or_else(damaged)?;
        if Sha256::digest(content)[..] != checksum[..] {
            return Err(damaged());
        }
        Self::decode(content).map_err(|source| KeyBundleError::Malformed {
            path: path_buf(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> RootKey {
        let keyring_id = KeyringId::from_bytes([4; 16]);
        let secret = Secret::from_bytes([5; 32]);
        RootKey::of(Arc::new(Root::from_secret(keyring_id, 3, secret)))
    }

    fn passphrase(text: &str) -> PassphraseProvider {
        PassphraseProvider::new(text.into(), Argon2Cost::FLOOR).expect("usable")
    }

    fn loaded(bytes: &[u8]) -> Result<KeyBundle, KeyBundleError> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), bytes).expect("written");
        KeyBundle::load(file.path())
    }

    #[test]
    fn a_bundle_gives_its_root_to_whoever_has_the_passphrase() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("keys.bundle");
        let bundle = KeyBundle::seal(&root(), &passphrase("correct horse")).expect("sealed");
        bundle.save(&path).expect("a new file");
        let again = bundle.save(&path).err();
        assert!(matches!(again, Some(KeyBundleError::Exists(_))));
        let bundle = KeyBundle::load(&path).expect("as saved");
        assert_eq!(bundle.root_version(), 3);
        let opened = bundle.open(&passphrase("correct horse"));
        assert!(opened.expect("the passphrase").commitment() == root().commitment());
        let refused = bundle.open(&passphrase("correct horsf")).err();
        assert_eq!(refused, Some(OpenBundleError::WrongPassphrase));
    }

    #[test]
    fn what_is_cut_off_or_changed_is_no_bundle() {
        let bundle = KeyBundle::seal(&root(), &passphrase("x")).expect("sealed");
        let bytes = bundle.encode();
        for length in 0..bytes.len() {
            let refused = loaded(&bytes[..length]).err();
            let plain = matches!(
                refused,
                Some(KeyBundleError::Damaged(_) | KeyBundleError::NotABundle(_))
            );
            assert!(plain, "{length}: {refused:?}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(loaded(&changed).is_err(), "byte {at}");
        }
        assert!(loaded(&[&bytes[..], b"x"].concat()).is_err());
    }

    /// A checksum can be made again by anybody; the tag cannot.
    #[test]
    fn a_bundle_put_together_from_others_does_not_open() {
        let mut bundle = KeyBundle::seal(&root(), &passphrase("x")).expect("sealed");
        bundle.root_version = 4;
        let bundle = loaded(&bundle.encode()).expect("well formed");
        let refused = bundle.open(&passphrase("x")).err();
        assert_eq!(refused, Some(OpenBundleError::WrongPassphrase));
    }

    /// The bytes do not change from release to release.
    #[test]
    fn a_bundle_is_the_documented_bytes() {
        let (salt, nonce) = ([7; SALT_BYTES], [8; NONCE_BYTES]);
        let sealed = KeyBundle::seal_with(&root(), &passphrase("x"), salt, nonce);
        let bytes = sealed.expect("sealed").encode();
        let mut prologue = b"sealkv-key-bundle\0\x01".to_vec();
        prologue.extend([4; 16]);
        prologue.extend([0, 0, 0, 3]);
        prologue.extend(root().commitment().0);
        prologue.extend([7; 16]);
        prologue.extend([0, 0, 0x4c, 0, 0, 0, 0, 2, 0, 0, 0, 1]);
        let stretched = passphrase("x").stretched(&salt, Argon2Cost::FLOOR);
        let key = stretched
            .expect("19 MiB")
            .derive(b"sealkv/key-bundle/1/encrypt");
        let mut expected = [&prologue[..], &nonce].concat();
        let associated_data = [b"sealkv/key-bundle/1\0", &prologue[..]].concat();
        Xaes256Gcm::new(&key).seal(&nonce, &associated_data, &[5; 32], &mut expected);
        let checksum = Sha256::digest(&expected);
        expected.extend(checksum);
        assert_eq!(bytes, expected);
    }
}
