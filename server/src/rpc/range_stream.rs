//! A range in pieces, all of one revision.
//!
//! Promise: pieces are disjoint and in key order; the last one alone says how many there were and
//! at which revision. A compaction that overtakes the stream ends it with an error, and so does a
//! change of the rules of access.
//!
//! Source: etcd 3.7.1, `rangeStream` in `server/etcdserver/v3_server.go`.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use futures::stream;
use prost::Message;
use proto::etcdserverpb as pb;
use tonic::{Response, Status};

use super::range::off_thread;
use super::room::Turn;
use super::values::{ValueError, Values};
use super::{Edge, header, range};
use crate::access::{Caller, Permitted};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{self, RangeQuery, ReadError};
use crate::mvcc::read_view::ReadView;
use crate::serve::SendGuards;

pub(super) type Pieces =
    Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

/// Keys of the first piece.
const FIRST_KEYS: i64 = 10;

struct Pinned {
    edge: Edge,
    view: Arc<ReadView>,
    caller: Option<Caller>,
    query: RangeQuery,
    /// What is left of the client's own limit; none if it gave none.
    left: Option<i64>,
    piece_keys: i64,
    delivered: i64,
    done: bool,
    /// Of the pieces that are being sent.
    guards: SendGuards,
}

pub(super) fn pieces(edge: Edge, query: Permitted<RangeQuery>) -> Response<Pieces> {
    let caller = query.caller().cloned();
    let query = query.into_request();
    let left = (query.limit > 0).then_some(query.limit);
    let view = edge.replica.view();
    let guards = SendGuards::default();
    let pinned = Pinned {
        edge,
        view,
        caller,
        query,
        left,
        piece_keys: FIRST_KEYS,
        delivered: 0,
        done: false,
        guards: guards.clone(),
    };
    let pieces: Pieces = Box::pin(stream::unfold(pinned, |mut pinned| async {
        if pinned.done {
            return None;
        }
        let piece = pinned.next().await;
        pinned.done |= piece.is_err();
        Some((piece, pinned))
    }));
    let mut response = Response::new(pieces);
    response.extensions_mut().insert(guards);
    response
}

impl Pinned {
    async fn next(&mut self) -> Result<pb::RangeStreamResponse, Status> {
        let limit = self
            .left
            .map_or(self.piece_keys, |left| left.min(self.piece_keys));
        let limit = if self.query.count_only { 0 } else { limit };
        let query = RangeQuery {
            limit,
            ..self.query.clone()
        };
        let turn = self.edge.limits.answers.enter(false).await?;
        let mut response = self.read(query, &turn).await?;
        self.edge.still_permitted(self.caller.as_ref())?;
        let piece_bytes = response.encoded_len();
        if let Some(held) = turn.built(piece_bytes) {
            self.guards.add(held);
        }
        self.adapt(piece_bytes);
        let keys = i64::try_from(response.kvs.len()).unwrap_or(i64::MAX);
        self.delivered += keys;
        self.left = self.left.map(|left| left - keys);
        self.done = self.query.count_only || !response.more || self.left == Some(0);
        if self.done {
            response.header = header::full(&*self.edge.replica, self.view.revision);
            response.count += self.delivered - keys;
        } else {
            self.go_on_after(response.kvs.last().map(|last| &last.key));
            response.more = false;
            response.count = 0;
        }
        Ok(pb::RangeStreamResponse {
            range_response: Some(response),
        })
    }

    async fn read(&self, query: RangeQuery, turn: &Turn) -> Result<pb::RangeResponse, Status> {
        loop {
            let generation = self.edge.sealer.generation();
            let (view, sealer) = (Arc::clone(&self.view), self.edge.sealer.clone());
            let (query, turn) = (query.clone(), turn.clone());
            let answer = off_thread(move || {
                let _turn = turn;
                let rows = read::range(&view, &query)?;
                range::respond(
                    &Values {
                        view: &view,
                        sealer: &sealer,
                    },
                    &query,
                    rows,
                )
            });
            match answer.await? {
                Ok(response) => return Ok(response),
                // The revision is pinned: a newer view would not have it either.
                Err(ValueError::Read(ReadError::ViewTooOld)) => {
                    return Err(ReadError::Compacted.into());
                }
                Err(error) if error.is_key_absent() && self.edge.sealer.newer(generation).await => {
                }
                Err(error) => return Err(self.edge.failed(error)),
            }
        }
    }

    /// Pieces near the bound of a request: twice the keys below half of it, half above twice.
    fn adapt(&mut self, piece_bytes: usize) {
        let target = self.edge.limits.request_bytes_max;
        if piece_bytes < target / 2 {
            self.piece_keys = self.piece_keys.saturating_mul(2);
        } else if piece_bytes > target.saturating_mul(2) {
            self.piece_keys = (self.piece_keys / 2).max(1);
        }
    }

    fn go_on_after(&mut self, last: Option<&Bytes>) {
        let Some(last) = last else { return };
        let mut next = last.to_vec();
        next.push(0);
        self.query.range = KeyRange::from_wire(next.into(), self.query.range.range_end());
    }
}
