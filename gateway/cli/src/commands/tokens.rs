//! `haltline tokens`.

use clap::Subcommand;
use haltline_common::{
    clock,
    types::{
        Millis, Timestamp,
        access::{Role, Scopes},
    },
};
use serde_json::json;

use super::Context;
use crate::{output, read};

/// Make, list and revoke the tokens with which gateways let someone in
#[derive(Debug, clap::Args)]
#[command(after_help = "Needs no gateway: whoever may write to NATS may make tokens.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a token and print it: it is told this once
    Create {
        /// Whose it will be, for people and for the record
        #[arg(value_name = "NAME")]
        name: String,
        /// viewer: look; operator: submit, cancel, halt; admin: resume, tokens
        #[arg(long, value_name = "ROLE", default_value = "viewer")]
        role: Role,
        /// Only what is of this workflow; repeated
        #[arg(long = "workflow", value_name = "WORKFLOW_ID")]
        workflows: Vec<String>,
        /// Only what is of this bot; repeated
        #[arg(long = "bot", value_name = "BOT_ID")]
        bots: Vec<String>,
        /// Only what is of this strategy; repeated
        #[arg(long = "strategy", value_name = "STRATEGY_ID")]
        strategies: Vec<String>,
        /// How long it counts, as 12h or 30d [default: until it is revoked]
        #[arg(long, value_name = "DURATION")]
        expires: Option<Millis>,
        /// Who makes it [default: $USER]
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
    /// All tokens, without their secrets
    List,
    /// Revoke a token: its connections are closed within a second
    Revoke {
        /// Its id, as `list` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Does what was asked.
///
/// # Errors
/// When something is invalid, or nobody answers.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let client = context.client().await?;
    match args.what {
        What::Create { name, role, workflows, bots, strategies, expires, by } => {
            let scopes = Scopes { workflows, bots, strategies };
            let expires_at = expires.map(|d| Timestamp(clock::now().0.saturating_add(i64::try_from(d.0).unwrap_or(i64::MAX / 2))));
            let (token, summary) = client.create_token(&name, role, scopes, expires_at, &read::by(by)).await?;
            if context.json {
                output::json(&json!({ "token": token, "id": summary.id, "name": summary.name, "role": summary.role }));
            } else {
                output::line(token);
            }
        }
        What::List => {
            let tokens = client.tokens().await?;
            if context.json {
                output::json(&json!({ "tokens": tokens }));
                return Ok(0);
            }
            let covers = |s: &Scopes| {
                let of = |kind: &str, ids: &[String]| ids.iter().map(|id| format!("{kind}:{id}")).collect::<Vec<_>>();
                let all = [of("workflow", &s.workflows), of("bot", &s.bots), of("strategy", &s.strategies)].concat();
                if all.is_empty() { "everything".to_owned() } else { all.join(" ") }
            };
            let rows: Vec<[String; 6]> = tokens
                .iter()
                .map(|t| {
                    let until = t.expires_at.map_or_else(|| "revoked".into(), |at| at.to_string());
                    [t.id.clone(), t.name.clone(), t.role.as_str().into(), covers(&t.scopes), t.created_at.to_string(), until]
                })
                .collect();
            output::table(["ID", "NAME", "ROLE", "COVERS", "CREATED", "UNTIL"], &rows);
        }
        What::Revoke { id } => {
            let gone = client.revoke_token(&id).await?;
            if context.json {
                output::json(&json!({ "revoked": gone }));
            } else {
                output::line(format_args!("revoked {} of {} ({})", gone.id, gone.name, gone.role.as_str()));
            }
        }
    }
    Ok(0)
}
