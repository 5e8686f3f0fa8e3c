//! The server's belt: under a confirmed shutdown of everything, or of a node type, the consumers of tasks are paused; a
//! resume lets them go on, also where whoever paused them has died.

use std::time::Duration;

use anyhow::ensure;
use haltline_client::Status;
use haltline_common::{
    js,
    types::{Names, control::Scope},
};
use haltline_tests::{Site, checks, shapes, soon, until};
use serde_json::{Value, json};

use crate::COMMAND;

/// Whether the server has paused the consumer of a type's tasks.
async fn paused(site: &Site, kind: &str) -> anyhow::Result<bool> {
    let link = site.link();
    let subject = format!("CONSUMER.INFO.{}.{}", link.names.tasks_stream(), Names::task_consumer(kind));
    let info: Value = js::api(link, &subject, &Value::Null).await?;
    Ok(info["paused"] == true)
}

#[tokio::test]
async fn a_confirmed_shutdown_pauses_consumers_until_the_resume() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    let chain = shapes::workflow("chain", json!([{ "id": "a", "type": "static", "params": { "outputs": { "x": 1 } } }]))?;
    site.client.put_workflow(&chain).await?;
    let one_type = Scope::NodeType("http".into()).to_string();
    let shut = |scope: &str| ["halt", "--scope", scope, "--level", "shutdown", "--reason", "the end", "--wait", "20s"].map(str::to_owned);
    let told = site.caller().call(&shut(&one_type).each_ref().map(String::as_str)).await?;
    ensure!(told.code == Some(0), "{told:?}");
    soon("the type's consumer is paused", async || paused(&site, "http").await).await?;
    ensure!(!paused(&site, "static").await?, "another type's consumer is paused");
    // What is not of that type runs.
    site.submit(&chain, "before", json!({})).await?;
    ensure!(checks::ended(&site.client, "before").await?.0.status == Status::Completed, "it did not run");
    let told = site.caller().call(&shut("global").each_ref().map(String::as_str)).await?;
    ensure!(told.code == Some(0), "{told:?}");
    soon("all consumers are paused", async || Ok(paused(&site, "static").await? && paused(&site, "http").await?)).await?;
    // Whoever keeps it up is gone; the next one lets go of what is lowered, and of nothing else.
    site.process("coordinator")?.kill();
    let told = site.caller().call(&["resume", "--reason", "go on", "--confirm", "global"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    site.spawn("coordinator-2", &["coordinator"], None)?;
    let client = site.client.clone();
    until("it is accepted", Duration::from_secs(30), async || Ok(client.submit(shapes::submission(&chain, "after", json!({}))).await.ok()))
        .await?;
    ensure!(checks::ended(&site.client, "after").await?.0.status == Status::Completed, "it did not run");
    ensure!(!paused(&site, "static").await? && paused(&site, "http").await?, "the wrong ones are paused");
    let told = site.caller().call(&["resume", "--scope", &one_type, "--reason", "go on", "--confirm", &one_type]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    soon("all go on", async || Ok(!paused(&site, "http").await?)).await?;
    site.done();
    Ok(())
}
