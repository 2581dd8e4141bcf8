//! HTTP/1.1 over one connection, as little of it as the gateway and the pages need.
//!
//! Promise: an answer's body can be read line by line while it is still being sent; whatever is
//! waited for has a deadline.
//! Not known here: which server answers.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer, or the next line of one, may take.
const WITHIN: Duration = Duration::from_secs(20);

/// What is asked.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// With a body of JSON, or of what should have been.
    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::new("POST", path)
        }
    }

    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn shown(&self) -> String {
        let mut body = String::from_utf8_lossy(&self.body).into_owned();
        if body.len() > 200 {
            body = format!("{} bytes", body.len());
        }
        format!("{} {} {:?} {body}", self.method, self.path, self.headers)
    }

    /// Sends it to a port of this machine; returns when the head of the answer is there.
    pub async fn send(&self, port: u16) -> Answer {
        timeout(WITHIN, self.exchange(port))
            .await
            .unwrap_or_else(|_| panic!("no answer within {WITHIN:?} to {}", self.shown()))
    }

    /// Sends it and waits a while: none if not even a head has come by then.
    pub async fn send_within(&self, port: u16, within: Duration) -> Option<Answer> {
        timeout(within, self.exchange(port)).await.ok()
    }

    async fn exchange(&self, port: u16) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("the port is listened on");
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name == "Host") {
            head.push_str(&format!("Host: 127.0.0.1:{port}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        stream
            .write_all(&[head.as_bytes(), &self.body].concat())
            .await
            .expect("the server reads the request");
        Answer::read(BufReader::new(stream)).await
    }
}

/// The head of an answer, and its body as far as it has been read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    stream: BufReader<TcpStream>,
    left: Left,
}

/// How much of the body is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Bytes(usize),
    Chunks,
}

impl Answer {
    async fn read(mut stream: BufReader<TcpStream>) -> Self {
        let mut status = first_line(&mut stream).await;
        while status.contains(" 100 ") {
            while !first_line(&mut stream).await.is_empty() {}
            status = first_line(&mut stream).await;
        }
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut headers = Vec::new();
        loop {
            let line = first_line(&mut stream).await;
            let Some((name, value)) = line.split_once(": ") else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let named = |wanted: &str| headers.iter().find(|(name, _)| name == wanted);
        let left = match named("transfer-encoding") {
            Some(_) => Left::Chunks,
            None => {
                let length = named("content-length").and_then(|(_, length)| length.parse().ok());
                Left::Bytes(length.unwrap_or(0))
            }
        };
        Self {
            status: code.unwrap_or_else(|| panic!("an answer begins with its code: {status:?}")),
            headers,
            stream,
            left,
        }
    }

    pub fn header(&self, wanted: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str())
    }

    /// The rest of the body.
    pub async fn text(mut self) -> String {
        let mut all = String::new();
        while let Some(piece) = self.piece(WITHIN).await.expect("the body ends in time") {
            all.push_str(&piece);
        }
        all
    }

    /// The next line of a stream; none when it has ended. Servers send a line in one chunk.
    pub async fn line(&mut self) -> Option<serde_json::Value> {
        let mut line = String::new();
        while !line.ends_with('\n') {
            match self
                .piece(WITHIN)
                .await
                .expect("the next line comes in time")
            {
                Some(piece) => line.push_str(&piece),
                None => return None,
            }
        }
        Some(serde_json::from_str(&line).unwrap_or_else(|_| panic!("a line of JSON: {line:?}")))
    }

    /// Whatever comes until nothing has come for a while.
    pub async fn lines_until_quiet(&mut self, quiet: Duration) -> String {
        let mut all = String::new();
        while let Ok(Some(piece)) = self.piece(quiet).await {
            all.push_str(&piece);
        }
        all
    }

    async fn piece(&mut self, within: Duration) -> Result<Option<String>, ()> {
        timeout(within, self.next_piece()).await.map_err(|_| ())
    }

    async fn next_piece(&mut self) -> Option<String> {
        let length = match self.left {
            Left::Bytes(0) => return None,
            Left::Bytes(length) => {
                self.left = Left::Bytes(0);
                length
            }
            Left::Chunks => {
                let size = first_line(&mut self.stream).await;
                usize::from_str_radix(&size, 16).expect("a chunk begins with its size")
            }
        };
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await.ok()?;
        if self.left == Left::Chunks {
            first_line(&mut self.stream).await;
            if length == 0 {
                self.left = Left::Bytes(0);
                return None;
            }
        }
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

async fn first_line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream
        .read_line(&mut line)
        .await
        .expect("the server answers in text");
    line.trim_end().to_owned()
}
