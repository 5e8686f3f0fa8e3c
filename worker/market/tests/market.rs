//! The market over real HTTP on a loopback port: prices, orders, repeats, restarts.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use haltline_market::Options;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

struct Market {
    base: String,
    http: reqwest::Client,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

fn ledger_path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("market-{n}/ledger.jsonl"));
    let _ = std::fs::remove_file(&path);
    path
}

impl Market {
    async fn start(options: Options) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let task = tokio::spawn(haltline_market::run(listener, options, stop.clone()));
        Self { base, http: reqwest::Client::builder().no_proxy().build().unwrap(), stop, task }
    }
    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.http.post(format!("{}{path}", self.base)).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
    async fn end(self) {
        // Connections of this client must be gone, or the market waits for them.
        drop(self.http);
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn ask(id: &str, token: u64) -> Value {
    json!({ "client_order_id": id, "symbol": "AAPL", "side": "buy", "quantity": "10", "token": token, "execution_id": "exec_a_00000001" })
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[tokio::test]
async fn prices_and_clock() {
    let m = Market::start(Options::new(ledger_path())).await;
    assert_eq!(m.get("/symbols").await, (200, json!(["AAPL", "IBM"])));
    let first = json!({ "symbol": "AAPL", "date": "2008-09-02", "open": "172.4", "high": "173.5", "low": "165.0", "close": "166.19", "volume": 27_884_400 });
    assert_eq!(m.get("/price/AAPL").await, (200, first.clone()));
    assert_eq!(m.get("/price/AAPL").await.1, first, "reading does not move the clock");
    assert_eq!(
        m.post("/clock/advance", &json!({ "bars": 19 })).await.1,
        json!({ "date": "2008-09-29", "bar": 19, "bars": 85, "ended": false })
    );
    assert_eq!(m.get("/price/AAPL").await.1["close"], "105.26");
    assert_eq!(m.get("/price/IBM?date=2008-12-31").await.1["close"], "84.16");
    for (path, status, field) in [
        ("/price/MSFT", 404, json!("symbol")),
        ("/price/IBM?date=2008-09-28", 404, json!("date")),
        ("/price/IBM?date=soon", 422, json!("date")),
        ("/price/IBM?delay_ms=60001", 422, json!("delay_ms")),
        ("/price/IBM?day=1", 422, json!("day")),
        ("/orders/none", 404, json!("client_order_id")),
        ("/nowhere", 404, Value::Null),
    ] {
        let (got, body) = m.get(path).await;
        assert_eq!((got, &body["field"]), (status, &field), "{path}: {body}");
        assert!(body["error"].is_string());
    }
    assert_eq!(m.get("/health").await.1, json!({ "status": "ok", "date": "2008-09-29", "orders": 0 }));
    m.end().await;

    let m = Market::start(Options { advance_per_request: true, ..Options::new(ledger_path()) }).await;
    assert_eq!(m.get("/price/AAPL").await.1["date"], "2008-09-02");
    assert_eq!(m.get("/price/AAPL").await.1["date"], "2008-09-03");
    m.end().await;
}

#[tokio::test]
async fn repeats_are_recognised_also_after_a_restart() {
    let path = ledger_path();
    let m = Market::start(Options::new(&path)).await;
    let id = "exec_a_00000001/node 1";
    let (status, fill) = m.post("/orders", &ask(id, 65_537)).await;
    assert_eq!(status, 200, "{fill}");
    assert_eq!((&fill["status"], &fill["price"], &fill["notional"]), (&json!("filled"), &json!("166.19"), &json!("1661.90")));
    assert_eq!((&fill["order_id"], &fill["duplicate"]), (&json!("paper-1"), &json!(false)));
    m.post("/clock/advance", &json!({})).await;
    let mut again = fill.clone();
    again["duplicate"] = json!(true);
    assert_eq!(m.post("/orders", &ask(id, 65_538)).await, (200, again.clone()), "the price of the first");
    let (status, stale) = m.post("/orders", &ask(id, 65_537)).await;
    assert_eq!((status, &stale["field"]), (409, &json!("token")));
    m.end().await;

    // A process that died while writing leaves half a line.
    use std::io::Write;
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"key\":\"half").unwrap();
    let m = Market::start(Options::new(&path)).await;
    assert_eq!(m.post("/orders", &ask(id, 65_537)).await.0, 409, "tokens outlive a restart");
    assert_eq!(m.post("/orders", &ask(id, 65_538)).await, (200, again));
    assert_eq!(m.post("/orders", &ask("other", 1)).await.1["order_id"], "paper-2");
    let (_, orders) = m.get("/orders").await;
    assert_eq!(orders.as_array().unwrap().len(), 2);
    assert_eq!(m.get("/orders/exec_a_00000001%2Fnode%201").await.1, orders[0]);
    let (_, ledger) = m.get("/ledger").await;
    assert_eq!(ledger, Value::Array(lines(&path)));
    let outcomes: Vec<_> = ledger.as_array().unwrap().iter().map(|a| a["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["accepted", "duplicate", "stale", "stale", "duplicate", "accepted"]);
    assert_eq!((&ledger[0]["key"], &ledger[0]["token"], &ledger[0]["quantity"]), (&json!(id), &json!(65_537), &json!("10")));
    assert!(ledger[0]["time"].as_str().unwrap().ends_with('Z'));

    // A second market on the same ledger could accept what this one accepted.
    let second = Market::start(Options::new(&path)).await;
    assert!(format!("{:#}", second.task.await.unwrap().unwrap_err()).contains("another market"));
    m.end().await;
}

#[tokio::test]
async fn an_order_that_was_asked_for_before_it_arrived_is_refused() {
    let path = ledger_path();
    let fences = path.with_file_name("ledger.jsonl.fences");
    let _ = std::fs::remove_file(&fences);
    let m = Market::start(Options::new(&path)).await;
    let of = |id: &str, token: u64, attempt: u64| {
        let mut body = ask(id, token);
        body["attempt"] = json!(attempt);
        body
    };
    let asked = |token: u64, attempt: u64| json!({ "token": token, "attempt": attempt });
    let (status, answer) = m.post("/orders/late/fence", &asked(7, 2)).await;
    assert_eq!((status, &answer["field"]), (404, &json!("client_order_id")), "{answer}");
    for (token, attempt) in [(7, 2), (7, 1), (6, 9)] {
        assert_eq!(m.post("/orders", &of("late", token, attempt)).await.0, 409, "{token} {attempt}");
    }
    // One that does not count its attempts is as old as can be.
    assert_eq!(m.post("/orders", &ask("late", 7)).await.0, 409);
    // Asking again with less takes nothing back, also not after a restart.
    assert_eq!(m.post("/orders/late/fence", &asked(3, 1)).await.0, 404);
    m.end().await;
    let m = Market::start(Options::new(&path)).await;
    assert_eq!(m.post("/orders", &of("late", 7, 2)).await.0, 409);
    assert_eq!(m.get("/orders").await.1, json!([]));
    let (status, placed) = m.post("/orders", &of("late", 7, 3)).await;
    assert_eq!((status, &placed["duplicate"]), (200, &json!(false)), "the next attempt is taken");
    // Who asks now is told of it, and it stays one order.
    let (status, found) = m.post("/orders/late/fence", &asked(9, 1)).await;
    assert_eq!((status, &found["order_id"]), (200, &placed["order_id"]));
    assert_eq!(m.post("/orders", &of("late", 8, 1)).await.1["duplicate"], true);
    assert_eq!(m.post("/orders/x/fence", &json!({ "token": 1 })).await.1["field"], "attempt");
    let outcomes: Vec<_> = lines(&path).iter().map(|a| a["outcome"].clone()).collect();
    assert_eq!(outcomes, ["stale", "stale", "stale", "stale", "stale", "accepted", "duplicate"]);
    m.end().await;
}

#[tokio::test]
async fn without_dedup_everything_is_accepted() {
    let path = ledger_path();
    let m = Market::start(Options { no_dedup: true, ..Options::new(&path) }).await;
    for token in [5, 5, 1] {
        assert_eq!(m.post("/orders", &ask("same", token)).await.1["duplicate"], false);
    }
    assert_eq!(m.get("/orders").await.1.as_array().unwrap().len(), 3);
    assert!(lines(&path).iter().all(|a| a["outcome"] == "accepted"));
    m.end().await;
}

#[tokio::test]
async fn limits_expire_and_bad_orders_name_their_field() {
    let path = ledger_path();
    let m = Market::start(Options::new(&path)).await;
    let with = |name: &str, value: Value| {
        let mut body = ask(name, 1);
        body[name] = value;
        body
    };
    let (_, expired) = m.post("/orders", &with("limit_price", json!("166.18"))).await;
    assert_eq!((&expired["status"], &expired["price"], &expired["notional"]), (&json!("expired"), &Value::Null, &json!("0")));
    for (field, value) in [
        ("client_order_id", json!("")),
        ("client_order_id", json!("x".repeat(513))),
        ("symbol", json!("MSFT")),
        ("side", json!("hold")),
        ("quantity", json!("0")),
        ("quantity", json!("-1")),
        ("quantity", json!("ten")),
        ("quantity", json!("79228162514264337593543950335")),
        ("limit_price", json!(true)),
        ("limit_prise", json!("1")),
        ("token", json!(-1)),
        ("token", Value::Null),
        ("execution_id", json!(5)),
    ] {
        let (status, body) = m.post("/orders", &with(field, value.clone())).await;
        assert_eq!((status, &body["field"]), (422, &json!(field)), "{field} {value}: {body}");
    }
    assert_eq!(m.post("/orders", &json!([])).await.0, 422);
    assert_eq!(m.post("/orders", &json!({ "symbol": "x".repeat(20_000) })).await.0, 413);
    assert_eq!(lines(&path).len(), 1, "bad input is not an order");
    m.end().await;
}

#[tokio::test]
async fn simultaneous_orders_do_not_mix_their_lines() {
    let path = ledger_path();
    let m = Market::start(Options::new(&path)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..600_u64 {
        let (http, url) = (m.http.clone(), format!("{}/orders", m.base));
        // Each id arrives twice.
        tasks.spawn(async move { http.post(url).json(&ask(&format!("order-{}", n / 2), 1)).send().await.unwrap().status().as_u16() });
    }
    while let Some(status) = tasks.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let ledger = lines(&path);
    assert_eq!(ledger.len(), 600);
    assert_eq!(ledger.iter().filter(|a| a["outcome"] == "accepted").count(), 300);
    assert_eq!(m.get("/orders").await.1.as_array().unwrap().len(), 300);
    assert_eq!(m.get("/ledger").await.1, Value::Array(ledger), "several pieces make one array");
    m.end().await;
}
