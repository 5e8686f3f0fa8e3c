//! The connection to NATS, with the settings that the traps of its defaults call for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, jetstream};
use haltline_types::Names;

/// A connection and the names to use on it. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    /// The connection.
    pub client: Client,
    /// JetStream on it.
    pub js: jetstream::Context,
    /// Names on the server.
    pub names: Names,
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
    /// The client reconnects for ever; this first connection is tried for five seconds.
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
        let addresses: Vec<&str> = url.split(',').map(str::trim).collect();
        let client = options.connect(addresses).await.map_err(|source| ConnectError { url: url.to_owned(), source })?;
        let js = jetstream::new(client.clone());
        Ok(Self { client, js, names })
    }

    /// How often this connection was made; changes tell that unanswered writes may be lost. Counted
    /// where the connection is made, so it has changed before anything is sent on the new one.
    pub fn reconnects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Acquire)
    }
}
