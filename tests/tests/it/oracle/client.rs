//! A client as PROTOCOL.md tells to write one, which keeps everything that it was sent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use haltline_common::types::feed::{Cursor, Filter, From, IfGap, Mode, PROTOCOL, ServerFrame};
use serde_json::json;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// A gateway that is being started again takes a while.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// A subscription, as the client wants it.
#[derive(Clone, Debug)]
pub struct Want {
    pub filter: Filter,
    pub from: From,
    pub if_gap: IfGap,
    pub mode: Mode,
}

/// What one connection was asked and sent.
pub struct Connection {
    /// By id: what was asked for, with the cursor where it had one.
    pub asked: BTreeMap<String, Want>,
    frames: Arc<Mutex<Vec<ServerFrame>>>,
    reader: JoinHandle<()>,
}

impl Connection {
    /// What was sent so far.
    pub fn frames(&self) -> Vec<ServerFrame> {
        self.frames.lock().expect("not poisoned").clone()
    }
    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.reader.is_finished()
    }
    /// Ends it without a word, or notices that it has ended.
    pub fn cut(&self) {
        self.reader.abort();
    }
    /// Whether an event with this id came for a subscription.
    pub fn has(&self, sub: &str, id: &str) -> bool {
        let frames = self.frames.lock().expect("not poisoned");
        frames.iter().rev().any(|f| matches!(f, ServerFrame::Ev(e) if e.s.contains_key(sub) && e.d["id"] == id))
    }
}

/// A client: its subscriptions over all its connections.
pub struct Client {
    pub wants: BTreeMap<String, Want>,
    pub connections: Vec<Connection>,
}

impl Client {
    /// One that is not connected.
    pub fn new(wants: BTreeMap<String, Want>) -> Self {
        Self { wants, connections: Vec::new() }
    }

    /// Connects (again), each subscription where it was.
    pub async fn connect(&mut self, ws: &str) -> anyhow::Result<()> {
        let mut asked = self.wants.clone();
        for (id, want) in &mut asked {
            if let Some(cursor) = self.cursor(id) {
                want.from = From::Cursor(cursor);
            }
        }
        let until = tokio::time::Instant::now() + CONNECT_WITHIN;
        let connection = loop {
            match open(ws, asked.clone()).await {
                Ok(connection) => break connection,
                Err(e) if tokio::time::Instant::now() > until => return Err(e).context("cannot connect"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        self.connections.push(connection);
        Ok(())
    }

    /// The connection in use.
    pub fn current(&self) -> Option<&Connection> {
        self.connections.last()
    }

    /// Where a subscription is: the last place that it was told.
    fn cursor(&self, id: &str) -> Option<Cursor> {
        let mut at = None;
        for connection in &self.connections {
            let mut live = Vec::new();
            for frame in connection.frames() {
                match frame {
                    ServerFrame::Subd(s) if s.id == id && s.recovered => at = Some(s.from),
                    ServerFrame::Snap(s) if s.id == id && s.last => at = Some(s.at),
                    ServerFrame::Ev(e) if e.s.contains_key(id) => at = Some(e.c),
                    ServerFrame::Live(l) => {
                        if l.id == id {
                            at = Some(l.c);
                        }
                        live.push(l.id);
                    }
                    ServerFrame::Mark(m) if live.iter().any(|l| l == id) => at = Some(m.c),
                    _ => {}
                }
            }
        }
        at
    }
}

async fn open(ws: &str, asked: BTreeMap<String, Want>) -> anyhow::Result<Connection> {
    let mut request = ws.into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", PROTOCOL.parse()?);
    let host = request.uri().authority().context("no host")?.to_string();
    let tcp = TcpStream::connect(host).await?;
    tcp.set_nodelay(true)?;
    let (mut socket, _) = client_async(request, tcp).await?;
    socket.feed(Message::Text(json!({ "t": "hello", "v": 1 }).to_string().into())).await?;
    for (id, w) in &asked {
        let sub = json!({ "t": "sub", "rid": 1, "id": id, "filter": w.filter, "from": w.from, "if_gap": w.if_gap, "mode": w.mode });
        socket.feed(Message::Text(sub.to_string().into())).await?;
    }
    socket.flush().await?;
    let frames: Arc<Mutex<Vec<ServerFrame>>> = Arc::default();
    let read = async |frames: &Mutex<Vec<ServerFrame>>, socket: &mut tokio_tungstenite::WebSocketStream<TcpStream>| {
        while let Some(message) = socket.next().await {
            if let Message::Text(text) = message? {
                let frame: ServerFrame = serde_json::from_str(&text).with_context(|| text.to_string())?;
                if matches!(frame, ServerFrame::Ping(_)) {
                    socket.send(Message::Text(r#"{"t":"pong"}"#.into())).await?;
                }
                let done = matches!(&frame, ServerFrame::Subd(_) | ServerFrame::Err(_));
                frames.lock().expect("not poisoned").push(frame);
                if done {
                    return anyhow::Ok(true);
                }
            }
        }
        anyhow::Ok(false)
    };
    // Until everything has begun, so that what is published next comes after it.
    for _ in 0..asked.len() {
        ensure!(read(&frames, &mut socket).await?, "the connection ended");
        if let Some(ServerFrame::Err(e)) = frames.lock().expect("not poisoned").last() {
            bail!("refused: {e:?}");
        }
    }
    let shared = frames.clone();
    let reader = tokio::spawn(async move { while read(&shared, &mut socket).await.is_ok_and(|on| on) {} });
    Ok(Connection { asked, frames, reader })
}
