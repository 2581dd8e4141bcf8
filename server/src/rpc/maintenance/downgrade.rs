//! Downgrade: what etcd's clients are told about going back to an older release.
//!
//! Promise: checks, answers and errors are etcd's, and all members agree on whether one is under
//! way. While one is, the cluster and storage versions that this server reports are the older ones,
//! which is all that a client sees of it; the data stays as it is, since no release of etcd could
//! open it.
//! Source: etcd 3.7.1, `server/etcdserver/version/version.go` and `cluster_util.go`.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use tonic::Status;

use super::super::{Edge, header};
use crate::access::Permitted;
use crate::command::ChangeDowngrade;
use crate::config::ETCD_CLUSTER_VERSION;
use crate::mvcc::read_view::ReadView;
use crate::seal::SealerError;

/// A version without its patch level, as clusters have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClusterVersion {
    major: i64,
    minor: i64,
}

impl ClusterVersion {
    /// `MAJOR.MINOR` or a semantic version, whose patch level and what follows it are dropped.
    fn parse(text: &str) -> Option<Self> {
        semantic(text).or_else(|| semantic(&format!("{text}.0")))
    }

    fn older(self) -> Self {
        Self {
            minor: self.minor - 1,
            ..self
        }
    }
}

fn semantic(text: &str) -> Option<ClusterVersion> {
    let (text, metadata) = text.split_once('+').unwrap_or((text, ""));
    let (numbers, pre_release) = text.split_once('-').unwrap_or((text, ""));
    if !is_identifier(pre_release) || !is_identifier(metadata) {
        return None;
    }
    let mut parts = numbers.split('.').map(|part| part.parse::<i64>().ok());
    let (major, minor, _patch) = (parts.next()??, parts.next()??, parts.next()??);
    parts
        .next()
        .is_none()
        .then_some(ClusterVersion { major, minor })
}

fn is_identifier(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(allowed);
    text.is_empty() || text.split('.').all(is_part)
}

/// The version that the cluster has for its clients.
pub(super) fn cluster_version(view: &ReadView) -> String {
    let target = view.downgrade.as_deref();
    target.unwrap_or(ETCD_CLUSTER_VERSION).to_owned()
}

pub(super) fn info(view: &ReadView) -> pb::DowngradeInfo {
    pb::DowngradeInfo {
        enabled: view.downgrade.is_some(),
        target_version: view.downgrade.as_deref().unwrap_or_default().to_owned(),
    }
}

impl Edge {
    pub(super) async fn change_downgrade(
        &self,
        request: Permitted<pb::DowngradeRequest>,
    ) -> Result<pb::DowngradeResponse, Status> {
        let action = DowngradeAction::try_from(request.request().action);
        let target = &request.request().version;
        // Named as it was before the request.
        let before = match action {
            Ok(DowngradeAction::Validate) => self.check_downgrade(target).await?.0,
            Ok(DowngradeAction::Enable) => {
                let (before, target) = self.check_downgrade(target).await?;
                self.agree_on_downgrade(&request, Some(target)).await?;
                before
            }
            Ok(DowngradeAction::Cancel) => {
                self.read_point(false).await?;
                let view = self.replica.view();
                // etcd logs that there is none, and answers all the same.
                if view.downgrade.is_some() {
                    self.agree_on_downgrade(&request, None).await?;
                }
                cluster_version(&view)
            }
            Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
        };
        let version = ClusterVersion::parse(&before);
        let version = version.map_or(before, |it| format!("{}.{}", it.major, it.minor));
        let header = header::full(&*self.replica, self.replica.view().revision);
        Ok(pb::DowngradeResponse { header, version })
    }

    /// The cluster's version, and the one it may go to.
    async fn check_downgrade(&self, target: &str) -> Result<(String, String), Status> {
        let target = ClusterVersion::parse(target).ok_or_else(|| {
            Status::invalid_argument("etcdserver: wrong downgrade target version format")
        })?;
        self.read_point(false).await?;
        let view = self.replica.view();
        let current = cluster_version(&view);
        let allowed = ClusterVersion::parse(&current).map(ClusterVersion::older);
        if allowed != Some(target) {
            return Err(Status::invalid_argument(
                "etcdserver: invalid downgrade target version",
            ));
        }
        if view.downgrade.is_some() {
            return Err(Status::failed_precondition(
                "etcdserver: cluster has a downgrade job in progress",
            ));
        }
        Ok((current, format!("{}.{}.0", target.major, target.minor)))
    }

    async fn agree_on_downgrade(
        &self,
        request: &Permitted<pb::DowngradeRequest>,
        target: Option<String>,
    ) -> Result<(), Status> {
        let form = |_: &ReadView, _: &pb::DowngradeRequest| {
            let target = target.clone();
            Ok::<_, SealerError>(ChangeDowngrade { target })
        };
        self.write::<_, ChangeDowngrade>(request, form).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        let version = |major, minor| Some(ClusterVersion { major, minor });
        for (text, expected) in [
            ("3.6", version(3, 6)),
            ("3.6.9", version(3, 6)),
            ("3.6.0-rc.1+build", version(3, 6)),
            ("3.6.0-", version(3, 6)),
            ("3.6.0-a_b", None),
            ("3.6.0-a..b", None),
            ("3.6.0+ä", None),
            ("3", None),
            ("", None),
            ("v3.6", None),
            ("3.6.0.0", None),
            ("3.x.0", None),
        ] {
            assert_eq!(ClusterVersion::parse(text), expected, "{text:?}");
        }
    }
}
