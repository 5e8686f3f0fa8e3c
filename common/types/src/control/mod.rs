//! Control: levels, scopes, what a value in the control bucket means, and what all values together
//! allow. Anything that is not plainly an allowance counts as a halt and says why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod audit;
mod flags;
mod lease;
mod scope;
mod value;

pub use audit::{AuditEntry, GENESIS, Happened, digest};
pub use flags::{Flags, Gate, Place};
pub use lease::{Lease, Marker, OpenEffect};
pub use scope::Scope;
pub use value::{ControlValue, Flag};

/// The key of the flag that covers everything.
pub const GLOBAL_KEY: &str = "halt.global";
/// The key of the [`Marker`] that tells this control bucket from one that was made again.
pub const INSTALL_KEY: &str = "install";

/// How grave a control state is; ordered, gravest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything runs.
    Normal,
    /// Everything runs; people watch closer.
    Alert,
    /// Nothing that opens risk starts.
    Reducing,
    /// Nothing starts and nothing ends: what runs waits until someone resumes or halts. What a
    /// restored installation is in.
    Hold,
    /// Only what is neutral, observes or is marked allowed while halted starts.
    Halt,
    /// Nothing starts.
    Shutdown,
}

impl Level {
    /// All of them, gravest last.
    pub const ALL: [Self; 6] = [Self::Normal, Self::Alert, Self::Reducing, Self::Hold, Self::Halt, Self::Shutdown];

    /// Whether everything runs.
    pub const fn runs(self) -> bool {
        matches!(self, Self::Normal | Self::Alert)
    }
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Alert => "alert",
            Self::Reducing => "reducing",
            Self::Hold => "hold",
            Self::Halt => "halt",
            Self::Shutdown => "shutdown",
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|l| l.as_str() == text).ok_or_else(|| format!("`{text}` is none of {}", names()))
    }
}

/// What a halt means for an execution that runs in its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnHalt {
    /// It ends as `halted`: nothing that it knew is acted on after a resume.
    Abort,
    /// It waits and goes on after a resume, with inputs read again that are older than their limit.
    Hold,
}

impl OnHalt {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Hold => "hold",
        }
    }
}

/// Who changes a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The name.
    pub name: String,
    /// Whether the caller was authenticated as that name.
    pub verified: bool,
}

impl Actor {
    /// Someone who was authenticated.
    pub fn verified(name: impl Into<String>) -> Self {
        Self { name: name.into(), verified: true }
    }
}

impl<T: Into<String>> From<T> for Actor {
    /// Someone who says so, and was not authenticated.
    fn from(name: T) -> Self {
        Self { name: name.into(), verified: false }
    }
}
