//! What expires and what does not: records of what runs stay, final ones go after their time, and a key
//! stands for its submission as long as its record is there.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::HeaderMap;
use haltline_client::{Code, Status};
use haltline_common::{
    config::StorageSettings,
    js, kv,
    outbox::Write,
    publisher::Publisher,
    topology,
    types::{Names, ids::token, limits::EXECUTION_MS_MAX},
};
use haltline_tests::{Site, shapes, soon};
use serde_json::{Value, json};

use crate::COMMAND;

#[tokio::test]
async fn final_records_expire_and_running_ones_do_not() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let link = site.link().clone();
    let keep = topology::record_keep(&link).await?.context("the records' stream does not say how long")?;
    ensure!(keep > StorageSettings::default().keep.duration(), "a record goes before its last event: {keep:?}");
    let info = js::stream_info(&link, &link.names.events_stream()).await?;
    let age = Duration::from_nanos(info.config["max_age"].as_u64().unwrap_or_default());
    ensure!(age > Duration::from_millis(EXECUTION_MS_MAX) && age < keep, "events are kept for {age:?}, records for {keep:?}");

    let one = shapes::workflow("one", json!([{ "id": "a", "type": "static" }]))?;
    let waits = shapes::workflow("waits", json!([{ "id": "a", "type": "sleep", "params": { "duration": "60s" } }]))?;
    let ended = site.run(&one, "ended", json!({ "n": 1 })).await?.execution_id;
    let running = site.submit(&waits, "running", json!({})).await?;

    let bucket = link.names.executions_bucket();
    let stream = link.js.get_stream_no_info(Names::bucket_stream(&bucket)).await?;
    let subject = |id: &str| Names::kv_subject(&bucket, &token(id));
    let ttl = async |id: &str| {
        anyhow::Ok(stream.get_last_raw_message_by_subject(&subject(id)).await?.headers.get("Nats-TTL").map(|v| v.to_string()))
    };
    ensure!(ttl(&ended).await?.as_deref() == Some(&keep.as_secs().to_string()[..]), "the final record has {:?}", ttl(&ended).await?);
    ensure!(ttl(&running).await?.is_none(), "the record of a running execution expires");

    // As long as the record is there, the key stands for it.
    let again = site.client.submit(shapes::submission(&one, "ended", json!({ "n": 1 }))).await?;
    ensure!(again.repeated && again.execution_id == ended && again.status == Status::Completed, "{again:?}");
    let other = site.client.submit(shapes::submission(&one, "ended", json!({ "n": 2 }))).await;
    ensure!(other.as_ref().is_err_and(|e| e.code == Code::Conflict && e.field.as_deref() == Some("key")), "{other:?}");

    // Its time comes: events first, which are as old or older.
    for filter in link.names.log_of(&ended) {
        let _: Value = js::api(&link, &format!("STREAM.PURGE.{}", link.names.events_stream()), &json!({ "filter": filter })).await?;
    }
    let entry = kv::get(&link, &bucket, &token(&ended)).await?.context("no record")?;
    let mut write = Write::swap(subject(&ended), entry.revision, entry.value.context("no record")?);
    let mut headers = HeaderMap::new();
    headers.insert("Nats-TTL", "1");
    write.headers = headers;
    Publisher::start(&link).await?.write(write).await?;
    soon("the record has expired", async || Ok(kv::record(&link, &ended).await?.is_none())).await?;
    let gone = site.client.record(&ended).await;
    ensure!(gone.as_ref().is_err_and(|e| e.code == Code::UnknownExecution), "{gone:?}");
    let fresh = site.client.submit(shapes::submission(&one, "ended", json!({ "n": 2 }))).await?;
    ensure!(!fresh.repeated, "{fresh:?}");
    // Its task is not new to the server, which remembers ids for two minutes: it need not run here.
    let (record, _) = kv::record(&link, &ended).await?.context("no record")?;
    ensure!(fresh.execution_id == ended && record.input == json!({ "n": 2 }), "{record:?}");
    ensure!(site.client.record(&running).await?.status == Status::Running, "the running one is gone");
    site.done();
    Ok(())
}
