//! Real clients in other languages at work: every scenario of `tests/interop`, against one and three members.
//!
//! `tests/interop/setup.sh` installs and builds them; where one is missing its test is skipped with a line, and
//! `SEALKV_REQUIRE_INTEROP` turns that into a failure.

use tests::cluster::Cluster;
use tests::interop::{self, Program};

async fn go(members: usize) {
    let Some(path) = interop::tool("go-scenario") else {
        return;
    };
    let mut cluster = Cluster::plan().members(members).start().await;
    Program::new(path).drive(&mut cluster).await;
}

#[tokio::test]
async fn etcds_go_client_and_its_packages_against_one_member() {
    go(1).await;
}

#[tokio::test]
async fn etcds_go_client_and_its_packages_against_three_members() {
    go(3).await;
}
