//! What a node does to the world outside, as far as a halt cares.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a node type, or a single node, does outside. What is not declared counts as the gravest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Changes something outside that can open or add risk: orders, transfers, unknown requests.
    #[default]
    #[serde(alias = "acts")]
    OpensRisk,
    /// Changes something outside and can only take risk away, as an order that can only close a position.
    ReducesRisk,
    /// Changes nothing outside that carries risk: computations, notifications.
    #[serde(alias = "none")]
    Neutral,
    /// Only reads from outside.
    Observes,
}

impl Effect {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpensRisk => "opens_risk",
            Self::ReducesRisk => "reduces_risk",
            Self::Neutral => "neutral",
            Self::Observes => "observes",
        }
    }
    /// Whether it touches risk, in either direction: what a halt refuses.
    pub const fn touches_risk(self) -> bool {
        matches!(self, Self::OpensRisk | Self::ReducesRisk)
    }
}
