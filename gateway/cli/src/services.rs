//! The services as this command runs them, alone in a process or together in `dev`.

use haltline_common::{
    Link,
    config::{CoordinatorSettings, GatewaySettings, WorkerSettings},
    metrics::{self, Role},
};
use haltline_worker::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Runs a coordinator until `stop`.
///
/// # Errors
/// When it cannot go on.
pub async fn coordinator(link: Link, settings: CoordinatorSettings, stop: CancellationToken) -> anyhow::Result<()> {
    metrics::show(Role::Coordinator);
    haltline_coordinator::run(link, settings, stop).await
}

/// Runs a worker with the built-in node types until `stop`, then drains.
///
/// # Errors
/// When it cannot go on.
pub async fn worker(link: Link, settings: WorkerSettings, stop: CancellationToken) -> anyhow::Result<()> {
    metrics::show(Role::Worker);
    haltline_worker::run(link, settings, Registry::built_in(), stop).await
}

/// Runs a gateway on `listener` until `stop`.
///
/// # Errors
/// When it cannot go on.
pub async fn gateway(link: Link, settings: GatewaySettings, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    metrics::show(Role::Gateway);
    haltline_gateway::run(link, settings, listener, stop).await
}
