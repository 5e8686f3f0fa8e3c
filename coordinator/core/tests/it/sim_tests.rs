//! The simulation's verdicts. `HALTLINE_SIM_SEED=n` runs only that seed of each test;
//! `HALTLINE_SIM_TRACE=1` keeps all steps of a failed run instead of the last 60.

#![allow(clippy::disallowed_methods, reason = "the environment chooses the seed")]

use crate::sim::{
    faults::{BUGS, POINTS, Plan, VICTIMS},
    rng::Rng,
    run::{passes, run},
};

/// The seeds to run: all of `0..n`, or the one that `HALTLINE_SIM_SEED` names.
fn seeds(n: u64) -> Vec<u64> {
    match std::env::var("HALTLINE_SIM_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => vec![seed],
        // `HALTLINE_SIM_FROM=n` begins later.
        None => {
            let from = std::env::var("HALTLINE_SIM_FROM").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
            (from..from + n).collect()
        }
    }
}

/// Seeds and problems, without the steps.
fn summary(bad: &[String]) -> String {
    bad.iter().take(40).map(|b| b.split("last steps").next().unwrap_or_default()).collect()
}

#[test]
fn a_calm_run_is_fine() {
    for seed in seeds(200) {
        if let Err(why) = run(seed, &Plan::calm()) {
            panic!("{why}");
        }
    }
}

/// Schedules of many random faults: kills, stalls, broken connections, lost acknowledgements, forgotten ids,
/// clocks that are off, rivals. `HALTLINE_SIM_RANDOM=n` plays n of each half.
fn random_faults(half: u64) {
    let (mut bad, mut steps, mut n, mut overlapped, mut read_again) = (Vec::new(), 0, 0, 0, 0);
    let count = std::env::var("HALTLINE_SIM_RANDOM").ok().and_then(|s| s.parse().ok()).unwrap_or(20_000);
    for seed in seeds(count) {
        let seed = seed * 2 + half;
        let plan = Plan::random(&mut Rng::new(seed.wrapping_mul(77)));
        match run(seed, &plan) {
            Ok(fine) => {
                (steps, n) = (steps + fine.steps, n + fine.executions);
                overlapped += fine.overlapped;
                read_again += fine.read_again;
            }
            Err(why) if bad.len() < 50 => bad.push(why),
            Err(_) => {}
        }
    }
    println!("{n} executions, {steps} steps, {overlapped} executions checked less strictly, inputs read again {read_again} times");
    assert!(read_again * 50 > n || n < 100, "inputs were read again {read_again} times only");
    // A task may run twice at once, and its order come late; everything else is checked all the same.
    assert!(overlapped * 7 < n || n < 100, "too many are checked less strictly");
    assert!(bad.is_empty(), "{} bad: {}\nfirst:\n{}", bad.len(), summary(&bad), bad[0]);
}

#[test]
fn random_faults_even() {
    random_faults(0);
}

#[test]
fn random_faults_odd() {
    random_faults(1);
}

/// Each point, each with 1,000 seeds; a point that is not reached proves nothing.
fn every_point(v: usize) {
    let victim = VICTIMS[v];
    let (mut bad, mut steps) = (Vec::new(), 0);
    for (p, point) in POINTS.iter().enumerate() {
        let (mut hits, mut failed, mut overlapped) = (0, 0, 0);
        let chosen = seeds(1000);
        for seed in &chosen {
            let plan = Plan::at_point(point, victim, &mut Rng::new(seed * 1009 + (p * 3 + v) as u64));
            match run(*seed, &plan) {
                Ok(fine) => {
                    hits += u64::from(fine.hits > 0);
                    steps += fine.steps;
                    overlapped += fine.overlapped;
                }
                Err(why) => {
                    failed += 1;
                    bad.push(why);
                }
            }
        }
        println!("{point:<24} {victim:?}: hit {hits} of {}, {failed} bad, {overlapped} executions checked less strictly", chosen.len());
        let enough = chosen.len() == 1 || failed > 0 || hits * 20 >= chosen.len() as u64 * 17;
        assert!(enough, "{point} {victim:?} was reached in {hits} runs only");
    }
    println!("{steps} steps");
    assert!(bad.is_empty(), "{} bad: {}\nfirst:\n{}", bad.len(), summary(&bad), bad[0]);
}

#[test]
fn every_point_kills_the_writer() {
    every_point(0);
}

#[test]
fn every_point_kills_the_server_before_it_stores() {
    every_point(1);
}

#[test]
fn every_point_kills_the_server_after_it_stored() {
    every_point(2);
}

/// The checker sees: each planted bug of the simulated shell is caught within so many seeds.
#[test]
fn planted_bugs_are_caught() {
    let mut missed = Vec::new();
    for bug in BUGS {
        let caught = (0..6000).find(|seed| {
            let plan = Plan { bug, ..Plan::random(&mut Rng::new(seed * 31 + 7)) };
            !passes(*seed, &plan)
        });
        println!("{bug:?}: {}", caught.map_or("missed".into(), |n| format!("caught by seed {n}")));
        if caught.is_none() {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
