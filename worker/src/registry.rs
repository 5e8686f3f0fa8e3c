//! Node types and where a worker finds them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use haltline_common::types::catalog::{Effect, NodeType, is_type_name};
use haltline_common::types::risk::{Noted, Order};

use haltline_core::Intent;

use crate::context::{Context, NodeError, Outputs};

/// What became of a side effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    /// It happened: what the node gives.
    Done(Outputs),
    /// It did not happen, and what was sent cannot happen any more, or only as a repeat of the same key.
    NotDone,
    /// It cannot be told: why.
    Unknown(String),
}

/// A node type. One value of it serves all its nodes, many at once.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// Its name, what it needs, what it does outside.
    fn describe(&self) -> NodeType;

    /// Runs one attempt. Long computations belong on `tokio::task::spawn_blocking`: this shares a
    /// thread with the guard. Side effects go through [`Context::effect`].
    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError>;

    /// Whether [`Node::resolve`] can find anything out.
    fn resolves(&self) -> bool {
        false
    }

    /// Finds out what became of a side effect of this node that may have happened (its worker died, no
    /// answer came in time), as by asking the venue by `intent.key`. Called before the node runs again.
    /// It does nothing but look, and see to it that what was sent so far cannot happen any more: an error is an attempt that failed,
    /// and it is asked again.
    async fn resolve(&self, _ctx: &Context, _intent: &Intent) -> Result<Resolved, NodeError> {
        Ok(Resolved::Unknown("nobody can be asked what became of it".into()))
    }

    /// The order that this node's side effect is, if it is one, with the highest price that it can be filled at: what
    /// risk limits reserve before it. What is no order counts as an action alone.
    ///
    /// # Errors
    /// When inputs or parameters are not what an order needs.
    fn order(&self, _ctx: &Context) -> Result<Option<Order>, NodeError> {
        Ok(None)
    }

    /// What outputs say about risk: the fill of an order (its id is [`Context::idempotency_key`]), a price. Risk limits
    /// count nothing else; `venue` is where the node acts.
    fn noted(&self, _ctx: &Context, _outputs: &Outputs, _venue: &str) -> Vec<Noted> {
        Vec::new()
    }

    /// Whether this node may simply be repeated where nobody can be asked: its receiver recognises the
    /// idempotency key, or doing it twice is as good as once.
    fn idempotent(&self, _ctx: &Context) -> bool {
        false
    }
}

/// The node types of a worker, by name.
#[derive(Clone, Default)]
pub struct Registry {
    types: BTreeMap<String, Arc<dyn Node>>,
    /// Those that act: only they have a door to the world outside.
    acting: BTreeSet<String>,
}

impl Registry {
    /// Without any types.
    pub fn empty() -> Self {
        Self::default()
    }

    /// With the built-in types.
    pub fn built_in() -> Self {
        let mut registry = Self::empty();
        for node in crate::nodes::built_in() {
            registry.insert(node.describe(), node);
        }
        registry
    }

    /// Adds a type.
    ///
    /// # Errors
    /// When its name is not usable in subjects or already taken.
    pub fn add(&mut self, node: impl Node) -> Result<(), String> {
        let described = node.describe();
        let name = &described.name;
        if !is_type_name(name) {
            return Err(format!("node type `{name}`: a name has 1 to 64 lower case letters, digits or `_`"));
        }
        if self.types.contains_key(name) {
            return Err(format!("node type `{name}` is registered already"));
        }
        self.insert(described, Arc::new(node));
        Ok(())
    }

    fn insert(&mut self, described: NodeType, node: Arc<dyn Node>) {
        if described.effect != Effect::Observes && !described.computes_only {
            self.acting.insert(described.name.clone());
        }
        self.types.insert(described.name, node);
    }

    /// Whether the type of that name says that it acts.
    pub fn acts(&self, name: &str) -> bool {
        self.acting.contains(name)
    }

    /// The type of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Node>> {
        self.types.get(name)
    }

    /// All types, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<dyn Node>)> {
        self.types.iter().map(|(name, node)| (name.as_str(), node))
    }
}
