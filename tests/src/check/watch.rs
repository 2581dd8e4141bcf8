//! etcd's watch guarantees over the messages that one watch was sent; one function per guarantee.

use proto::etcdserverpb::WatchResponse;
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;
use std::collections::BTreeMap;

/// A guarantee that the messages break, with what shows it.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// A later event has an earlier revision.
    Ordered { before: i64, after: i64 },
    /// The same change was told twice.
    Unique { key: Vec<u8>, revision: i64 },
    /// One revision came in more than one message.
    Atomic { revision: i64 },
    /// An event before the revision that was asked for.
    Resumable { start: i64, revision: i64 },
    /// A header older than an event it came with.
    Bookmarkable { header: i64, revision: i64 },
    /// A version that does not follow the last one told for its key: something between was not told.
    Reliable { key: Vec<u8>, revision: i64 },
    /// A previous record that is not the one told before.
    PrevKv { key: Vec<u8>, revision: i64 },
}

fn record(event: &Event) -> (&[u8], i64) {
    event
        .kv
        .as_ref()
        .map_or((&[], 0), |kv| (&kv.key, kv.mod_revision))
}

/// All events in the order of arrival.
pub fn events_of(messages: &[WatchResponse]) -> Vec<Event> {
    messages
        .iter()
        .flat_map(|message| message.events.iter().cloned())
        .collect()
}

pub fn ordered(messages: &[WatchResponse]) -> Result<(), Broken> {
    let revisions: Vec<i64> = events_of(messages)
        .iter()
        .map(|event| record(event).1)
        .collect();
    match revisions.windows(2).find(|pair| pair[0] > pair[1]) {
        Some(pair) => Err(Broken::Ordered {
            before: pair[0],
            after: pair[1],
        }),
        None => Ok(()),
    }
}

/// No change twice. A transaction may change a key once, so (key, revision) names a change.
pub fn unique(messages: &[WatchResponse]) -> Result<(), Broken> {
    let mut seen = std::collections::BTreeSet::new();
    for event in events_of(messages) {
        let (key, revision) = record(&event);
        if !seen.insert((key.to_vec(), revision)) {
            return Err(Broken::Unique {
                key: key.to_vec(),
                revision,
            });
        }
    }
    Ok(())
}

/// A revision lies in one message; only for watches that did not ask for fragments.
pub fn atomic(messages: &[WatchResponse]) -> Result<(), Broken> {
    let mut last_of_earlier = i64::MIN;
    for message in messages {
        let first = message.events.first().map(|event| record(event).1);
        if first == Some(last_of_earlier) {
            return Err(Broken::Atomic {
                revision: last_of_earlier,
            });
        }
        last_of_earlier = message
            .events
            .last()
            .map_or(last_of_earlier, |event| record(event).1);
    }
    Ok(())
}

pub fn resumable(messages: &[WatchResponse], start: i64) -> Result<(), Broken> {
    match events_of(messages)
        .iter()
        .map(|event| record(event).1)
        .find(|revision| *revision < start)
    {
        Some(revision) => Err(Broken::Resumable { start, revision }),
        None => Ok(()),
    }
}

/// A header's revision says that everything up to it was told, so no later event may lie at or below it,
/// and none that came with it above it.
pub fn bookmarkable(messages: &[WatchResponse]) -> Result<(), Broken> {
    for message in messages.iter().filter(|message| !message.events.is_empty()) {
        let header = message.header.as_ref().map_or(0, |header| header.revision);
        if let Some(revision) = message
            .events
            .iter()
            .map(|event| record(event).1)
            .find(|revision| *revision > header)
        {
            return Err(Broken::Bookmarkable { header, revision });
        }
    }
    let mut promised = 0;
    for message in messages {
        if let Some(revision) = message
            .events
            .iter()
            .map(|event| record(event).1)
            .find(|revision| *revision <= promised)
        {
            return Err(Broken::Bookmarkable {
                header: promised,
                revision,
            });
        }
        if message.events.is_empty() && !message.created {
            promised = promised.max(message.header.as_ref().map_or(0, |header| header.revision));
        }
    }
    Ok(())
}

/// Versions and create revisions follow one another per key, so nothing between was left out.
pub fn reliable(messages: &[WatchResponse]) -> Result<(), Broken> {
    let mut latest: BTreeMap<Vec<u8>, Option<(i64, i64)>> = BTreeMap::new();
    for event in events_of(messages) {
        let Some(kv) = &event.kv else { continue };
        let follows = match (event.r#type(), latest.get(kv.key.as_ref())) {
            (EventType::Put, Some(Some((created, version)))) => {
                kv.create_revision == *created && kv.version == version + 1
            }
            (EventType::Put, Some(None)) => {
                kv.create_revision == kv.mod_revision && kv.version == 1
            }
            (EventType::Delete, Some(told)) => told.is_some(),
            (_, None) => true,
        };
        if !follows {
            return Err(Broken::Reliable {
                key: kv.key.to_vec(),
                revision: kv.mod_revision,
            });
        }
        let state = (event.r#type() == EventType::Put).then_some((kv.create_revision, kv.version));
        latest.insert(kv.key.to_vec(), state);
    }
    Ok(())
}

/// Each previous record is the one told before for its key; for a watch from the first revision with prev_kv.
pub fn prev_kv_exact(messages: &[WatchResponse]) -> Result<(), Broken> {
    let mut latest: BTreeMap<Vec<u8>, proto::mvccpb::KeyValue> = BTreeMap::new();
    for event in events_of(messages) {
        let Some(kv) = &event.kv else { continue };
        if event.prev_kv.as_ref() != latest.get(kv.key.as_ref()) {
            return Err(Broken::PrevKv {
                key: kv.key.to_vec(),
                revision: kv.mod_revision,
            });
        }
        match event.r#type() {
            EventType::Put => latest.insert(kv.key.to_vec(), kv.clone()),
            EventType::Delete => latest.remove(kv.key.as_ref()),
        };
    }
    Ok(())
}

/// Every guarantee that one watch's messages can show by themselves.
pub fn guarantees(messages: &[WatchResponse], start: i64) -> Result<(), Broken> {
    ordered(messages)?;
    unique(messages)?;
    atomic(messages)?;
    resumable(messages, start)?;
    bookmarkable(messages)?;
    reliable(messages)
}

pub fn assert_guarantees(messages: &[WatchResponse], start: i64) {
    assert_eq!(guarantees(messages, start), Ok(()));
}

pub fn assert_prev_kv_exact(messages: &[WatchResponse]) {
    assert_eq!(prev_kv_exact(messages), Ok(()));
}

/// Two watches of the same range from the same revision were told the same.
pub fn assert_same_history(one: &[WatchResponse], other: &[WatchResponse]) {
    assert_eq!(events_of(one), events_of(other));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::etcdserverpb::ResponseHeader;
    use proto::mvccpb::KeyValue;

    fn put(key: &'static str, revision: i64, created: i64, version: i64) -> Event {
        let kv = KeyValue {
            key: key.into(),
            mod_revision: revision,
            create_revision: created,
            version,
            ..Default::default()
        };
        Event {
            r#type: EventType::Put.into(),
            kv: Some(kv),
            prev_kv: None,
        }
    }

    fn delete(key: &'static str, revision: i64) -> Event {
        let kv = KeyValue {
            key: key.into(),
            mod_revision: revision,
            ..Default::default()
        };
        Event {
            r#type: EventType::Delete.into(),
            kv: Some(kv),
            prev_kv: None,
        }
    }

    fn message(header: i64, events: Vec<Event>) -> WatchResponse {
        WatchResponse {
            header: Some(ResponseHeader {
                revision: header,
                ..Default::default()
            }),
            events,
            ..Default::default()
        }
    }

    fn good() -> Vec<WatchResponse> {
        vec![
            message(
                3,
                vec![put("a", 2, 2, 1), put("b", 2, 2, 1), put("a", 3, 2, 2)],
            ),
            message(3, vec![]),
            message(4, vec![delete("a", 4)]),
            message(6, vec![put("a", 5, 5, 1)]),
        ]
    }

    #[test]
    fn a_correct_history_passes_every_check() {
        assert_eq!(guarantees(&good(), 2), Ok(()));
    }

    #[test]
    fn swapped_events_break_order() {
        let mut messages = good();
        messages.swap(2, 3);
        assert_eq!(
            ordered(&messages),
            Err(Broken::Ordered {
                before: 5,
                after: 4
            })
        );
    }

    #[test]
    fn a_repeated_event_breaks_uniqueness() {
        let mut messages = good();
        messages[2].events.push(delete("a", 4));
        assert_eq!(
            unique(&messages),
            Err(Broken::Unique {
                key: b"a".to_vec(),
                revision: 4
            })
        );
    }

    #[test]
    fn a_split_revision_breaks_atomicity() {
        let messages = [
            message(2, vec![put("a", 2, 2, 1)]),
            message(2, vec![put("b", 2, 2, 1)]),
        ];
        assert_eq!(atomic(&messages), Err(Broken::Atomic { revision: 2 }));
    }

    #[test]
    fn an_event_before_the_start_breaks_resumption() {
        assert_eq!(
            resumable(&good(), 3),
            Err(Broken::Resumable {
                start: 3,
                revision: 2
            })
        );
    }

    #[test]
    fn an_event_at_or_below_a_bookmark_breaks_it() {
        let mut messages = good();
        messages[1] = message(4, vec![]);
        assert_eq!(
            bookmarkable(&messages),
            Err(Broken::Bookmarkable {
                header: 4,
                revision: 4
            })
        );
        let ahead = [message(2, vec![put("a", 3, 3, 1)])];
        assert_eq!(
            bookmarkable(&ahead),
            Err(Broken::Bookmarkable {
                header: 2,
                revision: 3
            })
        );
    }

    #[test]
    fn a_missing_event_breaks_reliability() {
        for lost in 0..3 {
            let mut messages = good();
            match lost {
                0 => drop(messages[0].events.remove(2)),
                1 => drop(messages[2].events.remove(0)),
                _ => messages[0].events[2] = put("a", 3, 2, 3),
            }
            if lost == 0 {
                // A lost put shows at the next put of its life; here the delete ends it unseen, so version tells.
                messages[2] = message(4, vec![put("a", 4, 2, 3)]);
            }
            assert!(
                matches!(reliable(&messages), Err(Broken::Reliable { .. })),
                "{lost}"
            );
        }
    }

    #[test]
    fn a_wrong_previous_record_is_seen() {
        let first = put("a", 2, 2, 1);
        let mut second = put("a", 3, 2, 2);
        assert!(prev_kv_exact(&[message(3, vec![first.clone(), second.clone()])]).is_err());
        second.prev_kv = first.kv.clone();
        assert_eq!(prev_kv_exact(&[message(3, vec![first, second])]), Ok(()));
    }
}
