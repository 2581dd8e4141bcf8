//! `/debug/vars`: what a person looks at who has no dashboard.
//!
//! Promise: names and form are those of etcd's page, as far as they mean anything here; Go's
//! memory statistics do not.

use axum::body::Body;
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::node::{Condition, Node};
use super::{answer, method_not_allowed};

pub(super) async fn page<N: Node>(node: N, method: Method) -> Response<Body> {
    if method != Method::GET {
        return method_not_allowed();
    }
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let lines = [
        ("cmdline", json!(arguments)),
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
