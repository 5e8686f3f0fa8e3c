//! A whole system in processes of its own on a folder: nats-server and this very command as
//! coordinator, worker, gateway, market. What `bench` measures and `demo` plays on. All of it ends
//! with this process.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use haltline_client::Client;
use haltline_common::{Link, config::StorageSettings, topology, types::Names};
use haltline_server::{Bound, Launch, Managed, Options, find_or_fetch, spawn_bound};

/// How long a service may take to work.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long a service may take to drain.
const GRACE: Duration = Duration::from_secs(10);

/// A running system.
pub struct System {
    folder: PathBuf,
    sync: Option<String>,
    names: Names,
    server: Option<Managed>,
    services: Vec<Service>,
    /// Logs of all its services, in one file each.
    logs: PathBuf,
}

/// A process of the system.
pub struct Service {
    /// What it is, as `worker-1`.
    pub name: String,
    child: Bound,
}

impl Service {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }
}

impl System {
    /// Starts nats-server on `folder` and makes the installation.
    pub async fn start(folder: &Path, names: Names, sync: Option<String>) -> anyhow::Result<Self> {
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let mut system = Self { folder: folder.to_owned(), sync, names, server: None, services: Vec::new(), logs };
        system.start_server().await?;
        Ok(system)
    }

    /// Starts nats-server (again).
    pub async fn start_server(&mut self) -> anyhow::Result<()> {
        let binary = tokio::task::spawn_blocking(|| find_or_fetch(|told| eprintln!("{told}"))).await??;
        let mut options = Options::new(self.folder.join("nats"));
        options.sync_interval.clone_from(&self.sync);
        self.server = Some(Managed::start(&binary, options).await?);
        let link = self.link("setup").await?;
        topology::ensure(&link, &StorageSettings::default()).await?;
        Ok(())
    }

    /// Address of nats-server.
    pub fn url(&self) -> &str {
        self.server.as_ref().map_or("", Managed::url)
    }
    /// Process id of nats-server.
    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().map_or(0, Managed::pid)
    }
    /// A connection.
    pub async fn link(&self, role: &str) -> anyhow::Result<Link> {
        Ok(Link::connect(self.url(), self.names.clone(), role).await?)
    }
    /// A client.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::from_link(self.link("client").await?).await?)
    }
    /// Its services.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Starts this command with `args` as a service called `name`; its log goes to a file.
    pub fn spawn(&mut self, name: &str, args: &[&str]) -> anyhow::Result<u32> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.logs.join(format!("{name}.log")))?;
        let launch = Launch::new(program)
            .args(args)
            .args(["--nats", self.url(), "--namespace", self.names.namespace(), "--log-format", "json"])
            .stdout(Stdio::null())
            .stderr(log);
        let child = spawn_bound(launch).with_context(|| format!("cannot start the {name}"))?;
        let pid = child.pid();
        self.services.push(Service { name: name.to_owned(), child });
        Ok(pid)
    }

    /// Waits until a coordinator answers and `workers` workers are there.
    pub async fn ready(&mut self, client: &Client, workers: usize) -> anyhow::Result<()> {
        let until = tokio::time::Instant::now() + READY_WITHIN;
        loop {
            for service in &mut self.services {
                if let Some(status) = service.child.try_wait()? {
                    let log = std::fs::read_to_string(self.logs.join(format!("{}.log", service.name))).unwrap_or_default();
                    let tail: Vec<&str> = log.lines().rev().take(5).collect();
                    bail!("the {} ended ({status}): {}", service.name, tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
                }
            }
            let coordinator = client.is_coordinated().await;
            if coordinator && client.workers().await.is_ok_and(|w| w.len() >= workers) {
                return Ok(());
            }
            if tokio::time::Instant::now() > until {
                bail!("the system was not ready within {READY_WITHIN:?} (every shard has a coordinator: {coordinator})");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills a service as `kill -9` does.
    pub fn kill(&mut self, name: &str) {
        if let Some(i) = self.services.iter().position(|s| s.name == name) {
            let mut service = self.services.swap_remove(i);
            service.child.kill();
        }
    }

    /// Ends everything: services first, drained, then nats-server.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let services = std::mem::take(&mut self.services);
        let stops = services.into_iter().map(|s| async move { (s.name, s.child.stop(GRACE).await) });
        for (name, ended) in futures_util::future::join_all(stops).await {
            let status = ended?;
            // A market or service that was told to end and did is no failure.
            if !status.success() {
                tracing::warn!(service = name, %status, "did not end cleanly");
            }
        }
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        Ok(())
    }
}
