//! One or more members as real processes on loopback ports: start, kill, stop, restart, partition.
//!
//! Promise: `start` returns only when every member has logged that it is ready and has answered a
//! linearizable read; on drop the harness ends the processes that it started, by their own ids.
//! Not known here: anything but the command line, the signals and the data directory of a member.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use rand::Rng as _;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::Client;
use crate::links::Links;
use crate::tls::Tls;
use crate::{binary, wait};

/// How long a member may take until it serves. Generous: a loaded machine builds and fsyncs slowly.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a member that must end by itself may take.
pub const END_WITHIN: Duration = Duration::from_secs(20);
/// What a member logs when it serves clients; etcd's words.
pub const READY: &str = "ready to serve client requests";

/// Which program the members run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Sealkv,
    Etcd,
}

impl Program {
    /// What `SEALKV_TEST_SERVER` asks for; sealkv by default.
    pub fn under_test() -> Self {
        match std::env::var("SEALKV_TEST_SERVER").as_deref() {
            Err(_) | Ok("" | "sealkv") => Self::Sealkv,
            Ok("etcd") => Self::Etcd,
            Ok(other) => panic!("SEALKV_TEST_SERVER is sealkv or etcd, not {other:?}"),
        }
    }

    fn path(self) -> PathBuf {
        match self {
            Self::Sealkv => binary::sealkv().to_path_buf(),
            Self::Etcd => binary::etcd().expect("the real etcd is built by tests/interop/setup.sh"),
        }
    }
}

/// What a cluster is made of before it starts.
pub struct Plan {
    program: Program,
    members: usize,
    flags: Vec<OsString>,
    partitionable: bool,
    tls: Option<Tls>,
    peers_over_tls: bool,
}

impl Plan {
    pub fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    pub fn program(mut self, program: Program) -> Self {
        self.program = program;
        self
    }

    /// A flag of every member, as `--name=value`.
    pub fn flag(mut self, flag: impl Into<OsString>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Clients speak TLS, those of the harness this way; the flags that go with it are the test's.
    pub fn clients_over(mut self, tls: &Tls) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Peers speak TLS.
    pub fn peers_over_tls(mut self) -> Self {
        self.peers_over_tls = true;
        self
    }

    /// Peers reach each other through proxies that [`Cluster::links`] can cut.
    pub fn partitionable(mut self) -> Self {
        self.partitionable = true;
        self
    }

    /// Starts every member and waits until all of them serve.
    pub async fn start(self) -> Cluster {
        let mut cluster = self.prepare().await;
        for member in &mut cluster.members {
            member.launch();
        }
        for member in &mut cluster.members {
            member.ready().await;
        }
        if let Some(wanted) = leader_to_start_with(cluster.members.len()) {
            cluster.move_leader(wanted).await;
        }
        cluster
    }

    /// Chooses ports, directories and command lines without starting anything.
    pub async fn prepare(self) -> Cluster {
        let directory = tempfile::Builder::new()
            .prefix("sealkv-test-")
            .tempdir()
            .expect("a temporary directory can be made");
        let ports: Vec<(u16, u16)> = (0..self.members)
            .map(|_| (free_port(), free_port()))
            .collect();
        let listen: Vec<u16> = ports.iter().map(|(_, peer)| *peer).collect();
        let links = if self.partitionable {
            Some(Links::start(&listen).await)
        } else {
            None
        };
        let advertised: Vec<u16> = links.as_ref().map_or_else(|| listen.clone(), Links::ports);
        let scheme = |secure| if secure { "https" } else { "http" };
        let (clients, peers) = (scheme(self.tls.is_some()), scheme(self.peers_over_tls));
        let initial_cluster = advertised
            .iter()
            .enumerate()
            .map(|(index, port)| format!("m{}={peers}://127.0.0.1:{port}", index + 1))
            .collect::<Vec<_>>()
            .join(",");
        let members = ports
            .iter()
            .zip(&advertised)
            .enumerate()
            .map(|(index, (&(client, peer), advertised))| {
                let name = format!("m{}", index + 1);
                let home = directory.path().join(&name);
                std::fs::create_dir(&home).expect("a fresh directory takes another one");
                let data = home.join("data");
                let mut arguments: Vec<OsString> = vec![
                    format!("--name={name}").into(),
                    format!("--data-dir={}", data.display()).into(),
                    format!("--listen-client-urls={clients}://127.0.0.1:{client}").into(),
                    format!("--advertise-client-urls={clients}://127.0.0.1:{client}").into(),
                    format!("--listen-peer-urls={peers}://127.0.0.1:{peer}").into(),
                    format!("--initial-advertise-peer-urls={peers}://127.0.0.1:{advertised}")
                        .into(),
                    format!("--initial-cluster={initial_cluster}").into(),
                    "--initial-cluster-state=new".into(),
                    "--initial-cluster-token=sealkv-tests".into(),
                ];
                arguments.extend(self.flags.iter().cloned());
                Member {
                    program: self.program,
                    name,
                    home,
                    data,
                    client_port: client,
                    peer_port: *advertised,
                    arguments,
                    environment: Vec::new(),
                    open_files: None,
                    child: None,
                    log_from: 0,
                    login: None,
                    links: links.clone(),
                    tls: self.tls.clone(),
                    peers_over_tls: self.peers_over_tls,
                    index,
                }
            })
            .collect();
        Cluster {
            members,
            links,
            directory,
            program: self.program,
            flags: self.flags,
            tls: self.tls,
            peers_over_tls: self.peers_over_tls,
            left: Vec::new(),
        }
    }
}

/// The members of one cluster. Dropping it kills them and removes their files.
pub struct Cluster {
    pub members: Vec<Member>,
    pub links: Option<Links>,
    directory: TempDir,
    program: Program,
    flags: Vec<OsString>,
    tls: Option<Tls>,
    peers_over_tls: bool,
    /// Members that have left, by index.
    left: Vec<usize>,
}

impl Cluster {
    pub fn plan() -> Plan {
        Plan {
            program: Program::under_test(),
            members: 1,
            flags: Vec::new(),
            partitionable: false,
            tls: None,
            peers_over_tls: false,
        }
    }

    /// One member with nothing but etcd's flags.
    pub async fn single() -> Self {
        Self::plan().start().await
    }

    pub async fn three() -> Self {
        Self::plan().members(3).start().await
    }

    /// The directory that holds every member's files, key files and logs included.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// Chooses ports, directory and command line of one more member that joins those that are
    /// there; it is neither added nor started. Returns its index.
    pub fn newcomer(&mut self) -> usize {
        assert!(self.links.is_none(), "links are made for the first members");
        let index = self.members.len();
        let name = format!("m{}", index + 1);
        let (client, peer) = (free_port(), free_port());
        let home = self.directory.path().join(&name);
        std::fs::create_dir(&home).expect("a fresh directory takes another one");
        let data = home.join("data");
        let scheme = |secure| if secure { "https" } else { "http" };
        let (clients, peers) = (scheme(self.tls.is_some()), scheme(self.peers_over_tls));
        let others = self.members.iter().enumerate();
        let others = others.filter(|(index, _)| !self.left.contains(index));
        let initial_cluster = others
            .map(|(_, member)| format!("{}={}", member.name, member.peer_url()))
            .chain([format!("{name}={peers}://127.0.0.1:{peer}")])
            .collect::<Vec<_>>()
            .join(",");
        let mut arguments: Vec<OsString> = vec![
            format!("--name={name}").into(),
            format!("--data-dir={}", data.display()).into(),
            format!("--listen-client-urls={clients}://127.0.0.1:{client}").into(),
            format!("--advertise-client-urls={clients}://127.0.0.1:{client}").into(),
            format!("--listen-peer-urls={peers}://127.0.0.1:{peer}").into(),
            format!("--initial-advertise-peer-urls={peers}://127.0.0.1:{peer}").into(),
            format!("--initial-cluster={initial_cluster}").into(),
            "--initial-cluster-state=existing".into(),
        ];
        arguments.extend(self.flags.iter().cloned());
        self.members.push(Member {
            program: self.program,
            name,
            home,
            data,
            client_port: client,
            peer_port: peer,
            arguments,
            environment: Vec::new(),
            open_files: None,
            child: None,
            log_from: 0,
            login: None,
            links: None,
            tls: self.tls.clone(),
            peers_over_tls: self.peers_over_tls,
            index,
        });
        index
    }

    /// A member that was removed: those that join later do not list it.
    pub fn leave(&mut self, index: usize) {
        self.left.push(index);
    }

    /// From now on the harness asks as somebody.
    pub fn log_in(&mut self, name: &str, password: &str) {
        for member in &mut self.members {
            member.login = Some((name.to_owned(), password.to_owned()));
        }
    }

    /// A client of the first member that runs.
    pub async fn client(&self) -> Client {
        let running = self.members.iter().find(|member| member.running());
        running.expect("a member runs").client().await
    }

    /// Hands the leadership to a member and waits until the others follow it.
    async fn move_leader(&self, wanted: usize) {
        let id = self.members[wanted].client().await.status().await;
        let id = id.expect("a started member tells its status").header;
        let target = id.expect("every answer has a header").member_id;
        wait::until("the chosen leader", READY_WITHIN, || async {
            let leader = self.agreed_leader().await?;
            if leader != wanted {
                let client = self.members[leader].client().await;
                let mut maintenance = MaintenanceClient::new(client.channel());
                let request = pb::MoveLeaderRequest { target_id: target };
                // An election may cross it: it is asked again.
                let _ = maintenance.move_leader(request).await;
            }
            (leader == wanted).then_some(())
        })
        .await;
    }

    /// The index of the member that the reachable ones agree leads; waits for one.
    pub async fn leader(&self) -> usize {
        wait::until("a leader that a majority follows", READY_WITHIN, || {
            self.agreed_leader()
        })
        .await
    }

    async fn agreed_leader(&self) -> Option<usize> {
        let mut votes = Vec::new();
        for (index, member) in self
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.running())
        {
            let Some(client) = member.try_client().await else {
                continue;
            };
            let Ok(Ok(status)) =
                tokio::time::timeout(Duration::from_secs(1), client.status()).await
            else {
                continue;
            };
            let own = status.header.map_or(0, |header| header.member_id);
            votes.push((index, own, status.leader));
        }
        let (_, _, leader) = *votes
            .iter()
            .find(|(_, own, leader)| *own != 0 && own == leader)?;
        let followers = votes.iter().filter(|(_, _, seen)| *seen == leader).count();
        let index = votes.iter().find(|(_, own, _)| *own == leader)?.0;
        (followers > self.members.len() / 2).then_some(index)
    }

    /// Every file below the cluster's directory with its bytes.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        read_files(self.directory.path(), &mut found);
        found
    }
}

fn read_files(directory: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    // A live member removes and renames files while they are listed; what is gone holds nothing.
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_files(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            found.push((path, bytes));
        }
    }
}

/// One member: its command line, its files and, while it runs, its process.
pub struct Member {
    program: Program,
    pub name: String,
    /// Holds the data directory, the key file beside it, and the captured log.
    pub home: PathBuf,
    pub data: PathBuf,
    pub client_port: u16,
    peer_port: u16,
    pub arguments: Vec<OsString>,
    /// Empty but for what a test puts here: the member's own flags decide, not the environment of
    /// whoever runs the tests.
    pub environment: Vec<(OsString, OsString)>,
    /// How many files it may have open; as many as the tests themselves if it does not say.
    pub open_files: Option<u32>,
    child: Option<Child>,
    /// Where the log of the newest start begins.
    log_from: usize,
    /// As whom the harness asks, where authentication is on.
    login: Option<(String, String)>,
    links: Option<Links>,
    tls: Option<Tls>,
    peers_over_tls: bool,
    index: usize,
}

impl Member {
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    /// `None` if it cannot be reached.
    pub async fn try_client(&self) -> Option<Client> {
        let client = match &self.tls {
            None => Client::try_connect(&self.endpoint()).await?,
            Some(tls) => Client::try_connect_over(&self.endpoint(), tls).await?,
        };
        match &self.login {
            None => Some(client),
            Some((name, password)) => client.log_in(name, password).await.ok(),
        }
    }

    /// What it advertises to the other members.
    pub fn peer_url(&self) -> String {
        let scheme = if self.peers_over_tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.peer_port)
    }

    /// The value of a flag of this member.
    pub fn flag(&self, name: &str) -> Option<String> {
        let prefix = format!("--{name}=");
        let mut arguments = self.arguments.iter().map(|it| it.to_string_lossy());
        arguments.find_map(|it| it.strip_prefix(&prefix).map(str::to_owned))
    }

    pub fn log_path(&self) -> PathBuf {
        self.home.join("stderr.log")
    }

    /// Everything the member wrote to stderr since it was first started.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// What the member wrote since it was last started.
    pub fn log_of_this_start(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_from..).unwrap_or_default()).into_owned()
    }

    pub async fn client(&self) -> Client {
        self.try_client()
            .await
            .unwrap_or_else(|| panic!("nobody answers at {}", self.endpoint()))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the member was started").id()
    }

    pub fn running(&self) -> bool {
        self.child.is_some()
    }

    /// Replaces a flag of this member, or adds it.
    pub fn set_flag(&mut self, name: &str, value: &str) {
        let prefix = format!("--{name}=");
        self.arguments
            .retain(|argument| !argument.to_string_lossy().starts_with(&prefix));
        self.arguments.push(format!("{prefix}{value}").into());
    }

    /// Starts the process and returns at once. Its log is appended to one file.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log file can be written");
        self.log_from = log.metadata().map_or(0, |metadata| {
            usize::try_from(metadata.len()).unwrap_or(usize::MAX)
        });
        let mut command = match self.open_files {
            None => Command::new(self.program.path()),
            Some(most) => {
                let mut shell = Command::new("/bin/sh");
                let limited = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
                shell.arg("-c").arg(limited).arg(self.program.path());
                shell
            }
        };
        command
            .args(&self.arguments)
            .current_dir(&self.home)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("an open file can be opened again"))
            .stderr(log);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.name));
        if let Some(links) = &self.links {
            links.belongs_to(self.index, child.id());
        }
        self.child = Some(child);
    }

    /// Waits until this start of the member serves linearizable reads.
    pub async fn ready(&mut self) {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.ended() {
                panic!(
                    "{} ended with {status} instead of serving:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            if self.serves().await {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not serve after {READY_WITHIN:?}:\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn serves(&self) -> bool {
        if !self.log_of_this_start().contains(READY) {
            return false;
        }
        let Some(client) = self.try_client().await else {
            return false;
        };
        matches!(
            tokio::time::timeout(Duration::from_secs(2), client.get("ready?")).await,
            Ok(Ok(_))
        )
    }

    pub async fn start(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// The end of the log, for a failure's message.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The exit status, if the process has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self
            .child
            .as_mut()?
            .try_wait()
            .expect("an own child can be waited for")?;
        self.child = None;
        Some(status)
    }

    /// Waits for the process to end by itself; kills it and fails the test if it does not.
    pub async fn wait_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + END_WITHIN;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            if Instant::now() >= deadline {
                self.kill();
                panic!(
                    "{} still runs after {END_WITHIN:?}:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// kill -9, and waits for the process to be gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself a moment ago; either way it is gone afterwards.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id is a positive i32");
        kill_process(pid, signal).expect("an own child can be signalled");
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end().await
    }

    /// SIGSTOP: the process keeps its sockets and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Removes everything in the data directory; the member must not run.
    pub fn empty_directory(&self) {
        assert!(self.child.is_none(), "{} still runs", self.name);
        std::fs::remove_dir_all(&self.data).expect("the data directory can be removed");
        std::fs::create_dir(&self.data).expect("and made again");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- end of the log of {} ---\n{}",
                self.name,
                self.log_tail()
            );
        }
    }
}

/// The index of the member that is to lead a cluster when its test begins, from
/// `SEALKV_TEST_LEADER`. Without it whoever wins the first election leads, which is nearly always
/// the first member: tests that count on that go unnoticed.
fn leader_to_start_with(members: usize) -> Option<usize> {
    let wanted = std::env::var("SEALKV_TEST_LEADER").ok()?;
    let wanted: usize = wanted.parse().expect("SEALKV_TEST_LEADER is an index");
    (members > 1).then_some(wanted % members)
}

/// A port nobody listens on, outside the range from which the kernel takes ports of outgoing connections:
/// a member that is down keeps its port until it comes back.
pub fn free_port() -> u16 {
    let mut rng = rand::rng();
    loop {
        let port = rng.random_range(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
