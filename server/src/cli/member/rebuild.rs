//! A member that has lost its log, its votes or its keys, made anew under another id.
//!
//! ```text
//! note kept beside the data directory ─► old data set aside ─► removed ─► added as a learner
//!   ─► started in this process ─► caught up, opens the root key ─► promoted ─► stopped
//! ```
//!
//! Promise: what has lost its votes never comes back under its old id; a member that runs, here or
//! elsewhere, is not touched; nothing is deleted; broken off at any moment, the same command goes
//! on. Whether the cluster can do without the member is the cluster's to say.
//! Not known here: how a member catches up.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::sealkv::v1::KeysListRequest;
use proto::sealkv::v1::keys_client::KeysClient;
use serde_json::json;
use tonic::Status;

use super::super::connect::{connect, connect_one};
use super::super::login::Session;
use super::super::output::{Format, complain, print, print_json};
use super::super::{CliError, Global};
use super::note::Note;
use super::temporary::Temporary;
use crate::config::{Asked, ClusterError, Config, ConfigError, InitialCluster, MemberUrl};
use crate::start::StartError;
use crate::storage::{DataDir, DirectoryError};

/// Between attempts at what the cluster is not ready for yet.
const RETRY: Duration = Duration::from_millis(500);
/// How long a cluster may call itself unhealthy; members count as connected after five seconds.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

const UNHEALTHY: &str = "etcdserver: unhealthy cluster";
const BEHIND: &str = "etcdserver: can only promote a learner member which is in sync with leader";

#[derive(Debug, Args)]
pub(in crate::cli) struct Rebuild {
    /// Behind `--`: the flags that the member is started with.
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Why there is no new member. One line for a person.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum RebuildFailed {
    #[error("{}", .0.mistakes().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Flags(ConfigError),
    #[error("behind -- the flags of a server are expected")]
    NoServer,
    #[error(
        "no member of this cluster is called {name} or has the peer URLs {}", urls.join(",")
    )]
    Unknown { name: String, urls: Vec<String> },
    #[error("member {id:x} answers at {url}: stop it first")]
    Alive { id: u64, url: String },
    #[error("{}: {source}", path.display())]
    Note {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is from the rebuilding of another cluster's member; remove it", .0.display())]
    OtherNote(PathBuf),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("the cluster's members: {0}")]
    Cluster(#[from] ClusterError),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("{0}")]
    Logging(String),
    #[error("the new member ended: {0}; run the same command again to go on")]
    Ended(#[from] StartError),
    #[error("stopped; run the same command again to go on")]
    Stopped,
}

/// What came of it.
struct Rebuilt {
    note: Note,
    id: u64,
    name: String,
    set_aside: Option<PathBuf>,
}

impl Rebuild {
    pub(super) async fn run(&self, global: &Global) -> Result<(), CliError> {
        let config = self.config()?;
        let session = connect(global).await?;
        let mut cluster = Cluster(session);
        let listed = cluster.members().await?;
        let cluster_id = listed.header.map_or(0, |header| header.cluster_id);
        let mut note = match Note::find(&config.data_dir)? {
            Some(note) if note.cluster_id == cluster_id => note,
            Some(_) => return Err(RebuildFailed::OtherNote(Note::path(&config.data_dir)).into()),
            None => {
                let old = find(&listed.members, &config)?;
                refuse_if_alive(old, global).await?;
                Note::new(cluster_id, old.id)
            }
        };
        // Takes the directory's lock: a member that runs here is left alone from here on.
        let set_aside = match note.new_id {
            Some(_) => None,
            None => {
                // The new member takes no directory that holds a log, and by then the old one is
                // removed.
                DataDir::check_unused(&config.data_dir, config.wal_dir.as_deref())
                    .map_err(RebuildFailed::from)?;
                note.save(&config.data_dir)?;
                DataDir::set_aside(&config.data_dir).map_err(RebuildFailed::from)?
            }
        };
        let id = cluster.replace(&mut note, &config).await?;
        let members = cluster.members().await?.members;
        if members
            .iter()
            .any(|member| member.id == id && !member.is_learner)
        {
            // An earlier run came this far.
        } else {
            let joining = joining(config.clone(), &members, id)?;
            cluster.bring_in(id, joining).await?;
        }
        note.remove(&config.data_dir)?;
        let rebuilt = Rebuilt {
            note,
            id,
            name: config.name.clone(),
            set_aside,
        };
        rebuilt.show(global.write_out)
    }

    fn config(&self) -> Result<Config, RebuildFailed> {
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        match Config::ask(&self.flags, &environment) {
            Ok(Asked::Serve(config)) => Ok(*config),
            Ok(Asked::Help | Asked::Version) => Err(RebuildFailed::NoServer),
            Err(error) => Err(RebuildFailed::Flags(error)),
        }
    }
}

fn texts(urls: &[MemberUrl]) -> Vec<String> {
    urls.iter().map(MemberUrl::to_string).collect()
}

/// The member that these flags are of.
fn find<'a>(members: &'a [pb::Member], config: &Config) -> Result<&'a pb::Member, RebuildFailed> {
    let urls = texts(&config.advertise_peer_urls);
    let same_urls = |member: &&pb::Member| {
        let mut theirs = member.peer_ur_ls.clone();
        theirs.sort_unstable();
        theirs == urls
    };
    let by_url = members.iter().find(same_urls);
    let found = by_url.or_else(|| members.iter().find(|member| member.name == config.name));
    found.ok_or_else(|| RebuildFailed::Unknown {
        name: config.name.clone(),
        urls,
    })
}

async fn refuse_if_alive(member: &pb::Member, global: &Global) -> Result<(), RebuildFailed> {
    for url in &member.client_ur_ls {
        let Ok(parsed) = MemberUrl::parse(url) else {
            continue;
        };
        let limit = Duration::from_secs(global.dial_timeout);
        let answer = tokio::time::timeout(limit, async {
            let session = connect_one(&parsed, global).await.ok()?;
            let mut maintenance = MaintenanceClient::new(session);
            let status = maintenance.status(pb::StatusRequest {}).await;
            status.ok()?.into_inner().header
        });
        // Somebody else may have its address by now.
        if let Ok(Some(header)) = answer.await
            && header.member_id == member.id
        {
            let (id, url) = (member.id, url.clone());
            return Err(RebuildFailed::Alive { id, url });
        }
    }
    Ok(())
}

/// The flags as they are for a member that joins these.
fn joining(mut config: Config, members: &[pb::Member], id: u64) -> Result<Config, RebuildFailed> {
    let pairs = members.iter().flat_map(|member| {
        let name = match &member.name {
            _ if member.id == id => config.name.clone(),
            name if name.is_empty() => format!("{:x}", member.id),
            name => name.clone(),
        };
        let urls = member.peer_ur_ls.iter();
        urls.map(move |url| format!("{name}={url}"))
    });
    let pairs: Vec<String> = pairs.collect();
    config.initial_cluster = InitialCluster::parse(&pairs.join(","))?;
    config.initial_cluster_state = crate::config::ClusterState::Existing;
    config.force_new_cluster = false;
    Ok(config)
}

/// The members that are left.
struct Cluster(Session);

impl Cluster {
    async fn members(&mut self) -> Result<pb::MemberListResponse, Status> {
        let request = pb::MemberListRequest { linearizable: true };
        let mut cluster = ClusterClient::new(self.0.clone());
        Ok(cluster.member_list(request).await?.into_inner())
    }

    /// Removes the old id and adds a new one, unless an earlier run has.
    async fn replace(&mut self, note: &mut Note, config: &Config) -> Result<u64, CliError> {
        let members = self.members().await?.members;
        if let Some(id) = note.new_id
            && members.iter().any(|member| member.id == id)
        {
            return Ok(id);
        }
        if members.iter().any(|member| member.id == note.old_id) {
            complain(&format!("removing member {:x}", note.old_id));
            self.remove(note.old_id).await?;
        }
        let urls = texts(&config.advertise_peer_urls);
        let added = members.iter().find(|member| {
            member.id != note.old_id
                && member.is_learner
                && member.name.is_empty()
                && member.peer_ur_ls == urls
        });
        let id = match added {
            // By an earlier run that did not come to note it.
            Some(member) => member.id,
            None => self.add(urls).await?,
        };
        complain(&format!("added as learner {id:x}"));
        note.new_id = Some(id);
        note.save(&config.data_dir)?;
        Ok(id)
    }

    async fn remove(&self, id: u64) -> Result<(), Status> {
        let removed = when_healthy(async || {
            let request = pb::MemberRemoveRequest { id };
            let mut cluster = ClusterClient::new(self.0.clone());
            cluster.member_remove(request).await
        });
        match removed.await {
            Err(status) if status.message() != "etcdserver: member not found" => Err(status),
            _ => Ok(()),
        }
    }

    async fn add(&self, urls: Vec<String>) -> Result<u64, CliError> {
        let added = when_healthy(async || {
            let request = pb::MemberAddRequest {
                peer_ur_ls: urls.clone(),
                is_learner: true,
            };
            let mut cluster = ClusterClient::new(self.0.clone());
            cluster.member_add(request).await
        });
        let member = added.await?.into_inner().member;
        let member = member.ok_or(CliError::Incomplete { field: "member" })?;
        Ok(member.id)
    }

    /// Runs the member here until it is a voter that holds the keys.
    async fn bring_in(&self, id: u64, config: Config) -> Result<(), CliError> {
        complain("starting it; it fetches the state from the leader");
        let mut member = Temporary::start(config)?;
        let promoted = tokio::select! {
            ended = member.ended() => return Err(ended.into()),
            promoted = self.promote(id) => promoted,
        };
        let ended = member.stop().await;
        promoted?;
        Ok(ended?)
    }

    async fn promote(&self, id: u64) -> Result<(), CliError> {
        while !self.holds_keys(id).await? {
            tokio::time::sleep(RETRY).await;
        }
        complain("it has the state and opens the root key; promoting it");
        loop {
            let request = pb::MemberPromoteRequest { id };
            let mut cluster = ClusterClient::new(self.0.clone());
            match cluster.member_promote(request).await {
                Ok(_) => return Ok(()),
                Err(status) if [BEHIND, UNHEALTHY].contains(&status.message()) => {}
                Err(status) => return Err(status.into()),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// It has said, in the log that it follows, that it opened the root key.
    async fn holds_keys(&self, id: u64) -> Result<bool, Status> {
        let mut keys = KeysClient::new(self.0.clone());
        let slots = keys.list(KeysListRequest {}).await?.into_inner().slots;
        Ok(slots.iter().any(|slot| slot.member_id == id && slot.proven))
    }
}

/// Asks again for as long as members have not been connected for long enough.
async fn when_healthy<T>(mut ask: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let begun = std::time::Instant::now();
    loop {
        match ask().await {
            Err(status) if status.message() == UNHEALTHY && begun.elapsed() < HEALTHY_WITHIN => {}
            answer => return answer,
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Rebuilt {
    fn show(&self, format: Format) -> Result<(), CliError> {
        let old_id = self.note.old_id;
        match format {
            Format::Json => print_json(&json!({
                "name": self.name,
                "old_id": format!("{old_id:x}"),
                "new_id": format!("{:x}", self.id),
                "set_aside": self.set_aside,
            }))?,
            Format::Table => {
                let mut text = format!(
                    "{} was member {old_id:x} and is member {:x}, a voter: start it as before\n",
                    self.name, self.id
                );
                if let Some(path) = &self.set_aside {
                    text.push_str(&format!("its old data is in {}\n", path.display()));
                }
                print(&text)?;
            }
        }
        Ok(())
    }
}
