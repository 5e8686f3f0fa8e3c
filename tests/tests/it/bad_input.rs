//! What users and programs get wrong: a clear answer that names the place, and nothing changed.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use haltline_common::{js, types::Names};
use haltline_tests::{Site, http, shapes, until};
use reqwest::Method;
use serde_json::{Value, json};

use crate::COMMAND;

/// Where every stream ends: equal before and after, nothing was written.
async fn ends(site: &Site) -> anyhow::Result<BTreeMap<String, u64>> {
    let names = &site.link().names;
    let buckets = [names.executions_bucket(), names.definitions_bucket(), names.control_bucket(), names.types_bucket()];
    let streams = [names.events_stream(), names.tasks_stream()].into_iter().chain(buckets.iter().map(|b| Names::bucket_stream(b)));
    let mut found = BTreeMap::new();
    for stream in streams {
        let last = js::stream_info(site.link(), &stream).await?.state.last_seq;
        found.insert(stream, last);
    }
    Ok(found)
}

/// Definitions that cannot be, with the field and a word that the answer must name.
fn definitions() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let of = |nodes: Value| json!({ "id": "bad", "version": "1", "nodes": nodes });
    let node = |id: &str, more: Value| {
        let mut node = json!({ "id": id, "type": "static" });
        if let (Value::Object(node), Value::Object(more)) = (&mut node, more) {
            node.extend(more);
        }
        node
    };
    vec![
        ("an unknown type", of(json!([node("a", json!({ "type": "teleport" }))])), "nodes[0].type", "teleport"),
        (
            "a cycle",
            of(json!([node("first", json!({ "depends_on": ["second"] })), node("second", json!({ "depends_on": ["first"] }))])),
            "nodes[",
            "cycle",
        ),
        ("itself", of(json!([node("narcissus", json!({ "depends_on": ["narcissus"] }))])), "nodes[0].depends_on[0]", "narcissus"),
        (
            "a dangling reference",
            of(json!([node("a", json!({})), node("b", json!({ "inputs": { "x": { "node": "ghost", "output": "y" } } }))])),
            "nodes[1].inputs.x",
            "ghost",
        ),
        ("a duplicate id", of(json!([node("twin", json!({})), node("twin", json!({}))])), "nodes[1].id", "twin"),
        ("a missing parameter", of(json!([node("wait", json!({ "type": "sleep" }))])), "nodes[0].params.duration", "wait"),
        ("an unknown field", of(json!([node("odd", json!({ "tpye": "x" }))])), "nodes[0]", "odd"),
        ("an input of no shape", of(json!([node("shapeless", json!({ "inputs": { "x": 3 } }))])), "nodes[0]", "shapeless"),
        ("no nodes", of(json!([])), "nodes", "nodes"),
        ("a bad duration", of(json!([node("when", json!({ "timeout": "soon" }))])), "nodes[0]", "when"),
        ("too many attempts", of(json!([node("eager", json!({ "retry": { "attempts": 99 } }))])), "nodes[0].retry.attempts", "eager"),
        ("no version", json!({ "id": "bad", "nodes": [node("a", json!({}))] }), "definition", "version"),
    ]
}

#[tokio::test]
async fn by_http() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_gateway(None).await?;
    site.client.put_workflow(&shapes::workflow("good", json!([{ "id": "a", "type": "static" }]))?).await?;
    let (http, base) = (http::client()?, site.gateway_url());
    let before = ends(&site).await?;

    for (what, definition, field, word) in definitions() {
        let (status, body) = http::answer(http.put(format!("{base}/v1/workflows/bad")).json(&definition)).await?;
        let text = body.to_string();
        ensure!(status == 422 && body["code"] == "Invalid", "{what}: {status} {text}");
        ensure!(body["field"].as_str().is_some_and(|f| f.starts_with(field)), "{what}: field {} is not {field}: {text}", body["field"]);
        ensure!(body["detail"].as_str().is_some_and(|d| d.contains(word)), "{what}: the answer does not name {word}: {text}");
    }

    let submit = |body: Value| body.to_string();
    let big = format!(r#"{{"workflow_id":"good","input":{{"x":"{}"}}}}"#, "x".repeat(2 << 20));
    let deep = format!(r#"{{"workflow_id":"good","input":{{"x":{}1{}}}}}"#, "[".repeat(100), "]".repeat(100));
    #[rustfmt::skip]
    let cases: Vec<(&str, Method, &str, String, u16, &str)> = vec![
        ("malformed JSON", Method::POST, "/v1/executions", "{\"workflow_id\": ".into(), 400, "Invalid"),
        ("a malformed definition", Method::PUT, "/v1/workflows/bad", "{\"id\": \"bad\"".into(), 400, "Invalid"),
        ("another id than the address", Method::PUT, "/v1/workflows/bad", json!({ "id": "worse", "version": "1", "nodes": [{ "id": "a", "type": "static" }] }).to_string(), 422, "Invalid"),
        ("two megabytes", Method::POST, "/v1/executions", big.clone(), 413, "TooLarge"),
        ("a definition of two megabytes", Method::PUT, "/v1/workflows/bad", big, 413, "TooLarge"),
        ("nested too deep", Method::POST, "/v1/executions", deep, 413, "TooLarge"),
        ("no workflow named", Method::POST, "/v1/executions", submit(json!({ "input": {} })), 422, "Invalid"),
        ("an unknown field", Method::POST, "/v1/executions", submit(json!({ "workflow_id": "good", "inputs": {} })), 422, "Invalid"),
        ("an input that is no object", Method::POST, "/v1/executions", submit(json!({ "workflow_id": "good", "input": [1] })), 422, "Invalid"),
        ("a workflow that is not there", Method::POST, "/v1/executions", submit(json!({ "workflow_id": "ghost" })), 404, "UnknownWorkflow"),
        ("a version that is not there", Method::POST, "/v1/executions", submit(json!({ "workflow_id": "good", "version": "9" })), 404, "UnknownWorkflow"),
        ("a wait without a unit", Method::POST, "/v1/executions?wait=5", submit(json!({ "workflow_id": "good" })), 422, "Invalid"),
        ("a wait that is too long", Method::POST, "/v1/executions?wait=2h", submit(json!({ "workflow_id": "good" })), 422, "Invalid"),
        ("an execution that is not there", Method::GET, "/v1/executions/exec_ghost_00000000", String::new(), 404, "UnknownExecution"),
        ("events that are not there", Method::GET, "/v1/executions/exec_ghost_00000000/events", String::new(), 404, "UnknownExecution"),
        ("cancelling what is not there", Method::POST, "/v1/executions/exec_ghost_00000000/cancel", "{}".into(), 404, "UnknownExecution"),
        ("reading a workflow that is not there", Method::GET, "/v1/workflows/ghost", String::new(), 404, "UnknownWorkflow"),
        ("an invalid cursor", Method::GET, "/v1/executions/exec_ghost_00000000/events?after=yesterday", String::new(), 400, "Invalid"),
        ("an unknown query parameter", Method::GET, "/v1/executions?limits=3", String::new(), 400, "Invalid"),
        ("a limit out of range", Method::GET, "/v1/executions?limit=0", String::new(), 422, "Invalid"),
        ("an unknown status", Method::GET, "/v1/executions?status=fine", String::new(), 422, "Invalid"),
        ("a wrong method", Method::DELETE, "/v1/executions", String::new(), 405, "MethodNotAllowed"),
        ("no such address", Method::GET, "/v2/executions", String::new(), 404, "NotFound"),
        ("a halt without a reason", Method::PUT, "/v1/control/global", json!({ "state": "halt", "reason": " " }).to_string(), 422, "Invalid"),
        ("an unknown level", Method::PUT, "/v1/control/global", json!({ "state": "panic", "reason": "x" }).to_string(), 422, "Invalid"),
    ];
    let mut wrong = Vec::new();
    for (what, method, path, body, status, code) in cases {
        let large = body.len() > 1 << 20;
        let request = http.request(method, format!("{base}{path}")).header("content-type", "application/json").body(body);
        let (got, answer) = until(what, Duration::from_secs(10), async || {
            match http::answer(request.try_clone().context("a body that can be sent again")?).await {
                Ok(answer) => Ok(Some(answer)),
                // Refused before all of it was read: a client that still sends may lose the answer.
                Err(_) if large => Ok(None),
                Err(e) => Err(e),
            }
        })
        .await
        .with_context(|| what.to_owned())?;
        if got != status || answer["code"] != code || answer["detail"].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("{what}: wanted {status} {code}, got {got} {answer}"));
        }
    }
    let after = ends(&site).await?;
    if before != after {
        wrong.push(format!("something was written: {before:?} -> {after:?}"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    site.done();
    Ok(())
}

#[tokio::test]
async fn by_the_command_line() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    site.client.put_workflow(&shapes::workflow("good", json!([{ "id": "a", "type": "static" }]))?).await?;
    let caller = site.caller();
    let before = ends(&site).await?;
    let mut wrong = Vec::new();
    for (what, definition, field, word) in definitions() {
        let file = caller.write(&definition.to_string())?;
        for verb in [&["workflows", "put"][..], &["workflows", "validate"], &["run"]] {
            let told = caller.call(&[verb, &[&file, "--json"]].concat()).await?;
            let error = &told.json()?["error"];
            let named = error["field"].as_str().is_some_and(|f| f.starts_with(field))
                && error["message"].as_str().is_some_and(|m| m.contains(word));
            if told.code != Some(2) || !named {
                wrong.push(format!("{what}, {verb:?}: {told:?}"));
            }
        }
    }
    let malformed = caller.write("{\"id\": \"bad\"")?;
    let yaml = caller.write("id: bad\nnodes: [a, {")?;
    let big = caller.write(&format!(r#"{{"id":"bad","description":"{}"}}"#, "x".repeat(2 << 20)))?;
    #[rustfmt::skip]
    let cases: Vec<(&str, Vec<&str>, i32, &str)> = vec![
        ("malformed JSON", vec!["workflows", "put", &malformed], 2, "malformed JSON"),
        ("malformed YAML", vec!["workflows", "put", &yaml], 2, "malformed YAML"),
        ("two megabytes", vec!["workflows", "put", &big], 2, "bytes"),
        ("no such file", vec!["run", "/no/such/file.json"], 2, "/no/such/file.json"),
        ("an input that is no JSON", vec!["submit", "good", "--input", "{"], 2, "input"),
        ("an input that is no object", vec!["submit", "good", "--input", "[1]"], 2, "input"),
        ("a key of nothing", vec!["submit", "good", "--key", ""], 2, "key"),
        ("an unknown workflow", vec!["submit", "ghost"], 4, "ghost"),
        ("an unknown version", vec!["submit", "good", "--version", "9"], 4, "9"),
        ("an unknown execution", vec!["executions", "show", "exec_ghost_00000000"], 4, "exec_ghost_00000000"),
        ("no history", vec!["executions", "history", "exec_ghost_00000000"], 4, "exec_ghost_00000000"),
        ("cancelling what is not there", vec!["executions", "cancel", "exec_ghost_00000000"], 4, "exec_ghost_00000000"),
        ("an unknown flag", vec!["run", "--fast"], 2, "--fast"),
        ("an unknown command", vec!["fly"], 2, "fly"),
        ("a halt without a reason", vec!["halt"], 2, "--reason"),
        ("a bad duration", vec!["run", "x.json", "--wait", "soon"], 2, "soon"),
        ("a worker of unknown types", vec!["worker", "--types", "teleport"], 1, "teleport"),
        ("a port that is none", vec!["gateway", "--port", "99999"], 2, "99999"),
        ("a settings file that is not there", vec!["status", "--config", "/no/such/file.toml"], 2, "/no/such/file.toml"),
    ];
    for (what, args, code, word) in cases {
        let told = caller.call(&args).await?;
        if told.code != Some(code) || !told.err.contains(word) || told.err.contains("panicked") {
            wrong.push(format!("{what}: wanted {code} naming `{word}`, got {told:?}"));
        }
    }
    let after = ends(&site).await?;
    if before != after {
        wrong.push(format!("something was written: {before:?} -> {after:?}"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_version_never_changes() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let caller = site.caller();
    let of = |text: &str| {
        json!({ "id": "w", "version": "1", "nodes": [{ "id": "a", "type": "log", "params": { "message": text } }] }).to_string()
    };
    let (one, other) = (caller.write(&of("one"))?, caller.write(&of("other"))?);
    ensure!(caller.call(&["workflows", "put", &one]).await?.code == Some(0), "the first");
    ensure!(caller.call(&["workflows", "put", &one]).await?.code == Some(0), "the same again");
    let before = ends(&site).await?;
    let told = caller.call(&["workflows", "put", &other]).await?;
    ensure!(told.code == Some(5) && told.err.contains("immutable"), "{told:?}");
    let told = caller.call(&["run", &other]).await?;
    ensure!(told.code == Some(5), "{told:?}");
    // A refused put is a refused compare-and-swap: it does not even use up a sequence.
    ensure!(ends(&site).await? == before, "something was written");
    site.done();
    Ok(())
}
