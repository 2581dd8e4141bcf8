//! Disks that fill up, leaders that stand still, clocks that jump, and all kinds of misfortune at once.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tests::client::Client;
use tests::cluster::{Cluster, Program};
use tests::load::{self, Load};
use tests::wait;

/// How long a loaded machine may take for what takes seconds.
const SOON: Duration = Duration::from_secs(180);
/// A history with fewer acknowledged writes has shown nothing.
const WRITES_MIN: usize = 100;

async fn goes_on(load: &Load, writes: u64) {
    let before = load.acknowledged();
    wait::until_true("writes to go on", SOON, || {
        load.acknowledged() >= before + writes
    })
    .await;
}

/// A file system of its own; taken away with the guard.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "sealkv-test"])
            .arg(at)
            .output()
            .is_ok_and(|done| done.status.success());
        mounted.then(|| Self(at.to_owned()))
    }

    /// To the last byte.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        let mut chunk = vec![0; 1 << 20];
        while !chunk.is_empty() {
            if file.write_all(&chunk).is_err() {
                chunk.truncate(chunk.len() / 2);
            }
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_ends_its_member_in_words_and_the_cluster_goes_on() {
    let mut cluster = Cluster::plan()
        .program(Program::Sealkv)
        .members(3)
        .prepare()
        .await;
    let mut disks = Vec::new();
    for member in &cluster.members {
        let Some(disk) = SmallDisk::mount(&member.data, "640m") else {
            eprintln!("skipped: no file system can be mounted here");
            return;
        };
        disks.push(disk);
    }
    for member in &mut cluster.members {
        member.launch();
    }
    for member in &mut cluster.members {
        member.ready().await;
    }
    let load = Load::start(&cluster.endpoints(), 6);
    goes_on(&load, 50).await;
    // A follower, then the leader.
    for leads in [false, true] {
        let leader = cluster.leader().await;
        let full = if leads { leader } else { (leader + 1) % 3 };
        disks[full].fill();
        // Room that was taken in advance is used up first: large values see to that.
        let writer = cluster.members[(full + 1) % 3].client().await;
        let deadline = Instant::now() + SOON;
        let status = loop {
            let put = |part: u8| writer.put(format!("large/{part}"), vec![b'v'; 1 << 20]);
            let puts = futures::future::join_all((0..8).map(put));
            let _ = tokio::time::timeout(Duration::from_secs(8), puts).await;
            if let Some(status) = cluster.members[full].ended() {
                break status;
            }
            assert!(Instant::now() < deadline, "leads {leads}: it still runs");
        };
        assert!(!status.success(), "leads {leads}: {status}");
        let log = cluster.members[full].log_of_this_start();
        assert!(
            log.contains("no space left on the disk of"),
            "leads {leads}:\n{log}"
        );
        assert!(!log.contains("panicked"), "leads {leads}:\n{log}");
        goes_on(&load, 50).await;
        disks[full].empty();
        cluster.members[full].start().await;
        goes_on(&load, 50).await;
    }
    load::assert_well(load, &cluster, WRITES_MIN, SOON).await;
}

/// Keeps a lease alive at whichever member answers, until it is told that the lease is gone.
async fn keep(clients: &[Client], lease: i64) {
    for client in clients.iter().cycle() {
        let renewed = tokio::time::timeout(Duration::from_secs(1), client.keep_alive(lease));
        if let Ok(Ok(answer)) = renewed.await {
            assert!(answer.ttl > 0, "the lease is gone although it was kept");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

#[tokio::test]
async fn a_leader_that_stood_still_revokes_no_lease_that_its_successor_keeps() {
    const TTL: i64 = 5;
    let cluster = Cluster::three().await;
    for round in 0..2 {
        let old = cluster.leader().await;
        let mut others = Vec::new();
        for member in cluster
            .members
            .iter()
            .filter(|it| it.name != cluster.members[old].name)
        {
            others.push(member.client().await);
        }
        let lease = 7 + round;
        others[0].grant(lease, TTL).await.unwrap();
        let put = pb::PutRequest {
            key: "held".into(),
            lease,
            ..Default::default()
        };
        others[0].put_request(put).await.unwrap();
        cluster.members[old].pause();
        let scenes = async {
            // Its own clock says that the lease is long over when it goes on.
            tokio::time::sleep(Duration::from_secs(2 * TTL.unsigned_abs())).await;
            cluster.members[old].resume();
            let woken = cluster.members[old].client().await;
            let until = Instant::now() + Duration::from_secs(TTL.unsigned_abs());
            while Instant::now() < until {
                // Read at the woken one: nothing stale, so the key is there.
                if let Ok(Ok(read)) =
                    tokio::time::timeout(Duration::from_secs(5), woken.get("held")).await
                {
                    assert_eq!(read.kvs.len(), 1, "round {round}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = scenes => {}
            () = keep(&others, lease) => {}
        }
        let read = others[0].get("held").await.unwrap();
        assert_eq!(read.kvs.len(), 1, "round {round}");
        others[0].revoke(lease).await.unwrap();
    }
}

/// libfaketime, where it is installed.
fn faketime() -> Option<PathBuf> {
    let places = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/faketime/libfaketimeMT.so.1",
    ];
    let given = std::env::var_os("SEALKV_FAKETIME").map(PathBuf::from);
    given
        .into_iter()
        .chain(places.map(PathBuf::from))
        .find(|it| it.exists())
}

#[tokio::test]
async fn wall_clocks_that_jump_an_hour_change_nothing() {
    let Some(library) = faketime() else {
        eprintln!("skipped: libfaketime is not installed");
        return;
    };
    let mut cluster = Cluster::plan()
        .program(Program::Sealkv)
        .members(3)
        .prepare()
        .await;
    let clocks: Vec<PathBuf> = cluster
        .members
        .iter()
        .map(|it| it.home.join("clock"))
        .collect();
    for (member, clock) in cluster.members.iter_mut().zip(&clocks) {
        std::fs::write(clock, "+0").unwrap();
        member.environment = vec![
            ("LD_PRELOAD".into(), library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE".into(), clock.clone().into()),
            ("FAKETIME_NO_CACHE".into(), "1".into()),
            // What jumps is the wall clock alone.
            ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
        ];
        member.launch();
    }
    for member in &mut cluster.members {
        member.ready().await;
    }
    let load = Load::start(&cluster.endpoints(), 6);
    let client = cluster.client().await;
    client.grant(7, 3600).await.unwrap();
    client.grant(8, 6).await.unwrap();
    let clients = [client.clone()];
    let scenes = async {
        for round in 0..6 {
            let leader = cluster.leader().await;
            let member = if round % 2 == 0 {
                leader
            } else {
                (leader + 1) % 3
            };
            let jump = ["+3600", "-3600", "+0"][round / 2];
            std::fs::write(&clocks[member], jump).unwrap();
            goes_on(&load, 30).await;
        }
    };
    // Kept all the while, and over by its own time neither sooner nor later.
    tokio::select! {
        () = scenes => {}
        () = keep(&clients, 8) => {}
    }
    let left = client.time_to_live(7, false).await.unwrap();
    assert!((1..=3600).contains(&left.ttl), "{left:?}");
    wait::until("the lease that nobody keeps to end", SOON, async || {
        let left = client.time_to_live(8, false).await.ok()?;
        (left.ttl == -1).then_some(())
    })
    .await;
    load::assert_well(load, &cluster, WRITES_MIN, SOON).await;
}

/// `SEALKV_FAULT_SECONDS` says how long, `SEALKV_FAULT_SEED` repeats a choice of faults; their timing
/// is the machine's.
#[tokio::test]
async fn members_that_are_killed_stopped_and_cut_off_at_random_lose_tear_and_reorder_nothing() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let seconds = number("SEALKV_FAULT_SECONDS").unwrap_or(30);
    let seed =
        number("SEALKV_FAULT_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("SEALKV_FAULT_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let plan = Cluster::plan().program(Program::Sealkv).members(3);
    // So few that a member which was away is sent a snapshot.
    let plan = plan
        .flag("--snapshot-count=200")
        .flag("--snapshot-catchup-entries=20");
    let mut cluster = plan.partitionable().start().await;
    let links = cluster.links.clone().unwrap();
    let load = Load::start(&cluster.endpoints(), 6);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut faults = 0;
    while Instant::now() < end {
        // One of three, so that the others can go on; the leader more often than chance has it.
        let victim = match rng.random() {
            true => cluster.leader().await,
            false => rng.random_range(0..3),
        };
        let others = (0..3).filter(|other| *other != victim);
        let kind = rng.random_range(0..5);
        println!("fault {kind} for {victim}");
        match kind {
            0 => cluster.members[victim].kill(),
            1 => cluster.members[victim].pause(),
            2 => links.isolate(victim),
            // Deaf, and mute.
            3 => others.for_each(|other| links.cut(other, victim)),
            _ => others.for_each(|other| links.cut(victim, other)),
        }
        goes_on(&load, 20).await;
        links.mend();
        match kind {
            0 => cluster.members[victim].start().await,
            1 => cluster.members[victim].resume(),
            _ => {}
        }
        goes_on(&load, 20).await;
        faults += 1;
    }
    assert!(faults >= 2, "{faults} faults show nothing");
    for member in &mut cluster.members {
        member.ready().await;
    }
    load::assert_well(load, &cluster, WRITES_MIN, SOON).await;
}
