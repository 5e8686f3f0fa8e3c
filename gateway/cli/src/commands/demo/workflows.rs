//! The workflows that the scenes run: provider -> condition -> action on the market's prices.

use haltline_common::{definitions, types::definition::Definition};
use serde_json::json;

/// Buys if the close of the day is below `max`.
pub fn buy_below(id: &str, bot: &str, max: &str) -> anyhow::Result<Definition> {
    let value = json!({
        "id": id, "version": "1", "name": "Buy the dip", "bot_id": bot, "strategy_id": "dips",
        "nodes": [
            { "id": "price", "name": "Price", "category": "providers", "type": "http",
              "inputs": { "url": { "input": "price_url" } },
              "params": { "extract": { "close": "/close", "date": "/date" } } },
            { "id": "cheap", "name": "Is it cheap?", "category": "conditions", "type": "threshold",
              "params": { "max": max }, "inputs": { "value": { "node": "price", "output": "close" } } },
            { "id": "buy", "name": "Buy", "category": "actions", "type": "paper_order",
              "params": { "side": "buy", "quantity": "10" },
              "inputs": { "market": { "input": "market" }, "symbol": { "input": "symbol" },
                          "signal": { "node": "cheap", "output": "pass" } } }
        ]
    });
    Ok(definitions::from_value(value)?)
}

/// The same with a slow node before the order.
pub fn slow(id: &str, pause: &str) -> anyhow::Result<Definition> {
    let value = json!({
        "id": id, "version": "1", "name": "Think, then buy", "bot_id": "bot-slow", "strategy_id": "dips",
        "nodes": [
            { "id": "price", "category": "providers", "type": "http",
              "inputs": { "url": { "input": "price_url" } }, "params": { "extract": { "close": "/close" } } },
            { "id": "think", "category": "conditions", "type": "sleep", "params": { "duration": pause }, "depends_on": ["price"] },
            { "id": "buy", "category": "actions", "type": "paper_order", "depends_on": ["think"],
              "params": { "side": "buy", "quantity": "1" },
              "inputs": { "market": { "input": "market" }, "symbol": { "input": "symbol" } } }
        ]
    });
    Ok(definitions::from_value(value)?)
}
