//! What the scenes play on: a market with real prices, nats-server, a coordinator, two workers and a
//! gateway, each a process.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use haltline_client::Client;
use haltline_common::types::{
    definition::Definition,
    event::Event,
    record::{Outcome, Status},
    submit::Submit,
};
use serde_json::{Value, json};

use crate::{
    commands::{Context, dev::folder::Folder},
    system::System,
};

/// A scene's workflow that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// The stage.
pub struct Stage {
    folder: Folder,
    system: System,
    /// A client of the running system.
    pub client: Client,
    http: reqwest::Client,
    market: String,
    gateway: String,
    sequence: u32,
}

impl Stage {
    /// Starts everything.
    pub async fn set(context: &Context) -> anyhow::Result<Self> {
        let folder = Folder::open(None)?;
        let system = System::start(folder.path(), context.names.clone(), None).await?;
        let client = system.client().await?;
        let (market, gateway) = (free_address()?, free_address()?);
        let mut stage = Self { folder, system, client, http: reqwest::Client::new(), market, gateway, sequence: 0 };
        stage.start_services().await?;
        Ok(stage)
    }

    async fn start_services(&mut self) -> anyhow::Result<()> {
        let ledger = self.ledger();
        let ledger = ledger.to_string_lossy();
        let (market, gateway) = (port(&self.market), port(&self.gateway));
        self.system.spawn("market", &["market", "--port", market, "--ledger", &ledger])?;
        self.system.spawn("coordinator", &["coordinator"])?;
        for name in ["worker-1", "worker-2"] {
            self.system.spawn(name, &["worker", "--id", name])?;
        }
        self.system.spawn("gateway", &["gateway", "--port", gateway])?;
        self.system.ready(&self.client, 2).await?;
        self.up(&format!("{}/health", self.market_url()), "the market").await?;
        self.up(&format!("{}/livez", self.gateway_url()), "the gateway").await
    }

    async fn up(&self, url: &str, what: &str) -> anyhow::Result<()> {
        let until = tokio::time::Instant::now() + Duration::from_secs(20);
        while !self.http.get(url).send().await.is_ok_and(|r| r.status().is_success()) {
            ensure!(tokio::time::Instant::now() < until, "{what} does not answer at {url}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Address of the market.
    pub fn market_url(&self) -> String {
        format!("http://{}", self.market)
    }
    /// Address of the gateway.
    pub fn gateway_url(&self) -> String {
        format!("http://{}", self.gateway)
    }
    /// Address of nats-server.
    pub fn nats_url(&self) -> &str {
        self.system.url()
    }
    fn ledger(&self) -> PathBuf {
        self.folder.path().join("market-ledger.jsonl")
    }

    /// Ends every process and starts all of them again on the same folder.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.system.stop().await?;
        self.system.start_server().await?;
        self.client = self.system.client().await?;
        self.start_services().await
    }

    /// Kills a service as `kill -9` does.
    pub fn kill(&mut self, name: &str) {
        self.system.kill(name);
    }

    /// Submits a run of `definition` with the market as input.
    pub async fn submit(&mut self, definition: &Definition, symbol: &str, date: &str) -> anyhow::Result<String> {
        self.client.put_workflow(definition).await?;
        self.sequence += 1;
        let accepted = self.client.submit(self.submission(definition, symbol, date)).await?;
        Ok(accepted.execution_id.to_string())
    }

    fn submission(&self, definition: &Definition, symbol: &str, date: &str) -> Submit {
        Submit {
            workflow_id: definition.id.clone(),
            version: Some(definition.version.clone()),
            input: json!({
                "symbol": symbol,
                "market": self.market_url(),
                "price_url": format!("{}/price/{symbol}?date={date}", self.market_url()),
            }),
            bot_id: None,
            strategy_id: None,
            key: format!("demo-{}-{}", std::process::id(), self.sequence).into(),
            notify: None,
        }
    }

    /// Waits for an execution's end.
    pub async fn outcome(&self, execution_id: &str) -> anyhow::Result<Outcome> {
        let outcome = self.client.wait(execution_id, LIMIT).await?;
        ensure!(outcome.status.is_terminal(), "{execution_id} is still {} after {LIMIT:?}", outcome.status.as_str());
        Ok(outcome)
    }

    /// Runs `definition` to a good end.
    pub async fn run(&mut self, definition: &Definition, symbol: &str, date: &str) -> anyhow::Result<Outcome> {
        let id = self.submit(definition, symbol, date).await?;
        let outcome = self.outcome(&id).await?;
        ensure!(
            outcome.status == Status::Completed,
            "{id} ended {}: {}",
            outcome.status.as_str(),
            outcome.error.as_deref().or(outcome.reason.as_deref()).unwrap_or("no reason given")
        );
        Ok(outcome)
    }

    /// An execution's events, in order, once its last one is there.
    pub async fn events(&self, execution_id: &str) -> anyhow::Result<Vec<Event>> {
        let events: Vec<Event> = self.client.events(execution_id).await?.into_iter().map(|(_, e)| e).collect();
        let last = events.last().with_context(|| format!("{execution_id} has no events"))?;
        ensure!(
            last.event_count == Some(events.len() as u32),
            "{execution_id} has {} events, its last says {:?}",
            events.len(),
            last.event_count
        );
        Ok(events)
    }

    /// Arrivals at the market for an execution's orders.
    pub async fn arrivals(&self, execution_id: &str) -> anyhow::Result<Vec<Value>> {
        let all: Vec<Value> = self.http.get(format!("{}/ledger", self.market_url())).send().await?.json().await?;
        let prefix = format!("{execution_id}/");
        Ok(all.into_iter().filter(|a| a["key"].as_str().is_some_and(|k| k.starts_with(&prefix))).collect())
    }

    /// What the gateway answers.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.http.get(format!("{}{path}", self.gateway_url())).send().await?;
        ensure!(response.status().is_success(), "the gateway answered {} to {path}", response.status());
        Ok(response.json().await?)
    }

    /// Ends everything.
    pub async fn strike(&mut self) {
        if let Err(error) = self.system.stop().await {
            tracing::warn!(%error, "the system did not end cleanly");
        }
    }
}

/// An address of this machine that is free now.
fn free_address() -> anyhow::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or("0")
}
