//! How tokens are made: `--auth-token` and `--auth-token-ttl`.
//!
//! Source: etcd 3.7.1, `decomposeOpts` in `server/auth/store.go`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::duration::parse_duration;
use super::mistake::Problem;
use super::settle::Settling;
use crate::access::{JwtOptions, Method, TOKEN_TTL};

const JWT_TTL: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthToken {
    /// Random, and known to every member.
    Simple { ttl: Duration },
    /// Signed.
    Jwt(JwtOptions),
}

impl Default for AuthToken {
    fn default() -> Self {
        AuthToken::Simple { ttl: TOKEN_TTL }
    }
}

impl Settling<'_> {
    /// The default beside a mistake.
    pub(super) fn auth_token(&mut self) -> AuthToken {
        let ttl = match self.given.unsigned("auth-token-ttl") {
            // etcd's meaning of 0.
            None | Some(0) => TOKEN_TTL,
            Some(seconds) => Duration::from_secs(seconds),
        };
        let text = self.given.text("auth-token").unwrap_or("simple").to_owned();
        match parse(&text) {
            Ok(None) => AuthToken::Simple { ttl },
            Ok(Some(options)) => AuthToken::Jwt(options),
            Err(problem) => {
                self.mistake("auth-token", problem);
                AuthToken::default()
            }
        }
    }
}

/// None for simple tokens.
fn parse(text: &str) -> Result<Option<JwtOptions>, Problem> {
    let mut parts = text.split(',');
    match parts.next() {
        Some("simple") if parts.next().is_none() => return Ok(None),
        Some("jwt") => {}
        _ => return Err(Problem::TokenKind),
    }
    let mut options = BTreeMap::new();
    for part in parts {
        let (name, value) = part.split_once('=').ok_or(Problem::TokenKind)?;
        if options.insert(name, value).is_some() {
            return Err(Problem::TokenOption);
        }
    }
    let method = options.remove("sign-method").and_then(Method::named);
    let mut path = |name| options.remove(name).filter(|it| !it.is_empty());
    let (public_key, private_key) = (path("pub-key"), path("priv-key"));
    let ttl = match options.remove("ttl") {
        None | Some("") => JWT_TTL,
        Some(ttl) => parse_duration(ttl).ok_or(Problem::Duration)?,
    };
    if !options.is_empty() {
        return Err(Problem::TokenOption);
    }
    Ok(Some(JwtOptions {
        method: method.ok_or(Problem::TokenMethod)?,
        public_key: public_key.map(PathBuf::from),
        private_key: private_key.map(PathBuf::from),
        ttl,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_tokens_are_read() {
        assert_eq!(parse("simple"), Ok(None));
        let jwt = parse("jwt,pub-key=a.pub,priv-key=a.key,sign-method=RS256,ttl=10m").unwrap();
        let expected = JwtOptions {
            method: Method::named("RS256").unwrap(),
            public_key: Some("a.pub".into()),
            private_key: Some("a.key".into()),
            ttl: Duration::from_secs(600),
        };
        assert_eq!(jwt, Some(expected));
        let short = parse("jwt,priv-key=s,sign-method=HS256").unwrap().unwrap();
        assert_eq!((short.public_key, short.ttl), (None, JWT_TTL));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, problem) in [
            ("", Problem::TokenKind),
            ("simple,x=y", Problem::TokenKind),
            ("paseto", Problem::TokenKind),
            ("jwt,sign-method", Problem::TokenKind),
            ("jwt", Problem::TokenMethod),
            ("jwt,sign-method=none", Problem::TokenMethod),
            (
                "jwt,sign-method=RS256,sign-method=RS256",
                Problem::TokenOption,
            ),
            ("jwt,sign-method=RS256,key=x", Problem::TokenOption),
            ("jwt,sign-method=RS256,ttl=soon", Problem::Duration),
        ] {
            assert_eq!(parse(text), Err(problem), "{text}");
        }
    }
}
