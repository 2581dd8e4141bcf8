//! What has to change in the index.
//!
//! Promise: after the effects are committed, every registration of the batch has exactly
//! one record, on its host, and a registration that is gone has none.

use std::collections::BTreeMap;

use sealkv_plugin::{Cause, Effects, Event, EventType, HandlerError, KeyValue};

use crate::registration::{host, instance, record};
use crate::settings::Settings;
use crate::store::Store;

/// As many operations as the host takes from one call.
const OPS_MAX: usize = 1_024;

pub(crate) struct Plan<'a, S> {
    settings: &'a Settings,
    store: &'a S,
    /// By index key: what stands there afterwards.
    records: BTreeMap<Vec<u8>, Option<Record>>,
}

/// A record's value is the registration's key.
struct Record {
    registration: Vec<u8>,
    lease: i64,
}

impl<'a, S: Store> Plan<'a, S> {
    pub(crate) fn new(settings: &'a Settings, store: &'a S) -> Self {
        Plan {
            settings,
            store,
            records: BTreeMap::new(),
        }
    }

    pub(crate) fn follow(&mut self, event: &Event) -> Result<(), HandlerError> {
        let Some(instance) = instance(self.settings, &event.kv.key) else {
            return Ok(());
        };
        let kept = match event.event_type {
            EventType::Put => {
                let host = host(event.kv.value.as_deref())
                    .map_err(|none| HandlerError::reject(none.text()))?;
                Some(record(self.settings, &host, instance))
            }
            EventType::Delete => None,
        };
        self.remove_before(event, instance)?;
        if let Some(key) = kept {
            let record = Record {
                registration: event.kv.key.clone(),
                lease: event.kv.lease,
            };
            self.records.insert(key, Some(record));
        }
        Ok(())
    }

    /// Removes the record of what the registration was before this event.
    fn remove_before(&mut self, event: &Event, instance: &[u8]) -> Result<(), HandlerError> {
        let created = event.event_type == EventType::Put && event.kv.version == 1;
        if created || event.cause == Cause::Snapshot {
            return Ok(());
        }
        let before = event.prev_kv.as_ref().map(|kv| host(kv.value.as_deref()));
        match before {
            Some(Ok(host)) => {
                self.records
                    .insert(record(self.settings, &host, instance), None);
                Ok(())
            }
            // Unknown, or rejected when it came: the index may still name what stood there
            // before that.
            Some(Err(_)) | None => self.remove_all_of(&event.kv.key),
        }
    }

    fn remove_all_of(&mut self, registration: &[u8]) -> Result<(), HandlerError> {
        let stored = self.store.below(&self.settings.index_prefix)?;
        let ours = |kv: &KeyValue| kv.value.as_deref() == Some(registration);
        for kv in stored.into_iter().filter(ours) {
            // What this batch has put there since is a later word.
            self.records.entry(kv.key).or_insert(None);
        }
        for record in self.records.values_mut() {
            if record
                .as_ref()
                .is_some_and(|record| record.registration == registration)
            {
                *record = None;
            }
        }
        Ok(())
    }

    /// Removes the records whose registration is gone or on another host. Changes that
    /// were missed before a snapshot leave such records behind.
    pub(crate) fn reconcile(&mut self) -> Result<(), HandlerError> {
        let mut right = BTreeMap::new();
        for kv in self.store.below(&self.settings.services_prefix)? {
            let named = host(kv.value.as_deref());
            if let (Some(instance), Ok(host)) = (instance(self.settings, &kv.key), named) {
                right.insert(record(self.settings, &host, instance), kv.key);
            }
        }
        for kv in self.store.below(&self.settings.index_prefix)? {
            let registered = right
                .get(&kv.key)
                .is_some_and(|key| kv.value.as_ref() == Some(key));
            if !registered && self.records.len() < OPS_MAX {
                self.records.entry(kv.key).or_insert(None);
            }
        }
        Ok(())
    }

    pub(crate) fn effects(self) -> Effects {
        let mut effects = Effects::none();
        for (key, record) in self.records {
            match record {
                Some(record) => effects.put(key, record.registration, record.lease),
                None => effects.delete(key),
            }
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    use sealkv_plugin::Op;

    use super::*;

    #[derive(Default)]
    struct Fixed(BTreeMap<Vec<u8>, Vec<u8>>);

    impl Store for Fixed {
        fn below(&self, prefix: &str) -> Result<Vec<KeyValue>, HandlerError> {
            let below = |(key, _): &(&Vec<u8>, &Vec<u8>)| key.starts_with(prefix.as_bytes());
            let kv = |(key, value): (&Vec<u8>, &Vec<u8>)| kv(key, value, 1, 0);
            Ok(self.0.iter().filter(below).map(kv).collect())
        }
    }

    fn stored(records: &[(&str, &str)]) -> Fixed {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Fixed(records.iter().map(|(k, v)| (bytes(k), bytes(v))).collect())
    }

    fn kv(key: &[u8], value: &[u8], version: i64, lease: i64) -> KeyValue {
        KeyValue {
            key: key.to_vec(),
            create_revision: 1,
            mod_revision: 1,
            version,
            value: Some(value.to_vec()),
            lease,
        }
    }

    fn on(host: &str) -> String {
        format!(r#"{{"host":"{host}","port":80}}"#)
    }

    fn put(key: &str, value: &str, prev: Option<&str>, lease: i64) -> Event {
        Event {
            event_type: EventType::Put,
            kv: kv(
                key.as_bytes(),
                value.as_bytes(),
                1 + i64::from(prev.is_some()),
                lease,
            ),
            prev_kv: prev.map(|prev| kv(key.as_bytes(), prev.as_bytes(), 1, lease)),
            cause: Cause::Client,
            origin: None,
        }
    }

    fn delete(key: &str, prev: Option<&str>) -> Event {
        Event {
            event_type: EventType::Delete,
            kv: KeyValue {
                value: None,
                ..kv(key.as_bytes(), b"", 0, 0)
            },
            ..put(key, "", prev, 0)
        }
    }

    fn plan(store: &Fixed, events: &[Event], reconcile: bool) -> Result<Vec<String>, HandlerError> {
        let settings = Settings::default();
        let mut plan = Plan::new(&settings, store);
        for event in events {
            plan.follow(event)?;
        }
        if reconcile {
            plan.reconcile()?;
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ascii in tests");
        let shown = plan.effects().ops.into_iter().map(|op| match op {
            Op::Put(put) => format!("{}={} {}", text(&put.key), text(&put.value), put.lease),
            Op::DeleteRange(range) => format!("-{}", text(&range.key)),
        });
        Ok(shown.collect())
    }

    fn effects(events: &[Event]) -> Vec<String> {
        plan(&Fixed::default(), events, false).expect("accepted")
    }

    #[test]
    fn a_registration_gets_a_record_with_its_lease() {
        let events = [put("/services/web/1", &on("a"), None, 7)];
        assert_eq!(effects(&events), ["/index/a/web/1=/services/web/1 7"]);
    }

    #[test]
    fn a_changed_host_moves_the_record() {
        let events = [put("/services/web/1", &on("b"), Some(&on("a")), 0)];
        assert_eq!(
            effects(&events),
            ["-/index/a/web/1", "/index/b/web/1=/services/web/1 0"]
        );
    }

    #[test]
    fn a_changed_lease_is_written_to_the_record() {
        let events = [put("/services/web/1", &on("a"), Some(&on("a")), 9)];
        assert_eq!(effects(&events), ["/index/a/web/1=/services/web/1 9"]);
    }

    #[test]
    fn a_delete_removes_the_record() {
        assert_eq!(
            effects(&[delete("/services/web/1", Some(&on("a")))]),
            ["-/index/a/web/1"]
        );
    }

    #[test]
    fn a_batch_leaves_each_record_as_its_last_event_says() {
        let events = [
            put("/services/web/1", &on("a"), None, 0),
            put("/services/web/1", &on("b"), Some(&on("a")), 0),
            put("/services/web/1", &on("a"), Some(&on("b")), 0),
            put("/services/db/1", &on("a"), None, 0),
            delete("/services/db/1", Some(&on("a"))),
        ];
        assert_eq!(
            effects(&events),
            [
                "-/index/a/db/1",
                "/index/a/web/1=/services/web/1 0",
                "-/index/b/web/1"
            ]
        );
    }

    #[test]
    fn what_is_no_registration_is_rejected_without_its_value() {
        let rejected = plan(
            &Fixed::default(),
            &[put("/services/web/1", "canary", None, 0)],
            false,
        );
        let Err(HandlerError::Reject(message)) = rejected else {
            panic!("no JSON");
        };
        assert!(!message.contains("canary"));
    }

    #[test]
    fn other_keys_are_ignored() {
        let events = [
            put("/services/web", "canary", None, 0),
            put("/services/web/1/meta", "canary", None, 0),
            delete("/elsewhere", None),
        ];
        assert!(effects(&events).is_empty());
    }

    #[test]
    fn after_a_rejected_value_the_next_change_removes_what_stood_before() {
        let store = stored(&[
            ("/index/a/web/1", "/services/web/1"),
            ("/index/a/web/2", "/services/web/2"),
        ]);
        let healed = [put("/services/web/1", &on("b"), Some("rejected"), 0)];
        assert_eq!(
            plan(&store, &healed, false).expect("accepted"),
            ["-/index/a/web/1", "/index/b/web/1=/services/web/1 0"]
        );
        let gone = [delete("/services/web/1", Some("rejected"))];
        assert_eq!(
            plan(&store, &gone, false).expect("accepted"),
            ["-/index/a/web/1"]
        );
        let unknown = [
            put("/services/web/1", &on("c"), Some(&on("a")), 0),
            delete("/services/web/1", None),
        ];
        assert_eq!(
            plan(&store, &unknown, false).expect("accepted"),
            ["-/index/a/web/1", "-/index/c/web/1"]
        );
    }

    #[test]
    fn the_end_of_a_snapshot_removes_records_of_what_is_gone() {
        let store = stored(&[
            ("/index/a/db/1", "/services/db/1"),
            ("/index/a/web/1", "/services/web/1"),
            ("/index/b/web/1", "/services/web/1"),
            ("/services/web/1", &on("b")),
        ]);
        let mut page = put("/services/web/1", &on("b"), None, 0);
        page.kv.version = 5;
        page.cause = Cause::Snapshot;
        assert_eq!(
            plan(&store, &[page], true).expect("accepted"),
            [
                "-/index/a/db/1",
                "-/index/a/web/1",
                "/index/b/web/1=/services/web/1 0"
            ]
        );
    }
}
