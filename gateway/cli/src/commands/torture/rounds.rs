//! `--until-violation`: load with faults, rest, and a look at everything that is stored, in turn.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    check::{self, Asked, Violation},
    fleet::Fleet,
    inject::{self, Counts},
    load::Load,
    owners,
    plan::Fault,
    settle,
    shapes::Shape,
};

/// Faults between two looks.
const ROUND: Duration = Duration::from_secs(20);
/// What still is on its way when all executions have ended.
const COMES_LATE: Duration = Duration::from_secs(3);

/// What a look found, and how long after the beginning.
pub struct Caught {
    /// What does not hold.
    pub violations: Vec<Violation>,
    /// How long after the beginning.
    pub after: Duration,
}

/// Goes on until something does not hold, the plan's time is over or `stop`.
///
/// # Errors
/// When what is stored cannot be read.
pub async fn run(
    plan: &[Fault],
    lasts: Duration,
    fleet: &Arc<Fleet>,
    load: &Load,
    shapes: &[Shape],
    stop: &CancellationToken,
) -> anyhow::Result<(Counts, Option<Caught>)> {
    let began = Instant::now();
    let mut counts = Counts::new();
    let mut from = Duration::ZERO;
    while began.elapsed() < lasts && !stop.is_cancelled() {
        let (until, round) = (from + ROUND, Instant::now());
        let stop_load = CancellationToken::new();
        let loading = tokio::spawn(load.clone().run(stop_load.clone()));
        let now = |f: &&Fault| f.at >= from && f.at < until;
        let faults: Vec<Fault> = plan.iter().filter(now).map(|f| Fault { at: f.at - from, ..f.clone() }).collect();
        for (kind, n) in inject::run(fleet.clone(), &faults, stop, |fault| eprintln!("{fault}")).await {
            *counts.entry(kind).or_default() += n;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep_until(round + ROUND) => {}
        }
        stop_load.cancel();
        fleet.heal();
        // A panic in it would have been told.
        let _ = loading.await;
        settle(fleet).await?;
        if !look(fleet, load, shapes).await?.is_empty() {
            tokio::time::sleep(COMES_LATE).await;
            let violations = look(fleet, load, shapes).await?;
            if !violations.is_empty() {
                return Ok((counts, Some(Caught { violations, after: began.elapsed() })));
            }
        }
        eprintln!("{:8.2}s everything holds so far", began.elapsed().as_secs_f64());
        from = until;
    }
    Ok((counts, None))
}

/// What does not hold now.
async fn look(fleet: &Fleet, load: &Load, shapes: &[Shape]) -> anyhow::Result<Vec<Violation>> {
    let remains = fleet.remains().await?;
    let mut found = check::judge(&Asked::of(shapes, load.told().submissions.clone()), &remains);
    for what in owners::disputed(&fleet.link().await?).await? {
        found.add("two_owners", "", what);
    }
    Ok(found.violations)
}
