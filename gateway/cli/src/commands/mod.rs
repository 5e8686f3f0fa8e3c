//! The subcommands, one file each: its flags as `Args`, and `run`, which gives the exit code.

mod audit;
mod backup;
mod bench;
mod coordinator;
mod demo;
mod dev;
mod doctor;
mod ensure;
mod events;
mod executions;
mod gateway;
mod halt;
mod heartbeat;
mod market;
mod on_halt;
mod replay;
mod resume;
mod risk;
mod run;
mod schema;
mod status;
mod submit;
mod tokens;
mod torture;
mod worker;
mod workflows;

use clap::Subcommand;
use haltline_common::{config::Settings, types::Names};

/// What a subcommand is run with.
pub struct Context {
    /// Checked settings.
    pub settings: Settings,
    /// Names on the server.
    pub names: Names,
    /// Whether to print JSON.
    pub json: bool,
    /// Whether a nats-server was named by flag or environment.
    pub nats_given: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Dev(dev::Args),
    Demo(demo::Args),
    Run(run::Args),
    Submit(submit::Args),
    Executions(executions::Args),
    Events(events::Args),
    Workflows(workflows::Args),
    Halt(halt::Args),
    Resume(resume::Args),
    OnHalt(on_halt::Args),
    Audit(audit::Args),
    Risk(risk::Args),
    Heartbeat(heartbeat::Args),
    Status(status::Args),
    Tokens(tokens::Args),
    Doctor(doctor::Args),
    Replay(replay::Args),
    Backup(backup::Args),
    Restore(backup::restore::Args),
    Ensure(ensure::Args),
    Coordinator(coordinator::Args),
    Worker(worker::Args),
    Gateway(gateway::Args),
    Market(market::Args),
    Bench(bench::Args),
    Torture(torture::Args),
    Schema(schema::Args),
}

impl Command {
    /// Puts the subcommand's own flags into the settings.
    pub fn apply(&self, settings: &mut Settings) {
        match self {
            Self::Dev(args) => args.apply(settings),
            Self::Coordinator(args) => args.apply(settings),
            Self::Worker(args) => args.apply(settings),
            Self::Gateway(args) => args.apply(settings),
            _ => {}
        }
    }

    /// Whether it runs until it is told to end, and its log is of interest.
    pub fn is_service(&self) -> bool {
        matches!(self, Self::Dev(_) | Self::Coordinator(_) | Self::Worker(_) | Self::Gateway(_) | Self::Market(_))
    }

    /// Runs it; the exit code.
    ///
    /// # Errors
    /// Whatever kept it from doing what was asked.
    pub async fn run(self, context: Context) -> anyhow::Result<u8> {
        match self {
            Self::Dev(args) => dev::run(args, context).await,
            Self::Demo(args) => demo::run(args, context).await,
            Self::Bench(args) => bench::run(args, context).await,
            Self::Torture(args) => torture::run(args, context).await,
            Self::Run(args) => run::run(args, context).await,
            Self::Submit(args) => submit::run(args, context).await,
            Self::Executions(args) => executions::run(args, context).await,
            Self::Events(args) => events::run(args, context).await,
            Self::Workflows(args) => workflows::run(args, context).await,
            Self::Halt(args) => halt::run(args, context).await,
            Self::Resume(args) => resume::run(args, context).await,
            Self::OnHalt(args) => on_halt::run(args, context).await,
            Self::Audit(args) => audit::run(args, context).await,
            Self::Risk(args) => risk::run(args, context).await,
            Self::Heartbeat(args) => heartbeat::run(args, context).await,
            Self::Status(args) => status::run(args, context).await,
            Self::Tokens(args) => tokens::run(args, context).await,
            Self::Doctor(args) => doctor::run(args, context).await,
            Self::Replay(args) => replay::run(args, &context),
            Self::Backup(args) => backup::run(args, context).await,
            Self::Restore(args) => backup::restore::run(args, context).await,
            Self::Ensure(args) => ensure::run(args, context).await,
            Self::Coordinator(args) => coordinator::run(args, context).await,
            Self::Worker(args) => worker::run(args, context).await,
            Self::Gateway(args) => gateway::run(args, context).await,
            Self::Market(args) => market::run(args, context).await,
            Self::Schema(args) => schema::run(args),
        }
    }
}
