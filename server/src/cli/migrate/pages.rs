//! A range read in key order, page by page.
//!
//! Promise: at most two pages are in memory, each about four megabytes; one is read while the
//! other is worked on.
//! Not known here: what is done with the keys.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use tokio::task::JoinHandle;

use super::MigrateError;
use super::side::Side;
use super::state::STATE_KEY;

const PAGE_KEYS_MIN: i64 = 10;
const PAGE_KEYS_MAX: i64 = 10_000;
const PAGE_BYTES: usize = 4 << 20;

/// What is migrated: every key, or those with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) key: Bytes,
    pub(super) range_end: Bytes,
}

impl Scope {
    pub(super) fn of_prefix(prefix: &[u8]) -> Self {
        if prefix.is_empty() {
            let all = Bytes::from_static(b"\0");
            return Self {
                key: all.clone(),
                range_end: all,
            };
        }
        let mut end = prefix.to_vec();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        match end.last_mut() {
            Some(last) => *last += 1,
            None => end.push(0),
        }
        Self {
            key: Bytes::copy_from_slice(prefix),
            range_end: end.into(),
        }
    }
}

struct Page {
    rows: Vec<KeyValue>,
    more: bool,
}

pub(super) struct Pages {
    side: Arc<Side>,
    scope: Scope,
    /// 0: as it is at each page.
    revision: i64,
    limit: i64,
    rows: VecDeque<KeyValue>,
    coming: Option<JoinHandle<Result<Page, MigrateError>>>,
}

impl Pages {
    /// From `next` on.
    pub(super) fn read(side: &Arc<Side>, scope: &Scope, next: Bytes, revision: i64) -> Self {
        let mut pages = Self {
            side: Arc::clone(side),
            scope: Scope {
                key: next,
                range_end: scope.range_end.clone(),
            },
            revision,
            limit: PAGE_KEYS_MIN,
            rows: VecDeque::new(),
            coming: None,
        };
        pages.ask();
        pages
    }

    fn ask(&mut self) {
        let side = Arc::clone(&self.side);
        let request = pb::RangeRequest {
            key: self.scope.key.clone(),
            range_end: self.scope.range_end.clone(),
            limit: self.limit,
            revision: self.revision,
            ..Default::default()
        };
        self.coming = Some(tokio::spawn(async move {
            let answer = side.range(request).await?;
            Ok(Page {
                rows: answer.kvs,
                more: answer.more,
            })
        }));
    }

    /// The next key, left where it is.
    pub(super) async fn peek(&mut self) -> Result<Option<&KeyValue>, MigrateError> {
        loop {
            while self.rows.front().is_some_and(|row| row.key == STATE_KEY) {
                self.rows.pop_front();
            }
            if !self.rows.is_empty() {
                break;
            }
            let Some(coming) = self.coming.take() else {
                break;
            };
            let page = coming.await.map_err(|_| MigrateError::Stopped)??;
            self.take(page);
        }
        Ok(self.rows.front())
    }

    pub(super) fn pop(&mut self) -> Option<KeyValue> {
        self.rows.pop_front()
    }

    fn take(&mut self, page: Page) {
        let bytes: usize = page
            .rows
            .iter()
            .map(|row| row.key.len() + row.value.len())
            .sum();
        self.limit = match bytes {
            _ if bytes < PAGE_BYTES / 2 => (self.limit * 2).min(PAGE_KEYS_MAX),
            _ if bytes > PAGE_BYTES => (self.limit / 2).max(1),
            _ => self.limit,
        };
        let last = page.rows.last().map(|row| row.key.clone());
        self.rows.extend(page.rows);
        if let (true, Some(last)) = (page.more, last) {
            self.scope.key = after(&last);
            self.ask();
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(coming) = self.coming.take() {
            coming.abort();
        }
    }
}

/// The key right behind this one.
pub(super) fn after(key: &[u8]) -> Bytes {
    [key, b"\0"].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_its_last_key_does() {
        let end = |prefix: &[u8]| Scope::of_prefix(prefix).range_end;
        assert_eq!(end(b"a/"), "a0");
        assert_eq!(end(b"a\xff"), "b");
        assert_eq!(&end(b"\xff\xff")[..], b"\0");
        assert_eq!(&end(b"")[..], b"\0");
        assert_eq!(&Scope::of_prefix(b"").key[..], b"\0");
    }
}
