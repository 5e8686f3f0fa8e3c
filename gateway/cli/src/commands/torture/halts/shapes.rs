//! The workflows whose orders are halted: two bots, two strategies, orders that open and that reduce
//! risk, executions that end by a halt and such that wait.

use serde_json::{Value, json};

use super::check::{Kind, Orders};

/// Orders of an execution.
pub const ORDERS: u64 = 6;
/// Bot, strategy, what a halt means.
const WORKFLOWS: [(&str, &str, &str); 4] = [("b1", "s1", "abort"), ("b1", "s2", "hold"), ("b2", "s1", "hold"), ("b2", "s2", "abort")];
/// What the orders of a chain do.
const CHAINS: [&str; 3] = ["opens_risk", "opens_risk", "reduces_risk"];

/// Ids of the workflows.
pub fn ids() -> Vec<String> {
    WORKFLOWS.iter().map(|(bot, strategy, _)| id(bot, strategy)).collect()
}

fn id(bot: &str, strategy: &str) -> String {
    format!("halts-{bot}-{strategy}")
}

/// Scopes that are halted; everything more often.
pub fn scopes() -> Vec<String> {
    let some = ["global", "global", "bot:b1", "strategy:s2", "venue:paper", "node_type:paper_order"];
    some.iter().map(|s| (*s).to_owned()).chain(ids().first().map(|id| format!("workflow:{id}"))).collect()
}

/// The workflows, with orders to `market`.
pub fn definitions(market: &str) -> Vec<Value> {
    let of = |(bot, strategy, on_halt): &(&str, &str, &str)| {
        let nodes: Vec<Value> = CHAINS.iter().enumerate().flat_map(|(i, effect)| chain(i, effect, market)).collect();
        json!({ "id": id(bot, strategy), "version": "1", "bot_id": bot, "strategy_id": strategy, "on_halt": on_halt, "timeout": "60s", "nodes": nodes })
    };
    WORKFLOWS.iter().map(of).collect()
}

/// An order, a pause in which a halt may come, another order. They are tried for longer than a fault lasts: what ends as
/// unknown waits for an operator, and so does a halt.
fn chain(i: usize, effect: &str, market: &str) -> [Value; 3] {
    let order = |id: String, after: Vec<String>| {
        json!({ "id": id, "type": "paper_order", "effect": effect, "depends_on": after, "timeout": "5s",
                "params": { "market": market, "side": if effect == "opens_risk" { "buy" } else { "sell" }, "quantity": "1", "symbol": "IBM" },
                "retry": { "attempts": 20, "delay": "300ms", "factor": 1.0 } })
    };
    let [first, pause, second] = ["first", "pause", "second"].map(|name| format!("{name}{i}"));
    let sleep = json!({ "id": pause, "type": "sleep", "params": { "duration": format!("{}ms", 100 + 100 * i) }, "depends_on": [first] });
    [order(first, vec![]), sleep, order(second, vec![pause])]
}

/// What the checker knows of the orders: read from the definitions.
pub fn orders(definitions: &[Value]) -> Orders {
    let mut orders = Orders::new();
    for d in definitions {
        let text = |v: &Value, field: &str| v[field].as_str().unwrap_or_default().to_owned();
        for node in d["nodes"].as_array().into_iter().flatten().filter(|n| n["type"] == "paper_order") {
            let kind = Kind {
                bot: text(d, "bot_id"),
                strategy: text(d, "strategy_id"),
                effect: text(node, "effect"),
                allowed: node["allowed_while_halted"] == true,
            };
            orders.insert((text(d, "id"), text(node, "id")), kind);
        }
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workflows_are_valid_and_their_orders_known() {
        let all = definitions("http://127.0.0.1:1");
        for d in &all {
            haltline_common::definitions::from_value(d.clone()).unwrap();
        }
        assert_eq!(orders(&all).len() as u64, ORDERS * all.len() as u64);
    }
}
