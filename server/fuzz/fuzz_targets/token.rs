//! Tokens that clients show: any text is checked, and none that was not signed is taken.
#![no_main]

use std::sync::OnceLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use server::access::{JwtOptions, JwtTokens, Method, Secret};

fn tokens() -> &'static JwtTokens {
    static TOKENS: OnceLock<JwtTokens> = OnceLock::new();
    TOKENS.get_or_init(|| {
        let key = std::env::temp_dir().join(format!("sealkv-fuzz-{}.key", std::process::id()));
        std::fs::write(&key, [7; 64]).expect("there is room for a key");
        let options = JwtOptions {
            method: Method::named("HS256").expect("it is one of etcd's"),
            public_key: None,
            private_key: Some(key.clone()),
            ttl: Duration::from_secs(60),
        };
        let tokens = JwtTokens::open(options).expect("the key is long enough");
        let _ = std::fs::remove_file(key);
        tokens
    })
}

fuzz_target!(|text: &str| {
    let token = tokens().sign("root", 7).expect("there is a key");
    // What was signed has a text of its own, which no mutation reaches by chance.
    assert!(text.starts_with(&token) || tokens().check(&Secret::new(text)).is_none());
    let (signed, signature) = token.rsplit_once('.').expect("a token has three parts");
    let (header, _) = signed.split_once('.').expect("a token has three parts");
    for forged in [
        format!("{header}.{text}.{signature}"),
        format!("{signed}.{text}"),
    ] {
        assert!(forged == token || tokens().check(&Secret::new(&forged)).is_none());
    }
});
