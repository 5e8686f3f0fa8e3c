//! `paper_order` against the paper market and against servers that misbehave.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::super::testing::{ctx, kind, market, nobody, raw, server};
use super::*;

fn params(market: &str) -> Value {
    json!({"market": market, "symbol": "AAPL", "side": "buy", "quantity": "2.5"})
}

async fn ledger(market: &str) -> Vec<Value> {
    client::client().unwrap().get(format!("{market}/ledger")).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn it_places_one_order_however_often_it_runs() {
    let base = market("order").await;
    let mut ctx = ctx(params(&base), json!({}));
    ctx.token = 65_537;
    let first = PaperOrder.run(&ctx).await.unwrap();
    let expected = json!({
        "status": "filled", "order_id": "paper-1", "client_order_id": "exec_test_00000000/node", "symbol": "AAPL", "side": "buy",
        "quantity": "2.5", "price": "166.19", "notional": "415.475", "duplicate": false
    });
    assert_eq!(Value::Object(first), expected);
    ctx.token = 65_538;
    let again = PaperOrder.run(&ctx).await.unwrap();
    assert_eq!((&again["order_id"], &again["duplicate"]), (&json!("paper-1"), &json!(true)));
    ctx.token = 65_537;
    assert_eq!(kind(&PaperOrder.run(&ctx).await.unwrap_err()), ("StaleToken", false));
    let outcomes: Vec<_> = ledger(&base).await.into_iter().map(|a| a["outcome"].clone()).collect();
    assert_eq!(outcomes, ["accepted", "duplicate", "stale"]);
}

#[tokio::test]
async fn the_market_is_asked_by_key_and_what_it_says_is_taken_at_its_word() {
    let base = market("resolve").await;
    let ctx = ctx(params(&base), json!({}));
    let intent =
        Intent { id: "i".into(), key: ctx.idempotency_key(), attempt: 1, token: 1, at: haltline_common::clock::now(), done: false };
    assert_eq!(PaperOrder.resolve(&ctx, &intent).await, Ok(Resolved::NotDone));
    // What was sent before it was asked is refused when it arrives after all; the next attempt is not.
    let mut ctx = ctx;
    assert_eq!(kind(&PaperOrder.run(&ctx).await.unwrap_err()), ("StaleToken", false));
    assert_eq!(ledger(&base).await.len(), 1, "asking leaves no trace, the late order one");
    ctx.attempt = 2;
    let mut placed = PaperOrder.run(&ctx).await.unwrap();
    placed.insert("duplicate".into(), json!(true));
    assert_eq!(PaperOrder.resolve(&ctx, &intent).await, Ok(Resolved::Done(placed)));
    assert_eq!(ledger(&base).await.len(), 2, "asking leaves no trace");
    // Who knows no orders at all has not said that this one is not there.
    for (answer, expected) in [
        (raw("404 Not Found", r#"{"error":"there is no such endpoint","field":null}"#), ("HttpStatus", true)),
        (raw("503 Busy", "{}"), ("HttpStatus", true)),
        (raw("200 OK", "{}"), ("InvalidOutput", false)),
    ] {
        let (base, _asked) = server(answer).await;
        let ctx = super::super::testing::ctx(params(&base), json!({}));
        assert_eq!(kind(&PaperOrder.resolve(&ctx, &intent).await.unwrap_err()), expected);
    }
}

#[tokio::test]
async fn only_a_plain_yes_trades() {
    let base = market("signal").await;
    let run = async |signal: Value| PaperOrder.run(&ctx(params(&base), json!({ "signal": signal }))).await;
    assert_eq!(run(json!(false)).await.map(Value::Object), Ok(json!({"status": "skipped", "reason": "signal is false"})));
    for unclear in [json!(null), json!("true"), json!(1), json!({})] {
        assert_eq!(kind(&run(unclear.clone()).await.unwrap_err()), ("InvalidInput", false), "{unclear}");
    }
    let mut as_param = params(&base);
    as_param["signal"] = Value::Null;
    assert_eq!(kind(&PaperOrder.run(&ctx(as_param.clone(), json!({}))).await.unwrap_err()), ("InvalidInput", false));
    // An input that did not arrive is not made up for by a parameter.
    as_param["signal"] = json!(true);
    assert!(PaperOrder.run(&ctx(as_param, json!({"signal": null}))).await.is_err());
    assert!(ledger(&base).await.is_empty(), "nothing was placed so far");
    assert_eq!(run(json!(true)).await.unwrap()["status"], "filled");
}

#[tokio::test]
async fn limits_hold_and_bad_orders_are_not_sent() {
    let base = market("limits").await;
    let with = async |name: &str, value: Value| {
        let mut params = params(&base);
        params[name] = value;
        PaperOrder.run(&ctx(params, json!({}))).await
    };
    for (name, value, error) in [
        ("side", json!("hold"), "InvalidInput"),
        ("quantity", json!(0), "InvalidInput"),
        ("quantity", json!("-1"), "InvalidInput"),
        ("quantity", json!(null), "MissingInput"),
        ("limit_price", json!("0"), "InvalidInput"),
        ("market", json!("ftp://x"), "InvalidInput"),
        ("timeout", json!("soon"), "InvalidInput"),
        ("symbol", json!("MSFT"), "Rejected"),
    ] {
        assert_eq!(kind(&with(name, value.clone()).await.unwrap_err()), (error, false), "{name} {value}");
    }
    let lost = PaperOrder.run(&ctx(params(&base), json!({"limit_price": null}))).await;
    assert_eq!(kind(&lost.unwrap_err()), ("InvalidInput", false));
    assert!(ledger(&base).await.is_empty());
    let expired = with("limit_price", json!("100")).await.unwrap();
    assert_eq!((&expired["status"], &expired["price"], &expired["notional"]), (&json!("expired"), &Value::Null, &json!("0")));
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_cancels_send_nothing() {
    let run = async |base: &str| PaperOrder.run(&ctx(params(base), json!({}))).await;
    assert_eq!(kind(&run(&nobody().await).await.unwrap_err()), ("Connection", true));
    for (answer, expected) in [
        (raw("503 Busy", "{}"), ("HttpStatus", true)),
        (raw("404 No", "{}"), ("HttpStatus", false)),
        (raw("200 OK", "{}"), ("InvalidOutput", false)),
        (
            raw(
                "200 OK",
                r#"{"status":"filled","order_id":"1","client_order_id":"x","symbol":"A","side":"buy","quantity":"1","price":"1","notional":"1","duplicate":false}"#,
            ),
            ("InvalidOutput", false),
        ),
    ] {
        let (base, mut asked) = server(answer).await;
        assert_eq!(kind(&run(&base).await.unwrap_err()), expected);
        assert!(asked.recv().await.unwrap().starts_with("POST /orders "));
    }
    let (silent, mut asked) = server("").await;
    let slow = ctx(params(&silent), json!({"timeout": "50ms"}));
    assert_eq!(kind(&PaperOrder.run(&slow).await.unwrap_err()), ("Timeout", true));
    let _ = asked.recv().await;
    slow.cancel.cancel();
    assert_eq!(PaperOrder.run(&slow).await, Err(NodeError::Cancelled));
    assert!(asked.try_recv().is_err());
}
