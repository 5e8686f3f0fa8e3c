//! The `haltline` command as a library, so that another package's binary can be it too.
//!
//! One file per subcommand under `commands`; everything else here is what they share.

mod args;
mod commands;
mod connect;
mod environment;
mod fail;
mod follow;
mod limits;
mod listener;
mod output;
mod probe;
mod read;
mod runtime;
mod services;
mod settings;
mod system;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use haltline_common::{
    fault,
    planted::{self, Bug},
    telemetry,
};

use crate::{args::Cli, commands::Context};

/// A third of a coordinator's samples under load were in the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the command that this process was started with; how it ended, as `--help` documents.
pub fn main() -> ExitCode {
    fault::arm(environment::fault().as_deref());
    if let Err(e) = plant() {
        return fail::report(&e, false);
    }
    // Fails only if one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return fail::usage(&e),
    };
    let json = cli.global.json;
    match start(cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) => fail::report(&e, json),
    }
}

/// Makes the bug that the environment names, in a build that can.
fn plant() -> anyhow::Result<()> {
    if let Some(name) = environment::planted().filter(|_| planted::BUILT_IN) {
        planted::plant(Bug::find(&name).with_context(|| format!("HALTLINE_PLANTED: there is no bug `{name}`"))?);
    }
    Ok(())
}

fn start(cli: Cli) -> anyhow::Result<u8> {
    let settings = settings::load(&cli)?;
    if cli.global.dump_config {
        output::text(settings.to_toml());
        return Ok(0);
    }
    let names = settings::check(&settings)?;
    let Some(command) = cli.command else { return Ok(fail::no_command()) };
    telemetry::start(settings.log.format, &settings::log_filter(&settings, &cli.global, &command));
    let context = Context { nats_given: cli.global.nats.is_some(), json: cli.global.json, settings, names };
    runtime::block_on(command.run(context))?
}
