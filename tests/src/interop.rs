//! Clients in other languages: where they are, and how a cluster is put under them.
//!
//! A program is called as `PROGRAM ENDPOINT[,ENDPOINT...] [SCENARIO...]` (all its scenarios by default), with `INTEROP_USER` and `INTEROP_PASSWORD` set where
//! authentication is on. It prints a line per scenario that held and exits 0 when all did. A line `? kill-leader`
//! or `? restart` asks the harness for just that, `? roll N` for stopping that member with SIGTERM and starting it again;
//! the answer is one line on stdin.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};

use crate::binary;
use crate::cluster::Cluster;

/// How long a program may take for all its scenarios.
const WITHIN: Duration = Duration::from_secs(600);
/// Who logs in where authentication is on.
pub const USER: &str = "root";
pub const PASSWORD: &str = "a password of the interop checks";

/// A file below the directory that `tests/interop/setup.sh` fills, or a line that says why a test is skipped.
/// `SEALKV_REQUIRE_INTEROP` turns that into a failure.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = binary::interop().join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("SEALKV_REQUIRE_INTEROP").is_none(),
        "{name} is missing: run tests/interop/setup.sh"
    );
    eprintln!("skipped: {name} is missing (tests/interop/setup.sh installs it)");
    None
}

/// Turns authentication on, with [`USER`] as the one who may do everything.
pub async fn require_login(cluster: &mut Cluster) {
    let mut auth = AuthClient::new(cluster.client().await.channel());
    let user = pb::AuthUserAddRequest {
        name: USER.into(),
        password: PASSWORD.into(),
        ..Default::default()
    };
    auth.user_add(user).await.expect("a user is added");
    let grant = pb::AuthUserGrantRoleRequest {
        user: USER.into(),
        role: "root".into(),
    };
    auth.user_grant_role(grant).await.expect("root is granted");
    let enabled = auth.auth_enable(pb::AuthEnableRequest {}).await;
    enabled.expect("authentication is turned on");
    cluster.log_in(USER, PASSWORD);
}

/// A program that plays its scenarios against a cluster.
pub struct Program {
    name: String,
    command: Command,
    scenarios: Vec<&'static str>,
}

impl Program {
    pub fn new(path: PathBuf) -> Self {
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self {
            name,
            command: Command::new(path),
            scenarios: Vec::new(),
        }
    }

    /// Runs it there: where its packages are.
    pub fn within(mut self, directory: PathBuf) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Plays these scenarios alone.
    pub fn only(mut self, scenarios: &[&'static str]) -> Self {
        self.scenarios = scenarios.to_vec();
        self
    }

    pub fn argument(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Logs in as [`USER`].
    pub fn logged_in(mut self) -> Self {
        self.command
            .env("INTEROP_USER", USER)
            .env("INTEROP_PASSWORD", PASSWORD);
        self
    }

    /// Runs it to its end and returns what it printed; fails the test unless every scenario held.
    pub async fn drive(mut self, cluster: &mut Cluster) -> String {
        let mut child = self
            .command
            .arg(cluster.endpoints().join(","))
            .args(&self.scenarios)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.name));
        let input = child.stdin.take().expect("piped");
        let output = child.stdout.take().expect("piped");
        let mut errors = child.stderr.take().expect("piped");
        let complaints = tokio::spawn(async move {
            let mut text = Vec::new();
            // What could be read before it broke off is what there is to show.
            let _ = errors.read_to_end(&mut text).await;
            String::from_utf8_lossy(&text).into_owned()
        });
        let talk = async {
            let said = talk(cluster, input, output).await;
            (said, child.wait().await.expect("an own child ends"))
        };
        let (said, status) = tokio::time::timeout(WITHIN, talk)
            .await
            .unwrap_or_else(|_| panic!("{} is not done after {WITHIN:?}", self.name));
        println!("{said}");
        assert!(
            status.success(),
            "{} ended with {status}:\n{said}{}",
            self.name,
            complaints.await.unwrap_or_default()
        );
        assert!(
            said.contains(" held"),
            "{} played no scenario:\n{said}",
            self.name
        );
        said
    }
}

/// Does what the program asks for until it closes its output; returns what it printed.
async fn talk(cluster: &mut Cluster, mut input: ChildStdin, output: ChildStdout) -> String {
    let mut said = String::new();
    let mut killed = None;
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match line.strip_prefix("? ") {
            None => {
                said += &line;
                said += "\n";
                continue;
            }
            Some("kill-leader") => {
                let leader = cluster.leader().await;
                cluster.members[leader].kill();
                killed = Some(leader);
            }
            Some("restart") => {
                let member = killed
                    .take()
                    .expect("a program restarts what it had killed");
                cluster.members[member].start().await;
            }
            Some(asked) => {
                let member = asked.strip_prefix("roll ").and_then(|at| at.parse().ok());
                let member: usize =
                    member.unwrap_or_else(|| panic!("a program asks for {asked:?}"));
                cluster.members[member].terminate().await;
                cluster.members[member].start().await;
            }
        }
        // A program that has ended meanwhile shows it by its status.
        let _ = input.write_all(b"done\n").await;
        let _ = input.flush().await;
    }
    said
}
