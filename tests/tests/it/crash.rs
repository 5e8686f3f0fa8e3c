//! At every fault point: the process that passes it dies there, and nats-server dies there. What was
//! asked for happens all the same, once.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_client::{Code, Status};
use haltline_common::types::control::Level;
use haltline_tests::{Caller, Site, checks, http, ledger, shapes, until};
use serde_json::{Value, json};

use crate::COMMAND;

/// Every fault point of the source, with the process it lies in. `tidy` compares it with the source.
pub const POINTS: &[(&str, Role)] = &[
    ("coordinator.create", Role::Coordinator),
    ("coordinator.started", Role::Coordinator),
    ("coordinator.task", Role::Coordinator),
    ("coordinator.command", Role::Coordinator),
    ("coordinator.skipped", Role::Coordinator),
    ("coordinator.ended", Role::Coordinator),
    ("coordinator.final", Role::Coordinator),
    ("coordinator.reply", Role::Coordinator),
    ("coordinator.notify", Role::Coordinator),
    ("coordinator.checkpoint", Role::Coordinator),
    ("worker.opening", Role::Worker),
    ("worker.started", Role::Worker),
    ("worker.claim", Role::Worker),
    ("worker.note", Role::Worker),
    ("worker.retrying", Role::Worker),
    ("worker.reserved", Role::Worker),
    ("worker.intended", Role::Worker),
    ("worker.looking", Role::Worker),
    ("worker.payload", Role::Worker),
    ("worker.effect", Role::Worker),
    ("worker.effect_done", Role::Worker),
    ("worker.settled", Role::Worker),
    ("worker.result", Role::Worker),
    ("worker.ack", Role::Worker),
    ("client.submit", Role::Client),
    ("client.wait", Role::Client),
    ("gateway.submit", Role::Gateway),
    ("gateway.answer", Role::Gateway),
];

/// Which process a point lies in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    Coordinator,
    Worker,
    Client,
    Gateway,
}

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Itself,
    Server,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Chain,
    Computing,
    Large,
    Retrying,
    Parallel,
    Skipping,
    Cancel,
    Halt,
}

/// How long a fault point may take to be passed.
const FIRED_WITHIN: Duration = Duration::from_secs(20);

/// One test: `point[:n]`, once for each victim, at the same time since most of it is waiting.
async fn crash(point: &str, shape: Shape) -> anyhow::Result<()> {
    let name = point.split(':').next().unwrap_or(point);
    let (_, role) = POINTS.iter().find(|(p, _)| *p == name).context("no such point")?;
    let of = |victim| async move { play(point, *role, shape, victim).await.with_context(|| format!("{point}, {shape:?}, {victim:?}")) };
    tokio::try_join!(of(Victim::Itself), of(Victim::Server))?;
    Ok(())
}

async fn play(point: &str, role: Role, shape: Shape, victim: Victim) -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_market().await?;
    let fault = match victim {
        Victim::Itself => point.to_owned(),
        Victim::Server => format!("{point}@{}", site.nats.pid_file().display()),
    };
    let armed = |r| (r == role).then_some(fault.as_str());
    site.spawn("coordinator", &["coordinator"], armed(Role::Coordinator))?;
    if matches!(point, "worker.claim" | "worker.looking") {
        leave_behind(&mut site).await?;
    }
    // One worker: a second one could take the task past the armed one.
    site.spawn("worker-1", &["worker", "--id", "worker-1"], armed(Role::Worker))?;
    site.ready(1).await?;
    if role == Role::Gateway {
        site.spawn_gateway(armed(Role::Gateway)).await?;
    }

    let killed_clients = ask(&mut site, role, shape, armed(Role::Client)).await?;
    // A checkpoint is written up to a second later, and acknowledgements follow the end.
    let end = std::time::Instant::now() + FIRED_WITHIN;
    while !fired(&mut site, role, victim, killed_clients)? {
        ensure!(std::time::Instant::now() < end, "the fault point was not passed");
        site.tend().await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let client = site.client.clone();
    let (record, events) = site.tending(checks::ended(&client, "the key")).await?;
    let id = record.correlation.execution_id.clone();
    let (status, trades) = match shape {
        Shape::Chain | Shape::Large | Shape::Retrying | Shape::Parallel => (Status::Completed, true),
        Shape::Computing => (Status::Completed, false),
        Shape::Skipping => (Status::CompletedWithErrors, true),
        Shape::Cancel => (Status::Cancelled, false),
        Shape::Halt => (Status::Halted, false),
    };
    ensure!(
        record.status == status,
        "ended {:?}: {:?} {:?}\n{}",
        record.status,
        record.error,
        record.reason,
        checks::kinds(&events).join("\n")
    );
    let arrived = ledger::arrivals(&site.ledger(), &id, "buy")?;
    ensure!(arrived.filled == usize::from(trades), "filled {} times", arrived.filled);
    // Whoever goes on with a node that may have ordered asks the market before it orders.
    ensure!(arrived.all == usize::from(trades), "the order arrived {} times", arrived.all);
    if shape == Shape::Retrying {
        ensure!(events.iter().filter(|e| e.kind.as_str() == "node_retrying").count() == 1, "{}", checks::kinds(&events).join("\n"));
    }

    // And the system is sound: the next one runs as if nothing had happened.
    if shape == Shape::Halt {
        client.set_flag(Level::Normal, "over", "test").await?;
    }
    let (definition, input) = (shapes::chain("after")?, site.trading());
    client.put_workflow(&definition).await?;
    let next = site
        .tending(until("the next one is accepted", Duration::from_secs(10), async || {
            match client.run(shapes::submission(&definition, "next", input.clone()), Duration::from_secs(30)).await {
                Ok(outcome) => Ok(Some(outcome)),
                // The coordinator's watch was cut off with the server; until it hears of the resume, it refuses.
                Err(e) if e.code == Code::EmergencyHalted && shape == Shape::Halt => Ok(None),
                Err(e) => Err(e.into()),
            }
        }))
        .await?;
    ensure!(next.status == Status::Completed, "the next one is {:?}", next.status);
    ensure!(ledger::arrivals(&site.ledger(), &next.execution_id, "buy")?.filled == 1, "the next one's order");
    site.done();
    Ok(())
}

/// A worker dies for good in the middle of the task: the next one has to claim it.
async fn leave_behind(site: &mut Site) -> anyhow::Result<()> {
    site.spawn("worker-0", &["worker", "--id", "worker-0"], Some("worker.note"))?;
    site.ready(1).await?;
    site.submit(&shapes::chain("crash")?, "the key", site.trading()).await?;
    until("the first worker died", FIRED_WITHIN, async || Ok((!site.process("worker-0")?.runs()).then_some(()))).await?;
    site.process("worker-0")?.kill();
    Ok(())
}

fn fired(site: &mut Site, role: Role, victim: Victim, killed_clients: u32) -> anyhow::Result<bool> {
    Ok(match (victim, role) {
        (Victim::Server, _) => site.nats.ended() > 0,
        (Victim::Itself, Role::Client) => killed_clients > 0,
        (Victim::Itself, Role::Coordinator) => site.process("coordinator")?.killed() > 0,
        (Victim::Itself, Role::Worker) => site.process("worker-1")?.killed() > 0,
        (Victim::Itself, Role::Gateway) => site.process("gateway")?.killed() > 0,
    })
}

/// Asks for it as its user would, again and again with the same key until it is answered; how many
/// clients died of it.
async fn ask(site: &mut Site, role: Role, shape: Shape, fault: Option<&str>) -> anyhow::Result<u32> {
    let input = site.trading();
    let definition = match shape {
        Shape::Chain => shapes::chain("crash")?,
        Shape::Computing => shapes::computing("crash")?,
        Shape::Large => shapes::large("crash")?,
        Shape::Retrying => shapes::retrying("crash")?,
        Shape::Parallel => shapes::parallel("crash")?,
        Shape::Skipping => shapes::skipping("crash")?,
        Shape::Cancel => shapes::waiting("crash", "10s", "10s")?,
        // Longer than a busy machine takes to see that they have started.
        Shape::Halt => shapes::waiting("crash", "3s", "3s")?,
    };
    let caller = site.caller();
    match shape {
        Shape::Cancel => {
            let id = site.submit(&definition, "the key", input).await?;
            started(site, &id).await?;
            site.tending(calls(caller, vec!["executions".into(), "cancel".into(), id], fault)).await
        }
        Shape::Halt => halt(site, &definition, input).await.map(|()| 0),
        _ if role == Role::Gateway => {
            site.client.put_workflow(&definition).await?;
            let url = site.gateway_url();
            site.tending(post(url, input)).await.map(|()| 0)
        }
        _ => {
            let file = caller.write(&serde_json::to_string(&definition)?)?;
            let args = ["run", &file, "--key", "the key", "--input", &input.to_string(), "--json"].map(str::to_owned).to_vec();
            site.tending(calls(caller, args, fault)).await
        }
    }
}

/// Calls until it succeeds, armed the first time only.
async fn calls(caller: Caller, args: Vec<String>, mut fault: Option<&str>) -> anyhow::Result<u32> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut killed = 0;
    loop {
        let env: Vec<(&str, &str)> = fault.take().map(|f| ("HALTLINE_FAULT", f)).into_iter().collect();
        let told = caller.call_with(&args, &env).await?;
        match told.code {
            Some(0) => return Ok(killed),
            None => killed += 1,
            // Unavailable: repeat.
            Some(6) => tokio::time::sleep(Duration::from_millis(50)).await,
            Some(_) => anyhow::bail!("{args:?}: {told:?}"),
        }
        ensure!(killed < 3, "the client dies again and again");
    }
}

/// The same by HTTP.
async fn post(gateway: String, input: Value) -> anyhow::Result<()> {
    let http = http::client()?;
    until("the gateway answers with the outcome", Duration::from_secs(60), async || {
        let body = json!({ "workflow_id": "crash", "input": input });
        let request = http.post(format!("{gateway}/v1/executions?wait=20s")).header("idempotency-key", "the key").json(&body);
        match http::answer(request).await {
            Ok((200, _)) => Ok(Some(())),
            Ok((503, _)) | Err(_) => Ok(None),
            Ok((status, body)) => anyhow::bail!("{status}: {body}"),
        }
    })
    .await
}

/// Waits until both nodes of [`shapes::waiting`] have started.
async fn started(site: &Site, id: &str) -> anyhow::Result<()> {
    until("both nodes have started", Duration::from_secs(20), async || {
        let one = checks::seen(&site.client, id, "node_started", "one").await?;
        Ok(one.and(checks::seen(&site.client, id, "node_started", "other").await?))
    })
    .await
    .map(|_| ())
}

/// The coordinator sleeps while its nodes end and the flag is raised, so that it is the one who finds
/// out, when it wants to dispatch the order.
async fn halt(site: &mut Site, definition: &haltline_common::types::definition::Definition, input: Value) -> anyhow::Result<()> {
    let id = site.submit(definition, "the key", input).await?;
    started(site, &id).await?;
    site.process("coordinator")?.pause(true);
    until("both nodes have ended", Duration::from_secs(20), async || {
        let one = checks::seen(&site.client, &id, "node_completed", "one").await?;
        Ok(one.and(checks::seen(&site.client, &id, "node_completed", "other").await?))
    })
    .await?;
    site.client.set_flag(Level::Halt, "while the coordinator sleeps", "test").await?;
    // Long enough for its watch to be too old to trust: what it has read of the flag counts no more.
    tokio::time::sleep(haltline_common::control_watch::STALE_AFTER + Duration::from_millis(500)).await;
    site.process("coordinator")?.pause(false);
    Ok(())
}

macro_rules! crashes {
    ($($name:ident: $point:literal, $shape:ident;)*) => {
        $(#[tokio::test]
        async fn $name() -> anyhow::Result<()> {
            crash($point, Shape::$shape).await
        })*
        /// What is played, for the comparison with [`POINTS`].
        pub const PLAYED: &[&str] = &[$($point),*];
    };
}

crashes! {
    at_coordinator_create: "coordinator.create", Chain;
    at_coordinator_started: "coordinator.started", Parallel;
    at_coordinator_task: "coordinator.task", Chain;
    at_coordinator_task_between_branches: "coordinator.task:3", Parallel;
    at_coordinator_command_cancel: "coordinator.command", Cancel;
    at_coordinator_command_halt: "coordinator.command", Halt;
    at_coordinator_skipped: "coordinator.skipped", Skipping;
    at_coordinator_skipped_between: "coordinator.skipped:2", Skipping;
    at_coordinator_ended: "coordinator.ended", Chain;
    at_coordinator_final: "coordinator.final", Chain;
    at_coordinator_final_of_what_a_worker_ended: "coordinator.final", Computing;
    at_coordinator_reply: "coordinator.reply", Chain;
    at_coordinator_notify: "coordinator.notify", Chain;
    at_coordinator_checkpoint: "coordinator.checkpoint", Chain;
    at_worker_opening: "worker.opening", Chain;
    at_worker_opening_that_ends: "worker.opening", Computing;
    at_worker_started: "worker.started", Chain;
    at_worker_started_of_the_last: "worker.started:3", Chain;
    at_worker_claim: "worker.claim", Chain;
    at_worker_note: "worker.note", Chain;
    at_worker_retrying: "worker.retrying", Retrying;
    at_worker_reserved: "worker.reserved", Chain;
    at_worker_intended: "worker.intended", Chain;
    at_worker_looking: "worker.looking", Chain;
    at_worker_payload: "worker.payload", Large;
    at_worker_effect: "worker.effect", Chain;
    at_worker_effect_done: "worker.effect_done", Chain;
    at_worker_settled: "worker.settled", Chain;
    at_worker_result: "worker.result", Chain;
    at_worker_result_of_a_branch: "worker.result:2", Parallel;
    at_worker_ack: "worker.ack", Chain;
    at_worker_ack_of_all: "worker.ack", Computing;
    at_client_submit: "client.submit", Chain;
    at_client_wait: "client.wait", Chain;
    at_gateway_submit: "gateway.submit", Chain;
    at_gateway_answer: "gateway.answer", Chain;
}
