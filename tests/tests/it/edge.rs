//! The edge of the gateway: TLS, what comes too slowly, lists that survive.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use haltline_common::{clock, types::SmolStr};
use haltline_tests::{Site, checks, http, shapes, until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::COMMAND;

/// A certificate of its own for `localhost`, written to both files; the certificate.
fn certificate(cert: &Path, key: &Path) -> anyhow::Result<reqwest::Certificate> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let pem = made.cert.pem();
    std::fs::write(key, made.signing_key.serialize_pem())?;
    std::fs::write(cert, &pem)?;
    Ok(reqwest::Certificate::from_pem(pem.as_bytes())?)
}

fn trusting(certificate: &reqwest::Certificate) -> anyhow::Result<reqwest::Client> {
    http::client()?; // installs the provider
    Ok(reqwest::Client::builder()
        .tls_certs_only([certificate.clone()])
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(10))
        .build()?)
}

#[tokio::test]
async fn tls_with_a_certificate_that_is_renewed() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    let (cert, key) = (site.folder().join("cert.pem"), site.folder().join("key.pem"));
    let old = certificate(&cert, &key)?;
    let (cert_name, key_name) = (cert.to_string_lossy().into_owned(), key.to_string_lossy().into_owned());
    let port = site.gateway_url().rsplit(':').next().unwrap_or_default().to_owned();
    site.spawn("gateway", &["gateway", "--port", &port, "--tls-cert", &cert_name, "--tls-key", &key_name], None)?;
    let url = format!("https://localhost:{port}/readyz");
    let answers = async |certificate: &reqwest::Certificate| -> anyhow::Result<Option<()>> {
        Ok(trusting(certificate)?.get(&url).send().await.is_ok_and(|r| r.status().is_success()).then_some(()))
    };
    until("it answers over TLS", Duration::from_secs(30), async || answers(&old).await).await?;
    let plain = reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await;
    ensure!(!plain.is_ok_and(|r| r.status().is_success()), "it answers without TLS");
    // Half-written files leave what was there.
    std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\nAAAA")?;
    ensure!(answers(&old).await?.is_some(), "a broken file");
    let new = certificate(&cert, &key)?;
    until("the new certificate counts", Duration::from_secs(30), async || answers(&new).await).await?;
    ensure!(answers(&old).await?.is_none(), "the old one still counts");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_last() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_gateway_with(&["--clients-max", "1"]).await?;
    let address = site.gateway_url().replacen("http://", "", 1);
    let mut slow = TcpStream::connect(&address).await?;
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await?;
    let began = clock::now();
    let closed = async {
        let mut bytes = [0; 1024];
        loop {
            // A byte now and then, as slowloris does: it must not buy time.
            tokio::select! {
                read = slow.read(&mut bytes) => if matches!(read, Ok(0) | Err(_)) { return },
                () = tokio::time::sleep(Duration::from_secs(1)) => if slow.write_all(b"x").await.is_err() { return },
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(50), closed).await.context("the connection lasts")?;
    ensure!(clock::now().millis_since(began) > 5000, "no time at all to send a request");
    // A head above the limit is refused.
    let mut large = TcpStream::connect(&address).await?;
    large.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n").await?;
    for n in 0..200 {
        if large.write_all(format!("X-{n}: {}\r\n", "x".repeat(1000)).as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), large.read_to_end(&mut answer)).await.context("no end")?;
    let text = String::from_utf8_lossy(&answer);
    ensure!(read.is_err() || text.starts_with("HTTP/1.1 431") || text.is_empty(), "{text}");
    site.done();
    Ok(())
}

/// The ids of a list.
async fn listed(site: &Site, query: &str) -> anyhow::Result<Vec<String>> {
    let (status, list) = http::answer(http::client()?.get(format!("{}/v1/executions{query}", site.gateway_url()))).await?;
    ensure!(status == 200, "{status} {list}");
    Ok(list["executions"].as_array().into_iter().flatten().filter_map(|e| e["execution_id"].as_str()).map(str::to_owned).collect())
}

#[tokio::test]
async fn lists_go_on_after_a_kill_and_are_built_anew_where_they_must() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    let index = site.folder().join("index.redb").to_string_lossy().into_owned();
    let flags = ["--index", index.as_str()];
    site.spawn_gateway_with(&flags).await?;
    let definition = shapes::workflow("w", json!([{ "id": "a", "type": "static" }]))?;
    let run = async |site: &Site, key: &str| Ok::<_, anyhow::Error>(site.run(&definition, key, Value::Null).await?.execution_id);
    let all = async |site: &Site, ids: &[SmolStr], what: &str| {
        until(what, Duration::from_secs(20), async || Ok((listed(site, "?status=completed").await? == ids).then_some(()))).await
    };
    let mut ids = vec![run(&site, "1").await?];
    all(&site, &ids, "the first is listed").await?;
    site.process("gateway")?.kill();
    ids.insert(0, run(&site, "2").await?);
    site.restart_gateway(&flags).await?;
    all(&site, &ids, "what was missed is listed").await?;
    // One page after the other.
    let (_, first) = http::answer(http::client()?.get(format!("{}/v1/executions?limit=1", site.gateway_url()))).await?;
    let next = first["next"].as_str().context("no next")?.to_owned();
    ensure!(listed(&site, &format!("?limit=1&cursor={next}")).await? == ids[1..], "the second page");
    // A file that is no such file.
    site.process("gateway")?.kill();
    std::fs::write(&index, b"garbage")?;
    site.restart_gateway(&flags).await?;
    all(&site, &ids, "the list was built anew").await?;
    // Another gateway must not share it.
    let told = site.caller().call(&["gateway", "--port", "0", "--index", &index]).await?;
    ensure!(told.code == Some(1) && told.err.contains("another gateway has it open"), "{told:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn the_events_of_an_execution_come_in_pages() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    site.spawn_gateway(None).await?;
    // Its nodes act, branch and are tried again: notes and inputs take turns in the log.
    for shape in [shapes::parallel("parallel")?, shapes::retrying("retrying")?, shapes::chain("chain")?] {
        let id = site.run(&shape, &shape.id, site.trading()).await?.execution_id;
        let (_, events) = checks::ended(&site.client, &shape.id).await?;
        let url = format!("{}/v1/executions/{id}/events", site.gateway_url());
        let page = async |query: &str| {
            let (status, page) = http::answer(http::client()?.get(format!("{url}{query}"))).await?;
            ensure!(status == 200, "{status} {page}");
            anyhow::Ok(page)
        };
        let all = page("").await?;
        let ids = |page: &Value| page["events"].as_array().into_iter().flatten().map(|e| e["id"].clone()).collect::<Vec<_>>();
        ensure!(ids(&all).len() == events.len() && all["next"].is_null(), "{}: {all}", shape.id);
        for limit in [1, 2, 3] {
            let (mut told, mut after) = (Vec::new(), String::new());
            loop {
                let part = page(&format!("?limit={limit}{after}")).await?;
                told.extend(ids(&part));
                let Some(next) = part["next"].as_u64() else { break };
                ensure!(!ids(&part).is_empty(), "{}: an empty page that is not the last: {part}", shape.id);
                after = format!("&after={next}");
            }
            ensure!(told == ids(&all), "{} by {limit}: {told:?}", shape.id);
        }
    }
    site.done();
    Ok(())
}
