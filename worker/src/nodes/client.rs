//! The one HTTP client that all nodes share, and what every request of a node says about itself.

use std::{sync::OnceLock, time::Duration};

use reqwest::{
    Client, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect, retry,
};

use crate::context::{Context, NodeError};

/// How long opening a connection may take: a host that is gone should not use up a node's time-out.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections kept for each host: a worker runs few nodes at once.
const IDLE_PER_HOST: usize = 8;
/// How long an idle connection is kept; below what servers and balancers commonly allow.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;

static CLIENT: OnceLock<Result<Client, String>> = OnceLock::new();

/// Builds the client. This reads the system's certificates from disk, so it belongs at the start.
pub fn prepare() {
    let _ = CLIENT.get_or_init(build);
}

/// The client.
pub fn client() -> Result<&'static Client, NodeError> {
    CLIENT.get_or_init(build).as_ref().map_err(|e| NodeError::fatal("Internal", format!("no HTTP client: {e}")).not_done())
}

fn build() -> Result<Client, String> {
    // Refused only if a provider is installed already, which then serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .user_agent(concat!("haltline/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(redirect::Policy::limited(REDIRECTS_MAX))
            // A URL with a secret in it must not reach the next host.
            .referer(false)
            // Repeating is the worker's decision, which looks at the control flag first.
            .retry(retry::never())
    };
    builder().build().or_else(|error| {
        // As in a container without certificates: plain HTTP works, HTTPS fails closed.
        tracing::warn!(%error, "no certificates of the system: HTTPS requests will fail");
        builder().tls_certs_only([]).build().map_err(|e| e.to_string())
    })
}

/// Reads an absolute `http` or `https` URL.
pub fn url(name: &str, text: &str) -> Result<Url, NodeError> {
    let url = Url::parse(text.trim()).map_err(|e| NodeError::invalid(name, format!("is not a URL: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(NodeError::invalid(name, "must be an http or https URL"));
    }
    Ok(url)
}

/// A URL as messages may show it: without user, password, query and fragment, where secrets are.
pub fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// Who asks and for what: the receiver can recognise repeats by the key and refuse older tokens.
pub fn identity(ctx: &Context) -> Result<HeaderMap, NodeError> {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: &str| {
        // Ids may be any text without control characters; as bytes they fit a header.
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|e| NodeError::fatal("Internal", format!("header {name}: {e}")).not_done())?;
        headers.insert(HeaderName::from_static(name), value);
        Ok(())
    };
    set("idempotency-key", &ctx.idempotency_key())?;
    set("haltline-execution", &ctx.correlation.execution_id)?;
    set("haltline-token", &ctx.token.to_string())?;
    if let Some(deadline) = ctx.effect_deadline() {
        set("haltline-deadline", &deadline.to_string())?;
    }
    if !ctx.traceparent.is_empty() {
        set("traceparent", &ctx.traceparent)?;
    }
    Ok(headers)
}

/// A request that got no whole answer: it may have been acted on, unless no connection came about.
/// `target` is shown to people.
pub fn failed(target: &str, error: reqwest::Error) -> NodeError {
    // The URL may carry secrets; `target` says what can be said.
    let error = error.without_url();
    let mut message = format!("{target}: {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    let sent = !error.is_connect() && !error.is_builder();
    let failed = if error.is_timeout() {
        NodeError::retryable("Timeout", message)
    } else if error.is_builder() {
        NodeError::fatal("InvalidInput", message)
    } else if error.is_redirect() {
        NodeError::fatal("Redirect", message)
    } else {
        NodeError::retryable("Connection", message)
    };
    if sent { failed } else { failed.not_done() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_and_no_secrets_in_messages() {
        for bad in ["", "price/AAPL", "file:///etc/passwd", "ftp://host/x", "http://", "data:text/plain,x"] {
            assert!(url("url", bad).is_err(), "{bad}");
        }
        let url = url("url", "https://me:secret@host:8443/a%20b?key=secret#secret").unwrap();
        assert_eq!(shown(&url), "https://host:8443/a%20b");
    }

    #[test]
    fn a_client_without_certificates_can_be_built() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        assert!(Client::builder().tls_certs_only([]).build().is_ok());
    }
}
