//! Requests of this member that wait for their own entry to be applied here.
//!
//! Promise: a waiter is answered once: by the reply of its entry, or, once it is certain that
//! the entry will never be applied or can no longer be observed, by the matching error.
//! An entry carries the term it was proposed in; once an entry of a later term is applied, every
//! entry of the earlier terms that exists has been applied before it.
//!
//! Not known here: raft, storage, what a command does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::replica::{Applied, ProposeError};
use parking_lot::Mutex;
use tokio::sync::oneshot;

const SHARDS: usize = 16;

type Answer = Result<Applied, ProposeError>;

struct Waiting {
    /// The term its entry was or will be proposed in; 0 until it is on its way.
    term: u64,
    sender: oneshot::Sender<Answer>,
}

/// All waiting requests of this process, by the sequence number of their request id.
pub(super) struct Waiters {
    shards: [Mutex<HashMap<u64, Waiting>>; SHARDS],
    next: AtomicU64,
    /// The term of the newest applied entry.
    applied_term: AtomicU64,
}

impl Waiters {
    /// `first` is random: a request of an earlier life of this member must not meet a waiter of
    /// this one.
    pub(super) fn new(first: u64) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            next: AtomicU64::new(first),
            applied_term: AtomicU64::new(0),
        })
    }

    fn shard(&self, seq: u64) -> &Mutex<HashMap<u64, Waiting>> {
        &self.shards[seq as usize % SHARDS]
    }

    /// A new sequence number and the place where its answer will arrive. The waiter is forgotten
    /// when the ticket is dropped.
    pub(super) fn register(self: &Arc<Self>) -> Ticket {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.shard(seq)
            .lock()
            .insert(seq, Waiting { term: 0, sender });
        Ticket {
            seq,
            answer,
            waiters: self.clone(),
        }
    }

    /// The entry is about to be proposed in this term. False when a later term has been applied
    /// already, so that it can have no effect any more: do not propose.
    pub(super) fn proposing(&self, seq: u64, term: u64) -> bool {
        // The term is stored before the applied term is read; `applied_through` does it the
        // other way round, so that one of the two sees the other.
        if let Some(waiting) = self.shard(seq).lock().get_mut(&seq) {
            waiting.term = term;
        }
        self.applied_term.load(Ordering::SeqCst) <= term
    }

    pub(super) fn resolve(&self, seq: u64, answer: Answer) {
        let waiting = self.shard(seq).lock().remove(&seq);
        if let Some(waiting) = waiting {
            // The caller may have given up: then nobody is interested.
            let _ = waiting.sender.send(answer);
        }
    }

    /// Entries up to and including this term's have been applied, and their replies resolved.
    pub(super) fn applied_through(&self, term: u64) {
        if self.applied_term.swap(term, Ordering::SeqCst) < term {
            self.fail(
                |waiting| waiting.term != 0 && waiting.term < term,
                &ProposeError::LeaderChanged,
            );
        }
    }

    /// A snapshot replaced the state: whether an entry before it took effect cannot be told.
    pub(super) fn overtaken_by_snapshot(&self, term: u64) {
        self.applied_term.fetch_max(term, Ordering::SeqCst);
        self.fail(|waiting| waiting.term != 0, &ProposeError::Timeout);
    }

    /// The member stops: nothing will be applied any more.
    pub(super) fn stop(&self, error: &ProposeError) {
        self.fail(|_| true, error);
    }

    fn fail(&self, which: impl Fn(&Waiting) -> bool, error: &ProposeError) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let mut gone: Vec<u64> = shard
                .iter()
                .filter(|(_, w)| which(w))
                .map(|(seq, _)| *seq)
                .collect();
            // In the order in which they came, not in the map's.
            gone.sort_unstable();
            for seq in gone {
                if let Some(waiting) = shard.remove(&seq) {
                    let _ = waiting.sender.send(Err(*error));
                }
            }
        }
    }
}

/// One waiting request.
pub(super) struct Ticket {
    pub seq: u64,
    answer: oneshot::Receiver<Answer>,
    waiters: Arc<Waiters>,
}

impl Ticket {
    pub(super) async fn answer(&mut self) -> Answer {
        match (&mut self.answer).await {
            Ok(answer) => answer,
            // Only `resolve` and `fail` drop a sender, and both send first.
            Err(_) => Err(ProposeError::Stopped),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.waiters.shard(self.seq).lock().remove(&self.seq);
    }
}
