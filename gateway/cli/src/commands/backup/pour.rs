//! Giving an archive to the server, which makes a stream of it.

use std::{io::Read, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use haltline_common::{Link, js};
use serde::Deserialize;
use serde_json::{Value, json};

use super::manifest::{ARCHIVE, CONFIG, Stream};

/// Bytes sent at once: small against the server's `max_payload` of 1 MiB or more.
const CHUNK: usize = 256 * 1024;
/// The server writes a chunk before it answers.
const CHUNK_WITHIN: Duration = Duration::from_secs(30);
/// It activates the stream before it answers the last one.
const END_WITHIN: Duration = Duration::from_secs(600);

#[derive(Deserialize)]
struct Began {
    deliver_subject: String,
}

/// Makes `stream` of its archive under `dir`, with this many copies. From the moment the server has
/// begun with it, it is in `made`, whole or not.
///
/// # Errors
/// When the server refuses it, or what it made is not what was backed up.
pub async fn pour(link: &Link, dir: &Path, stream: &Stream, replicas: usize, made: &mut Vec<String>) -> anyhow::Result<()> {
    let folder = dir.join(&stream.name);
    let mut request: Value = serde_json::from_slice(&std::fs::read(folder.join(CONFIG))?)?;
    if let Some(config) = request.get_mut("config").and_then(Value::as_object_mut) {
        config.insert("num_replicas".into(), json!(replicas));
    }
    let began: Began = js::api(link, &format!("STREAM.RESTORE.{}", stream.name), &request).await?;
    made.push(stream.name.clone());
    let mut file = std::fs::File::open(folder.join(ARCHIVE))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            break;
        }
        let answer = send(link, &began.deliver_subject, Bytes::copy_from_slice(&chunk[..n]), CHUNK_WITHIN).await?;
        refused(&answer)?;
    }
    let answer = send(link, &began.deliver_subject, Bytes::new(), END_WITHIN).await?;
    refused(&answer)?;
    let info = js::stream_info(link, &stream.name).await?;
    // Fewer messages are right: some expired, and a key has one value.
    if info.state.last_seq != stream.last_seq || info.state.messages > stream.messages {
        bail!("the server made {} messages up to {} of it", info.state.messages, info.state.last_seq);
    }
    Ok(())
}

async fn send(link: &Link, to: &str, chunk: Bytes, within: Duration) -> anyhow::Result<Bytes> {
    let request = async_nats::Request::new().payload(chunk).timeout(Some(within));
    Ok(link.client.send_request(to.to_owned(), request).await.context("the server does not take it")?.payload)
}

/// The server answers with nothing, or with what it made, or with an error.
fn refused(answer: &[u8]) -> anyhow::Result<()> {
    let value: Value = if answer.is_empty() { Value::Null } else { serde_json::from_slice(answer)? };
    match value.get("error") {
        None => Ok(()),
        Some(e) => bail!("the server refuses it: {}", e.get("description").and_then(Value::as_str).unwrap_or("no reason given")),
    }
}
