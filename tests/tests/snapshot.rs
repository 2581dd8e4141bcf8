//! Backups: saved under load by etcd's client and ours, restored as one member and as three,
//! refused when they are not what was saved.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tests::client::Client;
use tests::cluster::{Cluster, Member, Program};
use tests::command::{beside, fails, key_file, restore, save, show, succeeds, text};
use tests::{binary, wait};

async fn prepared(members: usize) -> Cluster {
    let plan = Cluster::plan().program(Program::Sealkv).members(members);
    plan.prepare().await
}

async fn single() -> Cluster {
    Cluster::plan().program(Program::Sealkv).start().await
}

async fn start(cluster: &mut Cluster) {
    cluster.members.iter_mut().for_each(Member::launch);
    for member in &mut cluster.members {
        member.ready().await;
    }
}

async fn hash(client: &Client) -> (u32, i64) {
    let mut maintenance = MaintenanceClient::new(client.channel());
    client.get("linearizable").await.unwrap();
    let answer = maintenance.hash_kv(pb::HashKvRequest::default()).await;
    let answer = answer.unwrap().into_inner();
    (answer.hash, answer.hash_revision)
}

#[tokio::test]
async fn a_backup_that_is_saved_while_writes_go_on_is_one_revision() {
    let cluster = single().await;
    let client = cluster.client().await;
    let end = Arc::new(AtomicBool::new(false));
    // Both keys of a transaction or neither.
    let (writer, ended) = (client.clone(), end.clone());
    let writing = tokio::spawn(async move {
        let mut number = 0u32;
        while !ended.load(Ordering::Relaxed) {
            let value = number.to_string();
            let both = vec![
                tests::txn::put("left", value.clone()),
                tests::txn::put("right", value),
            ];
            writer.txn(tests::txn::always(both)).await.unwrap();
            number += 1;
        }
    });
    wait::until("some writes", Duration::from_secs(20), || async {
        client.value("left").await.unwrap()
    })
    .await;
    let file = cluster.directory().join("backup");
    save(&cluster.members[0], &file);
    end.store(true, Ordering::Relaxed);
    writing.await.unwrap();

    let mut restored = prepared(1).await;
    let key = key_file(&cluster.members[0]);
    restore(&mut restored.members[0], &file, &key, &[]);
    start(&mut restored).await;
    let client = restored.client().await;
    let (left, right) = (client.value("left").await, client.value("right").await);
    assert_eq!(left.unwrap().unwrap(), right.unwrap().unwrap());
}

#[tokio::test]
async fn etcds_client_saves_a_backup_that_is_ours() {
    let etcdctl = binary::interop().join("etcdctl");
    if !etcdctl.exists() {
        eprintln!("skipped: no etcdctl here (tests/interop/setup.sh builds it)");
        return;
    }
    let cluster = single().await;
    let client = cluster.client().await;
    client.put("k", vec![b'v'; 100_000]).await.unwrap();
    let file = cluster.directory().join("backup");
    let saved = Command::new(etcdctl)
        .args(["--endpoints", &cluster.members[0].endpoint()])
        .args(["snapshot", "save", show(&file)])
        .output()
        .unwrap();
    assert!(saved.status.success(), "{}", text(&saved.stderr));
    let status = succeeds(&["snapshot", "status", show(&file), "-o", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["revision"], 2);
    assert_eq!(status["totalKey"], 1);
    assert_eq!(status["version"], "3.7.0");
    assert_eq!(status["totalSize"], std::fs::metadata(&file).unwrap().len());
    assert_eq!(status["data_keys"][0]["values"], 1);
}

#[tokio::test]
async fn a_restored_member_has_history_leases_and_keys_of_prefixes() {
    let cluster = single().await;
    let client = cluster.client().await;
    client.put("k", "first").await.unwrap();
    client.put("k", "second").await.unwrap();
    client.grant(42, 600).await.unwrap();
    let endpoint = cluster.members[0].endpoint();
    succeeds(&["--endpoints", &endpoint, "keys", "add", "/own/"]);
    client.put("/own/k", "sealed apart").await.unwrap();
    client
        .put_request(pb::PutRequest {
            key: "leased".into(),
            value: "v".into(),
            lease: 42,
            ..Default::default()
        })
        .await
        .unwrap();
    let before = hash(&client).await;
    let file = cluster.directory().join("backup");
    save(&cluster.members[0], &file);
    let bytes = std::fs::read(&file).unwrap();
    for secret in ["second", "leased", "/own/k", "sealed apart"] {
        let found = bytes
            .windows(secret.len())
            .any(|it| it == secret.as_bytes());
        assert!(!found, "{secret} stands in the backup");
    }

    let mut restored = prepared(1).await;
    let key = key_file(&cluster.members[0]);
    restore(&mut restored.members[0], &file, &key, &[]);
    let inherited = restored.members[0].data.join("inherited.root");
    assert!(inherited.exists());
    start(&mut restored).await;
    let client = restored.client().await;
    assert_eq!(hash(&client).await, before);
    let old = client.range(pb::RangeRequest {
        key: "k".into(),
        revision: 2,
        ..Default::default()
    });
    assert_eq!(old.await.unwrap().kvs[0].value, "first");
    assert_eq!(
        client.value("/own/k").await.unwrap().unwrap(),
        "sealed apart"
    );
    let lease = client.time_to_live(42, true).await.unwrap();
    assert_eq!((lease.granted_ttl, lease.keys.len()), (600, 1));
    client.revoke(42).await.unwrap();
    assert_eq!(client.value("leased").await.unwrap(), None);
    // The member has its own slot by now, and needs the old cluster's no more.
    wait::until_true(
        "the inherited root key to go",
        Duration::from_secs(20),
        || !inherited.exists(),
    )
    .await;
    restored.members[0].terminate().await;
    restored.members[0].start().await;
    let client = restored.client().await;
    assert_eq!(
        client.value("/own/k").await.unwrap().unwrap(),
        "sealed apart"
    );
}

#[tokio::test]
async fn one_backup_makes_three_members_that_agree() {
    let cluster = single().await;
    let client = cluster.client().await;
    for number in 0..50 {
        client.put(format!("k{number}"), "v").await.unwrap();
    }
    let file = cluster.directory().join("backup");
    save(&cluster.members[0], &file);
    let key = key_file(&cluster.members[0]);
    let mut three = prepared(3).await;
    for member in &mut three.members {
        restore(
            member,
            &file,
            &key,
            &["--bump-revision=1000", "--mark-compacted"],
        );
    }
    start(&mut three).await;
    let client = three.client().await;
    let list = client.member_list(true).await.unwrap();
    assert_eq!(list.members.len(), 3);
    let old = cluster.client().await.member_list(true).await.unwrap();
    assert_ne!(
        list.header.unwrap().cluster_id,
        old.header.unwrap().cluster_id
    );
    assert_eq!(client.prefix("k").await.unwrap().count, 50);
    let put = client.put("new", "v").await.unwrap();
    assert_eq!(put.header.unwrap().revision, 1052);
    let compacted = client.range(pb::RangeRequest {
        key: "k1".into(),
        revision: 10,
        ..Default::default()
    });
    assert_eq!(compacted.await.unwrap_err().code(), tonic::Code::OutOfRange);
    let mut hashes = Vec::new();
    for member in &three.members {
        hashes.push(hash(&member.client().await).await);
    }
    assert_eq!(hashes, [hashes[0]; 3]);
    // Each seals and opens with a slot of its own, and leads as well as any.
    for index in 0..3 {
        three.members[index].kill();
        let other = three.members[(index + 1) % 3].client().await;
        wait::until(
            "a write without one member",
            Duration::from_secs(30),
            || async { other.put("after", index.to_string()).await.ok() },
        )
        .await;
        three.members[index].start().await;
        let value = three.members[index].client().await.value("after").await;
        assert_eq!(value.unwrap().unwrap(), index.to_string());
    }
}

#[tokio::test]
async fn a_member_restored_from_another_state_is_found_and_named() {
    let cluster = single().await;
    cluster.client().await.put("k", "common").await.unwrap();
    let common = cluster.directory().join("common");
    save(&cluster.members[0], &common);
    let key = key_file(&cluster.members[0]);
    // Two histories of one keyring, with the same revisions.
    let mut files = Vec::new();
    for value in ["one", "other"] {
        let mut branch = prepared(1).await;
        restore(&mut branch.members[0], &common, &key, &[]);
        start(&mut branch).await;
        branch.client().await.put("k", value).await.unwrap();
        let file = cluster.directory().join(value);
        wait::until_true("the member's own slot", Duration::from_secs(20), || {
            !branch.members[0].data.join("inherited.root").exists()
        })
        .await;
        save(&branch.members[0], &file);
        files.push(file);
    }
    let plan = Cluster::plan().program(Program::Sealkv).members(3);
    let mut three = plan.flag("--corrupt-check-time=300ms").prepare().await;
    for (member, file) in three.members.iter_mut().zip([0, 0, 1]) {
        restore(member, &files[file], &key, &[]);
    }
    start(&mut three).await;
    let client = three.members[0].client().await;
    let alarms = wait::until("the CORRUPT alarm", Duration::from_secs(60), || async {
        let mut maintenance = MaintenanceClient::new(client.channel());
        let answer = maintenance.alarm(pb::AlarmRequest::default()).await;
        let alarms = answer.ok()?.into_inner().alarms;
        (!alarms.is_empty()).then_some(alarms)
    })
    .await;
    assert_eq!(alarms[0].alarm, 2);
    let put = client.put("k", "v").await.unwrap_err();
    assert_eq!(put.message(), "etcdserver: corrupt cluster");
}

#[tokio::test]
async fn a_restored_members_log_may_lie_in_a_directory_of_its_own() {
    let cluster = single().await;
    cluster.client().await.put("k", "v").await.unwrap();
    let file = cluster.directory().join("backup");
    save(&cluster.members[0], &file);
    let key = key_file(&cluster.members[0]);
    let mut other = prepared(1).await;
    let member = &mut other.members[0];
    let wal = member.home.join("fast/wal");
    let names = || -> Vec<_> {
        let entries = std::fs::read_dir(&wal).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };

    // Whatever fails leaves nothing there, and what holds files is not taken.
    let bytes = std::fs::read(&file).unwrap();
    let cut = cluster.directory().join("cut");
    std::fs::write(&cut, &bytes[..bytes.len() - 600]).unwrap();
    let try_restore = |file: &Path, wal: &Path| {
        let words = [
            "snapshot",
            "restore",
            show(file),
            "--root-key-file",
            show(&key),
        ];
        let more = ["--data-dir", show(&member.data), "--wal-dir", show(wal)];
        let complaint = fails(&[&words[..], &more].concat());
        assert!(!member.data.exists());
        complaint
    };
    assert!(try_restore(&cut, &wal).contains("ends too early"));
    assert!(!wal.exists());
    let inside = member.data.join("wal");
    assert!(try_restore(&file, &inside).contains("is in the data directory"));
    std::fs::create_dir_all(&wal).unwrap();
    assert!(try_restore(&cut, &wal).contains("ends too early"));
    assert!(names().is_empty(), "it was empty before");
    std::fs::write(wal.join("other"), "").unwrap();
    assert!(try_restore(&file, &wal).contains("holds files"));
    std::fs::remove_file(wal.join("other")).unwrap();

    let said = restore(member, &file, &key, &["--wal-dir", show(&wal)]);
    assert!(
        said.contains(&format!("--wal-dir={}", wal.display())),
        "{said}"
    );
    assert!(names().len() > 1, "the log's segments are there");
    member.set_flag("wal-dir", "");
    member.launch();
    assert_eq!(member.wait_end().await.code(), Some(1));
    member.set_flag("wal-dir", show(&wal));
    member.start().await;
    let found = member.client().await.get("k").await.unwrap();
    assert_eq!(found.kvs[0].value, "v");
}

#[tokio::test]
async fn a_backup_that_is_not_what_was_saved_makes_no_directory() {
    let cluster = single().await;
    cluster.client().await.put("k", "v").await.unwrap();
    let file = cluster.directory().join("backup");
    save(&cluster.members[0], &file);
    let key = key_file(&cluster.members[0]);
    let bytes = std::fs::read(&file).unwrap();
    let target = cluster.directory().join("restored");
    let write = |name: &str, bytes: &[u8]| {
        let path = cluster.directory().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    let mut other_hash = bytes.clone();
    *other_hash.last_mut().unwrap() ^= 1;
    let cut = write("cut", &bytes[..bytes.len() - 600]);
    let (changed, other_hash) = (write("changed", &changed), write("hash", &other_hash));
    let another: Vec<u8> = (0..32u8).map(|byte| byte.wrapping_mul(37) ^ 0x5a).collect();
    let (text_file, wrong_key) = (write("text", b"no backup"), write("wrong.key", &another));
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&wrong_key, std::fs::Permissions::from_mode(0o600)).unwrap();

    let try_restore = |file: &Path, key: &Path, more: &[&str]| {
        let mut words = vec![
            "snapshot",
            "restore",
            show(file),
            "--root-key-file",
            show(key),
        ];
        words.extend(["--data-dir", show(&target)]);
        words.extend(more);
        let complaint = fails(&words);
        assert!(!target.exists(), "{words:?}");
        complaint
    };
    assert!(try_restore(&cut, &key, &[]).contains("ends too early"));
    assert!(try_restore(&changed, &key, &[]).contains("damaged"));
    assert!(try_restore(&changed, &key, &["--skip-hash-check"]).contains("damaged"));
    assert!(try_restore(&other_hash, &key, &[]).contains("hash"));
    assert!(try_restore(&text_file, &key, &[]).contains("no backup of sealkv"));
    assert!(try_restore(&file, &wrong_key, &[]).contains("the root key of member"));
    let none = cluster.directory().join("none.key");
    assert!(try_restore(&file, &none, &[]).contains("--root-key-file"));
    for file in [&cut, &changed, &other_hash, &text_file] {
        fails(&["snapshot", "status", show(file)]);
    }
    let left = beside(cluster.directory(), "restoring");
    assert!(left.is_empty(), "{left:?}");

    // A wrong hash alone is not the contents' fault.
    let words = [
        "snapshot",
        "restore",
        show(&other_hash),
        "--skip-hash-check",
    ];
    let data_dir = ["--data-dir", show(&target), "--root-key-file", show(&key)];
    succeeds(&[&words[..], &data_dir].concat());
    let words = ["snapshot", "restore", show(&file)];
    let complaint = fails(&[&words[..], &data_dir].concat());
    assert!(complaint.contains("exists and is not empty"), "{complaint}");
}
