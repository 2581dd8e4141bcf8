//! A client that speaks nothing but the gateway's JSON.

use tests::binary;
use tests::cluster::Cluster;

/// A client that speaks nothing else, at work against three members.
#[tokio::test]
async fn etcd3gw_works_against_three_members() {
    let python = binary::interop().join("venv/bin/python");
    let has_client = |python: &std::path::Path| {
        let import = std::process::Command::new(python)
            .args(["-c", "import etcd3gw"])
            .output();
        import.is_ok_and(|output| output.status.success())
    };
    if !has_client(&python) {
        let required = std::env::var_os("SEALKV_REQUIRE_INTEROP").is_some();
        assert!(!required, "etcd3gw is missing: run tests/interop/setup.sh");
        eprintln!("skipped: etcd3gw is missing (tests/interop/setup.sh installs it)");
        return;
    }
    let cluster = Cluster::three().await;
    let mut command = std::process::Command::new(python);
    command
        .arg(binary::workspace().join("tests/interop/python/etcd3gw_scenario.py"))
        .arg("127.0.0.1");
    for member in &cluster.members {
        command.arg(member.client_port.to_string());
    }
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("the scenario ends")
        .expect("python can be started");
    let told = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&told)
    );
}
