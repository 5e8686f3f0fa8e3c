//! `haltline events`: the log as a gateway streams it. Comes back by itself where it was, and says
//! what it will not get.

mod stream;

use std::{collections::HashSet, time::Duration};

use anyhow::Context as _;
use haltline_common::{
    shutdown,
    types::{
        error::{ApiError, Code},
        event::Event,
    },
};
use serde_json::{Value, json};

use super::Context;
use crate::{follow, output};
use stream::{Ended, Message, Stream};

/// Ids kept to drop events that come again after a reconnect.
const SEEN_MAX: usize = 4096;
/// First and longest delay before coming back.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Show events, and follow them: filters, cursors and gaps as on the event stream of a gateway
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Fields AND, values of one OR. `*` at the end of a value stands for whatever follows, in --type anywhere. With --json each line is an event with its `_cursor`; other lines have `_frame`: gap, halt, live."
)]
pub struct Args {
    /// Go on with what comes; ends with Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Gateway to ask
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001", env = "HALTLINE_GATEWAY", hide_env_values = true)]
    gateway: String,
    /// Token to be let in with
    #[arg(long, value_name = "TOKEN", env = "HALTLINE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Workflow id
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    workflow: Vec<String>,
    /// Bot id
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    bot: Vec<String>,
    /// Strategy id
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    strategy: Vec<String>,
    /// Execution id
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    execution: Vec<String>,
    /// Node id
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    node: Vec<String>,
    /// Event type, as node_* or *_failed
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    kind: Vec<String>,
    /// A whole filter as JSON, besides the others: and, or, not
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// Where to begin: live, last:N, seq:N, cursor:CURSOR or since:TIME [default: last:100]
    #[arg(long, value_name = "PLACE", default_value = "last:100", hide_default_value = true)]
    from: String,
}

/// Shows them.
///
/// # Errors
/// When the gateway refuses, or is not reached at all.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let stop = shutdown::listen()?;
    let mut view = View { json: context.json, seen: HashSet::new() };
    let mut cursor: Option<String> = None;
    let mut delay = AGAIN.0;
    let url = format!("{}/v1/events?{}", args.gateway.trim_end_matches('/'), args.query());
    loop {
        let work = async {
            let mut stream = Stream::open(&url, args.token.as_deref(), cursor.as_deref()).await?;
            while let Some(message) = stream.next().await? {
                if message.id.is_some() {
                    cursor.clone_from(&message.id);
                }
                delay = AGAIN.0;
                if view.show(&message) && !args.follow {
                    return Ok(true);
                }
            }
            Ok::<_, Ended>(false)
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = stop.cancelled() => return Ok(0),
        };
        match outcome {
            Ok(true) => return Ok(0),
            Err(Ended::Refused(e)) => return Err(e.into()),
            Err(Ended::Lost(why)) if !args.follow || cursor.is_none() => {
                return Err(ApiError::new(Code::Unavailable, format!("the gateway {} is not reached: {why}", args.gateway)))
                    .context("events");
            }
            Err(Ended::Lost(why)) => tracing::warn!(why, "the stream is lost; coming back"),
            Ok(false) => tracing::warn!("the stream has ended; coming back"),
        }
        // At random, so that not everyone comes at once.
        let spread = 0.5 + (uuid::Uuid::new_v4().as_u128() % 1000) as f64 / 1000.0;
        tokio::select! {
            () = tokio::time::sleep(delay.mul_f64(spread)) => {}
            () = stop.cancelled() => return Ok(0),
        }
        delay = (delay * 2).min(AGAIN.1);
    }
}

impl Args {
    fn query(&self) -> String {
        let mut pairs = vec![("from", self.from.as_str())];
        for (name, values) in [
            ("workflow", &self.workflow),
            ("bot", &self.bot),
            ("strategy", &self.strategy),
            ("execution", &self.execution),
            ("node", &self.node),
            ("type", &self.kind),
        ] {
            pairs.extend(values.iter().map(|v| (name, v.as_str())));
        }
        pairs.extend(self.filter.as_deref().map(|f| ("filter", f)));
        pairs.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect::<Vec<_>>().join("&")
    }
}

/// Percent-encoding of a value.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'*') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
        out
    })
}

struct View {
    json: bool,
    seen: HashSet<String>,
}

impl View {
    /// Shows a message; `true` once everything that was there has been shown.
    fn show(&mut self, m: &Message) -> bool {
        let Ok(mut value) = serde_json::from_str::<Value>(&m.data) else {
            tracing::warn!(data = m.data, "a message is malformed; left out");
            return false;
        };
        if m.name.is_empty() {
            if self.seen.len() >= SEEN_MAX {
                self.seen.clear();
            }
            if self.seen.insert(value["id"].as_str().unwrap_or_default().to_owned()) {
                self.event(&mut value, m.id.as_deref());
            }
            return false;
        }
        if self.json {
            if matches!(m.name.as_str(), "gap" | "halt" | "live" | "bye") {
                let mut frame = json!({ "_frame": m.name });
                merge(&mut frame, value);
                output::json(&frame);
            }
        } else {
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            match m.name.as_str() {
                "gap" => output::line(format_args!(
                    "GAP  {} after {} before {}, lost {}",
                    text("reason"),
                    text("after"),
                    text("next"),
                    value["lost"]
                )),
                "halt" if value["sure"] != true => output::line("HALT UNKNOWN: the gateway does not hear the control flags"),
                "halt" if text("state") != "normal" => {
                    output::line(format_args!("HALT {} is {}: {} ({})", text("scope"), text("state"), text("reason"), text("by")));
                }
                _ => {}
            }
        }
        m.name == "live"
    }

    fn event(&self, value: &mut Value, cursor: Option<&str>) {
        if self.json {
            value["_cursor"] = cursor.into();
            return output::json(value);
        }
        match serde_json::from_value::<Event>(value.clone()) {
            Ok(e) => {
                let node = e.node_id.as_deref().map(|n| format!(" {n}")).unwrap_or_default();
                output::line(format_args!("{} {} {}{node}{}", e.timestamp, e.execution_id, e.kind.as_str(), follow::details(&e)));
            }
            // A type of a newer version.
            Err(_) => output::line(format_args!(
                "{} {} {}",
                value["timestamp"].as_str().unwrap_or(""),
                value["execution_id"].as_str().unwrap_or(""),
                value["type"].as_str().unwrap_or("")
            )),
        }
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (into, from) {
        to.extend(from.into_iter().filter(|(key, _)| key != "t"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded() {
        assert_eq!(encoded("arb_* &ü=1"), "arb_*%20%26%C3%BC%3D1");
    }
}
