//! Configuration: one TOML file, overridden by environment and flags (the command line's part), in
//! typed structs with units. Checked before anything is opened.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use haltline_types::{Millis, Names, limits::EXECUTION_MS_MAX};
use serde::{Deserialize, Serialize};

use crate::telemetry::LogFormat;

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The server.
    pub nats: NatsSettings,
    /// Logs.
    pub log: LogSettings,
    /// Storage that `ensure` creates.
    pub storage: StorageSettings,
    /// The coordinator.
    pub coordinator: CoordinatorSettings,
    /// Workers.
    pub worker: WorkerSettings,
    /// The gateway.
    pub gateway: GatewaySettings,
    /// Metrics of coordinators and workers.
    pub metrics: MetricsSettings,
}

/// The server to use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsSettings {
    /// Address, as `nats://host:4222`; several separated by commas.
    pub url: String,
    /// What every name on the server begins with.
    pub namespace: String,
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self { url: "nats://127.0.0.1:4222".into(), namespace: "haltline".into() }
    }
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// How lines look.
    pub format: LogFormat,
    /// What is logged, as `info` or `haltline_worker=debug,warn`.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".into() }
    }
}

/// Events outlive the longest execution, by a day for what is decided at its end.
pub const KEEP_MIN: Millis = Millis(EXECUTION_MS_MAX + 24 * 3600 * 1000);
/// Ten years: more is no retention, and would not fit every unit it is converted to.
pub const KEEP_MAX: Millis = Millis::secs(3650 * 24 * 3600);

/// Streams and buckets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSettings {
    /// Copies of each stream: 1, 3 or 5.
    pub replicas: usize,
    /// How long events are kept, and records after the end of their execution.
    pub keep: Millis,
    /// Bytes that events may use on disk; the oldest go first.
    pub events_bytes_max: u64,
    /// Bytes that records may use on disk.
    pub records_bytes_max: u64,
    /// Bytes that payloads by reference may use on disk; full, nodes with large outputs fail.
    pub payloads_bytes_max: u64,
}

impl Default for StorageSettings {
    fn default() -> Self {
        Self { replicas: 1, keep: KEEP_MIN, events_bytes_max: 64 << 30, records_bytes_max: 32 << 30, payloads_bytes_max: 16 << 30 }
    }
}

/// The coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoordinatorSettings {
    /// Executions that run at once; more are refused as `Overloaded`. Bounds memory.
    pub executions_max: usize,
    /// Dispatch every node as a task of its own instead of linear chains as segments.
    pub per_node_tasks: bool,
}

impl Default for CoordinatorSettings {
    fn default() -> Self {
        Self { executions_max: 20_000, per_node_tasks: false }
    }
}

/// Below it a busy machine loses its lease without being cut off.
pub const LEASE_MIN: Millis = Millis(200);
/// Above it a halt that has to wait for a silent worker takes longer than an operator can.
pub const LEASE_MAX: Millis = Millis::secs(10);
/// More writes than this would cost more than they are worth.
const LEASE_RENEW_MIN: Millis = Millis(20);

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSettings {
    /// Its id; drawn if empty.
    pub id: String,
    /// Node types to run; all it has if empty.
    pub types: Vec<String>,
    /// Tasks of one type at once, unless `slots_by_type` says otherwise.
    pub slots: usize,
    /// Slots of single types.
    pub slots_by_type: BTreeMap<String, usize>,
    /// How long running nodes may go on after SIGTERM.
    pub drain: Millis,
    /// How long a lease holds: for so long after a halt, at most, an effect can start on a worker that is cut off.
    pub lease: Millis,
    /// How often the lease is renewed while effects may start.
    pub lease_renew: Millis,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            id: String::new(),
            types: Vec::new(),
            slots: 64,
            slots_by_type: BTreeMap::new(),
            drain: Millis::secs(30),
            lease: Millis::secs(1),
            lease_renew: Millis(300),
        }
    }
}

/// In which surroundings the gateway runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Defaults for a developer's machine.
    #[default]
    Development,
    /// Refuses what only a developer's machine may do.
    Production,
}

/// The gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// Surroundings.
    pub env: Environment,
    /// Address to listen on.
    pub host: String,
    /// Port; 0 draws one.
    pub port: u16,
    /// Origins whose pages may use the gateway, besides its own.
    pub origins: Vec<String>,
    /// WebSocket clients at once; each may hold a megabyte of queue.
    pub clients_max: usize,
    /// Whether Socket.IO is served as well, for dashboards of the server that Haltline replaces.
    pub socketio: bool,
    /// File for the list of executions; if empty one that is gone when the gateway ends. It can be
    /// removed at any time while the gateway does not run.
    pub index: String,
    /// Whether a token is needed.
    pub auth: AuthMode,
    /// Requests a second that one caller may send for long; five times as many at once.
    pub requests_per_s: u32,
    /// Production without tokens: something else keeps strangers out.
    pub insecure_without_auth: bool,
    /// Another address than loopback without TLS: something else encrypts.
    pub insecure_without_tls: bool,
    /// TLS of its own.
    pub tls: TlsSettings,
    /// Tokens that someone else signs.
    pub jwt: JwtSettings,
}

/// Whether the gateway lets in only who has a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// In production only.
    #[default]
    Auto,
    /// Everywhere.
    Required,
    /// Nowhere: whoever can connect is an admin.
    Open,
}

/// TLS of the gateway: both files or none. Changed files count for new connections within seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// File of the certificate and its chain, PEM.
    pub cert: String,
    /// File of its key, PEM.
    pub key: String,
}

/// JSON Web Tokens: by a file of keys, a secret, or both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JwtSettings {
    /// File of a JWK set; looked at again every ten seconds.
    pub jwks: String,
    /// File of a secret for HS256, at least 32 bytes.
    pub secret_file: String,
    /// Those that are admitted, of HS256, RS256, EdDSA.
    pub algorithms: Vec<String>,
    /// What `iss` has to be.
    pub issuer: String,
    /// What `aud` has to have.
    pub audience: String,
}

impl GatewaySettings {
    /// Whether nobody gets in without a token.
    pub fn auth_required(&self) -> bool {
        match self.auth {
            AuthMode::Auto => self.env == Environment::Production,
            AuthMode::Required => true,
            AuthMode::Open => false,
        }
    }

    /// Whether it may start like this.
    fn check(&self) -> Result<(), String> {
        let local = is_loopback(&self.host);
        if !self.auth_required() && !self.insecure_without_auth && (self.env == Environment::Production || !local) {
            let what = if local { "in production".to_owned() } else { format!("on {}", self.host) };
            return Err(format!(
                "gateway.auth: a gateway without tokens {what} lets everyone halt and resume: set `auth = \"required\"` (`haltline tokens create` makes \
                 tokens), or say `insecure_without_auth = true` if a proxy keeps strangers out"
            ));
        }
        if self.tls.cert.is_empty() != self.tls.key.is_empty() {
            return Err("gateway.tls: takes both `cert` and `key`".into());
        }
        if !local && self.tls.cert.is_empty() && !self.insecure_without_tls {
            return Err(format!(
                "gateway.tls: tokens would cross the network in clear on {}: name `cert` and `key`, or say `insecure_without_tls = true` if a proxy \
                 before it encrypts",
                self.host
            ));
        }
        let jwt = &self.jwt;
        if !(jwt.jwks.is_empty() && jwt.secret_file.is_empty()) {
            for (name, empty) in
                [("algorithms", jwt.algorithms.is_empty()), ("issuer", jwt.issuer.is_empty()), ("audience", jwt.audience.is_empty())]
            {
                if empty {
                    return Err(format!("gateway.jwt.{name}: must be there: tokens made for something else must not count"));
                }
            }
        }
        if let Some(bad) = jwt.algorithms.iter().find(|a| !matches!(a.as_str(), "HS256" | "RS256" | "EdDSA")) {
            return Err(format!("gateway.jwt.algorithms: `{bad}` is none of HS256, RS256, EdDSA"));
        }
        if self.requests_per_s == 0 {
            return Err("gateway.requests_per_s: must be at least 1".into());
        }
        Ok(())
    }
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            env: Environment::Development,
            host: "127.0.0.1".into(),
            port: 8001,
            origins: Vec::new(),
            clients_max: 2000,
            index: String::new(),
            auth: AuthMode::Auto,
            requests_per_s: 200,
            insecure_without_auth: false,
            insecure_without_tls: false,
            tls: TlsSettings::default(),
            jwt: JwtSettings::default(),
            socketio: false,
        }
    }
}

/// Metrics of coordinators and workers; the gateway has its own on its port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSettings {
    /// Address and port of `/metrics` and `/livez`, as `127.0.0.1:9464`; none if empty.
    pub listen: String,
}

impl MetricsSettings {
    /// Where to listen, if at all.
    ///
    /// # Errors
    /// When it is no address with a port.
    pub fn address(&self) -> Result<Option<SocketAddr>, String> {
        match self.listen.as_str() {
            "" => Ok(None),
            text => {
                text.parse().map(Some).map_err(|_| format!("metrics.listen: `{text}` must be an address and a port, as 127.0.0.1:9464"))
            }
        }
    }
}

impl Settings {
    /// Reads a TOML file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Checks everything; the names to use if all is well, else what is wrong and where.
    pub fn check(&self) -> Result<Names, String> {
        let names = Names::new(&self.nats.namespace).map_err(|e| format!("nats.namespace: {e}"))?;
        if !matches!(self.storage.replicas, 1 | 3 | 5) {
            return Err(format!("storage.replicas: {} must be 1, 3 or 5", self.storage.replicas));
        }
        if !(KEEP_MIN..=KEEP_MAX).contains(&self.storage.keep) {
            return Err(format!(
                "storage.keep: {} must be {KEEP_MIN} to {KEEP_MAX}: an execution may last {}, and its events must not expire under it",
                self.storage.keep,
                Millis(EXECUTION_MS_MAX)
            ));
        }
        if self.coordinator.executions_max == 0 {
            return Err("coordinator.executions_max: must be at least 1".into());
        }
        let slots =
            std::iter::once(("worker.slots", self.worker.slots)).chain(self.worker.slots_by_type.iter().map(|(k, v)| (k.as_str(), *v)));
        for (name, n) in slots {
            if !(1..=4096).contains(&n) {
                return Err(format!("{name}: {n} slots must be 1 to 4096"));
            }
        }
        if !(LEASE_MIN..=LEASE_MAX).contains(&self.worker.lease) {
            return Err(format!(
                "worker.lease: {} must be {LEASE_MIN} to {LEASE_MAX}: a halt waits for it where a worker is silent",
                self.worker.lease
            ));
        }
        if self.worker.lease_renew < LEASE_RENEW_MIN || self.worker.lease_renew.0 * 2 > self.worker.lease.0 {
            return Err(format!(
                "worker.lease_renew: {} must be at least {LEASE_RENEW_MIN} and at most half of worker.lease ({}): one lost renewal must not end it",
                self.worker.lease_renew, self.worker.lease
            ));
        }
        self.gateway.check()?;
        self.metrics.address()?;
        Ok(names)
    }

    /// As TOML, for `--dump-config`; passwords in addresses are left out.
    pub fn to_toml(&self) -> String {
        let mut shown = self.clone();
        shown.nats.url = crate::link::redact(&self.nats.url);
        toml::to_string_pretty(&shown).unwrap_or_else(|e| format!("# {e}"))
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_round_trip_and_pass() {
        let s = Settings::default();
        assert_eq!(toml::from_str::<Settings>(&s.to_toml()).as_ref(), Ok(&s));
        assert!(s.check().is_ok());
    }

    #[test]
    fn what_lets_strangers_in_is_refused_unless_it_is_said() {
        let wrong = |change: fn(&mut GatewaySettings)| {
            let mut s = Settings::default();
            change(&mut s.gateway);
            s.check().err().map(|e| e.split(": ").next().unwrap_or_default().to_owned())
        };
        assert_eq!(wrong(|g| g.env = Environment::Production), None, "tokens are needed then");
        assert_eq!(wrong(|g| (g.env, g.auth) = (Environment::Production, AuthMode::Open)).as_deref(), Some("gateway.auth"));
        assert_eq!(wrong(|g| (g.env, g.auth, g.insecure_without_auth) = (Environment::Production, AuthMode::Open, true)), None);
        assert_eq!(wrong(|g| g.host = "0.0.0.0".into()).as_deref(), Some("gateway.auth"));
        assert_eq!(wrong(|g| (g.host, g.auth) = ("0.0.0.0".into(), AuthMode::Required)).as_deref(), Some("gateway.tls"));
        assert_eq!(wrong(|g| (g.host, g.env) = ("10.0.0.1".into(), Environment::Production)).as_deref(), Some("gateway.tls"));
        assert_eq!(wrong(|g| (g.host, g.auth, g.insecure_without_tls) = ("0.0.0.0".into(), AuthMode::Required, true)), None);
        assert_eq!(wrong(|g| g.tls.cert = "cert.pem".into()).as_deref(), Some("gateway.tls"));
        assert_eq!(wrong(|g| g.jwt.jwks = "jwks.json".into()).as_deref(), Some("gateway.jwt.algorithms"));
        assert_eq!(wrong(|g| g.jwt.algorithms = vec!["none".into()]).as_deref(), Some("gateway.jwt.algorithms"));
    }

    #[test]
    fn metrics_need_an_address_and_a_port() {
        let mut s = Settings::default();
        assert_eq!(s.metrics.address(), Ok(None));
        s.metrics.listen = "127.0.0.1:9464".into();
        assert!(s.check().is_ok() && s.metrics.address().is_ok_and(|a| a.is_some()));
        for bad in ["9464", "127.0.0.1", ":9464", "localhost"] {
            s.metrics.listen = bad.into();
            assert!(s.check().is_err_and(|e| e.starts_with("metrics.listen: ")), "{bad}");
        }
    }

    #[test]
    fn leases_end_in_time_and_outlive_a_lost_renewal() {
        let mut s = Settings::default();
        for (lease, renew, wrong) in [
            (1000, 300, ""),
            (200, 100, ""),
            (100, 50, "worker.lease: "),
            (20_000, 300, "worker.lease: "),
            (1000, 600, "worker.lease_renew: "),
            (1000, 0, "worker.lease_renew: "),
        ] {
            (s.worker.lease, s.worker.lease_renew) = (Millis(lease), Millis(renew));
            let told = s.check().err().unwrap_or_default();
            assert!(told.starts_with(wrong) && told.is_empty() == wrong.is_empty(), "{lease} {renew}: {told}");
        }
    }

    #[test]
    fn events_outlive_executions() {
        let mut s = Settings::default();
        for (keep, fine) in [(Millis::secs(30 * 86_400), false), (KEEP_MIN, true), (Millis(KEEP_MAX.0 + 1), false)] {
            s.storage.keep = keep;
            assert_eq!(s.check().is_ok(), fine, "{keep}");
        }
        assert!(s.check().is_err_and(|e| e.starts_with("storage.keep: ")));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(toml::from_str::<Settings>("[worker]\nslotz = 3").is_err());
    }
}
