//! The control flags.

use haltline_common::{
    clock,
    confirmation::Confirming,
    control::{self, Stored},
    types::control::{Actor, Flag, Level, Scope},
};

use crate::{ApiError, Client};

impl Client {
    /// The control flag of everything as it is stored now, asked from the stream's leader.
    ///
    /// # Errors
    /// `Unavailable` if nats-server does not answer: whether there is a halt is not known then.
    pub async fn flag(&self) -> Result<Flag, ApiError> {
        self.flag_of(&Scope::Global).await
    }

    /// A scope's flag as it is stored now.
    ///
    /// # Errors
    /// As for [`Client::flag`].
    pub async fn flag_of(&self, scope: &Scope) -> Result<Flag, ApiError> {
        control::read(&self.shared.link, scope).await
    }

    /// Sets the control flag of everything; what is stored then. Raising it always succeeds and keeps a
    /// graver level that is there already; from a halt only `normal` leads out, from a shutdown only
    /// [`Client::lower`].
    ///
    /// # Errors
    /// Those of [`control::set`].
    pub async fn set_flag(&self, state: Level, reason: &str, by: &str) -> Result<Flag, ApiError> {
        self.in_time(control::set(&self.shared.link, &Scope::Global, state, by, reason)).await.map(|stored| stored.flag())
    }

    /// Raises a scope to `level`, or keeps it where it is graver; what is stored then.
    ///
    /// # Errors
    /// Those of [`control::raise`].
    pub async fn raise(&self, scope: &Scope, level: Level, by: impl Into<Actor>, reason: &str) -> Result<Stored, ApiError> {
        self.in_time(control::raise(&self.shared.link, scope, level, by, reason)).await
    }

    /// Lowers a scope to `level` if it is still at `revision`; what is stored then. `confirmed`: the scope
    /// once more, to leave a shutdown.
    ///
    /// # Errors
    /// Those of [`control::lower`].
    pub async fn lower(
        &self,
        scope: &Scope,
        level: Level,
        by: impl Into<Actor>,
        reason: &str,
        revision: u64,
        confirmed: Option<&str>,
    ) -> Result<Stored, ApiError> {
        self.in_time(control::lower(&self.shared.link, scope, level, by, reason, revision, confirmed)).await
    }

    /// Follows who confirms a flag that is stored.
    pub fn confirming(&self, flag: &Flag) -> Confirming {
        Confirming::start(&self.shared.link, flag.scope.clone(), flag.state, flag.revision, clock::boot())
    }

    async fn in_time(&self, change: impl Future<Output = Result<Stored, ApiError>>) -> Result<Stored, ApiError> {
        match tokio::time::timeout(self.timeout, change).await {
            Ok(outcome) => outcome,
            Err(_) => Err(crate::unavailable("nats-server did not confirm the change in time; read the flag to know whether it is stored")),
        }
    }
}
