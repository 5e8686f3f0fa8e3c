//! Checks of the nats-server, and of the services around it.

use haltline_client::Client;
use haltline_common::{
    Link, control, js,
    topology::{SERVER_MIN, parse_version},
    types::control::Scope,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Finding, Level};
use crate::{output, probe};

/// What Haltline's largest messages need.
const PAYLOAD_MIN: usize = 1 << 20;

/// Version and limits, as the server greeted.
pub fn server(link: &Link, url: &str) -> Vec<Finding> {
    let info = link.client.server_info();
    let (a, b, c) = SERVER_MIN;
    let mut findings = vec![match parse_version(&info.version) {
        Some(v) if v >= SERVER_MIN => {
            Finding::new(Level::Ok, "nats-server", format!("{} at {url}, named {}", info.version, info.server_name))
        }
        _ => Finding::new(Level::Fail, "nats-server", format!("{} is too old: Haltline needs {a}.{b}.{c} or newer", info.version)),
    }];
    if info.max_payload < PAYLOAD_MIN {
        let text = format!("max_payload is {} bytes, Haltline's messages need {PAYLOAD_MIN}: set `max_payload: 1MB`", info.max_payload);
        findings.push(Finding::new(Level::Fail, "limits", text));
    }
    findings
}

#[derive(Deserialize)]
struct Account {
    storage: u64,
    #[serde(default)]
    reserved_storage: u64,
    limits: Limits,
}

#[derive(Deserialize)]
struct Limits {
    max_storage: i64,
}

/// JetStream and what this account may store; whether there is JetStream.
pub async fn jetstream(link: &Link, findings: &mut Vec<Finding>) -> bool {
    let account: Account = match js::api(link, "INFO", &Value::Null).await {
        Ok(account) => account,
        Err(e) => {
            let text = format!("this account has no JetStream: start nats-server with a `jetstream {{ store_dir: ... }}` block ({e})");
            findings.push(Finding::new(Level::Fail, "jetstream", text));
            return false;
        }
    };
    let used = format!("{} stored, {} reserved by streams", output::bytes(account.storage), output::bytes(account.reserved_storage));
    findings.push(match u64::try_from(account.limits.max_storage) {
        Ok(max) if account.storage * 10 > max * 9 => Finding::new(
            Level::Warn,
            "jetstream",
            format!("{used}: more than 90% of the account's {}; writes stop when it is full", output::bytes(max)),
        ),
        Ok(max) => Finding::new(Level::Ok, "jetstream", format!("{used}, of the account's {}", output::bytes(max))),
        // Negative: no limit of the account; the disk and max_file_store limit then.
        Err(_) => Finding::new(Level::Ok, "jetstream", format!("{used}; no limit for this account")),
    });
    true
}

/// The flag, coordinators and workers.
pub async fn services(link: &Link, findings: &mut Vec<Finding>) {
    findings.push(match control::read(link, &Scope::Global).await {
        Ok(flag) if flag.state.runs() => Finding::new(Level::Ok, "control flag", flag.sentence()),
        Ok(flag) => Finding::new(Level::Warn, "control flag", format!("{}; no node starts", flag.sentence())),
        Err(e) => Finding::new(Level::Fail, "control flag", format!("cannot be read, so nothing runs: {}", e.message)),
    });
    findings.push(match probe::coordinator(link).await {
        Some(active) => Finding::new(Level::Ok, "coordinator", format!("{} is active", active["coordinator_id"].as_str().unwrap_or("one"))),
        None => Finding::new(Level::Warn, "coordinator", "none answers: submissions are refused"),
    });
    let workers = match Client::from_link(link.clone()).await {
        Ok(client) => client.workers().await,
        Err(e) => Err(e),
    };
    findings.push(match workers {
        Ok(list) if list.is_empty() => Finding::new(Level::Warn, "workers", "none: tasks wait until one starts"),
        Ok(list) => Finding::new(Level::Ok, "workers", format!("{} alive", list.len())),
        Err(e) => Finding::new(Level::Fail, "workers", format!("cannot be listed: {}", e.message)),
    });
}
