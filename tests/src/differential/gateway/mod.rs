//! One server's side of a script through its JSON gateway: asks over HTTP/1.1, listens over websockets and lines.
//!
//! Bodies are compared as they are told, so a number without quotes or a default that is not left out shows.

mod normalise;
mod request;
mod watch;

use std::collections::BTreeMap;

use proto::etcdserverpb as pb;
use serde_json::Value;

use super::{Answer, Player, Step};
use crate::http::Request;
use request::Call;
use watch::{Told, Watch};

/// How a server under test is reached: its client port.
pub struct Gateway {
    port: u16,
    /// The newest revision any answer had.
    revision: i64,
    watches: BTreeMap<u32, Watch>,
}

impl Gateway {
    pub fn at(port: u16) -> Self {
        Self {
            port,
            revision: 1,
            watches: BTreeMap::new(),
        }
    }

    /// Asks, and returns the code and every line of the answer.
    async fn call(&mut self, step: &Step, call: Call) -> Answer {
        let answer = Request::post(call.path, call.body).send(self.port).await;
        let status = answer.status;
        let kind = answer.header("content-type").map(str::to_owned);
        let text = answer.text().await;
        let mut seconds = None;
        let lines = text.lines().map(|line| {
            let mut line = serde_json::from_str(line).unwrap_or_else(|_| line.into());
            // Streams wrap what they tell.
            let told = match line {
                Value::Object(ref mut fields) if fields.contains_key("result") => {
                    &mut fields["result"]
                }
                ref mut whole => whole,
            };
            self.revision = self.revision.max(revision(told));
            seconds = normalise::answer(step, told);
            line
        });
        let lines = lines.collect::<Vec<_>>();
        Answer::with_seconds(&(status, kind, lines), seconds)
    }

    async fn watch(&mut self, slot: u32, create: &pb::WatchCreateRequest) -> Answer {
        let (watch, first) = Watch::open(self.port, create).await;
        self.watches.insert(slot, watch);
        Answer::of(&first)
    }

    async fn sync(&mut self) -> Vec<(u32, Told)> {
        let mut all = Vec::new();
        for (slot, watch) in &mut self.watches {
            all.push((*slot, watch.told_up_to(self.revision).await));
        }
        all
    }
}

impl Player for Gateway {
    fn revision(&self) -> i64 {
        self.revision
    }

    async fn play(&mut self, step: &Step) -> Answer {
        match step {
            Step::Watch { slot, create } => self.watch(*slot, create).await,
            Step::Unwatch { slot } => match self.watches.remove(slot) {
                Some(mut watch) => Answer::of(&watch.told_up_to(self.revision).await),
                None => Answer::default(),
            },
            Step::Sync => Answer::of(&self.sync().await),
            Step::Talk(requests) => Answer::of(&watch::talk(self.port, requests).await),
            step => {
                let Some(call) = Call::of(step) else {
                    return Answer::default();
                };
                // What a watch is told of the past depends on whether it is told before or after this.
                let before = match step {
                    Step::Compact(_) => self.sync().await,
                    _ => Vec::new(),
                };
                self.call(step, call).await.after(&before)
            }
        }
    }
}

fn revision(answer: &Value) -> i64 {
    let revision = answer["header"]["revision"].as_str();
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}
