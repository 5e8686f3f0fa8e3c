//! Whether what a connection was sent is what it should have been.

use std::collections::HashSet;

use anyhow::{Context, bail, ensure};
use haltline_common::types::feed::{Cursor, Epoch, From, Mode, Reason, ServerFrame};

use super::{
    client::{Connection, Want},
    run::Tally,
    truth::{Truth, wants},
};

/// Checks one subscription of one connection; `lasted`: it was not cut off before the end.
pub fn check(truth: &Truth, connection: &Connection, id: &str, lasted: bool, tally: &mut Tally) -> anyhow::Result<()> {
    let want = &connection.asked[id];
    let frames = connection.frames();
    let mut view = View {
        truth,
        want,
        at: None,
        within: 0,
        partly: None,
        left_out: false,
        count: 0,
        ids: HashSet::new(),
        newest_only: want.mode == Mode::Conflate,
    };
    let mut gap_due = false;
    // With the last n: where they end, and how many have come.
    let (mut until, mut replayed) = (None, 0);
    for frame in &frames {
        match frame {
            ServerFrame::Subd(s) if s.id == id => {
                ensure!(view.at.is_none(), "begun twice");
                view.stand(s.from);
                if matches!(want.from, From::Last(_)) {
                    (until, view.partly) = (Some(s.until), Some(s.from.seq + 1));
                }
                ensure!(s.was_recovering == want.from.recovers(), "was_recovering of {:?}", want.from);
                gap_due = !s.recovered;
                if let From::Cursor(c) = want.from {
                    tally.resumed += 1;
                    if s.recovered {
                        ensure!((c.epoch, c.seq) == (s.from.epoch, s.from.seq), "asked for {c}, begun at {}", s.from);
                    } else {
                        // What lies between is told by the gap.
                        view.stand(c);
                    }
                } else if !s.recovered {
                    view.at = None;
                }
            }
            ServerFrame::Gap(g) if g.id == id => {
                tally.gaps += 1;
                gap_due = false;
                view.gap(&g.after, &g.next, g.reason).with_context(|| format!("{g:?}"))?;
            }
            ServerFrame::Snap(s) if s.id == id && s.last => view.stand(s.at),
            ServerFrame::Ev(e) if e.s.contains_key(id) => {
                ensure!(!gap_due, "an event before the gap that was announced");
                let message = e.c.seq + u64::from(e.c.tag.is_none());
                replayed += usize::from(until.is_some_and(|u: Cursor| u.epoch == e.c.epoch && message <= u.seq));
                view.event(e.s[id], &e.c, &e.d).with_context(|| format!("event {} at {}", e.d["id"], e.c))?;
            }
            ServerFrame::Live(l) if l.id == id => view.reach(&l.c).with_context(|| format!("live at {}", l.c))?,
            ServerFrame::Err(e) => bail!("refused: {e:?}"),
            _ => {}
        }
    }
    ensure!(!gap_due || !lasted, "a gap was announced and not told");
    if let From::Last(n) = want.from {
        ensure!(replayed <= n, "{replayed} events before {until:?}, {n} were asked for");
        // Where nothing is missing, all that were asked for come if there were more.
        let whole = lasted && !frames.iter().any(|f| matches!(f, ServerFrame::Gap(g) if g.id == id));
        ensure!(!view.left_out || view.newest_only || replayed == n || !whole, "{replayed} of {n} events, and some were left out");
    }
    tally.events += view.count;
    Ok(())
}

struct View<'a> {
    truth: &'a Truth,
    want: &'a Want,
    /// Everything up to here is accounted for...
    at: Option<Cursor>,
    /// ...and so many lines of the message behind it.
    within: usize,
    /// The first events of this message may be left out, before any other was told.
    partly: Option<u64>,
    left_out: bool,
    count: u64,
    ids: HashSet<(Epoch, String)>,
    newest_only: bool,
}

impl View<'_> {
    /// All of the message there is accounted for, and nothing behind it.
    fn stand(&mut self, at: Cursor) {
        (self.at, self.within) = (Some(at), 0);
    }

    /// Nothing that is wanted lies between here and the line `n` of the message `to`.
    fn skip(&mut self, epoch: Epoch, to: u64, n: usize) -> anyhow::Result<u64> {
        let at = self.at.context("before it has begun")?;
        let order = (self.truth.order(at.epoch), self.truth.order(epoch));
        ensure!(order.0 == order.1, "from epoch {:?} to {:?} without a gap", order.0, order.1);
        ensure!((to, n) >= (at.seq + 1, self.within), "back from {at} and {} lines to {to} and {n}", self.within);
        let (mut passed, mut left_out) = (0, false);
        for (_, seq, m) in self.truth.between(&at, &Cursor::bare(epoch, to + 1)).context("an unknown epoch")? {
            let from = if seq == at.seq + 1 { self.within } else { 0 };
            let upto = if seq == to { n } else { m.lines.len() };
            for line in m.lines.iter().take(upto).skip(from) {
                let missing = line.event.as_ref().is_some_and(|e| wants(&self.want.filter, e)) && !line.repeat;
                if missing && self.count == 0 && self.partly == Some(seq) {
                    left_out = true;
                } else if missing && self.newest_only {
                    passed += 1;
                } else {
                    ensure!(!missing, "{seq} is missing after {at} and {} lines: {:?}", self.within, line.event);
                }
            }
        }
        self.left_out |= left_out;
        Ok(passed)
    }

    fn event(&mut self, count: u64, c: &Cursor, d: &serde_json::Value) -> anyhow::Result<()> {
        let (seq, line) = self.truth.find(c, d).context("was never stored there")?;
        ensure!(wants(&self.want.filter, d), "was not wanted");
        // Of each stream: another one may have the same ids again, and all that it has is to come.
        ensure!(self.ids.insert((c.epoch, d["id"].as_str().unwrap_or_default().to_owned())), "came twice");
        let passed = self.skip(c.epoch, seq, line)?;
        if self.newest_only {
            // Repeats may count as well.
            ensure!(
                count > self.count + passed.saturating_sub(0) || count == self.count + passed + 1,
                "counter {count} after {} and {passed} passed over",
                self.count
            );
        } else {
            ensure!(count == self.count + 1, "counter {count} after {}", self.count);
        }
        self.count = count;
        self.stand(*c);
        if c.seq < seq {
            self.within = line + 1;
        }
        Ok(())
    }

    /// It is said that nothing lies up to there any more.
    fn reach(&mut self, c: &Cursor) -> anyhow::Result<()> {
        self.skip(c.epoch, c.seq + 1, 0)?;
        self.stand(*c);
        Ok(())
    }

    fn gap(&mut self, after: &Cursor, next: &Cursor, reason: Reason) -> anyhow::Result<()> {
        if let Some(at) = self.at
            && (at.epoch, at.seq) != (after.epoch, after.seq)
        {
            ensure!(at.epoch == after.epoch && after.seq >= at.seq, "it begins before {at}");
            self.skip(after.epoch, after.seq + 1, 0)?;
        }
        if let Some(covered) = self.truth.between(after, next) {
            let last = self.truth.order(next.epoch);
            for (epoch, seq, m) in covered {
                // The rest of a stream that is gone is gone.
                let gone = m.removed || self.truth.order(epoch) != last;
                ensure!(
                    gone || self.want.if_gap != haltline_common::types::feed::IfGap::Continue,
                    "{seq} is called missing ({reason:?}) and is there"
                );
            }
        }
        self.stand(Cursor { seq: next.seq - 1, tag: None, ..*next });
        Ok(())
    }
}
