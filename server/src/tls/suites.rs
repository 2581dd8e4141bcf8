//! Versions and cipher suites, as rustls takes them.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use crate::config::{CipherSuite, TlsSettings, TlsVersion, TlsVersions};

/// Everything that rustls offers, for whoever was told nothing.
pub(super) fn provider(suites: Option<&[CipherSuite]>) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if let Some(wanted) = suites {
        let wanted: Vec<_> = wanted.iter().copied().filter_map(of_tls12).collect();
        provider
            .cipher_suites
            .retain(|suite| suite.tls13().is_some() || wanted.contains(suite));
    }
    Arc::new(provider)
}

pub(super) fn provider_of(settings: &TlsSettings) -> Arc<CryptoProvider> {
    provider(settings.cipher_suites.as_deref())
}

pub(super) fn versions(versions: TlsVersions) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::V13, &TLS13), (TlsVersion::V12, &TLS12)];
    let range = versions.least..=versions.most;
    let wanted = all
        .into_iter()
        .filter(|(version, _)| range.contains(version));
    wanted.map(|(_, version)| version).collect()
}

fn of_tls12(suite: CipherSuite) -> Option<SupportedCipherSuite> {
    Some(match suite {
        CipherSuite::EcdheEcdsaAes128Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChacha20 => {
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        }
        CipherSuite::EcdheRsaAes128Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChacha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::OfTls13 => return None,
    })
}
