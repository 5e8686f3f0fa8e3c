//! `haltline workflows`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use haltline_common::{
    definitions,
    types::{
        catalog::built_in_types,
        error::{ApiError, Code},
    },
};
use haltline_core::Plan;
use serde_json::json;

use super::Context;
use crate::{output, read};

/// Store, list, show and validate workflows
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Validate and store definitions; a version that is stored never changes
    Put {
        /// Definitions, JSON or YAML; - reads standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// All workflows with their latest version
    List,
    /// A stored definition
    Show {
        /// The workflow
        #[arg(value_name = "WORKFLOW_ID")]
        id: String,
        /// Its version [default: the latest]
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
    },
    /// Tell what is wrong with definitions, without storing them
    Validate {
        /// Definitions, JSON or YAML; - reads standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Also know the node types that workers added; asks the nats-server
        #[arg(long)]
        installed: bool,
    },
}

/// Does what was asked.
///
/// # Errors
/// When a definition is invalid or unknown, or nobody answers.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    match args.what {
        What::Put { files } => put(&files, &context).await?,
        What::List => list(&context).await?,
        What::Show { id, version } => {
            let definition = context.client().await?.workflow(&id, version.as_deref()).await?;
            if context.json { output::json(&definition) } else { output::pretty(&definition) }
        }
        What::Validate { files, installed } => validate(&files, installed, &context).await?,
    }
    Ok(0)
}

async fn put(files: &[PathBuf], context: &Context) -> anyhow::Result<()> {
    // All are read before the first is stored: a typing error in the last changes nothing.
    let definitions = files.iter().map(|f| read::definition(f).map(|d| (f, d))).collect::<Result<Vec<_>, _>>()?;
    let client = context.client().await?;
    for (file, definition) in definitions {
        let new = client.put_workflow(&definition).await.map_err(|e| in_file(file, e))?;
        if context.json {
            output::json(&json!({ "id": definition.id, "version": definition.version, "new": new }));
        } else {
            let word = if new { "stored" } else { "was stored already" };
            output::line(format_args!("{} version {} {word}", definition.id, definition.version));
        }
    }
    Ok(())
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let workflows = context.client().await?.workflows().await?;
    if context.json {
        output::json(&json!({ "workflows": workflows }));
    } else if workflows.is_empty() {
        output::line("no workflows");
    } else {
        let rows: Vec<[String; 3]> =
            workflows.into_iter().map(|w| [w.id, w.version, w.at.map(|t| t.to_string()).unwrap_or_default()]).collect();
        output::table(["WORKFLOW", "LATEST", "STORED"], &rows);
    }
    Ok(())
}

async fn validate(files: &[PathBuf], installed: bool, context: &Context) -> anyhow::Result<()> {
    let types = if installed { definitions::known_types(&context.link("command line").await?).await? } else { built_in_types() };
    for file in files {
        let definition = read::definition(file)?;
        let plan = Plan::compile(&definition, &types).map_err(|problems| {
            let list: Vec<_> = problems.iter().map(|p| json!({ "field": p.field, "message": p.message, "node": p.node })).collect();
            let first = problems.first();
            let message = first.map_or_else(|| "invalid".into(), |p| format!("{}: {}", p.field, p.message));
            let error = ApiError { field: first.map(|p| p.field.clone()), ..ApiError::new(Code::Invalid, message) };
            in_file(file, error.with_detail(json!({ "problems": list })))
        })?;
        if context.json {
            output::json(&json!({ "file": file, "valid": true, "id": definition.id, "version": definition.version, "nodes": plan.len() }));
        } else {
            let nodes = output::count(plan.len(), "node");
            output::line(format_args!("{}: valid: {} version {}, {nodes}", file.display(), definition.id, definition.version));
        }
    }
    Ok(())
}

fn in_file(file: &Path, e: ApiError) -> ApiError {
    ApiError { message: format!("{}: {}", file.display(), e.message), ..e }
}
