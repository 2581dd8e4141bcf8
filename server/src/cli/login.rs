//! Who asks, where authentication is on: a login at the connected endpoint, and its token with
//! every request.
//!
//! Promise: a password is sent once per connection and never printed; without `--user` requests
//! go out as they are, or as whom the client's certificate names.
//! Not known here: what is asked.

use clap::Args;
use proto::etcdserverpb::AuthenticateRequest;
use proto::etcdserverpb::auth_client::AuthClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A connection whose requests say who asks.
pub(super) type Session = InterceptedService<Channel, Token>;

/// etcdctl's.
#[derive(Clone, Args)]
pub(super) struct Login {
    /// Log in: NAME:PASSWORD, or NAME with the password from --password.
    #[arg(
        long,
        global = true,
        env = "SEALKV_USER",
        value_name = "NAME[:PASSWORD]"
    )]
    user: Option<String>,
    /// The password of --user; better in the variable, where other users of this machine do not
    /// see it.
    #[arg(long, global = true, env = "SEALKV_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let given = (self.user.is_some(), self.password.is_some());
        write!(f, "Login {given:?}")
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error(
        "--user: {name} has no password: write NAME:PASSWORD, or set --password or SEALKV_PASSWORD"
    )]
    NoPassword { name: String },
    #[error("--password needs --user")]
    NoUser,
    #[error("the server's token is no text")]
    Token,
    #[error("cannot log in: {}", .0.message())]
    Refused(Box<Status>),
}

/// Goes with every request; none for somebody who has not logged in.
#[derive(Clone)]
pub(super) struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

impl Login {
    /// Whether anything was said about who asks.
    pub(super) fn is_asked_for(&self) -> bool {
        self.user.is_some()
    }

    fn credentials(&self) -> Result<Option<AuthenticateRequest>, LoginError> {
        let (name, password) = match (&self.user, &self.password) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(LoginError::NoUser),
            // As etcdctl: with --password a colon is part of the name.
            (Some(name), Some(password)) => (name.clone(), password.clone()),
            (Some(both), None) => match both.split_once(':') {
                Some((name, password)) => (name.to_owned(), password.to_owned()),
                None => return Err(LoginError::NoPassword { name: both.clone() }),
            },
        };
        Ok(Some(AuthenticateRequest { name, password }))
    }

    /// Logs in, if there is somebody to log in.
    pub(super) async fn at(&self, channel: Channel) -> Result<Session, LoginError> {
        let token = match self.credentials()? {
            None => None,
            Some(credentials) => {
                let answer = AuthClient::new(channel.clone())
                    .authenticate(credentials)
                    .await;
                let token = match answer {
                    Ok(answer) => answer.into_inner().token,
                    // As etcdctl: nobody needs to log in there.
                    Err(status) if status.message() == AUTH_OFF => String::new(),
                    Err(status) => return Err(LoginError::Refused(Box::new(status))),
                };
                let mut token = MetadataValue::try_from(token).map_err(|_| LoginError::Token)?;
                token.set_sensitive(true);
                Some(token).filter(|token| !token.is_empty())
            }
        };
        Ok(InterceptedService::new(channel, Token(token)))
    }
}

const AUTH_OFF: &str = "etcdserver: authentication is not enabled";

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: Option<&str>, password: Option<&str>) -> Login {
        Login {
            user: user.map(str::to_owned),
            password: password.map(str::to_owned),
        }
    }

    #[test]
    fn a_password_comes_behind_the_name_or_by_itself() {
        for given in [login(Some("a:b:c"), None), login(Some("a"), Some("b:c"))] {
            let asked = given.credentials().unwrap().unwrap();
            assert_eq!((&asked.name[..], &asked.password[..]), ("a", "b:c"));
        }
        assert!(login(None, None).credentials().unwrap().is_none());
        assert!(login(Some("a"), None).credentials().is_err());
        assert!(login(None, Some("b")).credentials().is_err());
    }

    #[test]
    fn what_is_printed_of_a_login_holds_no_password() {
        let shown = format!("{:?}", login(Some("root:secret"), Some("secret")));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
