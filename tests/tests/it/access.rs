//! Who gets in where: every operation of the document, with every role, from every page. A route without
//! a decision here fails, and so does one that the gateway decides otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use haltline_common::{
    clock,
    types::access::{Role, Scopes},
};
use haltline_tests::{Site, http, shapes, until};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};

use crate::{
    COMMAND,
    fuzz::{open, ws},
};

/// Who may do what, decided here and not read from the gateway.
const DECISIONS: &[(&str, &str)] = &[
    ("live", "nothing"),
    ("ready", "nothing"),
    ("login", "nothing"),
    ("logout", "nothing"),
    ("health", "viewer"),
    ("status", "viewer"),
    ("metrics", "viewer"),
    ("whoAmI", "viewer"),
    ("listExecutions", "viewer"),
    ("countExecutions", "viewer"),
    ("readExecution", "viewer"),
    ("readEvents", "viewer"),
    ("readNodes", "viewer"),
    ("readPayload", "viewer"),
    ("listWorkflows", "viewer"),
    ("readWorkflow", "viewer"),
    ("listVersions", "viewer"),
    ("latestExecution", "viewer"),
    ("listControl", "viewer"),
    ("readControl", "viewer"),
    ("listWorkers", "viewer"),
    ("listNodeTypes", "viewer"),
    ("submitExecution", "operator"),
    ("cancelExecution", "operator"),
    ("cancelExecutions", "operator"),
    ("resolveNode", "operator"),
    ("putWorkflow", "operator"),
    ("raiseControl", "operator"),
    // Lowering by it takes an admin: `a_resume_takes_an_admin_and_the_revision`.
    ("setControl", "operator"),
    ("lowerControl", "admin"),
    ("readRisk", "viewer"),
    ("sendHeartbeat", "operator"),
    ("disarmHeartbeat", "admin"),
    ("putRiskRule", "admin"),
    ("deleteRiskRule", "admin"),
    ("resetReservations", "admin"),
    ("listTokens", "admin"),
    ("createToken", "admin"),
    ("revokeToken", "admin"),
    ("readAudit", "admin"),
    ("readControlAudit", "admin"),
];

/// What is served and in no document: pages, and what carries events.
const PAGES: &[&str] = &["/", "/docs", "/v1/openapi.json", "/client/haltline.js"];

struct Operation {
    method: Method,
    path: String,
    id: String,
    needs: String,
}

/// Every operation of the document.
async fn operations(base: &str) -> anyhow::Result<Vec<Operation>> {
    let (status, document) = http::answer(http::client()?.get(format!("{base}/v1/openapi.json"))).await?;
    ensure!(status == 200 && document["openapi"] == "3.1.0", "{status} {document}");
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().context("no paths")? {
        for (method, operation) in item.as_object().context("no methods")? {
            let text = |name: &str| operation[name].as_str().unwrap_or_default().to_owned();
            found.push(Operation {
                method: method.to_ascii_uppercase().parse()?,
                path: path.clone(),
                id: text("operationId"),
                needs: text("x-haltline-needs"),
            });
        }
    }
    Ok(found)
}

fn rank(needs: &str) -> usize {
    ["nothing", "viewer", "operator", "admin"].iter().position(|n| *n == needs).unwrap_or(usize::MAX)
}

/// A site whose gateway wants tokens, one of each role, and one that covers bot `b1` alone.
async fn guarded(flags: &[&str]) -> anyhow::Result<(Site, BTreeMap<&'static str, String>)> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_gateway_with(&[&["--auth", "required"], flags].concat()).await?;
    let mut tokens = BTreeMap::new();
    for role in Role::ALL {
        let made = site.client.create_token(role.as_str(), role, Scopes::default(), None, "test").await?;
        tokens.insert(role.as_str(), made.0);
    }
    let scopes = Scopes { bots: vec!["b1".into()], ..Scopes::default() };
    tokens.insert("b1", site.client.create_token("of b1", Role::Operator, scopes, None, "test").await?.0);
    // Gateways know of it a moment later.
    let (http, url) = (http::client()?, format!("{}/v1/me", site.gateway_url()));
    until("the last token is known", Duration::from_secs(10), async || {
        Ok(http.get(&url).bearer_auth(&tokens["b1"]).send().await?.status().is_success().then_some(()))
    })
    .await?;
    Ok((site, tokens))
}

#[tokio::test]
async fn role_by_endpoint_by_origin() -> anyhow::Result<()> {
    let listed = "https://desk.example";
    let (site, tokens) = guarded(&["--origin", listed]).await?;
    let (http, base) = (http::client()?, site.gateway_url());
    let operations = operations(&base).await?;
    let mut decided: BTreeMap<&str, &str> = DECISIONS.iter().copied().collect();
    ensure!(decided.len() == DECISIONS.len(), "decided twice");
    let origins = [None, Some(base.as_str()), Some(listed), Some("http://evil.example"), Some("null")];
    let mut wrong = Vec::new();
    for o in &operations {
        let Some(needs) = decided.remove(o.id.as_str()) else {
            wrong.push(format!("{} {} ({}) has no decision", o.method, o.path, o.id));
            continue;
        };
        if needs != o.needs {
            wrong.push(format!("{}: the document says {}, decided is {needs}", o.id, o.needs));
        }
        let url = format!(
            "{base}{}",
            o.path.replace("{id}", "nobody").replace("{node}", "n").replace("{scope}", "bot:nobody").replace("{name}", "none")
        );
        let safe = o.method == Method::GET;
        for origin in origins {
            for caller in ["nobody", "viewer", "operator", "admin"] {
                let mut request = http.request(o.method.clone(), &url);
                if let Some(token) = tokens.get(caller) {
                    request = request.bearer_auth(token);
                }
                if let Some(origin) = origin {
                    request = request.header(header::ORIGIN, origin);
                }
                if !safe {
                    request = request.header(header::CONTENT_TYPE, "application/json").body("{}");
                }
                let (status, answer) = answered(request).await?;
                let foreign = origin.is_some_and(|o| o != base && o != listed);
                let have = rank(caller).min(3) * usize::from(caller != "nobody");
                let want = match () {
                    () if foreign && !safe => Some((403, "ForbiddenOrigin")),
                    () if needs != "nothing" && caller == "nobody" => Some((401, "Unauthenticated")),
                    () if have < rank(needs) => Some((403, "Forbidden")),
                    () => None,
                };
                let good = match want {
                    Some((s, code)) => status == s && answer["code"] == code,
                    // Whatever it is, it was let in; logging in with `{}` is what is not.
                    None => !matches!(status, 401 | 403 | 429) && status != 500,
                };
                if !good {
                    wrong.push(format!("{} as {caller} from {origin:?}: wanted {want:?}, got {status} {answer}", o.id));
                }
            }
        }
    }
    wrong.extend(decided.keys().map(|id| format!("{id} is decided and not there")));
    for page in PAGES {
        let status = http.get(format!("{base}{page}")).send().await?.status();
        if status != StatusCode::OK {
            wrong.push(format!("{page}: {status}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    site.done();
    Ok(())
}

/// Status and JSON; what is no JSON is null.
async fn answered(request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    Ok((status, serde_json::from_str(&response.text().await?).unwrap_or_default()))
}

#[tokio::test]
async fn a_cookie_counts_from_our_own_pages_alone() -> anyhow::Result<()> {
    let (site, tokens) = guarded(&[]).await?;
    let (http, base) = (http::client()?, site.gateway_url());
    let login =
        |origin: &str| http.post(format!("{base}/v1/login")).header(header::ORIGIN, origin).json(&json!({ "token": tokens["operator"] }));
    ensure!(login("http://evil.example").send().await?.status() == 403, "a login from elsewhere");
    let response = login(&base).send().await?;
    let cookie = response.headers()[header::SET_COOKIE].to_str()?.to_owned();
    for part in ["haltline_session=hlt_", "; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age="] {
        ensure!(cookie.contains(part), "{part}: {cookie}");
    }
    let sent = cookie.split(';').next().unwrap_or_default();
    let cancel = |page: &[(&'static str, &str)]| {
        let mut request =
            http.post(format!("{base}/v1/executions/cancel")).header(header::COOKIE, sent).json(&json!({ "all": true, "reason": "x" }));
        for (name, value) in page {
            request = request.header(*name, *value);
        }
        answered(request)
    };
    ensure!(cancel(&[("origin", &base)]).await?.0 == 200, "from our own page");
    ensure!(cancel(&[("sec-fetch-site", "same-origin")]).await?.0 == 200, "from our own page, said otherwise");
    for elsewhere in [&[][..], &[("sec-fetch-site", "cross-site")], &[("sec-fetch-site", "same-site")], &[("sec-fetch-site", "none")]] {
        let (status, answer) = cancel(elsewhere).await?;
        ensure!(status == 403 && answer["code"] == "CrossSite", "{elsewhere:?}: {status} {answer}");
    }
    let me = http.get(format!("{base}/v1/me")).header(header::COOKIE, sent).send().await?;
    ensure!(me.status() == 200, "reading");
    let out = http.post(format!("{base}/v1/logout")).header(header::ORIGIN, &base).send().await?;
    ensure!(out.headers()[header::SET_COOKIE].to_str()?.contains("Max-Age=0"), "{out:?}");
    site.done();
    Ok(())
}

/// An execution of `bot`.
async fn ran(site: &Site, bot: &str) -> anyhow::Result<String> {
    let definition = shapes::workflow("w", json!([{ "id": "a", "type": "static", "params": { "outputs": { "x": "1" } } }]))?;
    site.client.put_workflow(&definition).await?;
    let outcome = site.client.execute(&definition, Value::Null, Some(bot)).await?;
    Ok(outcome.execution_id.to_string())
}

#[tokio::test]
async fn a_scope_hides_what_it_does_not_cover_everywhere() -> anyhow::Result<()> {
    let (site, tokens) = guarded(&[]).await?;
    let (http, base) = (http::client()?, site.gateway_url());
    let (own, hidden) = (ran(&site, "b1").await?, ran(&site, "b2").await?);
    let as_b1 = |request: reqwest::RequestBuilder| answered(request.bearer_auth(&tokens["b1"]));
    until("both are listed", Duration::from_secs(10), async || {
        let (_, all) = answered(http.get(format!("{base}/v1/executions")).bearer_auth(&tokens["viewer"])).await?;
        Ok((all["executions"].as_array().map(Vec::len) == Some(2)).then_some(()))
    })
    .await?;
    let mut wrong = Vec::new();
    for query in ["", "?bot_id=b2", "?bot_id=b1&bot_id=b2", "?id=exec_w", "?status=completed&sort=started_at"] {
        let (status, list) = as_b1(http.get(format!("{base}/v1/executions{query}"))).await?;
        let ids: Vec<&str> = list["executions"].as_array().into_iter().flatten().filter_map(|e| e["execution_id"].as_str()).collect();
        let want: &[&str] = if query == "?bot_id=b2" { &[] } else { &[own.as_str()] };
        if status != 200 || ids != want {
            wrong.push(format!("{query}: {status} {list}"));
        }
    }
    // Every address of an execution that the document has.
    for o in operations(&base).await?.iter().filter(|o| o.path.starts_with("/v1/executions/{id}")) {
        let body = match o.id.as_str() {
            "resolveNode" => json!({ "resolution": "fail" }),
            _ => json!({}),
        };
        let query = if o.id == "readPayload" { "?part=results" } else { "" };
        for (id, known) in [(&own, true), (&hidden, false)] {
            let url = format!("{base}{}{query}", o.path.replace("{id}", id).replace("{node}", "a"));
            let (status, answer) = as_b1(http.request(o.method.clone(), &url).json(&body)).await?;
            // A known one that has ended cannot be cancelled or resolved, which is no secret.
            if known == (status == 404) {
                wrong.push(format!("{} of {id}: {status} {answer}", o.id));
            }
        }
    }
    for (what, method, path, body, want) in [
        ("everything's counts", Method::GET, "/v1/executions/counts", Value::Null, 403),
        ("metrics", Method::GET, "/metrics", Value::Null, 403),
        ("status", Method::GET, "/status", Value::Null, 403),
        ("a halt of everything", Method::POST, "/v1/control/global/raise", json!({ "state": "halt", "reason": "x" }), 403),
        ("a halt of another bot", Method::POST, "/v1/control/bot:b2/raise", json!({ "state": "halt", "reason": "x" }), 403),
        ("a run of another bot", Method::POST, "/v1/executions", json!({ "workflow_id": "w", "bot_id": "b2" }), 403),
        ("a run of no bot", Method::POST, "/v1/executions", json!({ "workflow_id": "w" }), 403),
        (
            "a definition for everyone",
            Method::PUT,
            "/v1/workflows/w",
            json!({ "id": "w", "version": "2", "nodes": [{ "id": "a", "type": "static" }] }),
            403,
        ),
        ("a halt of its own bot", Method::POST, "/v1/control/bot:b1/raise", json!({ "state": "alert", "reason": "x" }), 200),
        ("a run of its own bot", Method::POST, "/v1/executions", json!({ "workflow_id": "w", "bot_id": "b1" }), 202),
    ] {
        let (status, answer) = as_b1(http.request(method, format!("{base}{path}")).json(&body)).await?;
        if status != want {
            wrong.push(format!("{what}: wanted {want}, got {status} {answer}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    site.done();
    Ok(())
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A socket, as a page of `origin` opens it.
async fn socket(site: &Site, origin: Option<&str>) -> anyhow::Result<Result<Socket, u16>> {
    let mut request = format!("{}/v1/ws", site.gateway_url().replacen("http", "ws", 1)).into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", "haltline.v1.json".parse()?);
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse()?);
    }
    match connect_async(request).await {
        Ok((socket, _)) => Ok(Ok(socket)),
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Ok(Err(answer.status().as_u16())),
        Err(e) => Err(e.into()),
    }
}

/// The next frame, or the code of its end.
async fn frame(socket: &mut Socket) -> anyhow::Result<Result<Value, u16>> {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.context("no frame")?;
        match message {
            Some(Ok(Message::Text(text))) => return Ok(Ok(serde_json::from_str(&text)?)),
            Some(Ok(Message::Close(frame))) => return Ok(Err(frame.map_or(0, |f| CloseCode::into(f.code)))),
            Some(Ok(_)) => {}
            Some(Err(e)) => return Err(e.into()),
            None => bail!("the connection ended without a word"),
        }
    }
}

async fn say(socket: &mut Socket, frame: Value) -> anyhow::Result<()> {
    Ok(socket.send(Message::text(frame.to_string())).await?)
}

#[tokio::test]
async fn authenticate_with_nothing_lets_nobody_in() -> anyhow::Result<()> {
    let (site, tokens) = guarded(&[]).await?;
    for hello in [
        json!({ "t": "hello", "v": 1 }),
        json!({ "t": "hello", "v": 1, "token": "" }),
        json!({ "t": "hello", "v": 1, "token": null }),
        json!({ "t": "hello", "v": 1, "token": "hlt_000000000000_00" }),
        json!({ "t": "hello", "v": 1, "token": "eyJhbGciOiJub25lIn0.e30." }),
    ] {
        let mut s = socket(&site, None).await?.map_err(|code| anyhow::anyhow!("{code}"))?;
        say(&mut s, hello.clone()).await?;
        loop {
            match frame(&mut s).await? {
                Ok(f) if matches!(f["t"].as_str(), Some("bye" | "err")) => {}
                Ok(f) => bail!("{hello} was answered with {f}"),
                Err(code) => {
                    ensure!(code == 4501, "{hello}: {code}");
                    break;
                }
            }
        }
    }
    // A page of elsewhere does not even get a socket, whatever token it has.
    ensure!(socket(&site, Some("http://evil.example")).await?.err() == Some(403), "a foreign page");
    let mut s = socket(&site, Some(&site.gateway_url())).await?.map_err(|code| anyhow::anyhow!("{code}"))?;
    say(&mut s, json!({ "t": "hello", "v": 1, "token": tokens["viewer"] })).await?;
    ensure!(frame(&mut s).await?.is_ok_and(|f| f["t"] == "welcome" && f["role"] == "viewer"), "a good one");
    site.done();
    Ok(())
}

#[tokio::test]
async fn request_state_and_metrics_do_not_skip_auth() -> anyhow::Result<()> {
    let (site, tokens) = guarded(&[]).await?;
    let (http, base) = (http::client()?, site.gateway_url());
    let (own, hidden) = (ran(&site, "b1").await?, ran(&site, "b2").await?);
    for path in
        ["/metrics", "/health", "/status", "/v1/executions", &format!("/v1/executions/{own}"), &format!("/v1/executions/{own}/nodes")]
    {
        ensure!(http.get(format!("{base}{path}")).send().await?.status() == 401, "{path}");
    }
    // The state of the replaced server's `request_state` is a snapshot here: of live, replay and snapshot alike
    // nothing is seen that the token does not cover.
    for (what, from) in
        [("snapshot", json!({ "snapshot": true })), ("replay", json!({ "last": 1000 })), ("replay by sequence", json!({ "seq": 1 }))]
    {
        let mut s = socket(&site, None).await?.map_err(|code| anyhow::anyhow!("{code}"))?;
        say(&mut s, json!({ "t": "hello", "v": 1, "token": tokens["b1"] })).await?;
        let filter = json!({ "bot": ["b1", "b2"] });
        say(&mut s, json!({ "t": "sub", "rid": 1, "id": "s", "filter": filter, "from": from, "if_gap": "continue" })).await?;
        let (mut seen, mut subscribed) = (String::new(), false);
        loop {
            let f = frame(&mut s).await?.map_err(|code| anyhow::anyhow!("{what}: closed with {code}"))?;
            subscribed |= f["t"] == "subd";
            ensure!(f["t"] != "err", "{what}: {f}");
            seen.push_str(&f.to_string());
            if f["t"] == "live" {
                break;
            }
        }
        ensure!(subscribed && seen.contains(&own) && !seen.contains(&hidden), "{what}: {seen}");
        // Live: one of each, and the next frame about an execution is of the one that is covered.
        let (later_hidden, later) = (ran(&site, "b2").await?, ran(&site, "b1").await?);
        let mut seen = String::new();
        while !seen.contains("execution_completed") {
            seen.push_str(&frame(&mut s).await?.map_err(|code| anyhow::anyhow!("{what}: closed with {code}"))?.to_string());
        }
        ensure!(seen.contains(&later) && !seen.contains(&later_hidden), "{what}, live: {seen}");
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_revoked_token_ends_its_sockets() -> anyhow::Result<()> {
    let (site, _) = guarded(&[]).await?;
    let caller = site.caller();
    let made = caller.call(&["tokens", "create", "leaver", "--role", "viewer", "--json"]).await?.json()?;
    let (token, id) = (made["token"].as_str().context("no token")?.to_owned(), made["id"].as_str().context("no id")?.to_owned());
    let (http, base) = (http::client()?, site.gateway_url());
    until("the token is known", Duration::from_secs(10), async || {
        Ok(http.get(format!("{base}/v1/me")).bearer_auth(&token).send().await?.status().is_success().then_some(()))
    })
    .await?;
    let mut s = socket(&site, None).await?.map_err(|code| anyhow::anyhow!("{code}"))?;
    say(&mut s, json!({ "t": "hello", "v": 1, "token": token })).await?;
    ensure!(frame(&mut s).await?.is_ok_and(|f| f["t"] == "welcome"), "no welcome");
    let listed = caller.call(&["tokens", "list"]).await?;
    ensure!(listed.out.contains(&id) && listed.out.contains("leaver") && !listed.out.contains(&token), "{listed:?}");
    let began = clock::now();
    ensure!(caller.call(&["tokens", "revoke", &id]).await?.code == Some(0), "revoke");
    let code = loop {
        if let Err(code) = frame(&mut s).await? {
            break code;
        }
    };
    ensure!(code == 4501, "{code}");
    ensure!(clock::now().millis_since(began) < 5000, "it took {} ms", clock::now().millis_since(began));
    ensure!(http.get(format!("{base}/v1/me")).bearer_auth(&token).send().await?.status() == 401, "still let in");
    site.done();
    Ok(())
}

#[tokio::test]
async fn cors_is_not_open_to_all() -> anyhow::Result<()> {
    let (site, _) = guarded(&["--origin", "https://desk.example"]).await?;
    let (http, base) = (http::client()?, site.gateway_url());
    for (origin, allowed) in [
        ("https://desk.example", true),
        ("https://desk.example.evil.example", false),
        ("http://desk.example", false),
        ("https://evil.example", false),
        ("null", false),
    ] {
        let asked = http
            .request(Method::OPTIONS, format!("{base}/v1/executions"))
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .send()
            .await?;
        let told = asked.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).and_then(|v| v.to_str().ok());
        ensure!(told == allowed.then_some(origin), "{origin}: {told:?}");
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn health_stays_200_during_a_halt() -> anyhow::Result<()> {
    let (site, tokens) = guarded(&[]).await?;
    let (http, base) = (http::client()?, site.gateway_url());
    let raise = http.post(format!("{base}/v1/control/global/raise")).bearer_auth(&tokens["operator"]);
    let (status, flag) = answered(raise.json(&json!({ "state": "halt", "reason": "drill", "by": "somebody else" }))).await?;
    ensure!(status == 200 && flag["state"] == "halt" && flag["by"] == "operator" && flag["verified"] == true, "{status} {flag}");
    for path in ["/livez", "/readyz"] {
        ensure!(http.get(format!("{base}{path}")).send().await?.status() == 200, "{path}");
    }
    let health = until("the gateway sees the halt", Duration::from_secs(10), async || {
        let (status, health) = answered(http.get(format!("{base}/health")).bearer_auth(&tokens["viewer"])).await?;
        ensure!(status == 200, "{status} {health}");
        Ok((health["control"]["state"] == "halt").then_some(health))
    })
    .await?;
    ensure!(health["status"] == "ok" && health["gate"] == "halted", "{health}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_resume_takes_an_admin_and_the_revision() -> anyhow::Result<()> {
    let (site, tokens) = guarded(&[]).await?;
    let (http, base) = (http::client()?, site.gateway_url());
    let post = |who: &str, path: &str, body: Value| http.post(format!("{base}/v1/control/{path}")).bearer_auth(&tokens[who]).json(&body);
    let (_, flag) = answered(post("operator", "bot:b1/raise", json!({ "state": "halt", "reason": "x" }))).await?;
    let revision = flag["revision"].as_u64().context("no revision")?;
    let put =
        http.put(format!("{base}/v1/control/bot:b1")).bearer_auth(&tokens["operator"]).json(&json!({ "state": "normal", "reason": "x" }));
    ensure!(answered(put).await?.0 == 403, "an operator resumes by the way of scripts");
    let lower = |who: &str, seen: Option<u64>| {
        let request = post(who, "bot:b1/lower", json!({ "reason": "checked" }));
        answered(match seen {
            Some(seen) => request.header(header::IF_MATCH, format!("\"{seen}\"")),
            None => request,
        })
    };
    ensure!(lower("operator", Some(revision)).await?.0 == 403, "an operator resumes");
    ensure!(lower("admin", None).await?.0 == 428, "without the revision");
    ensure!(lower("admin", Some(revision + 7)).await?.0 == 412, "with another revision");
    let (status, flag) = lower("admin", Some(revision)).await?;
    ensure!(status == 200 && flag["state"] == "normal" && flag["scope"] == "bot:b1", "{status} {flag}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn refusals_and_changes_are_on_record() -> anyhow::Result<()> {
    let (site, tokens) = guarded(&[]).await?;
    let (http, base) = (http::client()?, site.gateway_url());
    http.get(format!("{base}/v1/executions")).bearer_auth("hlt_000000000000_nothing").send().await?;
    http.post(format!("{base}/v1/control/global/raise"))
        .bearer_auth(&tokens["viewer"])
        .json(&json!({ "state": "halt", "reason": "x" }))
        .send()
        .await?;
    http.post(format!("{base}/v1/control/global/raise"))
        .bearer_auth(&tokens["operator"])
        .json(&json!({ "state": "alert", "reason": "look closer" }))
        .send()
        .await?;
    let entries = until("three entries", Duration::from_secs(10), async || {
        let (status, page) = answered(http.get(format!("{base}/v1/audit?limit=50")).bearer_auth(&tokens["admin"])).await?;
        ensure!(status == 200, "{status} {page}");
        let entries = page["entries"].as_array().cloned().unwrap_or_default();
        Ok((entries.len() >= 3).then_some(entries))
    })
    .await?;
    let find = |action: &str, outcome: &str| {
        entries.iter().find(|e| e["action"] == action && e["outcome"] == outcome).cloned().unwrap_or_default()
    };
    let unknown = find("listExecutions", "refused");
    ensure!(unknown["status"] == 401 && unknown["address"] == "127.0.0.1" && unknown["by"].is_null(), "{unknown}");
    let forbidden = find("raiseControl", "refused");
    ensure!(forbidden["status"] == 403 && forbidden["by"] == "viewer" && forbidden["role"] == "viewer", "{forbidden}");
    let done = find("raiseControl", "done");
    ensure!(done["by"] == "operator" && done["verified"] == true && done["reason"] == "look closer", "{done}");
    ensure!(done["before"]["state"] == "normal" && done["after"]["state"] == "alert", "{done}");

    // The flag's own record has it too, in a chain.
    let entries = until("the flag's record", Duration::from_secs(10), async || {
        let (status, page) = answered(http.get(format!("{base}/v1/audit/control?limit=2")).bearer_auth(&tokens["admin"])).await?;
        ensure!(status == 200, "{status} {page}");
        let entries = page["entries"].as_array().cloned().unwrap_or_default();
        Ok((entries.first().is_some_and(|e| e["state"] == "alert")).then_some(entries))
    })
    .await?;
    ensure!(entries.len() == 2, "{entries:?}");
    let raised = &entries[0];
    ensure!(raised["happened"] == "changed" && raised["by"] == "operator" && raised["reason"] == "look closer", "{raised}");
    ensure!(raised["verified"] == true && raised["scope"] == "global" && raised["prev"] == entries[1]["digest"], "{entries:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn production_does_not_start_open() -> anyhow::Result<()> {
    let site = Site::bare(COMMAND).await?;
    let caller = site.caller();
    for (args, word) in [
        (&["gateway", "--env", "production", "--auth", "open"][..], "insecure_without_auth"),
        (&["gateway", "--host", "0.0.0.0"], "insecure_without_auth"),
        (&["gateway", "--host", "0.0.0.0", "--env", "production"], "insecure_without_tls"),
        (&["gateway", "--tls-cert", "/no/such/cert.pem"], "gateway.tls"),
    ] {
        let told = caller.call(args).await?;
        ensure!(told.code == Some(2) && told.err.contains(word), "{args:?}: {told:?}");
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn flags_of_other_bots_do_not_exist_for_a_token_of_one() -> anyhow::Result<()> {
    let (site, tokens) = guarded(&[]).await?;
    let (http, base) = (http::client()?, site.gateway_url());
    let raise = async |scope: &str| -> anyhow::Result<()> {
        let request = http.post(format!("{base}/v1/control/{scope}/raise")).bearer_auth(&tokens["operator"]);
        let (status, flag) = answered(request.json(&json!({ "state": "halt", "reason": "theirs" }))).await?;
        ensure!(status == 200, "{scope}: {status} {flag}");
        Ok(())
    };
    for scope in ["bot:b2", "bot:b1", "venue:kraken", "workflow:w"] {
        raise(scope).await?;
    }
    let scopes = |flags: &Value| {
        flags.as_array().into_iter().flatten().filter_map(|f| f["scope"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    let theirs: BTreeSet<String> = ["bot:b1", "global", "venue:kraken", "workflow:w"].map(str::to_owned).into();
    until("the gateway has all flags", Duration::from_secs(10), async || {
        let (_, all) = answered(http.get(format!("{base}/v1/control")).bearer_auth(&tokens["viewer"])).await?;
        Ok(scopes(&all["scopes"]).contains("bot:b2").then_some(()))
    })
    .await?;
    let (status, own) = answered(http.get(format!("{base}/v1/control")).bearer_auth(&tokens["b1"])).await?;
    ensure!(status == 200 && scopes(&own["scopes"]) == theirs, "{status} {own}");
    for (scope, wanted) in [("bot:b2", 403), ("bot:b1", 200), ("global", 200)] {
        let (status, _) = answered(http.get(format!("{base}/v1/control/{scope}")).bearer_auth(&tokens["b1"])).await?;
        ensure!(status == wanted, "{scope}: {status}");
    }

    // On the socket: in the welcome, and as changes come.
    let mut socket = open(&format!("{}/v1/ws", ws(&site)), Some("haltline.v1.json")).await?;
    socket.send(Message::Text(json!({ "t": "hello", "v": 1, "token": tokens["b1"] }).to_string().into())).await?;
    let mut next = async || -> anyhow::Result<Value> {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await?.context("closed")??;
            if let Message::Text(text) = message {
                return Ok(serde_json::from_str(&text)?);
            }
        }
    };
    let welcome = next().await?;
    let told: BTreeSet<String> = scopes(&welcome["scoped"]).into_iter().chain(["global".to_owned()]).collect();
    ensure!(welcome["t"] == "welcome" && told == theirs, "{welcome}");
    raise("bot:b3").await?;
    raise("strategy:s1").await?;
    // Those from before may be told again, with who has confirmed them.
    loop {
        let frame = next().await?;
        ensure!(frame["t"] == "halt" && frame["scope"] != "bot:b3" && frame["scope"] != "bot:b2", "not theirs to know: {frame}");
        if frame["scope"] == "strategy:s1" {
            break;
        }
    }
    site.done();
    Ok(())
}
