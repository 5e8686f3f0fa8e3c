//! `paper_order`: places an order on the paper market.
//!
//! Parameters or inputs: `market` (base URL), `symbol`, `side` (`buy` or `sell`), `quantity` (decimal
//! above zero), `limit_price` (decimal above zero), `worst_price` (decimal above zero: what limits on money count with where no
//! limit bounds what the order costs or brings; it is not sent), `timeout` (a duration), and `signal`. If `signal`
//! is declared at all it must be a bool: `true` places the order, `false` skips it, and anything else
//! fails, so that an absent signal never trades.
//!
//! Outputs: `status` (`filled`; `expired` if the limit was not reached), `order_id`,
//! `client_order_id`, `symbol`, `side`, `quantity`, `price` (`null` if expired), `notional` (decimal
//! texts), `duplicate` (bool: an earlier attempt had placed it). Skipped: `status` = `skipped`, `reason`.
//!
//! The order's id is the node's idempotency key. Every failure to get an answer (`Connection`,
//! `Timeout`, `HttpStatus` 408, 429, 5xx) is worth another attempt, and before that the market is asked
//! whether it has the order: what it has is not sent again, and what it has not it refuses from then on, should it still be on
//! its way. `StaleToken`: a newer attempt was there first. `Rejected`: the market refuses the order.

use async_trait::async_trait;
use haltline_common::types::{
    Millis,
    catalog::NodeType,
    limits::OUTPUT_BYTES_MAX,
    risk::{self, Noted, Order, Side},
};
use reqwest::{RequestBuilder, StatusCode, Url};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{answer::Answer, client, params};
use crate::{
    Intent,
    context::{Context, NodeError, Outputs},
    registry::{Node, Resolved},
};

/// The type.
pub struct PaperOrder;

/// The part of the market's answer that becomes outputs.
#[derive(Serialize, Deserialize)]
struct Fill {
    status: String,
    order_id: String,
    client_order_id: String,
    symbol: String,
    side: String,
    quantity: Decimal,
    price: Option<Decimal>,
    notional: Decimal,
    duplicate: bool,
}

#[async_trait]
impl Node for PaperOrder {
    fn describe(&self) -> NodeType {
        super::described("paper_order")
    }

    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError> {
        if !signal(ctx)? {
            return Ok(Outputs::from_iter([("status".to_owned(), json!("skipped")), ("reason".to_owned(), json!("signal is false"))]));
        }
        let url = orders_url(ctx.text("market")?)?;
        let order = order(ctx)?;
        let timeout = timeout(ctx)?;
        ctx.effect(|| place(ctx, url, order, timeout)).await
    }

    /// A limit bounds what a buy costs. What a sale brings, and an order without a limit, is bounded by `worst_price` alone.
    fn order(&self, ctx: &Context) -> Result<Option<Order>, NodeError> {
        let side = side(ctx)?;
        let limit = limit(ctx)?.filter(|_| side == Side::Buy);
        let worst = ctx.decimal_opt("worst_price")?.map(|p| above_zero("worst_price", p)).transpose()?;
        let quantity = above_zero("quantity", ctx.decimal("quantity")?)?;
        Ok(Some(Order { symbol: ctx.text("symbol")?.to_owned(), side, quantity, price: limit.or(worst) }))
    }

    fn noted(&self, _ctx: &Context, outputs: &Outputs, venue: &str) -> Vec<Noted> {
        let fill = serde_json::from_value::<Fill>(Value::Object(outputs.clone())).ok();
        let noted = fill.map(|f| {
            let side = if f.side == "sell" { Side::Sell } else { Side::Buy };
            let quantity = if f.price.is_some() { f.quantity } else { Decimal::ZERO };
            let (id, venue, price) = (f.client_order_id, venue.to_owned(), f.price.unwrap_or_default());
            Noted::Fill(risk::Fill { id, venue, symbol: f.symbol, side, quantity, price })
        });
        noted.into_iter().collect()
    }

    fn resolves(&self) -> bool {
        true
    }

    /// Asks the market for the order of that key. One that has not arrived it refuses from then on, so "not done" is final.
    async fn resolve(&self, ctx: &Context, intent: &Intent) -> Result<Resolved, NodeError> {
        let mut url = orders_url(ctx.text("market")?)?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(&intent.key).push("fence");
        }
        let target = format!("POST {}", client::shown(&url));
        let fence = json!({ "token": intent.token, "attempt": intent.attempt });
        let answer = send(ctx, client::client()?.post(url).json(&fence), timeout(ctx)?, &target).await?;
        if answer.status == StatusCode::NOT_FOUND && answer.body(true)?["field"] == "client_order_id" {
            return Ok(Resolved::NotDone);
        }
        if !answer.status.is_success() {
            return Err(NodeError::retryable("HttpStatus", answer.refusal(&target)));
        }
        outputs(answer, &target, &intent.key, Some(true)).map(Resolved::Done)
    }
}

fn signal(ctx: &Context) -> Result<bool, NodeError> {
    // Not `ctx.get`: there `null` counts as absent, and absent would mean to trade.
    match ctx.inputs.get("signal").or_else(|| ctx.params.get("signal")) {
        None => Ok(true),
        Some(Value::Bool(signal)) => Ok(*signal),
        Some(_) => Err(NodeError::invalid("signal", "is declared, so it must be true or false")),
    }
}

fn orders_url(market: &str) -> Result<Url, NodeError> {
    let mut url = client::url("market", market)?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push("orders");
    }
    Ok(url)
}

fn side(ctx: &Context) -> Result<Side, NodeError> {
    match ctx.text("side")? {
        "buy" => Ok(Side::Buy),
        "sell" => Ok(Side::Sell),
        side => Err(NodeError::invalid("side", format!("`{side}` is neither `buy` nor `sell`"))),
    }
}

fn above_zero(name: &str, d: Decimal) -> Result<Decimal, NodeError> {
    if d > Decimal::ZERO { Ok(d) } else { Err(NodeError::invalid(name, format!("{d} is not above zero"))) }
}

fn order(ctx: &Context) -> Result<Value, NodeError> {
    let mut order = json!({
        "client_order_id": ctx.idempotency_key(),
        "execution_id": ctx.correlation.execution_id,
        "token": ctx.token,
        "attempt": ctx.attempt,
        "symbol": ctx.text("symbol")?,
        "side": side(ctx)?,
        "quantity": above_zero("quantity", ctx.decimal("quantity")?)?.to_string(),
    });
    match limit(ctx)? {
        None => {}
        Some(price) => order["limit_price"] = json!(above_zero("limit_price", price)?.to_string()),
    }
    Ok(order)
}

/// The limit. One that is wired to an input must arrive: an order must not lose its limit.
fn limit(ctx: &Context) -> Result<Option<Decimal>, NodeError> {
    match ctx.inputs.get("limit_price") {
        Some(Value::Null) => Err(NodeError::invalid("limit_price", "is an input but null")),
        _ => ctx.decimal_opt("limit_price"),
    }
}

fn timeout(ctx: &Context) -> Result<Option<Millis>, NodeError> {
    ctx.get("timeout").map(|v| params::millis("timeout", v)).transpose()
}

async fn send(ctx: &Context, request: RequestBuilder, timeout: Option<Millis>, target: &str) -> Result<Answer, NodeError> {
    let request = request.headers(client::identity(ctx)?);
    let request = if let Some(timeout) = timeout { request.timeout(timeout.duration()) } else { request };
    Answer::of(request, target, OUTPUT_BYTES_MAX).await
}

async fn place(ctx: &Context, url: Url, mut order: Value, timeout: Option<Millis>) -> Result<Outputs, NodeError> {
    // Whoever takes it later may do so after a halt was confirmed.
    if let Some(deadline) = ctx.effect_deadline() {
        order["deadline"] = json!(deadline);
    }
    let target = format!("POST {}", client::shown(&url));
    let answer = send(ctx, client::client()?.post(url).json(&order), timeout, &target).await?;
    let refusal = |error_type| Err(NodeError::fatal(error_type, answer.refusal(&target)).not_done());
    match answer.status {
        status if status.is_success() => {}
        StatusCode::CONFLICT => return refusal("StaleToken"),
        StatusCode::GONE => return Err(NodeError::retryable("TooLate", answer.refusal(&target)).not_done()),
        StatusCode::UNPROCESSABLE_ENTITY => return refusal("Rejected"),
        _ if answer.may_pass_later() => {
            let error = NodeError::retryable("HttpStatus", answer.refusal(&target));
            return Err(if answer.is_refusal() { error.not_done() } else { error });
        }
        _ => return refusal("HttpStatus"),
    }
    outputs(answer, &target, &ctx.idempotency_key(), None)
}

/// The market's answer as outputs: it must be about the order of that key.
fn outputs(answer: Answer, target: &str, key: &str, duplicate: Option<bool>) -> Result<Outputs, NodeError> {
    let strange = |what: String| NodeError::fatal("InvalidOutput", format!("{target}: {what}"));
    let mut body = answer.body(true)?;
    if let Some((body, duplicate)) = body.as_object_mut().zip(duplicate) {
        body.insert("duplicate".into(), Value::Bool(duplicate));
    }
    let fill: Fill = serde_json::from_value(body).map_err(|e| strange(format!("the answer is not an order: {e}")))?;
    if fill.client_order_id != key {
        return Err(strange(format!("the answer is about another order, `{}`", fill.client_order_id)));
    }
    match serde_json::to_value(fill) {
        Ok(Value::Object(outputs)) => Ok(outputs),
        Ok(_) | Err(_) => Err(strange("the answer cannot be given on".into())),
    }
}

#[cfg(test)]
mod tests;
