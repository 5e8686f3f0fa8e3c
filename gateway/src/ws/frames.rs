//! Frames as they are written. An event's part of a frame is made once for all clients; only the
//! counters before it are a client's own.

use std::sync::Arc;

use haltline_common::types::feed::{self, Caught, Code, Err, ServerFrame, Snap, Subd};

use crate::{
    feed::{Begun, Out, Refused},
    hub::{Entry, Gap, Hub},
};

/// Executions of one frame of a snapshot.
const SNAP_PART: usize = 50;

/// A frame as text.
pub(crate) fn text(frame: &ServerFrame) -> String {
    serde_json::to_string(frame).unwrap_or_else(|e| format!(r#"{{"t":"err","code":"unavailable","msg":"{e}","retry":true}}"#))
}

/// What a feed has to say, as text.
pub(crate) fn of(hub: &Hub, out: &Out) -> String {
    match out {
        Out::Event(entry, to) => match &**entry {
            Entry::Event(event) => ev(event, to),
            Entry::Gap(_) => String::new(), // never put there
        },
        Out::Gap(id, g) => text(&ServerFrame::Gap(gap(id, g))),
        Out::Live(id, pos) => text(&ServerFrame::Live(Caught { id: id.to_string(), c: hub.cursor(*pos) })),
    }
}

/// `ev`: an event for one or several subscriptions, each with its counter.
pub(crate) fn ev(event: &crate::hub::LogEvent, to: &[(Arc<str>, u64)]) -> String {
    use std::fmt::Write;
    let tail = event.frame();
    let mut out = String::with_capacity(tail.len() + 24 + to.iter().map(|(id, _)| id.len() + 24).sum::<usize>());
    out.push_str(r#"{"t":"ev","s":{"#);
    for (i, (id, count)) in to.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let _ = write!(out, r#""{id}":{count}"#);
    }
    out.push_str("},");
    out.push_str(tail);
    out
}

/// `gap`.
pub(crate) fn gap(id: &str, g: &Gap) -> feed::Gap {
    feed::Gap { id: id.to_owned(), after: g.after, next: g.next, reason: g.reason, lost: g.lost() }
}

/// What a subscription that has begun is told.
pub(crate) fn begun(rid: Option<u64>, id: &str, b: Begun) -> Vec<ServerFrame> {
    let mut frames = vec![ServerFrame::Subd(Subd {
        rid,
        id: id.to_owned(),
        was_recovering: b.was_recovering,
        recovered: b.gap.is_none(),
        from: b.from,
        until: b.until,
    })];
    frames.extend(b.gap.map(|g| ServerFrame::Gap(gap(id, &g))));
    if let Some(state) = b.snapshot {
        let parts = state.items.len().div_ceil(SNAP_PART).max(1);
        let mut items = state.items.into_iter();
        for part in 1..=parts {
            frames.push(ServerFrame::Snap(Snap {
                id: id.to_owned(),
                at: b.from,
                part: part as u32,
                last: part == parts,
                more: part == parts && state.more,
                items: items.by_ref().take(SNAP_PART).collect(),
            }));
        }
    }
    if b.live {
        frames.push(ServerFrame::Live(Caught { id: id.to_owned(), c: b.until }));
    }
    frames
}

/// Why a subscription did not begin.
pub(crate) fn refused(rid: Option<u64>, id: &str, r: Refused) -> ServerFrame {
    ServerFrame::Err(Err { rid, code: r.code, msg: r.why, retry: r.retry, gap: r.gap.map(|g| gap(id, &g)) })
}

/// `err`: a frame that was refused; the connection goes on.
pub(crate) fn err(rid: Option<u64>, code: Code, message: impl Into<String>) -> ServerFrame {
    ServerFrame::Err(Err { rid, code, msg: message.into(), retry: false, gap: None })
}

#[cfg(test)]
mod tests {
    use haltline_common::types::feed::Epoch;

    use super::*;
    use crate::hub::LogEvent;

    #[test]
    fn an_event_is_written_as_its_type_says() {
        let event = LogEvent::read(Epoch(1), 9, br#"{"type":"t","id":"i"}"#).remove(0).expect("reads");
        let written = ev(&event, &[("s1".into(), 4), ("s2".into(), 1)]);
        let read: ServerFrame = serde_json::from_str(&written).expect("a frame");
        let ServerFrame::Ev(frame) = &read else { panic!("{written}") };
        assert_eq!((frame.s["s1"], frame.s["s2"], frame.c, frame.d["id"].as_str()), (4, 1, event.cursor, Some("i")));
        let values = [&text(&read), &written].map(|t| serde_json::from_str::<serde_json::Value>(t).expect("JSON"));
        assert_eq!(values[0], values[1]);
    }
}
