//! The simulation's verdicts.

use crate::sim::{
    faults::{POINTS, Plan, VICTIMS},
    rng::Rng,
    run::run,
};

/// The seeds to run: all of `0..n`, or the one that `HALTLINE_SIM_SEED` names.
fn seeds(n: u64) -> Vec<u64> {
    match std::env::var("HALTLINE_SIM_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..n).collect(),
    }
}

#[test]
fn a_calm_run_is_fine() {
    for seed in seeds(200) {
        if let Err(why) = run(seed, &Plan::calm()) {
            panic!("{why}");
        }
    }
}

#[test]
fn random_faults() {
    let (mut bad, mut steps, mut n) = (Vec::new(), 0, 0);
    for seed in seeds(2000) {
        let plan = Plan::random(&mut Rng::new(seed.wrapping_mul(77)));
        match run(seed, &plan) {
            Ok(fine) => (steps, n) = (steps + fine.steps, n + fine.executions),
            Err(why) => bad.push(why),
        }
    }
    println!("{n} executions, {steps} steps");
    assert!(bad.is_empty(), "{} bad; first:\n{}", bad.len(), bad[0]);
}

#[test]
fn every_point() {
    let count: u64 = 1000;
    let (mut bad, mut steps) = (Vec::new(), 0);
    for (p, point) in POINTS.iter().enumerate() {
        for (v, victim) in VICTIMS.iter().enumerate() {
            let (mut hits, mut failed) = (0, 0);
            let chosen = seeds(count);
            for seed in &chosen {
                let mut rng = Rng::new(seed * 1009 + (p * 3 + v) as u64);
                let plan = Plan::at_point(point, *victim, &mut rng);
                match run(*seed, &plan) {
                    Ok(fine) => {
                        hits += u64::from(fine.hits > 0);
                        steps += fine.steps;
                    }
                    Err(why) => {
                        failed += 1;
                        bad.push(why);
                    }
                }
            }
            println!("{point:<24} {victim:?}: hit {hits} of {}, {failed} bad", chosen.len());
        }
    }
    println!("{steps} steps");
    assert!(bad.is_empty(), "{} bad; first:\n{}", bad.len(), bad[0]);
}
