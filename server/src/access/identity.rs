//! Who makes a request.

/// As told by what came with the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Authentication is off: a client is a client.
    Anyone,
}
