//! The oracle: random runs of publish, subscribe, drop, resume, purge, a stream made anew, gateways and
//! brokers that die. What each client received, plus the gaps that it was told, must be what its filter
//! says about the log: nothing missing in silence, nothing twice on a connection, nothing called missing
//! that is there, counters without holes.
//!
//!   HALTLINE_ORACLE_RUNS    random runs with gateways in this process (default 600)
//!   HALTLINE_ORACLE_KILLS   random runs with processes that are killed (default 8)
//!   HALTLINE_ORACLE_SEED    the first seed (default 1); a failure names the seed of its run

mod check;
pub mod client;
pub mod run;
mod truth;
mod world;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, anyhow};
use haltline_tests::{folder::Folder, nats::Nats};

use run::Rng;
use world::World;

/// Worlds that play at once: each waits most of the time.
const WORLDS: u64 = 6;

#[allow(clippy::disallowed_methods, reason = "documented above")]
fn number(name: &str, otherwise: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| name.to_owned()),
        Err(_) => Ok(otherwise),
    }
}

#[tokio::test]
async fn what_clients_get_and_are_told_is_what_the_log_has() -> anyhow::Result<()> {
    let (runs, seed) = (number("HALTLINE_ORACLE_RUNS", 600)?, number("HALTLINE_ORACLE_SEED", 1)?);
    let folder = Folder::new()?;
    let nats = Nats::start(&folder.path().join("nats")).await?;
    let (url, next) = (nats.url(), Arc::new(AtomicU64::new(seed)));
    let worlds = (0..WORLDS).map(|n| {
        let (url, next) = (url.clone(), next.clone());
        async move {
            let mut world = World::in_process(&url, &format!("oracle-{n}")).await?;
            let mut told = run::Tally::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= runs + number("HALTLINE_ORACLE_SEED", 1)? {
                    world.end().await;
                    return anyhow::Ok(told);
                }
                told.add(run::play(&mut world, &mut Rng::new(seed)).await.map_err(|e| anyhow!("seed {seed}: {e:?}"))?);
            }
        }
    });
    let mut all = run::Tally::default();
    for world in futures_util::future::join_all(worlds).await {
        all.add(world?);
    }
    eprintln!("{runs} runs: {all:?}");
    // Runs in which nothing went wrong would prove little.
    anyhow::ensure!(
        runs < 300 || (all.resumed > 100 && all.gaps > 50 && all.replaced > 3 && all.gateways > 10 && all.together > 1000),
        "{all:?}"
    );
    drop(nats);
    Ok(())
}

#[tokio::test]
async fn the_same_with_gateway_and_nats_server_killed() -> anyhow::Result<()> {
    let (runs, seed) = (number("HALTLINE_ORACLE_KILLS", 8)?, number("HALTLINE_ORACLE_SEED", 1)?);
    let mut world = World::of_processes(crate::COMMAND).await?;
    let mut all = run::Tally::default();
    for seed in seed..seed + runs {
        all.add(run::play(&mut world, &mut Rng::new(seed ^ 0x5eed_0000)).await.map_err(|e| anyhow!("seed {seed}: {e:?}"))?);
    }
    eprintln!("{runs} runs: {all:?}");
    anyhow::ensure!(all.gateways + all.brokers >= runs / 2, "{all:?}");
    world.end().await;
    Ok(())
}
