//! Side effects of which nobody knows at first whether they happened: asked for by key, repeated with the
//! same key, or left to an operator. Never simply repeated.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_client::{Code, Record, Resolution, Resolve, Status};
use haltline_common::types::definition::Definition;
use haltline_tests::{
    Site, checks, http, ledger, port, shapes, soon, until,
    venue::{Mood, Venue},
};
use serde_json::{Value, json};

use crate::{COMMAND, operations::scrape};

/// A post to the venue, what goes on with its answer, and a branch that has nothing to do with it.
fn posting(id: &str, params: Value) -> anyhow::Result<Definition> {
    let mut post = json!({ "method": "POST" });
    for (name, value) in params.as_object().into_iter().flatten() {
        post[name] = value.clone();
    }
    shapes::workflow(
        id,
        json!([
            { "id": "post", "type": "http", "params": post, "inputs": { "url": { "input": "url" } }, "timeout": "400ms",
              "retry": { "attempts": 3, "delay": "20ms" } },
            { "id": "after", "type": "log", "inputs": { "message": { "node": "post", "output": "status" } } },
            { "id": "other", "type": "static" },
            { "id": "further", "type": "log", "params": { "message": "goes on" }, "depends_on": ["other"] },
        ]),
    )
}

async fn unknown(site: &mut Site, id: &str) -> anyhow::Result<Record> {
    let client = site.client.clone();
    let wait = until("the outcome is unknown", Duration::from_secs(30), async || {
        let record = client.record(id).await?;
        ensure!(!record.status.is_terminal(), "it ended: {record:?}");
        Ok((record.status == Status::Unknown).then_some(record))
    });
    site.tending(wait).await
}

fn count(events: &[haltline_common::types::event::Event], kind: &str) -> usize {
    events.iter().filter(|e| e.kind.as_str() == kind).count()
}

/// Waits until the coordinator counts so many executions with an unknown outcome.
async fn counted(metrics: &str, n: f64) -> anyhow::Result<()> {
    soon("unknown outcomes are counted", async || {
        let seen = scrape(&format!("http://{metrics}")).await?;
        Ok(seen.get("haltline_executions_unknown") == Some(&n))
    })
    .await
}

/// One worker, which dies at `point` the first time.
async fn dying(point: &str, coordinator: &[&str]) -> anyhow::Result<Site> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn("coordinator", coordinator, None)?;
    site.spawn("worker-1", &["worker", "--id", "worker-1"], Some(point))?;
    site.ready(1).await?;
    Ok(site)
}

#[tokio::test]
async fn an_order_arrives_once_even_where_the_market_does_not_know_repeats() -> anyhow::Result<()> {
    let play = |point: &'static str, status: &'static str| async move {
        let mut site = dying(point, &["coordinator"]).await?;
        site.spawn_market_with(&["--no-dedup"]).await?;
        let id = site.submit(&shapes::chain("order")?, "k", site.trading()).await?;
        let client = site.client.clone();
        let (record, events) = site.tending(checks::ended(&client, "k")).await?;
        ensure!(record.status == Status::Completed, "{record:?}");
        ensure!(site.process("worker-1")?.killed() == 1, "it did not die");
        let arrived = ledger::arrivals(&site.ledger(), &id, "buy")?;
        ensure!((arrived.filled, arrived.all) == (1, 1), "{arrived:?}");
        let settled: Vec<_> = events.iter().filter(|e| e.kind.as_str() == "effect_settled").filter_map(|e| e.status.as_deref()).collect();
        ensure!(settled.first() == Some(&status), "{settled:?}\n{}", checks::kinds(&events).join("\n"));
        site.done();
        anyhow::Ok(())
    };
    tokio::try_join!(play("worker.effect", "not_done"), play("worker.effect_done", "done"))?;
    Ok(())
}

#[tokio::test]
async fn a_post_whose_worker_died_waits_for_an_operator() -> anyhow::Result<()> {
    let venue = Venue::start(Mood::Ok).await?;
    let metrics = format!("127.0.0.1:{}", port::free());
    let mut site = dying("worker.effect_done", &["coordinator", "--metrics", &metrics]).await?;
    let id = site.submit(&posting("post", json!({}))?, "k", json!({ "url": format!("{}/a", venue.url) })).await?;
    let record = unknown(&mut site, &id).await?;
    counted(&metrics, 1.0).await?;
    let [node] = &record.unknown_nodes[..] else { anyhow::bail!("{record:?}") };
    ensure!((node.node_id.as_str(), node.attempt, node.unsettled.len()) == ("post", 1, 1), "{node:?}");
    ensure!(node.unsettled[0] == format!("{id}/post/1/intended"), "{node:?}");
    soon("the other branch has ended", async || Ok(checks::seen(&site.client, &id, "node_completed", "further").await?.is_some())).await?;

    let caller = site.caller();
    let list = caller.call(&["executions", "list", "--status", "unknown", "--json"]).await?.json()?;
    ensure!(list["executions"].as_array().is_some_and(|l| l.len() == 1 && l[0]["execution_id"] == id.as_str()), "{list}");
    let shown = caller.call(&["executions", "show", &id]).await?;
    ensure!(shown.out.contains(&format!("haltline executions resolve {id} post --repeat")), "{shown:?}");
    // Whoever runs it and waits is told what for.
    let file = site.ledger().with_file_name("post.json");
    std::fs::write(&file, serde_json::to_vec(&posting("post", json!({}))?)?)?;
    let input = json!({ "url": format!("{}/a", venue.url) }).to_string();
    let waits = caller.call(&["run", &file.to_string_lossy(), "--key", "k", "--input", &input, "--wait", "3s"]).await?;
    ensure!(waits.err.contains(&format!("{id} waits for you")) && waits.code == Some(6), "{waits:?}");
    let bad = caller.call(&["executions", "resolve", &id, "post", "--done", "[1]"]).await?;
    ensure!(bad.code == Some(2) && bad.err.contains("done: must be a JSON object"), "{bad:?}");
    let none = caller.call(&["executions", "resolve", &id, "further", "--fail"]).await?;
    ensure!(none.code == Some(5) && none.err.contains("it has completed") && none.err.contains("these do: post"), "{none:?}");
    let done = caller
        .call(&["executions", "resolve", &id, "post", "--done", r#"{"status":201}"#, "--reason", "it is in their books", "--by", "ana"])
        .await?;
    ensure!(done.code == Some(0), "{done:?}");

    let (record, events) = checks::ended(&site.client, "k").await?;
    ensure!(record.status == Status::Completed && record.unknown_nodes.is_empty(), "{record:?}");
    ensure!(record.results["after"]["message"] == 201 || record.results["after"]["message"] == "201", "{:?}", record.results);
    let told = events.iter().find(|e| e.kind.as_str() == "node_completed" && e.node_id.as_deref() == Some("post")).context("no result")?;
    ensure!(told.by.as_deref() == Some("ana") && told.reason.as_deref() == Some("it is in their books"), "{told:?}");
    ensure!(venue.headers("/a", "idempotency-key") == [format!("{id}/post")], "{:?}", venue.headers("/a", "idempotency-key"));
    let again = caller.call(&["executions", "resolve", &id, "post", "--repeat"]).await?;
    ensure!(again.code == Some(5) && again.err.contains("has ended: completed"), "{again:?}");
    counted(&metrics, 0.0).await?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn an_idempotent_post_is_repeated_with_the_same_key_and_a_higher_token() -> anyhow::Result<()> {
    let venue = Venue::start(Mood::Ok).await?;
    let mut site = dying("worker.effect_done", &["coordinator"]).await?;
    let id = site.submit(&posting("post", json!({ "idempotent": true }))?, "k", json!({ "url": format!("{}/a", venue.url) })).await?;
    let client = site.client.clone();
    let (record, events) = site.tending(checks::ended(&client, "k")).await?;
    ensure!(record.status == Status::Completed, "{record:?}");
    let key = format!("{id}/post");
    ensure!(venue.headers("/a", "idempotency-key") == [key.clone(), key], "{:?}", venue.headers("/a", "idempotency-key"));
    let tokens: Vec<u64> = venue.headers("/a", "haltline-token").iter().map(|t| t.parse()).collect::<Result<_, _>>()?;
    ensure!(tokens[0] < tokens[1], "{tokens:?}");
    // The second answer settles both: it was one effect.
    ensure!((count(&events, "effect_intended"), count(&events, "effect_settled")) == (2, 2), "{}", checks::kinds(&events).join("\n"));
    site.done();
    Ok(())
}

#[tokio::test]
async fn an_unknown_outcome_is_repeated_or_given_up_as_the_operator_says() -> anyhow::Result<()> {
    let venue = Venue::start(Mood::Silent).await?;
    let mut site = Site::start(COMMAND).await?;
    site.spawn_gateway(None).await?;
    let definition = posting("post", json!({}))?;
    let url = |path: &str| json!({ "url": format!("{}/{path}", venue.url) });
    let (repeat, fail, cancel) = tokio::try_join!(
        site.submit(&definition, "repeat", url("repeat")),
        site.submit(&definition, "fail", url("fail")),
        site.submit(&definition, "cancel", url("cancel")),
    )?;
    for id in [&repeat, &fail, &cancel] {
        let record = unknown(&mut site, id).await?;
        ensure!(record.unknown_nodes[0].error.contains("did not end within"), "{record:?}");
    }

    let (http, gateway) = (http::client()?, site.gateway_url());
    let post = async |id: &str, node: &str, body: Value| {
        http::answer(http.post(format!("{gateway}/v1/executions/{id}/nodes/{node}/resolve")).json(&body)).await
    };
    let (status, answer) = post("exec_none_00000000", "post", json!({ "resolution": "repeat" })).await?;
    ensure!(status == 404, "{status} {answer}");
    let (status, answer) = post(&repeat, "after", json!({ "resolution": "repeat" })).await?;
    ensure!(status == 409 && answer["detail"].as_str().is_some_and(|d| d.contains("has not started")), "{status} {answer}");
    for body in
        [json!({ "resolution": "done" }), json!({ "resolution": "fail", "outputs": {} }), json!({ "resolution": "done", "outputs": [] })]
    {
        let (status, answer) = post(&repeat, "post", body.clone()).await?;
        ensure!(status == 422, "{body}: {status} {answer}");
    }

    // Still broken: the repeat does not end as failed either. And a coordinator that starts anew knows.
    venue.set(Mood::Broken);
    let (status, answer) = post(&repeat, "post", json!({ "resolution": "repeat", "by": "ana" })).await?;
    ensure!(status == 202, "{status} {answer}");
    until("the second attempt is unknown as well", Duration::from_secs(20), async || {
        let record = site.client.record(&repeat).await?;
        Ok((record.unknown_nodes.first().map(|n| n.attempt) == Some(2)).then_some(()))
    })
    .await?;
    site.process("coordinator")?.kill();
    site.spawn("coordinator-2", &["coordinator"], None)?;
    venue.set(Mood::Ok);
    let ask = |node: &str, resolution| Resolve {
        execution_id: node.into(),
        node_id: "post".into(),
        resolution,
        outputs: None,
        reason: String::new(),
        by: "ana".into(),
    };
    site.client.resolve(&ask(&repeat, Resolution::Repeat)).await?;
    let (record, events) = checks::ended(&site.client, "repeat").await?;
    ensure!(record.status == Status::Completed && record.unknown_nodes.is_empty(), "{record:?}");
    ensure!(count(&events, "effect_intended") == 3 && count(&events, "node_unknown") == 2, "{}", checks::kinds(&events).join("\n"));
    ensure!(venue.headers("/repeat", "haltline-token").len() == 3, "{:?}", venue.headers("/repeat", "haltline-token"));

    site.client.resolve(&ask(&fail, Resolution::Fail)).await?;
    let (record, _) = checks::ended(&site.client, "fail").await?;
    ensure!(record.status == Status::Failed && record.failed_node.as_deref() == Some("post"), "{record:?}");
    ensure!(record.error_type.as_deref() == Some("ResolvedAsFailed") && record.unknown_nodes.is_empty(), "{record:?}");
    let late = site.client.resolve(&ask(&fail, Resolution::Repeat)).await;
    ensure!(late.as_ref().is_err_and(|e| e.code == Code::Conflict), "{late:?}");

    // What ends an execution does not hide what is not known.
    site.client.cancel(&cancel, "enough", "ana").await?;
    let (record, events) = checks::ended(&site.client, "cancel").await?;
    ensure!(record.status == Status::Cancelled && record.unknown_nodes.len() == 1, "{record:?}");
    let end = events.last().context("no events")?;
    ensure!(end.unknown_nodes == record.unknown_nodes, "{end:?}");
    ensure!(venue.headers("/cancel", "haltline-token").len() == 1 && venue.headers("/fail", "haltline-token").len() == 1, "sent again");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_cancel_in_the_middle_of_an_effect_says_that_it_may_have_happened() -> anyhow::Result<()> {
    let venue = Venue::start(Mood::Silent).await?;
    let site = Site::start(COMMAND).await?;
    let definition = shapes::workflow(
        "slow",
        json!([{ "id": "post", "type": "http", "params": { "method": "POST", "url": format!("{}/a", venue.url) }, "timeout": "30s" }]),
    )?;
    let id = site.submit(&definition, "k", json!({})).await?;
    soon("it was asked", async || Ok(!venue.headers("/a", "haltline-token").is_empty())).await?;
    site.client.cancel(&id, "enough", "ana").await?;
    let (record, events) = checks::ended(&site.client, "k").await?;
    ensure!(record.status == Status::Cancelled, "{record:?}");
    ensure!(record.unknown_nodes.iter().map(|n| n.node_id.as_str()).eq(["post"]), "{record:?}");
    let refused = events.iter().find(|e| e.kind.as_str() == "node_refused").context("no refusal")?;
    ensure!(refused.unsettled == [format!("{id}/post/1/intended")], "{refused:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn what_is_refused_or_not_sent_fails_and_is_not_unknown() -> anyhow::Result<()> {
    let venue = Venue::start(Mood::Refusing).await?;
    let site = Site::start(COMMAND).await?;
    let definition = posting("post", json!({}))?;
    let refused = site.run(&definition, "refused", json!({ "url": venue.url })).await?;
    ensure!(refused.status == Status::Failed && refused.error_type.as_deref() == Some("HttpStatus"), "{refused:?}");
    let nobody = port::free();
    let (outcome, events) = {
        let outcome = site.run(&definition, "nobody", json!({ "url": format!("http://127.0.0.1:{nobody}") })).await?;
        (outcome, checks::ended(&site.client, "nobody").await?.1)
    };
    ensure!(outcome.status == Status::Failed && outcome.error_type.as_deref() == Some("Connection"), "{outcome:?}");
    // Nothing was sent, so each of the attempts was free to try.
    ensure!((count(&events, "effect_intended"), count(&events, "node_retrying")) == (3, 2), "{}", checks::kinds(&events).join("\n"));
    let settled = events.iter().filter(|e| e.kind.as_str() == "effect_settled");
    ensure!(settled.map(|e| e.status.as_deref()).all(|s| s == Some("not_done")), "{}", checks::kinds(&events).join("\n"));
    site.done();
    Ok(())
}

/// An intent meets a claim that it does not know of, and its attempt runs out of time while nobody can be asked about that:
/// whether the log has it, and it counts, is found out all the same.
#[tokio::test]
async fn an_intent_of_an_attempt_that_is_given_up_counts_if_it_is_stored() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_market().await?;
    site.spawn("coordinator", &["coordinator"], None)?;
    site.spawn("worker-0", &["worker", "--id", "worker-0"], Some("worker.note"))?;
    site.ready(1).await?;
    let hurried = shapes::workflow(
        "hurried",
        json!([
            { "id": "price", "type": "static", "params": { "outputs": { "close": "99.5" } } },
            { "id": "buy", "type": "paper_order", "depends_on": ["price"], "params": { "side": "buy", "quantity": "10", "symbol": "IBM" },
              "inputs": { "market": { "input": "market" } }, "timeout": "500ms", "retry": { "attempts": 3, "delay": "10ms" } },
        ]),
    )?;
    let id = site.submit(&hurried, "k", site.trading()).await?;
    soon("the first worker died", async || Ok(!site.process("worker-0")?.runs())).await?;
    site.process("worker-0")?.kill();

    let point = format!("worker.looking@{}", site.nats.pid_file().display());
    site.spawn("worker-1", &["worker", "--id", "worker-1"], Some(&point))?;
    soon("the attempt ran out of time", async || Ok(site.process("worker-1")?.log().contains("did not end within"))).await?;
    let client = site.client.clone();
    let (record, events) = site.tending(checks::ended(&client, "k")).await?;
    ensure!(record.status == Status::Completed, "{record:?}");
    let of = |kind: &str| events.iter().filter(|e| e.kind.as_str() == kind && e.attempt == Some(1)).count();
    ensure!(of("effect_settled") == of("effect_intended"), "{}", checks::kinds(&events).join("\n"));
    ensure!(ledger::arrivals(&site.ledger(), &id, "buy")?.filled == 1, "the order");
    site.done();
    Ok(())
}

#[tokio::test]
async fn of_two_who_resolve_a_node_differently_at_once_one_is_refused() -> anyhow::Result<()> {
    let venue = Venue::start(Mood::Ok).await?;
    let mut site = dying("worker.effect_done", &["coordinator"]).await?;
    let id = site.submit(&posting("post", json!({}))?, "k", json!({ "url": format!("{}/a", venue.url) })).await?;
    unknown(&mut site, &id).await?;
    let say = |resolution: Resolution, by: &str| Resolve {
        execution_id: id.clone().into(),
        node_id: "post".into(),
        resolution,
        outputs: (resolution == Resolution::Done).then(|| serde_json::Map::from_iter([("status".to_owned(), json!(201))]).into()),
        reason: "looked at their books".into(),
        by: by.into(),
    };
    let (done, fail) = (say(Resolution::Done, "ana"), say(Resolution::Fail, "bo"));
    let answers: [_; 2] = tokio::join!(site.client.resolve(&done), site.client.resolve(&fail)).into();
    ensure!(answers.iter().filter(|a| a.is_ok()).count() == 1, "{answers:?}");
    ensure!(answers.iter().any(|a| a.as_ref().is_err_and(|e| e.code == Code::Conflict)), "{answers:?}");
    let (record, _) = checks::ended(&site.client, "k").await?;
    ensure!((record.status == Status::Completed) == answers[0].is_ok(), "{:?} {answers:?}", record.status);
    let commands = haltline_common::history::commands(site.link(), &id).await?;
    let said: Vec<_> = commands.iter().filter_map(|(_, c)| c.resolution.map(|_| c.by.as_str())).collect();
    ensure!(said == [if answers[0].is_ok() { "ana" } else { "bo" }], "{said:?}");
    // Who was told that it is stored hears the same again.
    let again = site.client.resolve(if answers[0].is_ok() { &done } else { &fail }).await?;
    ensure!(again.repeated, "{again:?}");
    site.done();
    Ok(())
}
