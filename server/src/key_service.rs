//! The keyring of a running member: opened as the key table changes, born and extended by the
//! leader, acknowledged by everyone.
//!
//! Promise: a view is published only after this member's keyring has followed its key table; new
//! keys are minted by a leader that has applied its own term, and used only once their entry is
//! applied.
//!
//! Not known here: storage, clients, what is sealed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keys::{
    KeyChange, KeyTable, Keyring, MemberKey, OpenKeyringError, ProviderKind, RemoveSlot, RootKey,
    SlotHolder, SlotKeyPair, SlotPublicKey,
};
use parking_lot::Mutex;
use proto::sealkv::peer as pb;
use thiserror::Error;
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::access::{Internal, Permitted};
use crate::command::{ChangeKeys, Reply};
use crate::mvcc::read_view::ReadView;
use crate::raft::{Consensus, Lane};
use crate::replica::{
    AddPrefixKey, KeyAdmin, KeyAdminError, Pending, ProposeError, RotatePrefixKey,
};
use crate::seal::Sealer;

/// Between looks at what is left to do.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The same until the member is ready for clients, who wait for it.
const LOOK_AT_START: Duration = Duration::from_millis(20);
/// How often a change is minted anew when the table moved under it.
const MINT_ATTEMPTS: usize = 5;

/// Why a key was not made.
#[derive(Debug, Error)]
pub enum MintError {
    #[error("this member does not lead")]
    NotLeader,
    #[error("the leader cannot open the root key")]
    CannotOpenRoot,
    #[error("the prefix has a key of its own already")]
    Exists,
    #[error("the prefix has no key of its own")]
    NotFound,
    #[error(transparent)]
    Unavailable(#[from] ProposeError),
}

/// Opens what the key table holds for this member's slot. Called on the apply thread, before a
/// view with a changed table is published.
pub struct KeyringFollower {
    slot: Arc<SlotKeyPair>,
    /// Of a restored member, for as long as its own slot is not in the table.
    inherited: Mutex<Option<RootKey>>,
    sealer: Sealer,
    last: Mutex<Option<Arc<KeyTable>>>,
}

impl KeyringFollower {
    pub fn new(slot: Arc<SlotKeyPair>, inherited: Option<RootKey>, sealer: Sealer) -> Self {
        Self {
            slot,
            inherited: Mutex::new(inherited),
            sealer,
            last: Mutex::new(None),
        }
    }

    fn open(&self, table: &KeyTable) -> Result<Keyring, OpenKeyringError> {
        let enrolled = table.slot_of_public_key(&self.slot.public()).is_some();
        let mut inherited = self.inherited.lock();
        match (self.sealer.keyring(), &*inherited) {
            (Some(keyring), _) if keyring.is_by_slot() == enrolled => keyring.refresh(table),
            (_, Some(root)) if !enrolled => Keyring::open_with_root(table, root),
            _ => {
                let opened = Keyring::open_table(table, self.slot.clone())?;
                *inherited = None;
                Ok(opened)
            }
        }
    }

    pub fn follow(&self, table: &Arc<KeyTable>) {
        let mut last = self.last.lock();
        if last.as_ref().is_some_and(|known| Arc::ptr_eq(known, table)) {
            return;
        }
        *last = Some(table.clone());
        if !table.is_initialised() {
            return;
        }
        match self.open(table) {
            Ok(keyring) => {
                for key in keyring.unopened() {
                    tracing::warn!(
                        prefix_key_id = key.prefix_key_id,
                        dek_version = key.dek_version,
                        "a prefix key does not open with this member's root key"
                    );
                }
                self.sealer.install(keyring);
            }
            // Not enrolled yet: the leader will see to it.
            Err(OpenKeyringError::NoSlot) => self.sealer.forget(),
            Err(error) => {
                self.sealer.forget();
                tracing::warn!(%error, "this member cannot open the root key");
            }
        }
    }
}

/// A member's own slot as it shows it to its peers.
#[derive(Debug, Clone, Copy)]
pub struct OwnSlot {
    pub public_key: SlotPublicKey,
    pub provider: ProviderKind,
}

#[derive(Clone)]
pub struct KeyService {
    inner: Arc<Inner>,
}

struct Inner {
    consensus: Consensus,
    slot: OwnSlot,
    member_key: Mutex<MemberKey>,
    member_key_path: PathBuf,
    /// The file with the root key of a restored member.
    inherited: Mutex<Option<PathBuf>>,
    minting: AsyncMutex<()>,
    ready: watch::Sender<bool>,
}

impl KeyService {
    pub fn new(
        consensus: Consensus,
        member_key: MemberKey,
        member_key_path: PathBuf,
        inherited: Option<PathBuf>,
    ) -> Self {
        let outline = member_key.outline();
        let slot = OwnSlot {
            public_key: outline.slot_public_key,
            provider: outline.provider,
        };
        let member_key = Mutex::new(member_key);
        let (minting, ready) = (AsyncMutex::new(()), watch::Sender::new(false));
        Self {
            inner: Arc::new(Inner {
                consensus,
                slot,
                member_key,
                member_key_path,
                inherited: Mutex::new(inherited),
                minting,
                ready,
            }),
        }
    }

    pub fn own_slot(&self) -> OwnSlot {
        self.inner.slot
    }

    /// Returns once this member can open values and a majority has said that it can.
    pub async fn ready(&self) {
        // The sender lives as long as this handle.
        let _ = self.inner.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Gives a prefix its own key, or starts its next version; from any member. Returns once
    /// this member has applied it.
    pub async fn mint(&self, prefix: &[u8], rotate: bool) -> Result<(), MintError> {
        let consensus = &self.inner.consensus;
        let minted = tokio::time::timeout(consensus.request_timeout(), async {
            loop {
                let index = match consensus.leadership().leader {
                    0 => Err(MintError::NotLeader),
                    id if id == consensus.member_id() => self.mint_here(prefix, rotate).await,
                    id => self.ask_leader(id, prefix, rotate).await,
                };
                match index {
                    Err(MintError::NotLeader) => consensus.leader_may_have_changed().await?,
                    Err(error) => return Err(error),
                    Ok(index) => return Ok(consensus.applied_at_least(index).await?),
                }
            }
        });
        minted
            .await
            .unwrap_or(Err(MintError::Unavailable(ProposeError::Timeout)))
    }

    async fn ask_leader(&self, id: u64, prefix: &[u8], rotate: bool) -> Result<u64, MintError> {
        use pb::mint_key_response::Refusal;
        let consensus = &self.inner.consensus;
        let lost = || MintError::Unavailable(ProposeError::TimeoutDueToConnectionLost);
        let message = pb::MintKeyRequest {
            prefix: bytes::Bytes::copy_from_slice(prefix),
            rotate,
        };
        let peers = consensus.peers();
        let urls = consensus.peer_urls(id).ok_or(MintError::NotLeader)?;
        let mut client = peers
            .client(&urls, Lane::Control)
            .map_err(|_| MintError::NotLeader)?;
        let answer = client
            .mint_key(peers.request(id, message))
            .await
            .map_err(|_| lost())?;
        let answer = answer.into_inner();
        match answer.refusal() {
            Refusal::None => Ok(answer.log_index),
            Refusal::NotLeader => Err(MintError::NotLeader),
            Refusal::CannotOpenRoot => Err(MintError::CannotOpenRoot),
            Refusal::AlreadyExists => Err(MintError::Exists),
            Refusal::NotFound => Err(MintError::NotFound),
            Refusal::Unavailable => Err(lost()),
        }
    }

    /// At the leader: mints, proposes, and returns the index up to which it is applied.
    pub async fn mint_here(&self, prefix: &[u8], rotate: bool) -> Result<u64, MintError> {
        let _one_at_a_time = self.inner.minting.lock().await;
        let consensus = &self.inner.consensus;
        for _ in 0..MINT_ATTEMPTS {
            if !consensus.leads_with_applied_term() {
                return Err(MintError::NotLeader);
            }
            let keyring = consensus
                .sealer()
                .keyring()
                .ok_or(MintError::CannotOpenRoot)?;
            let table = consensus.view().key_table.clone();
            let change = if rotate {
                keyring.mint_rotation(&table, prefix).map(KeyChange::Rotate)
            } else {
                keyring
                    .mint_prefix(&table, prefix)
                    .map(KeyChange::AddPrefix)
            };
            let change = change.map_err(mint_error)?;
            let permitted = Permitted::internal(Internal::KeyService, ChangeKeys(change).into());
            let applied = consensus.propose_at_leader(permitted).await?;
            if let Reply::ChangeKeys(_) = applied.reply {
                return Ok(applied.view.applied_index);
            }
            // The table moved between minting and applying: mint on the new one.
        }
        Err(MintError::Unavailable(ProposeError::Timeout))
    }

    /// Does what is left to do, again and again. Lives as long as the member.
    pub async fn run(self) {
        let mut campaigns = true;
        loop {
            self.remember_keyring();
            self.forget_inherited();
            self.acknowledge().await;
            if self.inner.consensus.leads_with_applied_term() {
                self.lead().await;
            }
            campaigns = self.campaign_if_able(campaigns);
            self.inner.ready.send_if_modified(|ready| {
                let news = !*ready && self.majority_opens();
                *ready |= news;
                news
            });
            let ready = *self.inner.ready.borrow();
            tokio::time::sleep(if ready { LOOK_EVERY } else { LOOK_AT_START }).await;
        }
    }

    /// `member.key` names the keyring once it is known, so that a directory of another cluster is
    /// found out at start.
    fn remember_keyring(&self) {
        let view = self.inner.consensus.view();
        let Some(keyring_id) = view.key_table.keyring_id() else {
            return;
        };
        let mut member_key = self.inner.member_key.lock();
        if member_key.outline().keyring_id.is_some() {
            return;
        }
        member_key.set_keyring_id(keyring_id);
        if let Err(error) = member_key.save(&self.inner.member_key_path) {
            tracing::warn!(%error, "the keyring's id could not be written to member.key");
        }
    }

    /// The file goes once this member has opened the root key by its own slot.
    fn forget_inherited(&self) {
        let mut inherited = self.inner.inherited.lock();
        let Some(path) = inherited.as_ref() else {
            return;
        };
        let table = self.inner.consensus.view().key_table.clone();
        let own = table.slot_of_member(self.inner.consensus.member_id());
        if own.is_none_or(|own| !own.proven) {
            return;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the root key of the restored backup could not be removed");
            }
            _ => *inherited = None,
        }
    }

    async fn acknowledge(&self) {
        let consensus = &self.inner.consensus;
        let Some(keyring) = consensus.sealer().keyring() else {
            return;
        };
        let view = consensus.view();
        let proven = view
            .key_table
            .proven_members()
            .any(|id| id == consensus.member_id());
        let Some(acknowledgement) = keyring.acknowledgement() else {
            return;
        };
        if proven || consensus.leadership().leader == 0 {
            return;
        }
        let change = KeyChange::AcknowledgeRoot(acknowledgement);
        let permitted = Permitted::internal(Internal::KeyService, ChangeKeys(change).into());
        if let Err(error) = consensus.propose(permitted).await {
            tracing::debug!(%error, "the acknowledgement of the root key was not applied");
        }
    }

    async fn lead(&self) {
        let consensus = &self.inner.consensus;
        let view = consensus.view();
        let change = if view.key_table.is_initialised() {
            match self.departure() {
                Some(change) => change,
                None => match self.enrolment().await {
                    Some(change) => change,
                    None => return,
                },
            }
        } else {
            match Keyring::birth(&[self.holder()]) {
                Ok(init) => KeyChange::Init(init),
                Err(error) => {
                    tracing::error!(%error, "the keyring cannot be made");
                    return;
                }
            }
        };
        let permitted = Permitted::internal(Internal::KeyService, ChangeKeys(change).into());
        if let Err(error) = consensus.propose_at_leader(permitted).await {
            tracing::debug!(%error, "a change of the keyring was not applied");
        }
    }

    /// The slot of a member that has left: it must not open the next root key.
    fn departure(&self) -> Option<KeyChange> {
        let view = self.inner.consensus.view();
        let mut slots = view.key_table.slots();
        let left = slots.find(|slot| view.members.is_removed(slot.member_id))?;
        Some(KeyChange::RemoveSlot(RemoveSlot { slot_id: left.id }))
    }

    fn holder(&self) -> SlotHolder {
        SlotHolder {
            member_id: self.inner.consensus.member_id(),
            provider: self.inner.slot.provider,
            public_key: self.inner.slot.public_key,
        }
    }

    /// The next member that has no slot and answers.
    async fn enrolment(&self) -> Option<KeyChange> {
        let consensus = &self.inner.consensus;
        let keyring = consensus.sealer().keyring()?;
        let table = consensus.view().key_table.clone();
        for (id, (node, _)) in consensus.member_nodes() {
            if table.slot_of_member(id).is_some() {
                continue;
            }
            let holder = if id == consensus.member_id() {
                Some(self.holder())
            } else {
                self.greet(id, &node.peer_urls).await
            };
            let Some(holder) = holder else {
                continue;
            };
            match keyring.mint_slot(&table, &holder) {
                Ok(enrol) => return Some(KeyChange::EnrolSlot(enrol)),
                Err(error) => {
                    tracing::warn!(peer = format_args!("{id:x}"), %error, "cannot enrol a slot");
                }
            }
        }
        None
    }

    async fn greet(&self, id: u64, urls: &[String]) -> Option<SlotHolder> {
        let peers = self.inner.consensus.peers();
        let mut client = peers.client(urls, Lane::Control).ok()?;
        let call = client.greet(peers.request(id, pb::GreetRequest {}));
        let answer = tokio::time::timeout(LOOK_EVERY * 5, call)
            .await
            .ok()?
            .ok()?
            .into_inner();
        let public_key = SlotPublicKey::parse(&answer.slot_public_key).ok()?;
        let provider = [ProviderKind::File, ProviderKind::Passphrase]
            .into_iter()
            .find(|kind| kind.as_str() == answer.slot_provider)?;
        Some(SlotHolder {
            member_id: id,
            provider,
            public_key,
        })
    }

    /// A member that cannot open ROOT could not seal as a leader.
    fn campaign_if_able(&self, campaigns: bool) -> bool {
        let consensus = &self.inner.consensus;
        let able =
            consensus.sealer().keyring().is_some() || !consensus.view().key_table.is_initialised();
        if able != campaigns {
            consensus.campaign(able);
        }
        able
    }

    fn majority_opens(&self) -> bool {
        let consensus = &self.inner.consensus;
        if consensus.sealer().keyring().is_none() {
            return false;
        }
        let view = consensus.view();
        let proven: Vec<u64> = view.key_table.proven_members().collect();
        let nodes = consensus.member_nodes();
        let voters: Vec<u64> = nodes
            .iter()
            .filter(|(_, (_, learner))| !learner)
            .map(|(id, _)| *id)
            .collect();
        let opens = voters.iter().filter(|id| proven.contains(id)).count();
        opens * 2 > voters.len()
    }
}

impl KeyAdmin for KeyService {
    fn add_prefix(
        &self,
        request: Permitted<AddPrefixKey>,
    ) -> Pending<'_, Result<Arc<ReadView>, KeyAdminError>> {
        let prefix = request.into_request().prefix;
        Box::pin(async move { self.minted(&prefix, false).await })
    }

    fn rotate_prefix(
        &self,
        request: Permitted<RotatePrefixKey>,
    ) -> Pending<'_, Result<Arc<ReadView>, KeyAdminError>> {
        let prefix = request.into_request().prefix;
        Box::pin(async move { self.minted(&prefix, true).await })
    }

    fn seal_backup(&self, view: &ReadView) -> Option<(keys::BackupKey, keys::BackupEnvelope)> {
        let keyring = self.inner.consensus.sealer().keyring()?;
        let member_key = self.inner.member_key.lock();
        member_key.seal_backup(&keyring, &view.key_table)
    }
}

impl KeyService {
    async fn minted(&self, prefix: &[u8], rotate: bool) -> Result<Arc<ReadView>, KeyAdminError> {
        use keys::KeyChangeRefusal;
        match self.mint(prefix, rotate).await {
            Ok(()) => Ok(self.inner.consensus.view()),
            Err(MintError::Exists) => {
                let view = self.inner.consensus.view();
                let prefix_key_id = view.key_table.prefix_key_of(prefix).map_or(0, |key| key.id);
                Err(KeyAdminError::Refused(KeyChangeRefusal::PrefixTaken {
                    prefix_key_id,
                }))
            }
            Err(MintError::NotFound) => {
                let prefix_key_id = 0;
                Err(KeyAdminError::Refused(KeyChangeRefusal::UnknownPrefixKey {
                    prefix_key_id,
                }))
            }
            Err(MintError::CannotOpenRoot) => Err(KeyAdminError::RootNotOpen),
            Err(MintError::NotLeader) => Err(KeyAdminError::Propose(ProposeError::NoLeader)),
            Err(MintError::Unavailable(error)) => Err(KeyAdminError::Propose(error)),
        }
    }
}

fn mint_error(error: keys::MintError) -> MintError {
    match error {
        keys::MintError::PrefixTaken { .. } => MintError::Exists,
        keys::MintError::UnknownPrefix => MintError::NotFound,
        _ => MintError::CannotOpenRoot,
    }
}
