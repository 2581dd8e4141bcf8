//! The vectors of `tests/vectors`, which an implementation of its own wrote (`generate.py`).

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::aead::{Aead, Xaes256Gcm};
use crate::dek::Dek;
use crate::kek::Kek;
use crate::member_key::{DirectoryId, MemberKey, MemberKeyError, MemberKeyOutline};
use crate::provider::file::FileProvider;
use crate::provider::passphrase::{Argon2Cost, PassphraseProvider};
use crate::provider::{Provider, ProviderError};
use crate::root::Root;
use crate::sealed::{SEALED_VALUE_OVERHEAD_BYTES, SealedHeader, plaintext_len, tag};
use crate::secret::{Commitment, Secret};
use crate::slot::{SlotKeyPair, WrappedToSlot};
use crate::storage_key::{StorageKey, StorageKeys, block_place, row_place};
use crate::table::change::KeyChange;
use crate::table::{KeyTable, KeyringId};
use crate::wrapped::{KeyKind, KeyPlace, WrappedKey};
use crate::{Keyring, OpenRowError};

#[derive(Deserialize)]
struct Vectors<A, R> {
    accepted: Vec<A>,
    refused: Vec<R>,
}

/// Hexadecimal in the files.
#[derive(Clone, Deserialize, PartialEq, Eq, Debug)]
#[serde(try_from = "String")]
struct Bytes(Vec<u8>);

impl TryFrom<String> for Bytes {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode(text).map(Self)
    }
}

impl Bytes {
    fn array<const N: usize>(&self) -> [u8; N] {
        self.0.as_slice().try_into().expect("the vector's length")
    }

    fn secret(&self) -> Secret {
        Secret::from_bytes(self.array())
    }

    fn keyring_id(&self) -> KeyringId {
        KeyringId::from_bytes(self.array())
    }
}

fn read<A: DeserializeOwned, R: DeserializeOwned>(json: &str) -> Vectors<A, R> {
    let vectors: Vectors<A, R> = serde_json::from_str(json).expect("well-formed vectors");
    assert!(!vectors.accepted.is_empty() && !vectors.refused.is_empty());
    vectors
}

#[derive(Deserialize)]
struct Xaes {
    name: String,
    key: Bytes,
    nonce: Bytes,
    associated_data: Bytes,
    plaintext: Option<Bytes>,
    sealed: Bytes,
}

#[test]
fn xaes_256_gcm_is_c2sp_s() {
    let vectors = read::<Xaes, Xaes>(include_str!("../tests/vectors/xaes_256_gcm.json"));
    let open = |v: &Xaes| {
        let aead = Xaes256Gcm::new(&v.key.secret());
        aead.open(&v.nonce.array(), &v.associated_data.0, &v.sealed.0)
    };
    for v in &vectors.accepted {
        let plaintext = v.plaintext.as_ref().expect("accepted ones have it");
        let mut sealed = Vec::new();
        Xaes256Gcm::new(&v.key.secret()).seal(
            &v.nonce.array(),
            &v.associated_data.0,
            &plaintext.0,
            &mut sealed,
        );
        assert_eq!(sealed, v.sealed.0, "{}", v.name);
        assert_eq!(open(v).as_ref(), Ok(&plaintext.0), "{}", v.name);
    }
    for v in &vectors.refused {
        assert!(open(v).is_err(), "{}", v.name);
    }
}

#[derive(Deserialize)]
struct SealedValue {
    name: String,
    reason: Option<String>,
    keyring_id: Bytes,
    prefix_key_id: u32,
    dek_version: u32,
    dek: Bytes,
    key: Bytes,
    nonce: Option<Bytes>,
    plaintext: Option<Bytes>,
    sealed: Bytes,
}

#[test]
fn sealed_values_are_as_specified() {
    let vectors =
        read::<SealedValue, SealedValue>(include_str!("../tests/vectors/sealed_value.json"));
    let dek = |v: &SealedValue| {
        let (id, version) = (v.prefix_key_id, v.dek_version);
        Dek::from_secret(v.keyring_id.keyring_id(), id, version, &v.dek.secret())
    };
    for v in &vectors.accepted {
        let (Some(plaintext), Some(nonce)) = (&v.plaintext, &v.nonce) else {
            panic!("{} lacks its plaintext", v.name);
        };
        let sealed = dek(v).seal_with_nonce(&v.key.0, &plaintext.0, &nonce.array());
        assert_eq!(sealed, v.sealed.0, "{}", v.name);
        let header = SealedHeader {
            prefix_key_id: v.prefix_key_id,
            dek_version: v.dek_version,
        };
        assert_eq!(SealedHeader::parse(&sealed), Ok(header), "{}", v.name);
        assert_eq!(plaintext_len(&sealed), Ok(plaintext.0.len()), "{}", v.name);
        assert_eq!(
            sealed.len(),
            plaintext.0.len() + SEALED_VALUE_OVERHEAD_BYTES
        );
        assert!(tag(&sealed).is_ok_and(|it| sealed.ends_with(&it)));
        let opened = dek(v).open(&v.key.0, &sealed);
        assert_eq!(opened.as_ref(), Ok(&plaintext.0), "{}", v.name);
    }
    for v in &vectors.refused {
        assert!(dek(v).open(&v.key.0, &v.sealed.0).is_err(), "{}", v.name);
        let well_formed = SealedHeader::parse(&v.sealed.0).is_ok();
        let by_format = v.reason.as_deref() == Some("format");
        assert_eq!(well_formed, !by_format, "{}", v.name);
    }
}

#[derive(Deserialize)]
struct Row {
    name: String,
    kind: String,
    storage_key_id: u32,
    storage_key: Bytes,
    keyspace: u8,
    place: Bytes,
    nonce: Option<Bytes>,
    plaintext: Option<Bytes>,
    sealed: Bytes,
}

impl Row {
    fn keys(&self) -> StorageKeys {
        let key = StorageKey::from_secret(self.storage_key.secret());
        StorageKeys::new([(self.storage_key_id, key)].into()).expect("one key")
    }

    fn open(&self) -> Result<Vec<u8>, OpenRowError> {
        match self.kind.as_str() {
            "row" => self
                .keys()
                .open_row(self.keyspace, &self.place.0, &self.sealed.0),
            _ => self.keys().open_block(&self.place.0, &self.sealed.0),
        }
    }
}

#[test]
fn stored_rows_and_log_blocks_are_as_specified() {
    let vectors = read::<Row, Row>(include_str!("../tests/vectors/row.json"));
    for v in &vectors.accepted {
        let (Some(plaintext), Some(nonce)) = (&v.plaintext, &v.nonce) else {
            panic!("{} lacks its plaintext", v.name);
        };
        let place = match v.kind.as_str() {
            "row" => row_place(v.keyspace, &v.place.0),
            _ => block_place(&v.place.0),
        };
        let sealed = v.keys().seal(&place, &plaintext.0, &nonce.array());
        assert_eq!(sealed, v.sealed.0, "{}", v.name);
        assert_eq!(v.open().as_ref(), Ok(&plaintext.0), "{}", v.name);
    }
    for v in &vectors.refused {
        assert!(v.open().is_err(), "{}", v.name);
    }
}

#[derive(Deserialize)]
struct Wrapped {
    name: String,
    /// Which of the three does not unwrap.
    level: Option<String>,
    keyring_id: Bytes,
    root_version: u32,
    prefix_key_id: u32,
    dek_version: u32,
    slot_id: u32,
    slot_secret: Bytes,
    slot_public_key: Bytes,
    root: Bytes,
    kek: Bytes,
    dek: Bytes,
    root_commitment: Bytes,
    kek_nonce: Bytes,
    dek_nonce: Bytes,
    wrapped_root: Bytes,
    wrapped_kek: Bytes,
    wrapped_dek: Bytes,
}

impl Wrapped {
    fn unwrap_root(&self) -> Option<Root> {
        let slot = SlotKeyPair::from_secret(self.slot_secret.secret());
        let wrapped = WrappedToSlot::parse(&self.wrapped_root.0).ok()?;
        let place = (self.keyring_id.keyring_id(), self.root_version);
        let commitment = Commitment(self.root_commitment.array());
        Root::unwrap(&wrapped, &slot, self.slot_id, place, &commitment).ok()
    }

    /// Under the ROOT that the vector names, whether or not it unwrapped.
    fn unwrap_kek(&self) -> Option<Kek> {
        let keyring_id = self.keyring_id.keyring_id();
        let root = Root::from_secret(keyring_id, self.root_version, self.root.secret());
        let wrapped = WrappedKey::parse(&self.wrapped_kek.0, KeyKind::Kek).ok()?;
        root.unwrap_kek(self.prefix_key_id, &wrapped).ok()
    }

    fn unwrap_dek(&self) -> Option<Dek> {
        let (keyring_id, id) = (self.keyring_id.keyring_id(), self.prefix_key_id);
        let kek = Kek::from_secret(keyring_id, id, self.kek.secret());
        let wrapped = WrappedKey::parse(&self.wrapped_dek.0, KeyKind::Dek).ok()?;
        kek.unwrap_dek(self.dek_version, &wrapped).ok()
    }
}

#[test]
fn wrapped_keys_are_as_specified() {
    let vectors = read::<Wrapped, Wrapped>(include_str!("../tests/vectors/wrapped_key.json"));
    for v in &vectors.accepted {
        let slot = SlotKeyPair::from_secret(v.slot_secret.secret());
        assert_eq!(slot.public().as_bytes()[..], v.slot_public_key.0[..]);
        let root = v.unwrap_root().expect("ROOT unwraps");
        assert_eq!(root.commitment(), Commitment(v.root_commitment.array()));
        assert!(v.unwrap_kek().expect("the KEK unwraps").secret() == &v.kek.secret());

        // The DEK is shown to be the vector's by what it seals.
        let (keyring_id, nonce) = (v.keyring_id.keyring_id(), [1; 24]);
        let (id, version) = (v.prefix_key_id, v.dek_version);
        let dek = Dek::from_secret(keyring_id, id, version, &v.dek.secret());
        let unwrapped = v.unwrap_dek().expect("the DEK unwraps");
        assert_eq!(
            unwrapped.seal_with_nonce(b"k", b"v", &nonce),
            dek.seal_with_nonce(b"k", b"v", &nonce)
        );

        // Both wrapped keys are made alike, under what ROOT and the KEK derive.
        let under = |secret: &Bytes, label: &[u8]| Xaes256Gcm::new(&secret.secret().derive(label));
        let kek = WrappedKey::wrap_with_nonce(
            &under(&v.root, b"sealkv/root/1/encrypt"),
            &KeyPlace::kek(keyring_id, v.root_version, id),
            &v.kek.secret(),
            &v.kek_nonce.array(),
        );
        assert_eq!(kek.as_bytes()[..], v.wrapped_kek.0[..]);
        let dek = WrappedKey::wrap_with_nonce(
            &under(&v.kek, b"sealkv/kek/1/encrypt"),
            &KeyPlace::dek(keyring_id, id, version),
            &v.dek.secret(),
            &v.dek_nonce.array(),
        );
        assert_eq!(dek.as_bytes()[..], v.wrapped_dek.0[..]);
    }
    for v in &vectors.refused {
        let refused = match v.level.as_deref() {
            Some("root") => v.unwrap_root().is_none(),
            Some("kek") => v.unwrap_kek().is_none(),
            _ => v.unwrap_dek().is_none(),
        };
        assert!(refused, "{}", v.name);
    }
}

#[derive(Deserialize)]
struct MemberKeyVector {
    provider: String,
    member_id: u64,
    directory_id: Bytes,
    keyring_id: Option<Bytes>,
    slot_secret: Bytes,
    key_file: Bytes,
    passphrase: Bytes,
    storage_keys: Vec<Bytes>,
    other_slot_secrets: Vec<Bytes>,
    bytes: Bytes,
}

#[derive(Deserialize)]
struct RefusedMemberKey {
    name: String,
    provider: String,
    reason: String,
    key_file: Bytes,
    passphrase: Bytes,
    bytes: Bytes,
}

fn provider(kind: &str, key_file: &Bytes, passphrase: &Bytes) -> Box<dyn Provider> {
    match kind {
        "file" => Box::new(FileProvider::from_secret(&key_file.secret())),
        _ => Box::new(
            PassphraseProvider::new(passphrase.0.clone(), Argon2Cost::FLOOR).expect("usable"),
        ),
    }
}

fn assert_same_storage_keys(keys: &StorageKeys, secrets: &[Bytes]) {
    assert_eq!(keys.iter().count(), secrets.len());
    for ((id, key), (expected_id, secret)) in keys.iter().zip((1..).zip(secrets)) {
        assert_eq!(id, expected_id);
        assert!(key.secret() == &secret.secret());
    }
}

#[test]
fn member_key_files_are_as_specified() {
    let vectors =
        read::<MemberKeyVector, RefusedMemberKey>(include_str!("../tests/vectors/member_key.json"));
    for v in &vectors.accepted {
        let provider = provider(&v.provider, &v.key_file, &v.passphrase);
        let opened = MemberKey::open(&v.bytes.0, &*provider).expect("opens");
        let slot = SlotKeyPair::from_secret(v.slot_secret.secret());
        let outline = MemberKeyOutline {
            member_id: v.member_id,
            directory_id: DirectoryId::from_bytes(v.directory_id.array()),
            keyring_id: v.keyring_id.as_ref().map(Bytes::keyring_id),
            slot_public_key: slot.public(),
            provider: provider.kind(),
        };
        assert_eq!(*opened.outline(), outline);
        assert_eq!(MemberKeyOutline::decode(&v.bytes.0), Ok(outline));
        assert_same_storage_keys(opened.storage_keys(), &v.storage_keys);
        for other in &v.other_slot_secrets {
            let other = SlotKeyPair::from_secret(other.secret());
            let recovered = MemberKey::recover_storage_keys(&v.bytes.0, &other).expect("opens");
            assert_same_storage_keys(&recovered, &v.storage_keys);
        }
        let again = opened.encode().expect("usable slots");
        assert_eq!(again.len(), v.bytes.0.len());
        assert!(MemberKey::open(&again, &*provider).is_ok());
    }
    for v in &vectors.refused {
        let provider = provider(&v.provider, &v.key_file, &v.passphrase);
        let error = MemberKey::open(&v.bytes.0, &*provider).err();
        let error = error.unwrap_or_else(|| panic!("{} opens", v.name));
        let reason = match error {
            MemberKeyError::Damaged => "damaged",
            MemberKeyError::Malformed(_) => "malformed",
            MemberKeyError::OtherProvider { .. } => "other provider",
            MemberKeyError::Provider(ProviderError::WrongKey(_)) => "wrong key",
            MemberKeyError::Provider(ProviderError::Malformed(..)) => "provider malformed",
            MemberKeyError::Provider(ProviderError::Argon2Memory { .. }) => "memory",
            MemberKeyError::NotAuthentic => "not authentic",
            MemberKeyError::StorageKey { .. } => "storage key",
        };
        assert_eq!(reason, v.reason, "{}", v.name);
    }
}

#[derive(Deserialize)]
struct TableVector {
    name: String,
    table: Bytes,
    key: Option<Bytes>,
    plaintext: Option<Bytes>,
    #[serde(default)]
    sealed_values: Vec<Bytes>,
    #[serde(default)]
    slot_secrets: Vec<Bytes>,
    #[serde(default)]
    changes: Vec<ChangeVector>,
}

#[derive(Deserialize)]
struct ChangeVector {
    kind: String,
    clock_ms: i64,
    bytes: Bytes,
}

#[test]
fn key_tables_and_their_changes_are_as_specified() {
    let vectors = read::<TableVector, TableVector>(include_str!("../tests/vectors/key_table.json"));
    for v in &vectors.accepted {
        let mut table = KeyTable::new();
        for change in &v.changes {
            let decoded = KeyChange::decode(&change.bytes.0).expect("well formed");
            assert_eq!(decoded.encode(), change.bytes.0, "{}", change.kind);
            let applied = table.apply(&decoded, change.clock_ms);
            assert!(applied.is_ok(), "{}: {applied:?}", change.kind);
        }
        assert_eq!(table.encode(), v.table.0, "{}", v.name);
        assert_eq!(KeyTable::decode(&v.table.0).as_ref(), Ok(&table));
        for secret in &v.slot_secrets {
            let slot = Arc::new(SlotKeyPair::from_secret(secret.secret()));
            let keyring = Keyring::open_table(&table, slot).expect("ROOT opens");
            assert_eq!(keyring.unopened(), []);
            let (Some(key), Some(plaintext)) = (&v.key, &v.plaintext) else {
                panic!("{} lacks its key", v.name);
            };
            for sealed in &v.sealed_values {
                assert_eq!(keyring.open(&key.0, &sealed.0).as_ref(), Ok(&plaintext.0));
            }
        }
    }
    for v in &vectors.refused {
        assert!(KeyTable::decode(&v.table.0).is_err(), "{}", v.name);
    }
}
