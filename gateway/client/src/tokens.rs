//! API tokens of gateways.

use haltline_common::{
    clock, kv,
    tail::Start,
    types::{
        Names, Timestamp,
        access::{Role, Scopes, StoredToken, TOKEN_PREFIX, TokenSummary},
        ids::{check_id, sha256},
    },
};

use crate::{ApiError, Client, Code, scan};

/// Tokens at most: gateways hold all of them in memory.
pub const TOKENS_MAX: usize = 10_000;

impl Client {
    /// Makes a token; the token itself, which is told this once, and what is kept of it.
    ///
    /// # Errors
    /// `Invalid` for a name that cannot be one, `Overloaded` above 10,000 tokens, `Unavailable`.
    pub async fn create_token(
        &self,
        name: &str,
        role: Role,
        scopes: Scopes,
        expires_at: Option<Timestamp>,
        by: &str,
    ) -> Result<(String, TokenSummary), ApiError> {
        check_id(name.trim()).map_err(|e| ApiError::invalid("name", e))?;
        for (field, list) in
            [("scopes.workflows", &scopes.workflows), ("scopes.bots", &scopes.bots), ("scopes.strategies", &scopes.strategies)]
        {
            for id in list {
                check_id(id).map_err(|e| ApiError::invalid(field, e))?;
            }
        }
        if expires_at.is_some_and(|at| at <= clock::now()) {
            return Err(ApiError::invalid("expires_at", "has passed already"));
        }
        if self.tokens().await?.len() >= TOKENS_MAX {
            return Err(ApiError::new(Code::Overloaded, format!("there are {TOKENS_MAX} tokens: revoke some")));
        }
        // Each has 122 random bits of the system's generator.
        let random = || uuid::Uuid::new_v4().simple().to_string();
        let (id, secret) = (random()[..12].to_owned(), random() + &random());
        let stored = StoredToken {
            id: id.clone(),
            name: name.trim().to_owned(),
            role,
            scopes,
            sha256: sha256(secret.as_bytes()),
            created_at: clock::now(),
            created_by: by.to_owned(),
            expires_at,
        };
        let body = serde_json::to_vec(&stored).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        let bucket = self.shared.link.names.tokens_bucket();
        let entry = kv::swap(&self.shared.publisher, &bucket, &id, 0, body);
        self.bounded(entry).await?;
        Ok((format!("{TOKEN_PREFIX}{id}_{secret}"), stored.into()))
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn tokens(&self) -> Result<Vec<TokenSummary>, ApiError> {
        let bucket = self.shared.link.names.tokens_bucket();
        let filter = Names::kv_subject(&bucket, ">");
        let mut list: Vec<TokenSummary> = Vec::new();
        scan::values(&self.shared.link, Names::bucket_stream(&bucket), filter, Start::LastPerSubject, |_, value| {
            match serde_json::from_slice::<StoredToken>(value) {
                Ok(token) => list.push(token.into()),
                Err(e) => tracing::warn!(error = %e, "a stored token is malformed; left out"),
            }
            list.len() < TOKENS_MAX
        })
        .await?;
        list.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(list)
    }

    /// Revokes a token: gateways refuse it and close its connections within a second.
    ///
    /// # Errors
    /// `Invalid` if there is none with that id; `Unavailable`.
    pub async fn revoke_token(&self, id: &str) -> Result<TokenSummary, ApiError> {
        let token = self.tokens().await?.into_iter().find(|t| t.id == id);
        let token = token.ok_or_else(|| ApiError::invalid("id", format!("there is no token `{id}`")))?;
        let bucket = self.shared.link.names.tokens_bucket();
        self.bounded(kv::delete(&self.shared.publisher, &bucket, id)).await?;
        Ok(token)
    }

    async fn bounded<T>(&self, change: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        match tokio::time::timeout(self.timeout, change).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(crate::unavailable("nats-server did not confirm the change in time; list the tokens to know whether it is stored"))
            }
        }
    }
}
