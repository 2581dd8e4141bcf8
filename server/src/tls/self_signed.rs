//! The certificate that a member makes for itself when told to.
//!
//! It only encrypts: nobody vouches for it, so whoever stands between two ends can put in its own.
//! Where etcd puts it, `fixtures/{client,peer}` below the data directory, as `cert.pem` and
//! `key.pem`; made once and kept, since clients may have been told to believe it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

use super::TlsError;
use crate::clock;
use crate::config::{PemPair, SelfSigned};

const DAYS_OF_A_YEAR: u64 = 365;
const SECONDS_OF_A_DAY: u64 = 24 * 60 * 60;

pub(super) fn files(asked: &SelfSigned) -> PemPair {
    PemPair {
        certificate: asked.directory.join("cert.pem"),
        key: asked.directory.join("key.pem"),
    }
}

/// Makes both files unless both are there. A crash in between leaves one, and both are made anew.
pub(super) fn ensure(asked: &SelfSigned) -> Result<(), TlsError> {
    let pair = files(asked);
    if pair.certificate.exists() && pair.key.exists() {
        return Ok(());
    }
    let (certificate, key) = make(asked).map_err(|source| TlsError::Make {
        path: asked.directory.clone(),
        source,
    })?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Write { path, source }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&asked.directory)
        .map_err(failed(&asked.directory))?;
    write(&pair.key, key.as_bytes(), 0o600).map_err(failed(&pair.key))?;
    write(&pair.certificate, certificate.as_bytes(), 0o644).map_err(failed(&pair.certificate))?;
    tracing::warn!(
        cert_file = %pair.certificate.display(),
        years = asked.years,
        "automatically generate certificates: they encrypt, and prove nobody's identity"
    );
    Ok(())
}

fn make(asked: &SelfSigned) -> Result<(String, zeroize::Zeroizing<String>), rcgen::Error> {
    let mut params = CertificateParams::new(asked.hosts.clone())?;
    let now = UNIX_EPOCH + Duration::from_millis(clock::wall_ms().unsigned_abs());
    let days = u64::from(asked.years) * DAYS_OF_A_YEAR;
    params.not_before = now.into();
    params.not_after = (now + Duration::from_secs(days * SECONDS_OF_A_DAY)).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "sealkv");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((
        certificate.pem(),
        zeroize::Zeroizing::new(key.serialize_pem()),
    ))
}

/// Whole or not at all.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_made_once_its_key_is_private_and_a_lost_half_makes_both_anew() {
        let directory = tempfile::tempdir().unwrap();
        let asked = SelfSigned {
            directory: directory.path().join("fixtures/client"),
            hosts: vec!["localhost".into(), "10.0.0.1".into()],
            years: 1,
        };
        ensure(&asked).unwrap();
        let pair = files(&asked);
        let mode = fs::metadata(&pair.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let first = fs::read(&pair.certificate).unwrap();
        ensure(&asked).unwrap();
        assert_eq!(fs::read(&pair.certificate).unwrap(), first);
        fs::remove_file(&pair.key).unwrap();
        ensure(&asked).unwrap();
        assert_ne!(fs::read(&pair.certificate).unwrap(), first);
    }
}
