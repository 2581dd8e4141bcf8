//! Real clients in other languages at work: every scenario of `tests/interop`, against one and three members.
//!
//! `tests/interop/setup.sh` installs and builds them; where one is missing its test is skipped with a line, and
//! `SEALKV_REQUIRE_INTEROP` turns that into a failure.

use std::ffi::OsString;
use std::path::PathBuf;

use tests::binary;
use tests::cluster::{Cluster, Plan};
use tests::interop::{self, Program};

/// A file of `tests/interop`.
fn source(path: &str) -> PathBuf {
    binary::workspace().join("tests/interop").join(path)
}

fn go() -> Option<Program> {
    Some(Program::new(interop::tool("go-scenario")?))
}

fn rust() -> Option<Program> {
    Some(Program::new(interop::tool("rust/debug/interop")?))
}

fn coredns() -> Option<Program> {
    Some(Program::new(interop::tool("coredns-scenario")?))
}

fn aetcd() -> Option<Program> {
    let python = Program::new(interop::tool("venv/bin/python")?);
    Some(python.argument(source("python/aetcd_scenario.py")))
}

fn patroni() -> Option<Program> {
    let python = Program::new(interop::tool("venv/bin/python")?);
    Some(python.argument(source("python/patroni_scenario.py")))
}

fn apisix() -> Option<Program> {
    let python = Program::new(interop::tool("venv/bin/python")?);
    Some(python.argument(source("python/apisix_scenario.py")))
}

fn etcd3() -> Option<Program> {
    let python = Program::new(interop::tool("venv-etcd3/bin/python")?);
    Some(python.argument(source("python/etcd3_scenario.py")))
}

fn node() -> Option<Program> {
    interop::tool("node/installed-from")?;
    let node = Program::new("node".into()).within(binary::interop().join("node"));
    Some(node.argument(source("node/scenario.mjs")))
}

fn java() -> Option<Program> {
    let home = interop::tool("java/built-from")?
        .parent()
        .map(PathBuf::from)?;
    let mut classes = OsString::from(home.join("classes"));
    classes.push(":");
    classes.push(home.join("lib/*"));
    let java = Program::new("java".into()).argument("-cp");
    Some(java.argument(classes).argument("Scenario"))
}

/// Whether clients have to log in.
#[derive(Clone, Copy)]
enum Auth {
    Off,
    On { token_seconds: u32 },
}

/// Over before a scenario is, so that the client has to log in again.
const SHORT: u32 = 3;
/// For longer than any scenario, as by default.
const LONG: u32 = 300;

async fn drive(program: Option<Program>, members: usize, auth: Auth) {
    let Some(program) = program else { return };
    drive_on(program, Cluster::plan().members(members), auth).await;
}

async fn drive_on(program: Program, plan: Plan, auth: Auth) {
    let Auth::On { token_seconds } = auth else {
        program.drive(&mut plan.start().await).await;
        return;
    };
    let flag = format!("--auth-token-ttl={token_seconds}");
    let mut cluster = plan.flag(flag).start().await;
    interop::require_login(&mut cluster).await;
    program.logged_in().drive(&mut cluster).await;
}

/// One member and three, without and with authentication, for each program.
macro_rules! drives {
    ($($program:ident $token_seconds:ident { $one:ident $three:ident $one_logged_in:ident $three_logged_in:ident })*) => {$(
        #[tokio::test]
        async fn $one() {
            drive($program(), 1, Auth::Off).await;
        }

        #[tokio::test]
        async fn $three() {
            drive($program(), 3, Auth::Off).await;
        }

        #[tokio::test]
        async fn $one_logged_in() {
            drive($program(), 1, Auth::On { token_seconds: $token_seconds }).await;
        }

        #[tokio::test]
        async fn $three_logged_in() {
            drive($program(), 3, Auth::On { token_seconds: $token_seconds }).await;
        }
    )*};
}

drives! {
    go SHORT {
        etcds_go_client_and_its_packages_against_one_member
        etcds_go_client_and_its_packages_against_three_members
        etcds_go_client_logged_in_at_one_member
        etcds_go_client_logged_in_at_three_members
    }
    rust SHORT {
        the_etcd_client_crate_against_one_member
        the_etcd_client_crate_against_three_members
        the_etcd_client_crate_logged_in_at_one_member
        the_etcd_client_crate_logged_in_at_three_members
    }
    // Its stream of renewals does not log in again.
    java LONG {
        jetcd_against_one_member
        jetcd_against_three_members
        jetcd_logged_in_at_one_member
        jetcd_logged_in_at_three_members
    }
    node SHORT {
        node_etcd3_against_one_member
        node_etcd3_against_three_members
        node_etcd3_logged_in_at_one_member
        node_etcd3_logged_in_at_three_members
    }
    aetcd SHORT {
        python_aetcd_against_one_member
        python_aetcd_against_three_members
        python_aetcd_logged_in_at_one_member
        python_aetcd_logged_in_at_three_members
    }
    coredns SHORT {
        coredns_against_one_member
        coredns_against_three_members
        coredns_logged_in_at_one_member
        coredns_logged_in_at_three_members
    }
    patroni SHORT {
        patroni_against_one_member
        patroni_against_three_members
        patroni_logged_in_at_one_member
        patroni_logged_in_at_three_members
    }
    apisix SHORT {
        apisix_like_use_of_the_gateway_against_one_member
        apisix_like_use_of_the_gateway_against_three_members
        apisix_like_use_of_the_gateway_logged_in_at_one_member
        apisix_like_use_of_the_gateway_logged_in_at_three_members
    }
}

/// The store of Kubernetes' API server, which waits for the progress of watches.
async fn drive_kubernetes(members: usize) {
    let Some(path) = interop::tool("kubernetes-storage") else {
        return;
    };
    // Over three members everything takes longer, and pages were seen at one.
    let program = match members {
        1 => Program::new(path),
        _ => Program::new(path).argument("-test.run=Test[^S]|TestStorage/RangeStream=true"),
    };
    let plan = Cluster::plan()
        .members(members)
        .flag("--watch-progress-notify-interval=1s");
    drive_on(program, plan, Auth::Off).await;
}

#[tokio::test]
async fn kubernetes_storage_against_one_member() {
    drive_kubernetes(1).await;
}

#[tokio::test]
async fn kubernetes_storage_against_three_members() {
    drive_kubernetes(3).await;
}

// It logs in over TLS alone: its tokens are call credentials, which gRPC gives to no open channel.
#[tokio::test]
async fn python_etcd3_against_one_member() {
    drive(etcd3(), 1, Auth::Off).await;
}

#[tokio::test]
async fn python_etcd3_against_three_members() {
    drive(etcd3(), 3, Auth::Off).await;
}
