//! Watch responses: built from what the hub delivers, split where the client allows it.

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{ResponseHeader, WatchResponse};
use proto::mvccpb::{self, KeyValue};

use super::values::{ValueError, Values, key_value};
use crate::mvcc::event::{Event, Kind};
use crate::watch::EventRef;

/// etcd's id for what belongs to no watcher.
pub(super) const NO_WATCH: i64 = -1;

/// The answer to a request for a watcher.
pub(super) fn created(header: ResponseHeader, watch_id: i64) -> WatchResponse {
    WatchResponse {
        header: Some(header),
        watch_id,
        created: true,
        ..WatchResponse::default()
    }
}

/// The answer to a request for a watcher that cannot be.
pub(super) fn refused(header: ResponseHeader, reason: String) -> WatchResponse {
    let answer = created(header, NO_WATCH);
    WatchResponse {
        canceled: true,
        cancel_reason: reason,
        ..answer
    }
}

pub(super) fn cancelled(header: ResponseHeader, watch_id: i64, reason: String) -> WatchResponse {
    WatchResponse {
        header: Some(header),
        watch_id,
        canceled: true,
        cancel_reason: reason,
        ..WatchResponse::default()
    }
}

/// The history that the watcher still needed is gone.
pub(super) fn compacted(
    header: ResponseHeader,
    watch_id: i64,
    compact_revision: i64,
) -> WatchResponse {
    let answer = cancelled(header, watch_id, String::new());
    WatchResponse {
        compact_revision,
        ..answer
    }
}

pub(super) fn progress(header: ResponseHeader, watch_id: i64) -> WatchResponse {
    WatchResponse {
        header: Some(header),
        watch_id,
        ..WatchResponse::default()
    }
}

/// The events of one delivery as the client sees them.
pub(super) fn events(
    values: &Values<'_>,
    events: &[EventRef],
    prev_kv: bool,
) -> Result<Vec<mvccpb::Event>, ValueError> {
    events
        .iter()
        .map(|event| to_wire(values, event, prev_kv))
        .collect()
}

fn to_wire(
    values: &Values<'_>,
    shared: &EventRef,
    prev_kv: bool,
) -> Result<mvccpb::Event, ValueError> {
    let event = shared.event();
    let (r#type, kv) = match event.kind {
        Kind::Put => {
            let open = |event: &Event| values.sealer.open(&event.record.key, &event.value);
            (
                mvccpb::event::EventType::Put,
                key_value(&event.record, shared.value(open)?),
            )
        }
        Kind::Delete => {
            let (key, mod_revision) = (event.record.key.clone(), event.record.at.main);
            let kv = KeyValue {
                key,
                mod_revision,
                ..KeyValue::default()
            };
            (mvccpb::event::EventType::Delete, kv)
        }
    };
    let prev_kv = if prev_kv { prev(values, shared)? } else { None };
    Ok(mvccpb::Event {
        r#type: r#type.into(),
        kv: Some(kv),
        prev_kv,
    })
}

fn prev(values: &Values<'_>, shared: &EventRef) -> Result<Option<KeyValue>, ValueError> {
    let event = shared.event();
    let Some(row) = &event.prev else {
        return Ok(None);
    };
    // etcd reads it one revision back, which a compaction forbids even while the row is still there.
    if event.record.at.main - 1 < values.view.compact_revision_now() {
        return Ok(None);
    }
    let value = shared.prev(|_| -> Result<Option<Bytes>, ValueError> {
        Ok(values.prev(row)?.map(|kv| kv.value))
    })?;
    Ok(value.map(|value| key_value(row, value)))
}

/// Splits a response whose client asked for fragments: pieces of `bytes_max` at most, unless one
/// event alone is larger.
///
/// Source: etcd 3.7.1, `sendFragments` in `server/etcdserver/api/v3rpc/watch.go`.
pub(super) fn fragments(whole: WatchResponse, bytes_max: usize) -> Vec<WatchResponse> {
    if whole.encoded_len() < bytes_max || whole.events.len() < 2 {
        return vec![whole];
    }
    let frame = WatchResponse {
        events: Vec::new(),
        fragment: true,
        ..whole.clone()
    };
    let frame_bytes = frame.encoded_len();
    let mut pieces: Vec<WatchResponse> = Vec::new();
    let mut piece_bytes = bytes_max;
    for event in whole.events {
        // One byte of tag, at most five of length.
        let event_bytes = event.encoded_len() + 6;
        match pieces.last_mut() {
            Some(piece) if piece_bytes + event_bytes < bytes_max => {
                piece.events.push(event);
                piece_bytes += event_bytes;
            }
            _ => {
                pieces.push(WatchResponse {
                    events: vec![event],
                    ..frame.clone()
                });
                piece_bytes = frame_bytes + event_bytes;
            }
        }
    }
    if let Some(last) = pieces.last_mut() {
        last.fragment = false;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize) -> mvccpb::Event {
        let value = Bytes::from(vec![b'v'; bytes]);
        let kv = KeyValue {
            value,
            ..KeyValue::default()
        };
        mvccpb::Event {
            kv: Some(kv),
            ..mvccpb::Event::default()
        }
    }

    fn response(sizes: &[usize]) -> WatchResponse {
        let events = sizes.iter().map(|bytes| event(*bytes)).collect();
        WatchResponse {
            events,
            watch_id: 7,
            ..WatchResponse::default()
        }
    }

    #[test]
    fn a_response_below_the_bound_stays_whole() {
        let pieces = fragments(response(&[10, 10]), 100);
        assert_eq!(pieces.len(), 1);
        assert!(!pieces[0].fragment);
    }

    #[test]
    fn every_piece_but_the_last_says_that_more_follows() {
        let pieces = fragments(response(&[60, 60, 20, 20]), 150);
        let marks: Vec<_> = pieces
            .iter()
            .map(|it| (it.events.len(), it.fragment))
            .collect();
        assert_eq!(marks, [(2, true), (2, false)]);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.encoded_len() < 150 && piece.watch_id == 7)
        );
    }

    #[test]
    fn an_event_above_the_bound_goes_alone() {
        let pieces = fragments(response(&[10, 500, 10]), 100);
        let sizes: Vec<_> = pieces.iter().map(|it| it.events.len()).collect();
        assert_eq!(sizes, [1, 1, 1]);
    }
}
