//! Calls that must succeed.

use serde_json::{Value, json};
use tests::http::{Answer, Request};

pub(super) fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let at = |index: usize| u32::from(*three.get(index).unwrap_or(&0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= three.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    out
}

pub(super) async fn call(port: u16, path: &str, body: Value) -> Value {
    let answer = Request::post(path, body.to_string()).send(port).await;
    let status = answer.status;
    let text = answer.text().await;
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}"))
}

pub(super) async fn put(port: u16, key: &str, value: &str) -> Value {
    let body = json!({"key": base64(key), "value": base64(value)});
    call(port, "/v3/kv/put", body).await
}

/// The events of the next line that has some.
pub(super) async fn events(stream: &mut Answer) -> Vec<Value> {
    loop {
        let line = stream.line().await.expect("the watch goes on");
        if let Some(events) = line["result"]["events"].as_array() {
            return events.clone();
        }
    }
}
