//! What a client is told that asks and waits for the end, on one subject or on two.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::{FutureExt, StreamExt};
use haltline_client::{Accepted, Outcome, Status};
use haltline_common::types::{definition::Definition, submit::Reply};
use haltline_tests::{Site, shapes};
use serde_json::json;

use crate::COMMAND;

/// Submits with `notify`, and gives the request's inbox.
async fn ask(site: &Site, definition: &Definition, key: &str, inbox: &str, notify: &str) -> anyhow::Result<()> {
    let mut submit = shapes::submission(definition, key, json!({}));
    submit.notify = Some(notify.into());
    let names = &site.link().names;
    let subject = names.submit(submit.shard(names.shards()));
    Ok(site.link().client.publish_with_reply(subject, inbox.to_owned(), serde_json::to_vec(&submit)?.into()).await?)
}

async fn next(inbox: &mut async_nats::Subscriber) -> anyhow::Result<async_nats::Message> {
    tokio::time::timeout(Duration::from_secs(20), inbox.next()).await?.context("closed")
}

fn accepted(message: &async_nats::Message) -> anyhow::Result<Accepted> {
    match serde_json::from_slice(&message.payload)? {
        Reply::Ok(accepted) => Ok(accepted),
        Reply::Error(e) => Err(e.into()),
    }
}

#[tokio::test]
async fn who_waits_where_it_asks_is_told_of_a_short_execution_once() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let short = shapes::workflow("short", json!([{ "id": "a", "type": "static", "params": { "outputs": { "x": 1 } } }]))?;
    let long = shapes::workflow("long", json!([{ "id": "a", "type": "sleep", "params": { "duration": "500ms" } }]))?;
    for definition in [&short, &long] {
        site.client.put_workflow(definition).await?;
    }
    let client = &site.link().client;
    let (one, two, told) = (client.new_inbox(), client.new_inbox(), client.new_inbox());
    let mut inboxes = Vec::new();
    for inbox in [&one, &two, &told] {
        inboxes.push(client.subscribe(inbox.clone()).await?);
    }
    // A short one: the end is the answer.
    let asked = Instant::now();
    ask(&site, &short, "k1", &one, &one).await?;
    let mut message = next(&mut inboxes[0]).await?;
    if accepted(&message).is_ok() {
        // Of an acceptance it is told only if the end is not there in 100 ms: on a machine that is busy.
        message = next(&mut inboxes[0]).await?;
        ensure!(asked.elapsed() >= Duration::from_millis(100), "told too early");
    }
    let outcome: Outcome = serde_json::from_slice(&message.payload)?;
    ensure!(outcome.status == Status::Completed && outcome.outputs["a"]["x"] == 1, "{outcome:?}");
    // A long one is accepted first.
    ask(&site, &long, "k2", &two, &two).await?;
    let first = accepted(&next(&mut inboxes[1]).await?)?;
    ensure!(first.status == Status::Running && !first.repeated, "{first:?}");
    let outcome: Outcome = serde_json::from_slice(&next(&mut inboxes[1]).await?.payload)?;
    ensure!(outcome.status == Status::Completed && outcome.execution_id == first.execution_id, "{outcome:?}");
    // By now an acceptance that was held back for the short one would have been told.
    ensure!(inboxes[0].next().now_or_never().is_none(), "told twice");
    // Asked again, it is the same one, and it is told where it stands.
    ask(&site, &short, "k1", &one, &one).await?;
    let again = accepted(&next(&mut inboxes[0]).await?)?;
    ensure!(again.repeated && again.status == Status::Completed, "{again:?}");
    // On two subjects, each is told its own.
    ask(&site, &short, "k3", &one, &told).await?;
    let first = accepted(&next(&mut inboxes[0]).await?)?;
    let outcome: Outcome = serde_json::from_slice(&next(&mut inboxes[2]).await?.payload)?;
    ensure!(!first.repeated && outcome.execution_id == first.execution_id, "{first:?} {outcome:?}");
    site.done();
    Ok(())
}
