//! The pages of a member whose condition the test sets.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use tower_service::Service as _;

use super::*;
use crate::config::AllowList;

#[derive(Clone, Default)]
pub(super) struct Told {
    pub(super) condition: Arc<Condition>,
    pub(super) serializable_error: Option<&'static str>,
    pub(super) linearizable_error: Option<&'static str>,
    pub(super) asks_for_names: bool,
}

impl Node for Told {
    type ReadError = &'static str;

    async fn read(&self, linearizable: bool) -> Result<(), &'static str> {
        let error = if linearizable {
            self.linearizable_error
        } else {
            self.serializable_error
        };
        error.map_or(Ok(()), Err)
    }

    fn condition(&self) -> Condition {
        Condition::clone(&self.condition)
    }

    fn asks_for_names(&self) -> bool {
        self.asks_for_names
    }
}

fn told(change: impl FnOnce(&mut Condition)) -> Told {
    let mut condition = Condition {
        has_leader: true,
        root_opened: true,
        cluster_version: "3.7.0".to_owned(),
        ..Condition::default()
    };
    change(&mut condition);
    Told {
        condition: Arc::new(condition),
        ..Told::default()
    }
}

fn healthy() -> Told {
    told(|_| {})
}

fn with_alarm(kind: AlarmKind) -> Told {
    told(|condition| {
        condition.alarms.push(MemberAlarm {
            member_id: 0xab,
            kind,
        })
    })
}

fn pages(node: Told) -> Router {
    pages_with(node, false)
}

fn pages_with(node: Told, profiles: bool) -> Router {
    let door = FrontDoor {
        origins: AllowList::parse("*"),
        hosts: AllowList::parse("*"),
    };
    client_pages(node, None, profiles, door)
}

async fn ask(node: Told, method: Method, path: &str) -> (StatusCode, Response<()>, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap();
    let (parts, body) = pages(node).call(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    (parts.status, Response::from_parts(parts, ()), text)
}

async fn get(node: Told, path: &str) -> (u16, String) {
    let (status, _, body) = ask(node, Method::GET, path).await;
    (status.as_u16(), body)
}

#[tokio::test]
async fn version_is_etcds() {
    let (status, head, body) = ask(healthy(), Method::GET, "/version").await;
    assert_eq!(status, 200);
    assert_eq!(head.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(
        body,
        r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#
    );
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_as_go_does() {
    let (status, head, body) = ask(healthy(), Method::GET, "/nothing").await;
    assert_eq!(
        (status.as_u16(), body.as_str()),
        (404, "404 page not found\n")
    );
    assert_eq!(head.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(get(healthy(), "/health/").await.0, 404);
    for path in ["/version", "/health", "/livez", "/readyz/non_learner"] {
        let (status, head, body) = ask(healthy(), Method::POST, path).await;
        assert_eq!(
            (status.as_u16(), body.as_str()),
            (405, "Method Not Allowed\n"),
            "{path}"
        );
        assert_eq!(head.headers()[ALLOW], "GET");
    }
}

#[tokio::test]
async fn health_is_earned() {
    let ill = |reason: &str| {
        (
            503,
            format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"),
        )
    };
    let well = (200, r#"{"health":"true","reason":""}"#.to_owned());
    assert_eq!(get(healthy(), "/health").await, well);
    assert_eq!(
        get(with_alarm(AlarmKind::NoSpace), "/health").await,
        ill("ALARM NOSPACE")
    );
    assert_eq!(
        get(with_alarm(AlarmKind::Corrupt), "/health").await,
        ill("ALARM CORRUPT")
    );
    assert_eq!(
        get(with_alarm(AlarmKind::NoSpace), "/health?exclude=NOSPACE").await,
        well
    );
    let leaderless = told(|condition| condition.has_leader = false);
    assert_eq!(
        get(leaderless.clone(), "/health").await,
        ill("RAFT NO LEADER")
    );
    assert_eq!(get(leaderless, "/health?serializable=true").await, well);
    let locked = told(|condition| condition.root_opened = false);
    assert_eq!(get(locked, "/health").await, ill("ROOT KEY NOT OPEN"));
    let slow = Told {
        linearizable_error: Some("etcdserver: request timed out"),
        ..healthy()
    };
    assert_eq!(
        get(slow.clone(), "/health").await,
        ill("RANGE ERROR:etcdserver: request timed out")
    );
    assert_eq!(get(slow, "/health?serializable=true").await, well);
}

#[tokio::test]
async fn livez_and_readyz_report_their_checks() {
    assert_eq!(get(healthy(), "/livez").await, (200, "ok\n".into()));
    assert_eq!(
        get(healthy(), "/livez?verbose").await,
        (200, "[+]serializable_read ok\nok\n".into())
    );
    assert_eq!(get(healthy(), "/readyz").await, (200, "ok\n".into()));
    let ill = Told {
        linearizable_error: Some("etcdserver: leader changed"),
        ..with_alarm(AlarmKind::Corrupt)
    };
    let (status, body) = get(ill.clone(), "/readyz").await;
    assert_eq!(status, 503);
    assert!(
        body.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"),
        "{body}"
    );
    assert!(body.contains("[+]serializable_read ok\n"), "{body}");
    assert!(
        body.contains("[-]linearizable_read failed: etcdserver: leader changed\n"),
        "{body}"
    );
    assert_eq!(get(ill.clone(), "/readyz/linearizable_read").await.0, 503);
    assert_eq!(get(ill.clone(), "/readyz/serializable_read").await.0, 200);
    assert_eq!(get(ill.clone(), "/livez").await.0, 200);
    let excluded = "/readyz?exclude=linearizable_read&exclude=data%5Fcorruption&exclude=no_such";
    assert_eq!(get(ill, excluded).await, (200, "ok\n".into()));
    let learner = told(|condition| condition.is_learner = true);
    assert_eq!(
        get(learner, "/readyz/non_learner").await,
        (
            503,
            "[-]non_learner failed: not supported for learner\n\n".into()
        )
    );
}

#[tokio::test]
async fn metrics_are_measured_when_they_are_scraped() {
    let node = told(|condition| {
        condition.member_id = 0xbeef;
        condition.revision = 41;
    });
    let (status, page) = get(node, "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        page.contains("etcd_server_id{server_id=\"beef\"} 1"),
        "{page}"
    );
    assert!(page.contains("etcd_server_has_leader 1"), "{page}");
}

#[tokio::test]
async fn profiles_are_there_when_they_are_asked_for_and_say_what_they_are_not() {
    async fn get(profiles: bool, path: &str) -> (u16, String) {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = pages_with(healthy(), profiles).call(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
    let off = (404, "404 page not found\n".to_owned());
    for path in ["/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"] {
        assert_eq!(get(false, path).await, off, "{path}");
    }
    assert_eq!(get(true, "/debug/pprof").await.0, 307);
    assert_eq!(get(true, "/debug/pprof/").await.0, 200);
    assert_eq!(get(true, "/debug/pprof/cmdline").await.0, 200);
    let unknown = (404, "Unknown profile\n".to_owned());
    assert_eq!(get(true, "/debug/pprof/no/such").await, unknown);
    let (status, why) = get(true, "/debug/pprof/heap").await;
    assert_eq!(status, 501);
    assert!(why.starts_with("No heap: the allocator"), "{why}");
    assert_eq!(get(true, "/debug/pprof/profile?seconds=301").await.0, 400);
    let mut pages = pages_with(healthy(), true);
    let long = Request::builder().uri("/debug/pprof/profile?seconds=300");
    let mut first = pages.call(long.body(Body::empty()).unwrap());
    let second = tokio::select! {
        biased;
        _ = &mut first => unreachable!("five minutes have not passed"),
        answer = get(true, "/debug/pprof/profile?seconds=1") => answer,
    };
    let in_use = "Could not enable CPU profiling: cpu profiling already in use\n";
    assert_eq!(second, (500, in_use.to_owned()));
    // Whoever goes away makes room for the next one, as soon as what was begun is taken back.
    drop(first);
    while get(true, "/debug/pprof/profile?seconds=1").await.0 != 200 {
        tokio::task::yield_now().await;
    }
}
