//! Sealing: every key of a cluster, and the bytes that may leave memory.
//!
//! Promise: what this crate returns as sealed or wrapped can be put on a disk or a wire; secrets
//! have no `Debug`, erase themselves when dropped and compare in constant time; bytes from disk,
//! peers or operators give a value or an error, never a panic.
//! Not known here: storage, raft, gRPC, plugins, time.
//!
//! ```text
//! slot (X25519; its private half is wrapped by a provider: key file, passphrase)
//!  ├─► ROOT(v) ─► KEK(prefix key id) ─► DEK(prefix key id, version)    values, cluster-wide
//!  └─► storage keys of one member (member.key)                         its data directory
//! ```
//!
//! # Formats, labels and domains
//!
//! This is the one specification of every byte this crate writes. Integers are big-endian, `‖`
//! joins, `text` is ASCII without a terminator, `0x00` one zero byte. A reader refuses every
//! format and suite it does not know, and every byte left over.
//!
//! ## Primitives
//!
//! | name | is |
//! |---|---|
//! | AEAD | XAES-256-GCM, <https://c2sp.org/XAES-256-GCM>: 32-byte key, 24-byte nonce, 16-byte tag appended. The nonce is read from the operating system when what is sealed under it is fixed |
//! | `derive(K, label)` | HKDF-SHA256 (RFC 5869), no salt, input key material K, info `label`, 32 bytes |
//! | `to_slot(P, info, ad, S)` | HPKE base mode, single shot (RFC 9180), of a 32-byte secret S to the public key P |
//!
//! A key is 32 random bytes. It never seals anything itself:
//!
//! | key | encrypts with `derive(K, …)` | is committed to by `derive(K, …)` |
//! |---|---|---|
//! | ROOT | `sealkv/root/1/encrypt` | `sealkv/root/1/commit` |
//! | KEK | `sealkv/kek/1/encrypt` | `sealkv/kek/1/commit` |
//! | DEK | `sealkv/dek/1/encrypt` | `sealkv/dek/1/commit` |
//! | storage key | `sealkv/storage-key/1/encrypt` | `sealkv/storage-key/1/commit` |
//! | backup key | `sealkv/backup/1/encrypt` | `sealkv/backup/1/commit` |
//! | slot secret | `sealkv/slot/1/member-key` (authenticates `member.key`) | its public key |
//! | key file | `sealkv/provider/file/1/encrypt` | – |
//! | Argon2id output | `sealkv/provider/passphrase/1/encrypt`; of a key bundle `sealkv/key-bundle/1/encrypt` | – |
//!
//! XAES-256-GCM does not commit to its key, so the commitment stands beside each wrapped key and
//! is compared when the key is unwrapped.
//!
//! ## Sealed value (52 bytes more than its plaintext)
//!
//! ```text
//! format u8 = 1 | suite u8 = 1 | flags u16 = 0 | prefix_key_id u32 | dek_version u32
//!   | nonce[24] | ciphertext | tag[16]
//! associated data: "sealkv/value/1" ‖ 0x00 ‖ keyring_id[16] ‖ header[0..12] ‖ u32 key length ‖ key
//! ```
//!
//! ## Stored row and log block (46 bytes more than their plaintext)
//!
//! ```text
//! format u8 = 1 | suite u8 = 1 | storage_key_id u32 | nonce[24] | ciphertext | tag[16]
//! associated data of a row:   "sealkv/row/1" ‖ keyspace u8 ‖ row key
//! associated data of a block: "sealkv/log/1" ‖ the caller's bytes
//! ```
//!
//! ## Wrapped key (107 bytes): a KEK or a backup key under ROOT, a DEK under its KEK
//!
//! ```text
//! format u8 = 1 | suite u8 = 1 | kind u8 (2 KEK, 3 DEK, 4 backup) | commitment[32] | nonce[24]
//!   | ciphertext[32] | tag[16]
//! associated data: "sealkv/wrapped-key/1" ‖ 0x00 ‖ keyring_id[16] ‖ kind u8
//!   ‖ parent id u32 ‖ parent version u32 ‖ child id u32 ‖ child version u32 ‖ commitment[32]
//! KEK: parent (0, root version),  child (prefix key id, 0)
//! DEK: parent (prefix key id, 0), child (prefix key id, version)
//! backup key: parent (0, root version), child (0, 0)
//! ```
//!
//! ## Secret wrapped to a slot (82 bytes)
//!
//! ```text
//! format u8 = 1 | suite u8 | encapsulated key[32] | ciphertext[32] | tag[16]
//! suite 1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM
//! suite 2: reserved for X25519 with ML-KEM-768; refused
//! ROOT:        info "sealkv/root/1" ‖ 0x00 ‖ keyring_id[16] ‖ slot id u32 ‖ root version u32
//! storage key: info "sealkv/storage-key/1" ‖ 0x00 ‖ directory_id[16] ‖ storage_key_id u32
//! associated data of both: the secret's commitment[32]
//! ```
//!
//! HPKE's base mode does not say who wrapped. ROOT's commitment stands once in the key table, the
//! same for every slot; storage keys stand in a `member.key` that is authenticated as a whole.
//!
//! ## Slot
//!
//! A slot secret is 32 random bytes; the X25519 pair is HPKE's `DeriveKeyPair` of
//! `derive(slot secret, "sealkv/slot/1/x25519")`. The provider wraps the slot secret:
//!
//! ```text
//! file:       format u8 = 1 | suite u8 = 1 | nonce[24] | ciphertext[32] | tag[16]
//! passphrase: format u8 = 1 | suite u8 = 1 | salt[16] | memory KiB u32 | passes u32 | lanes u32
//!               | nonce[24] | ciphertext[32] | tag[16]        (Argon2id, RFC 9106, version 0x13)
//! associated data: "sealkv/slot-secret/1" ‖ 0x00 ‖ provider kind u8 ‖ all before the nonce ‖ context
//! context: member id u64 ‖ directory_id[16] ‖ slot public key[32]
//! provider kind: 1 file, 2 passphrase; 3 credential, 4 KMS v2 and 5 Shamir are reserved
//! ```
//!
//! ## member.key
//!
//! ```text
//! "sealkv-member-key" ‖ format u16 = 1
//! member id u64 | directory_id[16] | keyring known u8 (0, 1) | keyring_id[16] (zeros if unknown)
//! slot public key[32] | provider kind u8 | u16 length ‖ the provider's bytes
//! u16 count × other slot's public key[32]                            ascending
//! u16 count × storage key, ascending by id:
//!   id u32 | commitment[32] | secret wrapped to this member's slot[82]
//!   | for each other slot in order: secret wrapped to it[82]
//! nonce[24] | tag[16]     AEAD of nothing under derive(slot secret, "sealkv/slot/1/member-key"),
//!                         associated data "sealkv/member-key/1" ‖ 0x00 ‖ all before the nonce
//! checksum[32]            SHA-256 of all before it: tells damage from a wrong passphrase
//! ```
//!
//! New rows are sealed under the storage key with the greatest id.
//!
//! ## Key table
//!
//! ```text
//! format u16 = 1 | initialised u8 (0: nothing follows)
//! keyring_id[16] | root version u32 | root commitment[32] | next slot id u32 | next prefix key id u32
//! u32 count × slot, ascending by id:
//!   id u32 | member id u64 | provider kind u8 | public key[32] | wrapped ROOT[82] | proven u8
//! u32 count × prefix key, ascending by id:
//!   id u32 | u32 length ‖ prefix | wrapped KEK[107] | next version u32
//!   | u32 count × DEK, ascending: version u32 | state u8 (1 open, 2 closed) | created ms i64 | wrapped DEK[107]
//! ```
//!
//! ## Key change: what a replicated command carries
//!
//! ```text
//! format u8 = 1 | kind u8 | body
//! 1 KeyringInit:  keyring_id[16] | root commitment[32] | wrapped KEK[107] | wrapped DEK[107]
//!                 | u32 count × (member id u64 | provider kind u8 | public key[32] | wrapped ROOT[82])
//! 2 EnrolSlot:    slot id u32 | root version u32 | member id u64 | provider kind u8
//!                 | public key[32] | wrapped ROOT[82]
//! 3 AcknowledgeRoot: slot id u32 | root version u32
//! 4 AddPrefix:    root version u32 | prefix key id u32 | u32 length ‖ prefix | wrapped KEK[107] | wrapped DEK[107]
//! 5 Rotate:       prefix key id u32 | version u32 | wrapped DEK[107]
//! 6 RemoveSlot:   slot id u32
//! 7 CloseVersion: prefix key id u32 | version u32
//! ```
//!
//! The secrets are minted by the leader; `apply` compares ids and versions with the table, so a
//! change minted on an older table has no effect and is minted again.
//!
//! ## Backup envelope, and a section of a backup (40 bytes more than its plaintext)
//!
//! What a backup says of its key: ROOT as it is wrapped to the slot of the member that made it, and
//! that slot as it stands in the member's `member.key`. Whoever has that member's key file or
//! passphrase opens the backup, and so does whoever has ROOT out of a key bundle.
//!
//! ```text
//! format u8 = 1 | keyring_id[16] | root version u32 | root commitment[32] | slot id u32 | wrapped ROOT[82]
//! member id u64 | directory_id[16] | slot public key[32] | provider kind u8 | u16 length ‖ the provider's bytes
//! wrapped backup key[107]
//!
//! section: nonce[24] | ciphertext | tag[16]
//! associated data: "sealkv/backup/1" ‖ 0x00 ‖ the caller's bytes
//! ```
//!
//! ## Key bundle: ROOT under a passphrase, apart from every member
//!
//! ```text
//! "sealkv-key-bundle" ‖ format u16 = 1 | keyring_id[16] | root version u32 | root commitment[32]
//!   | salt[16] | memory KiB u32 | passes u32 | lanes u32       (Argon2id, RFC 9106, version 0x13)
//!   | nonce[24] | ciphertext[32] | tag[16] | checksum[32]       SHA-256 of all before it
//! key: derive(Argon2id output, "sealkv/key-bundle/1/encrypt")
//! associated data: "sealkv/key-bundle/1" ‖ 0x00 ‖ all before the nonce
//! ```
//!
//! ## inherited.root: what a restored member opens prefix keys with at first
//!
//! Sealed as a stored row of keyspace 254 and row key `inherited-root`:
//! keyring_id[16] | root version u32 | ROOT[32]
//!
//! # Threat model
//!
//! Protected: stolen disks, images, logs, snapshots and data backups; values moved to another key,
//! prefix, key version or keyring; one prefix's key leaking (others stay closed). Not protected:
//! whoever reads the memory of an unsealed member, the sizes of values, a holder of ROOT.

mod aead;
mod backup;
mod bundle;
mod dek;
mod encoding;
mod kek;
mod keyring;
mod member_key;
mod private_file;
mod provider;
mod root;
mod root_key;
mod sealed;
mod secret;
mod slot;
mod storage_key;
mod table;
#[cfg(test)]
mod vectors;
mod wrapped;

pub use aead::{Aead, NONCE_BYTES, NotAuthentic, TAG_BYTES, Xaes256Gcm};
pub use backup::{BACKUP_SECTION_OVERHEAD_BYTES, BackupEnvelope, BackupKey, OpenBackupError};
pub use bundle::{KeyBundle, KeyBundleError, OpenBundleError};
pub use encoding::DecodeError;
pub use keyring::{
    Keyring, MintError, OpenError, OpenKeyringError, SealError, SlotHolder, UnopenedKey,
};
pub use member_key::{
    DirectoryId, MemberKey, MemberKeyError, MemberKeyFileError, MemberKeyOutline,
};
pub use provider::file::{FileProvider, KeyFileError};
pub use provider::passphrase::{Argon2Cost, Argon2CostError, PassphraseError, PassphraseProvider};
pub use provider::{Provider, ProviderError, ProviderKind, SlotContext};
pub use root_key::{InheritedRootError, RootKey};
pub use sealed::{SEALED_VALUE_OVERHEAD_BYTES, SealedHeader, plaintext_len, tag};
pub use secret::Secret;
pub use slot::{InvalidSlotPublicKey, SlotKeyPair, SlotPublicKey, WrappedToSlot};
pub use storage_key::{OpenRowError, ROW_OVERHEAD_BYTES, RowNonce, RowNonces, StorageKeys};
pub use table::change::{
    AcknowledgeRoot, AddPrefix, CloseVersion, EnrolSlot, KeyChange, KeyringInit, NewSlot,
    RemoveSlot, Rotate,
};
pub use table::{
    Applied, DekState, DekVersion, KeyChangeRefusal, KeyTable, KeyringId, PrefixKey, Slot,
    WriteRefusal,
};
pub use wrapped::{KeyKind, WrappedKey};
