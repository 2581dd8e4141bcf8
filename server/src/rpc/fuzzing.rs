//! Ways to the services for the fuzz targets, past sockets: parsing alone, and whole calls.

#[path = "tests/single.rs"]
mod single;

use std::sync::LazyLock;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use prost::Message;
use prost_reflect::DescriptorPool;
use proto::etcdserverpb as pb;
use tonic::service::Routes;
use tower_service::Service as _;

use super::{Limits, parse};
use single::Single;

/// A call that waits for others, a lock or a watch, is given up.
const PATIENCE: Duration = Duration::from_millis(5);
/// Of one answer, as frames.
const FRAMES_READ: usize = 64;

/// Reads the bytes as one kind of request, which the first of them chooses, and parses it.
pub fn request(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let limits = Limits::default();
    match kind % 5 {
        0 => with(rest, |it: pb::RangeRequest| parse::range(it).is_ok()),
        1 => with(rest, |it: pb::RangeRequest| parse::range_stream(it).is_ok()),
        2 => with(rest, |it: pb::PutRequest| parse::put(it).is_ok()),
        3 => with(rest, |it: pb::DeleteRangeRequest| {
            parse::delete_range(it).is_ok()
        }),
        _ => with(rest, |it: pb::TxnRequest| {
            parse::size(&it, limits.request_bytes_max).is_ok()
                && parse::txn(it, limits.txn_ops_max)
                    .is_ok_and(|txn| txn.is_read_only() || !txn.is_serializable())
        }),
    }
}

fn with<T: Message + Default>(bytes: &[u8], parse: impl FnOnce(T) -> bool) {
    if let Ok(message) = T::decode(bytes) {
        parse(message);
    }
}

/// Every method of every service, etcd's and sealkv's.
static PATHS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("the build wrote it");
    let services: Vec<_> = pool.services().collect();
    let methods = services.iter().flat_map(|service| {
        let path = |name| format!("/{}/{name}", service.full_name());
        let names = service.methods().map(|it| it.name().to_owned());
        names.map(path).collect::<Vec<_>>()
    });
    methods.collect()
});

/// Plays calls against a member of its own: `method u8 | messages u8`, then each message behind a
/// length of two bytes.
pub fn calls(mut bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime on this thread");
    runtime.block_on(async {
        let mut routes = routes();
        while let Some(([method, messages], rest)) = bytes.split_first_chunk() {
            bytes = rest;
            let path = &PATHS[usize::from(*method) % PATHS.len()];
            let frames = frames(&mut bytes, *messages % 4 + 1);
            let _ = tokio::time::timeout(PATIENCE, call(&mut routes, path, frames)).await;
        }
    });
    runtime.shutdown_background();
}

fn frames(bytes: &mut &[u8], messages: u8) -> Bytes {
    let mut frames = BytesMut::new();
    for _ in 0..messages {
        let Some((length, rest)) = bytes.split_first_chunk() else {
            break;
        };
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (message, left) = rest.split_at(length);
        *bytes = left;
        frames.put_u8(0);
        frames.put_u32(u32::try_from(length).expect("it has two bytes"));
        frames.put_slice(message);
    }
    frames.freeze()
}

async fn call(routes: &mut Routes, path: &str, frames: Bytes) {
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(frames))
        .expect("the path is one of the protos");
    let Ok(response) = routes.call(request).await;
    let mut body = response.into_body();
    for _ in 0..FRAMES_READ {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}

fn routes() -> Routes {
    Single::start().edge(Limits::default()).services(None)
}
