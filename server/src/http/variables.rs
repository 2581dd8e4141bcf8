//! `/debug/vars`: what a person looks at who has no dashboard.
//!
//! Promise: names and form are those of etcd's page, as far as they mean anything here; Go's
//! memory statistics do not. A password on the command line is not shown.

use axum::body::Body;
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::node::{Condition, Node};
use super::{answer, method_not_allowed};

pub(super) async fn page<N: Node>(node: N, method: Method) -> Response<Body> {
    if method != Method::GET {
        return method_not_allowed();
    }
    let lines = [
        ("cmdline", json!(command_line())),
        ("file_descriptor_limit", json!(descriptors_max())),
        ("raft.status", raft_status(&node.condition())),
    ];
    let lines = lines.map(|(name, value)| format!("{name:?}: {value}"));
    let body = format!("{{\n{}\n}}\n", lines.join(",\n"));
    answer(
        StatusCode::OK,
        HeaderValue::from_static("application/json; charset=utf-8"),
        body,
    )
}

/// Flags whose value is for nobody else.
const SECRETS: [&str; 2] = ["discovery-user", "discovery-password"];
const HIDDEN: &str = "***";

/// As the process was started, but for the values of secret flags.
pub(super) fn command_line() -> Vec<String> {
    let words = std::env::args_os();
    hide_secrets(words.map(|word| word.to_string_lossy().into_owned()))
}

fn hide_secrets(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut value_follows = false;
    words
        .map(|word| {
            if std::mem::take(&mut value_follows) {
                return HIDDEN.to_owned();
            }
            let bare = word.trim_start_matches('-');
            let (flag, value) = bare
                .split_once('=')
                .map_or((bare, None), |(flag, value)| (flag, Some(value)));
            if bare == word || !SECRETS.contains(&flag) {
                return word;
            }
            match value {
                Some(_) => format!("--{flag}={HIDDEN}"),
                None => {
                    value_follows = true;
                    word
                }
            }
        })
        .collect()
}

fn raft_status(condition: &Condition) -> Value {
    let state = match condition {
        Condition {
            is_leader: true, ..
        } => "StateLeader",
        Condition {
            has_leader: true, ..
        } => "StateFollower",
        _ => "StateCandidate",
    };
    json!({
        "id": format!("{:x}", condition.member_id),
        "term": condition.term,
        "commit": condition.committed_index,
        "lead": format!("{:x}", condition.leader_id),
        "raftState": state,
        "applied": condition.applied_index,
    })
}

/// The soft limit, as the kernel tells it; 0 when it does not.
fn descriptors_max() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_ascii_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_on_the_command_line_is_hidden_however_it_is_written() {
        let given = "sealkv --discovery-password=a=b -discovery-password c --discovery-user \
                     --x --name discovery-password m";
        let words = given.split_ascii_whitespace().map(str::to_owned);
        let shown = hide_secrets(words).join(" ");
        assert_eq!(
            shown,
            "sealkv --discovery-password=*** -discovery-password *** --discovery-user *** \
             --name discovery-password m"
        );
    }
}
