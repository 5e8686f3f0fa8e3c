//! What an `http` node says about risk: that it is an order, and what it came to; what something is worth.
//!
//! `order`: `{"symbol", "side", "quantity", "price"}`, each a literal or `{"input": "name"}`; `price` is the highest that one can
//! be filled at, needed where limits on money apply. `fill`: `{"quantity", "price"}`, names of outputs; without it the
//! order counts as filled as a whole at that price. `mark`: `{"symbol", "price"}`, a symbol and the output that has its price.

use haltline_common::types::risk::{Fill, Noted, Order, Side};
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use crate::context::{Context, NodeError, Outputs, to_decimal};

/// An object parameter whose fields are all known.
fn object<'c>(ctx: &'c Context, name: &str, fields: &[&str]) -> Result<Option<&'c Map<String, Value>>, NodeError> {
    // Of the definition alone: what a node is must not depend on what another one gave.
    let Some(value) = ctx.params.get(name) else { return Ok(None) };
    let object = value.as_object().ok_or_else(|| NodeError::invalid(name, "must be an object"))?;
    match object.keys().find(|k| !fields.contains(&k.as_str())) {
        Some(unknown) => Err(NodeError::invalid(&format!("{name}.{unknown}"), format!("is none of {}", fields.join(", ")))),
        None => Ok(Some(object)),
    }
}

/// A field: a literal, or the node's input that it names.
fn field<'c>(ctx: &'c Context, object: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    let value = object.get(name)?;
    let input = value.as_object().and_then(|o| o.get("input")).and_then(Value::as_str);
    input.map_or(Some(value), |input| ctx.inputs.get(input)).filter(|v| !v.is_null())
}

fn above_zero(name: &str, value: &Value) -> Result<Decimal, NodeError> {
    let number = to_decimal(name, value)?;
    if number > Decimal::ZERO { Ok(number) } else { Err(NodeError::invalid(name, format!("{number} is not above zero"))) }
}

/// The order that the node is, if it says that it is one.
pub fn order(ctx: &Context) -> Result<Option<Order>, NodeError> {
    let Some(order) = object(ctx, "order", &["symbol", "side", "quantity", "price"])? else { return Ok(None) };
    object(ctx, "fill", &["quantity", "price"])?;
    let need = |name: &str| field(ctx, order, name).ok_or_else(|| NodeError::invalid(&format!("order.{name}"), "is needed"));
    let symbol = need("symbol")?.as_str().ok_or_else(|| NodeError::invalid("order.symbol", "must be a text"))?;
    let side = match need("side")?.as_str() {
        Some("buy") => Side::Buy,
        Some("sell") => Side::Sell,
        _ => return Err(NodeError::invalid("order.side", "is neither `buy` nor `sell`")),
    };
    let quantity = above_zero("order.quantity", need("quantity")?)?;
    let price = field(ctx, order, "price").map(|p| above_zero("order.price", p)).transpose()?;
    // A price that is wired to an input must arrive: an order must not lose its bound.
    if price.is_none() && order.contains_key("price") {
        return Err(NodeError::invalid("order.price", "is declared, so it must be there"));
    }
    Ok(Some(Order { symbol: symbol.to_owned(), side, quantity, price }))
}

/// What the outputs say.
pub fn noted(ctx: &Context, outputs: &Outputs, venue: &str) -> Vec<Noted> {
    let number = |of: Option<&Map<String, Value>>, name: &str| {
        let output = outputs.get(of?.get(name)?.as_str()?)?;
        to_decimal(name, output).ok()
    };
    let mut noted = Vec::new();
    if let Ok(Some(order)) = order(ctx) {
        let fill = object(ctx, "fill", &["quantity", "price"]).ok().flatten();
        // What cannot be read counts at its worst.
        let quantity = number(fill, "quantity").filter(|q| *q >= Decimal::ZERO).unwrap_or(order.quantity);
        let price = number(fill, "price").filter(|p| *p >= Decimal::ZERO).or(order.price).unwrap_or_default();
        let (id, venue) = (ctx.idempotency_key(), venue.to_owned());
        noted.push(Noted::Fill(Fill { id, venue, symbol: order.symbol, side: order.side, quantity, price }));
    }
    if let Ok(Some(mark)) = object(ctx, "mark", &["symbol", "price"])
        && let (Some(symbol), Some(price)) = (mark.get("symbol").and_then(Value::as_str), number(Some(mark), "price"))
    {
        noted.push(Noted::Mark { symbol: symbol.to_owned(), price });
    }
    noted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::testing::ctx, *};

    #[test]
    fn an_order_is_what_the_definition_says() {
        let params = |order: Value| json!({ "order": order, "fill": { "quantity": "filled", "price": "at" }, "mark": { "symbol": "BTC", "price": "last" } });
        let full = json!({ "symbol": "BTC", "side": "sell", "quantity": { "input": "amount" }, "price": "50000.5" });
        let context = ctx(params(full.clone()), json!({ "amount": "0.25" }));
        let read = order(&context).expect("an order").expect("an order");
        assert_eq!(
            (read.side, read.quantity.to_string(), read.price.map(|p| p.to_string())),
            (Side::Sell, "0.25".into(), Some("50000.5".into()))
        );
        let outputs = json!({ "filled": "0.2", "at": 49999, "last": "49998" }).as_object().cloned().expect("object");
        let told = noted(&context, &outputs, "v");
        let [Noted::Fill(fill), Noted::Mark { price, .. }] = &told[..] else { panic!("{told:?}") };
        assert_eq!((fill.quantity.to_string(), fill.price.to_string(), price.to_string()), ("0.2".into(), "49999".into(), "49998".into()));
        // What cannot be read counts at its worst.
        let told = noted(&context, &Outputs::new(), "v");
        assert!(matches!(&told[..], [Noted::Fill(f)] if f.quantity == read.quantity && Some(f.price) == read.price), "{told:?}");
        for (change, part) in [
            (json!({ "symbol": "BTC", "side": "hold", "quantity": 1 }), "order.side"),
            (json!({ "symbol": "BTC", "side": "buy", "quantity": 0 }), "order.quantity"),
            (json!({ "symbol": "BTC", "side": "buy", "quantity": { "input": "none" } }), "order.quantity"),
            (json!({ "symbol": "BTC", "side": "buy", "quantity": 1, "price": { "input": "none" } }), "order.price"),
            (json!({ "symbol": "BTC", "side": "buy", "quantity": 1, "prise": 1 }), "order.prise"),
            (json!("BTC"), "order"),
        ] {
            let wrong = order(&ctx(params(change.clone()), json!({}))).expect_err("no order");
            assert!(wrong.to_string().starts_with(&format!("`{part}`")), "{change}: {wrong}");
        }
        assert_eq!(order(&ctx(json!({}), json!({}))), Ok(None));
    }
}
