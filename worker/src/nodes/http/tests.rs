//! `http` against the paper market and against servers that misbehave.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::{Value, json};

use super::super::testing::{ctx, kind, market, nobody, raw, server};
use super::*;
use crate::context::Happened;

async fn run(params: Value) -> Result<Outputs, NodeError> {
    Http.run(&ctx(params, json!({}))).await
}

async fn failure(params: Value) -> (String, bool) {
    let error = run(params).await.unwrap_err();
    let (kind, retryable) = kind(&error);
    (kind.to_owned(), retryable)
}

fn failed(kind: &str, retryable: bool) -> (String, bool) {
    (kind.to_owned(), retryable)
}

#[tokio::test]
async fn it_reads_prices() {
    let base = market("http").await;
    let ctx = ctx(
        json!({"url": base, "path": ["price", {"input": "symbol"}], "query": {"date": "2008-09-29"}, "extract": {"close": "/close"}}),
        json!({"symbol": "AAPL"}),
    );
    let outputs = Http.run(&ctx).await.unwrap();
    assert_eq!((&outputs["status"], &outputs["close"], &outputs["body"]["symbol"]), (&json!(200), &json!("105.26"), &json!("AAPL")));
    assert_eq!(failure(json!({"url": format!("{base}/price/AAPL"), "extract": {"bid": "/bid"}})).await, failed("MissingOutput", false));
    let error = run(json!({"url": format!("{}/price/MSFT?date=2008-09-29", base.replace("//", "//me:secret@"))})).await.unwrap_err();
    assert_eq!(kind(&error), ("HttpStatus", false));
    let text = error.to_string();
    assert!(text.contains("404") && text.contains("`MSFT` is unknown") && !text.contains("secret") && !text.contains("date"), "{text}");
    let moved = run(json!({"url": format!("{base}/clock/advance"), "method": "POST", "body": {"bars": 2}})).await.unwrap();
    assert_eq!(moved["body"]["date"], "2008-09-04");
    assert_eq!(failure(json!({"url": format!("{base}/price/IBM?delay_ms=20000"), "timeout": "50ms"})).await, failed("Timeout", true));
}

#[tokio::test]
async fn no_answer_is_worth_another_attempt() {
    assert_eq!(failure(json!({"url": nobody().await})).await, failed("Connection", true));
    assert_eq!(failure(json!({"url": nobody().await, "method": "POST"})).await, failed("Connection", true));
    // The TLS side of the client works as far as a server that speaks none can show.
    let (plain, _asked) = server(raw("200 OK", "{}")).await;
    assert_eq!(failure(json!({"url": plain.replace("http:", "https:")})).await, failed("Connection", true));
    let (silent, _asked) = server("").await;
    assert_eq!(failure(json!({"url": silent, "timeout": 0.05})).await, failed("Timeout", true));
    let (broken, _asked) = server("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    assert_eq!(failure(json!({"url": broken})).await, failed("Connection", true));
}

#[tokio::test]
async fn a_refused_post_is_not_repeated_unless_declared_idempotent() {
    for status in ["500 Oops", "503 Busy", "429 Slow", "408 Late"] {
        let (base, _asked) = server(raw(status, "{}")).await;
        assert_eq!(failure(json!({"url": base})).await, failed("HttpStatus", true), "{status}");
        assert_eq!(failure(json!({"url": base, "method": "POST"})).await, failed("HttpStatus", false), "{status}");
        assert_eq!(failure(json!({"url": base, "method": "PUT", "idempotent": true})).await, failed("HttpStatus", true), "{status}");
    }
    let (base, _asked) = server(raw("400 No", "{}")).await;
    assert_eq!(failure(json!({"url": base})).await, failed("HttpStatus", false));
}

#[tokio::test]
async fn a_failure_says_whether_something_may_have_been_done() {
    let happened = async |mut params: Value, url: String| {
        params["url"] = json!(url);
        match run(params).await.unwrap_err() {
            NodeError::Failed { happened, .. } => happened,
            other => panic!("{other}"),
        }
    };
    let post = || json!({"method": "POST", "timeout": 0.05});
    assert_eq!(happened(post(), nobody().await).await, Happened::No, "nobody listens");
    for (answer, expected) in [
        (raw("400 No", "{}"), Happened::No),
        (raw("429 Slow", "{}"), Happened::No),
        (raw("408 Late", "{}"), Happened::Unknown),
        (raw("500 Oops", "{}"), Happened::Unknown),
        (raw("504 Late", "{}"), Happened::Unknown),
        (String::new(), Happened::Unknown),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_owned(), Happened::Unknown),
    ] {
        let (base, _asked) = server(answer.clone()).await;
        assert_eq!(happened(post(), base).await, expected, "{answer}");
    }
    let (base, _asked) = server(raw("200 OK", "{}")).await;
    assert_eq!(happened(json!({"method": "POST", "extract": {"id": "/id"}}), base).await, Happened::Yes, "it answered");
}

#[test]
fn what_may_be_repeated_is_declared() {
    let idempotent = |params: Value| Http.idempotent(&ctx(params, json!({})));
    for (method, by_default) in [("POST", false), ("PUT", true), ("DELETE", true)] {
        assert_eq!(idempotent(json!({"url": "http://host", "method": method})), by_default, "{method}");
        assert!(idempotent(json!({"url": "http://host", "method": method, "idempotent": true})));
        assert!(!idempotent(json!({"url": "http://host", "method": method, "idempotent": false})));
    }
    assert!(!idempotent(json!({"url": "http://host", "method": "PUT", "idempotent": "yes"})), "what cannot be read declares nothing");
}

#[tokio::test]
async fn effects_pass_the_gate_and_say_who_they_are() {
    let (base, mut asked) = server(raw("200 OK", "")).await;
    let mut post = ctx(json!({"url": base, "method": "DELETE"}), json!({}));
    post.token = 77;
    assert_eq!(Http.run(&post).await.unwrap()["body"], Value::Null);
    let head = asked.recv().await.unwrap().to_ascii_lowercase();
    for line in
        ["delete / http/1.1", "idempotency-key: exec_test_00000000/node", "haltline-token: 77", "haltline-execution: exec_test_00000000"]
    {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    // What closes the door for a cancel closes it for a halt: both stand in `effect`.
    post.cancel.cancel();
    assert_eq!(Http.run(&post).await, Err(NodeError::Cancelled));
    assert!(asked.try_recv().is_err(), "nothing was sent");
}

#[tokio::test]
async fn answers_are_bounded_and_of_any_kind() {
    let (base, _asked) = server(raw("200 OK", &format!("\"{}\"", "x".repeat(200 * 1024)))).await;
    assert_eq!(failure(json!({"url": base})).await, failed("OutputTooLarge", false));
    let (base, _asked) = server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n[1,2]").await;
    assert_eq!(run(json!({"url": base})).await.unwrap()["body"], "[1,2]", "nothing says it is JSON");
    assert_eq!(run(json!({"url": base, "extract": {"first": "/0"}})).await.unwrap()["first"], 1);
    let (base, _asked) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n\xff\xfe".to_vec()).await;
    assert_eq!(failure(json!({"url": base})).await, failed("InvalidOutput", false));
    let (base, mut asked) = server("HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(failure(json!({"url": base})).await, failed("Redirect", false));
    let mut requests = 0;
    while asked.try_recv().is_ok() {
        requests += 1;
    }
    assert_eq!(requests, 6, "the first and five redirects");
}
