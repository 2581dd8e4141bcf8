//! `sealkv member`: who the members are, and one that has lost its data made anew.
//!
//! Not known here: what a member does.

mod note;
mod rebuild;
mod temporary;

use clap::Subcommand;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::{Member, MemberListRequest};
use serde_json::{Value, json};

use super::connect::connect;
use super::output::{Format, Table, print, print_json};
use super::{CliError, Global};
use rebuild::Rebuild;
pub(super) use rebuild::RebuildFailed;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The members of the cluster, as etcdctl shows them.
    List,
    /// Run on the machine of a member that cannot start any more, with the flags that it is
    /// started with: removes it, adds it as a learner under a new id, lets it catch up by a
    /// snapshot, makes it a voter, and stops it. Its old data is set aside.
    Rebuild(Rebuild),
}

pub(super) async fn run(command: &Command, global: &Global) -> Result<(), CliError> {
    match command {
        Command::List => list(global).await,
        Command::Rebuild(rebuild) => rebuild.run(global).await,
    }
}

async fn list(global: &Global) -> Result<(), CliError> {
    let mut cluster = ClusterClient::new(connect(global).await?);
    let request = MemberListRequest { linearizable: true };
    let listed = cluster.member_list(request).await?.into_inner();
    match global.write_out {
        Format::Json => {
            let cluster_id = listed.header.map_or(0, |header| header.cluster_id);
            print_json(&json!({
                "cluster_id": format!("{cluster_id:x}"),
                "members": listed.members.iter().map(member_json).collect::<Vec<_>>(),
            }))?;
        }
        Format::Table => {
            let head = [
                "ID",
                "STATUS",
                "NAME",
                "PEER ADDRS",
                "CLIENT ADDRS",
                "IS LEARNER",
            ];
            let mut table = Table::new(&head);
            for member in &listed.members {
                table.row([
                    format!("{:x}", member.id),
                    status(member).to_owned(),
                    member.name.clone(),
                    member.peer_ur_ls.join(","),
                    member.client_ur_ls.join(","),
                    member.is_learner.to_string(),
                ]);
            }
            print(&table.text())?;
        }
    }
    Ok(())
}

/// etcdctl's words: a member has a name once it has been there.
fn status(member: &Member) -> &'static str {
    if member.name.is_empty() {
        "unstarted"
    } else {
        "started"
    }
}

fn member_json(member: &Member) -> Value {
    json!({
        "id": format!("{:x}", member.id),
        "status": status(member),
        "name": member.name,
        "peer_urls": member.peer_ur_ls,
        "client_urls": member.client_ur_ls,
        "is_learner": member.is_learner,
    })
}
