//! Where a subscription begins: the place that a client names, checked against the stream, so that
//! nothing is passed over in silence.

use std::time::Duration;

use haltline_common::types::feed::{Cursor, Epoch, From, Reason, Tag};

use super::{Gap, Hub, LogEvent, stored};

/// Another gateway may be ahead of this one: so long a client that names a place there waits.
const AHEAD: Duration = Duration::from_secs(5);

/// A checked place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Counts the streams: the place belongs to this one.
    pub generation: u64,
    /// Everything up to here is not wanted.
    pub pos: u64,
    /// Nor are so many wanted events of the message behind it.
    pub extra: usize,
    /// What is missing before it.
    pub gap: Option<Gap>,
}

impl Hub {
    /// The place that `from` names, for events that `wants` wants, of a client that stands at `live`: the last
    /// so many events are those up to there.
    ///
    /// # Errors
    /// When the stream cannot be read now.
    pub async fn place(&self, from: &From, live: u64, wants: &(dyn Fn(&LogEvent) -> bool + Sync)) -> Result<Place, String> {
        let head = *self.head.borrow();
        let here = |pos| Place { generation: head.generation, pos, extra: 0, gap: None };
        match *from {
            From::Live(_) | From::Snapshot(_) => Ok(here(head.seq)),
            From::Last(n) => {
                let start = self.before_last(n, live, wants).await?;
                Ok(Place { extra: start.extra, ..here(start.pos) })
            }
            From::Since(time) => {
                let first = stored::since(&self.link, time).await?;
                let pos = first.map_or(head.seq, |seq| seq - 1);
                // What was before the oldest message may have been younger than that time.
                let from_the_first = first.is_some_and(|seq| seq > 1) && first == Some(self.oldest().await?);
                if from_the_first { self.kept(0, here(pos)).await } else { Ok(here(pos)) }
            }
            From::Seq(seq) if seq > head.seq + 1 => self.beyond(Cursor::bare(head.epoch, seq - 1)).await,
            From::Seq(seq) => self.kept(seq - 1, here(seq - 1)).await,
            From::Cursor(cursor) => self.behind(cursor).await,
        }
    }

    /// The place behind a cursor.
    async fn behind(&self, cursor: Cursor) -> Result<Place, String> {
        let (epoch, generation, in_memory, head) = {
            let ring = self.read_ring();
            (ring.epoch(), ring.generation(), ring.cursor(cursor.seq).tag, ring.head())
        };
        let here = Place { generation, pos: cursor.seq, extra: 0, gap: None };
        if cursor.epoch != epoch {
            return self.foreign(cursor).await;
        }
        if cursor.seq > head {
            return self.beyond(cursor).await;
        }
        match (cursor.tag, in_memory) {
            (None, _) => {}
            (Some(theirs), Some(ours)) if theirs == ours => return Ok(here),
            (Some(_), Some(_)) => return self.other(cursor).await,
            (Some(theirs), None) => {
                if self.tag_at(epoch, cursor.seq).await?.is_some_and(|ours| ours != theirs) {
                    return self.other(cursor).await;
                }
            }
        }
        self.kept(cursor.seq, here).await
    }

    /// The tag of a stored message.
    async fn tag_at(&self, epoch: Epoch, seq: u64) -> Result<Option<Tag>, String> {
        if seq == 0 {
            return Ok(None);
        }
        let _permit = self.reads.acquire().await.map_err(|e| e.to_string())?;
        Ok(stored::first_from(&self.link, epoch, seq).await?.filter(|m| m.seq == seq).map(|m| m.tag))
    }

    /// Whether the stream still has what follows `pos`; else where it goes on.
    async fn kept(&self, pos: u64, here: Place) -> Result<Place, String> {
        let (epoch, floor) = {
            let ring = self.read_ring();
            (ring.epoch(), ring.floor())
        };
        if pos >= floor {
            return Ok(Place { pos, ..here });
        }
        let oldest = self.oldest().await?;
        if oldest <= pos + 1 {
            return Ok(Place { pos, ..here });
        }
        // What is in memory can still be told, also if the stream has lost it meanwhile.
        let next = oldest.min(floor + 1);
        Ok(Place { pos: next - 1, gap: Some(Gap::within(epoch, pos, next, Reason::Retention)), ..here })
    }

    /// The place is beyond what this gateway has read: it may be late, or the log has lost its end.
    async fn beyond(&self, cursor: Cursor) -> Result<Place, String> {
        let stream = self.link.names.events_stream();
        let info = self.info().await?;
        if Epoch::of(&stream, &info.created) != cursor.epoch {
            return self.foreign(cursor).await;
        }
        if cursor.seq > info.state.last_seq {
            let head = *self.head.borrow();
            let next = Cursor::bare(head.epoch, head.seq.min(info.state.last_seq) + 1);
            let gap = Gap { after: cursor, next, reason: Reason::Epoch };
            return Ok(Place { generation: head.generation, pos: next.seq - 1, extra: 0, gap: Some(gap) });
        }
        let mut head = self.head.subscribe();
        let there = head.wait_for(|h| h.epoch != cursor.epoch || h.seq >= cursor.seq);
        let arrived = tokio::time::timeout(AHEAD, there).await.is_ok_and(|r| r.is_ok());
        if arrived { Box::pin(self.behind(cursor)).await } else { Err("this gateway has not read so far yet".into()) }
    }

    /// The cursor is of another stream than this gateway follows; which may be the older one.
    async fn foreign(&self, cursor: Cursor) -> Result<Place, String> {
        let stream = self.link.names.events_stream();
        let info = self.info().await?;
        let mut head = self.head.subscribe();
        let now = Epoch::of(&stream, &info.created);
        if head.borrow().epoch != now {
            let there = head.wait_for(|h| h.epoch == now);
            if tokio::time::timeout(AHEAD, there).await.is_err() {
                return Err("this gateway has not noticed yet that the log was replaced".into());
            }
            if cursor.epoch == now {
                return Box::pin(self.behind(cursor)).await;
            }
        }
        self.other(cursor).await
    }

    /// What the client has seen is not in this stream: it starts with all that there is.
    async fn other(&self, cursor: Cursor) -> Result<Place, String> {
        let head = *self.head.borrow();
        let oldest = self.oldest().await?.clamp(1, head.seq + 1);
        let gap = Gap { after: cursor, next: Cursor::bare(head.epoch, oldest), reason: Reason::Epoch };
        Ok(Place { generation: head.generation, pos: oldest - 1, extra: 0, gap: Some(gap) })
    }
}
