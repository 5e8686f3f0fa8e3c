//! The system under torture: nats-servers, services, the market, and the ways between them.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use haltline_client::Client;
use haltline_common::{
    Link,
    config::StorageSettings,
    control,
    planted::Bug,
    publisher::Publisher,
    topology,
    types::{
        Names,
        control::{Level, Scope},
    },
};
use haltline_server::{Bound, Cluster, Launch, Options, find_or_fetch, port, spawn_bound};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    check::{Remains, Source},
    machine::{Clocks, Disk},
    plan::Targets,
    planted,
    process::{Exit, Exits, Order, Process, Recipe},
    proxy::{Gate, Proxies, Traffic},
};

/// How long the system may take to work at first; a debug build on a busy machine needs a while.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a nats-server may take to answer after a crash.
const SERVER_READY_WITHIN: Duration = Duration::from_secs(60);
/// Halts of the flag before the load: its bucket keeps the last 64 values.
const PAST_HALTS: usize = 30;
/// Flags of bots that do nothing, between two of them.
const PAST_OTHERS: usize = 10;
/// How long running nodes of a worker may go on after SIGTERM.
const DRAIN: &str = "5s";
/// Keeps the limits of the streams below what any disk has; nothing of that size is written.
const SETTINGS: &str = "[storage]\nevents_bytes_max = 4294967296\nrecords_bytes_max = 4294967296\npayloads_bytes_max = 1073741824\n";

/// What is started.
#[derive(Clone, Debug)]
pub struct Size {
    /// nats-servers: 1 or 3.
    pub servers: usize,
    /// Workers.
    pub workers: usize,
    /// Coordinators.
    pub coordinators: usize,
    /// When nats-servers sync.
    pub sync: Option<String>,
    /// Whether nats-servers get disks that a fault can fill.
    pub small_disks: bool,
    /// A bug that the services make.
    pub planted: Option<Bug>,
}

/// The system.
pub struct Fleet {
    names: Names,
    servers: Vec<SocketAddr>,
    /// Everything that may be hurt, by name.
    pub processes: BTreeMap<String, Process>,
    /// The ways, by who uses them: services, `client`, `market`.
    pub gates: BTreeMap<String, Gate>,
    /// The ways between nats-servers.
    pub routes: BTreeMap<(String, String), Gate>,
    /// Disks that can be filled, by nats-server.
    pub disks: BTreeMap<String, Disk>,
    /// Clocks that can be moved.
    pub clocks: Option<Clocks>,
    /// What this machine does not allow, and why.
    pub skipped: Vec<String>,
    exits: Exits,
    logs: PathBuf,
    planted: Option<Bug>,
    ledger: PathBuf,
    market: Bound,
    /// The market's address behind its proxy, as workers know it.
    pub market_url: String,
    /// The gateway's address.
    pub gateway_url: String,
    client_urls: String,
    proxies: Proxies,
}

impl Fleet {
    /// Starts everything and waits until it works.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(folder: &Path, names: Names, seed: u64, size: &Size) -> anyhow::Result<Self> {
        let folder = std::path::absolute(folder)?;
        let logs = folder.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let settings = folder.join("settings.toml");
        let replicas = if size.servers == 1 { 1 } else { 3 };
        fs::write(&settings, format!("{SETTINGS}replicas = {replicas}\n"))?;
        let binary = tokio::task::spawn_blocking(|| find_or_fetch(|told| eprintln!("{told}"))).await??;
        let mut proxies = Proxies::start(seed)?;
        let mut skipped = Vec::new();
        let exits: Exits = Arc::default();
        let mut processes = BTreeMap::new();

        // nats-servers and the ways between them.
        let ids: Vec<String> = (1..=size.servers).map(|i| format!("nats-{i}")).collect();
        let servers: Vec<SocketAddr> = ids.iter().map(|_| free_address()).collect();
        let route_ports: Vec<SocketAddr> = ids.iter().map(|_| free_address()).collect();
        let (mut routes, mut disks) = (BTreeMap::new(), BTreeMap::new());
        for (i, id) in ids.iter().enumerate() {
            let mut options = Options {
                port: servers[i].port(),
                sync_interval: size.sync.clone(),
                name: id.clone(),
                ready_within: SERVER_READY_WITHIN,
                ..Options::new(folder.join(id))
            };
            match size.small_disks.then(|| Disk::mount(&folder.join(format!("{id}-disk")))) {
                Some(Ok(disk)) => {
                    options.store_dir = Some(disk.path().join("jetstream"));
                    disks.insert(id.clone(), disk);
                }
                Some(Err(why)) if i == 0 => skipped.push(format!("disk_full: a small disk cannot be mounted here ({why})")),
                Some(Err(_)) | None => {}
            }
            if size.servers > 1 {
                let mut to = Vec::new();
                for (j, other) in ids.iter().enumerate().filter(|(j, _)| *j != i) {
                    let gate = Gate::new();
                    to.push(proxies.open(route_ports[j], &gate, Traffic::Bytes)?.to_string());
                    routes.insert((id.clone(), other.clone()), gate);
                }
                // Servers tell each other where they are; nothing listens there, so only the proxies lead there.
                let cluster =
                    Cluster { name: "torture".into(), port: route_ports[i].port(), advertise: free_address().to_string(), routes: to };
                options.cluster = Some(cluster);
            }
            let recipe = Recipe::Server { binary: binary.clone(), options: Box::new(options) };
            processes.insert(id.clone(), Process::start(id, recipe, exits.clone()));
        }
        let (market, market_at) = market(&folder, &logs).await?;

        let mut fleet = Self {
            names,
            servers,
            processes,
            gates: BTreeMap::new(),
            routes,
            disks,
            clocks: Clocks::find(&folder),
            skipped,
            exits,
            planted: size.planted,
            ledger: folder.join("ledger.jsonl"),
            logs,
            market,
            market_url: String::new(),
            gateway_url: String::new(),
            client_urls: String::new(),
            proxies,
        };
        if fleet.clocks.is_none() {
            fleet.skipped.push("clock_jump: there is no libfaketime".into());
        }
        fleet.install(replicas).await?;
        fleet.past().await?;
        let gate = fleet.gate("market");
        fleet.market_url = format!("http://{}", fleet.proxies.open(market_at, &gate, Traffic::Bytes)?);
        fleet.client_urls = fleet.ways("client")?;
        let settings = settings.to_string_lossy().into_owned();
        for i in 1..=size.coordinators {
            fleet.service(&format!("coordinator-{i}"), &["coordinator", "--no-ensure"], &settings)?;
        }
        for i in 1..=size.workers {
            let name = format!("worker-{i}");
            fleet.service(&name, &["worker", "--id", &name, "--drain", DRAIN], &settings)?;
        }
        let gateway = free_address();
        fleet.gateway_url = format!("http://{gateway}");
        fleet.service("gateway-1", &["gateway", "--port", &gateway.port().to_string()], &settings)?;
        fleet.ready(size.workers).await?;
        Ok(fleet)
    }

    fn gate(&mut self, name: &str) -> Gate {
        self.gates.entry(name.to_owned()).or_insert_with(Gate::new).clone()
    }

    /// Ways to all nats-servers for `name`, as addresses separated by commas.
    fn ways(&mut self, name: &str) -> anyhow::Result<String> {
        let gate = self.gate(name);
        let start = |all: String| all.trim_end_matches('>').to_owned();
        let traffic = Traffic::Nats { events: start(self.names.events_all()), tasks: start(self.names.tasks_all()) };
        let mut urls = Vec::new();
        for server in &self.servers {
            urls.push(format!("nats://{}", self.proxies.open(*server, &gate, traffic.clone())?));
        }
        Ok(urls.join(","))
    }

    fn service(&mut self, name: &str, args: &[&str], settings: &str) -> anyhow::Result<()> {
        let urls = self.ways(name)?;
        let common = ["--nats", &urls, "--namespace", self.names.namespace(), "--config", settings, "--log-format", "json"];
        let mut env = self.clocks.as_ref().map(|c| c.environment(name)).unwrap_or_default();
        if let Some(bug) = self.planted {
            env.push(("HALTLINE_PLANTED".into(), bug.told().0.into()));
            let point = planted::point(bug).filter(|(role, _)| name.starts_with(role));
            env.extend(point.map(|(_, point)| ("HALTLINE_FAULT".into(), point.into())));
        }
        let recipe = Recipe::Service {
            args: args.iter().chain(&common).map(|a| (*a).to_owned()).collect(),
            env,
            log: self.logs.join(format!("{name}.log")),
        };
        self.processes.insert(name.to_owned(), Process::start(name, recipe, self.exits.clone()));
        Ok(())
    }

    /// Addresses of the nats-servers themselves.
    pub fn direct(&self) -> Vec<String> {
        self.servers.iter().map(|s| format!("nats://{s}")).collect()
    }

    /// Makes the installation; a cluster needs a while to choose its leaders.
    async fn install(&self, replicas: usize) -> anyhow::Result<()> {
        let until = Instant::now() + READY_WITHIN;
        let storage = StorageSettings {
            replicas,
            events_bytes_max: 4 << 30,
            records_bytes_max: 4 << 30,
            payloads_bytes_max: 1 << 30,
            ..StorageSettings::default()
        };
        loop {
            let tried = async {
                let link = Link::connect(&self.direct().join(","), self.names.clone(), "setup").await?;
                topology::ensure(&link, &storage).await?;
                anyhow::Ok(())
            };
            match tried.await {
                Ok(()) => return Ok(()),
                Err(e) if Instant::now() > until => return Err(e.context("the installation could not be made")),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Gives the flag a past: whoever reads it from its beginning meets halts.
    async fn past(&self) -> anyhow::Result<()> {
        let link = self.link().await?;
        let _publisher = Publisher::start(&link).await?;
        // A past that takes a while to read, so that whoever acts on it is seen: between them flags that cover nothing.
        let others = if self.planted == Some(Bug::TailAll) { PAST_OTHERS } else { 0 };
        for level in [Level::Halt, Level::Normal].repeat(PAST_HALTS) {
            control::set(&link, &Scope::Global, level, "torture", "before the torture").await?;
            for n in 0..others {
                control::set(&link, &Scope::Bot(format!("other-{n}")), level, "torture", "before the torture").await?;
            }
        }
        Ok(())
    }

    /// A connection past the proxies.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn link(&self) -> anyhow::Result<Link> {
        Ok(Link::connect(&self.direct().join(","), self.names.clone(), "setup").await?)
    }

    /// A client, on a way of its own that suffers like the others.
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.client_urls, self.names.namespace()).await?)
    }

    /// All that is stored, and when what forgets was started.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn remains(&self) -> anyhow::Result<Remains> {
        let remains = self.source().await?.all(&self.ledger).await?;
        // In a cluster it is not known when who leads forgets.
        let alone = self.servers.len() == 1;
        let starts = || self.processes.values().filter(|p| p.name.starts_with("nats-")).flat_map(Process::started_at).collect();
        Ok(Remains { server_starts: alone.then(starts), lost_tasks: self.lost_tasks(), ..remains })
    }

    /// The checker's own reader.
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn source(&self) -> anyhow::Result<Source> {
        let n = &self.names;
        let records = Names::bucket_stream(&n.executions_bucket());
        Source::connect(&self.direct(), n.events_stream(), records, n.tasks_stream()).await
    }

    async fn ready(&self, workers: usize) -> anyhow::Result<()> {
        let until = Instant::now() + READY_WITHIN;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        let client = Client::from_link(self.link().await?).await?;
        loop {
            let coordinator = client.is_coordinated().await;
            let there = client.workers().await.map_or(0, |w| w.len());
            let gateway = http.get(format!("{}/readyz", self.gateway_url)).send().await.is_ok_and(|r| r.status().is_success());
            if coordinator && there >= workers && gateway {
                return Ok(());
            }
            if Instant::now() > until {
                bail!(
                    "the system was not ready within {READY_WITHIN:?} (every shard has a coordinator: {coordinator}, workers: {there}, gateway: {gateway}); logs are in {}",
                    self.logs.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a plan may hurt.
    pub fn targets(&self) -> Targets {
        Targets {
            workers: self.role("worker"),
            coordinators: self.role("coordinator"),
            gateways: self.role("gateway"),
            servers: self.role("nats"),
            weights: self.planted.map(planted::weights),
            disk: !self.disks.is_empty(),
            clock: self.clocks.is_some(),
        }
    }

    /// Names of a role's processes.
    pub fn role(&self, role: &str) -> Vec<String> {
        self.processes.keys().filter(|name| name.starts_with(&format!("{role}-"))).cloned().collect()
    }

    /// Opens every way and lets every process run.
    pub fn heal(&self) {
        for gate in self.gates.values().chain(self.routes.values()) {
            gate.end(gate.set(super::proxy::Mode::Open));
        }
        self.disks.values().for_each(Disk::clear);
        for process in self.processes.values() {
            process.order(Order::Heal);
            if let Some(clocks) = &self.clocks {
                clocks.set(&process.name, 0);
            }
        }
    }

    /// Ends of processes that nobody ordered.
    pub fn exits(&self) -> Vec<Exit> {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What services' logs tell that must never be, whatever came of it: the kind of it, and who told it, as
    /// `worker-1: ...`.
    pub fn told_against(&self) -> Vec<(&'static str, String)> {
        let lines = |kind, what| self.logged(what).into_iter().map(move |(name, line)| (kind, format!("{name}: {line}")));
        lines("panic", "panicked at").chain(lines("refused write", "a write was refused")).collect()
    }

    /// Ids of the tasks that coordinators found to have got lost and emitted again.
    fn lost_tasks(&self) -> Vec<String> {
        let task = |line: &str| Some(line.split_once(": task ")?.1.split_once(" is neither")?.0.to_owned());
        self.logged("a task got lost").iter().filter_map(|(_, line)| task(line)).collect()
    }

    /// Lines of the processes' logs that contain `what`, each with the process's name.
    fn logged(&self, what: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        // Also of processes that have ended.
        for file in fs::read_dir(&self.logs).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().trim_end_matches(".log").to_owned();
            let log = fs::read(file.path()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            found.extend(log.lines().filter(|l| l.contains(what)).map(|l| (name.clone(), l.to_owned())));
        }
        found
    }

    /// Ends the services, drained; nats-servers and the market go on.
    pub async fn end_services(&mut self) {
        let services: Vec<String> = self.processes.keys().filter(|name| !name.starts_with("nats-")).cloned().collect();
        self.end(services, Order::End).await;
    }

    async fn end(&mut self, names: Vec<String>, order: Order) {
        let ending: Vec<Process> = names.iter().filter_map(|name| self.processes.remove(name)).collect();
        ending.iter().for_each(|p| p.order(order));
        futures_util::future::join_all(ending.into_iter().map(Process::ended)).await;
    }

    /// Ends what is left.
    pub async fn stop(mut self) {
        let all = self.processes.keys().cloned().collect();
        self.end(all, Order::Remove).await;
        self.market.kill();
    }
}

/// The market, a process that nothing is done to; it and its address.
/// An address on this machine that is free and was not given before.
fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port::free()).into()
}

async fn market(folder: &Path, logs: &Path) -> anyhow::Result<(Bound, SocketAddr)> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let log = fs::OpenOptions::new().create(true).append(true).open(logs.join("market.log"))?;
    let launch = Launch::new(program)
        .args(["market", "--json", "--port", "0", "--log-format", "json", "--ledger"])
        .arg(folder.join("ledger.jsonl"))
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = spawn_bound(launch).context("cannot start the market")?;
    let stdout = child.take_stdout().context("the market's output")?;
    let read = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).map(|_| line)
    });
    let line = tokio::time::timeout(READY_WITHIN, read).await.context("the market says nothing")???;
    let told: Value = serde_json::from_str(&line).with_context(|| format!("the market says: {line}"))?;
    let address = told["market"].as_str().and_then(|url| url.strip_prefix("http://")).and_then(|a| a.parse().ok());
    Ok((child, address.with_context(|| format!("the market says: {line}"))?))
}
