//! An event as the hub keeps it: its text as stored, and what filters look at.

use std::{borrow::Cow, sync::Arc};

use serde::Deserialize;

/// An event of the log.
#[derive(Debug)]
pub(crate) struct LogEvent {
    /// Its sequence in the log.
    pub seq: u64,
    /// Its deterministic id.
    pub id: Arc<str>,
    /// What happened, as written; types of newer versions pass unchanged.
    pub kind: Box<str>,
    /// Whose it is; empty where it belongs to none.
    pub execution: Box<str>,
    pub workflow: Box<str>,
    pub bot: Box<str>,
    pub strategy: Box<str>,
    /// The JSON text.
    pub json: Box<str>,
}

#[derive(Deserialize)]
struct Look<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(default, borrow)]
    execution_id: Cow<'a, str>,
    #[serde(default, borrow)]
    workflow_id: Cow<'a, str>,
    #[serde(default, borrow)]
    bot_id: Cow<'a, str>,
    #[serde(default, borrow)]
    strategy_id: Cow<'a, str>,
}

impl LogEvent {
    /// Reads a message's body. The rest of the event is not interpreted, only checked to be JSON,
    /// since it is put into frames as it is.
    pub fn read(seq: u64, payload: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(payload).map_err(|e| e.to_string())?;
        let look: Look<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        Ok(Self {
            seq,
            id: look.id.into(),
            kind: look.kind.into(),
            execution: look.execution_id.into(),
            workflow: look.workflow_id.into(),
            bot: look.bot_id.into(),
            strategy: look.strategy_id.into(),
            json: text.trim().into(),
        })
    }

    /// Bytes it holds, roughly.
    pub fn bytes(&self) -> usize {
        self.json.len() + 2 * self.id.len() + self.execution.len() + self.workflow.len() + self.bot.len() + self.strategy.len() + 256
    }
}
