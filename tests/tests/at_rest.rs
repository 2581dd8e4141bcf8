//! Nothing that was stored can be read from any file: keys, values, prefixes, passphrases, names.
//!
//! Canaries are searched as raw bytes, and as hex and base64 in case something is written down as text,
//! in every file of every member: data directory, key file, captured log, leftovers of a crash.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::path::Path;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::sealkv::v1::KeysAddRequest;
use tests::client::Client;
use tests::cluster::{Cluster, Program};
use tests::txn;

const KEY: &str = "canary-key-7f3a91";
const VALUE: &str = "canary-value-c41d08";
const OLD_VALUE: &str = "canary-former-5e77b2";
const DELETED: &str = "canary-deleted-90aa13";
const PREFIX: &str = "canary-prefix-e2b6f4/";
const IN_TXN: &str = "canary-txn-1b8d55";
const COMPARED: &str = "canary-compared-66c0de";
const USER: &str = "canary-user-2a9d70";
const PASSWORD: &str = "canary-password-b8e3c4";
const ROLE: &str = "canary-role-41f7aa";
const PASSPHRASE: &str = "canary passphrase 3d9e27";

/// All that must be nowhere. The passphrase's own file lies outside the members' directories.
const CANARIES: [&str; 11] = [
    KEY, VALUE, OLD_VALUE, DELETED, PREFIX, IN_TXN, COMPARED, USER, PASSWORD, ROLE, PASSPHRASE,
];

fn is_etcd() -> bool {
    // etcd writes plaintext; there is nothing to show about it here.
    Program::under_test() == Program::Etcd
}

#[track_caller]
fn assert_nothing_readable(cluster: &Cluster, when: &str) {
    let files = cluster.files();
    assert!(
        files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > 10_000,
        "{when}: the members must have written something"
    );
    let wanted: Vec<(&str, Vec<u8>)> = CANARIES
        .iter()
        .flat_map(|canary| forms(canary).into_iter().map(|form| (*canary, form)))
        .collect();
    for (path, bytes) in &files {
        if let Some(canary) = found(bytes, &wanted) {
            panic!(
                "{when}: {canary:?} stands in {}",
                shown(path, cluster.directory())
            );
        }
    }
}

/// Preallocated files are mostly zeros, where nothing can stand.
const BLOCK: usize = 4096;

/// The first of the wanted byte strings that the bytes hold.
fn found<'a>(bytes: &[u8], wanted: &[(&'a str, Vec<u8>)]) -> Option<&'a str> {
    let mut starts = [false; 256];
    wanted
        .iter()
        .for_each(|(_, form)| starts[usize::from(form[0])] = true);
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        if block == &[0; BLOCK][..block.len()] {
            continue;
        }
        for (offset, _) in block
            .iter()
            .enumerate()
            .filter(|(_, byte)| starts[usize::from(**byte)])
        {
            let rest = &bytes[number * BLOCK + offset..];
            if let Some((canary, _)) = wanted.iter().find(|(_, form)| rest.starts_with(form)) {
                return Some(canary);
            }
        }
    }
    None
}

fn forms(canary: &str) -> Vec<Vec<u8>> {
    let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
    // Base64 depends on where the canary starts within three bytes; the middle of each form does not.
    let base64 = (0..3).map(|shift| {
        let padded: Vec<u8> = std::iter::repeat_n(b'x', shift)
            .chain(canary.bytes())
            .collect();
        let text = base64(&padded[..padded.len() / 3 * 3]);
        text.as_bytes()[4..].to_vec()
    });
    [canary.as_bytes().to_vec(), hex.into_bytes()]
        .into_iter()
        .chain(base64)
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks_exact(3)
        .flat_map(|three| {
            let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
            [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift & 63) as usize]))
        })
        .collect()
}

fn shown(path: &Path, directory: &Path) -> String {
    path.strip_prefix(directory)
        .unwrap_or(path)
        .display()
        .to_string()
}

async fn write_everything(client: &Client) {
    client
        .keys()
        .add(KeysAddRequest {
            prefix: PREFIX.into(),
        })
        .await
        .unwrap();
    for value in [OLD_VALUE, VALUE] {
        client.put(KEY, value).await.unwrap();
        client.put(format!("{PREFIX}{KEY}"), value).await.unwrap();
    }
    client.put(DELETED, VALUE).await.unwrap();
    client.delete(DELETED).await.unwrap();
    let lease = client.grant(0, 600).await.unwrap().id;
    client
        .put_request(pb::PutRequest {
            key: format!("{KEY}/leased").into(),
            value: VALUE.into(),
            lease,
            ..Default::default()
        })
        .await
        .unwrap();
    let compare = txn::compare(
        KEY,
        pb::compare::CompareResult::NotEqual,
        pb::compare::TargetUnion::Value(COMPARED.into()),
    );
    let request = pb::TxnRequest {
        compare: vec![compare],
        success: vec![
            txn::put(IN_TXN, VALUE),
            txn::nested(txn::always(vec![txn::put(
                format!("{PREFIX}{IN_TXN}"),
                OLD_VALUE,
            )])),
        ],
        ..Default::default()
    };
    assert!(client.txn(request).await.unwrap().succeeded);
    add_a_user(client).await;
    let watch = pb::WatchCreateRequest {
        key: KEY.into(),
        start_revision: 1,
        prev_kv: true,
        ..Default::default()
    };
    client.watch(watch).await.unwrap().events(2).await;
}

/// With a role that may read what is under the prefix.
async fn add_a_user(client: &Client) {
    let mut auth = AuthClient::new(client.channel());
    let user = pb::AuthUserAddRequest {
        name: USER.into(),
        password: PASSWORD.into(),
        ..Default::default()
    };
    auth.user_add(user).await.unwrap();
    let role = pb::AuthRoleAddRequest { name: ROLE.into() };
    auth.role_add(role).await.unwrap();
    let permission = proto::authpb::Permission {
        key: PREFIX.into(),
        range_end: b"\0".as_slice().into(),
        ..Default::default()
    };
    let grant = pb::AuthRoleGrantPermissionRequest {
        name: ROLE.into(),
        perm: Some(permission),
    };
    auth.role_grant_permission(grant).await.unwrap();
    let grant = pb::AuthUserGrantRoleRequest {
        user: USER.into(),
        role: ROLE.into(),
    };
    auth.user_grant_role(grant).await.unwrap();
}

/// Enough entries for a raft snapshot at the small --snapshot-count of these tests.
async fn force_a_snapshot(client: &Client) {
    for number in 0..300 {
        client
            .put(format!("{PREFIX}{KEY}/{}", number % 7), VALUE)
            .await
            .unwrap();
    }
}

async fn everything_is_there(client: &Client) {
    assert_eq!(client.value(KEY).await.unwrap(), Some(VALUE.into()));
    assert_eq!(
        client.value(format!("{PREFIX}{KEY}")).await.unwrap(),
        Some(VALUE.into())
    );
    assert_eq!(
        client.value(format!("{PREFIX}{IN_TXN}")).await.unwrap(),
        Some(OLD_VALUE.into())
    );
}

async fn every_stage(cluster: &mut Cluster) {
    let client = cluster.client().await;
    write_everything(&client).await;
    assert_nothing_readable(cluster, "after puts, transactions and a watch");
    let revision = client.get(KEY).await.unwrap().header.unwrap().revision;
    client.compact(revision).await.unwrap();
    assert_nothing_readable(cluster, "after a compaction");
    force_a_snapshot(&client).await;
    assert_nothing_readable(cluster, "after a snapshot");
    for member in &mut cluster.members {
        member.kill();
    }
    assert_nothing_readable(cluster, "after kill -9");
    for member in &mut cluster.members {
        member.launch();
    }
    for member in &mut cluster.members {
        member.ready().await;
    }
    let client = cluster.client().await;
    everything_is_there(&client).await;
    assert_nothing_readable(cluster, "after a restart");
    for member in &mut cluster.members {
        member.signal(rustix::process::Signal::TERM);
    }
    for member in &mut cluster.members {
        member.wait_end().await;
    }
    assert_nothing_readable(cluster, "after an orderly stop");
}

#[tokio::test]
async fn a_member_with_a_key_file_leaves_nothing_readable() {
    if is_etcd() {
        return;
    }
    let mut cluster = Cluster::plan()
        .flag("--snapshot-count=100")
        .flag("--snapshot-catchup-entries=20")
        .start()
        .await;
    every_stage(&mut cluster).await;
}

#[tokio::test]
async fn a_member_with_a_passphrase_leaves_nothing_readable_and_not_the_passphrase() {
    if is_etcd() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("passphrase");
    std::fs::write(&file, PASSPHRASE).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut cluster = Cluster::plan()
        .flag("--key-provider=passphrase")
        .flag(format!("--passphrase-file={}", file.display()))
        .flag("--snapshot-count=100")
        .flag("--snapshot-catchup-entries=20")
        .start()
        .await;
    every_stage(&mut cluster).await;
}

#[tokio::test]
async fn three_members_leave_nothing_readable_on_any_of_them() {
    if is_etcd() {
        return;
    }
    let mut cluster = Cluster::plan()
        .members(3)
        .flag("--snapshot-count=100")
        .flag("--snapshot-catchup-entries=20")
        .start()
        .await;
    every_stage(&mut cluster).await;
}

#[tokio::test]
async fn a_follower_that_came_back_by_snapshot_has_nothing_readable() {
    if is_etcd() {
        return;
    }
    let mut cluster = Cluster::plan()
        .members(3)
        .flag("--snapshot-count=100")
        .flag("--snapshot-catchup-entries=20")
        .start()
        .await;
    let away = (cluster.leader().await + 1) % 3;
    let asked = (away + 1) % 3;
    cluster.members[away].kill();
    let client = cluster.members[asked].client().await;
    write_everything(&client).await;
    force_a_snapshot(&client).await;
    cluster.members[away].start().await;
    everything_is_there(&cluster.members[away].client().await).await;
    assert_nothing_readable(&cluster, "after a follower was sent a snapshot");
}

#[test]
fn the_search_finds_a_canary_in_every_form_and_over_the_edges_of_blocks() {
    let wanted: Vec<_> = forms(VALUE).into_iter().map(|form| (VALUE, form)).collect();
    let hex = "63616e6172792d76616c75652d633431643038".to_owned();
    let encoded = ["", "a", "ab"].map(|before| {
        let mut framed = format!("{before}{VALUE}").into_bytes();
        framed.resize(framed.len().next_multiple_of(3), b'=');
        base64(&framed)
    });
    for text in [VALUE.to_owned(), hex].into_iter().chain(encoded) {
        for before in [0, 1, BLOCK - 5, 3 * BLOCK - 1] {
            let mut bytes = vec![0; before];
            bytes.extend(text.as_bytes());
            assert_eq!(
                found(&bytes, &wanted),
                Some(VALUE),
                "{text} after {before} bytes"
            );
        }
    }
    assert_eq!(found(&[0; 3 * BLOCK], &wanted), None);
}
