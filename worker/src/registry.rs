//! Node types and where a worker finds them.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use haltline_common::types::catalog::{NodeType, is_type_name};

use crate::context::{Context, NodeError, Outputs};

/// A node type. One value of it serves all its nodes, many at once.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// Its name, what it needs, what it does outside.
    fn describe(&self) -> NodeType;

    /// Runs one attempt. Long computations belong on `tokio::task::spawn_blocking`: this shares a
    /// thread with the guard. Side effects go through [`Context::effect`].
    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError>;
}

/// The node types of a worker, by name.
#[derive(Clone, Default)]
pub struct Registry {
    types: BTreeMap<String, Arc<dyn Node>>,
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
            registry.types.insert(node.describe().name, node);
        }
        registry
    }

    /// Adds a type.
    ///
    /// # Errors
    /// When its name is not usable in subjects or already taken.
    pub fn add(&mut self, node: impl Node) -> Result<(), String> {
        let name = node.describe().name;
        if !is_type_name(&name) {
            return Err(format!("node type `{name}`: a name has 1 to 64 lower case letters, digits or `_`"));
        }
        if self.types.contains_key(&name) {
            return Err(format!("node type `{name}` is registered already"));
        }
        self.types.insert(name, Arc::new(node));
        Ok(())
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
