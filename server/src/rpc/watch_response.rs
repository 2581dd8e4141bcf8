//! Watch responses: built from what the hub delivers, split where the client allows it.
//!
//! Promise: an event is opened and encoded once for all watchers that are told of it; what a
//! client gets is byte for byte what encoding the whole response for it would give.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use proto::etcdserverpb::{ResponseHeader, WatchResponse};
use proto::mvccpb::{self, KeyValue};

use super::values::{ValueError, Values, key_value};
use crate::mvcc::event::{Event, Kind};
use crate::watch::EventRef;

/// etcd's id for what belongs to no watcher.
pub(super) const NO_WATCH: i64 = -1;
/// Of `events` in a `WatchResponse`, behind all other fields.
const EVENTS_FIELD: u32 = 11;
/// Events of this size and above are sent from the memory that all watchers share; smaller ones
/// are copied, which costs less than a frame of their own.
const SHARED_BYTES_MIN: usize = 8 << 10;

/// A response to one client, its events ready for the wire.
pub(super) struct Told {
    /// Everything but the events.
    frame: WatchResponse,
    events: Vec<ToldEvent>,
}

/// An event that was made ready, maybe with the record before.
#[derive(Clone)]
pub(super) struct ToldEvent {
    event: EventRef,
    with_prev: bool,
}

impl From<WatchResponse> for Told {
    /// For a response without events.
    fn from(frame: WatchResponse) -> Self {
        let events = Vec::new();
        Told { frame, events }
    }
}

impl ToldEvent {
    /// The event's own fields, then that of the record before: their encodings one after the
    /// other are the encoding of both.
    fn parts(&self) -> impl Iterator<Item = &Bytes> {
        let prev = self.with_prev.then(|| self.event.made_prev()).flatten();
        let prev = prev.and_then(Option::as_ref);
        self.event.made().into_iter().chain(prev)
    }

    fn bytes(&self) -> usize {
        self.parts().map(Bytes::len).sum()
    }

    /// With the tag and the length that it has in a response.
    fn field_bytes(&self) -> usize {
        let bytes = self.bytes();
        key_len(EVENTS_FIELD) + encoded_len_varint(bytes as u64) + bytes
    }

    fn message(&self) -> mvccpb::Event {
        let mut whole = BytesMut::with_capacity(self.bytes());
        self.parts().for_each(|part| whole.put_slice(part));
        mvccpb::Event::decode(whole.freeze()).expect("it was encoded by this process")
    }
}

impl Told {
    pub(super) fn new(frame: WatchResponse, events: Vec<ToldEvent>) -> Self {
        Told { frame, events }
    }

    pub(super) fn encoded_len(&self) -> usize {
        let events = self.events.iter().map(ToldEvent::field_bytes);
        self.frame.encoded_len() + events.sum::<usize>()
    }

    /// Writes it to the buffer; what is large goes to `out` as it is, behind what is in the
    /// buffer.
    pub(super) fn write(&self, buffer: &mut BytesMut, out: &mut impl Extend<Bytes>) {
        let framed = self.frame.encode(buffer);
        framed.expect("a buffer that grows has room");
        for told in &self.events {
            encode_key(EVENTS_FIELD, WireType::LengthDelimited, buffer);
            encode_varint(told.bytes() as u64, buffer);
            for part in told.parts() {
                if part.len() < SHARED_BYTES_MIN {
                    buffer.put_slice(part);
                } else {
                    out.extend([buffer.split().freeze(), told.event.share(part)]);
                }
            }
        }
    }

    /// As a client would read it.
    pub(super) fn into_message(self) -> WatchResponse {
        let events = self.events.iter().map(ToldEvent::message).collect();
        WatchResponse {
            events,
            ..self.frame
        }
    }
}

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

/// The events of one delivery, made ready: by this call, or by one before it.
pub(super) fn events(
    values: &Values<'_>,
    events: &[EventRef],
    prev_kv: bool,
) -> Result<Vec<ToldEvent>, ValueError> {
    events
        .iter()
        .map(|event| told(values, event, prev_kv))
        .collect()
}

fn told(values: &Values<'_>, shared: &EventRef, prev_kv: bool) -> Result<ToldEvent, ValueError> {
    shared.make(|event| Ok::<_, ValueError>(encoded(&to_wire(values, event)?)))?;
    // etcd reads it one revision back, which a compaction forbids even while the row is still there.
    let before = shared.revision() - 1;
    let with_prev = prev_kv && before >= values.view.compact_revision_now();
    if with_prev {
        shared.make_prev(|event| {
            let prev = event.prev.as_ref().map(|row| values.prev(row));
            let prev = prev.transpose()?.flatten();
            Ok::<_, ValueError>(prev.map(prev_field))
        })?;
    }
    Ok(ToldEvent {
        event: shared.clone(),
        with_prev,
    })
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// What an event's encoding ends with if the record before is told with it.
fn prev_field(prev: KeyValue) -> Bytes {
    encoded(&mvccpb::Event {
        prev_kv: Some(prev),
        ..mvccpb::Event::default()
    })
}

fn to_wire(values: &Values<'_>, event: &Event) -> Result<mvccpb::Event, ValueError> {
    let (r#type, kv) = match event.kind {
        Kind::Put => {
            let value = values.sealer.open(&event.record.key, &event.value)?;
            let kv = key_value(&event.record, value);
            (mvccpb::event::EventType::Put, kv)
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
    Ok(mvccpb::Event {
        r#type: r#type.into(),
        kv: Some(kv),
        prev_kv: None,
    })
}

/// Splits a response whose client asked for fragments: pieces of `bytes_max` at most, unless one
/// event alone is larger.
///
/// Source: etcd 3.7.1, `sendFragments` in `server/etcdserver/api/v3rpc/watch.go`.
pub(super) fn fragments(whole: Told, bytes_max: usize) -> Vec<Told> {
    if whole.encoded_len() < bytes_max || whole.events.len() < 2 {
        return vec![whole];
    }
    let frame = WatchResponse {
        fragment: true,
        ..whole.frame
    };
    let frame_bytes = frame.encoded_len();
    let mut pieces: Vec<Told> = Vec::new();
    let mut piece_bytes = bytes_max;
    for event in whole.events {
        // One byte of tag, at most five of length.
        let event_bytes = event.bytes() + 6;
        match pieces.last_mut() {
            Some(piece) if piece_bytes + event_bytes < bytes_max => {
                piece.events.push(event);
                piece_bytes += event_bytes;
            }
            _ => {
                pieces.push(Told::new(frame.clone(), vec![event]));
                piece_bytes = frame_bytes + event_bytes;
            }
        }
    }
    if let Some(last) = pieces.last_mut() {
        last.frame.fragment = false;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::RecordRef;
    use crate::mvcc::event::Cause;
    use crate::mvcc::revision::Revision;

    const LARGE: usize = 2 * SHARED_BYTES_MIN;

    /// The event that hub and store would give, made ready as if it had been opened.
    fn ready(wire: &mvccpb::Event) -> ToldEvent {
        let event = Event {
            kind: Kind::Put,
            record: RecordRef {
                key: Bytes::new(),
                at: Revision::new(2, 0),
                created: 2,
                version: 1,
                lease: 0,
                value_bytes: 0,
            },
            value: Bytes::new(),
            prev: None,
            cause: Cause::Client,
            hops: 0,
        };
        let event = EventRef::alone(event);
        let own = mvccpb::Event {
            prev_kv: None,
            ..wire.clone()
        };
        let made = event.make(|_| Ok::<_, ValueError>(encoded(&own)));
        assert_eq!(made.unwrap(), &encoded(&own));
        let prev = wire.prev_kv.clone().map(prev_field);
        event.make_prev(|_| Ok::<_, ValueError>(prev)).unwrap();
        let with_prev = wire.prev_kv.is_some();
        ToldEvent { event, with_prev }
    }

    fn told(whole: &WatchResponse) -> Told {
        let events = whole.events.iter().map(ready).collect();
        let frame = WatchResponse {
            events: Vec::new(),
            ..whole.clone()
        };
        Told::new(frame, events)
    }

    fn written(told: &Told) -> (Vec<u8>, usize) {
        let (mut buffer, mut out) = (BytesMut::new(), Vec::new());
        told.write(&mut buffer, &mut out);
        let shared = out.len();
        out.push(buffer.freeze());
        (out.concat(), shared)
    }

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

    fn response(sizes: &[usize]) -> Told {
        let events = sizes.iter().map(|bytes| event(*bytes)).collect();
        told(&WatchResponse {
            events,
            watch_id: 7,
            ..WatchResponse::default()
        })
    }

    fn pair() -> impl Strategy<Value = KeyValue> {
        let value = prop_oneof![0..300_usize, LARGE - 2..LARGE + 2];
        let numbers = (any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>());
        (any::<[u8; 3]>(), value, numbers).prop_map(|(key, value, numbers)| KeyValue {
            key: Bytes::copy_from_slice(&key),
            create_revision: numbers.0,
            mod_revision: numbers.1,
            version: numbers.2,
            value: vec![key[0]; value].into(),
            lease: numbers.3,
        })
    }

    fn wire_event() -> impl Strategy<Value = mvccpb::Event> {
        (0..2_i32, pair(), proptest::option::of(pair())).prop_map(|(r#type, kv, prev_kv)| {
            mvccpb::Event {
                r#type,
                kv: Some(kv),
                prev_kv,
            }
        })
    }

    fn any_response() -> impl Strategy<Value = WatchResponse> {
        let events = proptest::collection::vec(wire_event(), 0..8);
        let header = any::<(u64, u64, i64, u64)>();
        (
            header,
            any::<i64>(),
            any::<[bool; 3]>(),
            any::<i64>(),
            ".{0,40}",
            events,
        )
            .prop_map(
                |(header, watch_id, marks, compact_revision, cancel_reason, events)| {
                    WatchResponse {
                        header: Some(ResponseHeader {
                            cluster_id: header.0,
                            member_id: header.1,
                            revision: header.2,
                            raft_term: header.3,
                        }),
                        watch_id,
                        created: marks[0],
                        canceled: marks[1],
                        fragment: marks[2],
                        compact_revision,
                        cancel_reason,
                        events,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_written_is_the_encoding_of_the_whole(whole in any_response()) {
            let told = told(&whole);
            let (bytes, _) = written(&told);
            prop_assert_eq!(&bytes, &whole.encode_to_vec());
            prop_assert_eq!(told.encoded_len(), bytes.len());
            prop_assert_eq!(told.into_message(), whole);
        }
    }

    #[test]
    fn large_events_are_not_copied_and_small_ones_are() {
        let (_, pieces) = written(&response(&[10, LARGE, 10, LARGE]));
        assert_eq!(pieces, 4, "what came before, and it, twice");
        assert_eq!(written(&response(&[10, 10])).1, 0);
        let told = response(&[LARGE]);
        let (mut buffer, mut out) = (BytesMut::new(), Vec::new());
        told.write(&mut buffer, &mut out);
        let made = told.events[0].event.made().unwrap();
        assert_eq!(out[1].as_ptr(), made.as_ptr());
    }

    #[test]
    fn a_response_below_the_bound_stays_whole() {
        let pieces = fragments(response(&[10, 10]), 100);
        assert_eq!(pieces.len(), 1);
        assert!(!pieces[0].frame.fragment);
    }

    #[test]
    fn every_piece_but_the_last_says_that_more_follows() {
        let pieces = fragments(response(&[60, 60, 20, 20]), 150);
        let marks: Vec<_> = pieces
            .iter()
            .map(|it| (it.events.len(), it.frame.fragment))
            .collect();
        assert_eq!(marks, [(2, true), (2, false)]);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.encoded_len() < 150 && piece.frame.watch_id == 7)
        );
    }

    #[test]
    fn an_event_above_the_bound_goes_alone() {
        let pieces = fragments(response(&[10, 500, 10]), 100);
        let sizes: Vec<_> = pieces.iter().map(|it| it.events.len()).collect();
        assert_eq!(sizes, [1, 1, 1]);
    }
}
