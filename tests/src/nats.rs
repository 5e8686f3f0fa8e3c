//! nats-server for one test: it can be killed and comes back at the same address with what it stored.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use haltline_server::{Cluster, Managed, Options, StartError, find_or_fetch};

use crate::{port, until};

/// How often another port is tried: someone may take one between drawing and listening.
const PORTS_TRIED: usize = 5;

/// The server.
pub struct Nats {
    binary: PathBuf,
    dir: PathBuf,
    port: u16,
    sync: Option<String>,
    cluster: Option<Cluster>,
    server: Option<Managed>,
    /// Whether it is to run: not after [`Nats::kill`].
    wanted: bool,
    ended: u32,
}

impl Nats {
    /// Starts one on `dir`.
    ///
    /// # Errors
    /// When there is none to run, or it does not come up.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_synced(dir, None).await
    }

    /// The same with a `sync_interval`.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn start_synced(dir: &Path, sync: Option<&str>) -> anyhow::Result<Self> {
        let sync = sync.map(str::to_owned);
        let binary = binary().await?;
        let mut tried = 0;
        loop {
            let mut nats = Self::new(&binary, dir.to_owned(), sync.clone(), None);
            tried += 1;
            match nats.up().await {
                Ok(()) => return Ok(nats),
                Err(e) if tried == PORTS_TRIED => return Err(e),
                Err(_) => {}
            }
        }
    }

    /// Starts three that are one cluster.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn start_three(dir: &Path) -> anyhow::Result<[Self; 3]> {
        let binary = binary().await?;
        let mut tried = 0;
        loop {
            let mut all = Self::three(dir, &binary);
            let [a, b, c] = &mut all;
            tried += 1;
            match tokio::try_join!(a.up(), b.up(), c.up()) {
                Ok(_) => return Ok(all),
                Err(e) if tried == PORTS_TRIED => return Err(e),
                Err(_) => {}
            }
        }
    }

    fn three(dir: &Path, binary: &Path) -> [Self; 3] {
        let routes: [u16; 3] = std::array::from_fn(|_| port::free());
        routes.map(|route| {
            let others = routes.iter().filter(|other| **other != route);
            let cluster = Cluster {
                name: "test".into(),
                port: route,
                advertise: format!("127.0.0.1:{route}"),
                routes: others.map(|other| format!("127.0.0.1:{other}")).collect(),
            };
            Self::new(binary, dir.join(route.to_string()), None, Some(cluster))
        })
    }

    fn new(binary: &Path, dir: PathBuf, sync: Option<String>, cluster: Option<Cluster>) -> Self {
        Self { binary: binary.to_owned(), dir, port: port::free(), sync, cluster, server: None, wanted: true, ended: 0 }
    }

    /// Starts it (again), at its address.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn up(&mut self) -> anyhow::Result<()> {
        let options = Options {
            port: self.port,
            sync_interval: self.sync.clone(),
            name: self.name(),
            cluster: self.cluster.clone(),
            ready_within: Duration::from_secs(30),
            ..Options::new(&self.dir)
        };
        let server =
            until("the folder is free", Duration::from_secs(5), async || match Managed::start(&self.binary, options.clone()).await {
                // A child that another test starts right now has a copy of the folder's lock, until it has
                // become another program.
                Err(StartError::Busy(_)) => Ok(None),
                started => Ok(Some(started.context("nats-server")?)),
            });
        self.server = Some(server.await?);
        // A fault point finds there whom to kill.
        std::fs::write(self.pid_file(), self.pid().to_string())?;
        Ok(())
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.wanted = false;
        if let Some(server) = self.server.take() {
            server.kill();
        }
    }

    /// Ends it, loses everything it stored, and starts it again at its address.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn lose_everything(&mut self) -> anyhow::Result<()> {
        self.kill();
        std::fs::remove_dir_all(&self.dir).with_context(|| format!("{}", self.dir.display()))?;
        self.wanted = true;
        self.up().await
    }

    /// Suspends (`true`) or resumes it.
    pub fn pause(&mut self, paused: bool) {
        if let Some(server) = &mut self.server {
            server.pause(paused);
        }
    }

    /// Starts it again if it has ended by itself. Cancel safe: the next call goes on.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn tend(&mut self) -> anyhow::Result<()> {
        if let Some(server) = &mut self.server {
            if tokio::time::timeout(Duration::ZERO, server.ended()).await.is_err() {
                return Ok(());
            }
            self.ended += 1;
            self.server = None;
        }
        if self.wanted { self.up().await } else { Ok(()) }
    }

    /// How often it ended by itself.
    pub fn ended(&self) -> u32 {
        self.ended
    }
    /// Its name, as one of several.
    pub fn name(&self) -> String {
        let of = |cluster: &Cluster| format!("nats-{}", cluster.port);
        self.cluster.as_ref().map_or_else(|| "haltline".into(), of)
    }
    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
    /// Its address.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
    /// Its process id; 0 while it does not run.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().map_or(0, Managed::pid)
    }
    /// The file that has it.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }
}

/// The binary to run.
///
/// # Errors
/// When none is found or fetched.
pub async fn binary() -> anyhow::Result<PathBuf> {
    Ok(tokio::task::spawn_blocking(|| find_or_fetch(|told| eprintln!("{told}"))).await??)
}
