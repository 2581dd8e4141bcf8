//! Scripts: one step a line, requests as the hex of their protobuf with a readable comment behind.

use std::fmt;
use std::ops::Range;

use prost::Message;
use proto::etcdserverpb as pb;

use super::auth::{AuthCall, Who};

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Put(pb::PutRequest),
    Range(pb::RangeRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    KeepAlive(pb::LeaseKeepAliveRequest),
    Leases,
    RangeStream(pb::RangeRequest),
    Alarm(pb::AlarmRequest),
    Status,
    HashKv(pb::HashKvRequest),
    Members(pb::MemberListRequest),
    Defragment,
    Hash,
    /// Asked for and read to its end.
    Snapshot,
    Auth(AuthCall),
    /// Keeps the token under a name of the script's.
    LogIn {
        slot: u32,
        request: pb::AuthenticateRequest,
    },
    /// From now on everything is asked as somebody.
    Become(Who),
    /// Says all of it on one watch stream; what the server answers of creating and cancelling is compared.
    Talk(Vec<pb::WatchRequest>),
    /// Opens a watch on a stream of its own, under a name of the script's.
    Watch {
        slot: u32,
        create: pb::WatchCreateRequest,
    },
    /// Ends a watch after everything up to now was told.
    Unwatch {
        slot: u32,
    },
    /// Waits until every open watch was told everything up to now, and compares it.
    Sync,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Script {
    pub steps: Vec<Step>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct ScriptError {
    /// Counted from 1.
    pub line: usize,
}

impl Step {
    fn words(&self) -> (&'static str, Option<u32>, Vec<u8>) {
        match self {
            Self::Put(request) => ("put", None, request.encode_to_vec()),
            Self::Range(request) => ("range", None, request.encode_to_vec()),
            Self::Delete(request) => ("delete", None, request.encode_to_vec()),
            Self::Txn(request) => ("txn", None, request.encode_to_vec()),
            Self::Compact(request) => ("compact", None, request.encode_to_vec()),
            Self::Grant(request) => ("grant", None, request.encode_to_vec()),
            Self::Revoke(request) => ("revoke", None, request.encode_to_vec()),
            Self::TimeToLive(request) => ("time-to-live", None, request.encode_to_vec()),
            Self::KeepAlive(request) => ("keep-alive", None, request.encode_to_vec()),
            Self::Leases => ("leases", None, Vec::new()),
            Self::RangeStream(request) => ("range-stream", None, request.encode_to_vec()),
            Self::Alarm(request) => ("alarm", None, request.encode_to_vec()),
            Self::Status => ("status", None, Vec::new()),
            Self::HashKv(request) => ("hash-kv", None, request.encode_to_vec()),
            Self::Members(request) => ("members", None, request.encode_to_vec()),
            Self::Defragment => ("defragment", None, Vec::new()),
            Self::Hash => ("hash", None, Vec::new()),
            Self::Snapshot => ("snapshot", None, Vec::new()),
            Self::Auth(call) => {
                let (word, bytes) = call.words();
                (word, None, bytes)
            }
            Self::LogIn { slot, request } => ("log-in", Some(*slot), request.encode_to_vec()),
            Self::Become(Who::Nobody) => ("as-nobody", None, Vec::new()),
            Self::Become(Who::Text(text)) => ("as-text", None, text.clone().into_bytes()),
            Self::Become(Who::LoggedIn(slot)) => ("as", Some(*slot), Vec::new()),
            Self::Talk(requests) => ("talk", None, delimited(requests)),
            Self::Watch { slot, create } => ("watch", Some(*slot), create.encode_to_vec()),
            Self::Unwatch { slot } => ("unwatch", Some(*slot), Vec::new()),
            Self::Sync => ("sync", None, Vec::new()),
        }
    }

    /// The step for a person.
    pub fn described(&self) -> String {
        format!("{self:?}")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split('#').next()?.split_whitespace();
        let kind = words.next()?;
        let mut word = || words.next();
        let bytes = |word: Option<&str>| word.map_or(Some(Vec::new()), unhex);
        Some(match kind {
            "put" => Self::Put(decoded(&bytes(word())?)?),
            "range" => Self::Range(decoded(&bytes(word())?)?),
            "delete" => Self::Delete(decoded(&bytes(word())?)?),
            "txn" => Self::Txn(decoded(&bytes(word())?)?),
            "compact" => Self::Compact(decoded(&bytes(word())?)?),
            "grant" => Self::Grant(decoded(&bytes(word())?)?),
            "revoke" => Self::Revoke(decoded(&bytes(word())?)?),
            "time-to-live" => Self::TimeToLive(decoded(&bytes(word())?)?),
            "keep-alive" => Self::KeepAlive(decoded(&bytes(word())?)?),
            "leases" => Self::Leases,
            "range-stream" => Self::RangeStream(decoded(&bytes(word())?)?),
            "alarm" => Self::Alarm(decoded(&bytes(word())?)?),
            "status" => Self::Status,
            "hash-kv" => Self::HashKv(decoded(&bytes(word())?)?),
            "members" => Self::Members(decoded(&bytes(word())?)?),
            "defragment" => Self::Defragment,
            "hash" => Self::Hash,
            "snapshot" => Self::Snapshot,
            "log-in" => Self::LogIn {
                slot: word()?.parse().ok()?,
                request: decoded(&bytes(word())?)?,
            },
            "as-nobody" => Self::Become(Who::Nobody),
            "as-text" => Self::Become(Who::Text(String::from_utf8(bytes(word())?).ok()?)),
            "as" => Self::Become(Who::LoggedIn(word()?.parse().ok()?)),
            "talk" => Self::Talk(undelimited(&bytes(word())?)?),
            "watch" => Self::Watch {
                slot: word()?.parse().ok()?,
                create: decoded(&bytes(word())?)?,
            },
            "unwatch" => Self::Unwatch {
                slot: word()?.parse().ok()?,
            },
            "sync" => Self::Sync,
            call => Self::Auth(AuthCall::parse(call, &bytes(word())?)?),
        })
    }
}

fn delimited(requests: &[pb::WatchRequest]) -> Vec<u8> {
    let encoded = requests.iter().map(Message::encode_length_delimited_to_vec);
    encoded.collect::<Vec<_>>().concat()
}

fn undelimited(mut bytes: &[u8]) -> Option<Vec<pb::WatchRequest>> {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        requests.push(pb::WatchRequest::decode_length_delimited(&mut bytes).ok()?);
    }
    Some(requests)
}

fn decoded<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes).ok()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

impl Script {
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let steps = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.split('#').next().unwrap_or_default().trim().is_empty())
            .map(|(number, line)| Step::parse(line).ok_or(ScriptError { line: number + 1 }))
            .collect::<Result<_, _>>()?;
        Ok(Self { steps })
    }

    /// The script with some of its steps left out.
    pub fn without(&self, steps: Range<usize>) -> Self {
        let kept = self
            .steps
            .iter()
            .enumerate()
            .filter(|(index, _)| !steps.contains(index));
        Self {
            steps: kept.map(|(_, step)| step.clone()).collect(),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let (kind, slot, bytes) = step.words();
            write!(out, "{kind}")?;
            if let Some(slot) = slot {
                write!(out, " {slot}")?;
            }
            if !bytes.is_empty() {
                write!(out, " ")?;
                bytes
                    .iter()
                    .try_for_each(|byte| write!(out, "{byte:02x}"))?;
                write!(out, "  # {}", step.described())?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_back_as_it_was_written() {
        let steps = vec![
            Step::Put(pb::PutRequest {
                key: "a#b".into(),
                value: "1".into(),
                ..Default::default()
            }),
            Step::Range(pb::RangeRequest::default()),
            Step::Watch {
                slot: 3,
                create: pb::WatchCreateRequest {
                    key: "a".into(),
                    ..Default::default()
                },
            },
            Step::Unwatch { slot: 3 },
            Step::Talk(vec![
                pb::WatchRequest::default(),
                pb::WatchRequest {
                    request_union: Some(pb::watch_request::RequestUnion::CancelRequest(
                        pb::WatchCancelRequest { watch_id: 7 },
                    )),
                },
            ]),
            Step::Status,
            Step::Auth(AuthCall::UserGet(pb::AuthUserGetRequest {
                name: "alice".into(),
            })),
            Step::LogIn {
                slot: 1,
                request: pb::AuthenticateRequest {
                    name: "alice".into(),
                    password: "right".into(),
                },
            },
            Step::Become(Who::LoggedIn(1)),
            Step::Become(Who::Text("garbage".into())),
            Step::Become(Who::Text(String::new())),
            Step::Become(Who::Nobody),
            Step::Snapshot,
            Step::Sync,
        ];
        let script = Script { steps };
        assert_eq!(
            Script::parse(&format!("# a comment\n\n{script}")),
            Ok(script)
        );
    }

    #[test]
    fn a_line_that_is_no_step_is_named() {
        assert_eq!(
            Script::parse("sync\nput zz\n"),
            Err(ScriptError { line: 2 })
        );
    }
}
