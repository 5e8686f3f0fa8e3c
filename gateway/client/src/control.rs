//! The control flag.

use haltline_common::{
    control,
    types::control::{Flag, Level, Scope},
};

use crate::{ApiError, Client};

impl Client {
    /// The control flag as it is stored now, asked from the stream's leader.
    ///
    /// # Errors
    /// `Unavailable` if nats-server does not answer: whether there is a halt is not known then.
    pub async fn flag(&self) -> Result<Flag, ApiError> {
        control::read(&self.shared.link, &Scope::Global).await
    }

    /// Sets the control flag; what is stored then. Raising it always succeeds and keeps a graver
    /// level that is there already; from a halt only `normal` leads out.
    ///
    /// # Errors
    /// `Invalid` for a reason above 1024 bytes, `Conflict` for `alert` during a halt, `Unavailable`
    /// if nats-server does not answer within the client's time-out: the change may still be stored.
    pub async fn set_flag(&self, state: Level, reason: &str, by: &str) -> Result<Flag, ApiError> {
        let set = control::set(&self.shared.link, &Scope::Global, state, by, reason);
        match tokio::time::timeout(self.timeout, set).await {
            Ok(outcome) => outcome.map(|stored| stored.flag()),
            Err(_) => Err(crate::unavailable("nats-server did not confirm the change in time; read the flag to know whether it is stored")),
        }
    }
}
