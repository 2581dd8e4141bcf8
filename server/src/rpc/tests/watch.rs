//! Watches over the wire.

use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::wire::{Served, bytes, serve, serve_with, text};
use crate::rpc::Limits;

/// Far above what any of this takes.
const DEADLINE: Duration = Duration::from_secs(60);

struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Stream {
    async fn open(served: &Served) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let stream = ReceiverStream::new(receiver);
        let responses = served
            .watch
            .clone()
            .watch(stream)
            .await
            .unwrap()
            .into_inner();
        Stream {
            requests,
            responses,
        }
    }

    async fn send(&self, request: RequestUnion) {
        let request = pb::WatchRequest {
            request_union: Some(request),
        };
        self.requests.send(request).await.unwrap();
    }

    async fn create(&self, create: pb::WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(create)).await;
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let next = tokio::time::timeout(DEADLINE, self.responses.message());
        next.await
            .expect("a response is due")
            .unwrap()
            .expect("the stream goes on")
    }

    /// Creates a watcher and gives the answer.
    async fn created(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.create(create).await;
        let response = self.next().await;
        assert!(response.created);
        response
    }

    /// Values of puts and keys of deletes until `count` events have come.
    async fn events(&mut self, count: usize) -> Vec<String> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert!(!response.canceled && !response.created);
            let last = response.events.last().and_then(|event| event.kv.as_ref());
            let last = last.map_or(0, |kv| kv.mod_revision);
            assert!(response.header.unwrap().revision >= last);
            events.extend(response.events.iter().map(said));
        }
        events
    }
}

fn said(event: &proto::mvccpb::Event) -> String {
    let kv = event.kv.as_ref().unwrap();
    if event.r#type == i32::from(EventType::Delete) {
        assert_eq!((kv.create_revision, kv.version, kv.value.len()), (0, 0, 0));
        format!("{}!{}", kv.mod_revision, text(&kv.key))
    } else {
        format!("{}={}", kv.mod_revision, text(&kv.value))
    }
}

fn on(key: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: bytes(key),
        ..Default::default()
    }
}

fn on_span(key: &str, end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        range_end: bytes(end),
        ..on(key)
    }
}

#[tokio::test]
async fn a_watcher_sees_what_comes_after_its_creation_in_order() {
    let served = serve().await;
    served.put("a", "before").await;
    let mut stream = Stream::open(&served).await;
    let created = stream.created(on("a")).await;
    assert_eq!((created.watch_id, created.header.unwrap().revision), (0, 2));
    served.put("a", "1").await;
    served.put("b", "other").await;
    served.put("a", "2").await;
    served.delete("a").await;
    assert_eq!(stream.events(3).await, ["3=1", "5=2", "6!a"]);
}

#[tokio::test]
async fn a_watcher_from_the_past_sees_history_and_then_goes_on() {
    let served = serve().await;
    for number in 0..50 {
        served.put("a", &number.to_string()).await;
    }
    let mut stream = Stream::open(&served).await;
    stream
        .created(pb::WatchCreateRequest {
            start_revision: 2,
            ..on_span("a", "b")
        })
        .await;
    for number in 50..100 {
        served.put("a", &number.to_string()).await;
    }
    let expected: Vec<_> = (0..100)
        .map(|number| format!("{}={number}", number + 2))
        .collect();
    assert_eq!(stream.events(100).await, expected);
}

#[tokio::test]
async fn a_watcher_of_the_future_sees_nothing_before() {
    let served = serve().await;
    let mut stream = Stream::open(&served).await;
    stream
        .created(pb::WatchCreateRequest {
            start_revision: 4,
            ..on("a")
        })
        .await;
    for value in ["1", "2", "3"] {
        served.put("a", value).await;
    }
    assert_eq!(stream.events(1).await, ["4=3"]);
}

#[tokio::test]
async fn ids_are_given_chosen_and_refused_when_taken() {
    let served = serve().await;
    let mut stream = Stream::open(&served).await;
    let with = |watch_id| pb::WatchCreateRequest {
        watch_id,
        ..on("a")
    };
    assert_eq!(stream.created(with(1)).await.watch_id, 1);
    assert_eq!(stream.created(with(0)).await.watch_id, 0);
    assert_eq!(stream.created(with(0)).await.watch_id, 2);
    let taken = stream.created(with(2)).await;
    assert_eq!((taken.watch_id, taken.canceled), (-1, true));
    assert_eq!(
        taken.cancel_reason,
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
    let empty = stream.created(on_span("b", "a")).await;
    assert_eq!((empty.watch_id, empty.canceled), (-1, true));
    assert_eq!(empty.cancel_reason, "mvcc: watcher range is empty");
    let negative = pb::WatchCreateRequest {
        start_revision: -1,
        ..on("a")
    };
    let negative = stream.created(negative).await;
    let reason = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(
        (negative.watch_id, &negative.cancel_reason[..]),
        (-1, reason)
    );
}

#[tokio::test]
async fn a_cancelled_watcher_hears_no_more_and_its_id_is_free() {
    let served = serve().await;
    let mut stream = Stream::open(&served).await;
    stream
        .created(pb::WatchCreateRequest {
            watch_id: 5,
            ..on("a")
        })
        .await;
    let cancel = |watch_id| RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id });
    stream.send(cancel(99)).await;
    stream.send(cancel(5)).await;
    let cancelled = stream.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled), (5, true));
    assert_eq!(cancelled.cancel_reason, "");
    served.put("a", "unheard").await;
    stream
        .created(pb::WatchCreateRequest {
            watch_id: 5,
            ..on("a")
        })
        .await;
    served.put("a", "heard").await;
    assert_eq!(stream.events(1).await, ["3=heard"]);
}

#[tokio::test]
async fn a_compacted_start_is_created_and_then_cancelled_with_the_compact_revision() {
    let served = serve().await;
    for value in ["1", "2", "3"] {
        served.put("a", value).await;
    }
    served.compact(4).await;
    let mut stream = Stream::open(&served).await;
    let created = stream
        .created(pb::WatchCreateRequest {
            start_revision: 2,
            ..on("a")
        })
        .await;
    assert_eq!((created.watch_id, created.canceled), (0, false));
    let cancelled = stream.next().await;
    assert_eq!((cancelled.canceled, cancelled.compact_revision), (true, 4));
    assert_eq!(
        (
            cancelled.header.unwrap().revision,
            &cancelled.cancel_reason[..]
        ),
        (0, "")
    );
    stream
        .created(pb::WatchCreateRequest {
            start_revision: 4,
            ..on("a")
        })
        .await;
    assert_eq!(stream.events(1).await, ["4=3"]);
}

#[tokio::test]
async fn filters_leave_out_puts_or_deletes() {
    let served = serve().await;
    let mut stream = Stream::open(&served).await;
    let filtered = |filter: pb::watch_create_request::FilterType| pb::WatchCreateRequest {
        filters: vec![filter.into()],
        ..on("a")
    };
    use pb::watch_create_request::FilterType::{Nodelete, Noput};
    stream.created(filtered(Noput)).await;
    served.put("a", "1").await;
    served.delete("a").await;
    assert_eq!(stream.events(1).await, ["3!a"]);
    stream.created(filtered(Nodelete)).await;
    served.put("a", "2").await;
    assert_eq!(stream.events(1).await, ["4=2"]);
}

#[tokio::test]
async fn previous_records_come_with_events_that_ask_for_them() {
    let served = serve().await;
    served.put("a", "1").await;
    served.put("a", "2").await;
    served.delete("a").await;
    for start_revision in [2, 0] {
        let mut stream = Stream::open(&served).await;
        let create = pb::WatchCreateRequest {
            prev_kv: true,
            start_revision,
            ..on("a")
        };
        stream.created(create).await;
        if start_revision == 0 {
            served.put("a", "1").await;
            served.put("a", "2").await;
            served.delete("a").await;
        }
        let mut prevs = Vec::new();
        while prevs.len() < 3 {
            let response = stream.next().await;
            let values = response.events.into_iter().map(|event| event.prev_kv);
            prevs.extend(values.map(|kv| kv.map(|kv| (text(&kv.value), kv.version))));
        }
        assert_eq!(prevs, [None, Some(("1".into(), 1)), Some(("2".into(), 2))]);
    }
}

#[tokio::test]
async fn progress_is_told_once_for_the_stream_when_asked() {
    let served = serve().await;
    let mut stream = Stream::open(&served).await;
    stream.created(on("a")).await;
    stream.created(on("b")).await;
    served.put("c", "1").await;
    let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
    let progress = loop {
        stream.send(ask.clone()).await;
        let response = stream.next().await;
        assert!(response.events.is_empty() && !response.created);
        if response.header.unwrap().revision == 2 {
            break response;
        }
    };
    assert_eq!((progress.watch_id, progress.canceled), (-1, false));
}

#[tokio::test]
async fn progress_of_a_watcher_of_the_future_is_not_told() {
    let served = serve().await;
    let mut stream = Stream::open(&served).await;
    stream
        .created(pb::WatchCreateRequest {
            start_revision: 3,
            ..on("a")
        })
        .await;
    let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
    stream.send(ask.clone()).await;
    served.put("b", "1").await;
    stream.send(ask.clone()).await;
    served.put("a", "2").await;
    assert_eq!(stream.events(1).await, ["3=2"]);
}

#[tokio::test]
async fn a_quiet_watcher_is_told_its_progress_by_itself() {
    let limits = Limits {
        watch_progress_interval: Duration::ZERO,
        ..Limits::default()
    };
    let served = serve_with(limits).await;
    let mut stream = Stream::open(&served).await;
    stream
        .created(pb::WatchCreateRequest {
            progress_notify: true,
            ..on("a")
        })
        .await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (0, 0));
    assert_eq!(progress.header.unwrap().revision, 1);
}

#[tokio::test]
async fn a_revision_is_one_message_unless_fragments_are_asked_for() {
    let limits = Limits {
        request_bytes_max: 1_000_000,
        ..Limits::default()
    };
    let served = serve_with(limits).await;
    let large = "v".repeat(900_000);
    for key in ["k1", "k2", "k3"] {
        served.put(key, &large).await;
    }
    let mut stream = Stream::open(&served).await;
    let create = pb::WatchCreateRequest {
        start_revision: 2,
        ..on_span("k", "l")
    };
    stream.created(create.clone()).await;
    let whole = stream.next().await;
    assert_eq!((whole.events.len(), whole.fragment), (3, false));
    stream
        .created(pb::WatchCreateRequest {
            fragment: true,
            ..create
        })
        .await;
    let mut marks = Vec::new();
    while marks.last() != Some(&false) {
        let piece = stream.next().await;
        assert_eq!((piece.watch_id, piece.events.len()), (1, 1));
        marks.push(piece.fragment);
    }
    assert_eq!(marks, [true, true, false]);
}

#[tokio::test]
async fn an_empty_key_watches_from_the_smallest_one() {
    let served = serve().await;
    let mut stream = Stream::open(&served).await;
    stream.created(on_span("", "\0")).await;
    served.put("anything", "1").await;
    assert_eq!(stream.events(1).await, ["2=1"]);
}

#[tokio::test]
async fn a_request_that_is_none_is_passed_over() {
    let served = serve().await;
    let mut stream = Stream::open(&served).await;
    stream
        .requests
        .send(pb::WatchRequest::default())
        .await
        .unwrap();
    stream.created(on("a")).await;
    drop(std::mem::replace(&mut stream.requests, mpsc::channel(1).0));
    // The client has ended its side; the watch goes on.
    served.put("a", "1").await;
    assert_eq!(stream.events(1).await, ["2=1"]);
}

#[tokio::test]
async fn a_watch_whose_value_does_not_open_is_cancelled_with_the_reason() {
    let served = serve().await;
    let mut stream = Stream::open(&served).await;
    stream.created(on("a")).await;
    // What is under way when the keyring goes cannot be opened any more.
    served.put("b", "1").await;
    let put = crate::command::Put {
        key: bytes("a"),
        sealed_value: served
            .sealer
            .seal(&crate::replica::Replica::view(&*served.single), b"a", b"1")
            .unwrap(),
        ..Default::default()
    };
    served.sealer.forget();
    served.run(put.into());
    let cancelled = stream.next().await;
    assert!(cancelled.canceled);
    let reason =
        "rpc error: code = Unavailable desc = sealkv: this member has not opened the root key";
    assert_eq!(cancelled.cancel_reason, reason);
}

#[tokio::test]
async fn a_stream_that_requires_a_leader_ends_without_one() {
    let limits = Limits {
        election_timeout: Duration::from_millis(5),
        ..Limits::default()
    };
    let served = serve_with(limits).await;
    let (requests, receiver) = mpsc::channel(1);
    let mut request = tonic::Request::new(ReceiverStream::new(receiver));
    request
        .metadata_mut()
        .insert("hasleader", "true".parse().unwrap());
    let mut responses = served
        .watch
        .clone()
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    served.leaderless.send_replace(true);
    let status = tokio::time::timeout(DEADLINE, responses.message())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    drop(requests);
}

#[tokio::test]
async fn a_slow_stream_is_caught_up_not_skipped() {
    let served = serve().await;
    let mut slow = Stream::open(&served).await;
    slow.created(on("a")).await;
    let value = "v".repeat(64 * 1024);
    let mut expected = Vec::new();
    // Several times what its outbox and the connection hold together.
    for _ in 0..150 {
        expected.push(format!("{}={value}", served.put("a", &value).await));
    }
    assert!(
        slow.events(150).await == expected,
        "nothing lost, nothing twice, in order"
    );
    served.put("a", "last").await;
    assert_eq!(slow.events(1).await, ["152=last"]);
}

#[tokio::test]
async fn a_key_that_lives_only_inside_a_transaction_is_seen_alike_now_and_from_history() {
    use pb::request_op::Request;
    let served = serve().await;
    let mut live = Stream::open(&served).await;
    live.created(on_span("a", "\0")).await;
    // etcd takes an open-ended delete for one that overlaps no put.
    let delete = pb::DeleteRangeRequest {
        key: bytes("a"),
        range_end: bytes("\0"),
        ..Default::default()
    };
    let requests = [
        Request::RequestPut(super::wire::put("a", "1")),
        Request::RequestDeleteRange(delete),
        Request::RequestPut(super::wire::put("b", "2")),
    ];
    let success = requests.map(|request| pb::RequestOp {
        request: Some(request),
    });
    let txn = pb::TxnRequest {
        success: success.into(),
        ..Default::default()
    };
    served.txn(txn).await.unwrap();
    // So much that the hub does not remember it.
    for _ in 0..1_100 {
        served.put("other", "").await;
    }
    let expected = ["2=1", "2!a", "2=2"];
    assert_eq!(live.events(3).await[..3], expected);
    let mut late = Stream::open(&served).await;
    late.created(pb::WatchCreateRequest {
        start_revision: 2,
        ..on_span("a", "c")
    })
    .await;
    assert_eq!(late.events(3).await, expected);
}
