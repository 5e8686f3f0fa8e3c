//! `haltline demo`: starts everything in processes of its own and plays Haltline's main job on real
//! prices, scene by scene. A scene that does not hold makes the exit code 1.

mod scenes;
mod stage;
mod workflows;

use haltline_common::shutdown;
use serde::Serialize;
use serde_json::json;

use self::stage::Stage;
use super::Context;
use crate::output;

/// Play Haltline's main job on real prices, in six scenes; 1 if one does not hold
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Afterwards keep everything running, for the dashboard; Ctrl-C ends it
    #[arg(long)]
    stay: bool,
}

/// How a scene went.
#[derive(Debug, Serialize)]
struct Scene {
    name: &'static str,
    ok: bool,
    detail: String,
}

/// Plays all scenes; 1 if one does not hold, or the system cannot be started.
///
/// # Errors
/// None: what goes wrong is told as a scene that does not hold.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let mut stage = match Stage::set(&context).await {
        Ok(stage) => stage,
        Err(e) => {
            eprintln!("error: the demo cannot start: {e:#}");
            if context.json {
                output::json(&json!({ "scenes": [], "ok": false, "error": format!("{e:#}") }));
            }
            return Ok(1);
        }
    };
    if !context.json {
        output::line(format!("The dashboard: {}", stage.gateway_url()));
    }
    let mut played = Vec::new();
    play(&mut played, &context, "basic execution", scenes::basic(&mut stage).await);
    play(&mut played, &context, "emergency halt", scenes::halt(&mut stage).await);
    play(&mut played, &context, "state after a restart of everything", scenes::restart(&mut stage).await);
    play(&mut played, &context, "correlation", scenes::correlation(&mut stage).await);
    play(&mut played, &context, "three concurrent workflows", scenes::concurrent(&mut stage).await);
    play(&mut played, &context, "a worker killed in the middle of a node", scenes::killed_worker(&mut stage).await);
    if args.stay {
        let stop = shutdown::listen()?;
        let (url, nats) = (stage.gateway_url(), stage.nats_url());
        if context.json {
            output::json(&json!({ "gateway": url, "nats": nats }));
        } else {
            output::line(format!("\nStays up. The dashboard: {url}\n  export HALTLINE_NATS_URL={nats}\nCtrl-C ends it."));
        }
        stop.cancelled().await;
    }
    stage.strike().await;
    let ok = played.iter().all(|s| s.ok);
    if context.json {
        output::json(&json!({ "scenes": played, "ok": ok }));
    } else {
        let good = played.iter().filter(|s| s.ok).count();
        output::line(format!("\n{good} of {} scenes hold.", played.len()));
    }
    Ok(u8::from(!ok))
}

fn play(played: &mut Vec<Scene>, context: &Context, name: &'static str, outcome: anyhow::Result<String>) {
    let (ok, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(e) => (false, format!("{e:#}")),
    };
    if !context.json {
        output::line(format!("\n{}. {name}: {}", played.len() + 1, if ok { "holds" } else { "DOES NOT HOLD" }));
        for line in detail.lines() {
            output::line(format!("   {line}"));
        }
    }
    played.push(Scene { name, ok, detail });
}
