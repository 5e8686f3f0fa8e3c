//! Starting a subscription: where in the log it begins, and what of that is there.

use haltline_common::metrics;
use serde_json::json;

use super::{
    frames::{self, From, Sub},
    session::Session,
    writer::End,
};
use crate::hub::{Gap, Reason};

impl Session {
    /// Answers a `sub`.
    pub(super) async fn subscribe(&mut self, sub: Sub) -> Result<(), End> {
        let rid = sub.rid;
        if let Err((code, message)) = sub.check() {
            return self.out.feed(frames::err(rid, code, &message)).await;
        }
        let live = self.subs.live.pos;
        let asked_for = match &sub.from {
            From::Now | From::Live(_) => live,
            From::Seq(seq) => seq - 1,
            From::Cursor(c) => c.parse().unwrap_or(u64::MAX),
            From::Last(n) => match self.app.hub.before_last(*n, &sub.filter).await {
                Ok(pos) => pos,
                Err(error) => return self.out.feed(frames::err(rid, "unavailable", &error)).await,
            },
        };
        let head = self.head.borrow().seq.max(live);
        // A place beyond the head was given by another log.
        let beyond = asked_for > head;
        let pos = if beyond { live } else { asked_for };
        if let Err((code, message)) = self.subs.add(sub.id.clone(), sub.filter, pos) {
            return self.out.feed(frames::err(rid, code, &message)).await;
        }
        let replay = pos < live;
        let subd = json!({
            "t": "subd", "rid": rid, "id": sub.id, "recovered": !beyond, "replay": replay,
            "from": (pos + 1).to_string(), "until": live.max(pos).to_string(),
        });
        self.out.feed(subd.to_string()).await?;
        if beyond {
            let gap = Gap { after: asked_for, next: pos + 1, reason: Reason::Epoch };
            metrics::WS_GAPS.inc();
            self.out.feed(frames::gap(&sub.id, &gap)).await?;
        }
        if !replay {
            self.out.feed(caught_up(&sub.id, live)).await?;
        }
        Ok(())
    }
}

/// `live`: a subscription has everything that was there.
pub(super) fn caught_up(id: &str, pos: u64) -> String {
    json!({ "t": "live", "id": id, "c": pos.to_string() }).to_string()
}
