//! Watches: ordered, unique, reliable, atomic, resumable, bookmarkable, prev_kv exact.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;
use tests::check::watch;
use tests::client::{Client, WatchStream, prefix_end};
use tests::cluster::Cluster;
use tests::txn;

fn on(key: &'static str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.into(),
        ..Default::default()
    }
}

fn under(prefix: &'static str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: prefix.into(),
        range_end: prefix_end(prefix.as_bytes()),
        ..Default::default()
    }
}

fn everything() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    }
}

/// `put a=1@2`, in the order of arrival.
fn told(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| {
            let kv = event.kv.as_ref().expect("an event has a record");
            let key = String::from_utf8_lossy(&kv.key);
            match event.r#type() {
                EventType::Put => format!(
                    "put {key}={}@{}",
                    String::from_utf8_lossy(&kv.value),
                    kv.mod_revision
                ),
                EventType::Delete => format!("delete {key}@{}", kv.mod_revision),
            }
        })
        .collect()
}

#[tokio::test]
async fn a_watch_tells_puts_and_deletes_as_they_happen() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut stream = client.watch_stream();
    stream.create(on("a")).await;
    let created = stream.next().await.unwrap();
    assert_eq!(
        (
            created.created,
            created.watch_id,
            created.header.unwrap().revision
        ),
        (true, 0, 1)
    );
    client.put("a", "1").await.unwrap();
    client.put("b", "not watched").await.unwrap();
    client.delete("a").await.unwrap();
    let events = stream.events(2).await;
    assert_eq!(told(&events), ["put a=1@2", "delete a@4"]);
    let deleted = events[1].kv.as_ref().unwrap();
    assert_eq!(
        (
            deleted.create_revision,
            deleted.version,
            deleted.lease,
            deleted.value.len()
        ),
        (0, 0, 0, 0),
        "a delete has only key and revision"
    );
    assert_eq!(events[0].prev_kv, None);
}

#[tokio::test]
async fn a_start_in_the_past_tells_history_and_goes_on_without_a_gap() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for value in ["1", "2", "3"] {
        client.put("a", value).await.unwrap();
    }
    let mut stream = client
        .watch(pb::WatchCreateRequest {
            start_revision: 3,
            ..on("a")
        })
        .await
        .unwrap();
    client.put("a", "4").await.unwrap();
    assert_eq!(
        told(&stream.events(3).await),
        ["put a=2@3", "put a=3@4", "put a=4@5"]
    );
}

#[tokio::test]
async fn a_start_in_the_future_is_silent_until_then() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut stream = client
        .watch(pb::WatchCreateRequest {
            start_revision: 4,
            ..on("a")
        })
        .await
        .unwrap();
    for value in ["1", "2", "3", "4"] {
        client.put("a", value).await.unwrap();
    }
    assert_eq!(told(&stream.events(2).await), ["put a=3@4", "put a=4@5"]);
}

#[tokio::test]
async fn prev_kv_is_the_record_just_before() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for value in ["1", "2"] {
        client.put("a", value).await.unwrap();
    }
    client.delete("a").await.unwrap();
    client.put("a", "3").await.unwrap();
    let request = pb::WatchCreateRequest {
        start_revision: 2,
        prev_kv: true,
        ..on("a")
    };
    let mut past = client.watch(request.clone()).await.unwrap();
    let mut live = client
        .watch(pb::WatchCreateRequest {
            start_revision: 0,
            ..request
        })
        .await
        .unwrap();
    client.put("a", "4").await.unwrap();
    let previous = |event: &Event| {
        event
            .prev_kv
            .as_ref()
            .map(|kv| (kv.value.clone(), kv.mod_revision, kv.version))
    };
    let events = past.events(5).await;
    assert_eq!(
        events.iter().map(previous).collect::<Vec<_>>(),
        [
            None,
            Some(("1".into(), 2, 1)),
            Some(("2".into(), 3, 2)),
            None,
            Some(("3".into(), 5, 1))
        ]
    );
    assert_eq!(previous(&live.events(1).await[0]), Some(("3".into(), 5, 1)));
}

#[tokio::test]
async fn prev_kv_is_absent_once_it_is_compacted() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for value in ["1", "2", "3"] {
        client.put("a", value).await.unwrap();
    }
    client.compact(3).await.unwrap();
    let mut stream = client
        .watch(pb::WatchCreateRequest {
            start_revision: 3,
            prev_kv: true,
            ..on("a")
        })
        .await
        .unwrap();
    let events = stream.events(2).await;
    assert_eq!(told(&events), ["put a=2@3", "put a=3@4"]);
    assert_eq!(
        (
            events[0].prev_kv.is_none(),
            events[1].prev_kv.as_ref().map(|kv| kv.value.clone())
        ),
        (true, Some("2".into()))
    );
}

#[tokio::test]
async fn filters_leave_out_puts_or_deletes() {
    use pb::watch_create_request::FilterType;
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let filtered = |filter: FilterType| pb::WatchCreateRequest {
        filters: vec![filter.into()],
        start_revision: 2,
        ..on("a")
    };
    client.put("a", "1").await.unwrap();
    client.delete("a").await.unwrap();
    let mut no_puts = client.watch(filtered(FilterType::Noput)).await.unwrap();
    let mut no_deletes = client.watch(filtered(FilterType::Nodelete)).await.unwrap();
    client.put("a", "2").await.unwrap();
    client.delete("a").await.unwrap();
    assert_eq!(told(&no_puts.events(2).await), ["delete a@3", "delete a@5"]);
    assert_eq!(
        told(&no_deletes.events(2).await),
        ["put a=1@2", "put a=2@4"]
    );
}

#[tokio::test]
async fn one_revision_comes_in_one_message_in_the_order_of_its_operations() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut live = client.watch(everything()).await.unwrap();
    let keys = ["c", "a", "d", "b"];
    client
        .txn(txn::always(
            keys.iter().map(|key| txn::put(*key, "x")).collect(),
        ))
        .await
        .unwrap();
    client
        .txn(txn::always(vec![
            txn::put("e", "y"),
            txn::delete_range("a", "c"),
        ]))
        .await
        .unwrap();
    let mut past = client
        .watch(pb::WatchCreateRequest {
            start_revision: 2,
            ..everything()
        })
        .await
        .unwrap();
    let expected = [
        "put c=x@2",
        "put a=x@2",
        "put d=x@2",
        "put b=x@2",
        "put e=y@3",
        "delete a@3",
        "delete b@3",
    ];
    for stream in [&mut live, &mut past] {
        let mut told_all = Vec::new();
        while told_all.len() < expected.len() {
            let message = stream.next().await.unwrap();
            let revisions = message
                .events
                .iter()
                .map(|event| event.kv.as_ref().unwrap().mod_revision)
                .collect::<Vec<_>>();
            for revision in [2, 3] {
                let here = revisions.iter().filter(|found| **found == revision).count();
                assert!(
                    here == 0 || here == if revision == 2 { 4 } else { 3 },
                    "revision {revision} was split: {revisions:?}"
                );
            }
            told_all.extend(told(&message.events));
        }
        assert_eq!(told_all, expected);
    }
}

#[tokio::test]
async fn several_watches_share_a_stream_and_end_one_by_one() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut stream = client.watch_stream();
    stream.create(on("a")).await;
    stream
        .create(pb::WatchCreateRequest {
            watch_id: 5,
            ..on("a")
        })
        .await;
    stream.create(on("b")).await;
    let ids = [
        stream.next().await.unwrap().watch_id,
        stream.next().await.unwrap().watch_id,
        stream.next().await.unwrap().watch_id,
    ];
    assert_eq!(ids, [0, 5, 1]);
    client.put("a", "1").await.unwrap();
    let mut seen = vec![
        stream.next().await.unwrap().watch_id,
        stream.next().await.unwrap().watch_id,
    ];
    seen.sort_unstable();
    assert_eq!(seen, [0, 5]);
    stream.cancel(5).await;
    let canceled = stream.next().await.unwrap();
    assert_eq!(
        (
            canceled.watch_id,
            canceled.canceled,
            canceled.cancel_reason.as_str(),
            canceled.compact_revision
        ),
        (5, true, "", 0)
    );
    client.put("a", "2").await.unwrap();
    client.put("b", "3").await.unwrap();
    let rest = [stream.next().await.unwrap(), stream.next().await.unwrap()];
    assert_eq!(rest.each_ref().map(|message| message.watch_id), [0, 1]);
}

#[tokio::test]
async fn progress_on_request_covers_the_whole_stream() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut stream = client.watch(on("a")).await.unwrap();
    client.put("b", "1").await.unwrap();
    let progress = loop {
        stream.ask_progress().await;
        if let Some(answer) = stream.next_within(Duration::from_millis(500)).await {
            break answer.unwrap();
        }
    };
    assert_eq!(
        (
            progress.watch_id,
            progress.events.len(),
            progress.header.unwrap().revision
        ),
        (-1, 0, 2)
    );
}

#[tokio::test]
async fn progress_by_timer_reaches_a_quiet_watch() {
    let cluster = Cluster::plan()
        .flag("--watch-progress-notify-interval=200ms")
        .start()
        .await;
    let client = cluster.client().await;
    let mut stream = client
        .watch(pb::WatchCreateRequest {
            progress_notify: true,
            ..on("a")
        })
        .await
        .unwrap();
    client.put("b", "1").await.unwrap();
    loop {
        let progress = stream.next().await.unwrap();
        assert_eq!((progress.watch_id, progress.events.len()), (0, 0));
        if progress.header.unwrap().revision == 2 {
            break;
        }
    }
}

#[tokio::test]
async fn an_empty_key_watches_from_the_first_one() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut stream = client
        .watch(pb::WatchCreateRequest {
            range_end: "\0".into(),
            ..on("")
        })
        .await
        .unwrap();
    client.put("a", "1").await.unwrap();
    assert_eq!(told(&stream.events(1).await), ["put a=1@2"]);
}

#[tokio::test]
async fn a_lease_that_is_revoked_deletes_before_watchers_eyes() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(5, 600).await.unwrap();
    for key in ["l/b", "l/a"] {
        client
            .put_request(pb::PutRequest {
                key: key.into(),
                lease: 5,
                ..Default::default()
            })
            .await
            .unwrap();
    }
    let mut stream = client.watch(under("l/")).await.unwrap();
    client.revoke(5).await.unwrap();
    assert_eq!(
        told(&stream.events(2).await),
        ["delete l/a@4", "delete l/b@4"]
    );
}

#[tokio::test]
async fn a_watch_outlives_a_compaction_and_is_cancelled_below_it() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut live = client.watch(on("a")).await.unwrap();
    for value in ["1", "2", "3"] {
        client.put("a", value).await.unwrap();
    }
    live.events(3).await;
    client.compact(4).await.unwrap();
    client.put("a", "4").await.unwrap();
    assert_eq!(told(&live.events(1).await), ["put a=4@5"]);
    let mut below = client
        .watch(pb::WatchCreateRequest {
            start_revision: 3,
            ..on("a")
        })
        .await
        .unwrap();
    let cancelled = below.next().await.unwrap();
    assert_eq!((cancelled.canceled, cancelled.compact_revision), (true, 4));
    let mut at = client
        .watch(pb::WatchCreateRequest {
            start_revision: 4,
            ..on("a")
        })
        .await
        .unwrap();
    assert_eq!(told(&at.events(2).await), ["put a=3@4", "put a=4@5"]);
}

/// Many writers, watchers that start anywhere and one that resumes: everyone is told the same history.
#[tokio::test]
async fn under_load_every_guarantee_holds_for_late_slow_and_resuming_watchers() {
    const WRITES: usize = 400;
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let complete = client
        .watch(pb::WatchCreateRequest {
            prev_kv: true,
            ..under("w/")
        })
        .await
        .unwrap();
    let writers = (0..4)
        .map(|writer| tokio::spawn(write(client.clone(), writer, WRITES / 4)))
        .collect::<Vec<_>>();
    let resuming = tokio::spawn(resume_often(client.clone(), WRITES));
    for writer in writers {
        writer.await.unwrap();
    }
    let late = client
        .watch(pb::WatchCreateRequest {
            start_revision: 2,
            prev_kv: true,
            ..under("w/")
        })
        .await
        .unwrap();
    let history = collect(complete, WRITES).await;
    watch::assert_guarantees(&history, 2);
    watch::assert_prev_kv_exact(&history);
    watch::assert_same_history(&history, &collect(late, WRITES).await);
    let resumed = resuming.await.unwrap();
    assert_eq!(told(&resumed), told(&watch::events_of(&history)));
}

async fn write(client: Client, writer: usize, count: usize) {
    for number in 0..count {
        let key = Bytes::from(format!("w/{}", (writer + number) % 5));
        client.put(key, format!("{writer}/{number}")).await.unwrap();
    }
}

/// Messages until `count` events have come.
async fn collect(mut stream: WatchStream, count: usize) -> Vec<pb::WatchResponse> {
    let mut messages = Vec::new();
    let mut events = 0;
    while events < count {
        let message = stream.next().await.unwrap();
        events += message.events.len();
        messages.push(message);
    }
    messages
}

/// Drops its stream after every few events and watches again from the next revision.
async fn resume_often(client: Client, count: usize) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut next = 2;
    while events.len() < count {
        let mut stream = client
            .watch(pb::WatchCreateRequest {
                start_revision: next,
                ..under("w/")
            })
            .await
            .unwrap();
        for _ in 0..3 {
            if events.len() == count {
                break;
            }
            let message = stream.next().await.unwrap();
            next = message
                .events
                .last()
                .map_or(next, |event| event.kv.as_ref().unwrap().mod_revision + 1);
            events.extend(message.events);
        }
    }
    events
}

#[tokio::test]
async fn a_reader_that_stops_reading_is_caught_up_not_skipped() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let stuck = client.watch(under("s/")).await.unwrap();
    // More than any buffer on the way holds, so the server has to remember for the reader.
    let value = Bytes::from(vec![b'x'; 64 << 10]);
    for number in 0..300 {
        client
            .put(format!("s/{}", number % 3), value.clone())
            .await
            .unwrap();
    }
    watch::assert_guarantees(&collect(stuck, 300).await, 2);
}

#[tokio::test]
async fn watchers_resume_after_a_restart_where_they_were() {
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("a", "1").await.unwrap();
    let mut before = client
        .watch(pb::WatchCreateRequest {
            start_revision: 2,
            ..on("a")
        })
        .await
        .unwrap();
    assert_eq!(told(&before.events(1).await), ["put a=1@2"]);
    client.put("a", "2").await.unwrap();
    cluster.members[0].kill();
    cluster.members[0].start().await;
    let client = cluster.client().await;
    let mut after = client
        .watch(pb::WatchCreateRequest {
            start_revision: 3,
            ..on("a")
        })
        .await
        .unwrap();
    client.put("a", "3").await.unwrap();
    assert_eq!(told(&after.events(2).await), ["put a=2@3", "put a=3@4"]);
}
