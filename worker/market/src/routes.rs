//! The market's endpoints.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, Path, Query, State,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    Options,
    book::{Book, ORDERS_MAX, Refusal},
    fields::Fields,
    order::{Ask, Fence, Order, Side},
    prices::{Bar, Prices, is_date},
    replay::{Position, Replay},
    reply::{self, Refused},
};

/// Bytes of a request: the longest order has less than 2 KiB.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Longest `delay_ms`.
const DELAY_MS_MAX: u64 = 60_000;
/// Bytes of a `client_order_id`: an execution's id, a node's id and room to spare.
const ORDER_ID_BYTES_MAX: usize = 512;
/// Bytes of an `execution_id`.
const EXECUTION_ID_BYTES_MAX: usize = 256;
/// Bytes of a symbol.
const SYMBOL_BYTES_MAX: usize = 32;
/// Orders that one piece of `GET /orders` holds: keeps the book locked for a millisecond at most.
const ORDERS_PER_PIECE: usize = 500;

type Shared = State<Arc<Market>>;

/// A running market.
pub struct Market {
    replay: Replay,
    book: Mutex<Book>,
    advance_per_request: bool,
}

impl Market {
    /// Reads prices and ledger.
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        let prices = Prices::load(options.prices.as_deref())?;
        let book = Book::open(&options.ledger, !options.no_dedup)?;
        Ok(Self { replay: Replay::new(prices), book: Mutex::new(book), advance_per_request: options.advance_per_request })
    }

    /// How many orders were accepted.
    pub fn orders(&self) -> usize {
        self.book().orders().len()
    }

    /// The replay's day.
    pub fn date(&self) -> &str {
        self.replay.date()
    }

    /// The book. Its changes are complete before anything in them can panic, so a poisoned lock is
    /// as good as a sound one.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, symbol: &str, status: StatusCode) -> Result<(), Refused> {
        if self.replay.prices().knows(symbol) { Ok(()) } else { Err(Refused::new(status, "symbol", format!("`{symbol}` is unknown"))) }
    }

    /// The symbol's bar of the day; `status` if there is none.
    fn bar(&self, symbol: &str, status: StatusCode) -> Result<&Bar, Refused> {
        self.known(symbol, status)?;
        self.replay.now(symbol).ok_or_else(|| Refused::new(status, "symbol", format!("`{symbol}` has no price yet on {}", self.date())))
    }
}

/// All endpoints.
pub fn router(market: Arc<Market>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/symbols", get(symbols))
        .route("/price/{symbol}", get(price))
        .route("/clock/advance", post(advance))
        .route("/orders", get(orders).post(place))
        .route("/orders/{client_order_id}", get(order))
        .route("/orders/{client_order_id}/fence", post(fence))
        .route("/ledger", get(ledger))
        .fallback(async || Refused::new(StatusCode::NOT_FOUND, "", "there is no such endpoint"))
        .method_not_allowed_fallback(async || Refused::new(StatusCode::METHOD_NOT_ALLOWED, "", "this endpoint has another method"))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(market)
}

async fn health(State(market): Shared) -> Json<Value> {
    Json(json!({ "status": "ok", "date": market.date(), "orders": market.orders() }))
}

async fn symbols(State(market): Shared) -> Json<Value> {
    Json(json!(market.replay.prices().symbols()))
}

async fn price(
    State(market): Shared,
    symbol: Result<Path<String>, PathRejection>,
    query: Result<Query<HashMap<String, String>>, QueryRejection>,
) -> Result<Json<Bar>, Refused> {
    let Path(symbol) = symbol.map_err(|e| Refused::invalid("symbol", e.body_text()))?;
    let Query(mut query) = query.map_err(|e| Refused::invalid("", e.body_text()))?;
    let date = query.remove("date");
    let delay = match query.remove("delay_ms").map(|text| text.parse::<u64>()) {
        None => 0,
        Some(Ok(ms)) if ms <= DELAY_MS_MAX => ms,
        Some(_) => return Err(Refused::invalid("delay_ms", format!("must be a whole number from 0 to {DELAY_MS_MAX}"))),
    };
    if let Some(name) = query.keys().next() {
        return Err(Refused::invalid(name, "is not a parameter of this request"));
    }
    tokio::time::sleep(Duration::from_millis(delay)).await;
    let bar = match date {
        Some(date) if !is_date(&date) => return Err(Refused::invalid("date", format!("`{date}` is not a date as YYYY-MM-DD"))),
        Some(date) => {
            let missing = || Refused::new(StatusCode::NOT_FOUND, "date", format!("`{symbol}` has no bar on {date}"));
            market.known(&symbol, StatusCode::NOT_FOUND)?;
            market.replay.prices().on(&symbol, &date).ok_or_else(missing)?
        }
        None => market.bar(&symbol, StatusCode::NOT_FOUND)?,
    };
    let bar = bar.clone();
    if market.advance_per_request {
        market.replay.advance(1);
    }
    Ok(Json(bar))
}

async fn advance(State(market): Shared, body: Result<Bytes, BytesRejection>) -> Result<Json<Position>, Refused> {
    let body = whole(body)?;
    let mut fields = Fields::read(if body.is_empty() { b"{}" } else { &body })?;
    let bars = fields.whole_or("bars", 1)?;
    fields.done()?;
    Ok(Json(market.replay.advance(usize::try_from(bars).unwrap_or(usize::MAX))))
}

async fn place(State(market): Shared, body: Result<Bytes, BytesRejection>) -> Result<Json<Value>, Refused> {
    let ask = read_ask(&whole(body)?)?;
    let bar = market.bar(&ask.symbol, StatusCode::UNPROCESSABLE_ENTITY)?;
    // The ledger's line goes to the page cache: shorter than a switch to another thread. The lock
    // keeps lines apart and the clock's times in their order.
    let placed = {
        let mut book = market.book();
        let now = haltline_common::clock::now();
        if let Some(deadline) = ask.deadline.filter(|d| now > *d) {
            return Err(Refused::new(StatusCode::GONE, "deadline", format!("has passed: {deadline}; the order was not taken")));
        }
        book.place(ask, bar, now)
    };
    match placed {
        Ok((order, duplicate)) => {
            let mut answer = order_json(&order)?;
            answer["duplicate"] = Value::Bool(duplicate);
            Ok(Json(answer))
        }
        Err(refusal) => Err(refused(refusal)),
    }
}

fn refused(refusal: Refusal) -> Refused {
    match refusal {
        Refusal::Stale { seen } => Refused::new(StatusCode::CONFLICT, "token", format!("is stale: {seen} was seen for this order")),
        Refusal::Amount => Refused::invalid("quantity", "times the price has no exact decimal form"),
        Refusal::Full => Refused::new(StatusCode::INSUFFICIENT_STORAGE, "", format!("the market keeps no more than {ORDERS_MAX} orders")),
        Refusal::Ledger(error) => {
            tracing::error!(%error, "the ledger could not be written; the order was not taken");
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "", format!("the ledger could not be written: {error}"))
        }
    }
}

async fn order(State(market): Shared, id: Result<Path<String>, PathRejection>) -> Result<Json<Value>, Refused> {
    let Path(id) = id.map_err(|e| Refused::invalid("client_order_id", e.body_text()))?;
    let found = market.book().get(&id).cloned();
    let order = found.ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "client_order_id", format!("there is no order `{id}`")))?;
    Ok(Json(order_json(&order)?))
}

/// The order, or a promise that what was sent so far is not taken any more.
async fn fence(
    State(market): Shared,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Refused> {
    let Path(id) = id.map_err(|e| Refused::invalid("client_order_id", e.body_text()))?;
    if id.is_empty() || id.len() > ORDER_ID_BYTES_MAX {
        return Err(Refused::invalid("client_order_id", format!("must have 1 to {ORDER_ID_BYTES_MAX} bytes")));
    }
    let mut fields = Fields::read(&whole(body)?)?;
    let (token, attempt) = (fields.whole("token")?, fields.whole("attempt")?);
    fields.done()?;
    let found = {
        let mut book = market.book();
        let fence = Fence { key: id.as_str().into(), token, attempt, time: haltline_common::clock::now() };
        book.get_or_fence(&fence).map(|order| order.cloned())
    };
    match found.map_err(refused)? {
        Some(order) => Ok(Json(order_json(&order)?)),
        None => {
            let why = format!("there is no order `{id}`; one with token {token}, attempt {attempt}, or lower is refused from now on");
            Err(Refused::new(StatusCode::NOT_FOUND, "client_order_id", why))
        }
    }
}

async fn orders(State(market): Shared) -> Response {
    let (mut at, end) = (0, market.orders());
    reply::array(move || {
        let mut piece = Vec::new();
        let book = market.book();
        for order in book.orders().iter().take(end).skip(at).take(ORDERS_PER_PIECE) {
            if at > 0 {
                piece.push(b',');
            }
            serde_json::to_writer(&mut piece, order)?;
            at += 1;
        }
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    })
}

async fn ledger(State(market): Shared) -> Response {
    let mut snapshot = market.book().ledger();
    reply::array(move || snapshot.next())
}

fn read_ask(body: &[u8]) -> Result<Ask, Refused> {
    let mut fields = Fields::read(body)?;
    let ask = Ask {
        client_order_id: fields.text("client_order_id", ORDER_ID_BYTES_MAX)?.into(),
        symbol: fields.text("symbol", SYMBOL_BYTES_MAX)?,
        side: match fields.text("side", 8)?.as_str() {
            "buy" => Side::Buy,
            "sell" => Side::Sell,
            _ => return Err(Refused::invalid("side", "must be `buy` or `sell`")),
        },
        quantity: fields.positive("quantity")?,
        limit_price: fields.positive_opt("limit_price")?,
        token: fields.whole("token")?,
        attempt: fields.whole_or("attempt", 0)?,
        deadline: fields.time_opt("deadline")?,
        execution_id: fields.text("execution_id", EXECUTION_ID_BYTES_MAX)?,
    };
    fields.done()?;
    Ok(ask)
}

fn order_json(order: &Order) -> Result<Value, Refused> {
    serde_json::to_value(order).map_err(|e| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "", format!("writing the order: {e}")))
}

fn whole(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Refused> {
    body.map_err(|e| Refused::new(e.status(), "", e.body_text()))
}
