//! `haltline risk`.

mod set;
mod status;

use haltline_common::{
    risk,
    types::{
        control::Scope,
        error::{ApiError, Code},
    },
};
use serde_json::json;

use super::Context;
use crate::output;

/// Limits that trip by themselves: losses, positions, rates
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What actions reserve (position_size, exposure, notional_per_window, actions_per_minute) is never exceeded: an action that would is refused before anything is sent. What outcomes show (daily_loss, drawdown_percent, consecutive_failures, failure_rate, order_reject_rate, stale_feed) raises a level once it has happened."
)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Store a rule, in place of the one of its name and scope if there is one
    Set(Box<set::Args>),
    /// Show a rule as it is stored
    Get(One),
    /// Show all rules
    List,
    /// Remove a rule; what its scope has reserved stays counted
    Delete(One),
    /// Show how near each limit is, and which dead-man switches are armed
    Status,
    /// Begin anew what the actions of a scope have reserved and spent: no positions, nothing spent
    Reset(Of),
}

/// One rule.
#[derive(Debug, clap::Args)]
struct One {
    /// The rule's name
    name: String,
    #[command(flatten)]
    of: Of,
}

/// One scope.
#[derive(Debug, clap::Args)]
struct Of {
    /// global, or a kind and an id: strategy:s1, bot:b1, workflow:w1, venue:binance, node_type:http
    #[arg(long, value_name = "SCOPE")]
    scope: Scope,
}

/// Does it.
///
/// # Errors
/// What is wrong with a rule, by its field; when nats-server does not answer.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let client = context.client().await?;
    let link = client.link();
    match args.what {
        What::Set(args) => set::run(*args, link, &context).await?,
        What::Get(One { name, of }) => {
            let key = haltline_risk::rule_key(&of.scope, &name);
            let rule = risk::rules(link).await?.remove(&key).ok_or_else(|| unknown(&name, &of.scope))?;
            let rule = rule.map_err(|why| ApiError::new(Code::Internal, format!("{key} cannot be read: {why}")))?;
            if context.json { output::json(&rule) } else { output::pretty(&rule) }
        }
        What::List => status::list(link, &context).await?,
        What::Delete(One { name, of }) => {
            if !risk::delete(link, &of.scope, &name).await? {
                return Err(unknown(&name, &of.scope).into());
            }
            if context.json {
                output::json(&json!({ "deleted": name, "scope": of.scope }));
            } else {
                output::line(format_args!("rule `{name}` of {} is gone: nothing limits that any more", of.scope));
            }
        }
        What::Status => status::run(link, &context).await?,
        What::Reset(of) => {
            let revision = risk::reset(link, &of.scope).await?;
            if context.json {
                output::json(&json!({ "scope": of.scope, "revision": revision }));
            } else {
                output::line(format_args!("what {} has reserved, spent and holds counts as nothing from now on", of.scope));
            }
        }
    }
    Ok(0)
}

fn unknown(name: &str, scope: &Scope) -> ApiError {
    ApiError::invalid("name", format!("there is no rule `{name}` of {scope}"))
}
