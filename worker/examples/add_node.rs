//! A worker with a node type of its own: `spread`, the difference of two prices.
//!
//! `cargo run -p haltline-worker --example add_node`, next to a running `haltline dev`.

use haltline_common::types::catalog::{Effect, NodeType};
use haltline_common::{Link, config::Settings, shutdown};
use haltline_worker::{Context, Node, NodeError, Outputs, Registry};

struct Spread;

#[async_trait::async_trait]
impl Node for Spread {
    fn describe(&self) -> NodeType {
        NodeType {
            name: "spread".into(),
            description: "ask minus bid; outputs spread".into(),
            effect: Effect::None,
            required: vec!["ask".into(), "bid".into()],
        }
    }

    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError> {
        let spread = ctx.decimal("ask")? - ctx.decimal("bid")?;
        // What changes something outside goes through `ctx.effect`, which a halt closes.
        Ok(Outputs::from_iter([("spread".to_owned(), spread.to_string().into())]))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::default();
    let link = Link::connect(&settings.nats.url, settings.check().map_err(anyhow::Error::msg)?, "worker").await?;
    let mut registry = Registry::built_in();
    registry.add(Spread).map_err(anyhow::Error::msg)?;
    haltline_worker::run(link, settings.worker, registry, shutdown::listen()?).await
}
