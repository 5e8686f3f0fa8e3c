//! What clients ask of a coordinator, by request and reply on core NATS. The client repeats an
//! unanswered request with the same key; that finds the same execution.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smol_str::SmolStr;

use crate::{
    error::{ApiError, Code},
    event::Resolution,
    ids::shard_of,
    json,
    limits::{OUTPUT_BYTES_MAX, TEXT_BYTES_MAX},
    record::{Outputs, Status},
};

/// Starts an execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// The workflow.
    pub workflow_id: SmolStr,
    /// Its version; the latest if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<SmolStr>,
    /// The execution's input: an object, or null.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    /// Instead of the definition's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bot_id: Option<SmolStr>,
    /// Instead of the definition's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy_id: Option<SmolStr>,
    /// What makes a repeat a repeat: 1 to 256 bytes, unique per intended execution.
    pub key: SmolStr,
    /// Subject to tell the end to, besides the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<SmolStr>,
}

impl Submit {
    /// The shard that the request is sent to, and whose execution ids it draws: by workflow and key, so
    /// that a repeat goes the same way before there is an id.
    pub fn shard(&self, shards: u32) -> u32 {
        shard_of(&format!("{}\0{}", self.workflow_id, self.key), shards)
    }
}

/// Ends an execution as cancelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// Which.
    pub execution_id: SmolStr,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Who.
    #[serde(default)]
    pub by: String,
}

/// Says what became of a node whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// Which execution.
    pub execution_id: SmolStr,
    /// Which node.
    pub node_id: SmolStr,
    /// What was found out.
    pub resolution: Resolution,
    /// What the node gave: there if and only if it is `done`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Outputs>,
    /// How it was found out.
    #[serde(default)]
    pub reason: String,
    /// Who.
    #[serde(default)]
    pub by: String,
}

impl Resolve {
    /// What can be told without asking anyone.
    ///
    /// # Errors
    /// `Invalid` or `TooLarge`, naming the field.
    pub fn check(&self) -> Result<(), ApiError> {
        match (&self.outputs, self.resolution) {
            (None, Resolution::Done) => return Err(ApiError::invalid("outputs", "must be there as an object if the node is `done`")),
            (Some(_), Resolution::Repeat | Resolution::Fail) => {
                return Err(ApiError::invalid("outputs", "can only be given if the node is `done`"));
            }
            (Some(outputs), Resolution::Done) if json::size(outputs) > OUTPUT_BYTES_MAX => {
                let message = format!("outputs: have {} bytes, more than {OUTPUT_BYTES_MAX}", json::size(outputs));
                return Err(ApiError { field: Some("outputs".into()), ..ApiError::new(Code::TooLarge, message) });
            }
            _ => {}
        }
        for (field, text) in [("reason", &self.reason), ("by", &self.by)] {
            if text.len() > TEXT_BYTES_MAX {
                return Err(ApiError::invalid(field, format!("has more than {TEXT_BYTES_MAX} bytes")));
            }
        }
        Ok(())
    }
}

/// The answer to [`Submit`], [`Cancel`] and [`Resolve`]: sent once everything it implies is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Accepted.
    Ok(Accepted),
    /// Refused; nothing was changed.
    Error(ApiError),
}

/// An accepted request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// The execution.
    pub execution_id: SmolStr,
    /// Where it stands.
    pub status: Status,
    /// True if the key was known: this is that execution.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}
