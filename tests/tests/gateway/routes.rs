//! Every route, without and with authentication, answers as etcd's.

use tests::http::Request;

use super::side_by_side::{Pair, posts, token};

#[tokio::test]
async fn every_route_answers_as_etcds() {
    let Some(pair) = Pair::start("every_route_answers_as_etcds", &[]).await else {
        return;
    };
    pair.agree(posts(&[
        ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
        ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v"}"#),
        ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA=="}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","revision":"2","serializable":true}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","count_only":true}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","keys_only":true,"sort_order":"DESCEND","sortTarget":2}"#),
        ("/v3/kv/range", r#"{"key":"bm9uZQ=="}"#),
        ("/v3beta/kv/range", r#"{"key":"Zm9v"}"#),
        ("/v3/kv/txn", r#"{"compare":[{"result":"EQUAL","target":"VALUE","key":"Zm9v","value":"YmF6"}],
            "success":[{"request_range":{"key":"Zm9v"}},{"requestPut":{"key":"Zm9v","value":"eA==","prev_kv":true}},
                       {"request_delete_range":{"key":"bm9uZQ=="}}],
            "failure":[{"request_put":{"key":"Zm9v","value":"bG9zdA=="}}]}"#),
        ("/v3/kv/txn", r#"{"compare":[{"result":3,"target":0,"key":"Zm9v","version":3}],"failure":[{"requestTxn":{}}]}"#),
        ("/v3/kv/deleterange", r#"{"key":"Zm9v","prev_kv":true}"#),
        ("/v3/kv/deleterange", r#"{"key":"Zm9v"}"#),
        ("/v3/kv/compaction", r#"{"revision":"2","physical":true}"#),
        ("/v3/kv/compaction", r#"{"revision":"2"}"#),
        ("/v3/kv/compaction", r#"{"revision":"200"}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","revision":1}"#),
        ("/v3/lease/grant", r#"{"TTL":100,"ID":7}"#),
        ("/v3/lease/grant", r#"{"TTL":"100","ID":"7"}"#),
        ("/v3/lease/grant", r#"{"TTL":"90000000000"}"#),
        ("/v3/kv/put", r#"{"key":"bGVhc2Vk","value":"eA==","lease":"7"}"#),
        ("/v3/kv/put", r#"{"key":"bGVhc2Vk","value":"eA==","lease":"8"}"#),
        ("/v3/lease/timetolive", r#"{"ID":7,"keys":true}"#),
        ("/v3/kv/lease/timetolive", r#"{"ID":9}"#),
        ("/v3/lease/leases", "{}"),
        ("/v3/kv/lease/leases", "{}"),
        ("/v3/lease/keepalive", r#"{"ID":7}"#),
        ("/v3/lease/keepalive", r#"{"ID":7}{"ID":"8"} {"ID":7}"#),
        ("/v3/lease/keepalive", ""),
        ("/v3/lease/revoke", r#"{"ID":7}"#),
        ("/v3/kv/lease/revoke", r#"{"ID":7}"#),
        ("/v3/watch", r#"{"create_request":{"key":"Zm9v","start_revision":1}}"#),
        ("/v3/watch", r#"{"create_request":{"key":"Zm9v","start_revision":3,"prev_kv":true,"filters":["NOPUT"]}}"#),
        ("/v3/watch", r#"{"createRequest":{"key":"YQ=="}}{"create_request":{"key":"Yg==","range_end":"YQ=="}}
            {"cancel_request":{"watch_id":0}}"#),
        ("/v3/watch", r#"{"create_request":{"key":"YQ=="}} garbage"#),
        ("/v3/maintenance/alarm", r#"{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}"#),
        ("/v3/maintenance/alarm", "{}"),
        ("/v3/maintenance/alarm", r#"{"action":"DEACTIVATE","memberID":"5","alarm":1}"#),
        ("/v3/maintenance/hashkv", "{}"),
        ("/v3/maintenance/hash", "{}"),
        ("/v3/maintenance/status", "{}"),
        ("/v3/maintenance/defragment", "{}"),
        ("/v3/maintenance/downgrade", "{}"),
        ("/v3/maintenance/downgrade", r#"{"action":"CANCEL"}"#),
        ("/v3/maintenance/downgrade", r#"{"action":"VALIDATE","version":"3.9.0"}"#),
        ("/v3/cluster/member/list", "{}"),
        ("/v3/cluster/member/list", r#"{"linearizable":true}"#),
        ("/v3/cluster/member/add", r#"{"peerURLs":["nowhere"]}"#),
        ("/v3/cluster/member/remove", r#"{"ID":"5"}"#),
        ("/v3/cluster/member/update", r#"{"ID":5,"peerURLs":["http://127.0.0.1:1"]}"#),
        ("/v3/cluster/member/promote", r#"{"ID":"5"}"#),
        ("/v3/maintenance/transfer-leadership", r#"{"targetID":"5"}"#),
        ("/v3/lock/unlock", r#"{"key":"bm9uZQ=="}"#),
        ("/v3/election/leader", r#"{"name":"ZQ=="}"#),
        ("/v3/election/resign", "{}"),
        ("/v3/election/proclaim", "{}"),
    ]))
    .await;
}

#[tokio::test]
async fn a_token_opens_what_its_user_may() {
    let Some(pair) = Pair::start("a_token_opens_what_its_user_may", &[]).await else {
        return;
    };
    pair.agree(posts(&[
        ("/v3/auth/status", "{}"),
        ("/v3/auth/enable", "{}"),
        (
            "/v3/auth/user/add",
            r#"{"name":"root","password":"pw-root"}"#,
        ),
        (
            "/v3/auth/user/add",
            r#"{"name":"root","password":"pw-root"}"#,
        ),
        ("/v3/auth/user/add", r#"{"name":"","password":"x"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/user/add", r#"{"name":"u","password":"pw-u"}"#),
        ("/v3/auth/role/add", r#"{"name":"r"}"#),
        (
            "/v3/auth/role/grant",
            r#"{"name":"r","perm":{"permType":"READ","key":"Zm9v"}}"#,
        ),
        (
            "/v3/auth/role/grant",
            r#"{"name":"none","perm":{"permType":"READ","key":"Zm9v"}}"#,
        ),
        ("/v3/auth/user/grant", r#"{"user":"u","role":"r"}"#),
        ("/v3/auth/user/get", r#"{"name":"u"}"#),
        ("/v3/auth/role/get", r#"{"role":"r"}"#),
        ("/v3/auth/user/list", "{}"),
        ("/v3/auth/role/list", "{}"),
        ("/v3/auth/authenticate", r#"{"name":"u","password":"pw-u"}"#),
        ("/v3/auth/enable", "{}"),
        ("/v3/auth/status", "{}"),
        ("/v3/kv/range", r#"{"key":"Zm9v"}"#),
        ("/v3/kv/put", r#"{"key":"Zm9v"}"#),
        ("/v3/watch", r#"{"create_request":{"key":"Zm9v"}}"#),
        ("/v3/lease/leases", "{}"),
        (
            "/v3/auth/authenticate",
            r#"{"name":"u","password":"wrong"}"#,
        ),
        ("/v3/auth/authenticate", r#"{"name":"u","password":"pw-u"}"#),
    ]))
    .await;
    let mut asked = Vec::new();
    for (name, password) in [("root", "pw-root"), ("u", "pw-u"), ("", "")] {
        let (etcd, ours) = (
            token(pair.ports.0, name, password).await,
            token(pair.ports.1, name, password).await,
        );
        for (path, body) in [
            ("/v3/kv/put", r#"{"key":"Zm9v","value":"eA=="}"#),
            ("/v3/kv/range", r#"{"key":"Zm9v"}"#),
            ("/v3/kv/range", r#"{"key":"Zm9v","range_end":"AA=="}"#),
            (
                "/v3/kv/txn",
                r#"{"failure":[{"request_txn":{"success":[{"request_range":{"key":"eA=="}}]}}]}"#,
            ),
            (
                "/v3/watch",
                r#"{"create_request":{"key":"Zm9v","range_end":"AA=="}}"#,
            ),
            ("/v3/watch", r#"{"create_request":{"key":"Zm9v"}}"#),
            ("/v3/maintenance/hash", "{}"),
            ("/v3/auth/user/list", "{}"),
            ("/v3/auth/user/get", r#"{"name":"u"}"#),
            ("/v3/kv/compaction", r#"{"revision":"1"}"#),
        ] {
            for scheme in ["", "Bearer "] {
                let with = |token: &str| {
                    let token = format!("{scheme}{token}");
                    Request::post(path, body).header("Authorization", &token)
                };
                asked.push((with(&etcd), with(&ours)));
            }
        }
    }
    pair.agree_on(asked).await;
}
