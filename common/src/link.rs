//! The connection to NATS, with the settings that the traps of its defaults call for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, jetstream};
use haltline_types::Names;

use crate::sync::SyncState;

/// How long a service tries to get its first connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long an answer to a question is waited for, before it is asked again. Questions and answers are lost with a connection, and with
/// the server of several that had them; nothing says so.
pub const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer is waited for where it was asked for before: a busy server may take its time.
const ANSWERED_AT_LAST: Duration = Duration::from_secs(3);

/// Asks, with the time in which an answer is waited for; and once more what failed as `silent` tells.
///
/// # Errors
/// As the last question.
pub async fn twice<T, E, F: Future<Output = Result<T, E>>>(silent: impl Fn(&E) -> bool, ask: impl Fn(Duration) -> F) -> Result<T, E> {
    match ask(ANSWERED_WITHIN).await {
        Err(e) if silent(&e) => ask(ANSWERED_AT_LAST).await,
        answer => answer,
    }
}

/// A connection and the names to use on it. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    /// The connection.
    pub client: Client,
    /// JetStream on it.
    pub js: jetstream::Context,
    /// Names on the server.
    pub names: Names,
    /// When the server syncs writes.
    pub sync: Arc<SyncState>,
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to nats-server at {url}")]
pub struct ConnectError {
    url: String,
    #[source]
    source: async_nats::ConnectError,
}

impl Link {
    /// Connects to `url` (several addresses separated by commas are tried in turn).
    ///
    /// The client reconnects for ever; this first connection is tried for five seconds by services, once by
    /// commands.
    pub async fn connect(url: &str, names: Names, role: &str) -> Result<Self, ConnectError> {
        let seen = Arc::new(AtomicU64::new(0));
        let role_name = role.to_owned();
        let options = ConnectOptions::new()
            .name(format!("haltline {role}"))
            // 60 s by default: a half-open link would take minutes to notice.
            .ping_interval(Duration::from_secs(5))
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(Some(Duration::from_secs(5)))
            // Outputs are pipelined: a full command queue would stall the loop that fills it.
            .client_capacity(16_384)
            .subscription_capacity(65_536)
            // At most a second apart: what waits for the server is a halted or stalled fleet.
            .reconnect_delay_callback(|n| Duration::from_millis((20 * n as u64).min(1000)))
            .event_callback(move |event| {
                let seen = seen.clone();
                let role = role_name.clone();
                async move {
                    match event {
                        Event::Connected => {
                            let n = seen.fetch_add(1, Ordering::Release);
                            if n > 0 {
                                tracing::info!(role, "connected to nats-server again");
                            }
                        }
                        Event::Disconnected => tracing::warn!(role, "connection to nats-server lost; reconnecting"),
                        Event::SlowConsumer(sid) => {
                            tracing::warn!(role, sid, "subscription too slow: messages dropped, its tail will read them again");
                        }
                        Event::ServerError(e) => tracing::warn!(role, error = %e, "nats-server reports an error"),
                        other => tracing::debug!(role, event = %other, "connection event"),
                    }
                }
            });
        let (addresses, login) = split_login(url);
        let options = match login {
            Some((user, Some(password))) => options.user_and_password(user, password),
            // A user without a password is a token, as in the nats CLI.
            Some((token, None)) => options.token(token),
            None => options,
        };
        let client = first(options, addresses, role).await.map_err(|source| ConnectError { url: redact(url), source })?;
        let js = jetstream::new(client.clone());
        Ok(Self { client, js, names, sync: Arc::default() })
    }

    /// JetStream, which waits for an answer for `within`.
    pub fn js_within(&self, within: Duration) -> jetstream::Context {
        let mut js = self.js.clone();
        js.set_timeout(within);
        js
    }

    /// How often this connection was made; changes tell that unanswered writes may be lost. Counted
    /// where the connection is made, so it has changed before anything is sent on the new one.
    pub fn reconnects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Acquire)
    }
}

/// The first connection. A server that is just starting refuses, or takes and drops it: tried again for a
/// while, so that services and server may start in any order.
async fn first(options: ConnectOptions, addresses: Vec<String>, role: &str) -> Result<Client, async_nats::ConnectError> {
    // A person at a command wants to know at once.
    let patient = matches!(role, "coordinator" | "worker" | "gateway");
    let until = Instant::now() + if patient { CONNECT_WITHIN } else { Duration::ZERO };
    loop {
        match options.clone().connect(addresses.clone()).await {
            Ok(client) => return Ok(client),
            Err(e) if Instant::now() >= until || is_final(e.kind()) => return Err(e),
            Err(e) => {
                tracing::debug!(error = %e, "cannot connect yet; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A refused login or a malformed address is no matter of time.
fn is_final(kind: ConnectErrorKind) -> bool {
    use ConnectErrorKind::{Authentication, AuthorizationViolation, ServerParse, Tls};
    matches!(kind, Authentication | AuthorizationViolation | ServerParse | Tls)
}

/// Addresses without their logins, and the first login: all servers of a cluster share it.
fn split_login(url: &str) -> (Vec<String>, Option<(String, Option<String>)>) {
    let mut login = None;
    let addresses = url.split(',').map(str::trim).map(|address| {
        let (scheme, rest) = address.split_once("://").unwrap_or(("nats", address));
        let Some((user, host)) = rest.rsplit_once('@') else { return address.to_owned() };
        let (user, password) = user.split_once(':').map_or((user, None), |(u, p)| (u, Some(decode(p))));
        login.get_or_insert((decode(user), password));
        format!("{scheme}://{host}")
    });
    (addresses.collect(), login)
}

/// Undoes percent-encoding, which a password with `@` or `/` needs in an address.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        let rest = bytes.clone();
        let pair = (bytes.next(), bytes.next());
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match (b, hex(pair.0), hex(pair.1)) {
            (b'%', Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => {
                out.push(b);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An address as it may be shown: without passwords and tokens.
pub fn redact(url: &str) -> String {
    split_login(url).0.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_taken_out_of_addresses() {
        let (addresses, login) = split_login("nats://me:s%40cret@a:4222, nats://me:s%40cret@b:4222");
        assert_eq!(addresses, ["nats://a:4222", "nats://b:4222"]);
        assert_eq!(login, Some(("me".into(), Some("s@cret".into()))));
        assert_eq!(split_login("127.0.0.1:4222"), (vec!["127.0.0.1:4222".into()], None));
        assert_eq!(split_login("tls://t0ken@h"), (vec!["tls://h".into()], Some(("t0ken".into(), None))));
        assert_eq!(decode("100%"), "100%");
        assert!(!redact("nats://me:secret@a:4222").contains("secret"));
    }
}
