//! Whether a peer comes from where its certificate says it lives.
//!
//! etcd's rule (`client/pkg/transport`, `checkCertSAN`): a certificate that names addresses or
//! hosts is good only from one of those addresses, or from an address that one of the hosts has.
//! Names of an address are asked for first, which alone can satisfy a wildcard.

use std::net::IpAddr;

use super::leaf::Leaf;

/// etcd's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressMismatch {
    #[error("x509: certificate is valid for {valid}, not {remote}")]
    Addresses { valid: String, remote: IpAddr },
    #[error("tls: {:?} does not match any of DNSNames {names:?}", remote.to_string())]
    Names { names: Vec<String>, remote: IpAddr },
}

pub(super) async fn check(leaf: &Leaf, remote: IpAddr) -> Result<(), AddressMismatch> {
    // A listener on both families sees the other one's addresses in its own.
    let remote = remote.to_canonical();
    if leaf.addresses.contains(&remote) {
        return Ok(());
    }
    if leaf.dns_names.is_empty() {
        if leaf.addresses.is_empty() {
            return Ok(());
        }
        let valid = leaf.addresses.iter().map(IpAddr::to_string);
        let valid = valid.collect::<Vec<_>>().join(", ");
        return Err(AddressMismatch::Addresses { valid, remote });
    }
    if has_name(&leaf.dns_names, remote).await || has_address(&leaf.dns_names, remote).await {
        return Ok(());
    }
    let names = leaf.dns_names.clone();
    Err(AddressMismatch::Names { names, remote })
}

async fn has_name(names: &[String], remote: IpAddr) -> bool {
    let found = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&remote)).await;
    match found {
        Ok(Ok(found)) => is_one_of(&found, names),
        _ => false,
    }
}

fn is_one_of(found: &str, names: &[String]) -> bool {
    let found = found.trim_end_matches('.');
    names.iter().any(|name| match name.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => found.ends_with(suffix),
        _ => found == name,
    })
}

async fn has_address(names: &[String], remote: IpAddr) -> bool {
    for name in names.iter().filter(|name| !name.starts_with("*.")) {
        if let Ok(mut found) = tokio::net::lookup_host((name.as_str(), 0)).await
            && found.any(|address| address.ip().to_canonical() == remote)
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(dns_names: &[&str], addresses: &[&str]) -> Leaf {
        Leaf {
            common_name: None,
            dns_names: dns_names.iter().map(|&name| name.to_owned()).collect(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[tokio::test]
    async fn a_peer_comes_from_where_its_certificate_says() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        check(&leaf(&[], &[]), here).await.unwrap();
        check(&leaf(&[], &["127.0.0.1"]), here).await.unwrap();
        check(&leaf(&[], &["127.0.0.1"]), mapped).await.unwrap();
        check(&leaf(&["localhost"], &["10.0.0.1"]), here)
            .await
            .unwrap();
        assert_eq!(
            check(&leaf(&[], &["10.0.0.1", "::1"]), here)
                .await
                .unwrap_err()
                .to_string(),
            "x509: certificate is valid for 10.0.0.1, ::1, not 127.0.0.1"
        );
        assert_eq!(
            check(&leaf(&["other.invalid"], &[]), here)
                .await
                .unwrap_err()
                .to_string(),
            r#"tls: "127.0.0.1" does not match any of DNSNames ["other.invalid"]"#
        );
    }

    #[test]
    fn a_wildcard_stands_for_what_ends_with_it() {
        let names = ["*.example.org".to_owned(), "a.example.com".to_owned()];
        assert!(is_one_of("m1.example.org.", &names));
        assert!(is_one_of("a.example.com", &names));
        assert!(!is_one_of("example.org", &names));
        assert!(!is_one_of("b.example.com", &names));
    }
}
