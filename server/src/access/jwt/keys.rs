//! The key of a method: what signs, what verifies.
//!
//! Promise: a private and a public key that were both given belong together.
//!
//! Source: RFC 7468 (PEM), RFC 5958, RFC 5915 and RFC 8017 (private keys), RFC 5280 (public keys
//! and certificates); etcd 3.7.1, `server/auth/options.go`.

use std::path::PathBuf;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};
use aws_lc_rs::{hmac, rsa};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use x509_parser::pem::Pem;

use super::method::{Family, Method};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{}: {source}", path.display())]
    Unread {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("this method needs a key and none is given")]
    Missing,
    #[error("the private key is none of this method")]
    BadPrivate,
    #[error("the public key is none of this method")]
    BadPublic,
    #[error("public and private keys don't match")]
    Mismatch,
}

pub(super) struct Keys {
    signer: Option<Signer>,
    verifier: Verifier,
}

enum Signer {
    Hmac(Box<hmac::Key>),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

enum Verifier {
    Hmac(Box<hmac::Key>),
    Public {
        algorithm: &'static dyn VerificationAlgorithm,
        key: Vec<u8>,
    },
}

impl Keys {
    pub(super) fn new(
        method: Method,
        public: Option<&[u8]>,
        private: Option<&[u8]>,
    ) -> Result<Self, KeyError> {
        let family = method.family();
        let algorithm = match family {
            Family::Hmac(algorithm) => return Self::hmac(algorithm, private),
            Family::Rsa(_, verify) | Family::Ecdsa(_, verify) | Family::Ed25519(verify) => verify,
        };
        let signer = private
            .filter(|pem| !pem.is_empty())
            .map(|pem| Signer::read(&family, pem))
            .transpose()?;
        let public = public
            .filter(|pem| !pem.is_empty())
            .map(|pem| public_key(&family, pem))
            .transpose()?;
        let key = match (&public, &signer) {
            (Some(given), _) => given.clone(),
            (None, Some(signer)) => signer.public_key(),
            (None, None) => return Err(KeyError::Missing),
        };
        let verifier = Verifier::Public { algorithm, key };
        let keys = Keys { signer, verifier };
        keys.belong_together(public.is_some())?;
        Ok(keys)
    }

    fn hmac(algorithm: hmac::Algorithm, private: Option<&[u8]>) -> Result<Self, KeyError> {
        let secret = private.filter(|secret| !secret.is_empty());
        let key = Box::new(hmac::Key::new(algorithm, secret.ok_or(KeyError::Missing)?));
        Ok(Keys {
            signer: Some(Signer::Hmac(key.clone())),
            verifier: Verifier::Hmac(key),
        })
    }

    /// What one signs the other must verify, or it is no key of the method at all.
    fn belong_together(&self, public_given: bool) -> Result<(), KeyError> {
        const PROBE: &[u8] = b"sealkv";
        match self.sign(PROBE) {
            Some(signature) if self.verifies(PROBE, &signature) => Ok(()),
            Some(_) if public_given => Err(KeyError::Mismatch),
            Some(_) => Err(KeyError::BadPrivate),
            None if self.signer.is_some() => Err(KeyError::BadPrivate),
            None => Ok(()),
        }
    }

    /// None without a private key.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self.signer.as_ref()? {
            Signer::Hmac(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Signer::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Signer::Ecdsa(key) => Some(key.sign(&random, message).ok()?.as_ref().to_vec()),
            Signer::Ed25519(key) => Some(key.try_sign(message).ok()?.as_ref().to_vec()),
        }
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            Verifier::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Verifier::Public { algorithm, key } => UnparsedPublicKey::new(*algorithm, key)
                .verify(message, signature)
                .is_ok(),
        }
    }
}

impl Signer {
    fn read(family: &Family, pem: &[u8]) -> Result<Self, KeyError> {
        let sections = sections(pem);
        let mut keys = sections
            .iter()
            .filter_map(|(kind, der)| match (family, kind) {
                (Family::Rsa(encoding, _), SectionKind::RsaPrivateKey) => {
                    Some(Signer::Rsa(RsaKeyPair::from_der(der).ok()?, *encoding))
                }
                (Family::Rsa(encoding, _), SectionKind::PrivateKey) => {
                    Some(Signer::Rsa(RsaKeyPair::from_pkcs8(der).ok()?, *encoding))
                }
                (
                    Family::Ecdsa(algorithm, _),
                    SectionKind::EcPrivateKey | SectionKind::PrivateKey,
                ) => {
                    let key = EcdsaKeyPair::from_private_key_der(algorithm, der);
                    Some(Signer::Ecdsa(key.ok()?))
                }
                (Family::Ed25519(_), SectionKind::PrivateKey) => {
                    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
                    Some(Signer::Ed25519(key.ok()?))
                }
                _ => None,
            });
        keys.next().ok_or(KeyError::BadPrivate)
    }

    fn public_key(&self) -> Vec<u8> {
        match self {
            Signer::Hmac(_) => Vec::new(),
            Signer::Rsa(key, _) => key.public_key().as_ref().to_vec(),
            Signer::Ecdsa(key) => key.public_key().as_ref().to_vec(),
            Signer::Ed25519(key) => key.public_key().as_ref().to_vec(),
        }
    }
}

/// Out of a public key or a certificate, in the form that verifying takes.
fn public_key(family: &Family, pem: &[u8]) -> Result<Vec<u8>, KeyError> {
    // Not by `sections`, which passes over what RFC 8017 calls an RSA PUBLIC KEY.
    let blocks = Pem::iter_from_buffer(pem).filter_map(Result::ok);
    let mut infos = blocks.filter_map(|block| match (block.label.as_str(), family) {
        ("PUBLIC KEY", _) | ("RSA PUBLIC KEY", Family::Rsa(..)) => Some(block.contents),
        ("CERTIFICATE", _) => {
            let certificate = block.parse_x509().ok()?;
            Some(certificate.public_key().raw.to_vec())
        }
        _ => None,
    });
    let info = infos.next().ok_or(KeyError::BadPublic)?;
    match family {
        Family::Rsa(..) => {
            let key = rsa::PublicKey::from_der(&info).map_err(|_| KeyError::BadPublic)?;
            Ok(key.as_ref().to_vec())
        }
        Family::Ecdsa(..) | Family::Ed25519(_) | Family::Hmac(_) => Ok(info),
    }
}

fn sections(pem: &[u8]) -> Vec<(SectionKind, Vec<u8>)> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .collect()
}
