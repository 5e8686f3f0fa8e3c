//! The process with the clients, as the bench steers it: a line on its standard input is a command,
//! a line on its standard output the answer.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// Connecting thousands of clients takes a while on a busy machine.
const CONNECT_WITHIN: Duration = Duration::from_secs(120);
/// Recovering as well.
const RECOVER_WITHIN: Duration = Duration::from_secs(60);

/// All clients are there.
#[derive(Debug, Serialize, Deserialize)]
pub struct Connected {
    /// How long it took.
    pub ms: f64,
}

/// All clients have come back.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recovered {
    /// How many were told that nothing is missing.
    pub recovered: usize,
    /// From losing the connection to having everything again.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// What they got.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    pub delivered: u64,
    /// From the first delivery to the last.
    pub seconds: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub errors: Vec<String>,
}

/// The process.
pub struct Crowd {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// How long connecting took.
    pub connected_ms: f64,
}

impl Crowd {
    /// Starts it and waits until all its clients are connected and subscribed.
    pub async fn start(ws: &str, clients: usize, stalled: bool) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.args(["bench", "--crowd", ws, "--crowd-size", &clients.to_string()]);
        if stalled {
            command.arg("--crowd-stalled");
        }
        // Its own end is tied to this pipe: it ends when this process does.
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().context("cannot start the clients")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { bail!("the clients have no pipes") };
        let mut crowd = Self { child, input, output: BufReader::new(output).lines(), connected_ms: 0.0 };
        crowd.connected_ms = crowd.answer::<Connected>(CONNECT_WITHIN).await?.ms;
        Ok(crowd)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Breaks all connections; waits until all are back.
    pub async fn drop_all(&mut self) -> anyhow::Result<Recovered> {
        self.say("drop").await?;
        self.answer(RECOVER_WITHIN).await
    }

    /// Waits until every client has `expected` events, or nothing came for `patience`; what they got.
    pub async fn end(&mut self, expected: u64, patience: Duration) -> anyhow::Result<Told> {
        self.say(&format!("end {expected} {}", patience.as_millis())).await?;
        self.answer(patience * 10).await
    }

    async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await.context("the clients have ended")
    }

    async fn answer<T: DeserializeOwned>(&mut self, within: Duration) -> anyhow::Result<T> {
        let line = tokio::time::timeout(within, self.output.next_line()).await.context("the clients did not answer in time")??;
        let line = line.context("the clients ended; what they said is above")?;
        serde_json::from_str(&line).with_context(|| format!("the clients said: {line}"))
    }
}
