//! etcd's KV service.

use std::sync::Arc;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::kv_server::Kv;
use tonic::{Request, Response, Status};

use super::gate::AtLearner;
use super::parse::{self, PlainPut, PlainTxn};
use super::range::{self, off_thread};
use super::room::Turn;
use super::values::{ValueError, Values};
use super::{Edge, header, range_stream, sealing, txn};
use crate::access::Permitted;
use crate::apply::quota_cost;
use crate::command::{
    AlarmKind, Body, Compact, DeleteRange, NoEffect, NotApplied, Put, ReplyOf, Txn,
};
use crate::mvcc::read_view::ReadView;
use crate::seal::SealerError;
use crate::serve::SendGuards;

/// Times that a request is sealed and proposed anew after an entry of its own had no effect.
const ATTEMPTS_MAX: usize = 8;

#[tonic::async_trait]
impl Kv for Edge {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let serializable = request.get_ref().serializable;
        let at_learner = if serializable {
            AtLearner::Served
        } else {
            AtLearner::Refused
        };
        let who = self.admit(&request, at_learner)?;
        let plain = parse::range(request.into_inner())?;
        self.read_point(plain.serializable).await?;
        let query = self.permit(&who, plain.query)?;
        let small = range::is_small(query.request());
        let turn = self.limits.answers.enter(small).await?;
        let response = Edge::range(self, query, &turn).await?;
        Ok(holding(turn, response))
    }

    type RangeStreamStream = range_stream::Pieces;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let plain = parse::range_stream(request.into_inner())?;
        self.read_point(plain.serializable).await?;
        let query = self.permit(&who, plain.query)?;
        Ok(range_stream::pieces(self.clone(), query))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let request = request.into_inner();
        let size = parse::size(&request, self.limits.request_bytes_max);
        let put = parse::put(request)?;
        self.fits(&who, size)?;
        let plain = self.permit_write(&who, put).await?;
        let prev_kv = plain.request().prev_kv;
        let seal = |view: &ReadView, plain: &PlainPut| sealing::put(&self.sealer, view, plain);
        let (reply, view) = self.write::<_, Put>(&plain, seal).await?;
        let response = |values: &Values<'_>| txn::respond_put(values, prev_kv, &reply);
        let mut response = self.open_in(&view, response).await?;
        response.header = header::full(&*self.replica, reply.revision);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let request = request.into_inner();
        let size = parse::size(&request, self.limits.request_bytes_max);
        let delete = parse::delete_range(request)?;
        self.fits(&who, size)?;
        let plain = self.permit_write(&who, delete).await?;
        let same = |_: &ReadView, delete: &DeleteRange| Ok(delete.clone());
        let (reply, view) = self.write::<_, DeleteRange>(&plain, same).await?;
        let revision = reply.revision;
        let small = reply.prev.len() <= 64;
        let response = move |values: &Values<'_>| txn::respond_delete(values, &reply);
        let turn = self.limits.answers.enter_late(small).await;
        let mut response = self.answer(small, &turn, view, response).await?;
        response.header = header::full(&*self.replica, revision);
        Ok(holding(turn, response))
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let request = request.into_inner();
        let size = parse::size(&request, self.limits.request_bytes_max);
        let plain = parse::txn(request, self.limits.txn_ops_max)?;
        let (turn, (mut response, revision)) = if plain.is_read_only() {
            self.read_point(plain.is_serializable()).await?;
            let small = txn::is_small(&plain);
            let turn = self.limits.answers.enter(small).await?;
            let answer = self.read_only_txn(self.permit(&who, plain)?, &turn).await?;
            (turn, answer)
        } else {
            self.fits(&who, size)?;
            self.write_txn(self.permit_write(&who, plain).await?)
                .await?
        };
        response.header = header::full(&*self.replica, revision);
        Ok(holding(turn, response))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let pb::CompactionRequest { revision, physical } = request.into_inner();
        let compact = self.permit_write(&who, Compact { revision }).await?;
        let same = |_: &ReadView, compact: &Compact| Ok(compact.clone());
        let (reply, _) = self.write::<_, Compact>(&compact, same).await?;
        if physical {
            self.replica.physically_compacted(revision).await;
        }
        let header = header::full(&*self.replica, reply.revision);
        Ok(Response::new(pb::CompactionResponse { header }))
    }
}

/// A response that counts as held until it is written.
fn holding<T: prost::Message>(turn: Turn, message: T) -> Response<T> {
    let held = turn.built(message.encoded_len());
    let mut response = Response::new(message);
    if let Some(held) = held {
        let guards = SendGuards::default();
        guards.add(held);
        response.extensions_mut().insert(guards);
    }
    response
}

impl Edge {
    async fn read_only_txn(
        &self,
        plain: Permitted<PlainTxn>,
        turn: &Turn,
    ) -> Result<(pb::TxnResponse, i64), Status> {
        let caller = plain.caller().cloned();
        let plain = plain.into_request();
        let answer = self
            .read(txn::is_small(&plain), turn, move |values| {
                txn::read_only(values, &plain)
            })
            .await?;
        self.still_permitted(caller.as_ref())?;
        Ok(answer)
    }

    async fn write_txn(
        &self,
        plain: Permitted<PlainTxn>,
    ) -> Result<(Turn, (pb::TxnResponse, i64)), Status> {
        let seal = |view: &ReadView, plain: &PlainTxn| sealing::txn(&self.sealer, view, plain);
        let (reply, view) = self.write::<_, Txn>(&plain, seal).await?;
        let revision = reply.revision;
        let small = txn::is_small_reply(&reply);
        let plain = plain.into_request();
        let response = move |values: &Values<'_>| txn::respond(values, &plain, reply.clone());
        // It is done: nobody may be told now that there is no room for the answer.
        let turn = self.limits.answers.enter_late(small).await;
        let response = self.answer(small, &turn, view, response).await?;
        Ok((turn, (response, revision)))
    }

    /// Proposes a request, again if its own entry had no effect and only then.
    pub(super) async fn write<P, B>(
        &self,
        plain: &Permitted<P>,
        form: impl Fn(&ReadView, &P) -> Result<B, SealerError>,
    ) -> Result<(B::Reply, Arc<ReadView>), Status>
    where
        B: ReplyOf + Into<Body>,
    {
        let mut attempt = 0;
        let mut guard_failed = false;
        loop {
            attempt += 1;
            let body = self.form(plain, &form).await?;
            let cost = self.check_space(body.request())?;
            let applied = if guard_failed {
                self.replica.propose_latched(body).await?
            } else {
                self.replica.propose(body).await?
            };
            match B::reply(applied.reply) {
                Ok(reply) => {
                    self.check_space_left(cost, &applied.view)?;
                    return Ok((reply, applied.view));
                }
                Err(NotApplied::NoEffect(reason @ (NoEffect::Guard | NoEffect::KeyHeader)))
                    if attempt < ATTEMPTS_MAX =>
                {
                    guard_failed |= reason == NoEffect::Guard;
                }
                // Refused under an alarm, which is raised already: etcd raises no other.
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The command of a request; if the key it needs is on its way, once it is there.
    async fn form<P, B: Into<Body>>(
        &self,
        plain: &Permitted<P>,
        form: &impl Fn(&ReadView, &P) -> Result<B, SealerError>,
    ) -> Result<Permitted<Body>, Status> {
        loop {
            let generation = self.sealer.generation();
            let view = self.replica.view();
            match plain.in_form(|plain| form(&view, plain).map(Into::into)) {
                Ok(body) => return Ok(body),
                Err(error) if error.is_key_absent() && self.sealer.newer(generation).await => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// etcd refuses what would not fit before it proposes it, and raises the alarm. What fits costs
    /// this.
    fn check_space(&self, body: &Body) -> Result<u64, Status> {
        let cost = quota_cost(body);
        let Some(quota) = self.limits.quota_bytes else {
            return Ok(cost);
        };
        if cost > 0 && self.replica.view().stored_bytes.saturating_add(cost) >= quota {
            return Err(self.no_space());
        }
        Ok(cost)
    }

    /// What no longer fitted when it was applied has been applied; etcd answers that there is no
    /// space all the same, and raises the alarm.
    fn check_space_left(&self, cost: u64, view: &ReadView) -> Result<(), Status> {
        match self.limits.quota_bytes {
            Some(quota) if cost > 0 && view.stored_bytes >= quota => Err(self.no_space()),
            _ => Ok(()),
        }
    }

    fn no_space(&self) -> Status {
        self.raise(AlarmKind::NoSpace);
        super::status::no_space()
    }

    /// The response to a reply, built from the view that came with it.
    async fn answer<T: Send + 'static>(
        &self,
        small: bool,
        turn: &Turn,
        view: Arc<ReadView>,
        build: impl Fn(&Values<'_>) -> Result<T, ValueError> + Send + Sync + 'static,
    ) -> Result<T, Status> {
        if small {
            return self.open_in(&view, build).await;
        }
        let build = Arc::new(build);
        loop {
            let generation = self.sealer.generation();
            let (build, view, sealer) =
                (Arc::clone(&build), Arc::clone(&view), self.sealer.clone());
            let turn = turn.clone();
            let answer = off_thread(move || {
                let _turn = turn;
                build(&Values {
                    view: &view,
                    sealer: &sealer,
                })
            })
            .await?;
            match answer {
                Err(error) if error.is_key_absent() && self.sealer.newer(generation).await => {}
                answer => return answer.map_err(|error| self.failed(error)),
            }
        }
    }
}
