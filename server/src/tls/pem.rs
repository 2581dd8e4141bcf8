//! What is in the files: certificates, keys, revocation lists.
//!
//! Promise: an error names the file; no message repeats bytes of a key.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};
use zeroize::Zeroizing;

use super::TlsError;
use crate::config::PemPair;

/// Files as they were read together, by path.
#[derive(Default)]
pub(super) struct Files(pub(super) BTreeMap<PathBuf, Zeroizing<Vec<u8>>>);

/// A certificate with what leads to its CA, and its key.
pub(super) struct Pair {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// Who is believed.
pub(super) struct Trusted {
    pub(super) roots: Arc<RootCertStore>,
    /// What an operator named, each good for itself as well.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// Serial numbers that are worth nothing any more.
#[derive(Debug, Default)]
pub(super) struct Revoked(HashSet<Vec<u8>>);

impl Files {
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self, TlsError> {
        let read = |path: &PathBuf| {
            let bytes = std::fs::read(path).map_err(|source| TlsError::Read {
                path: path.clone(),
                source,
            })?;
            Ok((path.clone(), Zeroizing::new(bytes)))
        };
        paths.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    fn get(&self, path: &Path) -> Result<&[u8], TlsError> {
        let bytes = self.0.get(path).ok_or_else(|| TlsError::Read {
            path: path.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        Ok(bytes)
    }

    pub(super) fn certificates(
        &self,
        path: &Path,
    ) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.get(path)?).collect();
        let found = found.map_err(|source| TlsError::Pem {
            path: path.to_owned(),
            source,
        })?;
        if found.is_empty() {
            let path = path.to_owned();
            return Err(TlsError::NoCertificate { path });
        }
        Ok(found)
    }

    pub(super) fn pair(&self, pair: &PemPair) -> Result<Pair, TlsError> {
        let chain = self.certificates(&pair.certificate)?;
        let path = pair.key.clone();
        let key = match PrivateKeyDer::from_pem_slice(self.get(&pair.key)?) {
            Ok(key) => key,
            Err(PemError::NoItemsFound) => return Err(TlsError::NoKey { path }),
            Err(source) => return Err(TlsError::Pem { path, source }),
        };
        Ok(Pair { chain, key })
    }

    pub(super) fn trusted(&self, path: &Path) -> Result<Trusted, TlsError> {
        let certificates = self.certificates(path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots
                .add(certificate.clone())
                .map_err(|source| TlsError::Certificate {
                    path: path.to_owned(),
                    source: Box::new(source),
                })?;
        }
        Ok(Trusted {
            roots: Arc::new(roots),
            certificates,
        })
    }

    /// DER, as etcd takes it, or any number of lists in PEM. As in etcd, a list counts by the
    /// serial numbers in it, whoever signed it and however old it is: it came from the operator.
    pub(super) fn revoked(&self, path: &Path) -> Result<Revoked, TlsError> {
        let not_one = || TlsError::Crl {
            path: path.to_owned(),
        };
        let bytes = self.get(path)?;
        let mut serials = HashSet::new();
        if let Ok((_, list)) = CertificateRevocationList::from_der(bytes) {
            serials.extend(serials_of(&list));
            return Ok(Revoked(serials));
        }
        let mut found = 0;
        for der in CertificateRevocationListDer::pem_slice_iter(bytes) {
            let der = der.map_err(|_| not_one())?;
            let (_, list) =
                CertificateRevocationList::from_der(der.as_ref()).map_err(|_| not_one())?;
            serials.extend(serials_of(&list));
            found += 1;
        }
        if found == 0 {
            return Err(not_one());
        }
        Ok(Revoked(serials))
    }
}

fn serials_of(list: &CertificateRevocationList<'_>) -> Vec<Vec<u8>> {
    let revoked = list.iter_revoked_certificates();
    revoked
        .map(|entry| entry.user_certificate.to_bytes_be())
        .collect()
}

impl Revoked {
    /// The serial number as x509-parser gives it: big-endian, without leading zeros.
    pub(super) fn has(&self, serial: &[u8]) -> bool {
        self.0.contains(serial)
    }
}

/// The system's own, for who names no CA.
pub(super) fn system_roots(flag: &'static str) -> Result<Trusted, TlsError> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read is one that is not believed.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoRoots { flag });
    }
    Ok(Trusted {
        roots: Arc::new(roots),
        certificates: Vec::new(),
    })
}
