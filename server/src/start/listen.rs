//! A member's listeners: one for each place, told what it lets in once TLS is known.
//!
//! Not known here: what is served there.

use super::StartError;
use crate::config::{Config, MemberUrl};
use crate::serve::{self, Listener, Security};
use crate::tls::ServerTls;

/// One for each place; http and https on one address share it.
pub(super) fn listen(urls: &[MemberUrl], config: &Config) -> Result<Vec<Wanted>, StartError> {
    let mut places: Vec<Wanted> = Vec::new();
    for url in urls {
        if let Some(there) = places
            .iter_mut()
            .find(|there| there.listener.url().place() == url.place())
        {
            there.plain |= !url.is_secure();
            there.secure |= url.is_secure();
            continue;
        }
        let listener = serve::listen(url, config.reuse_port).map_err(|e| StartError::Listen {
            url: e.url.to_string(),
            source: e.error,
        })?;
        places.push(Wanted {
            listener,
            plain: !url.is_secure(),
            secure: url.is_secure(),
        });
    }
    Ok(places)
}

/// A listener, and what its URLs want it to let in.
pub(super) struct Wanted {
    listener: Listener,
    plain: bool,
    secure: bool,
}

pub(super) fn secure(wanted: Vec<Wanted>, tls: Option<&ServerTls>) -> Vec<Listener> {
    let secured = |wanted: Wanted| {
        let security = match tls.filter(|_| wanted.secure).cloned() {
            None => Security::Plain,
            Some(tls) if wanted.plain => Security::Either(tls),
            Some(tls) => Security::Tls(tls),
        };
        wanted.listener.secured(security)
    };
    wanted.into_iter().map(secured).collect()
}

/// etcd's words.
pub(super) fn tell_security(listener: &Listener) {
    let (plain, secure) = match listener.security() {
        Security::Plain => (true, false),
        Security::Tls(_) => (false, true),
        Security::Either(_) => (true, true),
    };
    let address = listener
        .local_address()
        .map_or_else(|| listener.url().to_string(), |address| address.to_string());
    if plain {
        tracing::info!(
            traffic = "grpc+http",
            address,
            "serving client traffic insecurely; this is strongly discouraged!"
        );
    }
    if secure {
        tracing::info!(
            traffic = "grpc+http",
            address,
            "serving client traffic securely"
        );
    }
}
