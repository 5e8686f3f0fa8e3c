//! Errors as clients see them: a stable code, a sentence, and the field it is about.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is wrong with a request. The code is stable; programs match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Code {
    /// The control flag refuses: halted, shut down, or a control value that counts as halted.
    EmergencyHalted,
    /// The control flag cannot be read for certain right now; nothing was changed; repeat.
    ControlUnsure,
    /// Malformed or invalid input; `field` says where.
    Invalid,
    /// Above a limit of [`crate::limits`].
    TooLarge,
    /// No such workflow or version.
    UnknownWorkflow,
    /// No such execution.
    UnknownExecution,
    /// The key, version or revision already stands for something else.
    Conflict,
    /// As many executions are running as this installation admits; repeat later.
    Overloaded,
    /// No coordinator answers, or the server is out of reach; repeat with the same key.
    Unavailable,
    /// A fault of ours; the message says what to report.
    Internal,
}

impl Code {
    /// The HTTP status that stands for it.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::EmergencyHalted => 423,
            Self::Invalid => 422,
            Self::TooLarge => 413,
            Self::UnknownWorkflow | Self::UnknownExecution => 404,
            Self::Conflict => 409,
            Self::Overloaded => 429,
            Self::ControlUnsure | Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }
    /// The exit code of the command line.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Invalid | Self::TooLarge => 2,
            Self::EmergencyHalted => 3,
            Self::UnknownWorkflow | Self::UnknownExecution => 4,
            Self::Conflict => 5,
            Self::ControlUnsure | Self::Overloaded | Self::Unavailable => 6,
            Self::Internal => 1,
        }
    }
    /// Whether repeating the same request later can succeed.
    pub const fn retryable(self) -> bool {
        matches!(self, Self::ControlUnsure | Self::Overloaded | Self::Unavailable)
    }
}

/// An error as it crosses the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct ApiError {
    /// What kind.
    pub code: Code,
    /// One sentence for people.
    pub message: String,
    /// Path of the offending field, as `nodes[2].inputs.value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// More about it: the halt's state, reason, who and when; all problems of a definition.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

impl ApiError {
    /// An error without field and detail.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, detail: Value::Null }
    }
    /// An [`Code::Invalid`] about `field`.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        let field = field.into();
        Self { code: Code::Invalid, message: format!("{field}: {}", message.into()), field: Some(field), detail: Value::Null }
    }
    /// The same with `detail`.
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }
}
