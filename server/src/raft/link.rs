//! The way to a peer: a connection, with TLS where its URL says so, or, in the simulation, its
//! network.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::config::MemberUrl;
use crate::tls::{Connector, Outbound};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How peers are reached.
pub(super) enum Dial {
    Network {
        election_timeout: Duration,
        way: Outbound,
    },
    #[cfg(test)]
    Simulated(super::sim::Port),
}

impl Dial {
    /// Connects when first used and again after a break.
    pub(super) fn dial(&self, url: &str) -> Result<Link, Status> {
        match self {
            Self::Network {
                election_timeout,
                way,
            } => {
                let channel = channel(url, *election_timeout, way)?;
                Ok(Link(Way::Channel(channel)))
            }
            #[cfg(test)]
            Self::Simulated(port) => Ok(Link(Way::Simulated(port.line_to(url)))),
        }
    }
}

fn channel(url: &str, election_timeout: Duration, way: &Outbound) -> Result<Channel, Status> {
    let undialled = |error: &dyn std::fmt::Display| {
        Status::unavailable(format!("peer URL cannot be dialled: {error}"))
    };
    let url = MemberUrl::parse(url).map_err(|error| undialled(&error))?;
    let connector = Connector::to_peer(&url, way).map_err(|error| undialled(&error))?;
    let endpoint = Endpoint::from_shared(connector.origin())
        .map_err(|error| undialled(&error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        // A peer that is stopped or cut off must not hold calls for ever.
        .http2_keep_alive_interval(election_timeout)
        .keep_alive_timeout(election_timeout * 2)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// Carries calls to one peer.
#[derive(Clone)]
pub struct Link(Way);

#[derive(Clone)]
enum Way {
    Channel(Channel),
    #[cfg(test)]
    Simulated(super::sim::Line),
}

type Answer = Result<http::Response<Body>, StdError>;

impl Service<http::Request<Body>> for Link {
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        match &mut self.0 {
            Way::Channel(channel) => channel.poll_ready(context).map_err(Into::into),
            #[cfg(test)]
            Way::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match &mut self.0 {
            Way::Channel(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { Ok(answer.await?) })
            }
            #[cfg(test)]
            Way::Simulated(line) => Box::pin(line.clone().carry(request)),
        }
    }
}
