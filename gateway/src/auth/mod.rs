//! Who may see and do what. Every way in (REST, WebSocket, event stream, Socket.IO) asks [`Auth`] for a
//! [`Principal`] and goes by it alone; what a connection shows is what its filter *and* its principal
//! want.
#![allow(dead_code, unused_imports, reason = "REST and the event stream begin to use it")]

mod need;
mod principal;
mod who;

use axum::http::HeaderMap;
use tokio::sync::watch;

pub(crate) use need::Need;
pub(crate) use principal::{Principal, Role, Scopes};
pub(crate) use who::Who;

/// The cookie of somebody who logged in by the page.
pub(crate) const COOKIE: &str = "haltline_session";

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
    changes: watch::Sender<u64>,
}

impl Auth {
    /// Lets everyone in as admin: for a developer's machine.
    pub fn open() -> Self {
        Self { changes: watch::Sender::new(0) }
    }

    /// Whether nobody gets in without a token.
    pub fn required(&self) -> bool {
        false
    }

    /// Who sends this request, by its `Authorization` header or cookie. `Denied::Missing` if it has
    /// neither and one is needed: a WebSocket may still say it in its `hello`.
    pub async fn by_headers(&self, _headers: &HeaderMap) -> Result<Principal, Denied> {
        Ok(Principal::developer())
    }

    /// Whose this token is.
    pub async fn by_token(&self, _token: &str) -> Result<Principal, Denied> {
        Ok(Principal::developer())
    }

    /// Whether someone who was let in still may: not revoked, not expired.
    pub fn still(&self, _principal: &Principal) -> Result<(), Denied> {
        Ok(())
    }

    /// Changes when somebody's rights may have ended: long connections then ask [`Auth::still`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
