//! `--discovery-endpoints`: members that find each other by keys in another cluster, which may be
//! a real etcd, as may be those that look for each other.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use tests::binary;
use tests::cluster::{Cluster, END_WITHIN, Member, Program};
use tests::interop::{PASSWORD, USER, require_login};
use tests::tls::{Ca, Says, Tls};
use tests::wait;

const SIZE: &str = "/_etcd/registry/t/_config/size";
const MEMBERS: &str = "/_etcd/registry/t/members/";

/// Members that are told nothing but where to ask.
async fn seekers(program: Program, members: usize, service: &Cluster) -> Cluster {
    let plan = Cluster::plan().program(program).members(members);
    let mut cluster = plan.prepare().await;
    for member in &mut cluster.members {
        member.arguments.retain(|argument| {
            let argument = argument.to_string_lossy();
            !argument.starts_with("--initial-cluster")
        });
        member.set_flag("discovery-token", "t");
        member.set_flag("discovery-endpoints", &service.endpoints().join(","));
    }
    cluster
}

async fn all_serve(cluster: &mut Cluster) {
    cluster.members.iter_mut().for_each(Member::launch);
    for member in &mut cluster.members {
        member.ready().await;
    }
    let listed = cluster.client().await.member_list(true).await.unwrap();
    let mut names: Vec<_> = listed.members.into_iter().map(|it| it.name).collect();
    names.sort();
    assert_eq!(names, ["m1", "m2", "m3"]);
}

/// It ends by itself and says why.
async fn refused(member: &mut Member, why: &str) {
    member.launch();
    assert_eq!(member.wait_end().await.code(), Some(1));
    let said = member.log_of_this_start();
    assert!(said.contains(why), "{said}");
}

#[tokio::test]
async fn three_members_find_each_other_and_later_need_nobody() {
    let mut service = Cluster::plan().program(Program::Sealkv).start().await;
    let mut cluster = seekers(Program::Sealkv, 3, &service).await;
    let first = &mut cluster.members[0];
    refused(first, "discovery: size key not found").await;
    let asked = service.client().await;
    for bad in ["x", "0", "-1", ""] {
        asked.put(SIZE, bad).await.unwrap();
        refused(first, "discovery: size key is bad").await;
    }
    assert!(asked.prefix(MEMBERS).await.unwrap().kvs.is_empty());

    asked.put(SIZE, "3").await.unwrap();
    all_serve(&mut cluster).await;
    cluster.client().await.put("k", "v").await.unwrap();
    let registered = asked.prefix(MEMBERS).await.unwrap().kvs;
    let mut urls: Vec<_> = registered
        .iter()
        .map(|record| record.value.clone())
        .collect();
    urls.sort();
    let mut wanted: Vec<_> = cluster.members.iter().collect();
    wanted.sort_by(|one, other| one.name.cmp(&other.name));
    let wanted = wanted
        .iter()
        .map(|it| format!("{}={}", it.name, it.peer_url()));
    assert_eq!(urls, wanted.collect::<Vec<_>>());

    // There is no place for a fourth.
    let mut late = seekers(Program::Sealkv, 1, &service).await;
    late.members[0].set_flag("name", "m4");
    refused(&mut late.members[0], "discovery: cluster is full").await;
    assert_eq!(asked.prefix(MEMBERS).await.unwrap().kvs.len(), 3);

    // Whoever has data asks nobody.
    service.members[0].kill();
    let member = &mut cluster.members[0];
    member.terminate().await;
    member.start().await;
    assert!(
        member
            .log_of_this_start()
            .contains("discovery token is ignored")
    );
    assert_eq!(
        member.client().await.value("k").await.unwrap().unwrap(),
        "v"
    );
}

#[tokio::test]
async fn a_service_that_is_not_there_yet_is_waited_for_and_the_wait_can_be_ended() {
    let plan = Cluster::plan().program(Program::Sealkv);
    let mut service = plan.prepare().await;
    let mut cluster = seekers(Program::Sealkv, 1, &service).await;
    let member = &mut cluster.members[0];
    let asks_again = "retry connecting to discovery service";
    member.launch();
    let again = || member.log_of_this_start().contains(asks_again);
    wait::until_true("it asks again", END_WITHIN, again).await;
    member.terminate().await;
    member.launch();
    let again = || member.log_of_this_start().contains(asks_again);
    wait::until_true("it asks again", END_WITHIN, again).await;
    service.members[0].start().await;
    service.client().await.put(SIZE, "1").await.unwrap();
    member.ready().await;
}

#[tokio::test]
async fn who_asks_and_whom_it_believes_are_told_by_flags() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new(directory.path(), "ca");
    let server = ca.issue("server", &Says::of("server", &["127.0.0.1"]));
    let flag = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
    let mut service = Cluster::plan()
        .program(Program::Sealkv)
        .clients_over(&Tls::new(&ca, None))
        .flag(flag("cert-file", &server.certificate))
        .flag(flag("key-file", &server.key))
        .start()
        .await;
    service.client().await.put(SIZE, "1").await.unwrap();
    require_login(&mut service).await;
    let mut cluster = seekers(Program::Sealkv, 1, &service).await;
    let member = &mut cluster.members[0];
    let endpoint = service.endpoints()[0].replace("https://", "");
    member.set_flag("discovery-endpoints", &endpoint);
    member.set_flag("discovery-cacert", &ca.certificate.display().to_string());
    member.set_flag("discovery-user", &format!("{USER}:wrong"));
    refused(member, "authentication failed, invalid user ID or password").await;
    member.set_flag("discovery-user", USER);
    member.set_flag("discovery-password", PASSWORD);
    member.start().await;
    assert!(!member.log().contains(PASSWORD), "no password is logged");
}

#[tokio::test]
async fn etcd_and_sealkv_find_their_kind_through_each_other() {
    if binary::etcd_or_skip("etcd_and_sealkv_find_their_kind_through_each_other").is_none() {
        return;
    }
    for (asked, seeking) in [
        (Program::Etcd, Program::Sealkv),
        (Program::Sealkv, Program::Etcd),
    ] {
        let service = Cluster::plan().program(asked).start().await;
        service.client().await.put(SIZE, "3").await.unwrap();
        let mut cluster = seekers(seeking, 3, &service).await;
        all_serve(&mut cluster).await;
    }
    // The same token names the same members: the keys that both kinds write are the same.
    let mut keys = Vec::new();
    let service = Cluster::plan().program(Program::Sealkv).start().await;
    for program in [Program::Etcd, Program::Sealkv] {
        let client = service.client().await;
        client.put(SIZE, "1").await.unwrap();
        let mut cluster = seekers(program, 1, &service).await;
        cluster.members[0].set_flag("initial-advertise-peer-urls", "http://127.0.0.1:1");
        cluster.members[0].start().await;
        let found = client.prefix(MEMBERS).await.unwrap().kvs;
        keys.push((found[0].key.clone(), found[0].value.clone()));
        client.delete(found[0].key.clone()).await.unwrap();
    }
    assert_eq!(keys[0], keys[1]);
}
