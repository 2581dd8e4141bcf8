//! The links between members: a proxy before each peer port that can stop traffic in one direction.
//!
//! A cut link behaves like a lost network, not like a closed socket: bytes wait, connections stay open,
//! and everything held back arrives when the link is mended. Which member opened a connection is read
//! from the kernel's tables, so members need no special flag.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The members' indexes of a link: from, to.
type Link = (usize, usize);

#[derive(Clone)]
pub struct Links {
    ports: Arc<Vec<u16>>,
    pids: Arc<Mutex<Vec<Option<u32>>>>,
    cut: Arc<watch::Sender<HashSet<Link>>>,
}

impl Links {
    /// Opens one proxy before each of the given peer ports.
    pub async fn start(peers: &[u16]) -> Self {
        let (cut, _) = watch::channel(HashSet::new());
        let mut links = Self {
            ports: Arc::default(),
            pids: Arc::new(Mutex::new(vec![None; peers.len()])),
            cut: Arc::new(cut),
        };
        let mut ports = Vec::new();
        for (member, peer) in peers.iter().enumerate() {
            let listener = TcpListener::bind(("127.0.0.1", crate::cluster::free_port()))
                .await
                .expect("a free port can be bound");
            ports.push(
                listener
                    .local_addr()
                    .expect("a bound listener has an address")
                    .port(),
            );
            tokio::spawn(links.clone().accept(listener, member, *peer));
        }
        links.ports = Arc::new(ports);
        links
    }

    /// The ports that members advertise to each other.
    pub fn ports(&self) -> Vec<u16> {
        self.ports.to_vec()
    }

    pub(crate) fn belongs_to(&self, member: usize, pid: u32) {
        self.pids.lock().expect("no holder panics")[member] = Some(pid);
    }

    /// Stops what `from` sends to `to`; the other direction is untouched.
    pub fn cut(&self, from: usize, to: usize) {
        self.cut.send_modify(|cut| {
            cut.insert((from, to));
        });
    }

    /// Stops everything between a member and all others.
    pub fn isolate(&self, member: usize) {
        for other in (0..self.ports.len()).filter(|other| *other != member) {
            self.cut(member, other);
            self.cut(other, member);
        }
    }

    /// Mends every link.
    pub fn mend(&self) {
        self.cut.send_modify(HashSet::clear);
    }

    async fn accept(self, listener: TcpListener, member: usize, peer: u16) {
        while let Ok((incoming, from)) = listener.accept().await {
            let links = self.clone();
            tokio::spawn(async move {
                let origin = links.member_of(from.port());
                let Ok(outgoing) = TcpStream::connect(("127.0.0.1", peer)).await else {
                    return;
                };
                // Without the delay of Nagle's algorithm a proxied link is as quick as a direct one.
                let _ = incoming.set_nodelay(true);
                let _ = outgoing.set_nodelay(true);
                let (from_origin, to_origin) = incoming.into_split();
                let (from_member, to_member) = outgoing.into_split();
                let (forth, back) = (
                    origin.map(|origin| (origin, member)),
                    origin.map(|origin| (member, origin)),
                );
                tokio::join!(
                    links.carry(forth, from_origin, to_member),
                    links.carry(back, from_member, to_origin)
                );
            });
        }
    }

    async fn carry(
        &self,
        link: Option<Link>,
        mut source: impl AsyncRead + Unpin,
        mut sink: impl AsyncWrite + Unpin,
    ) {
        let mut cut = self.cut.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = source.read(&mut buffer).await.unwrap_or(0);
            if cut
                .wait_for(|cut| link.is_none_or(|link| !cut.contains(&link)))
                .await
                .is_err()
            {
                return;
            }
            if read == 0 || sink.write_all(&buffer[..read]).await.is_err() {
                let _ = sink.shutdown().await;
                return;
            }
        }
    }

    /// The member whose process owns the socket bound to a local port.
    fn member_of(&self, port: u16) -> Option<usize> {
        let inode = socket_inode(port)?;
        let wanted = format!("socket:[{inode}]");
        let pids = self.pids.lock().expect("no holder panics").clone();
        pids.iter()
            .position(|pid| pid.is_some_and(|pid| holds(pid, &wanted)))
    }
}

fn socket_inode(port: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{port:04X}");
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns.get(1) == Some(&local.as_str()))
            .then(|| columns.get(9)?.parse().ok())
            .flatten()
    })
}

fn holds(pid: u32, socket: &str) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|files| {
        files.flatten().any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket)
        })
    })
}
