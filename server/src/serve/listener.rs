//! Sockets that listen: TCP and unix.
//!
//! Promise: an accepted stream belongs to no runtime yet, so that any worker may take it.
//! Not known here: what is spoken on it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::config::{MemberUrl, Place};
use crate::tls::ServerTls;

const BACKLOG: u32 = 1024;

#[derive(Debug)]
pub struct Listener {
    url: MemberUrl,
    socket: Socket,
    security: Security,
}

/// What a port lets in.
#[derive(Debug, Clone)]
pub enum Security {
    Plain,
    Tls(ServerTls),
    /// The client chooses by its first byte.
    Either(ServerTls),
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "its drop removes the file")] Unlink,
    ),
}

/// Removes the socket's file when the listener goes.
#[derive(Debug)]
struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        // It may be gone already, with the directory it stood in.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[derive(Debug)]
pub enum Accepted {
    Tcp {
        stream: std::net::TcpStream,
        local: SocketAddr,
        remote: SocketAddr,
    },
    Unix {
        stream: std::os::unix::net::UnixStream,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {url}: {error}")]
pub struct ListenError {
    pub url: MemberUrl,
    pub error: io::Error,
}

/// Within a runtime: it is the one that accepts.
pub fn listen(url: &MemberUrl, reuse_port: bool) -> Result<Listener, ListenError> {
    let socket = match url.place() {
        Place::Unix(path) => listen_unix(path),
        place => listen_tcp(place.bind_address(), reuse_port),
    };
    match socket {
        Ok(socket) => Ok(Listener {
            url: url.clone(),
            socket,
            security: Security::Plain,
        }),
        Err(error) => Err(ListenError {
            url: url.clone(),
            error,
        }),
    }
}

fn listen_tcp(address: Option<SocketAddr>, reuse_port: bool) -> io::Result<Socket> {
    let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // Without it a restart waits for the last connections to be forgotten.
    socket.set_reuseaddr(true)?;
    if reuse_port {
        socket.set_reuseport(true)?;
    }
    // Accepted sockets inherit it.
    socket.set_keepalive(true)?;
    socket.bind(address)?;
    Ok(Socket::Tcp(socket.listen(BACKLOG)?))
}

fn listen_unix(path: &Path) -> io::Result<Socket> {
    // The socket of a process that was killed; any other file is somebody's.
    if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    Ok(Socket::Unix(
        UnixListener::bind(path)?,
        Unlink(path.to_owned()),
    ))
}

impl Listener {
    /// Until this is said, a listener is plain, whatever its URL.
    pub fn secured(self, security: Security) -> Self {
        Self { security, ..self }
    }

    pub fn security(&self) -> &Security {
        &self.security
    }

    pub fn url(&self) -> &MemberUrl {
        &self.url
    }

    /// The port that the system gave when 0 was asked for.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                let local = stream.local_addr()?;
                Ok(Accepted::Tcp {
                    stream: stream.into_std()?,
                    local,
                    remote,
                })
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Unix {
                    stream: stream.into_std()?,
                })
            }
        }
    }
}

impl Accepted {
    pub(super) fn remote_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp { remote, .. } => Some(remote.ip()),
            Self::Unix { .. } => None,
        }
    }

    pub(super) fn remote(&self) -> String {
        match self {
            Self::Tcp { remote, .. } => remote.to_string(),
            Self::Unix { .. } => "unix".to_owned(),
        }
    }
}
