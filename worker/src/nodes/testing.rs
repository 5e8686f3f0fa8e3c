//! What the unit tests of several nodes share: contexts, the paper market, a server with one answer.

use haltline_market::Options;
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, NodeError};

/// A context from two JSON objects.
pub fn ctx(params: Value, inputs: Value) -> Context {
    Context::for_test(object(params), object(inputs))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

/// Kind and retryability of a failure.
pub fn kind(error: &NodeError) -> (&str, bool) {
    match error {
        NodeError::Failed { error_type, retryable, .. } => (error_type, *retryable),
        NodeError::Cancelled => ("cancelled", false),
        // The flag refused, or could not be read.
        _ => ("gate", false),
    }
}

/// Starts the paper market; its base URL. It ends with the test's runtime.
pub async fn market(test: &str) -> String {
    let ledger = std::env::temp_dir().join(format!("haltline-nodes-{}-{test}.jsonl", std::process::id()));
    let _ = std::fs::remove_file(&ledger);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(haltline_market::run(listener, Options::new(ledger), CancellationToken::new()));
    base
}

/// A URL that nobody listens on.
pub async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Answers every request with `answer` (raw HTTP; an empty one never comes) and tells what was asked.
pub async fn server(answer: impl Into<Vec<u8>>) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let answer = answer.into();
    let (tx, rx) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (tx, answer) = (tx.clone(), answer.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                let n = stream.read(&mut buffer).await.unwrap_or(0);
                let _ = tx.send(String::from_utf8_lossy(&buffer[..n]).into_owned());
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    (base, rx)
}

/// A raw answer with that status line and JSON body.
pub fn raw(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
