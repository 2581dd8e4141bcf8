//! The key bundle: what opens backups when the members' own keys are lost.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::path::{Path, PathBuf};

use tests::cluster::{Cluster, Member, Program, READY_WITHIN};
use tests::command::{fails, key_file, restore, restore_words, save, show, succeeds};
use tests::wait;

struct Backup {
    cluster: Cluster,
    file: PathBuf,
    bundle: PathBuf,
    passphrase: PathBuf,
}

/// A cluster with a backup and a key bundle that was made before it.
async fn backup() -> Backup {
    let cluster = Cluster::plan().program(Program::Sealkv).start().await;
    let at = |name: &str| cluster.directory().join(name);
    let (file, bundle, passphrase) = (at("backup"), at("keys.bundle"), at("passphrase"));
    std::fs::write(&passphrase, "correct horse\n").unwrap();
    make_bundle(&cluster.members[0], &bundle, &passphrase);
    let client = cluster.client().await;
    client.put("k", "v").await.unwrap();
    let endpoint = cluster.members[0].endpoint();
    succeeds(&["--endpoints", &endpoint, "keys", "add", "/own/"]);
    client.put("/own/k", "sealed apart").await.unwrap();
    save(&cluster.members[0], &file);
    Backup {
        cluster,
        file,
        bundle,
        passphrase,
    }
}

fn bundle_words<'a>(endpoint: &'a str, bundle: &'a Path, passphrase: &'a Path) -> [&'a str; 7] {
    [
        "--endpoints",
        endpoint,
        "keys",
        "backup",
        show(bundle),
        "--bundle-passphrase-file",
        show(passphrase),
    ]
}

fn make_bundle(member: &Member, bundle: &Path, passphrase: &Path) {
    let (endpoint, key) = (member.endpoint(), key_file(member));
    let words = bundle_words(&endpoint, bundle, passphrase);
    succeeds(&[&words[..], &["--root-key-file", show(&key)]].concat());
}

impl Backup {
    fn restore(&self, member: &Member, bundle: &Path, passphrase: &Path) -> Vec<String> {
        let bundle = ["--key-bundle", show(bundle)].map(str::to_owned);
        let passphrase = ["--bundle-passphrase-file", show(passphrase)].map(str::to_owned);
        let words = restore_words(member, &self.file).into_iter();
        words.chain(bundle).chain(passphrase).collect()
    }
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn a_bundle_restores_three_members_when_every_key_file_is_lost() {
    let backup = backup().await;
    let endpoint = backup.cluster.members[0].endpoint();
    let key = key_file(&backup.cluster.members[0]);
    let other = backup.cluster.directory().join("wrong.key");
    std::fs::copy(&key, &other).unwrap();
    let mut bytes = std::fs::read(&other).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&other, bytes).unwrap();
    // It takes the member's own key, and replaces no file.
    let second = backup.cluster.directory().join("second.bundle");
    let asked = bundle_words(&endpoint, &second, &backup.passphrase);
    let complaint = fails(&[&asked[..], &["--root-key-file", show(&other)]].concat());
    assert!(
        complaint.contains("needs the root key of member"),
        "{complaint}"
    );
    assert!(!second.exists());
    let asked = bundle_words(&endpoint, &backup.bundle, &backup.passphrase);
    let complaint = fails(&[&asked[..], &["--root-key-file", show(&key)]].concat());
    assert!(complaint.contains("exists already"), "{complaint}");

    let status = ["snapshot", "status", show(&backup.file)];
    let with = ["--key-bundle", show(&backup.bundle)];
    let out = succeeds(&[&status[..], &with].concat());
    assert!(out.contains("opens it"), "{out}");
    std::fs::remove_file(&key).unwrap();
    let plan = Cluster::plan().program(Program::Sealkv).members(3);
    let mut three = plan.flag("--corrupt-check-time=300ms").prepare().await;
    for member in &mut three.members {
        succeeds(&words(&backup.restore(
            member,
            &backup.bundle,
            &backup.passphrase,
        )));
        // A key file of its own, as a first start makes it.
        assert!(key_file(member).exists());
        member.launch();
    }
    for member in &mut three.members {
        member.ready().await;
    }
    for member in &three.members {
        let client = member.client().await;
        let value = client.value("/own/k").await.unwrap().unwrap();
        assert_eq!(value, "sealed apart");
    }
    three.client().await.put("/own/k", "new").await.unwrap();
    // Its backups are the new members' own, and the bundle's as before: the root key is the same.
    let file = three.directory().join("later");
    save(&three.members[1], &file);
    let status = ["snapshot", "status", show(&file)];
    let passphrase = ["--bundle-passphrase-file", show(&backup.passphrase)];
    succeeds(&[&status[..], &with, &passphrase].concat());
}

#[tokio::test]
async fn members_restored_by_bundle_and_by_key_file_have_the_same_state() {
    let backup = backup().await;
    let key = key_file(&backup.cluster.members[0]);
    let plan = Cluster::plan().program(Program::Sealkv).members(3);
    let mut three = plan.flag("--corrupt-check-time=300ms").prepare().await;
    for (index, member) in three.members.iter_mut().enumerate() {
        if index == 0 {
            restore(member, &backup.file, &key, &[]);
        } else {
            succeeds(&words(&backup.restore(
                member,
                &backup.bundle,
                &backup.passphrase,
            )));
        }
        member.launch();
    }
    for member in &mut three.members {
        member.ready().await;
    }
    let leader = three.leader().await;
    let checks = || {
        let log = three.members[leader].log_of_this_start();
        log.matches("finished peer corruption check").count() > 1
    };
    wait::until_true("the members to be compared", READY_WITHIN, checks).await;
    // With the alarm that a difference raises, nothing could be written.
    let client = three.client().await;
    assert_eq!(
        client.value("/own/k").await.unwrap().unwrap(),
        "sealed apart"
    );
    client.put("k", "new").await.unwrap();
}

#[tokio::test]
async fn a_bundle_that_does_not_fit_makes_no_directory_and_says_why() {
    let backup = backup().await;
    let directory = backup.cluster.directory();
    let new = Cluster::plan().program(Program::Sealkv).prepare().await;
    let member = &new.members[0];
    let refused = |bundle: &Path, passphrase: &Path| {
        let complaint = fails(&words(&backup.restore(member, bundle, passphrase)));
        assert!(!member.data.exists());
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        complaint
    };
    let wrong = directory.join("wrong");
    std::fs::write(&wrong, "correct horsf").unwrap();
    let complaint = refused(&backup.bundle, &wrong);
    assert!(
        complaint.contains("passphrase is not the one"),
        "{complaint}"
    );
    let bytes = std::fs::read(&backup.bundle).unwrap();
    let cut = directory.join("cut");
    std::fs::write(&cut, &bytes[..bytes.len() - 1]).unwrap();
    let complaint = refused(&cut, &backup.passphrase);
    assert!(complaint.contains("damaged or was cut off"), "{complaint}");
    let complaint = refused(&backup.file, &backup.passphrase);
    assert!(complaint.contains("no key bundle"), "{complaint}");
    let none = refused(&directory.join("none"), &backup.passphrase);
    assert!(none.contains("No such file"), "{none}");

    // Of another cluster: known before the passphrase is asked for.
    let other = Cluster::plan().program(Program::Sealkv).start().await;
    let foreign = directory.join("foreign");
    make_bundle(&other.members[0], &foreign, &backup.passphrase);
    let complaint = refused(&foreign, &wrong);
    assert!(complaint.contains("of keyring"), "{complaint}");
    let status = ["snapshot", "status", show(&backup.file), "--key-bundle"];
    let complaint = fails(&[&status[..], &[show(&foreign)]].concat());
    assert!(complaint.contains("of keyring"), "{complaint}");
}
