//! `haltline gateway`.

use anyhow::Context as _;
use clap::ValueEnum;
use haltline_common::{
    config::{AuthMode, Environment, Settings},
    shutdown,
};
use serde_json::json;
use tokio::net::TcpListener;

use super::Context;
use crate::{connect, limits, output, services, settings::set};

/// Run a gateway: HTTP and WebSocket for dashboards and programs
#[derive(Debug, clap::Args)]
#[command(after_help = "Prints its address once it listens. SIGTERM drains, a second one exits at once.")]
pub struct Args {
    /// Surroundings: production refuses what only a developer's machine may do [default: development]
    #[arg(long, value_name = "ENV", env = "HALTLINE_ENV", hide_env_values = true)]
    env: Option<EnvArg>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", env = "HALTLINE_GATEWAY_HOST", hide_env_values = true)]
    host: Option<String>,
    /// Port to listen on; 0 draws one [default: 8001]
    #[arg(long, value_name = "PORT", env = "HALTLINE_GATEWAY_PORT", hide_env_values = true)]
    port: Option<u16>,
    /// Origin whose pages may use the gateway besides its own, as https://desk.example; repeated
    #[arg(long = "origin", value_name = "ORIGIN", value_delimiter = ',', env = "HALTLINE_GATEWAY_ORIGINS", hide_env_values = true)]
    origins: Vec<String>,
    /// WebSocket clients at once [default: 2000]
    #[arg(long, value_name = "N", env = "HALTLINE_GATEWAY_CLIENTS_MAX", hide_env_values = true)]
    clients_max: Option<usize>,
    /// Serve Socket.IO as well, for dashboards of the server that Haltline replaces
    #[arg(long, env = "HALTLINE_GATEWAY_SOCKETIO", hide_env_values = true)]
    socketio: bool,
    /// File for the list of executions [default: one that is gone at the end]
    #[arg(long, value_name = "FILE", env = "HALTLINE_GATEWAY_INDEX", hide_env_values = true)]
    index: Option<String>,
    /// Whether a token is needed; auto: in production [default: auto]
    #[arg(long, value_name = "MODE", env = "HALTLINE_GATEWAY_AUTH", hide_env_values = true)]
    auth: Option<AuthArg>,
    /// File of a certificate and its chain (PEM), for TLS
    #[arg(long, value_name = "FILE", env = "HALTLINE_GATEWAY_TLS_CERT", hide_env_values = true)]
    tls_cert: Option<String>,
    /// File of its key (PEM)
    #[arg(long, value_name = "FILE", env = "HALTLINE_GATEWAY_TLS_KEY", hide_env_values = true)]
    tls_key: Option<String>,
    /// Start without tokens in production or off loopback: something else keeps strangers out
    #[arg(long, env = "HALTLINE_GATEWAY_INSECURE_WITHOUT_AUTH", hide_env_values = true)]
    insecure_without_auth: bool,
    /// Start off loopback without TLS: something else encrypts
    #[arg(long, env = "HALTLINE_GATEWAY_INSECURE_WITHOUT_TLS", hide_env_values = true)]
    insecure_without_tls: bool,
}

/// [`AuthMode`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AuthArg {
    Auto,
    Required,
    Open,
}

/// [`Environment`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum EnvArg {
    Development,
    Production,
}

impl Args {
    /// Puts flags into the settings.
    pub fn apply(&self, settings: &mut Settings) {
        let gateway = &mut settings.gateway;
        if let Some(env) = self.env {
            gateway.env = match env {
                EnvArg::Development => Environment::Development,
                EnvArg::Production => Environment::Production,
            };
        }
        set(&mut gateway.host, &self.host);
        set(&mut gateway.port, &self.port);
        set(&mut gateway.clients_max, &self.clients_max);
        set(&mut gateway.index, &self.index);
        set(&mut gateway.tls.cert, &self.tls_cert);
        set(&mut gateway.tls.key, &self.tls_key);
        gateway.insecure_without_auth |= self.insecure_without_auth;
        gateway.insecure_without_tls |= self.insecure_without_tls;
        if let Some(auth) = self.auth {
            gateway.auth = match auth {
                AuthArg::Auto => AuthMode::Auto,
                AuthArg::Required => AuthMode::Required,
                AuthArg::Open => AuthMode::Open,
            };
        }
        gateway.socketio |= self.socketio;
        if !self.origins.is_empty() {
            gateway.origins.clone_from(&self.origins);
        }
    }
}

/// Runs it until a signal.
///
/// # Errors
/// When its address is taken, nats-server is out of reach, there is no installation, or the gateway
/// cannot go on.
pub async fn run(_: Args, context: Context) -> anyhow::Result<u8> {
    let stop = shutdown::listen()?;
    limits::raise_files();
    let settings = context.settings.gateway.clone();
    let listener = listen(&settings.host, settings.port).await?;
    let address = listener.local_addr().context("address of the listener")?;
    let link = context.link("gateway").await?;
    connect::installed(&link).await?;
    let s = if settings.tls.cert.is_empty() { "" } else { "s" };
    if context.json {
        output::json(&json!({ "ready": true, "gateway": format!("http{s}://{address}"), "ws": format!("ws{s}://{address}/v1/ws") }));
    } else {
        output::line(format_args!("gateway listens on http{s}://{address}"));
    }
    services::gateway(link, settings, listener, stop).await?;
    Ok(0)
}

/// Opens a listener.
///
/// # Errors
/// When the address cannot be had; says what to do about it.
pub async fn listen(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((host, port)).await.with_context(|| format!("cannot listen on {host}:{port}; choose another by --port (0 draws one)"))
}
