//! Socket.IO for dashboards in the field: the vocabulary of the server that Haltline replaces, over the
//! same hub and the same rights as everything else. Off unless `gateway.socketio` says so.
//!
//! | in | out |
//! |---|---|
//! | | `connected` |
//! | `authenticate{token}` | `auth_response` |
//! | `subscribe_workflow`, `_bot`, `_strategy`, `subscribe_all_bots` | `recent_events` if there are any, `subscribed`, then `workflow_event` |
//! | `unsubscribe{type}`, `unsubscribe_workflow`, `_bot`, `_strategy` | `unsubscribed` |
//! | `request_state{type,id}`, `request_stats` | `state_response`, `stats_update` |
//! | | `emergency_state`, a flag as stored, which the replaced server did not have; `error` |
//!
//! Keys may be written `workflow_id` or `workflowId`. Events carry their cursor as `_cursor`.
//!
//! A packet, and what one POST brings, has at most [`FRAME_MAX`] bytes, as a frame of the WebSocket: a larger one
//! ends the connection. What is refused goes on record as at every other entrance.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use haltline_common::{
    clock, metrics,
    types::feed::{Cursor, FRAME_MAX, Filter, From, IfGap, Match, Mode, Sub},
};
use serde_json::{Value, json};
use socketioxide::{
    ParserConfig, SocketError, SocketIo,
    extract::{Event, SocketRef, TryData},
    layer::SocketIoLayer,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    auth::{Denied, Principal},
    feed::{Feed, Out, Snapshots},
    guard::Entrance,
    halts::{Halts, known_to},
    hub::Entry,
    limits::Flow,
};

/// Events that a new subscription is given of what was before: as many as its clients know.
const RECENT: usize = 100;
/// Bytes of them at most, and at least one: they are one packet, which has to fit into the answer to a poll.
const RECENT_BYTES: usize = 1 << 20;
/// Packets that wait for a slow client in the library; more wait in the log. An event has at most a megabyte and mostly
/// less than one kilobyte: so a client that does not read holds some kilobytes, and eight megabytes if all that it does
/// not take is as large as it can be.
const PACKETS_MAX: usize = 8;
/// Bytes of an answer to a poll: the largest event has to fit, and so has [`RECENT_BYTES`].
const PAYLOAD_MAX: u64 = 2 << 20;
/// Nothing of the vocabulary is binary; the library takes this for "more than none".
const BINARIES_MAX: usize = 1;
/// A connection that has not joined the namespace within this time is closed, as one without `hello`.
const CONNECT: Duration = Duration::from_secs(5);
/// Where a token is needed: so long somebody without one may stay, who takes the place of others.
const AUTHENTICATE: Duration = Duration::from_secs(30);
/// Requests of a client that wait; more are refused.
const ASKED_MAX: usize = 32;
/// A client that takes nothing for this long is sent away.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Before a full buffer is tried again: at first, and at most.
const AGAIN: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(25)];
/// Before a log that cannot be read is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How long the log may be unreadable.
const UPSTREAM: Duration = Duration::from_secs(15);

/// The layer that answers below `/socket.io`.
pub(crate) fn layer(app: &App) -> SocketIoLayer {
    let parser = ParserConfig::common().max_incoming_binaries(BINARIES_MAX).max_incoming_binary_buf_size(FRAME_MAX);
    let (layer, io) = SocketIo::builder()
        .max_payload(PAYLOAD_MAX)
        .max_buffer_size(PACKETS_MAX)
        .ws_read_buffer_size(4096)
        .ws_max_message_size(FRAME_MAX)
        .ws_max_frame_size(FRAME_MAX)
        .connect_timeout(CONNECT)
        .with_parser(parser)
        .build_layer();
    let app = app.clone();
    io.ns("/", async move |socket: SocketRef, TryData(auth): TryData<Value>| connected(app.clone(), socket, auth.ok()).await);
    layer
}

/// What a client asks for.
type Asked = (String, Value);

async fn connected(app: App, socket: SocketRef, said: Option<Value>) {
    let Ok(permit) = app.room.clone().try_acquire_owned() else {
        let _ = socket.emit("error", &json!({ "message": "as many clients as this gateway serves are connected" }));
        let _ = socket.disconnect();
        return;
    };
    let by_token = said.as_ref().and_then(|v| v["token"].as_str());
    // Before anything is waited for: what comes meanwhile counts, too.
    let (tx, asked) = mpsc::channel::<Asked>(ASKED_MAX);
    let gone = CancellationToken::new();
    let (flow, flood) = (Arc::new(Mutex::new(Flow::new())), gone.clone());
    socket.on_fallback(async move |socket: SocketRef, Event(name), TryData(data): TryData<Value>| {
        if !flow.lock().unwrap_or_else(PoisonError::into_inner).one_more(Instant::now()) {
            let _ = socket.emit("error", &json!({ "message": "too many packets" }));
            flood.cancel();
        } else if tx.try_send((name, data.unwrap_or_default())).is_err() {
            let _ = socket.emit("error", &json!({ "message": "too many requests at once" }));
        }
    });
    let principal = match who(&app, &socket, "connect", by_token).await {
        Ok(principal) => Some(Arc::new(principal)),
        Err(Denied::Missing) => None,
        Err(denied) => {
            let _ = socket.emit("error", &json!({ "message": denied.to_string() }));
            None
        }
    };
    let over = gone.clone();
    socket.on_disconnect(async move || over.cancel());
    let counted = app.sessions.token();
    let session = Session {
        feed: Feed::new(app.hub.clone(), principal.clone().unwrap_or_else(|| Arc::new(Principal::developer()))),
        principal,
        halts: app.halts.clone(),
        halt_seen: 0,
        rights: app.auth.changes(),
        socket,
        asked,
        gone,
        failing: None,
        since: Instant::now(),
        app,
    };
    tokio::spawn(async move {
        session.run().await;
        drop((permit, counted));
    });
}

/// Who somebody is: by the token that they said, else by how they connected. What is refused goes on record, and
/// counts against their address.
async fn who(app: &App, socket: &SocketRef, action: &str, token: Option<&str>) -> Result<Principal, Denied> {
    let mut entrance = Entrance::of(socket.req_parts());
    match token {
        Some(token) => entrance.token(app, action, token).await,
        None => match entrance.known(app, action).await {
            Ok(principal) => principal.ok_or(Denied::Missing),
            Err(problem) => Err(Denied::Invalid(problem.detail().to_owned())),
        },
    }
}

/// The client is gone, or has to go.
struct Over;

struct Session {
    app: App,
    socket: SocketRef,
    /// Nobody until someone has said who it is; then nothing is subscribed.
    principal: Option<Arc<Principal>>,
    feed: Feed,
    halts: watch::Receiver<Arc<Halts>>,
    halt_seen: u64,
    rights: watch::Receiver<u64>,
    asked: mpsc::Receiver<Asked>,
    gone: CancellationToken,
    failing: Option<Instant>,
    since: Instant,
}

impl Session {
    async fn run(mut self) {
        metrics::WS_CLIENTS.set(self.app.sessions.len() as u64);
        let _ = self.serve().await;
        // Where its buffer is full, this changes nothing: who floods, and reads nothing, would stay.
        let until = Instant::now() + STALLED_AFTER;
        while self.socket.clone().disconnect().is_err() && Instant::now() < until && !self.app.stop.is_cancelled() {
            tokio::time::sleep(AGAIN[1]).await;
        }
        metrics::WS_CLIENTS.set((self.app.sessions.len() as u64).saturating_sub(1));
    }

    async fn serve(&mut self) -> Result<(), Over> {
        let hello = json!({
            "sid": self.socket.id.to_string(), "message": "connected to Haltline", "auth_required": self.principal.is_none(),
            "server_time": clock::now(),
        });
        self.emit("connected", &hello).await?;
        loop {
            if self.principal.is_none() && self.since.elapsed() >= AUTHENTICATE {
                self.error(format!("nobody has authenticated within {} s", AUTHENTICATE.as_secs())).await?;
                return Err(Over);
            }
            self.flags().await?;
            let mut out = Vec::new();
            let stepped = self.feed.step(&mut out).await;
            for one in out {
                self.give(one).await?;
            }
            match stepped {
                Ok(true) => continue,
                Ok(false) => self.failing = None,
                Err(error) => {
                    tracing::debug!(error, "the log cannot be read for a client");
                    if self.failing.get_or_insert_with(Instant::now).elapsed() > UPSTREAM {
                        self.emit("error", &json!({ "message": "the log cannot be read now" })).await?;
                        return Err(Over);
                    }
                }
            }
            let until = self.principal.as_ref().and_then(|p| p.until);
            let again = if self.failing.is_some() { RETRY } else { Duration::from_secs(5) };
            tokio::select! {
                () = self.gone.cancelled() => return Err(Over),
                () = self.app.stop.cancelled() => return Err(Over),
                asked = self.asked.recv() => match asked {
                    Some((name, data)) => Box::pin(self.answer(&name, &data)).await?,
                    None => return Err(Over),
                },
                _ = self.halts.changed() => self.halts.mark_changed(),
                () = self.feed.changed(), if self.failing.is_none() => {}
                _ = self.rights.changed() => self.still()?,
                () = tokio::time::sleep(again) => {
                    if until.is_some() {
                        self.still()?;
                    }
                }
            }
        }
    }

    /// Ends the session of someone who may not go on.
    fn still(&mut self) -> Result<(), Over> {
        let good = self.principal.as_ref().is_none_or(|p| self.app.auth.still(p).is_ok());
        if good { Ok(()) } else { Err(Over) }
    }

    /// Emits, waiting for a client that is slow.
    async fn emit(&self, name: &str, data: &Value) -> Result<(), Over> {
        let until = Instant::now() + STALLED_AFTER;
        let mut again = AGAIN[0];
        loop {
            match self.socket.emit(name, data) {
                Ok(()) => return Ok(()),
                Err(socketioxide::SendError::Socket(SocketError::InternalChannelFull)) if Instant::now() < until => {}
                Err(_) => return Err(Over),
            }
            tokio::select! {
                () = self.gone.cancelled() => return Err(Over),
                () = self.app.stop.cancelled() => return Err(Over),
                () = tokio::time::sleep(again) => again = (again * 2).min(AGAIN[1]),
            }
        }
    }

    async fn error(&self, message: impl Into<String>) -> Result<(), Over> {
        self.emit("error", &json!({ "message": message.into() })).await
    }

    /// Flags as they are stored; only for those who may look.
    async fn flags(&mut self) -> Result<(), Over> {
        let Some(principal) = self.principal.clone() else { return Ok(()) };
        let halts = self.halts.borrow_and_update().clone();
        let told =
            if self.halt_seen == 0 { std::iter::once(halts.global()).chain(halts.scoped()).collect() } else { halts.since(self.halt_seen) };
        self.halt_seen = halts.version().max(1);
        for state in known_to(&principal, told) {
            self.emit("emergency_state", &serde_json::to_value(&state).unwrap_or_default()).await?;
        }
        Ok(())
    }

    async fn give(&self, out: Out) -> Result<(), Over> {
        match out {
            Out::Event(entry, _) => {
                metrics::WS_DELIVERIES.inc();
                self.emit("workflow_event", &event(&entry)).await
            }
            Out::Gap(id, g) => {
                metrics::WS_GAPS.inc();
                let gap = json!({ "after": g.after, "next": g.next, "reason": g.reason, "lost": g.lost() });
                self.emit("error", &json!({ "message": format!("events of {id} are missing"), "gap": gap })).await
            }
            Out::Live(..) => Ok(()),
        }
    }

    async fn answer(&mut self, name: &str, data: &Value) -> Result<(), Over> {
        if name == "authenticate" {
            return self.authenticate(data).await;
        }
        if self.principal.is_none() {
            return self.error("authenticate first").await;
        }
        match name {
            "subscribe_workflow" => self.subscribe("workflow", data).await,
            "subscribe_bot" => self.subscribe("bot", data).await,
            "subscribe_strategy" => self.subscribe("strategy", data).await,
            "subscribe_all_bots" => self.begin("all_bots", "", Filter::default()).await,
            "unsubscribe_workflow" => self.unsubscribe("workflow", data).await,
            "unsubscribe_bot" => self.unsubscribe("bot", data).await,
            "unsubscribe_strategy" => self.unsubscribe("strategy", data).await,
            "unsubscribe_all_bots" => self.end("all_bots", "").await,
            "unsubscribe" => match data["type"].as_str() {
                Some(kind @ ("workflow" | "bot" | "strategy")) => self.unsubscribe(kind, data).await,
                Some("all_bots") => self.end("all_bots", "").await,
                _ => self.error("type must be workflow, bot, strategy or all_bots").await,
            },
            "request_state" => self.state(data).await,
            "request_stats" => self.stats().await,
            other => self.error(format!("unknown event `{}`", other.chars().take(64).collect::<String>())).await,
        }
    }

    async fn authenticate(&mut self, data: &Value) -> Result<(), Over> {
        // No token is good only where nobody needs one, or a cookie or header said who connected.
        let token = data["token"].as_str().filter(|t| !t.is_empty());
        let outcome = who(&self.app, &self.socket, "authenticate", token).await;
        let (success, message) = match outcome {
            Ok(p) if self.principal.as_ref().is_some_and(|old| old.name != p.name) => {
                (false, "this connection is somebody else's".to_owned())
            }
            Ok(p) => {
                let message = format!("authenticated as {}", p.name);
                let p = Arc::new(p);
                self.feed.set_principal(p.clone());
                self.principal = Some(p);
                (true, message)
            }
            Err(denied) => (false, denied.to_string()),
        };
        self.emit("auth_response", &json!({ "success": success, "message": message })).await
    }

    async fn subscribe(&mut self, kind: &'static str, data: &Value) -> Result<(), Over> {
        let Some(id) = id_of(kind, data) else { return self.error(format!("{kind}_id is missing")).await };
        let mut filter = Filter::default();
        let field = match kind {
            "workflow" => &mut filter.workflow,
            "bot" => &mut filter.bot,
            _ => &mut filter.strategy,
        };
        field.push(Match::Is(id.clone()));
        self.begin(kind, &id, filter).await
    }

    /// What was before comes first, then `subscribed`, then what comes: each once.
    async fn begin(&mut self, kind: &str, id: &str, filter: Filter) -> Result<(), Over> {
        if let Err(why) = filter.check() {
            return self.error(why).await;
        }
        let told = told(kind, id);
        if self.feed.has(&room(kind, id)) {
            return self.emit("subscribed", &told).await;
        }
        let (recent, pos) = match self.feed.recent(&filter, RECENT).await {
            Ok(found) => found,
            Err(why) => return self.error(why).await,
        };
        let recent = newest(&recent, RECENT_BYTES);
        if !recent.is_empty() {
            let events: Vec<Value> = recent.iter().map(|e| event(e)).collect();
            self.emit("recent_events", &json!({ "count": events.len(), "events": events })).await?;
        }
        let from = From::Cursor(Cursor { tag: None, ..pos });
        let sub = Sub { rid: None, id: room(kind, id), filter, from, if_gap: IfGap::Continue, mode: Mode::Lossless };
        let mut out = Vec::new();
        let outcome = self.feed.subscribe(sub, &self.app, &mut out).await;
        for one in out {
            self.give(one).await?;
        }
        match outcome {
            Ok(_) => self.emit("subscribed", &told).await,
            Err(refused) => self.error(refused.why).await,
        }
    }

    async fn unsubscribe(&mut self, kind: &str, data: &Value) -> Result<(), Over> {
        match id_of(kind, data) {
            Some(id) => self.end(kind, &id).await,
            None => self.error(format!("{kind}_id is missing")).await,
        }
    }

    async fn end(&mut self, kind: &str, id: &str) -> Result<(), Over> {
        self.feed.unsubscribe(&room(kind, id));
        self.emit("unsubscribed", &told(kind, id)).await
    }

    async fn state(&mut self, data: &Value) -> Result<(), Over> {
        let kind = data["type"].as_str().unwrap_or("workflow").to_owned();
        let Some(id) = data["id"].as_str().map(str::to_owned).or_else(|| id_of(&kind, data)) else {
            return self.error("id is missing").await;
        };
        let mut filter = Filter::default();
        let value = vec![Match::Is(id.clone())];
        match kind.as_str() {
            "workflow" => filter.workflow = value,
            "bot" => filter.bot = value,
            "strategy" => filter.strategy = value,
            "execution" => filter.execution = value,
            _ => return self.error("type must be workflow, bot, strategy or execution").await,
        }
        if let Err(why) = filter.check() {
            return self.error(why).await;
        }
        let head = self.app.hub.head().borrow().seq;
        match self.app.state(&filter, self.feed.principal(), head).await {
            Ok(state) => {
                let latest = state.items.first().cloned();
                let shown = json!({ "latest": latest, "executions": state.items.iter().take(RECENT).collect::<Vec<_>>() });
                self.emit("state_response", &json!({ "type": kind, "id": id, "state": shown })).await
            }
            Err(why) => self.error(why).await,
        }
    }

    async fn stats(&mut self) -> Result<(), Over> {
        let halt = self.halts.borrow().global();
        let stats = json!({
            "connected_clients": self.app.sessions.len(), "head": self.app.hub.head().borrow().seq, "uptime_s": self.app.started.elapsed().as_secs(),
            "emergency_state": halt.state, "sure": halt.sure, "server_time": clock::now(),
        });
        self.emit("stats_update", &stats).await
    }
}

/// The newest of them, as many as fit, at least one.
fn newest(all: &[Arc<Entry>], bytes: usize) -> &[Arc<Entry>] {
    let mut sum = 0;
    let fits = all.iter().rev().take_while(|e| {
        sum += e.bytes();
        sum <= bytes
    });
    &all[all.len() - fits.count().max(1).min(all.len())..]
}

/// An event as it is stored, with its cursor.
fn event(entry: &Entry) -> Value {
    let Entry::Event(e) = entry else { return Value::Null };
    let mut value: Value = serde_json::from_str(e.json()).unwrap_or_default();
    value["_cursor"] = e.cursor.to_string().into();
    value
}

/// `workflow_id` or `workflowId`.
fn id_of(kind: &str, data: &Value) -> Option<String> {
    let id = data.get(format!("{kind}_id")).or_else(|| data.get(format!("{kind}Id")));
    id.and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned)
}

/// A subscription's id.
fn room(kind: &str, id: &str) -> String {
    // Within the alphabet and the length of ids; what identifies it is the digest.
    if id.is_empty() { kind.to_owned() } else { format!("{kind}:{}", haltline_common::types::ids::digest(id.as_bytes())) }
}

/// What a subscription is called in answers, in both styles.
fn told(kind: &str, id: &str) -> Value {
    let mut told = json!({ "type": kind, "success": true });
    if !id.is_empty() {
        told["id"] = id.into();
        told[format!("{kind}_id")] = id.into();
        told[format!("{kind}Id")] = id.into();
    }
    told
}

#[cfg(test)]
mod tests {
    use haltline_common::types::feed::Epoch;
    use proptest::prelude::*;

    use super::*;
    use crate::hub::LogEvent;

    #[test]
    fn recent_events_fit_into_one_packet() {
        let event = |n: usize| {
            let line = format!(r#"{{"type":"t","id":"{n}","pad":"{}"}}"#, "x".repeat(1000));
            Arc::new(Entry::Event(LogEvent::read(Epoch(1), n as u64, line.as_bytes()).remove(0).expect("reads")))
        };
        let all: Vec<_> = (0..10).map(event).collect();
        let seqs = |bytes| newest(&all, bytes).iter().map(|e| e.seq()).collect::<Vec<_>>();
        assert_eq!((seqs(1 << 20).len(), seqs(all[0].bytes() * 3), seqs(1)), (10, vec![7, 8, 9], vec![9]));
        assert!(newest(&[], 1).is_empty());
    }

    /// JSON with the names that packets have.
    fn payload() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from)
        ];
        let name = prop_oneof![
            prop::sample::select(vec!["workflow_id", "workflowId", "bot_id", "type", "id", "token"]).prop_map(str::to_owned),
            any::<String>()
        ];
        leaf.prop_recursive(3, 20, 4, move |inner| {
            let map = prop::collection::vec((name.clone(), inner.clone()), 0..4).prop_map(|m| Value::Object(m.into_iter().collect()));
            prop_oneof![prop::collection::vec(inner, 0..4).prop_map(Value::from), map]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        /// Whatever a packet brings: an id that is a text becomes a subscription that is checked, all else is missing.
        #[test]
        fn any_payload_names_something_or_nothing(data in payload(), kind in prop::sample::select(vec!["workflow", "bot", "strategy"])) {
            match id_of(kind, &data) {
                Some(id) => {
                    let filter = Filter { workflow: vec![Match::Is(id.clone())], ..Filter::default() };
                    let room = room(kind, &id);
                    let sub = Sub { rid: None, id: room, filter: filter.clone(), from: From::Live(true), if_gap: IfGap::Continue, mode: Mode::Lossless };
                    prop_assert_eq!(sub.check().is_ok(), filter.check().is_ok());
                    prop_assert_eq!(&told(kind, &id)[format!("{kind}Id")], &Value::from(id));
                }
                None => {
                    let (snake, camel) = (format!("{kind}_id"), format!("{kind}Id"));
                    let given = data.get(snake).or(data.get(camel));
                    prop_assert!(given.is_none_or(|v| v.as_str().is_none_or(str::is_empty)));
                }
            }
        }
    }

    #[test]
    fn keys_are_read_in_both_styles() {
        assert_eq!(id_of("bot", &json!({ "bot_id": "b" })).as_deref(), Some("b"));
        assert_eq!(id_of("bot", &json!({ "botId": "b" })).as_deref(), Some("b"));
        for bad in [json!({}), json!(null), json!([]), json!({ "bot_id": "" }), json!({ "bot_id": 7 })] {
            assert_eq!(id_of("bot", &bad), None);
        }
        assert_ne!(room("bot", "a b"), room("bot", "a_b"));
        assert!(room("strategy", &"x".repeat(256)).len() <= 64);
    }
}
