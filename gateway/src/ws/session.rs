//! One client's session: greets, then writes what its subscriptions want, control frames first.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::extract::ws::WebSocket;
use futures_util::StreamExt;
use haltline_common::{
    clock, metrics,
    types::{
        Timestamp,
        feed::{
            Auth, Authed, Code, Cursor, FRAME_MAX, Hello, LAST_MAX, LimitsTold, Mark, Ping, SUBS_MAX, ServerFrame, Sub, Unsub, Unsubd,
            VERSION, Welcome, close,
        },
    },
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{
    QUEUE_BYTES, frames,
    reader::{self, Asked, Heard},
    writer::{End, Writer},
};
use crate::{
    app::App,
    auth::{Denied, Principal},
    feed::{Feed, Out, SNAPSHOT_MAX},
    guard::Entrance,
    halts::{Halts, known_to},
};

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
pub(super) async fn run(app: App, socket: WebSocket, entrance: Entrance, principal: Option<Principal>) {
    metrics::WS_CLIENTS.set(app.sessions.len() as u64);
    let (sink, stream) = socket.split();
    let (tx, mut asked) = mpsc::channel(reader::QUEUE_MAX);
    let heard = Heard::new();
    let reading = AbortOnDropHandle::new(tokio::spawn(reader::read(stream, heard.clone(), tx)));
    let mut out = Writer::new(sink, app.stop.clone());
    // What is rare is boxed: or each quiet connection would hold room for it for ever.
    let end = match Box::pin(greeted(&app, &mut asked, &mut out, &entrance, principal)).await {
        Err(end) => end,
        Ok((hello, principal)) => {
            let now = Instant::now();
            let mut session = Session {
                feed: Feed::new(app.hub.clone(), principal),
                halts: app.halts.clone(),
                halt_seen: 0,
                rights: app.auth.changes(),
                out,
                asked,
                heard,
                ping_at: now + PING,
                pong_by: None,
                failing: None,
                again_at: None,
                entrance,
                app: app.clone(),
            };
            let Err(end) = session.serve(&hello).await;
            out = session.out;
            end
        }
    };
    out.close(end).await;
    drop(reading);
    // This session is still counted.
    metrics::WS_CLIENTS.set((app.sessions.len() as u64).saturating_sub(1));
}

/// Waits for the hello; who it is.
async fn greeted(
    app: &App,
    asked: &mut mpsc::Receiver<Asked>,
    out: &mut Writer,
    entrance: &Entrance,
    known: Option<Principal>,
) -> Result<(Box<Hello>, Arc<Principal>), End> {
    let first = async {
        loop {
            match asked.recv().await {
                Some(Asked::Answer(frame)) => {
                    out.feed(frames::text(&frame)).await?;
                    out.flush().await?;
                }
                other => break Ok(other),
            }
        }
    };
    let first = tokio::select! {
        first = tokio::time::timeout(HELLO, first) => first.map_err(|_| End::Close(close::HELLO, "no hello within 5 s"))??,
        () = app.stop.cancelled() => return Err(End::Stop),
    };
    let hello = match first {
        Some(Asked::Hello(h)) if h.v == VERSION => h,
        Some(Asked::Hello(_)) => return Err(End::Close(close::BAD_FRAME, "this gateway speaks version 1")),
        Some(Asked::Close(code, reason)) => return Err(End::Close(code, reason)),
        Some(_) => return Err(End::Close(close::BAD_FRAME, "the first frame must be hello")),
        None => return Err(End::Gone),
    };
    let principal = match (&hello.token, known) {
        (Some(token), _) => entrance.token(app, "hello", token).await.map_err(|e| denied(&e))?,
        (None, Some(known)) => known,
        (None, None) => return Err(End::Close(close::BAD_TOKEN, "a token is needed")),
    };
    app.auth.still(&principal).map_err(|e| denied(&e))?;
    let mut head = app.hub.head();
    let ready = head.wait_for(|_| app.hub.ready());
    match tokio::time::timeout(HELLO, ready).await {
        Ok(Ok(_)) => Ok((hello, Arc::new(principal))),
        _ => Err(End::Close(close::UPSTREAM, "the log cannot be read now")),
    }
}

fn denied(e: &Denied) -> End {
    match e {
        Denied::Unavailable(_) => End::Close(close::UPSTREAM, "tokens cannot be checked now"),
        Denied::Missing => End::Close(close::BAD_TOKEN, "a token is needed"),
        Denied::Invalid(_) => End::Close(close::BAD_TOKEN, "the token is not good"),
    }
}

fn stamp(t: SystemTime) -> Timestamp {
    Timestamp(t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64))
}

struct Session {
    app: App,
    feed: Feed,
    halts: watch::Receiver<Arc<Halts>>,
    /// Flags up to this version were sent.
    halt_seen: u64,
    rights: watch::Receiver<u64>,
    out: Writer,
    asked: mpsc::Receiver<Asked>,
    heard: Arc<Heard>,
    ping_at: Instant,
    /// When a ping was sent, and until when its answer counts.
    pong_by: Option<(Instant, Instant)>,
    /// Since when the log cannot be read.
    failing: Option<Instant>,
    /// When it is tried again.
    again_at: Option<Instant>,
    /// How it came in, for what goes on record.
    entrance: Entrance,
}

/// Never returned: a session ends with an [`End`].
enum Never {}

impl Session {
    async fn serve(&mut self, hello: &Hello) -> Result<Never, End> {
        Box::pin(self.welcome(hello)).await?;
        loop {
            self.control().await?;
            let more = self.data().await?;
            self.out.flush().await?;
            if !more {
                self.idle().await?;
            }
        }
    }

    async fn send(&mut self, frame: &ServerFrame) -> Result<(), End> {
        self.out.feed(frames::text(frame)).await
    }

    async fn welcome(&mut self, hello: &Hello) -> Result<(), End> {
        let head = *self.app.hub.head().borrow();
        let oldest = self.app.hub.oldest().await.unwrap_or_else(|_| self.app.hub.ring_from());
        let halts = self.halts.borrow_and_update().clone();
        self.halt_seen = halts.version();
        let principal = self.feed.principal().clone();
        let conn = uuid::Uuid::new_v4().simple().to_string();
        let client = hello.client.clone().unwrap_or_default();
        tracing::debug!(conn, client = client.name, who = principal.name, "client");
        let welcome = Welcome {
            v: VERSION,
            conn,
            gw: self.app.name.clone(),
            head: self.app.hub.cursor(head.seq),
            oldest: Cursor::bare(head.epoch, oldest.saturating_sub(1)),
            ping_ms: PING.as_millis() as u64,
            pong_ms: PONG.as_millis() as u64,
            name: principal.name.clone(),
            role: principal.role.as_str().into(),
            until: principal.until.map(stamp),
            limits: LimitsTold { subs: SUBS_MAX, msg: FRAME_MAX, last: LAST_MAX, snapshot: SNAPSHOT_MAX, queue_bytes: QUEUE_BYTES },
            halt: halts.global(),
            scoped: known_to(&principal, halts.scoped()).collect(),
        };
        self.send(&ServerFrame::Welcome(Box::new(welcome))).await
    }

    /// Everything that goes before data.
    async fn control(&mut self) -> Result<(), End> {
        if self.app.stop.is_cancelled() {
            return Err(End::Stop);
        }
        if self.halts.has_changed().unwrap_or(false) {
            let halts = self.halts.borrow_and_update().clone();
            for state in known_to(&self.feed.principal().clone(), halts.since(self.halt_seen)) {
                self.send(&ServerFrame::Halt(state)).await?;
            }
            self.halt_seen = halts.version();
        }
        let over = self.feed.principal().until.is_some_and(|t| stamp(t) <= clock::now());
        if over || self.rights.has_changed().unwrap_or(false) {
            self.rights.mark_unchanged();
            self.app.auth.still(self.feed.principal()).map_err(|e| denied(&e))?;
            if over {
                return Err(End::Close(close::BAD_TOKEN, "the token is over"));
            }
        }
        loop {
            match self.asked.try_recv() {
                Ok(asked) => Box::pin(self.answer(asked)).await?,
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(End::Gone),
            }
        }
        self.ping().await
    }

    async fn ping(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if let Some((sent, until)) = self.pong_by {
            if self.heard.since(sent) {
                self.pong_by = None;
            } else if now >= until {
                return Err(End::Close(close::NO_PONG, "no pong"));
            }
        }
        if now >= self.ping_at && self.pong_by.is_none() {
            let head = self.app.hub.head().borrow().seq;
            let ping = Ping { head: self.app.hub.cursor(head), upstream: self.app.hub.age_ms().is_some() };
            self.send(&ServerFrame::Ping(ping)).await?;
            self.out.flush().await?;
            let sent = Instant::now();
            self.pong_by = Some((sent, sent + PONG));
            self.ping_at = sent + PING;
        }
        Ok(())
    }

    async fn answer(&mut self, asked: Asked) -> Result<(), End> {
        let frame = match asked {
            Asked::Hello(_) => frames::err(None, Code::BadFrame, "hello comes once"),
            Asked::Answer(frame) => *frame,
            Asked::Close(code, reason) => return Err(End::Close(code, reason)),
            Asked::Unsub(u) => self.unsubscribe(*u),
            Asked::Auth(a) => self.refresh(*a).await?,
            Asked::Sub(sub) => return self.subscribe(*sub).await,
        };
        self.send(&frame).await
    }

    fn unsubscribe(&mut self, u: Unsub) -> ServerFrame {
        if self.feed.unsubscribe(&u.id) {
            ServerFrame::Unsubd(Unsubd { rid: u.rid, id: u.id })
        } else {
            frames::err(u.rid, Code::UnknownSub, "there is no such subscription")
        }
    }

    async fn refresh(&mut self, a: Auth) -> Result<ServerFrame, End> {
        match self.entrance.token(&self.app, "auth", &a.token).await {
            // Another person's rights on this connection would mix what both may see.
            Ok(p) if p.name != self.feed.principal().name => {
                Ok(frames::err(a.rid, Code::Forbidden, "the token is somebody else's: make a connection of your own"))
            }
            Ok(p) => {
                let authed = Authed { rid: a.rid, role: p.role.as_str().into(), until: p.until.map(stamp) };
                self.feed.set_principal(Arc::new(p));
                Ok(ServerFrame::Authed(authed))
            }
            Err(Denied::Unavailable(why)) => Ok(ServerFrame::Err(haltline_common::types::feed::Err {
                rid: a.rid,
                code: Code::Unavailable,
                msg: why,
                retry: true,
                gap: None,
            })),
            // The one before goes on counting as long as it is good.
            Err(e) => Ok(frames::err(a.rid, Code::BadToken, e.to_string())),
        }
    }

    async fn subscribe(&mut self, sub: Sub) -> Result<(), End> {
        let (rid, id) = (sub.rid, sub.id.clone());
        let mut before = Vec::new();
        let outcome = self.feed.subscribe(sub, &self.app, &mut before).await;
        self.give(before).await?;
        match outcome {
            Ok(begun) => {
                metrics::WS_GAPS.add(u64::from(begun.gap.is_some()));
                for frame in frames::begun(rid, &id, begun) {
                    self.send(&frame).await?;
                }
                Ok(())
            }
            Err(refused) => self.send(&frames::refused(rid, &id, refused)).await,
        }
    }

    /// A piece of what the subscriptions want; whether there is more at once.
    async fn data(&mut self) -> Result<bool, End> {
        if let Some(at) = self.again_at {
            if Instant::now() < at {
                return Ok(false);
            }
            self.again_at = None;
        }
        let mut out = Vec::new();
        let outcome = self.feed.step(&mut out).await;
        self.give(out).await?;
        if let Some(c) = self.feed.mark() {
            self.send(&ServerFrame::Mark(Mark { c })).await?;
        }
        match outcome {
            Ok(more) => {
                self.failing = None;
                Ok(more)
            }
            Err(error) => {
                tracing::debug!(error, "the log cannot be read for a client");
                let since = *self.failing.get_or_insert_with(Instant::now);
                if since.elapsed() > UPSTREAM {
                    return Err(End::Close(close::UPSTREAM, "the log cannot be read now"));
                }
                self.again_at = Some(Instant::now() + AGAIN);
                Ok(false)
            }
        }
    }

    async fn give(&mut self, out: Vec<Out>) -> Result<(), End> {
        // One at a time: what a client that does not read holds is one frame besides the run.
        for one in out {
            match one {
                Out::Event(..) => metrics::WS_DELIVERIES.inc(),
                Out::Gap(..) => metrics::WS_GAPS.inc(),
                Out::Live(..) => {}
            }
            self.out.feed(frames::of(&self.app.hub, &one)).await?;
        }
        Ok(())
    }

    /// Waits for something to do.
    async fn idle(&mut self) -> Result<(), End> {
        let mut timer = self.pong_by.map_or(self.ping_at, |(_, until)| until.min(self.ping_at)).min(self.feed.mark_at());
        timer = self.again_at.map_or(timer, |at| timer.min(at));
        if let Some(until) = self.feed.principal().until {
            timer = timer.min(Instant::now() + Duration::from_millis(stamp(until).millis_since(clock::now()) + 1));
        }
        tokio::select! {
            // While the log cannot be read there is nothing to be had from a change.
            () = self.feed.changed(), if self.again_at.is_none() => Ok(()),
            changed = self.halts.changed() => {
                // Left marked as changed for `control` to send it.
                self.halts.mark_changed();
                changed.map_err(|_| End::Gone)
            }
            changed = self.rights.changed() => {
                self.rights.mark_changed();
                changed.map_err(|_| End::Gone)
            }
            asked = self.asked.recv() => match asked {
                Some(asked) => Box::pin(self.answer(asked)).await,
                None => Err(End::Gone),
            },
            () = tokio::time::sleep_until(timer.into()) => Ok(()),
            () = self.app.stop.cancelled() => Err(End::Stop),
        }
    }
}
