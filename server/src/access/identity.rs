//! Who makes a request.

use std::sync::Arc;

/// As told by what came with the request; nothing of it is proven yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// Nothing came.
    #[default]
    Anyone,
    /// A token that some member gave out, or so the client says.
    Token(Secret),
    /// The common name of a certificate that TLS has verified.
    Certificate(Arc<str>),
}

/// Something that lets whoever knows it in; it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Secret(secret.into())
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}
