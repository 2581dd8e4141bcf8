//! From the apply thread to the streams.
//!
//! Promise: `publish` never blocks. If the hub cannot follow, it drops what waits and catches
//! every watcher up from history instead: late, complete, in order.
//! Not known here: gRPC, raft, encryption.
//!
//! Two threads: one gives new revisions to the watchers that are in step, the other reads history
//! for those that are not. Lock order: board, then a queue; never two queues.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::board::Board;
use super::catch_up::CatchUp;
use super::outbox::Outbox;
use super::room::{NoRoom, Room};
use super::shared::{HeldBytes, SharedRevision, event_bytes};
use super::watcher::{Filters, Seat, Watcher};
use crate::mvcc::event::RevisionEvents;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read_view::ReadView;

/// Revisions that may wait for the hub's thread.
const WAITING_REVISIONS: usize = 16_384;
/// What they may hold, about.
const WAITING_BYTES: usize = 64 << 20;
/// What queues and memory of recent revisions may hold together; past it only streams that have
/// nothing waiting get more.
const HELD_BYTES: usize = 128 << 20;

/// Cloning shares it; its threads end with the last clone.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
    _stopper: Arc<Stopper>,
}

/// Stops the threads when the last hub is dropped.
struct Stopper(Arc<Shared>);

/// What the hub's thread is told, in this order.
enum Message {
    Publish(Vec<Arc<RevisionEvents>>),
    /// Revisions up to this one are not coming.
    Lapse(i64),
    Seat(Seat),
    Remove(Arc<Watcher>),
    Progress(ProgressRequest),
}

struct ProgressRequest {
    watchers: Vec<Arc<Watcher>>,
    answer_as: i64,
    outbox: Arc<Outbox>,
}

struct Inbox {
    messages: VecDeque<Message>,
    revisions: usize,
    bytes: usize,
    view: Arc<ReadView>,
    stopped: bool,
}

pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    filled: Condvar,
    board: Mutex<Board>,
    catch_up: CatchUp,
    held: HeldBytes,
    room: Room,
    serial: AtomicU64,
}

impl Hub {
    /// Without threads: nothing moves but by [`Hub::step`]. For the simulation and for tests.
    #[must_use]
    pub fn idle(view: Arc<ReadView>) -> Self {
        let board = Mutex::new(Board::new(view.revision));
        let messages = VecDeque::new();
        let inbox = Inbox {
            messages,
            revisions: 0,
            bytes: 0,
            view,
            stopped: false,
        };
        let shared = Arc::new(Shared {
            inbox: Mutex::new(inbox),
            filled: Condvar::new(),
            board,
            catch_up: CatchUp::default(),
            held: HeldBytes::default(),
            room: Room::default(),
            serial: AtomicU64::new(0),
        });
        let _stopper = Arc::new(Stopper(Arc::clone(&shared)));
        Hub { shared, _stopper }
    }

    /// With its two threads.
    pub fn start(view: Arc<ReadView>) -> std::io::Result<Self> {
        let hub = Self::idle(view);
        let shared = Arc::clone(&hub.shared);
        thread::Builder::new()
            .name("watch-hub".into())
            .spawn(move || shared.run())?;
        let shared = Arc::clone(&hub.shared);
        thread::Builder::new()
            .name("watch-catch-up".into())
            .spawn(move || shared.run_catch_up())?;
        Ok(hub)
    }

    /// Tells of revisions that are applied and in the view; called in their order, on the apply
    /// thread. Never blocks.
    pub fn publish(&self, events: &[Arc<RevisionEvents>], view: &Arc<ReadView>) {
        let mut inbox = self.shared.inbox.lock();
        inbox.view = Arc::clone(view);
        if events.is_empty() {
            return;
        }
        inbox.revisions += events.len();
        inbox.bytes += events
            .iter()
            .map(|revision| revision_bytes(revision))
            .sum::<usize>();
        if inbox.revisions > WAITING_REVISIONS || inbox.bytes > WAITING_BYTES {
            inbox.lapse(view.revision);
        } else {
            inbox.messages.push_back(Message::Publish(events.to_vec()));
        }
        drop(inbox);
        self.shared.filled.notify_one();
    }

    /// The state was replaced by a snapshot's: revisions up to the view's are not coming.
    pub fn reset(&self, view: Arc<ReadView>) {
        let mut inbox = self.shared.inbox.lock();
        let revision = view.revision;
        inbox.view = view;
        inbox.lapse(revision);
        drop(inbox);
        self.shared.filled.notify_one();
    }

    /// A queue for one stream.
    #[must_use]
    pub fn outbox(&self) -> Arc<Outbox> {
        let shared = Arc::downgrade(&self.shared);
        Arc::new(Outbox::new(Arc::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.catch_up.wake();
            }
        })))
    }

    /// Watches from `start_revision` on; 0 for what comes after `view`, the newest one.
    pub fn watch(
        &self,
        view: &ReadView,
        outbox: &Arc<Outbox>,
        id: i64,
        range: KeyRange,
        filters: Filters,
        start_revision: i64,
    ) -> Result<Arc<Watcher>, NoRoom> {
        let place = self.shared.room.take(&range)?;
        let range = range.detached();
        let serial = self.shared.serial.fetch_add(1, Ordering::Relaxed);
        let (next, progress_from) = match start_revision {
            0 => (view.revision + 1, view.revision),
            start => (start, start),
        };
        let watcher = Watcher::new(serial, id, range, filters, progress_from, outbox, place);
        let watcher = Arc::new(watcher);
        if next < view.compact_revision {
            // As etcd: compacted is compacted, even if the hub still remembers it.
            outbox.push_compacted(&watcher, view.compact_revision);
        } else {
            let watcher = Arc::clone(&watcher);
            self.shared.tell(Message::Seat(Seat { watcher, next }));
        }
        Ok(watcher)
    }

    /// Nothing more is delivered to the watcher, and it is forgotten soon.
    pub fn remove(&self, watcher: &Arc<Watcher>) {
        watcher.cancel();
        self.shared.tell(Message::Remove(Arc::clone(watcher)));
    }

    /// Asks how far these watchers have been given everything. The answer comes in the outbox, as
    /// `answer_as`, only if all of them are in step.
    pub fn progress(&self, watchers: Vec<Arc<Watcher>>, answer_as: i64, outbox: &Arc<Outbox>) {
        let outbox = Arc::clone(outbox);
        self.shared.tell(Message::Progress(ProgressRequest {
            watchers,
            answer_as,
            outbox,
        }));
    }

    #[cfg(test)]
    pub(super) fn seats(&self) -> usize {
        self.shared.seats()
    }

    /// Does everything that is to be done now; true if there was something.
    pub fn step(&self) -> bool {
        let mut moved = false;
        loop {
            let messages = self.shared.inbox.lock().take();
            let told = !messages.is_empty();
            self.shared.handle(messages);
            if !(self.shared.catch_up.turn(&self.shared) || told) {
                return moved;
            }
            moved = true;
        }
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.inbox.lock().stopped = true;
        self.0.filled.notify_all();
        self.0.catch_up.stop();
    }
}

impl Inbox {
    /// Forgets the revisions that wait, up to this one.
    fn lapse(&mut self, revision: i64) {
        let gone = |message: &Message| matches!(message, Message::Publish(_) | Message::Lapse(_));
        self.messages.retain(|message| !gone(message));
        self.messages.push_back(Message::Lapse(revision));
        self.revisions = 0;
        self.bytes = 0;
    }

    fn take(&mut self) -> VecDeque<Message> {
        self.revisions = 0;
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }
}

impl Shared {
    #[cfg(test)]
    pub(super) fn seats(&self) -> usize {
        self.board.lock().len() + self.catch_up.len()
    }

    fn tell(&self, message: Message) {
        self.inbox.lock().messages.push_back(message);
        self.filled.notify_one();
    }

    fn run(&self) {
        loop {
            let messages = {
                let mut inbox = self.inbox.lock();
                while inbox.messages.is_empty() && !inbox.stopped {
                    self.filled.wait(&mut inbox);
                }
                if inbox.stopped {
                    return;
                }
                inbox.take()
            };
            self.handle(messages);
        }
    }

    fn run_catch_up(&self) {
        while self.catch_up.wait() {
            while self.catch_up.turn(self) {}
        }
    }

    fn handle(&self, messages: VecDeque<Message>) {
        let mut board = self.board.lock();
        for message in messages {
            match message {
                Message::Publish(events) => {
                    let events = events.into_iter();
                    let shared = |it| Arc::new(SharedRevision::new(it, &self.held));
                    let behind = board.publish(events.map(shared).collect(), self.spare());
                    self.catch_up.add(behind);
                }
                Message::Lapse(revision) => self.catch_up.add(board.lapse(revision)),
                Message::Seat(seat) => {
                    if let Err(seat) = board.seat(seat, self.spare()) {
                        self.catch_up.add(vec![seat]);
                    }
                }
                Message::Remove(watcher) => {
                    board.remove(&watcher);
                    self.catch_up.wake();
                }
                Message::Progress(request) => {
                    if let Some(revision) = board.progress(&request.watchers) {
                        request.outbox.push_progress(request.answer_as, revision);
                    }
                }
            }
        }
    }

    /// Whether the hub holds no more than it should.
    pub(super) fn spare(&self) -> bool {
        self.held.now() < HELD_BYTES
    }

    pub(super) fn held(&self) -> &HeldBytes {
        &self.held
    }

    pub(super) fn view(&self) -> Arc<ReadView> {
        Arc::clone(&self.inbox.lock().view)
    }

    /// A watcher that has caught up with the view it was caught up from.
    pub(super) fn hand_over(&self, seat: Seat) {
        self.tell(Message::Seat(seat));
    }
}

fn revision_bytes(revision: &RevisionEvents) -> usize {
    revision.events.iter().map(event_bytes).sum()
}
