//! The security flags, each with what it comes to.

use super::*;
use crate::config::asking::{ask, mistakes};

const HTTPS: [&str; 2] = [
    "--listen-client-urls=https://127.0.0.1:1",
    "--advertise-client-urls=https://127.0.0.1:1",
];
const PAIR: [&str; 2] = ["--cert-file=/c", "--key-file=/k"];

#[test]
fn every_flag_of_a_side_reaches_it() {
    let mut flags = [HTTPS, PAIR].concat();
    flags.extend([
        "--trusted-ca-file=/ca",
        "--client-cert-auth",
        "--client-crl-file=/crl",
        "--client-cert-allowed-hostname=a.example,10.0.0.1",
        "--listen-peer-urls=https://127.0.0.1:2",
        "--initial-advertise-peer-urls=https://127.0.0.1:2",
        "--peer-cert-file=/pc",
        "--peer-key-file=/pk",
        "--peer-client-cert-file=/dc",
        "--peer-client-key-file=/dk",
        "--peer-trusted-ca-file=/pca",
        "--peer-client-cert-auth",
        "--peer-crl-file=/pcrl",
        "--peer-cert-allowed-cn=one,two",
        "--tls-min-version=TLS1.2",
        "--tls-max-version=TLS1.3",
        "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    ]);
    let config = ask(&flags).unwrap();
    let (client, peer) = (config.client_tls, config.peer_tls);
    assert_eq!(
        client.certificate,
        OwnCertificate::Files(PemPair {
            certificate: "/c".into(),
            key: "/k".into()
        })
    );
    assert_eq!(client.trusted_ca, Some("/ca".into()));
    assert_eq!(client.crl, Some("/crl".into()));
    assert!(client.client_cert_auth && !client.check_client_address);
    assert_eq!(
        client.allowed,
        AllowedNames::Hostnames(vec!["a.example".into(), "10.0.0.1".into()])
    );
    assert_eq!(
        peer.allowed,
        AllowedNames::CommonNames(vec!["one".into(), "two".into()])
    );
    assert!(peer.check_client_address);
    assert_eq!(peer.dialling_certificate.unwrap().key, PathBuf::from("/dk"));
    assert_eq!(
        peer.cipher_suites,
        Some(vec![CipherSuite::EcdheRsaAes128Gcm])
    );
}

#[test]
fn a_secure_url_needs_a_certificate() {
    assert_eq!(
        mistakes(&HTTPS),
        [
            "--listen-client-urls: TLS key/cert (--cert-file, --key-file) must be provided for \
          client url https://127.0.0.1:1 with HTTPS scheme"
        ]
    );
    assert_eq!(
        mistakes(&["--listen-peer-urls=https://127.0.0.1:1"]),
        [
            "--listen-peer-urls: cannot listen on TLS for https://127.0.0.1:1: KeyFile and \
          CertFile are not presented"
        ]
    );
    ask(&[&HTTPS[..], &["--auto-tls"]].concat()).unwrap();
}

#[test]
fn half_a_pair_is_refused_with_etcds_text() {
    assert_eq!(
        mistakes(&["--cert-file=/c"]),
        ["--cert-file: KeyFile and CertFile must both be present[key: , cert: /c]"]
    );
    assert_eq!(mistakes(&["--peer-client-key-file=/k"]).len(), 1);
    ask(&["--cert-file=", "--key-file="]).unwrap();
}

#[test]
fn suites_and_versions_are_gos() {
    for (flags, says) in [
        (
            &["--cipher-suites=TLS_HOPE"][..],
            "--cipher-suites: unexpected TLS cipher suite \"TLS_HOPE\"",
        ),
        (
            &["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"],
            "too weak to be offered here",
        ),
        (
            &[
                "--tls-min-version=TLS1.3",
                "--cipher-suites=TLS_AES_128_GCM_SHA256",
            ],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            &["--tls-min-version=TLS1.1"],
            "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
    ] {
        let found = mistakes(flags);
        assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
    }
    let config = ask(&["--tls-max-version=", "--tls-min-version="]).unwrap();
    let TlsVersions { least, most } = config.client_tls.versions;
    assert_eq!((least, most), (TlsVersion::V12, TlsVersion::V13));
}

#[test]
fn protection_that_could_not_work_is_refused() {
    for flags in [
        &["--auto-tls", "--client-cert-auth"][..],
        &["--auto-tls", "--trusted-ca-file=/ca"],
        &["--peer-auto-tls", "--peer-crl-file=/crl"],
        &["--peer-auto-tls", "--peer-cert-allowed-cn=a"],
        &["--client-crl-file=/crl"],
        &["--client-cert-allowed-hostname=a"],
        &["--peer-crl-file=/crl"],
        &["--peer-cert-allowed-cn=a"],
        &["--peer-cert-allowed-hostname=a"],
        &["--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"],
        &["--peer-cert-allowed-hostname=a b"],
        &["--auto-tls", "--self-signed-cert-validity=0"],
        &["--auto-tls", "--self-signed-cert-validity=100000"],
    ] {
        let found = mistakes(flags);
        let of = |mistake: &String, flag: &&str| {
            let name = flag.split('=').next().unwrap();
            mistake.starts_with(&format!("{name}:"))
        };
        let mut named = found.iter().map(|it| flags.iter().any(|flag| of(it, flag)));
        assert!(!found.is_empty() && named.all(|it| it), "{found:?}");
    }
}

#[test]
fn own_certificates_are_made_below_the_data_directory_for_the_hosts_listened_on() {
    let flags = [
        &HTTPS[..],
        &[
            "--auto-tls",
            "--data-dir=/d",
            "--self-signed-cert-validity=3",
        ],
    ];
    let config = ask(&flags.concat()).unwrap();
    assert_eq!(
        config.client_tls.certificate,
        OwnCertificate::SelfSigned(SelfSigned {
            directory: "/d/fixtures/client".into(),
            hosts: vec!["127.0.0.1".into()],
            years: 3
        })
    );
    assert_eq!(config.peer_tls.certificate, OwnCertificate::None);
}
