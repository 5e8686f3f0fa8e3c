//! Where a run takes place: a log on a real nats-server, and a gateway in this process or as a process.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_common::{
    Link,
    config::{GatewaySettings, StorageSettings},
    js, topology,
    types::{Names, feed::Epoch},
};
use haltline_tests::{Site, port, until};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::truth::Truth;

/// Debug builds on busy machines need a while.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A gateway on a thread of its own.
struct InProcess {
    url: String,
    stop: CancellationToken,
    dead: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

enum Gateway {
    InProcess(InProcess),
    Process(Box<Site>),
}

/// The world.
pub struct World {
    link: Link,
    gateway: Gateway,
    port: u16,
    /// What was stored.
    pub truth: Truth,
}

impl World {
    /// With a gateway in this process.
    pub async fn in_process(nats: &str, namespace: &str) -> anyhow::Result<Self> {
        let names = Names::new(namespace).map_err(anyhow::Error::msg)?;
        let link = Link::connect(nats, names, "test").await?;
        topology::ensure(&link, &StorageSettings::default()).await?;
        let port = port::free();
        let gateway = Gateway::InProcess(start(nats, namespace, port).await?);
        let mut world = Self { link, gateway, port, truth: Truth::default() };
        world.began().await?;
        world.ready().await?;
        Ok(world)
    }

    /// With processes that can be killed.
    pub async fn of_processes(command: &str) -> anyhow::Result<Self> {
        let mut site = Site::bare(command).await?;
        site.spawn_gateway(None).await?;
        let port = site.gateway_url().rsplit(':').next().context("a port")?.parse()?;
        let mut world = Self { link: site.link().clone(), gateway: Gateway::Process(Box::new(site)), port, truth: Truth::default() };
        world.began().await?;
        Ok(world)
    }

    /// Where the gateway's socket is.
    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}/v1/ws", self.port)
    }

    async fn began(&mut self) -> anyhow::Result<()> {
        let stream = self.link.names.events_stream();
        let info = js::stream_info(&self.link, &stream).await?;
        self.truth.begin(Epoch::of(&stream, &info.created));
        Ok(())
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let (http, url) = (haltline_tests::http::client()?, format!("http://127.0.0.1:{}/readyz", self.port));
        until("the gateway is ready", READY_WITHIN, async || {
            Ok(http.get(&url).send().await.is_ok_and(|r| r.status().is_success()).then_some(()))
        })
        .await
    }

    /// Stores a message, a line an event; what cannot be one as `None`.
    pub async fn publish(&mut self, subject: String, body: String) -> anyhow::Result<()> {
        let ack = self.link.js.publish(subject.clone(), body.clone().into()).await?.await?;
        let read = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|e| e["id"].is_string());
        let events = if Names::is_command(&subject) { Vec::new() } else { body.lines().map(read).collect() };
        self.truth.put(ack.sequence, events);
        Ok(())
    }

    /// Names on the server.
    pub fn names(&self) -> &Names {
        &self.link.names
    }

    /// Removes all messages up to one.
    pub async fn purge(&mut self, upto: u64) -> anyhow::Result<()> {
        // Said first: a gap may be told before the answer comes.
        self.truth.purge(upto);
        let _: Value = js::api(&self.link, &format!("STREAM.PURGE.{}", self.names().events_stream()), &json!({ "seq": upto + 1 })).await?;
        Ok(())
    }

    /// Removes one message.
    pub async fn delete(&mut self, seq: u64) -> anyhow::Result<()> {
        self.truth.delete(seq);
        let _: Value = js::api(&self.link, &format!("STREAM.MSG.DELETE.{}", self.names().events_stream()), &json!({ "seq": seq })).await?;
        Ok(())
    }

    /// Another stream takes the log's place.
    pub async fn replace(&mut self) -> anyhow::Result<()> {
        let head = self.truth.head();
        self.truth.purge(head);
        let _: Value = js::api(&self.link, &format!("STREAM.DELETE.{}", self.names().events_stream()), &Value::Null).await?;
        topology::ensure(&self.link, &StorageSettings::default()).await?;
        self.began().await
    }

    /// The gateway dies and comes back.
    pub async fn kill_gateway(&mut self) -> anyhow::Result<()> {
        let url = match &mut self.gateway {
            Gateway::InProcess(g) => {
                g.kill();
                g.url.clone()
            }
            Gateway::Process(site) => {
                site.process("gateway")?.kill();
                return site.spawn_gateway(None).await;
            }
        };
        self.gateway = Gateway::InProcess(start(&url, self.names().namespace(), self.port).await?);
        self.ready().await
    }

    /// nats-server dies and comes back; `false` where others use it as well.
    pub async fn kill_broker(&mut self) -> anyhow::Result<bool> {
        let Gateway::Process(site) = &mut self.gateway else { return Ok(false) };
        site.nats.kill();
        site.nats.up().await?;
        until("the log answers", READY_WITHIN, async || {
            Ok(js::stream_info(&self.link, &self.link.names.events_stream()).await.is_ok().then_some(()))
        })
        .await?;
        Ok(true)
    }

    /// Ends it as a success.
    pub async fn end(self) {
        match self.gateway {
            Gateway::InProcess(mut g) => g.kill(),
            Gateway::Process(site) => site.done(),
        }
    }
}

/// Binds a port that a gateway just had: a process that another test was about to start, between its fork and its exec,
/// may hold the old socket for a moment.
async fn bind(port: u16) -> anyhow::Result<std::net::TcpListener> {
    let listener = until("the gateway's port", READY_WITHIN, async || Ok(std::net::TcpListener::bind(("127.0.0.1", port)).ok())).await?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn start(nats: &str, namespace: &str, port: u16) -> anyhow::Result<InProcess> {
    let (stop, dead) = (CancellationToken::new(), CancellationToken::new());
    let names = Names::new(namespace).map_err(anyhow::Error::msg)?;
    let settings = GatewaySettings { port, ..GatewaySettings::default() };
    let (url, token, over) = (nats.to_owned(), stop.clone(), dead.clone());
    let listener = bind(port).await?;
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let serve = async {
                let link = Link::connect(&url, names, "gateway").await?;
                haltline_gateway::run(link, settings, TcpListener::from_std(listener)?, token).await
            };
            tokio::select! { ended = serve => ended.expect("the gateway runs"), () = over.cancelled() => {} }
        });
        // As a killed process: nothing is said to anyone.
        runtime.shutdown_background();
    });
    ensure!(!thread.is_finished(), "the gateway ended");
    Ok(InProcess { url: nats.to_owned(), stop, dead, thread: Some(thread) })
}

impl InProcess {
    fn kill(&mut self) {
        self.dead.cancel();
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
