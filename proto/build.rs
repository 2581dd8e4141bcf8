//! Compiles the protos without a `protoc` on the machine.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let of_clients = [
        "etcdserverpb/rpc.proto",
        "v3lockpb/v3lock.proto",
        "v3electionpb/v3election.proto",
        "grpc/health/v1/health.proto",
        "sealkv/keys.proto",
        "sealkv/plugins.proto",
    ];
    let internal = [
        "sealkv/peer.proto",
        "sealkv/replicated.proto",
        "sealkv/backup.proto",
    ];
    let files = of_clients.into_iter().chain(internal);
    println!("cargo:rerun-if-changed=protos");
    let descriptors = protox::compile(files, ["protos"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    // For reflection and the JSON gateway: what clients may call, and nothing else.
    let described = protox::compile(of_clients, ["protos"])?.encode_to_vec();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("clients.bin"), described)?;
    Ok(())
}
