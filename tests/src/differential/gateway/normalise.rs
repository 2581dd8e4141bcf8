//! What two gateways may answer differently: what `differential/normalise.rs` lists, and nothing else.
//!
//! Numbers stay what they are: a number where the other has a text, or a zero that one of them tells, is a difference.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use serde_json::Value;

use crate::differential::Step;

/// Takes out of an answer what may differ; returns the seconds that a lease has left.
pub(super) fn answer(step: &Step, answer: &mut Value) -> Option<i64> {
    header(answer);
    match step {
        Step::Range(asked) | Step::RangeStream(asked) => range(asked, answer),
        Step::Txn(asked) => txn(asked, answer),
        Step::TimeToLive(_) => {
            sort(answer, "keys");
            return seconds(answer);
        }
        Step::Leases => sort(answer, "leases"),
        Step::Alarm(_) => sort(answer, "alarms"),
        Step::Status => {
            sort(answer, "errors");
            for field in [
                "dbSize",
                "leader",
                "raftIndex",
                "raftTerm",
                "raftAppliedIndex",
            ] {
                only_whether_set(answer, field);
            }
            remove(answer, "dbSizeInUse");
        }
        Step::HashKv(asked) => {
            remove(answer, "hash");
            remove(answer, "compact_revision");
            if asked.revision == 0 {
                remove(answer, "hash_revision");
            }
        }
        Step::Members(_) => members(answer),
        _ => {}
    }
    None
}

/// Keeps of the ids in a header only whether they are set, as the texts they have to be.
pub(super) fn header(answer: &mut Value) {
    if let Some(header) = answer.get_mut("header") {
        for field in ["cluster_id", "member_id", "raft_term"] {
            only_whether_set(header, field);
        }
    }
}

/// A whole number in a text becomes the same text everywhere; whatever else stands there is left to differ.
fn only_whether_set(of: &mut Value, field: &str) {
    if let Some(value) = of.get_mut(field)
        && value
            .as_str()
            .is_some_and(|text| text.parse::<u64>().is_ok_and(|number| number > 0))
    {
        *value = "set".into();
    }
}

fn remove(of: &mut Value, field: &str) {
    if let Some(fields) = of.as_object_mut() {
        fields.remove(field);
    }
}

fn sort(of: &mut Value, field: &str) {
    if let Some(list) = of.get_mut(field).and_then(Value::as_array_mut) {
        list.sort_by_key(Value::to_string);
    }
}

fn range(asked: &pb::RangeRequest, answer: &mut Value) {
    if !asked.keys_only {
        return;
    }
    for kv in list(answer, "kvs") {
        remove(kv, "lease");
    }
}

fn list<'a>(of: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = of.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

fn txn(asked: &pb::TxnRequest, answer: &mut Value) {
    let succeeded = answer.get("succeeded") == Some(&Value::Bool(true));
    let branch = if succeeded {
        &asked.success
    } else {
        &asked.failure
    };
    for (asked, answered) in branch.iter().zip(list(answer, "responses")) {
        match &asked.request {
            Some(Request::RequestRange(asked)) => {
                if let Some(answered) = answered.get_mut("response_range") {
                    range(asked, answered);
                }
            }
            Some(Request::RequestTxn(asked)) => {
                if let Some(answered) = answered.get_mut("response_txn") {
                    txn(asked, answered);
                }
            }
            _ => {}
        }
    }
}

/// What is left of a live lease; a lease that is gone has less than none, which must agree.
fn seconds(answer: &mut Value) -> Option<i64> {
    let left = answer.get("TTL")?.as_str()?.parse().ok()?;
    if left <= 0 {
        return None;
    }
    remove(answer, "TTL");
    Some(left)
}

fn members(answer: &mut Value) {
    let Some(members) = answer.get_mut("members").and_then(Value::as_array_mut) else {
        return;
    };
    for member in members.iter_mut() {
        only_whether_set(member, "ID");
        if let Some(name) = member.get_mut("name") {
            *name = "named".into();
        }
        for urls in ["peerURLs", "clientURLs"] {
            list(member, urls).for_each(|url| *url = "url".into());
        }
    }
    members.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_are_texts_of_numbers_and_must_be_set() {
        let with = |id: Value| {
            let mut answer = json!({"header": {"member_id": id, "revision": "5"}});
            header(&mut answer);
            answer
        };
        assert_eq!(with(json!("7")), with(json!("8")));
        assert_ne!(with(json!("7")), with(json!("0")));
        assert_ne!(with(json!("7")), with(json!(7)));
    }

    #[test]
    fn a_zero_that_is_told_is_a_difference() {
        let step = Step::Range(pb::RangeRequest::default());
        let (mut one, mut other) = (json!({"count": "0"}), json!({}));
        assert_eq!(answer(&step, &mut one), None);
        assert_eq!(answer(&step, &mut other), None);
        assert_ne!(one, other);
    }

    #[test]
    fn a_lease_is_left_out_of_keys_alone() {
        let asked = |keys_only| {
            let range = pb::RangeRequest {
                keys_only,
                ..Default::default()
            };
            Step::Txn(pb::TxnRequest {
                success: vec![crate::txn::range(range)],
                ..Default::default()
            })
        };
        let told = || json!({"succeeded": true, "responses": [{"response_range": {"kvs": [{"key": "aw==", "lease": "7"}]}}]});
        let (mut with, mut without) = (told(), told());
        answer(&asked(false), &mut with);
        answer(&asked(true), &mut without);
        assert_eq!(with, told());
        assert_eq!(
            without["responses"][0]["response_range"]["kvs"],
            json!([{"key": "aw=="}])
        );
    }
}
