//! Compiled definitions, kept in memory, and the pointers to latest versions, followed live.

use std::{collections::HashMap, sync::Arc};

use haltline_common::{
    Link, definitions,
    types::{
        SmolStr,
        error::{ApiError, Code},
        ids,
    },
};
use haltline_core::Plan;

/// Plans kept: a plan of the largest definition has a few megabytes, a usual one kilobytes.
const PLANS_MAX: usize = 1000;

/// The cache.
#[derive(Default)]
pub struct Plans {
    plans: Arc<HashMap<(SmolStr, SmolStr), Arc<Plan>>>,
    latest: HashMap<String, String>,
}

impl Plans {
    /// Takes in a message of a pointer's subject.
    pub fn learn_latest(&mut self, subject: &str, payload: &[u8]) {
        let Some(workflow) = subject.rsplit('.').nth(1).and_then(ids::untoken) else { return };
        match serde_json::from_slice::<serde_json::Value>(payload) {
            Ok(v) => {
                if let Some(version) = v.get("version").and_then(|v| v.as_str()) {
                    self.latest.insert(workflow, version.to_owned());
                }
            }
            // Deleted: unknown from now on.
            Err(_) => {
                self.latest.remove(&workflow);
            }
        }
    }

    /// The plan of a version (the latest if `None`), if it is in memory.
    pub fn get(&self, workflow: &str, version: Option<&str>) -> Option<Arc<Plan>> {
        let version = version.or_else(|| self.latest.get(workflow).map(String::as_str))?;
        self.plans.get(&(workflow.into(), version.into())).cloned()
    }

    /// Keeps a plan.
    pub fn keep(&mut self, plan: &Arc<Plan>) {
        let d = plan.definition();
        let key = (d.id.clone(), d.version.clone());
        if self.plans.contains_key(&key) {
            return;
        }
        let plans = Arc::make_mut(&mut self.plans);
        if plans.len() >= PLANS_MAX {
            // Any will do: it is compiled again when needed.
            if let Some(other) = plans.keys().next().cloned() {
                plans.remove(&other);
            }
        }
        plans.insert(key, Arc::clone(plan));
    }

    /// What is in memory now, for a load that runs beside the loop.
    pub fn snapshot(&self) -> impl Fn(&str, &str) -> Option<Arc<Plan>> + Send + use<> {
        let plans = Arc::clone(&self.plans);
        move |workflow, version| plans.get(&(workflow.into(), version.into())).cloned()
    }
}

/// Reads and compiles a stored definition.
pub async fn fetch(link: &Link, workflow: &str, version: Option<&str>) -> Result<Arc<Plan>, ApiError> {
    let unknown = |message: String| ApiError { field: Some("workflow_id".into()), ..ApiError::new(Code::UnknownWorkflow, message) };
    if let Err(e) = ids::check_id(workflow) {
        return Err(ApiError::invalid("workflow_id", e));
    }
    let version = match version {
        Some(v) => v.to_owned(),
        None => definitions::latest_version(link, workflow).await?.ok_or_else(|| unknown(format!("there is no workflow `{workflow}`")))?,
    };
    let definition = definitions::get(link, workflow, &version)
        .await?
        .ok_or_else(|| unknown(format!("there is no version `{version}` of workflow `{workflow}`")))?;
    let types = definitions::known_types(link).await?;
    match Plan::compile(&definition, &types) {
        Ok(plan) => Ok(Arc::new(plan)),
        Err(problems) => {
            let first = problems.first().map_or_else(String::new, |p| format!("{}: {}", p.field, p.message));
            Err(ApiError::new(Code::Invalid, format!("workflow `{workflow}` version `{version}` cannot run here: {first}")))
        }
    }
}
