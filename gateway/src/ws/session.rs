//! One client's session: greets, then writes what its subscriptions want, control frames first.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::extract::ws::WebSocket;
use futures_util::StreamExt;
use haltline_common::metrics;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{
    FRAME_MAX, SUBS_MAX, close,
    frames::{self, LAST_MAX},
    reader::{self, Asked, Heard},
    subs::{Cursor, Subs},
    subscribe::caught_up,
    writer::{End, Writer},
};
use crate::{app::App, auth::Principal, halt::HaltView, hub::Head};

/// Within this time a client must greet.
const HELLO: Duration = Duration::from_secs(5);
/// A quiet connection is tested this often...
const PING: Duration = Duration::from_secs(25);
/// ...and closed if nothing is heard for this long after.
const PONG: Duration = Duration::from_secs(8);
/// How long the log may be unreadable before a client that needs it is sent away.
const UPSTREAM: Duration = Duration::from_secs(15);
/// Delay before the log is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Serves a socket until it ends.
pub(super) async fn run(app: App, socket: WebSocket, principal: Option<Principal>) {
    metrics::WS_CLIENTS.set(app.sessions.len() as u64);
    let (sink, stream) = socket.split();
    let (tx, asked) = mpsc::channel(reader::QUEUE_MAX);
    let heard = Heard::new();
    let reading = AbortOnDropHandle::new(tokio::spawn(reader::read(stream, heard.clone(), tx)));
    let now = Instant::now();
    let mut session = Session {
        head: app.hub.head(),
        halt: app.halt.clone(),
        out: Writer::new(sink, app.stop.clone()),
        subs: Subs::default(),
        asked,
        heard,
        ping_at: now + PING,
        pong_by: None,
        failing: None,
        principal,
        app,
    };
    let Err(end) = session.serve().await;
    let Session { out, app, .. } = session;
    out.close(end).await;
    drop(reading);
    // This session is still counted.
    metrics::WS_CLIENTS.set((app.sessions.len() as u64).saturating_sub(1));
}

pub(super) struct Session {
    pub(super) app: App,
    pub(super) head: watch::Receiver<Head>,
    halt: watch::Receiver<HaltView>,
    pub(super) out: Writer,
    pub(super) subs: Subs,
    asked: mpsc::Receiver<Asked>,
    heard: Arc<Heard>,
    ping_at: Instant,
    /// When a ping was sent, and until when its answer counts.
    pong_by: Option<(Instant, Instant)>,
    /// Since when the log cannot be read.
    failing: Option<Instant>,
    /// `None` until the hello, if no header told it.
    principal: Option<Principal>,
}

/// Never returned: a session ends with an [`End`].
enum Never {}

impl Session {
    async fn serve(&mut self) -> Result<Never, End> {
        self.greet().await?;
        loop {
            self.control().await?;
            let more = self.data().await?;
            self.out.flush().await?;
            if !more {
                self.idle().await?;
            }
        }
    }

    /// Waits for the hello, answers it.
    async fn greet(&mut self) -> Result<(), End> {
        let first = async {
            loop {
                match self.asked.recv().await {
                    Some(Asked::Answer(frame)) => {
                        self.out.feed(frame).await?;
                        self.out.flush().await?;
                    }
                    other => break Ok(other),
                }
            }
        };
        let stop = self.app.stop.clone();
        let first = tokio::select! {
            first = tokio::time::timeout(HELLO, first) => first.map_err(|_| End::Close(close::HELLO, "no hello within 5 s"))??,
            () = stop.cancelled() => return Err(End::Stop),
        };
        match first {
            Some(Asked::Hello(1)) => {}
            Some(Asked::Hello(_)) => return Err(End::Close(close::BAD_FRAME, "this gateway speaks version 1")),
            Some(Asked::Close(code, reason)) => return Err(End::Close(code, reason)),
            Some(_) => return Err(End::Close(close::BAD_FRAME, "the first frame must be hello")),
            None => return Err(End::Gone),
        }
        if self.principal.as_ref().is_none_or(|p| self.app.auth.still(p).is_err()) {
            return Err(End::Close(close::BAD_TOKEN, "a token is needed"));
        }
        let hub = self.app.hub.clone();
        let ready = async { self.head.wait_for(|_| hub.ready()).await.map(|h| *h) };
        let head = match tokio::time::timeout(HELLO, ready).await {
            Ok(Ok(head)) => head,
            _ => return Err(End::Close(close::UPSTREAM, "the log cannot be read now")),
        };
        self.subs.live = Cursor::at(head.seq);
        self.subs.epoch = head.epoch;
        let oldest = self.app.log().await.map_or(hub.ring_from(), |s| s.first_seq);
        let halt = self.halt.borrow_and_update().json();
        let welcome = json!({
            "t": "welcome", "v": 1, "conn": uuid::Uuid::new_v4().simple().to_string(),
            "head": head.seq.to_string(), "oldest": oldest.to_string(),
            "ping_ms": PING.as_millis() as u64, "pong_ms": PONG.as_millis() as u64,
            "limits": { "subs": SUBS_MAX, "msg": FRAME_MAX, "last": LAST_MAX },
            "halt": halt,
        });
        self.out.feed(welcome.to_string()).await
    }

    /// Everything that goes before data.
    async fn control(&mut self) -> Result<(), End> {
        if self.app.stop.is_cancelled() {
            return Err(End::Stop);
        }
        if self.halt.has_changed().unwrap_or(false) {
            let view = self.halt.borrow_and_update().json();
            self.out.feed(frames::halt(&view)).await?;
        }
        loop {
            match self.asked.try_recv() {
                Ok(asked) => self.answer(asked).await?,
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(End::Gone),
            }
        }
        let now = Instant::now();
        if let Some((sent, until)) = self.pong_by {
            if self.heard.since(sent) {
                self.pong_by = None;
            } else if now >= until {
                return Err(End::Close(close::NO_PONG, "no pong"));
            }
        }
        if now >= self.ping_at && self.pong_by.is_none() {
            let head = self.head.borrow().seq.to_string();
            let ping = json!({ "t": "ping", "head": head, "upstream": self.app.hub.age_ms().is_some() });
            self.out.feed(ping.to_string()).await?;
            self.out.flush().await?;
            let sent = Instant::now();
            self.pong_by = Some((sent, sent + PONG));
            self.ping_at = sent + PING;
        }
        Ok(())
    }

    async fn answer(&mut self, asked: Asked) -> Result<(), End> {
        match asked {
            Asked::Hello(_) => self.out.feed(frames::err(None, "bad_frame", "hello comes once")).await,
            Asked::Answer(frame) => self.out.feed(frame).await,
            Asked::Close(code, reason) => Err(End::Close(code, reason)),
            Asked::Unsub(u) => {
                let frame = if self.subs.remove(&u.id) {
                    json!({ "t": "unsubd", "rid": u.rid, "id": u.id }).to_string()
                } else {
                    frames::err(u.rid, "unknown_sub", "there is no such subscription")
                };
                self.out.feed(frame).await
            }
            Asked::Sub(sub) => self.subscribe(sub).await,
        }
    }

    /// A piece of what the subscriptions want; whether there is more at once.
    async fn data(&mut self) -> Result<bool, End> {
        let head = *self.head.borrow_and_update();
        let mut out = Vec::new();
        if head.epoch != self.subs.epoch {
            self.subs.replaced(head.epoch, &mut out);
        }
        let mut failed = None;
        for (id, pos) in self.subs.behind() {
            match self.app.hub.after(pos).await {
                Ok(chunk) if chunk.epoch == self.subs.epoch => {
                    if self.subs.take_behind(&id, &chunk, &mut out) {
                        out.push(caught_up(&id, self.subs.live.pos));
                    }
                }
                Ok(_) => {} // replaced meanwhile: noticed in the next round
                Err(error) => failed = Some(error),
            }
            self.give(&mut out).await?;
        }
        if !self.subs.any_live() {
            self.subs.live.pos = if self.subs.behind().is_empty() { head.seq } else { self.subs.live.pos };
        } else if self.subs.live.pos < head.seq {
            match self.app.hub.after(self.subs.live.pos).await {
                Ok(chunk) if chunk.epoch == self.subs.epoch => self.subs.take_live(&chunk, &mut out),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        self.give(&mut out).await?;
        if let Some(error) = failed {
            tracing::debug!(error, "the log cannot be read for a client");
            let since = *self.failing.get_or_insert_with(Instant::now);
            if since.elapsed() > UPSTREAM {
                return Err(End::Close(close::UPSTREAM, "the log cannot be read now"));
            }
            self.out.flush().await?;
            tokio::time::sleep(AGAIN).await;
        } else {
            self.failing = None;
        }
        Ok(!self.subs.behind().is_empty() || (self.subs.any_live() && self.subs.live.pos < self.head.borrow().seq))
    }

    async fn give(&mut self, out: &mut Vec<String>) -> Result<(), End> {
        let mut events = 0;
        for frame in out.drain(..) {
            if frame.starts_with(r#"{"t":"ev""#) {
                events += 1;
            } else if frame.contains(r#""t":"gap""#) {
                metrics::WS_GAPS.inc();
            }
            self.out.feed(frame).await?;
        }
        metrics::WS_DELIVERIES.add(events);
        Ok(())
    }

    /// Waits for something to do.
    async fn idle(&mut self) -> Result<(), End> {
        let timer = self.pong_by.map_or(self.ping_at, |(_, until)| until.min(self.ping_at));
        let stop = self.app.stop.clone();
        tokio::select! {
            changed = self.head.changed() => changed.map_err(|_| End::Close(close::UPSTREAM, "the log cannot be read now")),
            changed = self.halt.changed() => {
                // Left marked as changed for `control` to send it.
                self.halt.mark_changed();
                changed.map_err(|_| End::Gone)
            }
            asked = self.asked.recv() => match asked {
                Some(asked) => self.answer(asked).await,
                None => Err(End::Gone),
            },
            () = tokio::time::sleep_until(timer.into()) => Ok(()),
            () = stop.cancelled() => Err(End::Stop),
        }
    }
}
