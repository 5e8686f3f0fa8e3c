//! Outputs that are too large for a message: in the object store, told by reference, whole where they are used.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::{
    Link,
    config::StorageSettings,
    payloads, topology,
    types::{Names, payload::PayloadRef},
};
use haltline_tests::{Site, checks, folder::Folder, http, nats::Nats, relay::Relay, shapes, soon};
use serde_json::{Value, json};

use crate::COMMAND;

/// A node gives a book of 300 KiB: those behind it read a price in it.
fn book() -> Value {
    let test = |id: &str, after: Value| {
        json!({ "id": id, "type": "threshold", "params": { "max": 100 }, "depends_on": after,
                "inputs": { "value": { "node": "book", "output": "/book/prices/1" } } })
    };
    json!([
        { "id": "book", "type": "static",
          "params": { "outputs": { "small": 7, "book": { "prices": [1, 42], "of": "x".repeat(300 * 1024) } } } },
        test("left", json!([])),
        test("right", json!([])),
        { "id": "all", "type": "compare", "params": { "operator": "==" , "right": 42 }, "depends_on": ["left", "right"],
          "inputs": { "left": { "node": "book", "output": "/book/prices/1" } } },
    ])
}

#[tokio::test]
async fn what_is_too_large_for_a_message_goes_by_reference() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let outcome = site.run(&shapes::workflow("book", book())?, "k", json!({})).await?;
    ensure!(outcome.status == Status::Completed, "{:?} {:?}", outcome.status, outcome.error);
    let (record, events) = checks::ended(&site.client, "k").await?;
    ensure!(record.results["left"]["value"] == "42" && record.results["all"]["result"] == true, "{:?}", record.results);
    ensure!(record.results["book"]["small"] == 7, "what is small stays");
    let reference = PayloadRef::of(&record.results["book"]["book"]).context("no reference")?;
    ensure!(reference.is_of(&record.correlation.execution_id) && reference.bytes > 300 * 1024, "{reference:?}");
    let longest = events.iter().map(|e| serde_json::to_string(e).map(|s| s.len())).collect::<Result<Vec<_>, _>>()?;
    ensure!(longest.iter().all(|bytes| *bytes < 8192), "{longest:?}");
    let value = payloads::get(site.client.link(), &reference).await?;
    ensure!(value["prices"] == json!([1, 42]) && value["of"].as_str().is_some_and(|s| s.len() == 300 * 1024), "not what was given");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_gateway_brings_back_what_is_kept_by_reference() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_gateway(None).await?;
    let outcome = site.run(&shapes::workflow("book", book())?, "k", json!({})).await?;
    ensure!(outcome.status == Status::Completed, "{:?} {:?}", outcome.status, outcome.error);
    let (record, _) = checks::ended(&site.client, "k").await?;
    let id = record.correlation.execution_id;
    let target = format!("{}/v1/executions/{id}/payload?part=output&node=book&max_bytes=1000000", site.gateway_url());
    let (status, body) = http::answer(http::client()?.get(target)).await?;
    ensure!(status == 200, "{status} {body}");
    ensure!(body["cut"] == false && body["value"]["book"]["prices"] == json!([1, 42]) && body["value"]["small"] == 7, "{}", body["cut"]);
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_reference_to_what_is_not_there_or_not_its_own_fails_closed() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let taking = json!([{ "id": "a", "type": "threshold", "params": { "max": 1 }, "inputs": { "value": { "input": "x" } } }]);
    let taking = shapes::workflow("taking", taking)?;
    let of = |object: &str| PayloadRef { object: object.into(), bytes: 3, at: None }.to_value();
    let other = site.run(&taking, "other", json!({ "x": of("exec_other_00000000/aa") })).await?;
    ensure!(other.error_type.as_deref() == Some("PayloadMissing"), "{other:?}");
    ensure!(other.error.as_deref().is_some_and(|e| e.contains("another execution")), "{:?}", other.error);
    // A node does not give what reads like a reference.
    let forging = json!([{ "id": "a", "type": "static", "params": { "outputs": { "x": of("a/b") } } }]);
    let forged = site.run(&shapes::workflow("forging", forging)?, "forged", json!({})).await?;
    ensure!(forged.error_type.as_deref() == Some("InvalidOutput"), "{forged:?}");
    // Lost from the store while the next node slept: nothing runs on what is left of it.
    let lost = json!([
        { "id": "book", "type": "static", "params": { "outputs": { "book": { "price": 1, "of": "x".repeat(100 * 1024) } } } },
        { "id": "nap", "type": "sleep", "params": { "duration": "2s" }, "depends_on": ["book"] },
        { "id": "take", "type": "threshold", "params": { "max": 9 }, "inputs": { "value": { "node": "book", "output": "/book/price" } }, "depends_on": ["nap"] },
    ]);
    let id = site.submit(&shapes::workflow("lost", lost)?, "lost", json!({})).await?;
    soon("the book is told", async || Ok(checks::seen(&site.client, &id, "node_completed", "book").await?.is_some())).await?;
    let link = site.client.link();
    let stream = Names::object_stream(&link.names.payloads_bucket());
    let _: Value = haltline_common::js::api(link, &format!("STREAM.PURGE.{stream}"), &Value::Null).await?;
    let (record, _) = checks::ended(&site.client, "lost").await?;
    ensure!(record.error_type.as_deref() == Some("PayloadMissing") && record.failed_node.as_deref() == Some("take"), "{record:?}");
    ensure!(record.error.as_deref().is_some_and(|e| e.contains("not in the object store")), "{:?}", record.error);
    site.done();
    Ok(())
}

/// Where a server of several ends, what the reader of a payload sends is lost, and nobody is told: it is read anew.
#[tokio::test]
async fn a_read_that_stops_begins_again_soon() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let nats = Nats::start(&folder.path().join("nats")).await?;
    let relay = Relay::start(nats.port()).await?;
    let names = Names::new("test").map_err(anyhow::Error::msg)?;
    let link = Link::connect(&relay.url.replace("http", "nats"), names, "test").await?;
    topology::ensure(&link, &StorageSettings::default()).await?;
    let book = json!("x".repeat(7 << 20));
    let json = book.to_string().into_bytes();
    let reference = PayloadRef::new("exec_a_1", &json);
    payloads::put(&link, &reference, &json).await?;

    let began = Instant::now();
    let before = relay.answered();
    let reading = payloads::get(&link, &reference);
    let losing = async {
        // Parts of it have come; the server sends more when it hears that they arrived.
        tokio::time::timeout(Duration::from_secs(20), relay.answers(before + 8)).await.context("nothing is read")?;
        let asked = relay.arrived();
        relay.lose(true);
        soon("something is lost", async || Ok(relay.arrived() > asked)).await?;
        relay.lose(false);
        anyhow::Ok(())
    };
    let (value, lost) = tokio::join!(reading, losing);
    lost?;
    ensure!(value? == book, "not what was stored");
    let took = began.elapsed();
    // It was stopped indeed; and async-nats would have noticed after 5 s, or not at all.
    ensure!(took > Duration::from_secs(1) && took < Duration::from_millis(4500), "it took {took:?}");
    Ok(())
}
