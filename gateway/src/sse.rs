//! `GET /v1/events`: the same events, filters and cursors as Server-Sent Events, one subscription a
//! connection. A browser's `EventSource` comes back by itself with `Last-Event-ID`, which is a cursor.
//!
//! Events come as unnamed messages with their cursor as `id`; everything else has a name: `welcome`,
//! `subd`, `snap`, `live`, `mark`, `gap`, `halt`, `err`, `bye`, with the frame of the WebSocket as data.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use haltline_client::{ApiError, Code as ApiCode};
use haltline_common::{
    clock, metrics,
    types::feed::{Bye, Code, Cursor, Filter, From, IfGap, Mark, Match, Mode, Prefix, ServerFrame, Sub, close},
};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    app::App,
    auth::{Denied, Who},
    feed::{Feed, Out},
    halts::{Halts, known_to},
    hub::Entry,
    problem::Problem,
    ws::frames,
};

/// A quiet stream says so this often, so that both ends and what lies between know that it lives.
const BEAT: Duration = Duration::from_secs(15);
/// How long the log may be unreadable before a client is sent away.
const UPSTREAM: Duration = Duration::from_secs(15);
/// Delay before the log is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// The name of the one subscription, in frames.
const SUB: &str = "events";
/// A browser comes back after so many milliseconds.
const RETRY_MS: u64 = 1500;

/// `GET /v1/events?workflow=a&workflow=b*&type=node_*&from=last:100`
pub(crate) async fn events(State(app): State<App>, who: Who, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let principal = Arc::new(who.0);
    let sub = match asked(query.as_deref().unwrap_or(""), headers.get("last-event-id")) {
        Ok(sub) => sub,
        Err((field, why)) => return Problem::from(ApiError::invalid(field, why)).with_status(StatusCode::BAD_REQUEST).into_response(),
    };
    let Ok(permit) = app.room.clone().try_acquire_owned() else {
        let why = format!("as many clients as this gateway serves ({}) are connected; try another one or later", app.settings.clients_max);
        return Problem::from(ApiError::new(ApiCode::Overloaded, why)).into_response();
    };
    if !app.hub.ready() {
        return Problem::from(ApiError::new(ApiCode::Unavailable, "the log has not been read yet")).into_response();
    }
    let mut feed = Feed::new(app.hub.clone(), principal);
    let mut before = Vec::new();
    let begun = match feed.subscribe(sub, &app, &mut before).await {
        Ok(begun) => begun,
        Err(refused) if refused.retry => return Problem::from(ApiError::new(ApiCode::Unavailable, refused.why)).into_response(),
        Err(refused) => {
            let status = if refused.code == Code::Gap { StatusCode::GONE } else { StatusCode::BAD_REQUEST };
            return Problem::new(status, "BadSubscription", refused.why).into_response();
        }
    };
    let mut first = format!("retry: {RETRY_MS}\n\n");
    let mut halts = app.halts.clone();
    let now = halts.borrow_and_update().clone();
    for state in known_to(feed.principal(), std::iter::once(now.global()).chain(now.scoped())) {
        named(&mut first, &ServerFrame::Halt(state));
    }
    for frame in frames::begun(None, SUB, begun) {
        named(&mut first, &frame);
    }
    let streaming = Streaming {
        rights: app.auth.changes(),
        halt_seen: now.version(),
        halts,
        feed,
        pending: first,
        beat_at: Instant::now() + BEAT,
        failing: None,
        again_at: None,
        over: false,
        _held: (permit, app.sessions.token()),
        app,
    };
    let body = Body::from_stream(stream::unfold(streaming, |mut s| async move {
        let piece = s.next().await?;
        Some((Ok::<_, Infallible>(piece), s))
    }));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather answers would hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Streaming {
    app: App,
    feed: Feed,
    halts: watch::Receiver<Arc<Halts>>,
    halt_seen: u64,
    rights: watch::Receiver<u64>,
    pending: String,
    beat_at: Instant,
    failing: Option<Instant>,
    again_at: Option<Instant>,
    over: bool,
    _held: (OwnedSemaphorePermit, TaskTrackerToken),
}

impl Streaming {
    /// The next piece; `None` at the end. Asked for only when the connection has room: a client that does
    /// not read holds one piece.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.pending.is_empty() {
                self.beat_at = Instant::now() + BEAT;
                return Some(std::mem::take(&mut self.pending).into());
            }
            if self.over {
                return None;
            }
            let more = self.work().await;
            if self.pending.is_empty() && !more {
                self.idle().await;
            }
        }
    }

    fn bye(&mut self, code: u16, reason: &str) {
        let again = close::again(code);
        let after = again.then_some(RETRY_MS);
        named(&mut self.pending, &ServerFrame::Bye(Bye { code, reason: reason.into(), reconnect: again, after_ms: after }));
        self.over = true;
    }

    /// Writes what there is; whether there is more.
    async fn work(&mut self) -> bool {
        if self.app.stop.is_cancelled() {
            self.bye(close::SHUTDOWN, "shutdown");
            return false;
        }
        if self.halts.has_changed().unwrap_or(false) {
            let halts = self.halts.borrow_and_update().clone();
            for state in known_to(self.feed.principal(), halts.since(self.halt_seen)) {
                named(&mut self.pending, &ServerFrame::Halt(state));
            }
            self.halt_seen = halts.version();
        }
        let principal = self.feed.principal().clone();
        let over = principal.until.is_some_and(|t| clock_of(t) <= clock::now());
        if over || self.rights.has_changed().unwrap_or(false) {
            self.rights.mark_unchanged();
            let still = self.app.auth.still(&principal);
            if over || matches!(still, Err(Denied::Missing | Denied::Invalid(_))) {
                self.bye(close::BAD_TOKEN, "the token is over");
                return false;
            }
        }
        if Instant::now() >= self.beat_at {
            self.pending.push_str(":\n\n");
        }
        if self.again_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let mut out = Vec::new();
        let outcome = self.feed.step(&mut out).await;
        for one in &out {
            self.write(one);
        }
        if let Some(c) = self.feed.mark() {
            self.pending.push_str(&format!("id: {c}\n"));
            named(&mut self.pending, &ServerFrame::Mark(Mark { c }));
        }
        match outcome {
            Ok(more) => {
                (self.failing, self.again_at) = (None, None);
                more
            }
            Err(error) => {
                tracing::debug!(error, "the log cannot be read for an event stream");
                if self.failing.get_or_insert_with(Instant::now).elapsed() > UPSTREAM {
                    self.bye(close::UPSTREAM, "the log cannot be read now");
                }
                self.again_at = Some(Instant::now() + AGAIN);
                false
            }
        }
    }

    fn write(&mut self, out: &Out) {
        match out {
            Out::Event(entry, _) => {
                if let Entry::Event(e) = &**entry {
                    metrics::WS_DELIVERIES.inc();
                    self.pending.push_str("id: ");
                    self.pending.push_str(&e.cursor.to_string());
                    self.pending.push_str("\ndata: ");
                    self.pending.push_str(e.json());
                    self.pending.push_str("\n\n");
                }
            }
            Out::Gap(id, g) => {
                metrics::WS_GAPS.inc();
                named(&mut self.pending, &ServerFrame::Gap(frames::gap(id, g)));
            }
            Out::Live(id, pos) => {
                let c = self.app.hub.cursor(*pos);
                self.pending.push_str(&format!("id: {c}\n"));
                let live = haltline_common::types::feed::Caught { id: id.to_string(), c };
                named(&mut self.pending, &ServerFrame::Live(live));
            }
        }
    }

    async fn idle(&mut self) {
        let mut timer = self.beat_at.min(self.feed.mark_at());
        timer = self.again_at.map_or(timer, |at| timer.min(at));
        if let Some(until) = self.feed.principal().until {
            timer = timer.min(Instant::now() + Duration::from_millis(clock_of(until).millis_since(clock::now()) + 1));
        }
        tokio::select! {
            () = self.feed.changed(), if self.again_at.is_none() => {}
            _ = self.halts.changed() => self.halts.mark_changed(),
            _ = self.rights.changed() => self.rights.mark_changed(),
            () = tokio::time::sleep_until(timer.into()) => {}
            () = self.app.stop.cancelled() => {}
        }
    }
}

fn clock_of(t: SystemTime) -> haltline_common::types::Timestamp {
    let since = t.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    haltline_common::types::Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A frame as a named event.
fn named(out: &mut String, frame: &ServerFrame) {
    let text = frames::text(frame);
    let kind = match frame {
        ServerFrame::Halt(_) => "halt",
        ServerFrame::Gap(_) => "gap",
        ServerFrame::Live(_) => "live",
        ServerFrame::Mark(_) => "mark",
        ServerFrame::Subd(_) => "subd",
        ServerFrame::Snap(_) => "snap",
        ServerFrame::Bye(_) => "bye",
        _ => "err",
    };
    out.push_str("event: ");
    out.push_str(kind);
    out.push_str("\ndata: ");
    out.push_str(&text);
    out.push_str("\n\n");
}

/// The subscription that a query asks for; else which field is wrong, and how.
fn asked(query: &str, last_event_id: Option<&HeaderValue>) -> Result<Sub, (&'static str, String)> {
    let mut sub =
        Sub { rid: None, id: SUB.into(), filter: Filter::default(), from: From::Live(true), if_gap: IfGap::Continue, mode: Mode::Lossless };
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value).ok_or(("query", format!("`{name}` is not UTF-8")))?;
        match name {
            "workflow" => sub.filter.workflow.push(one(value)),
            "bot" => sub.filter.bot.push(one(value)),
            "strategy" => sub.filter.strategy.push(one(value)),
            "execution" => sub.filter.execution.push(one(value)),
            "node" => sub.filter.node.push(one(value)),
            "type" => sub.filter.kind.push(value),
            "filter" => sub.filter.and.push(serde_json::from_str(&value).map_err(|e| ("filter", e.to_string()))?),
            "from" => {
                sub.from = from(&value)
                    .ok_or_else(|| ("from", "must be live, snapshot, cursor:<cursor>, seq:<n>, last:<n> or since:<RFC 3339>".to_owned()))?
            }
            "if_gap" => sub.if_gap = word(&value).ok_or(("if_gap", "must be continue, snapshot or reject".to_owned()))?,
            "mode" => sub.mode = word(&value).ok_or(("mode", "must be lossless or conflate".to_owned()))?,
            other => return Err(("query", format!("there is no parameter `{}`", other.chars().take(64).collect::<String>()))),
        }
    }
    // Where it has been counts more than where it once was to start.
    if let Some(id) = last_event_id.filter(|id| !id.is_empty()) {
        let cursor = id.to_str().ok().and_then(|id| id.parse::<Cursor>().ok());
        sub.from = From::Cursor(cursor.ok_or(("Last-Event-ID", "is no cursor".to_owned()))?);
    }
    sub.check().map_err(|(code, why)| (if code == Code::BadFrom { "from" } else { "filter" }, why))?;
    Ok(sub)
}

/// `*` at the end stands for whatever follows.
fn one(value: String) -> Match {
    match value.strip_suffix('*') {
        Some(prefix) => Match::Prefix(Prefix { prefix: prefix.to_owned() }),
        None => Match::Is(value),
    }
}

fn from(value: &str) -> Option<From> {
    match value.split_once(':') {
        None if value == "live" => Some(From::Live(true)),
        None if value == "snapshot" => Some(From::Snapshot(true)),
        Some(("cursor", c)) => c.parse().ok().map(From::Cursor),
        Some(("seq", n)) => n.parse().ok().map(From::Seq),
        Some(("last", n)) => n.parse().ok().map(From::Last),
        Some(("since", t)) => haltline_common::types::Timestamp::parse(t).ok().map(From::Since),
        _ => None,
    }
}

fn word<T: serde::de::DeserializeOwned>(value: &str) -> Option<T> {
    serde_json::from_value(value.into()).ok()
}

/// Undoes percent-encoding and `+`.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let hex = |b: u8| char::from(b).to_digit(16);
                let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        /// Any query and any `Last-Event-ID`: a subscription that passes its own check, or a field and a sentence.
        #[test]
        fn any_query_is_a_subscription_or_names_a_field(
            pairs in prop::collection::vec(
                (
                    prop::sample::select(vec!["workflow", "bot", "strategy", "execution", "node", "type", "filter", "from", "if_gap", "mode", "x"]),
                    prop_oneof![
                        any::<String>(),
                        "[a-z*%0-9+]{0,12}",
                        prop::sample::select(vec!["live", "snapshot", "seq:0", "seq:18446744073709551615", "last:1001", "last:-1", "since:x", "cursor:", "cursor:00000007.9.-", "{}", "[]", "%7B%22not%22%3A%5B%5D%7D"]).prop_map(str::to_owned),
                    ],
                ),
                0..5,
            ),
            raw in any::<String>(),
            last in prop::option::of(prop::collection::vec(any::<u8>(), 0..30)),
        ) {
            let joined: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let last = last.and_then(|bytes| HeaderValue::from_bytes(&bytes).ok());
            for query in [joined.join("&"), raw] {
                match asked(&query, last.as_ref()) {
                    Ok(sub) => prop_assert!(sub.check().is_ok(), "{}", query),
                    Err((field, why)) => prop_assert!(!field.is_empty() && !why.is_empty()),
                }
            }
        }
    }

    #[test]
    fn queries_are_subscriptions() {
        let sub = asked("workflow=a%20b&workflow=arb_*&type=node_*&from=last:5&mode=conflate&if_gap=reject", None).expect("reads");
        assert_eq!(sub.filter.workflow, [Match::Is("a b".into()), Match::Prefix(Prefix { prefix: "arb_".into() })]);
        assert_eq!((sub.filter.kind.len(), sub.from, sub.mode, sub.if_gap), (1, From::Last(5), Mode::Conflate, IfGap::Reject));
        let nested = asked("filter=%7B%22not%22%3A%7B%22bot%22%3A%5B%22b%22%5D%7D%7D", None).expect("reads");
        assert!(nested.filter.and[0].not.is_some());
        let again = HeaderValue::from_static("00000007.9.-");
        assert!(matches!(asked("from=last:5", Some(&again)).expect("reads").from, From::Cursor(c) if c.seq == 9));
        for (bad, field) in [
            ("from=cursor:x", "from"),
            ("from=last:1001", "from"),
            ("nothing=1", "query"),
            ("filter={", "filter"),
            ("bot=", "filter"),
            ("bot=%f", "query"),
            ("bot=%ff", "query"),
            ("mode=x", "mode"),
        ] {
            assert_eq!(asked(bad, None).map_err(|e| e.0).err(), Some(field), "{bad}");
        }
        assert_eq!(asked("", Some(&HeaderValue::from_static("41"))).map_err(|e| e.0).err(), Some("Last-Event-ID"));
    }
}
