//! Tests of the key table: every change, applied and refused.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::change::{AcknowledgeRoot, CloseVersion, KeyChange, RemoveSlot};
use super::*;
use crate::keyring::{Keyring, SlotHolder};
use crate::slot::SlotKeyPair;

struct Cluster {
    table: KeyTable,
    slot: Arc<SlotKeyPair>,
}

fn holder(member_id: u64, slot: &SlotKeyPair) -> SlotHolder {
    SlotHolder {
        member_id,
        provider: ProviderKind::File,
        public_key: slot.public(),
    }
}

impl Cluster {
    fn born() -> Self {
        let slot = Arc::new(SlotKeyPair::generate());
        let init = Keyring::birth(&[holder(1, &slot)]).expect("one holder");
        let mut table = KeyTable::new();
        assert_eq!(table.init(&init, 10), Ok(Applied::Initialised));
        Self { table, slot }
    }

    fn with_prefixes(prefixes: &[&[u8]]) -> Self {
        let mut cluster = Self::born();
        prefixes.iter().for_each(|prefix| cluster.add(prefix));
        cluster
    }

    fn keyring(&self) -> Keyring {
        Keyring::open_table(&self.table, Arc::clone(&self.slot)).expect("ROOT opens")
    }

    fn add(&mut self, prefix: &[u8]) {
        let add = self.keyring().mint_prefix(&self.table, prefix);
        self.table
            .add_prefix(&add.expect("free"), 20)
            .expect("applies");
    }

    fn rotate(&mut self, prefix: &[u8]) {
        let rotate = self.keyring().mint_rotation(&self.table, prefix);
        self.table
            .rotate(&rotate.expect("known"), 30)
            .expect("applies");
    }

    /// Refused, and the table is as it was.
    fn refuses(&mut self, change: &KeyChange) -> KeyChangeRefusal {
        let before = self.table.encode();
        let refusal = self.table.apply(change, 99).expect_err("refused");
        assert_eq!(self.table.encode(), before);
        refusal
    }
}

fn header(prefix_key_id: u32, dek_version: u32) -> SealedHeader {
    SealedHeader {
        prefix_key_id,
        dek_version,
    }
}

#[test]
fn a_second_keyring_has_no_effect() {
    let mut cluster = Cluster::born();
    let slot = SlotKeyPair::generate();
    let init = Keyring::birth(&[holder(2, &slot)]).expect("one holder");
    let refusal = cluster.refuses(&KeyChange::Init(init));
    assert_eq!(refusal, KeyChangeRefusal::AlreadyInitialised);
}

#[test]
fn nothing_changes_before_there_is_a_keyring() {
    let mut cluster = Cluster::born();
    let rotate = cluster.keyring().mint_rotation(&cluster.table, b"");
    let rotate = KeyChange::Rotate(rotate.expect("known"));
    cluster.table = KeyTable::new();
    assert_eq!(cluster.refuses(&rotate), KeyChangeRefusal::NotInitialised);
    assert_eq!(
        cluster.table.check_sealed(b"key", &header(1, 1)),
        Err(WriteRefusal::NotInitialised)
    );
    assert!(cluster.table.prefix_for(b"key").is_none());
}

#[test]
fn a_change_minted_on_an_older_table_has_no_effect() {
    let mut cluster = Cluster::born();
    let (keyring, other) = (cluster.keyring(), SlotKeyPair::generate());
    let slot = keyring.mint_slot(&cluster.table, &holder(2, &other));
    let prefix = keyring.mint_prefix(&cluster.table, b"/b");
    let rotation = keyring.mint_rotation(&cluster.table, b"");
    let third = SlotKeyPair::generate();
    let first = keyring.mint_slot(&cluster.table, &holder(3, &third));
    let first = first.expect("minted");
    cluster.table.enrol_slot(&first).expect("applies");
    cluster.add(b"/a");
    cluster.rotate(b"");
    for stale in [
        KeyChange::EnrolSlot(slot.expect("minted")),
        KeyChange::AddPrefix(prefix.expect("minted")),
        KeyChange::Rotate(rotation.expect("minted")),
    ] {
        assert_eq!(cluster.refuses(&stale), KeyChangeRefusal::Stale);
    }
}

#[test]
fn a_member_has_one_slot_and_a_public_key_one_row() {
    let mut cluster = Cluster::born();
    let keyring = cluster.keyring();
    let other = SlotKeyPair::generate();
    for taken in [holder(1, &other), holder(2, &cluster.slot)] {
        let enrol = keyring.mint_slot(&cluster.table, &taken).expect("minted");
        let refusal = cluster.refuses(&KeyChange::EnrolSlot(enrol));
        assert_eq!(refusal, KeyChangeRefusal::SlotTaken { slot_id: 1 });
    }
    // Slots that no member holds are not in each other's way.
    for _ in 0..2 {
        let offline = holder(0, &SlotKeyPair::generate());
        let enrol = keyring.mint_slot(&cluster.table, &offline).expect("minted");
        cluster.table.enrol_slot(&enrol).expect("applies");
    }
    assert_eq!(cluster.table.slots().count(), 3);
}

#[test]
fn only_an_acknowledgement_of_the_present_root_proves_a_slot() {
    let mut cluster = Cluster::born();
    assert_eq!(cluster.table.proven_members().count(), 0);
    for (slot_id, root_version, refusal) in [
        (2, 1, KeyChangeRefusal::UnknownSlot { slot_id: 2 }),
        (1, 2, KeyChangeRefusal::Stale),
    ] {
        let acknowledge = AcknowledgeRoot {
            slot_id,
            root_version,
        };
        let change = KeyChange::AcknowledgeRoot(acknowledge);
        assert_eq!(cluster.refuses(&change), refusal);
    }
    let acknowledge = cluster.keyring().acknowledgement().expect("by its slot");
    for _ in 0..2 {
        cluster
            .table
            .acknowledge_root(&acknowledge)
            .expect("applies");
        assert_eq!(cluster.table.proven_members().collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn the_last_proven_slot_stays_and_ids_are_not_used_twice() {
    let mut cluster = Cluster::born();
    let acknowledge = cluster.keyring().acknowledgement().expect("by its slot");
    cluster
        .table
        .acknowledge_root(&acknowledge)
        .expect("applies");
    let other = SlotKeyPair::generate();
    let enrol = cluster
        .keyring()
        .mint_slot(&cluster.table, &holder(2, &other));
    cluster
        .table
        .enrol_slot(&enrol.expect("minted"))
        .expect("applies");

    let refusal = cluster.refuses(&KeyChange::RemoveSlot(RemoveSlot { slot_id: 1 }));
    assert_eq!(refusal, KeyChangeRefusal::LastProvenSlot { slot_id: 1 });
    let refusal = cluster.refuses(&KeyChange::RemoveSlot(RemoveSlot { slot_id: 3 }));
    assert_eq!(refusal, KeyChangeRefusal::UnknownSlot { slot_id: 3 });
    let removed = cluster.table.remove_slot(&RemoveSlot { slot_id: 2 });
    assert_eq!(removed, Ok(Applied::SlotRemoved { slot_id: 2 }));
    let enrol = cluster
        .keyring()
        .mint_slot(&cluster.table, &holder(2, &other));
    assert_eq!(enrol.expect("minted").slot_id, 3);
}

#[test]
fn a_value_is_taken_only_under_its_longest_prefix() {
    let cluster = Cluster::with_prefixes(&[b"/a/", b"/a/b/"]);
    let table = &cluster.table;
    for (key, id) in [
        (&b""[..], 1),
        (b"/a", 1),
        (b"/a/", 2),
        (b"/a/b", 2),
        (b"/a/b/c", 3),
        (b"/a/c", 2),
        (b"/b", 1),
        (b"\xff", 1),
    ] {
        assert_eq!(table.check_sealed(key, &header(id, 1)), Ok(()));
        for found in (1..=4).filter(|found| *found != id) {
            let expected = Err(WriteRefusal::WrongPrefixKey {
                expected: id,
                found,
            });
            assert_eq!(table.check_sealed(key, &header(found, 1)), expected);
        }
    }
}

#[test]
fn a_value_is_taken_under_every_version_that_is_not_closed() {
    let mut cluster = Cluster::born();
    let unknown = |version| {
        Err(WriteRefusal::UnknownVersion {
            prefix_key_id: 1,
            version,
        })
    };
    assert_eq!(cluster.table.check_sealed(b"k", &header(1, 0)), unknown(0));
    assert_eq!(cluster.table.check_sealed(b"k", &header(1, 2)), unknown(2));
    cluster.rotate(b"");
    assert_eq!(cluster.table.check_sealed(b"k", &header(1, 1)), Ok(()));
    assert_eq!(cluster.table.check_sealed(b"k", &header(1, 2)), Ok(()));

    let close = CloseVersion {
        prefix_key_id: 1,
        version: 1,
    };
    let closed = Ok(Applied::VersionClosed {
        prefix_key_id: 1,
        version: 1,
    });
    assert_eq!(cluster.table.close_version(&close), closed);
    assert_eq!(cluster.table.close_version(&close), closed);
    assert_eq!(
        cluster.table.check_sealed(b"k", &header(1, 1)),
        Err(WriteRefusal::ClosedVersion {
            prefix_key_id: 1,
            version: 1
        })
    );
    assert_eq!(cluster.table.check_sealed(b"k", &header(1, 2)), Ok(()));
}

#[test]
fn the_version_that_new_values_need_is_not_closed() {
    let mut cluster = Cluster::born();
    cluster.rotate(b"");
    for (prefix_key_id, version, refusal) in [
        (
            1,
            2,
            KeyChangeRefusal::CurrentVersion {
                prefix_key_id: 1,
                version: 2,
            },
        ),
        (
            1,
            3,
            KeyChangeRefusal::UnknownVersion {
                prefix_key_id: 1,
                version: 3,
            },
        ),
        (
            2,
            1,
            KeyChangeRefusal::UnknownPrefixKey { prefix_key_id: 2 },
        ),
    ] {
        let close = CloseVersion {
            prefix_key_id,
            version,
        };
        assert_eq!(cluster.refuses(&KeyChange::CloseVersion(close)), refusal);
    }
}

#[test]
fn a_rotation_dates_its_version_and_makes_it_the_current_one() {
    let mut cluster = Cluster::with_prefixes(&[b"/a/"]);
    cluster.rotate(b"/a/");
    let prefix_key = cluster.table.prefix_key_of(b"/a/").expect("added");
    let dates: Vec<_> = prefix_key.versions().map(|it| it.created_ms).collect();
    assert_eq!(dates, [20, 30]);
    assert_eq!(prefix_key.current().map(|it| it.version), Some(2));
    let other = cluster.table.prefix_key_of(b"").expect("born with it");
    assert_eq!(other.versions().count(), 1);
}

#[test]
fn a_published_table_does_not_see_later_changes() {
    let mut cluster = Cluster::born();
    let published = cluster.table.clone();
    cluster.add(b"/a/");
    cluster.rotate(b"");
    assert_eq!(published.prefix_keys().count(), 1);
    assert_eq!(published.prefix_for(b"/a/b").map(|it| it.id), Some(1));
    assert_eq!(cluster.table.prefix_for(b"/a/b").map(|it| it.id), Some(2));
}

#[test]
fn the_same_changes_give_the_same_bytes() {
    let mut cluster = Cluster::with_prefixes(&[b"/b/", b"/a/"]);
    cluster.rotate(b"/a/");
    let bytes = cluster.table.encode();
    let mut restarted = KeyTable::decode(&bytes).expect("own bytes");
    assert_eq!(restarted, cluster.table);
    let rotate = cluster.keyring().mint_rotation(&cluster.table, b"/b/");
    let rotate = KeyChange::decode(&KeyChange::Rotate(rotate.expect("known")).encode());
    for table in [&mut restarted, &mut cluster.table] {
        table
            .apply(rotate.as_ref().expect("own bytes"), 5)
            .expect("applies");
    }
    assert_eq!(restarted.encode(), cluster.table.encode());
}

#[test]
fn a_used_up_counter_gives_no_second_meaning_to_an_id() {
    let mut cluster = Cluster::born();
    let state = cluster.table.state_mut().expect("born");
    state.next_prefix_key_id = u32::MAX;
    cluster.add(b"/last/");
    assert_eq!(
        cluster.table.prefix_for(b"/last/").map(|it| it.id),
        Some(u32::MAX)
    );
    let minted = cluster.keyring().mint_prefix(&cluster.table, b"/more/");
    assert_eq!(minted.err(), Some(crate::MintError::IdsExhausted));
    let other = Cluster::born();
    let add = other.keyring().mint_prefix(&other.table, b"/more/");
    let mut add = add.expect("free");
    add.prefix_key_id = 0;
    assert_eq!(
        cluster.refuses(&KeyChange::AddPrefix(add)),
        KeyChangeRefusal::Stale
    );
    let reread = KeyTable::decode(&cluster.table.encode());
    assert_eq!(reread.as_ref(), Ok(&cluster.table));
}

fn short_key() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xff)],
        0..6,
    )
}

/// A table with rows of every kind, made once: minting is slow, damaging is not.
fn rich_table() -> &'static [u8] {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| {
        let mut cluster = Cluster::with_prefixes(&[b"/a/"]);
        cluster.rotate(b"/a/");
        cluster.table.encode()
    })
}

proptest! {
    #[test]
    fn the_longest_match_is_what_a_search_of_all_prefixes_finds(
        prefixes in vec(short_key(), 0..12),
        key in short_key(),
    ) {
        let mut table = Cluster::born().table;
        let state = table.state_mut().expect("born");
        for (id, prefix) in (2u32..).zip(&prefixes) {
            state.by_prefix.entry(prefix.clone()).or_insert(id);
        }
        let naive = state
            .by_prefix
            .iter()
            .filter(|(prefix, _)| key.starts_with(prefix))
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, id)| *id);
        prop_assert_eq!(state.longest_match(&key), naive);
    }

    #[test]
    fn any_bytes_are_a_table_or_an_error(bytes in vec(any::<u8>(), 0..600)) {
        let _ = KeyTable::decode(&bytes);
        let _ = KeyChange::decode(&bytes);
    }

    #[test]
    fn a_damaged_table_is_refused_or_obeys_every_rule(
        at in any::<proptest::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut bytes = rich_table().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(table) = KeyTable::decode(&bytes) {
            prop_assert_eq!(table.encode(), bytes);
            prop_assert!(table.prefix_for(b"/a/b").and_then(PrefixKey::current).is_some());
        }
    }

    #[test]
    fn a_cut_table_is_refused(at in any::<proptest::sample::Index>()) {
        let bytes = rich_table();
        prop_assert!(KeyTable::decode(&bytes[..at.index(bytes.len())]).is_err());
    }
}
