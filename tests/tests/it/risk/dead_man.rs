//! A heartbeat that is missed raises its level; one that comes does not, and none lowers anything.

use std::time::Duration;

use anyhow::ensure;
use haltline_common::types::control::Level;
use haltline_tests::{Site, soon, until};

use crate::COMMAND;

#[tokio::test]
async fn a_missing_heartbeat_raises_its_level_once() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    let caller = site.caller();
    let bad = caller.call(&["heartbeat", "--scope", "global", "--every", "10ms"]).await?;
    ensure!(bad.code == Some(2) && bad.err.contains("every"), "{bad:?}");
    let bad = caller.call(&["heartbeat", "--scope", "global", "--level", "normal"]).await?;
    ensure!(bad.code == Some(2) && bad.err.contains("level"), "{bad:?}");
    // One that is sent on keeps the switch quiet.
    site.spawn("sender", &["heartbeat", "--scope", "global", "--every", "5s", "--keep-on", "--by", "ana"], None)?;
    soon("the switch is armed", async || {
        let status = caller.call(&["risk", "status", "--json"]).await?.json()?;
        Ok(status["switches"][0]["state"] == "ok" && status["switches"][0]["scope"] == "global")
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(7)).await;
    ensure!(site.client.flag().await?.state == Level::Normal, "it tripped though it was fed: {:?}", site.client.flag().await?);
    // Its sender dies.
    site.process("sender")?.kill();
    let flag = until("it trips", Duration::from_secs(30), async || {
        let flag = site.client.flag().await?;
        Ok((flag.state == Level::Halt).then_some(flag))
    })
    .await?;
    ensure!(flag.reason.starts_with("dead-man switch: no heartbeat of global for") && flag.reason.contains("last by ana"), "{flag:?}");
    // An operator who resumes is not overruled by the same silence, also not after the coordinator was replaced.
    soon("that it was told is stored", async || {
        Ok(super::stored(&site, "watched").await?["missed"].as_object().is_some_and(|m| m.contains_key("heartbeat.global")))
    })
    .await?;
    site.client.set_flag(Level::Normal, "we know", "ana").await?;
    site.process("coordinator")?.kill();
    site.spawn("coordinator-2", &["coordinator"], None)?;
    site.ready(1).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(site.client.flag().await?.state == Level::Normal, "{:?}", site.client.flag().await?);
    // A new heartbeat arms it anew; taking it back ends it.
    let told = caller.call(&["heartbeat", "--scope", "global", "--every", "1s", "--level", "alert", "--by", "ana"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    until("it trips again", Duration::from_secs(15), async || Ok((site.client.flag().await?.state == Level::Alert).then_some(()))).await?;
    let told = caller.call(&["heartbeat", "--scope", "global", "--off"]).await?;
    ensure!(told.code == Some(0) && told.out.contains("is taken back"), "{told:?}");
    site.done();
    Ok(())
}
