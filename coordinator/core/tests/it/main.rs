//! Tests of the core: of its parts by example and property, and of the whole in a simulation.

#![allow(missing_docs, reason = "tests")]

mod engine;
mod execution;
mod golden;
mod halt_model;
mod model;
mod plan;
mod sim;
mod sim_tests;
mod start_model;
