//! Haltline's client: what a program needs to store workflows, run them, read what they did and
//! set the control flag. Everything goes over one NATS connection; a [`Client`] is cheap to clone.
//!
//! ```no_run
//! # async fn demo() -> Result<(), haltline_client::ApiError> {
//! use haltline_client::Client;
//! use haltline_common::definitions;
//!
//! let client = Client::connect("nats://127.0.0.1:4222", "haltline").await?;
//! let workflow = definitions::parse(r#"{
//!     "id": "hello", "version": "1",
//!     "nodes": [{ "id": "say", "type": "log", "inputs": { "message": { "input": "text" } } }]
//! }"#)?;
//! let outcome = client.execute(&workflow, serde_json::json!({ "text": "hi" }), None).await?;
//! println!("{} {:?} {:?}", outcome.execution_id, outcome.status, outcome.outputs);
//! # Ok(())
//! # }
//! ```

mod control;
mod inbox;
mod known;
mod read;
mod recent;
mod scan;
mod submit;
mod tokens;
mod wait;
mod workflows;

use std::{sync::Arc, time::Duration};

use haltline_common::{Link, config::NatsSettings, publisher::Publisher, types::Names};

pub use haltline_common::confirmation::{Confirming, Listening, Report, Standing, WorkerReport};
pub use haltline_common::types::{
    error::{ApiError, Code},
    event::{Resolution, UnknownNode},
    record::{Outcome, Record, Status},
    submit::{Accepted, Resolve, Submit},
};
pub use recent::EXECUTIONS_MAX;
pub use workflows::WorkflowSummary;

/// How long a request is repeated, unless [`Client::with_timeout`] says otherwise: longer than a
/// coordinator takes to come back or to hand its shards over.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a Haltline installation. Clones share it; it closes with the last one.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    link: Link,
    publisher: Publisher,
    inbox: inbox::Inbox,
    known: known::Known,
}

impl Client {
    /// Connects to `url` (`nats://host:4222`, several separated by commas) for the installation
    /// `namespace`.
    ///
    /// # Errors
    /// `Invalid` for a namespace that cannot be one, `Unavailable` if no server answers in 5 s.
    pub async fn connect(url: &str, namespace: &str) -> Result<Self, ApiError> {
        let names = Names::new(namespace).map_err(|e| ApiError::invalid("namespace", e))?;
        let link = Link::connect(url, names, "client").await.map_err(|e| match std::error::Error::source(&e) {
            Some(cause) => unavailable(format!("{e}: {cause}")),
            None => unavailable(e),
        })?;
        Self::from_link(link).await
    }

    /// Connects to where `HALTLINE_NATS_URL` and `HALTLINE_NAMESPACE` point, or to the defaults.
    ///
    /// # Errors
    /// As [`Client::connect`].
    #[allow(clippy::disallowed_methods, reason = "the one place where this crate reads the environment, as documented")]
    pub async fn connect_env() -> Result<Self, ApiError> {
        let default = NatsSettings::default();
        let url = std::env::var("HALTLINE_NATS_URL").unwrap_or(default.url);
        let namespace = std::env::var("HALTLINE_NAMESPACE").unwrap_or(default.namespace);
        Self::connect(&url, &namespace).await
    }

    /// Uses a connection that is there already.
    ///
    /// # Errors
    /// `Unavailable` if the connection is closed.
    pub async fn from_link(link: Link) -> Result<Self, ApiError> {
        let publisher = Publisher::start(&link).await.map_err(unavailable)?;
        let inbox = inbox::Inbox::open(&link).await?;
        let shared = Shared { link, publisher, inbox, known: known::Known::default() };
        Ok(Self { shared: Arc::new(shared), timeout: TIMEOUT })
    }

    /// The same client with another limit on how long requests are repeated before they fail as
    /// `Unavailable`.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The connection.
    pub fn link(&self) -> &Link {
        &self.shared.link
    }
}

/// An error of the connection as clients see it.
fn unavailable(e: impl std::fmt::Display) -> ApiError {
    ApiError::new(Code::Unavailable, e.to_string())
}
