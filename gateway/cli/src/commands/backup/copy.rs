//! Copying a stream into an archive while others write to it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use haltline_common::{
    Link,
    js::{self, ApiFailure, StreamInfo},
    tail::{self, Item, Message, Start, Tail},
    types::Timestamp,
};
use serde_json::{Value, json};

use super::{
    archive::{self, Archive},
    manifest::{ARCHIVE, CONFIG, Stream},
};

/// The server's sign of life while a stream is copied.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// When nothing came for this long, the server is asked whether there is more.
const QUIET: Duration = Duration::from_millis(200);
/// How often in a row it may have more and not send it.
const STALLS_MAX: u32 = 150;
/// How often the end of a bucket is followed. Once makes it sound for keys that change once meanwhile;
/// each further time for one more change.
const ROUNDS_MAX: u32 = 8;

/// Up to where a stream is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upto {
    /// The end at the beginning of the copy.
    End,
    /// Until every key that was there is copied, though it changes. A value that is replaced before it
    /// was read comes again later: so the end is followed until nothing was written meanwhile, or
    /// often enough.
    EveryKey,
}

/// Copies the tasks that wait: a work queue admits no reader beside its consumers, so they are asked
/// for one by one, from the stream's leader. What is done meanwhile is left out.
///
/// # Errors
/// When they cannot be read or written.
pub async fn copy_queue(link: &Link, stream: &str, dir: &Path) -> anyhow::Result<Stream> {
    let (info, mut archive, folder) = begin(link, stream, dir).await?;
    let queue = link.js.get_stream_no_info(stream).await?;
    let mut last = info.state.first_seq.saturating_sub(1);
    while last < info.state.last_seq {
        let m = match queue.get_first_raw_message_by_subject(">", last + 1).await {
            Ok(m) => m,
            Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => break,
            Err(e) => return Err(e).with_context(|| format!("stream {stream}")),
        };
        last = m.sequence;
        if last <= info.state.last_seq {
            let stored_at = Timestamp((m.time.unix_timestamp_nanos() / 1_000_000) as i64);
            archive.add(m.sequence, stored_at, &m.subject, Some(&m.headers), &m.payload)?;
        }
    }
    finish(stream, &folder, archive, &info, info.state.last_seq)
}

/// The last sequence of a stream, now.
///
/// # Errors
/// When the server does not tell.
pub async fn end_of(link: &Link, stream: &str) -> anyhow::Result<u64> {
    let info = js::stream_info(link, stream).await.with_context(|| format!("stream {stream}"))?;
    Ok(info.state.last_seq)
}

/// Copies `stream` into its folder under `dir`; `keep` says which messages.
///
/// # Errors
/// When it cannot be read without interruption, or not be written.
pub async fn copy(link: &Link, stream: &str, dir: &Path, upto: Upto, mut keep: impl FnMut(&Message) -> bool) -> anyhow::Result<Stream> {
    let (info, mut archive, folder) = begin(link, stream, dir).await?;
    let options = tail::Options {
        stream: stream.to_owned(),
        filter: String::new(),
        start: Start::Seq(1),
        heartbeat: HEARTBEAT,
        buffer: 1024,
        reader: "backup".into(),
        headers_only: false,
    };
    let mut reader = Reader { link, stream, tail: Tail::start(link, options), last: 0 };
    let mut target = info.state.last_seq;
    for _ in 0..ROUNDS_MAX {
        reader.read_up_to(target, &mut archive, &mut keep).await.with_context(|| format!("stream {stream}"))?;
        let end = if upto == Upto::EveryKey { end_of(link, stream).await? } else { target };
        if end <= reader.last.max(target) {
            break;
        }
        target = end;
    }
    finish(stream, &folder, archive, &info, target.max(reader.last))
}

/// A folder and an empty archive for a stream, and what the stream is.
async fn begin(link: &Link, stream: &str, dir: &Path) -> anyhow::Result<(StreamInfo, Archive, PathBuf)> {
    let folder = dir.join(stream);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let info = js::stream_info(link, stream).await.with_context(|| format!("stream {stream}"))?;
    let path = folder.join(ARCHIVE);
    let archive = Archive::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok((info, archive, folder))
}

/// Ends an archive and writes the configuration beside it.
fn finish(stream: &str, folder: &Path, archive: Archive, info: &StreamInfo, last_seq: u64) -> anyhow::Result<Stream> {
    let path = folder.join(ARCHIVE);
    let state = archive.finish(last_seq).with_context(|| format!("cannot write {}", path.display()))?;
    let config = folder.join(CONFIG);
    std::fs::write(&config, serde_json::to_string_pretty(&json!({ "config": info.config, "state": state }))?)?;
    std::fs::File::open(&config)?.sync_all()?;
    let (bytes, sha256) = archive::digest(&path)?;
    let (_, config_sha256) = archive::digest(&config)?;
    let number = |key: &str| state[key].as_u64().unwrap_or_default();
    Ok(Stream {
        name: stream.to_owned(),
        messages: number("messages"),
        first_seq: number("first_seq"),
        last_seq,
        bytes,
        sha256,
        config_sha256,
    })
}

struct Reader<'a> {
    link: &'a Link,
    stream: &'a str,
    tail: Tail,
    /// The last sequence read.
    last: u64,
}

impl Reader<'_> {
    async fn read_up_to(&mut self, target: u64, archive: &mut Archive, keep: &mut impl FnMut(&Message) -> bool) -> anyhow::Result<()> {
        let mut stalls = 0;
        while self.last < target {
            match tokio::time::timeout(QUIET, self.tail.next()).await {
                Ok(Some(Item::Message(m))) => {
                    stalls = 0;
                    self.last = m.seq;
                    if keep(&m) {
                        archive.add(m.seq, m.stored_at, &m.subject, m.headers.as_ref(), &m.payload)?;
                    }
                }
                Ok(Some(Item::CaughtUp { .. })) | Err(_) => {
                    // The last messages may be gone: done, replaced, expired.
                    if self.next_stored().await?.is_none_or(|seq| seq > target) {
                        return Ok(());
                    }
                    stalls += 1;
                    if stalls > STALLS_MAX {
                        bail!("the server has message {target} and does not send it");
                    }
                }
                Ok(Some(Item::Lost { reason, .. })) => bail!("reading was interrupted ({reason}); start again"),
                Ok(Some(Item::Reset { .. }) | None) => bail!("the stream was recreated meanwhile; start again"),
            }
        }
        Ok(())
    }

    /// The first sequence after the last one read that is stored.
    async fn next_stored(&self) -> anyhow::Result<Option<u64>> {
        let ask = json!({ "seq": self.last + 1, "next_by_subj": ">" });
        match js::api::<Value>(self.link, &format!("STREAM.MSG.GET.{}", self.stream), &ask).await {
            Ok(found) => Ok(found.pointer("/message/seq").and_then(Value::as_u64)),
            Err(ApiFailure::Answered { code: 404, .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
