//! The same request to a real etcd and to the server under test.

use std::time::Duration;

use serde_json::{Value, json};
use tests::binary;
use tests::cluster::{Cluster, Program};
use tests::http::Request;

use super::asking::call;

/// After this long without a line a stream has said what it has to say.
pub(super) const QUIET: Duration = Duration::from_millis(700);

/// A large request takes long to be read where nothing is optimised.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What differs from server to server by its nature.
const OWN: &[&str] = &[
    "cluster_id",
    "member_id",
    "raft_term",
    "hash",
    "leader",
    "raftIndex",
    "raftTerm",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "TTL",
    "clientURLs",
    "peerURLs",
    "ID",
    "lease",
    "token",
];

/// An answer with what differs by nature taken out. `None`: nothing came.
type Normal = Option<(u16, Option<String>, Vec<Value>)>;

fn without_own(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_text = value.is_string() || value.is_number() || value.is_array();
                if OWN.contains(&name.as_str()) && is_text {
                    *value = "*".into();
                }
                if name == "message"
                    && let Some(text) = value.as_str()
                {
                    *value = without_secrets(text).into();
                }
                without_own(value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(without_own),
        _ => {}
    }
}

/// Where both say that something does not fit, ours does not repeat what may be a secret: what
/// stands for a field of bytes or text, and any string where an object or a list is wanted.
fn without_secrets(text: &str) -> String {
    if text.starts_with("invalid binary header") {
        return "invalid binary header".to_owned();
    }
    // Which of two spaces stands there depends on how etcd was built.
    let text = text.replace('\u{a0}', " ");
    for what in ["unexpected token", "for bytes field", "for string field"] {
        let Some((before, told)) = text.split_once(what) else {
            continue;
        };
        let (name, value) = told.split_once(": ").unwrap_or((told, ""));
        if what == "unexpected token" && told.starts_with(" \"") {
            return format!("{before}{what}");
        }
        let is_secret = |value: &str| value.starts_with(|first| "\"-0123456789".contains(first));
        if what != "unexpected token" && is_secret(value) {
            return format!("{before}{what}{name}");
        }
    }
    text
}

async fn normal(request: &Request, port: u16) -> Normal {
    let mut answer = request.send_within(port, ANSWER_WITHIN).await?;
    let content_type = answer.header("content-type").map(str::to_owned);
    let status = answer.status;
    let text = answer.lines_until_quiet(QUIET).await;
    let lines = text.lines().filter(|line| !line.is_empty()).map(|line| {
        let mut value = serde_json::from_str(line).unwrap_or_else(|_| line.into());
        without_own(&mut value);
        value
    });
    Some((status, content_type, lines.collect()))
}

/// A real etcd and the server under test, side by side.
pub(super) struct Pair {
    _clusters: [Cluster; 2],
    pub(super) ports: (u16, u16),
}

impl Pair {
    pub(super) async fn start(test: &str, flags: &[&str]) -> Option<Self> {
        binary::etcd_or_skip(test)?;
        let plan =
            |plan: tests::cluster::Plan| flags.iter().fold(plan, |plan, flag| plan.flag(*flag));
        let etcd = plan(Cluster::plan().program(Program::Etcd)).start();
        let ours = plan(Cluster::plan()).start();
        let (etcd, ours) = tokio::join!(etcd, ours);
        let ports = (etcd.members[0].client_port, ours.members[0].client_port);
        Some(Self {
            _clusters: [etcd, ours],
            ports,
        })
    }

    /// Asks both, one request after the other, and shows every difference at once.
    pub(super) async fn agree(&self, requests: Vec<Request>) {
        let same = requests
            .into_iter()
            .map(|request| (request.clone(), request));
        self.agree_on(same.collect()).await;
    }

    /// The same for requests that are not the same to the letter, for they carry tokens.
    pub(super) async fn agree_on(&self, requests: Vec<(Request, Request)>) {
        let mut differences = String::new();
        for (of_etcd, request) in requests {
            let (etcd, ours) = tokio::join!(
                normal(&of_etcd, self.ports.0),
                normal(&request, self.ports.1)
            );
            if etcd != ours {
                let shown = request.shown();
                differences.push_str(&format!("{shown}\n  etcd {etcd:?}\n  ours {ours:?}\n"));
            }
        }
        assert!(differences.is_empty(), "answers differ:\n{differences}");
    }
}

pub(super) fn posts(of: &[(&str, &str)]) -> Vec<Request> {
    of.iter()
        .map(|(path, body)| Request::post(path, *body))
        .collect()
}

/// A token of a user; one that nobody was given for no user.
pub(super) async fn token(port: u16, name: &str, password: &str) -> String {
    if name.is_empty() {
        return "nobody.1".to_owned();
    }
    let body = json!({"name": name, "password": password});
    let answer = call(port, "/v3/auth/authenticate", body).await;
    answer["token"].as_str().expect("a token").to_owned()
}
