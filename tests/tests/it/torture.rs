//! `haltline torture`, for some seconds.

use anyhow::ensure;
use haltline_tests::{Caller, folder::Folder};

use crate::COMMAND;

/// Kills, stalls, repeats and cuts off within ten seconds.
const SEED: &str = "4";

#[tokio::test]
async fn a_short_torture_leaves_everything_whole() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let caller = Caller::new(COMMAND.as_ref(), Vec::new(), folder.path());
    let short = ["torture", "--seed", SEED, "--minutes", "0.15", "--every", "1200ms"];
    let plan = caller.call(&[&short[..], &["--plan"]].concat()).await?;
    ensure!(plan.out == caller.call(&[&short[..], &["--plan"]].concat()).await?.out, "the seed does not repeat the plan");
    let planned = plan.out.lines().count() as u64;
    ensure!(planned >= 4, "{planned} faults:\n{}", plan.out);

    let told = caller.call(&[&short[..], &["--json"]].concat()).await?;
    let report = told.json()?;
    let violations = report["violations"].as_array().map_or(usize::MAX, Vec::len);
    ensure!(told.code == Some(0) && violations == 0, "{}\n{}", report["violations"], told.err);
    ensure!(report["faults_total"] == planned, "{report}");
    let [submitted, acknowledged, completed, effects] = ["submitted", "acknowledged", "completed", "effects"].map(|f| report[f].as_u64());
    ensure!(submitted > Some(20) && submitted == acknowledged, "{report}");
    ensure!(completed > Some(10) && effects > Some(10), "{report}");
    Ok(())
}
