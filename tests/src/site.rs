//! A site: everything that runs for one test, in real processes on a folder of its own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use haltline_client::{Client, Outcome};
use haltline_common::{
    Link,
    config::StorageSettings,
    topology,
    types::{Names, definition::Definition},
};
use serde_json::{Value, json};

use crate::{Caller, folder::Folder, nats::Nats, port, process::Process, shapes, until};

/// A debug build on a busy machine needs a while.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// No execution of a test takes longer, unless it hangs.
const RUN_WITHIN: Duration = Duration::from_secs(60);

/// The site. Its processes end with it; on a failure it shows the ends of their logs.
pub struct Site {
    command: PathBuf,
    names: Names,
    /// nats-server.
    pub nats: Nats,
    /// A client of this process.
    pub client: Client,
    market: u16,
    gateway: u16,
    processes: Vec<Process>,
    done: bool,
    // Last: what runs in it ends first.
    folder: Folder,
}

impl Site {
    /// nats-server with an empty installation; no service runs.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn bare(command: &str) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let names = Names::new("test").map_err(anyhow::Error::msg)?;
        let nats = Nats::start(&folder.path().join("nats")).await?;
        let client = installed(&nats, &names).await?;
        let (market, gateway) = (port::free(), port::free());
        Ok(Self { command: command.into(), names, nats, client, market, gateway, processes: Vec::new(), done: false, folder })
    }

    /// The same with a coordinator and a worker called `worker-1`.
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn start(command: &str) -> anyhow::Result<Self> {
        let mut site = Self::bare(command).await?;
        site.spawn("coordinator", &["coordinator"], None)?;
        site.spawn("worker-1", &["worker", "--id", "worker-1"], None)?;
        site.ready(1).await?;
        Ok(site)
    }

    /// Starts this command with `args` as a service, with a fault point armed or not.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self, name: &str, args: &[&str], fault: Option<&str>) -> anyhow::Result<()> {
        let namespace = self.names.namespace().to_owned();
        self.spawn_in(&namespace, name, args, fault)
    }

    /// The same for another installation on this nats-server.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_in(&mut self, namespace: &str, name: &str, args: &[&str], fault: Option<&str>) -> anyhow::Result<()> {
        let args = args.iter().map(|a| (*a).to_owned()).chain(self.flags(namespace)).collect();
        let process = Process::start(name, &self.command, args, self.folder.path(), fault)?;
        self.processes.push(process);
        Ok(())
    }

    /// Starts the market and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn spawn_market(&mut self) -> anyhow::Result<()> {
        self.spawn_market_with(&[]).await
    }

    /// The same with further flags.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn spawn_market_with(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        let (port, ledger) = (self.market.to_string(), self.ledger().to_string_lossy().into_owned());
        let args: Vec<&str> = ["market", "--port", &port, "--ledger", &ledger].into_iter().chain(flags.iter().copied()).collect();
        self.spawn("market", &args, None)?;
        self.up(&format!("{}/health", self.market_url())).await
    }

    /// Starts a gateway and waits until it answers requests.
    ///
    /// # Errors
    /// When it does not.
    pub async fn spawn_gateway(&mut self, fault: Option<&str>) -> anyhow::Result<()> {
        let port = self.gateway.to_string();
        self.spawn("gateway", &["gateway", "--port", &port], fault)?;
        self.up(&format!("{}/readyz", self.gateway_url())).await
    }

    /// The same with further flags.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn spawn_gateway_with(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        let port = self.gateway.to_string();
        self.spawn("gateway", &[&["gateway", "--port", &port], flags].concat(), None)?;
        self.up(&format!("{}/readyz", self.gateway_url())).await
    }

    /// Starts a gateway in place of one that was killed, on the same port.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn restart_gateway(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        self.processes.retain(|p| p.name() != "gateway");
        self.spawn_gateway_with(flags).await
    }

    async fn up(&self, url: &str) -> anyhow::Result<()> {
        let http = crate::http::client()?;
        let what = format!("{url} answers");
        until(&what, READY_WITHIN, async || Ok(http.get(url).send().await.is_ok_and(|r| r.status().is_success()).then_some(()))).await
    }

    /// Waits until a coordinator answers and `workers` workers are there.
    ///
    /// # Errors
    /// When they are not.
    pub async fn ready(&self, workers: usize) -> anyhow::Result<()> {
        until("coordinator and workers are there", READY_WITHIN, async || {
            let coordinator = self.client.is_coordinated().await;
            let there = self.client.workers().await.map_or(0, |w| w.len());
            Ok((coordinator && there >= workers).then_some(()))
        })
        .await
    }

    /// Starts what has died again, as a supervisor does.
    ///
    /// # Errors
    /// When something cannot be started.
    pub async fn tend(&mut self) -> anyhow::Result<()> {
        self.nats.tend().await?;
        self.processes.iter_mut().try_for_each(Process::tend)
    }

    /// Does `task` while tending to everything.
    ///
    /// # Errors
    /// Of the task, or when something cannot be started again.
    pub async fn tending<T>(&mut self, task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let tend = async {
            loop {
                if let Err(e) = self.tend().await {
                    return e;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            done = task => done,
            e = tend => Err(e),
        }
    }

    /// A service by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        self.processes.iter_mut().find(|p| p.name() == name).with_context(|| format!("there is no process {name}"))
    }

    /// Stores `definition` and runs it to its end.
    ///
    /// # Errors
    /// When it is refused or does not end.
    pub async fn run(&self, definition: &Definition, key: &str, input: Value) -> anyhow::Result<Outcome> {
        self.client.put_workflow(definition).await?;
        let outcome = self.client.run(shapes::submission(definition, key, input), RUN_WITHIN).await?;
        anyhow::ensure!(outcome.status.is_terminal(), "{} does not end", outcome.execution_id);
        Ok(outcome)
    }

    /// Stores and submits.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn submit(&self, definition: &Definition, key: &str, input: Value) -> anyhow::Result<String> {
        self.client.put_workflow(definition).await?;
        Ok(self.client.submit(shapes::submission(definition, key, input)).await?.execution_id.to_string())
    }

    /// The input that the trading shapes want.
    pub fn trading(&self) -> Value {
        let market = self.market_url();
        json!({ "market": market, "price_url": format!("{market}/price/IBM?date=2008-10-10") })
    }

    /// Calls the command line for this site.
    pub fn caller(&self) -> Caller {
        Caller::new(&self.command, self.flags(self.names.namespace()), self.folder.path())
    }
    /// Address of the market.
    pub fn market_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.market)
    }
    /// Address of the gateway.
    pub fn gateway_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.gateway)
    }
    /// The market's ledger.
    pub fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger.jsonl")
    }
    /// The connection of this process.
    pub fn link(&self) -> &Link {
        self.client.link()
    }
    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn flags(&self, namespace: &str) -> Vec<String> {
        ["--nats", &self.nats.url(), "--namespace", namespace, "--log-format", "json"].map(str::to_owned).to_vec()
    }

    /// Ends it as a success: nothing is shown.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.done {
            for p in &self.processes {
                eprintln!("--- end of the log of {}:\n{}", p.name(), p.tail());
            }
        }
    }
}

/// A client of the installation, which is made first.
async fn installed(nats: &Nats, names: &Names) -> anyhow::Result<Client> {
    let link = Link::connect(&nats.url(), names.clone(), "test").await?;
    topology::ensure(&link, &StorageSettings::default()).await?;
    Ok(Client::from_link(link).await?)
}
