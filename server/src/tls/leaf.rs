//! What an end's own certificate says of it.

use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate};

/// As far as anything here asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The last one, as Go takes it; empty counts as none.
    pub(super) common_name: Option<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

/// `None` if it cannot be read, which TLS has ruled out for a certificate that it verified.
pub(super) fn read(der: &CertificateDer<'_>) -> Option<Leaf> {
    let (_, certificate) = X509Certificate::from_der(der.as_ref()).ok()?;
    let common_name = certificate.subject().iter_common_name().last();
    let mut leaf = Leaf {
        common_name: common_name
            .and_then(|name| name.as_str().ok())
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        ..Leaf::default()
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => leaf.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => leaf.addresses.extend(address(bytes)),
            _ => {}
        }
    }
    Some(leaf)
}

/// Big-endian, without leading zeros.
pub(super) fn serial(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der.as_ref()).ok()?;
    Some(certificate.tbs_certificate.serial.to_bytes_be())
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    Client,
    Server,
}

/// Whether a certificate that needs nobody to vouch for it may be used so, at a time.
pub(super) fn may_be(usage: Usage, der: &CertificateDer<'_>, now: UnixTime) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der.as_ref()) else {
        return false;
    };
    let now = i64::try_from(now.as_secs())
        .ok()
        .and_then(|now| ASN1Time::from_timestamp(now).ok());
    let in_time = now.is_some_and(|now| certificate.validity().is_valid_at(now));
    let for_this = match certificate.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(extension)) => {
            let usages = extension.value;
            usages.any
                || match usage {
                    Usage::Client => usages.client_auth,
                    Usage::Server => usages.server_auth,
                }
        }
        Err(_) => false,
    };
    in_time && for_this
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
