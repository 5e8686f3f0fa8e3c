//! Risk limits: what people set, what actions reserve, what outcomes show, dead-man switches.

pub mod autumn_2008;
mod clocks;
mod command;
mod dead_man;
mod delay;
mod frozen;
mod race;

use anyhow::{Context, ensure};
use haltline_common::{
    Link,
    types::{Names, event::Event},
};
use haltline_tests::Site;

/// Stores a rule as an operator does.
async fn rule(site: &Site, args: &[&str]) -> anyhow::Result<()> {
    let all: Vec<&str> = ["risk", "set"].into_iter().chain(args.iter().copied()).collect();
    let told = site.caller().call(&all).await?;
    ensure!(told.code == Some(0), "{told:?}");
    Ok(())
}

/// All events of risk limits, in order.
async fn risk_events(link: &Link) -> anyhow::Result<Vec<Event>> {
    let (stream, subject) = (link.js.get_stream_no_info(link.names.events_stream()).await?, link.names.risk_events());
    let (mut all, mut from) = (Vec::new(), 1);
    while let Ok(m) = stream.get_first_raw_message_by_subject(&subject, from).await {
        from = m.sequence + 1;
        all.push(serde_json::from_slice(&m.payload).with_context(|| format!("{:?}", m.payload))?);
    }
    Ok(all)
}

/// The value of a key of the risk bucket.
async fn stored(site: &Site, key: &str) -> anyhow::Result<serde_json::Value> {
    let bucket = site.link().names.risk_bucket();
    let stream = site.link().js.get_stream_no_info(Names::bucket_stream(&bucket)).await?;
    let m = stream.get_last_raw_message_by_subject(&Names::kv_subject(&bucket, key)).await?;
    Ok(serde_json::from_slice(&m.payload)?)
}
