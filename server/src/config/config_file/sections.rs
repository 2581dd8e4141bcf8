//! What the keys of etcd's file are called as flags, and which of them are special.

/// Keys of a section, and the flags that they are.
pub(super) type Section = &'static [(&'static str, &'static str)];

/// What etcd groups in its file although the flags are flat; a section in a section has both names.
pub(super) const SECTIONS: &[(&str, Section)] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            (
                "skip-client-san-verification",
                "peer-skip-client-san-verification",
            ),
        ],
    ),
    (
        "socket-options",
        &[
            ("reuse-port", "socket-reuse-port"),
            ("reuse-address", "socket-reuse-address"),
        ],
    ),
    ("discovery-config", &[("token", "discovery-token")]),
    (
        "discovery-config.client",
        &[
            ("endpoints", "discovery-endpoints"),
            ("dial-timeout", "discovery-dial-timeout"),
            ("request-timeout", "discovery-request-timeout"),
            ("keepalive-time", "discovery-keepalive-time"),
            ("keepalive-timeout", "discovery-keepalive-timeout"),
        ],
    ),
    (
        "discovery-config.client.secure",
        &[
            ("cert", "discovery-cert"),
            ("key", "discovery-key"),
            ("cacert", "discovery-cacert"),
            ("insecure-transport", "discovery-insecure-transport"),
            (
                "insecure-skip-tls-verify",
                "discovery-insecure-skip-tls-verify",
            ),
        ],
    ),
    (
        "discovery-config.client.auth",
        &[
            ("username", "discovery-user"),
            ("password", "discovery-password"),
        ],
    ),
];

/// Flags whose value is a list in the file.
pub(super) const LISTS: &[&str] = &[
    "log-outputs",
    "discovery-endpoints",
    "cipher-suites",
    "client-cert-allowed-hostname",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
];

/// Flags for which an empty text means the default, as in etcd's file.
pub(super) const DEFAULT_IF_EMPTY: &[&str] = &[
    "data-dir",
    "listen-peer-urls",
    "listen-client-urls",
    "listen-client-http-urls",
    "listen-metrics-urls",
    "initial-advertise-peer-urls",
    "advertise-client-urls",
    "initial-cluster-state",
    "cors",
    "host-whitelist",
];

/// Keys of the proxy, the discovery and the store of etcd 2, which etcd's own sample file still
/// carries and etcd 3.7 passes over; each is taken with a warning.
pub(super) const RETIRED: &[&str] = &[
    "proxy",
    "proxy-failure-wait",
    "proxy-refresh-interval",
    "proxy-dial-timeout",
    "proxy-write-timeout",
    "proxy-read-timeout",
    "discovery-fallback",
    "discovery-proxy",
    "enable-v2",
    "debug",
    "log-package-levels",
];

/// The section in which etcd's file has the flag, if it is not at the top.
pub(super) fn section_of(flag: &str) -> Option<&'static str> {
    let (section, _) = SECTIONS
        .iter()
        .find(|(_, keys)| keys.iter().any(|(_, name)| *name == flag))?;
    Some(section)
}
