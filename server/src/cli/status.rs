//! `sealkv status`: the whole cluster at a glance.

use std::time::Duration;

use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, Member, MemberListRequest, StatusRequest, StatusResponse,
};
use proto::sealkv::v1::keys_client::KeysClient;
use proto::sealkv::v1::plugins_client::PluginsClient;
use proto::sealkv::v1::{KeysListRequest, PluginListRequest, PluginStatus};
use serde_json::{Value, json};

use super::connect::{connect, connect_one};
use super::login::Session;
use super::output::{Format, Table, print, print_json};
use super::plugin::plugin_json;
use super::{CliError, Global};
use crate::config::MemberUrl;

/// One member and what it said about itself, or why it said nothing.
struct Seen {
    member: Member,
    answer: Result<StatusResponse, String>,
}

struct Glance {
    members: Vec<Seen>,
    /// What the server that was asked does not offer is left out.
    keys: Option<usize>,
    plugins: Option<Vec<PluginStatus>>,
    alarms: Option<Vec<AlarmMember>>,
}

pub(super) async fn run(global: &Global) -> Result<(), CliError> {
    let channel = connect(global).await?;
    let request = MemberListRequest {
        linearizable: false,
    };
    let list = ClusterClient::new(channel.clone())
        .member_list(request)
        .await?
        .into_inner();
    let asked = list.members.into_iter().map(|member| async {
        let answer = ask(&member, global).await;
        Seen { member, answer }
    });
    let glance = Glance {
        members: futures::future::join_all(asked).await,
        keys: offered(
            KeysClient::new(channel.clone())
                .list(KeysListRequest {})
                .await,
        )?
        .map(|listed| listed.keys.len()),
        plugins: offered(
            PluginsClient::new(channel.clone())
                .list(PluginListRequest {})
                .await,
        )?
        .map(|listed| listed.plugins),
        alarms: offered(MaintenanceClient::new(channel).alarm(every_alarm()).await)?
            .map(|listed| listed.alarms),
    };
    match global.write_out {
        Format::Json => print_json(&glance.json())?,
        Format::Table => print(&glance.text())?,
    }
    Ok(())
}

fn every_alarm() -> AlarmRequest {
    AlarmRequest {
        action: AlarmAction::Get.into(),
        ..AlarmRequest::default()
    }
}

/// At the first of the member's client URLs that answers. A member that is down must not keep
/// the others from being shown.
async fn ask(member: &Member, global: &Global) -> Result<StatusResponse, String> {
    let mut why = "it has told nobody its client URLs".to_owned();
    for url in &member.client_ur_ls {
        let answer = tokio::time::timeout(Duration::from_secs(global.dial_timeout), async {
            let url = MemberUrl::parse(url).map_err(|error| error.to_string())?;
            let channel = connect_one(&url, global)
                .await
                .map_err(|error| error.to_string())?;
            status(channel).await
        });
        match answer.await {
            Ok(Ok(status)) => return Ok(status),
            Ok(Err(error)) => why = error,
            Err(_) => why = format!("no answer from {url}"),
        }
    }
    Err(why)
}

async fn status(channel: Session) -> Result<StatusResponse, String> {
    let answer = MaintenanceClient::new(channel)
        .status(StatusRequest {})
        .await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| status.message().to_owned())
}

fn offered<T>(
    answer: Result<tonic::Response<T>, tonic::Status>,
) -> Result<Option<T>, tonic::Status> {
    match answer {
        Ok(response) => Ok(Some(response.into_inner())),
        Err(status) if status.code() == tonic::Code::Unimplemented => Ok(None),
        Err(status) => Err(status),
    }
}

fn alarm_name(alarm: &AlarmMember) -> &'static str {
    match alarm.alarm() {
        AlarmType::None => "NONE",
        AlarmType::Nospace => "NOSPACE",
        AlarmType::Corrupt => "CORRUPT",
    }
}

impl Glance {
    /// As the members that answer see it.
    fn leader(&self) -> Option<u64> {
        let answers = self.members.iter().flat_map(|seen| &seen.answer);
        answers.map(|status| status.leader).find(|id| *id != 0)
    }

    fn text(&self) -> String {
        let mut table = Table::new(&[
            "ID",
            "NAME",
            "CLIENT URLS",
            "ROLE",
            "VERSION",
            "DB SIZE",
            "TERM",
            "INDEX",
            "APPLIED",
            "REVISION",
            "ERRORS",
        ]);
        for seen in &self.members {
            let Member {
                id,
                name,
                client_ur_ls,
                ..
            } = &seen.member;
            let who = [format!("{id:x}"), name.clone(), client_ur_ls.join(",")];
            let said = match &seen.answer {
                Ok(status) => [
                    role(*id, status).to_owned(),
                    status.version.clone(),
                    show_size(status.db_size),
                    status.raft_term.to_string(),
                    status.raft_index.to_string(),
                    status.raft_applied_index.to_string(),
                    status
                        .header
                        .as_ref()
                        .map_or(0, |header| header.revision)
                        .to_string(),
                    status.errors.join("; "),
                ],
                Err(why) => {
                    let unknown = || "-".to_owned();
                    let reason = why.split_whitespace().collect::<Vec<_>>().join(" ");
                    [
                        "down".to_owned(),
                        unknown(),
                        unknown(),
                        unknown(),
                        unknown(),
                        unknown(),
                        unknown(),
                        reason,
                    ]
                }
            };
            table.row(who.into_iter().chain(said));
        }
        let mut text = table.text();
        text.push('\n');
        text.push_str(match self.leader() {
            Some(_) => "",
            None => "no leader is known to the members that answer\n",
        });
        for alarm in self.alarms.iter().flatten() {
            text.push_str(&format!(
                "ALARM {} at member {:x}\n",
                alarm_name(alarm),
                alarm.member_id
            ));
        }
        if let Some(keys) = self.keys {
            text.push_str(&format!("{keys} prefix keys\n"));
        }
        for plugin in self.plugins.iter().flatten() {
            text.push_str(&format!(
                "plugin {}: {}, {} revisions behind, {} dead letters\n",
                plugin.name, plugin.state, plugin.lag_revisions, plugin.dead_letters
            ));
        }
        text
    }

    fn json(&self) -> Value {
        let members = self.members.iter().map(|seen| {
            let Member {
                id,
                name,
                peer_ur_ls,
                client_ur_ls,
                is_learner,
            } = &seen.member;
            let mut shown = json!({
                "id": format!("{id:x}"),
                "name": name,
                "peer_urls": peer_ur_ls,
                "client_urls": client_ur_ls,
                "is_learner": is_learner,
            });
            match &seen.answer {
                Ok(status) => shown["status"] = status_json(*id, status),
                Err(why) => shown["unreachable"] = Value::from(why.as_str()),
            }
            shown
        });
        let mut glance = json!({
            "members": members.collect::<Vec<_>>(),
            "leader": self.leader().map(|id| format!("{id:x}")),
        });
        if let Some(alarms) = &self.alarms {
            let shown = alarms.iter().map(|alarm| {
                json!({
                    "member": format!("{:x}", alarm.member_id),
                    "alarm": alarm_name(alarm),
                })
            });
            glance["alarms"] = shown.collect();
        }
        if let Some(keys) = self.keys {
            glance["prefix_keys"] = Value::from(keys);
        }
        if let Some(plugins) = &self.plugins {
            glance["plugins"] = plugins.iter().map(plugin_json).collect();
        }
        glance
    }
}

fn status_json(id: u64, status: &StatusResponse) -> Value {
    json!({
        "role": role(id, status),
        "version": status.version,
        "db_size": status.db_size,
        "db_size_in_use": status.db_size_in_use,
        "db_size_quota": status.db_size_quota,
        "raft_term": status.raft_term,
        "raft_index": status.raft_index,
        "raft_applied_index": status.raft_applied_index,
        "revision": status.header.as_ref().map_or(0, |header| header.revision),
        "errors": status.errors,
    })
}

fn role(id: u64, status: &StatusResponse) -> &'static str {
    match (status.leader == id, status.is_learner) {
        (true, _) => "leader",
        (false, true) => "learner",
        (false, false) => "follower",
    }
}

fn show_size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{size:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_is_down_is_shown_as_down() {
        let member = Member {
            id: 0xab,
            name: "m1".into(),
            ..Member::default()
        };
        let glance = Glance {
            members: vec![Seen {
                member,
                answer: Err("connection\nrefused".into()),
            }],
            keys: Some(2),
            plugins: None,
            alarms: Some(vec![AlarmMember {
                member_id: 0xab,
                alarm: AlarmType::Nospace.into(),
            }]),
        };
        assert!(glance.text().contains("ALARM NOSPACE at member ab"));
        assert!(glance.text().contains("no leader is known"));
        assert!(glance.text().contains("down"), "{}", glance.text());
        assert!(
            glance.text().contains("connection refused"),
            "{}",
            glance.text()
        );
        assert!(glance.text().contains("2 prefix keys"));
        assert_eq!(
            glance.json()["members"][0]["unreachable"],
            "connection\nrefused"
        );
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(show_size(17), "17 B");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size(5 << 30), "5.0 GiB");
    }
}
