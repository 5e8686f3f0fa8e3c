//! What every request and session uses.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use haltline_client::{ApiError, Client};
use haltline_common::{
    Link,
    config::GatewaySettings,
    control_watch::ControlWatch,
    js::{self, StreamState},
    types::{Timestamp, catalog::NodeType, control::Lease, error::Code, worker::Presence},
};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    audit::Audit, auth::Auth, cached::Cached, fleet, halt::HaltView, halts::Halts, hub::Hub, index::SharedIndex, limits::Limits,
    origin::Origins,
};

/// Answers with payloads by reference that are made at once; others wait.
const PAYLOADS_AT_ONCE: usize = 4;

/// Shared state; cloned by reference.
pub(crate) type App = Arc<Inner>;

/// What [`App`] is made of.
pub(crate) struct Parts {
    pub link: Link,
    pub client: Client,
    pub auth: Arc<Auth>,
    pub audit: Audit,
    pub limits: Limits,
    pub control: ControlWatch,
    pub halt: watch::Receiver<HaltView>,
    pub halts: watch::Receiver<Arc<Halts>>,
    pub hub: Arc<Hub>,
    pub index: Arc<SharedIndex>,
    pub origins: Arc<Origins>,
    pub settings: GatewaySettings,
    pub stop: CancellationToken,
}

/// The state itself.
pub(crate) struct Inner {
    pub parts: Parts,
    /// This process, for people and clients.
    pub name: String,
    /// Sockets being served.
    pub sessions: TaskTracker,
    /// Room for sockets: each may hold a message of a megabyte.
    pub room: Arc<Semaphore>,
    /// Room for payloads by reference, each of some megabytes.
    pub payloads: Semaphore,
    pub started: Instant,
    workers: Cached<Vec<Presence>>,
    leases: Cached<Vec<(Lease, Timestamp)>>,
    types: Cached<Vec<NodeType>>,
    log: Cached<StreamState>,
    /// When the installation's metrics were brought up to date.
    pub fleet: Cached<()>,
    /// What the active coordinator says of itself.
    pub probe: Cached<Option<serde_json::Value>>,
}

impl std::ops::Deref for Inner {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Inner {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> App {
        let room = Arc::new(Semaphore::new(parts.settings.clients_max.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self {
            parts,
            name: format!("gw-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]),
            sessions: TaskTracker::new(),
            room,
            payloads: Semaphore::new(PAYLOADS_AT_ONCE),
            started: Instant::now(),
            // Each read makes a consumer on the server: many pages must not multiply that.
            workers: Cached::new(Duration::from_secs(1)),
            leases: Cached::new(Duration::from_secs(1)),
            types: Cached::new(Duration::from_secs(5)),
            log: Cached::new(Duration::from_secs(1)),
            fleet: Cached::new(fleet::LOOK_TTL),
            probe: Cached::new(Duration::from_secs(5)),
        })
    }

    /// Workers that are alive, at most a second old.
    pub async fn workers(&self) -> Result<Vec<Presence>, ApiError> {
        self.workers.get(|| self.client.workers()).await
    }

    /// What workers last wrote about their leases and when, at most a second old.
    pub async fn leases(&self) -> Result<Vec<(Lease, Timestamp)>, ApiError> {
        self.leases.get(|| self.client.leases()).await
    }

    /// Node types, at most five seconds old.
    pub async fn types(&self) -> Result<Vec<NodeType>, ApiError> {
        self.types.get(|| haltline_common::definitions::known_types(&self.link)).await
    }

    /// The state of the log's stream, at most a second old.
    pub async fn log(&self) -> Result<StreamState, ApiError> {
        let ask = || async {
            let info = js::stream_info(&self.link, &self.link.names.events_stream()).await;
            info.map(|i| i.state).map_err(|e| ApiError::new(Code::Unavailable, e.to_string()))
        };
        self.log.get(ask).await
    }
}
