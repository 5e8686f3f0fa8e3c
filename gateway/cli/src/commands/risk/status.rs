//! `haltline risk list` and `haltline risk status`.

use haltline_common::{
    Link, clock, risk,
    types::{control::Scope, error::ApiError},
};
use serde_json::json;

use crate::{commands::Context, output};

/// All rules.
///
/// # Errors
/// When nats-server does not answer.
pub async fn list(link: &Link, context: &Context) -> Result<(), ApiError> {
    let rules = risk::rules(link).await?;
    if context.json {
        let rules: Vec<_> = rules
            .into_iter()
            .map(|(key, rule)| match rule {
                Ok(rule) => json!({ "key": key, "rule": rule }),
                Err(why) => json!({ "key": key, "problem": why }),
            })
            .collect();
        output::json(&json!({ "rules": rules }));
        return Ok(());
    }
    if rules.is_empty() {
        output::line("no rules: nothing trips by itself");
        return Ok(());
    }
    let rows: Vec<[String; 6]> = rules
        .into_iter()
        .map(|(key, rule)| match rule {
            Ok(r) => {
                let limit = format!("{} {}", r.limit, r.kind.unit());
                let window = r.window.map(|w| w.to_string()).unwrap_or_default();
                [r.scope.to_string(), r.name, r.kind.to_string(), limit, window, r.action.as_str().to_owned()]
            }
            Err(why) => [key, "?".into(), format!("cannot be read: {why}"), String::new(), String::new(), "refuse".into()],
        })
        .collect();
    output::table(["SCOPE", "RULE", "KIND", "LIMIT", "WINDOW", "ACTION"], &rows);
    Ok(())
}

/// How near each limit is, and the switches.
///
/// # Errors
/// When nats-server does not answer.
pub async fn run(link: &Link, context: &Context) -> Result<(), ApiError> {
    let (rules, switches) = (risk::status(link).await?, risk::switches(link).await?);
    if context.json {
        output::json(&json!({ "rules": rules, "switches": switches }));
        return Ok(());
    }
    if rules.is_empty() {
        output::line("no rules: nothing trips by itself");
    } else {
        let rows: Vec<[String; 7]> = rules
            .into_iter()
            .map(|s| {
                let state = s.problem.map_or_else(|| s.state.to_owned(), |why| format!("{}: {why}", s.state));
                let current = s.current.map_or_else(|| "?".into(), |c| c.to_string());
                let used = s.used_percent.map_or_else(|| "?".into(), |p| format!("{p} %"));
                match s.rule {
                    Some(r) => {
                        let limit = format!("{} {}", r.limit.normalize(), r.kind.unit());
                        [r.scope.to_string(), r.name, limit, current, used, r.action.as_str().to_owned(), state]
                    }
                    None => [s.key, "?".into(), "?".into(), current, used, "refuse".into(), state],
                }
            })
            .collect();
        output::table(["SCOPE", "RULE", "LIMIT", "NOW", "USED", "ACTION", "STATE"], &rows);
    }
    if !switches.is_empty() {
        output::line("");
        let now = clock::now();
        let rows: Vec<[String; 6]> = switches
            .into_iter()
            .map(|s| {
                let scope = s.scope.as_ref().map(Scope::to_string).unwrap_or_default();
                let every = s.every.map(|e| e.to_string()).unwrap_or_default();
                let ago = s.at.map(|at| format!("{} ago", output::duration(now.millis_since(at) as f64))).unwrap_or_default();
                [scope, every, ago, s.by, s.level, s.state.to_owned()]
            })
            .collect();
        output::table(["SWITCH", "EVERY", "HEARTBEAT", "BY", "RAISES", "STATE"], &rows);
    }
    Ok(())
}
