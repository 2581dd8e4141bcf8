//! A replica of one: every proposal becomes the next entry and is applied at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keys::{
    DirectoryId, FileProvider, KeyChange, Keyring, MemberKey, ProviderKind, SlotHolder,
    SlotKeyPair, StorageKeys,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::access::{Door, Internal, Permitted, Sessions};
use crate::apply::{EntryBody, EntryRef, Machine};
use crate::command::{Body, ChangeKeys, Command, Header, NoEffect, Reply, RequestId};
use crate::lease::lessor::{Lessor, LessorError, Renewal};
use crate::mvcc::compact::Progress;
use crate::mvcc::read_view::ReadView;
use crate::mvcc::txn::resolve_compares;
use crate::replica::{
    AddPrefixKey, Applied, ClusterAdmin, ClusterError, DefragmentError, KeyAdmin, KeyAdminError,
    LeaseError, Member, MemberChange, MoveLeader, Pending, Place, ProposeError, ReadIndexError,
    Replica, RotatePrefixKey, Status,
};
use crate::rpc::{Edge, Health, Limits};
use crate::seal::{Sealer, SealerError};
use crate::storage::Store;
use crate::watch::Hub;

pub(crate) const MEMBER: u64 = 0xa1;
pub(crate) const CLUSTER: u64 = 0xc1;
pub(crate) const TERM: u64 = 7;

pub(crate) struct Single {
    machine: Mutex<Machine>,
    index: AtomicU64,
    pub(crate) sealer: Sealer,
    pub(crate) hub: Hub,
    pub(crate) sessions: Sessions,
    lessor: Mutex<Lessor>,
    since: Instant,
    pub(crate) leaderless: watch::Sender<bool>,
    applied: watch::Sender<u64>,
    pub(crate) learner: AtomicBool,
    /// Proposals that are answered as void for this reason, without being applied.
    pub(crate) void: Mutex<Vec<NoEffect>>,
    pub(crate) proposals: AtomicU64,
    slot: Arc<SlotKeyPair>,
    member_key: MemberKey,
}

/// What opens the member's backups.
pub(crate) fn provider() -> FileProvider {
    FileProvider::from_secret(&keys::Secret::from_bytes([5; 32]))
}

impl Single {
    pub(crate) fn start() -> Arc<Self> {
        Self::with_hub(|view| Hub::start(view).unwrap())
    }

    /// What serves this replica's clients.
    pub(crate) fn edge(self: &Arc<Self>, limits: Limits) -> Edge {
        Edge {
            replica: Arc::clone(self) as _,
            key_admin: Arc::clone(self) as _,
            cluster: Arc::clone(self) as _,
            sealer: self.sealer.clone(),
            hub: self.hub.clone(),
            door: Door::new(self.sessions.clone()),
            health: Health::default(),
            limits: Arc::new(limits),
        }
    }

    pub(crate) fn with_hub(hub: impl FnOnce(Arc<ReadView>) -> Hub) -> Arc<Self> {
        let store = Store::in_memory(StorageKeys::ephemeral());
        let mut machine = Machine::create(store, MEMBER).unwrap();
        let member_key = MemberKey::create(MEMBER, DirectoryId::random(), &provider()).unwrap();
        let slot = Arc::clone(member_key.slot());
        let public_key = slot.public();
        let holder = SlotHolder {
            member_id: MEMBER,
            provider: ProviderKind::File,
            public_key,
        };
        let birth = KeyChange::Init(Keyring::birth(&[holder]).unwrap());
        apply(
            &mut machine,
            1,
            Header::new(request(1)),
            ChangeKeys(birth).into(),
        );
        let sealer = Sealer::new();
        let keyring = Keyring::open_table(&machine.view().key_table, Arc::clone(&slot)).unwrap();
        sealer.install(keyring);
        let hub = hub(machine.view());
        let mut lessor = Lessor::new();
        lessor.promote(
            &machine.view().leases.read(),
            Duration::ZERO,
            Duration::ZERO,
        );
        Arc::new(Single {
            machine: Mutex::new(machine),
            index: AtomicU64::new(2),
            sealer,
            hub,
            sessions: Sessions::default(),
            lessor: Mutex::new(lessor),
            since: Instant::now(),
            leaderless: watch::Sender::new(false),
            applied: watch::Sender::new(1),
            learner: AtomicBool::new(false),
            void: Mutex::default(),
            proposals: AtomicU64::new(0),
            slot,
            member_key,
        })
    }

    /// A command of the server's own.
    pub(crate) fn run(&self, body: Body) -> Applied {
        self.run_permitted(Permitted::internal(Internal::MemberStart, body))
    }

    /// As the leader does it: resolve, append, apply, publish, answer.
    fn run_permitted(&self, permitted: Permitted<Body>) -> Applied {
        self.proposals.fetch_add(1, Ordering::SeqCst);
        let mut machine = self.machine.lock();
        if let Some(reason) = self.void.lock().pop() {
            return Applied {
                reply: Reply::NoEffect(reason),
                view: machine.view(),
            };
        }
        let index = self.index.fetch_add(1, Ordering::SeqCst);
        let header = Header::of(request(index), &permitted);
        let mut body = permitted.into_request();
        if let Body::Txn(txn) = &mut body {
            let open = |key: &[u8], sealed: &[u8]| -> Result<Vec<u8>, SealerError> {
                Ok(self.sealer.open(key, sealed)?.into())
            };
            resolve_compares(&machine.view(), &open, txn).unwrap();
        }
        let mut outcome = apply(&mut machine, index, header, body);
        self.sessions.applied(&outcome.logins, &outcome.view.auth);
        self.lessor
            .lock()
            .observe(&outcome.lease_changes, self.since.elapsed());
        self.hub.publish(&outcome.events, &outcome.view);
        self.applied.send_replace(index);
        if outcome.keys_changed {
            let table = &outcome.view.key_table;
            let keyring = Keyring::open_table(table, Arc::clone(&self.slot)).unwrap();
            self.sealer.install(keyring);
        }
        let (_, reply) = outcome.replies.pop().unwrap();
        Applied {
            reply,
            view: outcome.view,
        }
    }

    /// Frees what compactions have left.
    pub(crate) fn sweep(&self) {
        let mut compactor = self.machine.lock().compactor();
        while let Progress::Working { .. } = compactor.slice(4).unwrap() {}
    }

    fn keyring(&self) -> Result<Arc<Keyring>, KeyAdminError> {
        self.sealer.keyring().ok_or(KeyAdminError::RootNotOpen)
    }
}

fn request(index: u64) -> RequestId {
    RequestId {
        member: MEMBER,
        seq: index,
    }
}

fn apply(machine: &mut Machine, index: u64, header: Header, body: Body) -> crate::apply::Outcome {
    let bytes = Command::new(header, body).encode();
    let body = EntryBody::Command(&bytes);
    machine
        .apply(&[EntryRef {
            index,
            term: TERM,
            leader: MEMBER,
            body,
        }])
        .unwrap()
}

impl Replica for Single {
    fn propose(&self, body: Permitted<Body>) -> Pending<'_, Result<Applied, ProposeError>> {
        Box::pin(async move { Ok(self.run_permitted(body)) })
    }

    fn read_barrier(&self) -> Pending<'_, Result<(), ReadIndexError>> {
        let lost = *self.leaderless.borrow();
        Box::pin(async move {
            if lost {
                Err(ReadIndexError::Timeout)
            } else {
                Ok(())
            }
        })
    }

    fn has_applied(&self, index: u64) -> Pending<'_, ()> {
        let mut applied = self.applied.subscribe();
        Box::pin(async move {
            applied.wait_for(|at| *at >= index).await.unwrap();
        })
    }

    fn has_leader(&self, known: bool) -> Pending<'_, ()> {
        let mut leaderless = self.leaderless.subscribe();
        Box::pin(async move {
            leaderless.wait_for(|lost| *lost != known).await.unwrap();
        })
    }

    fn view(&self) -> Arc<ReadView> {
        self.machine.lock().view()
    }

    fn place(&self) -> Place {
        Place {
            cluster_id: CLUSTER,
            member_id: MEMBER,
            leader: if *self.leaderless.borrow() { 0 } else { MEMBER },
            term: TERM,
            is_learner: self.learner.load(Ordering::SeqCst),
        }
    }

    fn status(&self) -> Status {
        let Place {
            cluster_id,
            member_id,
            leader,
            term,
            is_learner,
        } = self.place();
        let applied_index = self.view().applied_index;
        let (committed_index, disk_bytes) = (applied_index, 4096);
        Status {
            cluster_id,
            member_id,
            leader,
            term,
            committed_index,
            applied_index,
            is_learner,
            disk_bytes,
        }
    }

    fn members(&self) -> Vec<Member> {
        vec![Member {
            id: MEMBER,
            name: "one".into(),
            peer_urls: vec!["http://127.0.0.1:1".into()],
            client_urls: vec!["http://127.0.0.1:2".into()],
            is_learner: false,
        }]
    }

    fn keep_alive(&self, id: i64) -> Pending<'_, Result<i64, LeaseError>> {
        let renewal = self.lessor.lock().renew(id, self.since.elapsed());
        Box::pin(async move {
            match renewal {
                Ok(Renewal::Renewed { ttl_seconds }) => Ok(ttl_seconds),
                Ok(_) | Err(LessorError::NotFound) => Err(LeaseError::NotFound),
                Err(LessorError::NotPrimary) => Err(LeaseError::NoLeader),
            }
        })
    }

    fn lease_remaining(&self, id: i64) -> Pending<'_, Result<i64, LeaseError>> {
        let left = self.lessor.lock().remaining(id, self.since.elapsed());
        Box::pin(async move { left.map_err(|_| LeaseError::NotFound) })
    }

    fn leases(&self) -> Vec<i64> {
        self.lessor.lock().by_deadline().collect()
    }

    fn physically_compacted(&self, _: i64) -> Pending<'_, ()> {
        self.sweep();
        Box::pin(async {})
    }

    fn defragment(&self) -> Pending<'_, Result<(), DefragmentError>> {
        Box::pin(async { Ok(()) })
    }
}

/// It stays alone.
impl ClusterAdmin for Single {
    fn change_members(
        &self,
        change: Permitted<MemberChange>,
    ) -> Pending<'_, Result<Vec<Member>, ClusterError>> {
        let refused = match change.into_request() {
            MemberChange::Add { .. } => ClusterError::Unhealthy,
            MemberChange::Remove { id: MEMBER } => ClusterError::NotEnoughStarted,
            MemberChange::Promote { id: MEMBER } => ClusterError::NotLearner,
            MemberChange::Remove { .. }
            | MemberChange::Update { .. }
            | MemberChange::Promote { .. } => ClusterError::MemberNotFound,
        };
        Box::pin(async move { Err(refused) })
    }

    fn move_leader(&self, request: Permitted<MoveLeader>) -> Pending<'_, Result<(), ClusterError>> {
        let moved = match request.into_request().to {
            MEMBER => Ok(()),
            _ => Err(ClusterError::BadTransferee),
        };
        Box::pin(async move { moved })
    }
}

impl KeyAdmin for Single {
    fn add_prefix(
        &self,
        request: Permitted<AddPrefixKey>,
    ) -> Pending<'_, Result<Arc<ReadView>, KeyAdminError>> {
        Box::pin(async move {
            let table = Arc::clone(&self.view().key_table);
            let add = self
                .keyring()?
                .mint_prefix(&table, &request.request().prefix);
            let add = add.map_err(|_| {
                let refusal = keys::KeyChangeRefusal::PrefixTaken { prefix_key_id: 2 };
                KeyAdminError::Refused(refusal)
            })?;
            Ok(self.run(ChangeKeys(KeyChange::AddPrefix(add)).into()).view)
        })
    }

    fn rotate_prefix(
        &self,
        request: Permitted<RotatePrefixKey>,
    ) -> Pending<'_, Result<Arc<ReadView>, KeyAdminError>> {
        Box::pin(async move {
            let table = Arc::clone(&self.view().key_table);
            let rotate = self
                .keyring()?
                .mint_rotation(&table, &request.request().prefix);
            let rotate = rotate.map_err(|_| KeyAdminError::UnknownPrefix)?;
            Ok(self.run(ChangeKeys(KeyChange::Rotate(rotate)).into()).view)
        })
    }

    fn seal_backup(&self, view: &ReadView) -> Option<(keys::BackupKey, keys::BackupEnvelope)> {
        self.member_key
            .seal_backup(&*self.sealer.keyring()?, &view.key_table)
    }
}
