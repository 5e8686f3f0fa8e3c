//! Storing and reading workflows.

use haltline_common::{
    definitions,
    types::{Names, definition::Definition},
};
use haltline_core::Plan;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{ApiError, Client, Code, scan};
use haltline_common::tail::Start;

/// Workflows listed at most: what one answer can carry and a person still search.
const WORKFLOWS_MAX: usize = 10_000;

/// Versions listed at most, the oldest of them.
const VERSIONS_MAX: usize = 10_000;

/// A workflow in a list: its id and what its pointer to the latest version says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WorkflowSummary {
    /// Its id.
    pub id: String,
    /// Its latest version.
    pub version: String,
    /// When that version was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<haltline_common::types::Timestamp>,
}

impl Client {
    /// Validates and stores a workflow's version. `true` if it is new, `false` if the same is stored
    /// already.
    ///
    /// # Errors
    /// `Invalid` with the first problem's field, all problems in `detail.problems`; `Conflict` if the
    /// version exists with other content; `TooLarge`; `Unavailable`.
    pub async fn put_workflow(&self, definition: &Definition) -> Result<bool, ApiError> {
        let link = &self.shared.link;
        let types = definitions::known_types(link).await?;
        if let Err(problems) = Plan::compile(definition, &types) {
            let list: Vec<_> = problems.iter().map(|p| json!({ "field": p.field, "message": p.message, "node": p.node })).collect();
            let first = problems.first();
            let message = first.map_or_else(|| "the definition is invalid".to_owned(), |p| format!("{}: {}", p.field, p.message));
            return Err(ApiError {
                code: Code::Invalid,
                message,
                field: first.map(|p| p.field.clone()),
                detail: json!({ "problems": list }),
            });
        }
        let put = definitions::put(link, &self.shared.publisher, definition);
        let new = match tokio::time::timeout(self.timeout, put).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(crate::unavailable("nats-server did not confirm the workflow in time; repeat it")),
        };
        self.shared.known.remember(definition);
        Ok(new)
    }

    /// A stored workflow: the latest version, or the one named.
    ///
    /// # Errors
    /// `UnknownWorkflow`, `Unavailable`.
    pub async fn workflow(&self, id: &str, version: Option<&str>) -> Result<Definition, ApiError> {
        let link = &self.shared.link;
        let unknown = |what: &str| ApiError::new(Code::UnknownWorkflow, format!("there is no workflow `{id}`{what}"));
        let version = match version {
            Some(version) => version.to_owned(),
            None => definitions::latest_version(link, id).await?.ok_or_else(|| unknown(""))?,
        };
        definitions::get(link, id, &version).await?.ok_or_else(|| unknown(&format!(" in version `{version}`")))
    }

    /// The latest version of a workflow and all its versions, in the order in which they were stored.
    ///
    /// # Errors
    /// `UnknownWorkflow`, `Unavailable`.
    pub async fn versions(&self, id: &str) -> Result<(String, Vec<String>), ApiError> {
        let link = &self.shared.link;
        let unknown = || ApiError::new(Code::UnknownWorkflow, format!("there is no workflow `{id}`"));
        let latest = definitions::latest_version(link, id).await?.ok_or_else(unknown)?;
        let bucket = link.names.definitions_bucket();
        let filter = Names::kv_subject(&bucket, &Names::definitions_of(id));
        // Their subjects say all: a definition can have hundreds of kilobytes.
        let mut versions = scan::subjects(link, Names::bucket_stream(&bucket), filter, VERSIONS_MAX).await?;
        versions.retain_mut(|subject| match Names::version_of(subject) {
            Some(version) => {
                *subject = version;
                true
            }
            None => false,
        });
        Ok((latest, versions))
    }

    /// All workflows by id, up to 10,000.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn workflows(&self) -> Result<Vec<WorkflowSummary>, ApiError> {
        let bucket = self.shared.link.names.definitions_bucket();
        // Pointers only: versions carry whole definitions.
        let filter = Names::kv_subject(&bucket, "*.latest");
        let mut list: Vec<WorkflowSummary> = Vec::new();
        scan::values(&self.shared.link, Names::bucket_stream(&bucket), filter, Start::LastPerSubject, |_, value| {
            match serde_json::from_slice(value) {
                Ok(summary) => list.push(summary),
                Err(e) => tracing::warn!(error = %e, "a pointer to a workflow's latest version is malformed; left out"),
            }
            list.len() < WORKFLOWS_MAX
        })
        .await?;
        list.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(list)
    }
}
