//! Reading the audit and checking its chain.

use std::time::Duration;

use haltline_types::{
    control::{AuditEntry, GENESIS, digest},
    error::{ApiError, Code},
};
use serde::Serialize;

use crate::{
    Link, kv,
    tail::{self, Item, Start, Tail},
};

/// How long reading all of it may take.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// An entry as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence in the stream.
    pub seq: u64,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// How many entries there are.
    pub entries: u64,
    /// The digest of the last one; the genesis value if there is none. Keep it elsewhere.
    pub head: String,
    /// What is wrong, in words; nothing if the chain holds.
    pub problems: Vec<String>,
}

/// All entries, oldest first.
///
/// # Errors
/// `Unavailable` if they cannot all be read.
pub async fn read(link: &Link) -> Result<Vec<Stored>, ApiError> {
    let options = tail::Options {
        stream: link.names.audit_stream(),
        filter: String::new(),
        start: Start::Seq(1),
        heartbeat: Duration::from_secs(1),
        buffer: 1024,
        reader: "audit".into(),
        headers_only: false,
    };
    let mut tail = Tail::start(link, options);
    let mut all = Vec::new();
    let reading = async {
        while let Some(item) = tail.next().await {
            match item {
                Item::Message(m) => all.push(Stored { seq: m.seq, body: m.payload.to_vec() }),
                Item::CaughtUp { .. } => return Ok(()),
                Item::Lost { reason, .. } => return Err(kv::unavailable(reason)),
                Item::Reset { .. } => return Err(ApiError::new(Code::Unavailable, "the audit was made again while it was read")),
            }
        }
        Ok(())
    };
    tokio::time::timeout(READ_WITHIN, reading).await.map_err(kv::unavailable)??;
    Ok(all)
}

/// Checks the chain. `kept`: a head that was kept from an earlier check; it must be there still.
pub fn verify<'a>(bodies: impl IntoIterator<Item = &'a [u8]>, kept: Option<&str>) -> Verified {
    let (mut head, mut entries, mut problems) = (GENESIS.to_owned(), 0, Vec::new());
    let mut found = kept.is_none_or(|k| k == GENESIS);
    for body in bodies {
        entries += 1;
        match serde_json::from_slice::<AuditEntry>(body) {
            Ok(entry) => {
                if entry.n != entries {
                    problems.push(format!("entry {entries} says that it is number {}", entry.n));
                }
                if entry.prev != head {
                    problems.push(format!("entry {entries} names {} as the one before it, which is {head}", entry.prev));
                }
            }
            Err(e) => problems.push(format!("entry {entries} is malformed: {e}")),
        }
        head = digest(body);
        found |= kept == Some(head.as_str());
    }
    if !found {
        problems.push("the head that was kept is not in the chain: it was rewritten, or is of another installation".into());
    }
    Verified { entries, head, problems }
}

#[cfg(test)]
mod tests {
    use super::*;
    use haltline_types::{
        Timestamp,
        control::{Happened, Level, Scope},
    };

    fn chain(n: u64) -> Vec<Vec<u8>> {
        let mut prev = GENESIS.to_owned();
        (1..=n)
            .map(|n| {
                let happened = Happened::Confirmed { state: Level::Halt, workers: 1, confirmed: 1, took_ms: n };
                let (scope, stream) = (Scope::Bot("b".into()), "s".to_owned());
                let entry =
                    AuditEntry { n, prev: prev.clone(), happened, scope, revision: n, stream, at: Timestamp(0), written_by: "c".into() };
                let body = serde_json::to_vec(&entry).expect("serializes");
                prev = digest(&body);
                body
            })
            .collect()
    }

    fn check(bodies: &[Vec<u8>], kept: Option<&str>) -> Verified {
        verify(bodies.iter().map(Vec::as_slice), kept)
    }

    #[test]
    fn a_chain_holds_until_it_is_touched() {
        let whole = chain(5);
        let fine = check(&whole, None);
        assert_eq!((fine.entries, fine.problems.len()), (5, 0), "{fine:?}");
        assert!(check(&whole, Some(&digest(&whole[2]))).problems.is_empty());
        let mut changed = whole.clone();
        changed[2] = String::from_utf8(changed[2].clone()).expect("text").replace("\"b\"", "\"c\"").replace("bot:b", "bot:c").into_bytes();
        assert!(!check(&changed, None).problems.is_empty());
        let mut removed = whole.clone();
        removed.remove(1);
        assert!(!check(&removed, None).problems.is_empty());
        // The end can be cut off unseen, but for a head that was kept.
        assert!(check(&whole[..3], None).problems.is_empty());
        assert!(!check(&whole[..3], Some(&fine.head)).problems.is_empty());
        // So can all of it be rewritten.
        assert!(!check(&chain(2), Some(&fine.head)).problems.is_empty());
    }
}
