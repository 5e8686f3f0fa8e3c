//! Feeds the index from the records' stream: a tail that parses, and a thread that writes, since writing
//! waits for the disk.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use haltline_common::{
    Link, clock, js,
    js::StreamInfo,
    kv,
    retry::Reconnect,
    tail::{self, Item, Start, Tail},
    topology,
    types::{Names, Timestamp},
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    SharedIndex, Store, Summary,
    store::{Change, Mark},
};

/// Changes written in one transaction.
const BATCH: usize = 2048;
/// Batches between the tail and the thread.
const BATCHES: usize = 4;
/// How often what was written is made to survive a crash; what was not is read again.
const SYNC: Duration = Duration::from_secs(5);
/// Or after so many changes: until then their pages are not used again.
const SYNC_CHANGES: usize = 50_000;
/// How often it is looked for what has expired.
const SWEEP: Duration = Duration::from_secs(600);
/// Executions leave lists a little before the server drops them, never after.
const EXPIRES_BEFORE: Duration = Duration::from_secs(60);

/// What the thread is to do.
enum Job {
    /// Take in changes, up to a sequence.
    Apply(Vec<Change>, Option<u64>),
    /// Everything stored at the start was sent.
    Ready,
    /// Remove what ended before.
    Expire(Timestamp),
}

/// The feed; it ends when this is dropped, and what was written is synced then.
pub(crate) struct Feed {
    _tail: AbortOnDropHandle<()>,
}

/// Opens the file and starts both.
///
/// # Errors
/// When there can be no file.
pub(crate) fn start(link: &Link, path: &str) -> anyhow::Result<(Arc<SharedIndex>, Feed)> {
    let opened = Store::open(path).map_err(anyhow::Error::msg);
    let store = opened.with_context(|| format!("gateway.index: the list of executions cannot be opened at `{path}`"))?;
    let index = Arc::new(SharedIndex::new(store));
    let (jobs, todo) = mpsc::channel(BATCHES);
    let (writing, reading) = (index.clone(), index.clone());
    std::thread::Builder::new().name("index".into()).spawn(move || write(&writing, todo))?;
    let tail = tokio::spawn(follow(link.clone(), reading, jobs));
    Ok((index, Feed { _tail: AbortOnDropHandle::new(tail) }))
}

/// The thread: one writer, in the order of the stream.
fn write(index: &SharedIndex, mut todo: mpsc::Receiver<Job>) {
    let (mut synced, mut changes_since) = (Instant::now(), 0);
    while let Some(job) = todo.blocking_recv() {
        let outcome = match job {
            Job::Apply(changes, seq) => {
                changes_since += changes.len();
                let sync = changes_since >= SYNC_CHANGES || synced.elapsed() >= SYNC;
                if sync {
                    (synced, changes_since) = (Instant::now(), 0);
                }
                index.store.apply(changes, seq, sync).map(|len| {
                    index.len.store(len, Ordering::Release);
                    if let Some(seq) = seq {
                        index.applied.send_replace(seq);
                    }
                })
            }
            Job::Ready => {
                index.ready.store(true, Ordering::Release);
                Ok(())
            }
            Job::Expire(ended) => expire(index, ended),
        };
        if let Err(error) = outcome {
            // What is on the disk is whole, and behind: lists of it would look complete.
            index.ready.store(false, Ordering::Release);
            tracing::error!(%error, "the list of executions cannot be written; lists are refused until the gateway is started again");
            return;
        }
    }
    if let Err(error) = index.store.apply(Vec::new(), None, true) {
        tracing::warn!(%error, "the list of executions could not be synced; its end is read again at the next start");
    }
}

fn expire(index: &SharedIndex, ended: Timestamp) -> Result<(), redb::Error> {
    while index.store.expire(ended)? {}
    index.len.store(index.store.len()?, Ordering::Release);
    Ok(())
}

/// The tail.
async fn follow(link: Link, index: Arc<SharedIndex>, jobs: mpsc::Sender<Job>) {
    let bucket = link.names.executions_bucket();
    let stream = Names::bucket_stream(&bucket);
    let info = stream_info(&link, &stream).await;
    let mark = index.store.mark().unwrap_or_default();
    let from = match resume(&mark, &info, index.len()) {
        Ok(seq) => seq + 1,
        Err(reason) => {
            if mark.seq > 0 {
                tracing::warn!(reason, "the list of executions is built anew");
            }
            if jobs.send(Job::Apply(vec![Change::Clear(info.created)], Some(0))).await.is_err() {
                return;
            }
            1
        }
    };
    let options = tail::Options {
        stream: stream.clone(),
        filter: String::new(),
        start: Start::Seq(from),
        heartbeat: Duration::from_secs(2),
        buffer: 1024,
        reader: "gateway_records".into(),
        headers_only: false,
    };
    let mut tail = Tail::start(&link, options);
    let mut items = Vec::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            n = tail.next_many(&mut items, BATCH) => {
                if n == 0 {
                    return;
                }
                for job in read(&link, &stream, items.drain(..)).await {
                    if jobs.send(job).await.is_err() {
                        return;
                    }
                }
            }
            _ = sweep.tick() => match expired(&link).await {
                Some(ended) => if jobs.send(Job::Expire(ended)).await.is_err() { return },
                None => tracing::debug!("nothing expires: it is not known how long records are kept"),
            }
        }
    }
}

/// From where to go on, or why all of it has to be read.
fn resume(mark: &Mark, info: &StreamInfo, len: u64) -> Result<u64, &'static str> {
    if mark.epoch != info.created {
        return Err("it is of another stream");
    }
    if mark.seq > info.state.last_seq {
        return Err("it is ahead of the stream");
    }
    // Each listed execution has its record there: what has fewer was purged.
    if len > info.state.messages {
        return Err("it lists more than the stream has");
    }
    Ok(mark.seq)
}

/// What the thread is to do about these.
async fn read(link: &Link, stream: &str, items: impl Iterator<Item = Item>) -> Vec<Job> {
    let mut jobs = Vec::new();
    let (mut changes, mut seq) = (Vec::new(), None);
    for item in items {
        match item {
            Item::Message(m) => {
                seq = Some(m.seq);
                if m.headers.as_ref().is_some_and(kv::is_deletion) {
                    changes.extend(Names::record_of(&m.subject).map(Change::Gone));
                    continue;
                }
                match serde_json::from_slice::<Summary>(&m.payload) {
                    Ok(summary) => changes.push(Change::Put(Box::new(summary))),
                    Err(e) => tracing::warn!(seq = m.seq, error = %e, "a record is malformed; not listed"),
                }
            }
            Item::Reset { .. } => {
                tracing::warn!("the records' stream was made anew: the list of executions is built anew");
                let info = stream_info(link, stream).await;
                changes.clear();
                changes.push(Change::Clear(info.created));
                seq = Some(0);
            }
            Item::CaughtUp { .. } => {
                jobs.push(Job::Apply(std::mem::take(&mut changes), seq.take()));
                jobs.push(Job::Ready);
            }
            Item::Lost { reason, .. } => {
                tracing::warn!(reason, "the tail of the records is interrupted; lists are old until it is back")
            }
        }
    }
    if seq.is_some() || !changes.is_empty() {
        jobs.push(Job::Apply(changes, seq));
    }
    jobs
}

/// Before when something must have ended to have expired.
async fn expired(link: &Link) -> Option<Timestamp> {
    let keep = topology::record_keep(link).await.ok()??;
    let keep = keep.saturating_sub(EXPIRES_BEFORE);
    Some(Timestamp(clock::now().0.saturating_sub(i64::try_from(keep.as_millis()).ok()?)))
}

/// The stream's state, asked for until there is an answer.
async fn stream_info(link: &Link, stream: &str) -> StreamInfo {
    let mut delays = Reconnect::new(Duration::from_secs(1));
    loop {
        match js::stream_info(link, stream).await {
            Ok(info) => return info,
            Err(e) => tracing::warn!(stream, error = %e, "cannot read the stream's state yet"),
        }
        tokio::time::sleep(delays.next_delay()).await;
    }
}
