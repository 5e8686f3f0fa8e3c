//! Grouped writes against a server that syncs every write: whatever becomes of a batch, each write gets
//! its own answer, once, and it is true.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, bail, ensure};
use futures_util::FutureExt;
use haltline_common::{
    Link,
    config::StorageSettings,
    kv, metrics,
    outbox::{Once, Outbox, Stored, Write, WriteError},
    sync::{self, Sync},
    topology,
    types::Names,
};
use haltline_tests::{folder::Folder, nats::Nats};

/// No answer takes longer, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Synced {
    nats: Nats,
    link: Link,
    _folder: Folder,
}

impl Synced {
    async fn start() -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let nats = Nats::start_synced(&folder.path().join("nats"), Some("always")).await?;
        let link = Link::connect(&nats.url(), Names::new("test").map_err(anyhow::Error::msg)?, "test").await?;
        topology::ensure(&link, &StorageSettings::default()).await?;
        // A disk whose syncs cost nothing measures as one that does not sync, and a busy machine may, too.
        link.sync.set(Sync::Always, link.reconnects());
        Ok(Self { nats, link, _folder: folder })
    }

    fn event(&self, n: usize) -> Write {
        Write::with_id(self.link.names.note(&format!("exec_w_{n}")), format!("id-{n}"), format!("body {n}"))
    }
    fn create(&self, n: usize) -> Write {
        Write::swap(Names::kv_subject(&self.link.names.executions_bucket(), &format!("k{n}")), 0, format!("body {n}"))
    }

    /// What is stored under `seq` in the stream of a write.
    async fn at(&self, write: &Write, seq: u64) -> anyhow::Result<async_nats::jetstream::message::StreamMessage> {
        let stream = match &write.once {
            Once::Swap(_) => Names::bucket_stream(&self.link.names.executions_bucket()),
            _ => self.link.names.events_stream(),
        };
        let stream = self.link.js.get_stream_no_info(stream).await?;
        stream.get_raw_message(seq).await.with_context(|| format!("nothing at {seq} for {}", write.subject))
    }

    async fn check(&self, write: &Write, stored: Stored) -> anyhow::Result<()> {
        let found = self.at(write, stored.seq).await?;
        ensure!(
            found.subject == write.subject && found.payload == write.payload,
            "{} is at {}, not {}",
            found.subject,
            stored.seq,
            write.subject
        );
        Ok(())
    }
}

/// All answers, by tag; each may come once.
async fn answers(outbox: &mut Outbox<usize>) -> anyhow::Result<HashMap<usize, Result<Stored, WriteError>>> {
    let mut all = HashMap::new();
    while !outbox.is_empty() {
        let (tag, answer) = tokio::time::timeout(PATIENCE, outbox.next()).await.context("no answer")?;
        ensure!(all.insert(tag, answer).is_none(), "{tag} was answered twice");
    }
    Ok(all)
}

#[tokio::test]
async fn every_write_of_a_batch_is_told_where_it_is() -> anyhow::Result<()> {
    let synced = Synced::start().await?;
    let before = metrics::WRITES_GROUPED.get();
    let mut outbox = Outbox::open(&synced.link).await?;
    // Two streams, interleaved; more than one batch each.
    let writes: Vec<Write> = (0..1500).map(|n| if n % 2 == 0 { synced.event(n) } else { synced.create(n) }).collect();
    for (n, write) in writes.iter().enumerate() {
        outbox.send(n, write.clone()).await;
    }
    let answers = answers(&mut outbox).await?;
    ensure!(answers.len() == writes.len());
    let mut last = [0; 2];
    for (n, write) in writes.iter().enumerate() {
        let stored = answers[&n].clone()?;
        ensure!(stored.seq > std::mem::replace(&mut last[n % 2], stored.seq), "{n} is out of order");
        synced.check(write, stored).await?;
    }
    ensure!(metrics::WRITES_GROUPED.get() - before >= 1400, "writes were not grouped");
    Ok(())
}

#[tokio::test]
async fn a_write_whose_sending_was_given_up_does_not_count_as_sent() -> anyhow::Result<()> {
    let synced = Synced::start().await?;
    let mut outbox = Outbox::open(&synced.link).await?;
    // More than a task may send before it has to let others run.
    for n in 0..400 {
        outbox.send(n, synced.event(n)).await;
    }
    let all = async {
        while !outbox.is_empty() {
            // As in a loop that has other things to do: wherever it is, it is dropped.
            match outbox.next().now_or_never() {
                Some((n, stored)) => ensure!(!stored?.again, "{n} was sent once, and may be there twice"),
                None => tokio::task::yield_now().await,
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, all).await.context("no answer")?
}

#[tokio::test]
async fn one_bad_write_spoils_no_other() -> anyhow::Result<()> {
    let synced = Synced::start().await?;
    let mut outbox = Outbox::open(&synced.link).await?;
    outbox.send(0, synced.event(50)).await;
    outbox.send(1, synced.create(50)).await;
    let earlier = answers(&mut outbox).await?;
    let revision = earlier[&1].clone()?.seq;
    // An id that is there already, one that comes twice, a conflict, one for the stream's limit, one for the server's, and a
    // swap that is right.
    let mut writes: Vec<Write> = (0..100).flat_map(|n| [synced.event(n), synced.create(n)]).collect();
    writes.push(synced.event(60));
    writes[150].payload = vec![b'x'; 1 << 20].into();
    writes[151].payload = vec![b'x'; 1_000_000].into();
    let swap = Write::swap(writes[101].subject.to_string(), revision, "swapped");
    writes.push(swap);
    for (n, write) in writes.iter().enumerate() {
        outbox.send(n, write.clone()).await;
    }
    let answers = answers(&mut outbox).await?;
    ensure!(answers.len() == writes.len());
    for (n, write) in writes.iter().enumerate() {
        match (n, answers[&n].clone()) {
            (100, Ok(stored)) => ensure!(stored.duplicate && stored.seq == earlier[&0].clone()?.seq, "{stored:?}"),
            (101, Err(WriteError::Conflict(_))) | (150 | 151, Err(WriteError::Refused(_))) => {}
            (200, Ok(stored)) => ensure!(stored.duplicate && stored.seq == answers[&120].clone()?.seq, "{stored:?}"),
            (100 | 101 | 150 | 151 | 200, other) => bail!("{n}: {other:?}"),
            (_, Ok(stored)) => synced.check(write, stored).await.with_context(|| format!("write {n}"))?,
            (_, Err(e)) => bail!("{n}: {e}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_server_loses_and_repeats_nothing() -> anyhow::Result<()> {
    let mut synced = Synced::start().await?;
    let mut outbox = Outbox::open(&synced.link).await?;
    let mut all = HashMap::new();
    let (mut sent, mut kills) = (0, 0);
    while all.len() < 12_000 {
        while sent < 12_000 && outbox.len() < 1000 {
            outbox.send(sent, if sent % 2 == 0 { synced.event(sent) } else { synced.create(sent) }).await;
            sent += 1;
        }
        outbox.flush().await;
        let (tag, answer) = tokio::time::timeout(PATIENCE, outbox.next()).await.context("no answer")?;
        ensure!(all.insert(tag, answer).is_none(), "{tag} was answered twice");
        if all.len() >= 3000 * (kills + 1) && kills < 3 {
            kills += 1;
            synced.nats.kill();
            synced.nats.up().await?;
        }
    }
    ensure!(kills == 3);
    for (n, answer) in &all {
        let write = if n % 2 == 0 { synced.event(*n) } else { synced.create(*n) };
        match answer {
            Ok(stored) => synced.check(&write, *stored).await?,
            // It was stored, and its answer lost: the repeat finds itself.
            Err(WriteError::Conflict(_)) => {
                let found = kv::get(&synced.link, &synced.link.names.executions_bucket(), &format!("k{n}")).await;
                let found = found.map_err(|e| anyhow::anyhow!(e.message))?.and_then(|e| e.value).context("a conflict with nothing")?;
                ensure!(found == write.payload, "{n} is not what was written");
            }
            Err(e) => bail!("{n}: {e}"),
        }
    }
    for stream in [synced.link.names.events_stream(), Names::bucket_stream(&synced.link.names.executions_bucket())] {
        let state = haltline_common::js::stream_info(&synced.link, &stream).await?.state;
        ensure!(state.messages == 6000 && state.last_seq == 6000, "{stream}: {state:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_syncs_later_is_told_from_one_that_does_at_once() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let lazy = Nats::start(&folder.path().join("nats")).await?;
    let link = Link::connect(&lazy.url(), Names::new("test").map_err(anyhow::Error::msg)?, "test").await?;
    ensure!(sync::measure(&link).await.is_err(), "measured without a stream");
    topology::ensure(&link, &StorageSettings::default()).await?;
    let later = sync::measure(&link).await?;
    eprintln!("syncs later: {later}");
    ensure!(later.sync == Sync::Later, "{later}");
    // What others write at the same time does not count as a sync.
    let busy = Link::connect(&lazy.url(), link.names.clone(), "load").await?;
    let load = tokio::spawn(async move {
        let mut outbox = Outbox::open(&busy).await?;
        for n in 0.. {
            let subject = busy.names.note(&format!("exec_w_{n}"));
            outbox.send(n, Write::with_id(subject, format!("id-{n}"), "load")).await;
            if outbox.len() >= 400 {
                outbox.next().await.1?;
            }
        }
        anyhow::Ok(())
    });
    for _ in 0..5 {
        let later = sync::measure(&link).await?;
        eprintln!("under load: {later}");
        ensure!(later.sync == Sync::Later, "under load: {later}");
    }
    ensure!(!load.is_finished(), "the load ended: {:?}", load.await);
    load.abort();

    let synced = Synced::start().await?;
    let measured = sync::measure(&synced.link).await?;
    eprintln!("syncs at once: {measured}");
    // Only where a sync costs something can it be seen.
    let file = std::fs::File::create(folder.path().join("sync"))?;
    let begun = std::time::Instant::now();
    for i in 0..64u64 {
        std::os::unix::fs::FileExt::write_at(&file, b"x", i)?;
        file.sync_data()?;
    }
    if begun.elapsed() / 64 > measured.alone / 4 {
        ensure!(measured.sync == Sync::Always, "{measured}");
    }
    Ok(())
}
