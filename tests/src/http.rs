//! HTTP as a program does it.

use std::{sync::Once, time::Duration};

use anyhow::Context;
use serde_json::Value;

/// A client.
///
/// # Errors
/// When it cannot be built.
pub fn client() -> anyhow::Result<reqwest::Client> {
    static TLS: Once = Once::new();
    TLS.call_once(|| {
        // Fails only if one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    // A connection for each request: one that the other side closes after a refusal it did not read to
    // the end must not be taken for the answer to the next.
    Ok(reqwest::Client::builder().timeout(Duration::from_secs(70)).pool_max_idle_per_host(0).build()?)
}

/// Status and JSON of an answer.
///
/// # Errors
/// When nothing is answered, or no JSON.
pub async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    let value = serde_json::from_str(&text).with_context(|| format!("{status}: no JSON: {text}"))?;
    Ok((status, value))
}
