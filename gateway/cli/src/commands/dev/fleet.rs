//! The three services of `dev`, each on a thread and connection of its own, as in production.

use std::{net::TcpListener, time::Duration};

use haltline_common::Link;

use crate::{commands::Context, probe, runtime::Service, services};

/// How often coordinators are asked while they start.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// The running services.
pub struct Fleet {
    coordinator: Service,
    worker: Service,
    gateway: Service,
}

impl Fleet {
    /// Starts them.
    ///
    /// # Errors
    /// When a thread cannot be made; what a service fails with is told by [`Fleet::ended`].
    pub fn start(context: &Context, listener: TcpListener) -> std::io::Result<Self> {
        let connect = |role: &'static str| {
            let (url, names) = (context.settings.nats.url.clone(), context.names.clone());
            async move { Link::connect(&url, names, role).await }
        };
        let settings = &context.settings;
        let (link, of) = (connect("coordinator"), settings.coordinator.clone());
        let coordinator = Service::start("coordinator", async |stop| services::coordinator(link.await?, of, stop).await)?;
        let (link, of) = (connect("worker"), settings.worker.clone());
        let worker = Service::start("worker", async |stop| services::worker(link.await?, of, stop).await)?;
        let (link, of) = (connect("gateway"), settings.gateway.clone());
        let gateway = Service::start("gateway", async |stop| {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            services::gateway(link.await?, of, listener, stop).await
        })?;
        Ok(Self { coordinator, worker, gateway })
    }

    /// Waits until submissions are taken. The gateway queues connections from the
    /// start, tasks wait for the worker.
    pub async fn ready(link: &Link) {
        while probe::coordinator(link).await.is_none() {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Waits for the first service to end by itself: why. Cancel safe.
    pub async fn ended(&mut self) -> anyhow::Error {
        let (name, outcome) = tokio::select! {
            outcome = self.coordinator.ended() => (self.coordinator.name, outcome),
            outcome = self.worker.ended() => (self.worker.name, outcome),
            outcome = self.gateway.ended() => (self.gateway.name, outcome),
        };
        outcome.err().unwrap_or_else(|| anyhow::anyhow!("the {name} ended by itself"))
    }

    /// Ends them, whoever feeds others first: clients, then tasks, then decisions.
    ///
    /// # Errors
    /// The first failure; the others are ended all the same.
    pub async fn drain(self) -> anyhow::Result<()> {
        let gateway = self.gateway.drain().await;
        let worker = self.worker.drain().await;
        let coordinator = self.coordinator.drain().await;
        gateway.and(worker).and(coordinator)
    }
}
