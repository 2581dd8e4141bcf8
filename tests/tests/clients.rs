//! Real clients in other languages at work: every scenario of `tests/interop`, against one and three members.
//!
//! `tests/interop/setup.sh` installs and builds them; where one is missing its test is skipped with a line, and
//! `SEALKV_REQUIRE_INTEROP` turns that into a failure.

use std::ffi::OsString;
use std::path::PathBuf;

use tests::binary;
use tests::cluster::Cluster;
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

fn aetcd() -> Option<Program> {
    let python = Program::new(interop::tool("venv/bin/python")?);
    Some(python.argument(source("python/aetcd_scenario.py")))
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

async fn drive(program: Option<Program>, members: usize) {
    let Some(program) = program else { return };
    let mut cluster = Cluster::plan().members(members).start().await;
    program.drive(&mut cluster).await;
}

#[tokio::test]
async fn etcds_go_client_and_its_packages_against_one_member() {
    drive(go(), 1).await;
}

#[tokio::test]
async fn etcds_go_client_and_its_packages_against_three_members() {
    drive(go(), 3).await;
}

#[tokio::test]
async fn the_etcd_client_crate_against_one_member() {
    drive(rust(), 1).await;
}

#[tokio::test]
async fn the_etcd_client_crate_against_three_members() {
    drive(rust(), 3).await;
}

#[tokio::test]
async fn jetcd_against_one_member() {
    drive(java(), 1).await;
}

#[tokio::test]
async fn jetcd_against_three_members() {
    drive(java(), 3).await;
}

#[tokio::test]
async fn node_etcd3_against_one_member() {
    drive(node(), 1).await;
}

#[tokio::test]
async fn node_etcd3_against_three_members() {
    drive(node(), 3).await;
}

#[tokio::test]
async fn python_etcd3_against_one_member() {
    drive(etcd3(), 1).await;
}

#[tokio::test]
async fn python_etcd3_against_three_members() {
    drive(etcd3(), 3).await;
}

#[tokio::test]
async fn python_aetcd_against_one_member() {
    drive(aetcd(), 1).await;
}

#[tokio::test]
async fn python_aetcd_against_three_members() {
    drive(aetcd(), 3).await;
}
