//! Reading the server back after a run: every execution's events are all there, each once, and every
//! record is final. What is missing counts as an error.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anyhow::bail;
use haltline_client::Client;
use haltline_common::{
    js,
    tail::{Item, Options, Start, Tail},
    types::{Names, SmolStr, event::Event, json, record::Record},
};

/// Nothing for this long while reading back is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Messages stored in all of Haltline's streams so far, also those removed since.
pub async fn stored(client: &Client) -> anyhow::Result<u64> {
    let link = client.link();
    let records = Names::bucket_stream(&link.names.executions_bucket());
    let mut sum = 0;
    for stream in [link.names.events_stream(), link.names.tasks_stream(), records] {
        sum += js::stream_info(link, &stream).await?.state.last_seq;
    }
    Ok(sum)
}

async fn each(client: &Client, stream: String, mut visit: impl FnMut(&[u8])) -> anyhow::Result<()> {
    let options = Options {
        stream,
        filter: String::new(),
        start: Start::Seq(1),
        heartbeat: Duration::from_secs(2),
        buffer: 1024,
        reader: "bench".into(),
        headers_only: false,
    };
    let mut tail = Tail::start(client.link(), options);
    loop {
        match tokio::time::timeout(PATIENCE, tail.next()).await {
            Ok(Some(Item::Message(m))) => visit(&m.payload),
            Ok(Some(Item::CaughtUp { .. })) => return Ok(()),
            Ok(Some(Item::Lost { .. } | Item::Reset { .. })) => {}
            Ok(None) | Err(_) => bail!("reading the server back stopped"),
        }
    }
}

/// What is missing of `executions` executions with `nodes` nodes each.
pub async fn read_back(client: &Client, executions: usize, nodes: usize) -> anyhow::Result<Vec<String>> {
    let mut events: HashMap<SmolStr, (u32, Option<u32>, u32)> = HashMap::new();
    let mut ids = HashSet::new();
    let mut repeated = 0;
    each(client, client.link().names.events_stream(), |payload| {
        for e in json::lines(payload).filter_map(|line| serde_json::from_slice::<Event>(line).ok()) {
            if e.execution_id.is_empty() {
                continue;
            }
            if !ids.insert(e.id.clone()) {
                repeated += 1;
                continue;
            }
            let seen = events.entry(e.execution_id).or_default();
            seen.0 += 1;
            if e.kind.is_terminal() {
                seen.1 = e.event_count;
                seen.2 += 1;
            }
        }
    })
    .await?;
    let (mut records, mut open) = (0, 0);
    let bucket = Names::bucket_stream(&client.link().names.executions_bucket());
    each(client, bucket, |payload| {
        let Ok(r) = serde_json::from_slice::<Record>(payload) else { return };
        records += 1;
        open += usize::from(!r.status.is_terminal());
    })
    .await?;
    let expected = 2 + 2 * nodes as u32;
    let incomplete = events.values().filter(|(n, told, ends)| *n != expected || *told != Some(expected) || *ends != 1).count();
    let mut errors = Vec::new();
    let mut wrong = |n: usize, what: &str| {
        if n > 0 {
            errors.push(format!("{n} {what}"));
        }
    };
    wrong(incomplete, &format!("executions without exactly {expected} events and one end"));
    wrong(executions.abs_diff(events.len()), "executions more or fewer in the log than were run");
    wrong(executions.abs_diff(records), "records more or fewer than executions were run");
    wrong(open, "records not final");
    wrong(repeated, "events stored twice");
    Ok(errors)
}
