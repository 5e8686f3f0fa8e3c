//! Reading what a bucket's stream holds now, once, with a tail that is dropped when it has caught up.

use std::time::Duration;

use haltline_common::{
    Link, kv,
    tail::{self, Item, Message, Start, Tail},
};

use crate::{ApiError, unavailable};

/// How long a scan may take: more means the server is in trouble, not that there is much to read.
const SCAN_MAX: Duration = Duration::from_secs(15);

/// Calls `take` with the sequence and value of each entry (not of deletions) until it says `false`
/// or everything stored at the start was given.
pub(crate) async fn values(
    link: &Link,
    stream: String,
    filter: String,
    start: Start,
    mut take: impl FnMut(u64, &[u8]) -> bool,
) -> Result<(), ApiError> {
    messages(link, stream, filter, start, false, |m| take(m.seq, &m.payload)).await
}

/// The subjects of up to `max` entries.
pub(crate) async fn subjects(link: &Link, stream: String, filter: String, max: usize) -> Result<Vec<String>, ApiError> {
    let mut found = Vec::new();
    messages(link, stream, filter, Start::LastPerSubject, true, |m| {
        found.push(m.subject.to_string());
        found.len() < max
    })
    .await?;
    Ok(found)
}

/// As [`values`], with subject and time.
pub(crate) async fn messages(
    link: &Link,
    stream: String,
    filter: String,
    start: Start,
    headers_only: bool,
    mut take: impl FnMut(&Message) -> bool,
) -> Result<(), ApiError> {
    let mut tail = Tail::start(
        link,
        tail::Options { stream, filter, start, heartbeat: Duration::from_secs(2), buffer: 1024, reader: "scan".into(), headers_only },
    );
    let mut trouble = String::new();
    let read = async {
        let mut items = Vec::new();
        loop {
            items.clear();
            if tail.next_many(&mut items, 1024).await == 0 {
                return Err(unavailable("the connection was closed"));
            }
            for item in &items {
                match item {
                    Item::Message(m) => {
                        let gone = m.headers.as_ref().is_some_and(kv::is_deletion);
                        if !gone && !take(m) {
                            return Ok(());
                        }
                    }
                    Item::CaughtUp { .. } => return Ok(()),
                    Item::Lost { reason, missing: true } => {
                        return Err(unavailable(format!("the installation is incomplete: {reason}; run `haltline ensure`")));
                    }
                    // The tail goes on by itself; readers tolerate an entry given twice.
                    Item::Lost { reason, .. } => trouble.clone_from(reason),
                    Item::Reset { .. } => {}
                }
            }
        }
    };
    match tokio::time::timeout(SCAN_MAX, read).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unavailable(format!("nats-server did not deliver within {SCAN_MAX:?} {trouble}"))),
    }
}
