//! The clients of `bench --gateway`: thousands of WebSockets in one process, which check that nothing
//! is missing and measure how late it comes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures_util::{SinkExt, StreamExt, stream};
use haltline_common::types::feed::PROTOCOL;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

use super::{
    WORKFLOW,
    crowd::{Connected, Recovered, Told},
    frame::{self, now_us},
};
use crate::{commands::bench::report::round, limits, output};

/// Connections made at once.
const AT_ONCE: usize = 200;
/// A bucket of latencies, in microseconds, and how many there are: up to 60 s.
const BUCKET_US: u64 = 100;
const BUCKETS: usize = 600_000;
/// Errors kept for the report.
const ERRORS_MAX: usize = 20;
/// Before a failed connection is tried again.
const AGAIN: Duration = Duration::from_millis(100);

type Socket = WebSocketStream<TcpStream>;

/// Hidden flags: this process is the clients of a bench.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    #[arg(long, hide = true, value_name = "URL")]
    pub crowd: Option<String>,
    #[arg(long, hide = true, default_value_t = 1)]
    crowd_size: usize,
    #[arg(long, hide = true)]
    crowd_stalled: bool,
}

struct Shared {
    url: String,
    got: AtomicU64,
    first_us: AtomicU64,
    last_us: AtomicU64,
    latencies: Vec<AtomicU32>,
    max_us: AtomicU64,
    live: AtomicUsize,
    recovered: AtomicUsize,
    back_us: Mutex<Vec<u64>>,
    errors: Mutex<Vec<String>>,
    /// Counts how often all connections are to be broken.
    round: watch::Sender<u64>,
}

impl Shared {
    fn wrong(&self, what: String) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < ERRORS_MAX {
            errors.push(what);
        }
    }
    fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn delivered(&self, sent_us: u64) {
        let now = now_us();
        let late = now.saturating_sub(sent_us);
        self.latencies[((late / BUCKET_US) as usize).min(BUCKETS - 1)].fetch_add(1, Relaxed);
        self.max_us.fetch_max(late, Relaxed);
        self.got.fetch_add(1, Relaxed);
        if self.first_us.load(Relaxed) == 0 {
            self.first_us.store(now, Relaxed);
        }
        self.last_us.store(now, Relaxed);
    }
    /// The latency below which this part of all lies, in milliseconds.
    fn quantile(&self, part: f64) -> f64 {
        let all: u64 = self.latencies.iter().map(|b| u64::from(b.load(Relaxed))).sum();
        let (mut seen, wanted) = (0, (all as f64 * part) as u64);
        for (i, bucket) in self.latencies.iter().enumerate() {
            seen += u64::from(bucket.load(Relaxed));
            if seen > wanted {
                return round((i as u64 * BUCKET_US) as f64 / 1e3);
            }
        }
        0.0
    }
}

/// Runs the clients until standard input ends.
///
/// # Errors
/// When they cannot connect at the start.
pub async fn run(url: String, args: &Args) -> anyhow::Result<u8> {
    limits::raise_files();
    let shared = Arc::new(Shared {
        url,
        got: AtomicU64::new(0),
        first_us: AtomicU64::new(0),
        last_us: AtomicU64::new(0),
        latencies: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
        max_us: AtomicU64::new(0),
        live: AtomicUsize::new(0),
        recovered: AtomicUsize::new(0),
        back_us: Mutex::default(),
        errors: Mutex::default(),
        round: watch::Sender::new(0),
    });
    let began = Instant::now();
    let sockets: Vec<Socket> = stream::iter(0..args.crowd_size)
        .map(|_| async {
            let mut socket = open(&shared.url, None).await?;
            until_live(&mut socket, !args.crowd_stalled).await?;
            anyhow::Ok(socket)
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<anyhow::Result<_>>()?;
    output::json(&Connected { ms: began.elapsed().as_secs_f64() * 1e3 });
    let size = sockets.len();
    let _held = if args.crowd_stalled {
        sockets
    } else {
        for socket in sockets {
            tokio::spawn(client(shared.clone(), socket));
        }
        Vec::new()
    };
    // Ends with standard input: with the process that started this one.
    let (tx, mut commands) = mpsc::channel::<String>(1);
    std::thread::Builder::new()
        .name("commands".into())
        .spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| tx.blocking_send(line)))?;
    while let Some(line) = commands.recv().await {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["drop"] => output::json(&all_drop(&shared, size).await),
            ["end", expected, patience] => {
                let all = expected.parse::<u64>()? * size as u64;
                output::json(&all_told(&shared, all, Duration::from_millis(patience.parse()?)).await);
            }
            _ => bail!("unknown command `{line}`"),
        }
    }
    Ok(0)
}

/// A connection with its hello and subscription sent.
async fn open(url: &str, cursor: Option<&str>) -> anyhow::Result<Socket> {
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", PROTOCOL.parse()?);
    let host = request.uri().authority().context("no host")?.to_string();
    let tcp = TcpStream::connect(host).await?;
    tcp.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(8 * 1024).write_buffer_size(4 * 1024);
    let (mut socket, _) = client_async_with_config(request, tcp, Some(config)).await?;
    let from = cursor.map_or_else(|| json!({ "live": true }), |c| json!({ "cursor": c }));
    socket.feed(text(&json!({ "t": "hello", "v": 1, "client": { "name": "bench" } }))).await?;
    socket.feed(text(&json!({ "t": "sub", "rid": 1, "id": "b", "filter": { "workflow": [WORKFLOW] }, "from": from }))).await?;
    socket.flush().await?;
    Ok(socket)
}

fn text(frame: &Value) -> Message {
    Message::Text(frame.to_string().into())
}

/// Reads up to the first `live`, whose cursor it gives; at least up to the answer to the subscription.
async fn until_live(socket: &mut Socket, live: bool) -> anyhow::Result<()> {
    while let Some(message) = socket.next().await {
        if let Message::Text(t) = message? {
            let frame: Value = serde_json::from_str(&t)?;
            match frame["t"].as_str() {
                Some("live") => return Ok(()),
                Some("subd") if !live => return Ok(()),
                Some("err" | "bye") => bail!("{t}"),
                _ => {}
            }
        }
    }
    bail!("the connection was closed")
}

/// One client: reads, and comes back where it was when its connection is broken.
async fn client(shared: Arc<Shared>, mut socket: Socket) {
    let mut round = shared.round.subscribe();
    let mut cursor = String::new();
    let mut count = 0;
    // When the connection was lost, if it is to be recovered.
    let mut lost: Option<u64> = None;
    loop {
        let message = tokio::select! {
            biased;
            _ = round.changed() => None,
            message = socket.next() => message,
        };
        match message {
            Some(Ok(Message::Text(t))) => match frame::read(&t) {
                Some(seen) => {
                    if seen.count != count + 1 {
                        shared.wrong(format!("counter {} after {count}", seen.count));
                    }
                    count = seen.count;
                    cursor.clear();
                    cursor.push_str(seen.cursor);
                    shared.delivered(seen.sent_us);
                }
                None => {
                    if let Err(e) = other(&shared, &t, &mut cursor, &mut lost, &mut socket).await {
                        shared.wrong(e.to_string());
                    }
                }
            },
            Some(Ok(_)) => {}
            Some(Err(_)) | None => {
                let since = *lost.get_or_insert_with(now_us);
                drop(socket);
                socket = loop {
                    match open(&shared.url, Some(&cursor)).await {
                        Ok(socket) => break socket,
                        Err(e) if now_us() > since + 60_000_000 => return shared.wrong(format!("not back within 60 s: {e}")),
                        Err(_) => tokio::time::sleep(AGAIN).await,
                    }
                };
                count = 0;
            }
        }
    }
}

/// Frames that come seldom.
async fn other(shared: &Shared, t: &str, cursor: &mut String, lost: &mut Option<u64>, socket: &mut Socket) -> anyhow::Result<()> {
    let f: Value = serde_json::from_str(t)?;
    match f["t"].as_str().unwrap_or_default() {
        "ping" => socket.send(text(&json!({ "t": "pong" }))).await?,
        "live" => {
            if let Some(c) = f["c"].as_str() {
                c.clone_into(cursor);
            }
            shared.live.fetch_add(1, Relaxed);
            if let Some(since) = lost.take() {
                shared.back_us.lock().unwrap_or_else(PoisonError::into_inner).push(now_us() - since);
            }
        }
        "mark" => f["c"].as_str().unwrap_or_default().clone_into(cursor),
        "subd" if lost.is_some() && f["recovered"] == true => {
            shared.recovered.fetch_add(1, Relaxed);
        }
        "gap" | "err" | "bye" => bail!("{t}"),
        _ => {}
    }
    Ok(())
}

async fn all_drop(shared: &Shared, size: usize) -> Recovered {
    shared.round.send_modify(|n| *n += 1);
    let until = Instant::now() + Duration::from_secs(60);
    let back = || shared.back_us.lock().unwrap_or_else(PoisonError::into_inner).len();
    while back() < size && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut times = shared.back_us.lock().unwrap_or_else(PoisonError::into_inner).clone();
    times.sort_unstable();
    let at = |part: f64| {
        round(times.get(((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1))).map_or(0.0, |t| *t as f64 / 1e3))
    };
    let mut errors = Vec::new();
    if times.len() < size {
        errors.push(format!("{} of {size} clients are back", times.len()));
    }
    Recovered { recovered: shared.recovered.load(Relaxed), p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0), errors }
}

async fn all_told(shared: &Shared, all: u64, patience: Duration) -> Told {
    let (mut got, mut since) = (0, Instant::now());
    while got < all && since.elapsed() < patience {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = shared.got.load(Relaxed);
        if now != got {
            (got, since) = (now, Instant::now());
        }
    }
    let seconds = shared.last_us.load(Relaxed).saturating_sub(shared.first_us.load(Relaxed)) as f64 / 1e6;
    Told {
        delivered: shared.got.load(Relaxed),
        seconds,
        p50_ms: shared.quantile(0.5),
        p99_ms: shared.quantile(0.99),
        max_ms: round(shared.max_us.load(Relaxed) as f64 / 1e3),
        errors: shared.errors(),
    }
}
