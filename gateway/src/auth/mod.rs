//! Who may see and do what. Every way in (REST, WebSocket, event stream, Socket.IO) asks [`Auth`] for a
//! [`Principal`] and goes by it alone; what a connection shows is what its filter *and* its principal
//! want.

mod jwt;
mod need;
mod principal;
mod tokens;
mod who;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use axum::http::{HeaderMap, header};
use haltline_common::{Link, clock, config::GatewaySettings, types::access::TOKEN_PREFIX};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use need::Need;
pub(crate) use principal::{Principal, Role};
pub(crate) use who::Who;

/// The cookie of somebody who logged in by the page.
pub(crate) const COOKIE: &str = "haltline_session";
/// How long a start may wait for the tokens.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// There is no token where one is needed.
    Missing,
    /// The token is not good (any more): a sentence for its holder.
    Invalid(String),
    /// It cannot be told now; trying again may help.
    Unavailable(String),
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("a token is needed"),
            Self::Invalid(why) | Self::Unavailable(why) => f.write_str(why),
        }
    }
}

/// Knows tokens and sessions.
pub(crate) struct Auth {
    required: bool,
    tokens: Arc<tokens::Tokens>,
    jwt: Option<jwt::Jwt>,
    changes: watch::Sender<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Auth {
    /// As the settings say.
    ///
    /// # Errors
    /// When keys or tokens cannot be read.
    pub async fn open(link: &Link, settings: &GatewaySettings) -> anyhow::Result<Self> {
        let changes = watch::Sender::new(0);
        let jwt = jwt::Jwt::open(&settings.jwt).map_err(anyhow::Error::msg)?;
        let (tokens, task) = tokens::Tokens::follow(link, changes.clone());
        let read = tokens.ready(READ_WITHIN).await;
        read.then_some(()).context("the bucket of tokens cannot be read: a coordinator or `haltline ensure` makes it")?;
        Ok(Self { required: settings.auth_required(), tokens, jwt, changes, _task: task })
    }

    /// Whether nobody gets in without a token.
    pub fn required(&self) -> bool {
        self.required
    }

    /// Who sends this request, by its `Authorization` header or cookie. `Denied::Missing` if it has
    /// neither and one is needed: a WebSocket may still say it in its `hello`.
    pub async fn by_headers(&self, headers: &HeaderMap) -> Result<Principal, Denied> {
        match (bearer(headers)?, cookie(headers)) {
            (Some(token), _) => self.by_token(token).await,
            (None, Some(token)) => self.by_token(token).await,
            (None, None) if self.required => Err(Denied::Missing),
            (None, None) => Ok(Principal::developer()),
        }
    }

    /// Whose this token is.
    pub async fn by_token(&self, token: &str) -> Result<Principal, Denied> {
        if token.is_empty() {
            return Err(Denied::Missing);
        }
        match &self.jwt {
            _ if token.starts_with(TOKEN_PREFIX) => self.tokens.verify(token),
            Some(jwt) => jwt.verify(token),
            None => Err(Denied::Invalid("the token is no API token, and this gateway takes no others".into())),
        }
    }

    /// Whether someone who was let in still may: not revoked, not expired.
    pub fn still(&self, principal: &Principal) -> Result<(), Denied> {
        if principal.until.is_some_and(|at| at <= now()) {
            return Err(Denied::Invalid("the token has expired".into()));
        }
        self.tokens.still(principal).unwrap_or(Ok(()))
    }

    /// Changes when somebody's rights may have ended: long connections then ask [`Auth::still`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// The time of now, as principals have theirs.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(clock::now().0).unwrap_or(0))
}

/// The token of an `Authorization` header. One that is there and no bearer's is refused: it was meant
/// for something.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => Ok(Some(token.trim())),
        _ => Err(Denied::Invalid("the header Authorization must be `Bearer TOKEN`".into())),
    }
}

/// The token of the session's cookie.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut pairs = all.flat_map(|v| v.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, value)| *name == COOKIE && !value.is_empty()).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_where_they_may_be() {
        let with = |name: header::HeaderName, value: &'static str| HeaderMap::from_iter([(name, value.parse().expect("a value"))]);
        assert_eq!(bearer(&with(header::AUTHORIZATION, "Bearer hlt_x")), Ok(Some("hlt_x")));
        assert_eq!(bearer(&with(header::AUTHORIZATION, "bearer  x ")), Ok(Some("x")));
        for bad in ["Basic eDp5", "Bearer", "Bearer ", "hlt_x"] {
            assert!(matches!(bearer(&with(header::AUTHORIZATION, bad)), Err(Denied::Invalid(_))), "{bad}");
        }
        assert_eq!(bearer(&HeaderMap::new()), Ok(None));
        assert_eq!(cookie(&with(header::COOKIE, "a=b; haltline_session=t")), Some("t"));
        assert_eq!(cookie(&with(header::COOKIE, "haltline_session=; xhaltline_session=t")), None);
    }
}
