//! One watch of a script, opened twice: over a websocket, which can be asked how far it has told, and as lines of an
//! HTTP/1.1 answer, which must tell the same.

use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use serde_json::{Value, json};

use super::{normalise, request};
use crate::http::{Answer as HttpAnswer, Request};
use crate::websocket::{Heard, Socket};

/// How long a watch may take to be told everything up to a revision that is committed.
const TOLD_WITHIN: Duration = Duration::from_secs(20);
/// A progress request is answered only when the watch is in step, so it is repeated.
const ASK_AGAIN: Duration = Duration::from_millis(200);
const PATH: &str = "/v3/watch";

pub(super) struct Watch {
    socket: Socket,
    /// The same watch as lines.
    lines: HttpAnswer,
    start: i64,
    /// Every event since it was opened.
    events: Vec<Value>,
    /// How many of them came as lines.
    lined: usize,
    /// How many of them were compared already.
    compared: usize,
    ended: Option<Value>,
}

/// What a watch was told since it was last compared.
#[derive(Debug)]
pub(super) struct Told {
    #[expect(dead_code, reason = "compared as text")]
    events: Vec<Value>,
    #[expect(dead_code, reason = "compared as text")]
    ended: Option<Value>,
    /// What the lines tell that the websocket does not.
    #[expect(dead_code, reason = "compared as text")]
    broken: Option<String>,
}

impl Watch {
    /// Opens both, and returns what the first message of each is.
    pub(super) async fn open(port: u16, create: &pb::WatchCreateRequest) -> (Self, [Value; 2]) {
        let body = request::watch(&request::create(create));
        let said = serde_json::from_str(&body).expect("it was written as JSON");
        let mut socket = Socket::open(port, PATH, None).await;
        socket.say(&said).await;
        let mut first = socket.hear().await.unwrap_or(Value::Null);
        let mut lines = Request::post(PATH, body).send(port).await;
        let mut line = lines.line().await.unwrap_or(Value::Null);
        let ended = is_end(&first).then(|| "at once".into());
        for message in [&mut first, &mut line] {
            if let Some(result) = message.get_mut("result") {
                normalise::header(result);
            }
        }
        let watch = Self {
            socket,
            lines,
            start: create.start_revision,
            events: Vec::new(),
            lined: 0,
            compared: 0,
            ended,
        };
        (watch, [first, line])
    }

    pub(super) async fn told_up_to(&mut self, revision: i64) -> Told {
        let mut broken = None;
        if self.ended.is_none() && self.start <= revision {
            self.listen(revision).await;
            broken = self.read_lines().await.err();
        }
        let events = self.events[self.compared..].to_vec();
        self.compared = self.events.len();
        Told {
            events,
            ended: self.ended.clone(),
            broken,
        }
    }

    /// Hears until the websocket has told everything up to there.
    async fn listen(&mut self, revision: i64) {
        let deadline = Instant::now() + TOLD_WITHIN;
        let ask = json!({"progress_request": {}});
        self.socket.say(&ask).await;
        loop {
            match self.socket.hear_within(ASK_AGAIN).await {
                Heard::Said(message) if is_end(&message) => {
                    self.ended = Some(end(&message));
                    return;
                }
                Heard::Said(message) => {
                    let events = events(&message);
                    if events.is_empty() && bookmark(&message) >= revision {
                        return;
                    }
                    if events.is_empty() {
                        self.socket.say(&ask).await;
                    }
                    self.events.extend(events);
                }
                Heard::Closed => {
                    self.ended = Some("closed".into());
                    return;
                }
                Heard::Nothing if Instant::now() >= deadline => {
                    let text = format!("no progress to revision {revision} in {TOLD_WITHIN:?}");
                    self.ended = Some(text.into());
                    return;
                }
                Heard::Nothing => self.socket.say(&ask).await,
            }
        }
    }

    /// Reads lines until they have told what the websocket has.
    async fn read_lines(&mut self) -> Result<(), String> {
        while self.lined < self.events.len() || self.ended.is_some() {
            let line = self.lines.line().await.ok_or("the lines end early")?;
            if let Some(ended) = &self.ended
                && is_end(&line)
            {
                let own = end(&line);
                return match own == *ended {
                    true => Ok(()),
                    false => Err(format!("the lines end with {own}")),
                };
            }
            for event in events(&line) {
                if self.events.get(self.lined) != Some(&event) {
                    return Err(format!("a line tells {event}"));
                }
                self.lined += 1;
            }
        }
        Ok(())
    }
}

/// Of everything that is asked on one stream: what is told of creating and cancelling, up to the watch that is created last.
///
/// Over a websocket: of an HTTP/1.1 body etcd reads no more once it has begun to answer (Go's `net/http`, "invalid Read
/// on closed Body"), so how many of several requests it takes is a matter of luck.
pub(super) async fn talk(port: u16, requests: &[pb::WatchRequest]) -> Vec<Value> {
    const LAST_WATCH: i64 = 1_000_000;
    let last = request::create(&pb::WatchCreateRequest {
        key: "the end".into(),
        watch_id: LAST_WATCH,
        ..Default::default()
    });
    let last_id = LAST_WATCH.to_string();
    let mut socket = Socket::open(port, PATH, None).await;
    for request in requests.iter().chain([&last]) {
        let said = serde_json::from_str(&request::watch(request));
        socket.say(&said.expect("it was written as JSON")).await;
    }
    let mut told = Vec::new();
    while let Some(mut message) = socket.hear().await {
        let Some(result) = message.get_mut("result") else {
            told.push(message);
            break;
        };
        if result["watch_id"].as_str() == Some(&last_id) {
            break;
        }
        // Nobody writes meanwhile; what a watch is told is compared elsewhere.
        if result.get("created").is_some() || result.get("canceled").is_some() {
            normalise::header(result);
            told.push(message);
        }
    }
    told
}

fn is_end(message: &Value) -> bool {
    message.get("error").is_some() || message["result"]["canceled"] == true
}

/// What ends a watch, without the header.
fn end(message: &Value) -> Value {
    let mut message = message.clone();
    if let Some(result) = message.get_mut("result").and_then(Value::as_object_mut) {
        result.remove("header");
    }
    message
}

fn events(message: &Value) -> Vec<Value> {
    let events = message["result"]["events"].as_array();
    events.cloned().unwrap_or_default()
}

fn bookmark(message: &Value) -> i64 {
    let revision = message["result"]["header"]["revision"].as_str();
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}
