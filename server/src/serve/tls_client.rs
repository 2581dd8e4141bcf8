//! What a verified client certificate says.

/// Among the extensions of every request that came over a connection with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsClient {
    pub common_name: Option<String>,
}
