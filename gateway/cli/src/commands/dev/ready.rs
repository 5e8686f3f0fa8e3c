//! What `dev` says once it is ready.

use std::{net::SocketAddr, time::Duration};

use haltline_common::config::NatsSettings;
use serde_json::json;

use super::folder::Folder;
use crate::{commands::Context, output};

/// Prints the addresses: one line of JSON, or text with what to do next.
pub fn tell(context: &Context, gateway: SocketAddr, folder: Option<&Folder>, took: Duration) {
    let nats = &context.settings.nats;
    let (http, ws) = (format!("http://{gateway}"), format!("ws://{gateway}/v1/ws"));
    if context.json {
        return output::json(&json!({ "ready": true, "nats": nats.url, "gateway": http, "ws": ws }));
    }
    output::line(format_args!("Haltline is ready ({}).", output::duration(took.as_secs_f64() * 1e3)));
    output::line(format_args!("  nats-server  {}", nats.url));
    output::line(format_args!("  gateway      {http}"));
    output::line(format_args!("  events       {ws}"));
    if let Some(folder) = folder {
        output::line(format_args!("  data         {} ({})", folder.path().display(), folder.fate()));
    }
    output::line("\nIn another terminal:");
    for (name, value) in environment(nats) {
        output::line(format_args!("  export {name}={value}"));
    }
    output::line("  haltline run FILE --follow      run a workflow and watch its nodes");
    output::line("  haltline status                 see what runs");
    output::line("  haltline halt --reason \"why\"   stop everything");
    output::line("\nCtrl-C ends it.");
}

/// What other commands need to find this installation.
fn environment(nats: &NatsSettings) -> Vec<(&'static str, &str)> {
    let default = NatsSettings::default();
    let all = [("HALTLINE_NATS_URL", &nats.url, default.url), ("HALTLINE_NAMESPACE", &nats.namespace, default.namespace)];
    all.into_iter().filter(|(_, value, default)| *value != default).map(|(name, value, _)| (name, value.as_str())).collect()
}
