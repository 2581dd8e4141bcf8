//! Every method signs and verifies; nothing else passes.

use std::path::Path;

use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256, RsaKeySize,
};

use super::*;

/// A private key for a method, and its public one unless it is a secret.
fn key_pair(method: Method) -> (String, Option<String>) {
    let pair = match method.name() {
        "ES256" => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        "ES384" => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        "ES512" => KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512),
        "EdDSA" => KeyPair::generate_for(&PKCS_ED25519),
        name if name.starts_with("HS") => return ("a secret".into(), None),
        _ => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
    };
    let pair = pair.unwrap();
    (pair.serialize_pem(), Some(pair.public_key_pem()))
}

fn options(directory: &Path, method: Method, private: bool, public: bool) -> JwtOptions {
    let file = |name: &str| directory.join(name);
    JwtOptions {
        method,
        public_key: public.then(|| file("public.pem")),
        private_key: private.then(|| file("private.pem")),
        ttl: Duration::from_secs(60),
    }
}

fn write(directory: &Path, (private, public): &(String, Option<String>)) {
    fs::write(directory.join("private.pem"), private).unwrap();
    if let Some(public) = public {
        fs::write(directory.join("public.pem"), public).unwrap();
    }
}

fn method(name: &str) -> Method {
    Method::named(name).unwrap()
}

fn secret(token: &str) -> Secret {
    Secret::new(token)
}

#[test]
fn every_method_signs_and_verifies_with_either_key() {
    for method in Method::all() {
        let directory = tempfile::tempdir().unwrap();
        let pair = key_pair(method);
        write(directory.path(), &pair);
        let signing = JwtTokens::open(options(directory.path(), method, true, false)).unwrap();
        let token = secret(&signing.sign("alice", 7).unwrap());
        let name = method.name();
        assert_eq!(signing.check(&token), Some(("alice".into(), 7)), "{name}");
        if pair.1.is_some() {
            let checking = JwtTokens::open(options(directory.path(), method, false, true)).unwrap();
            assert_eq!(checking.check(&token), Some(("alice".into(), 7)), "{name}");
            assert_eq!(checking.sign("alice", 7), Err(VerifyOnly), "{name}");
            JwtTokens::open(options(directory.path(), method, true, true)).unwrap();
        }
    }
}

/// RFC 8017's form of an RSA public key, as `openssl rsa -RSAPublicKey_out` writes it.
#[test]
fn a_public_key_may_stand_alone_without_its_algorithm() {
    let directory = tempfile::tempdir().unwrap();
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let bare = base64::engine::general_purpose::STANDARD.encode(pair.public_key_raw());
    let lines: Vec<&str> = bare
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let public = format!(
        "-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n",
        lines.join("\n")
    );
    write(directory.path(), &(pair.serialize_pem(), Some(public)));
    for name in ["RS256", "RS512", "PS384"] {
        let of = |private| options(directory.path(), method(name), private, true);
        let token = JwtTokens::open(of(true)).unwrap().sign("alice", 7).unwrap();
        let checking = JwtTokens::open(of(false)).unwrap();
        assert_eq!(checking.check(&secret(&token)), Some(("alice".into(), 7)));
    }
    let opened = JwtTokens::open(options(directory.path(), method("ES256"), false, true));
    assert!(matches!(opened.err(), Some(KeyError::BadPublic)));
}

#[test]
fn keys_that_do_not_belong_together_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (mine, other) = (key_pair(method("ES256")), key_pair(method("ES256")));
    write(directory.path(), &(mine.0, other.1));
    let opened = JwtTokens::open(options(directory.path(), method("ES256"), true, true));
    assert!(matches!(opened.err(), Some(KeyError::Mismatch)));
}

#[test]
fn a_key_of_another_method_and_no_key_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &key_pair(method("ES256")));
    for name in ["ES384", "EdDSA", "RS256"] {
        let opened = JwtTokens::open(options(directory.path(), method(name), true, false));
        assert!(matches!(opened.err(), Some(KeyError::BadPrivate)), "{name}");
    }
    for name in ["HS256", "ES256"] {
        let opened = JwtTokens::open(options(directory.path(), method(name), false, false));
        assert!(matches!(opened.err(), Some(KeyError::Missing)), "{name}");
    }
}

/// A token by hand, over any header and claims.
fn forge(tokens: &JwtTokens, header: &str, claims: &str) -> Secret {
    let message = [header, claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let signature = tokens.shared.keys.load().sign(message.as_bytes()).unwrap();
    secret(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[test]
fn a_token_that_is_expired_tampered_with_or_of_another_method_is_none() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &key_pair(method("HS256")));
    let tokens = JwtTokens::open(options(directory.path(), method("HS256"), true, false)).unwrap();
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    let good = r#"{"username":"root","revision":3}"#;
    assert_eq!(
        tokens.check(&forge(&tokens, header, good)),
        Some(("root".into(), 3))
    );
    for (header, claims) in [
        (r#"{"alg":"none"}"#, good),
        (r#"{"alg":"HS512"}"#, good),
        (header, r#"{"username":"root","revision":3,"exp":1}"#),
        (
            header,
            r#"{"username":"root","revision":3,"nbf":99999999999}"#,
        ),
        (header, r#"{"username":"root"}"#),
        (header, r#"{"revision":3}"#),
        (header, r#"{"username":"root","revision":"3"}"#),
        (header, "[]"),
    ] {
        assert_eq!(
            tokens.check(&forge(&tokens, header, claims)),
            None,
            "{header} {claims}"
        );
    }
    let token = tokens.sign("alice", 7).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let parts: Vec<&str> = message.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(good);
    for token in [
        format!("{}.{other}.{signature}", parts[0]),
        format!("{message}."),
        message.to_owned(),
        format!("{token}.x"),
        String::new(),
        "..".to_owned(),
    ] {
        assert_eq!(tokens.check(&secret(&token)), None, "{token}");
    }
}

#[test]
fn changed_files_are_read_again_and_broken_ones_leave_the_key_in_force() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &key_pair(method("ES256")));
    let tokens = JwtTokens::open(options(directory.path(), method("ES256"), true, false)).unwrap();
    let before = secret(&tokens.sign("alice", 7).unwrap());
    fs::write(directory.path().join("private.pem"), "no key").unwrap();
    tokens.look();
    assert!(tokens.check(&before).is_some());
    write(directory.path(), &key_pair(method("ES256")));
    tokens.look();
    assert!(tokens.check(&before).is_none());
    let after = secret(&tokens.sign("alice", 7).unwrap());
    assert!(tokens.check(&after).is_some());
}
