//! A worker with a node type of its own: `transfer`, which moves money at a bank that knows a transfer by
//! its key.
//!
//! `cargo run -p haltline-worker --example add_node`, next to a running `haltline dev`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use haltline_common::types::catalog::{Effect, NodeType};
use haltline_common::{Link, config::Settings, shutdown};
use haltline_worker::{Context, Intent, Node, NodeError, Outputs, Registry, Resolved};
use serde_json::json;

/// Stands for the bank: transfers by their key.
#[derive(Default)]
struct Bank(Mutex<BTreeMap<String, String>>);

struct Transfer(Bank);

#[async_trait::async_trait]
impl Node for Transfer {
    fn describe(&self) -> NodeType {
        NodeType::new("transfer", Effect::OpensRisk).require(&["amount"]).describe("moves an amount; outputs amount")
    }

    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError> {
        let amount = ctx.decimal("amount")?.to_string();
        // What changes something outside goes through `ctx.effect`: a halt closes it, its intent is stored
        // before it and its outcome after it. An error means that it may have happened, unless it says
        // `.not_done()`.
        ctx.effect(async || {
            let mut transfers = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            transfers.insert(ctx.idempotency_key(), amount.clone());
            Ok(Outputs::from_iter([("amount".to_owned(), json!(amount))]))
        })
        .await
    }

    fn resolves(&self) -> bool {
        true
    }

    // Asked where it may have happened: this worker, or the one before it, died or got no answer. Without
    // it such a node waits for `haltline executions resolve`, unless it declares itself `idempotent`.
    async fn resolve(&self, _ctx: &Context, intent: &Intent) -> Result<Resolved, NodeError> {
        let transfers = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match transfers.get(&intent.key) {
            Some(amount) => Resolved::Done(Outputs::from_iter([("amount".to_owned(), json!(amount))])),
            None => Resolved::NotDone,
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::default();
    let link = Link::connect(&settings.nats.url, settings.check().map_err(anyhow::Error::msg)?, "worker").await?;
    let mut registry = Registry::built_in();
    registry.add(Transfer(Bank::default())).map_err(anyhow::Error::msg)?;
    haltline_worker::run(link, settings.worker, registry, shutdown::listen()?).await
}
