//! Connections as commands need them.

use std::time::Duration;

use haltline_client::Client;
use haltline_common::{
    Link, js,
    types::{
        Names,
        error::{ApiError, Code},
    },
};

use crate::commands::Context;

/// How long a service waits for an installation that someone else sets up.
const INSTALLED_WITHIN: Duration = Duration::from_secs(15);

impl Context {
    /// A connection for a service.
    ///
    /// # Errors
    /// When no nats-server answers within five seconds.
    pub async fn link(&self, role: &str) -> anyhow::Result<Link> {
        Ok(Link::connect(&self.settings.nats.url, self.names.clone(), role).await?)
    }

    /// A client.
    ///
    /// # Errors
    /// As [`Context::link`]; `Unavailable` if there is no installation.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let link = self.link("command line").await?;
        // Asked for here, since every later error would only say which stream is missing.
        let control = Names::bucket_stream(&link.names.control_bucket());
        if js::stream_info(&link, &control).await.is_err_and(|e| e.is_missing()) {
            return Err(not_installed(&link).into());
        }
        Ok(Client::from_link(link).await?)
    }
}

fn not_installed(link: &Link) -> ApiError {
    let namespace = link.names.namespace();
    let message = format!("there is no installation `{namespace}` on this nats-server: start a coordinator, or run `haltline ensure`");
    ApiError::new(Code::Unavailable, message)
}

/// Waits until the installation is there: a coordinator or `haltline ensure` creates it.
///
/// # Errors
/// `Unavailable` if it is not there after a while.
pub async fn installed(link: &Link) -> anyhow::Result<()> {
    let stream = link.names.tasks_stream();
    let mut last = None;
    let wait = async {
        while let Err(e) = js::stream_info(link, &stream).await {
            if last.is_none() {
                tracing::info!(reason = %e, "waiting for the installation; a coordinator creates it");
            }
            last = Some(e);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(INSTALLED_WITHIN, wait).await.is_ok() {
        return Ok(());
    }
    Err(match last {
        // As in a cluster that begins anew: it may be there.
        Some(e) if !e.is_missing() => ApiError::new(Code::Unavailable, format!("whether there is an installation cannot be told: {e}")),
        _ => not_installed(link),
    }
    .into())
}
