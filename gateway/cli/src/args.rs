//! What every subcommand's command line has in common.

use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};
use haltline_common::telemetry::LogFormat;

use crate::commands::Command;

const AFTER: &str = "\
`haltline dev` starts everything on this machine. In production run `coordinator`, `worker` and
`gateway` as services against your own nats-server.

Exit codes:
  0  done; of `run`: completed, also with errors that `on_error` admits
  1  failed; of `run`: a node failed, it was cancelled, or its time was over
  2  invalid input: flags, settings, a definition
  3  halted: the control flag refuses
  4  unknown workflow or execution
  5  conflict: a version, key or revision stands for something else
  6  unavailable: no nats-server or coordinator answers, or overloaded; repeat later

Settings come from --config, then the environment, then flags; --dump-config shows the outcome.";

/// Durable workflows on NATS JetStream with an emergency halt
#[derive(Debug, Parser)]
#[command(name = "haltline", version, after_help = AFTER, max_term_width = 110)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags of every subcommand.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub struct Global {
    /// nats-server to use, several separated by commas [default: nats://127.0.0.1:4222]
    #[arg(long, global = true, value_name = "URL", env = "HALTLINE_NATS_URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// Installation: what every name on the server begins with [default: haltline]
    #[arg(long, global = true, value_name = "NAME", env = "HALTLINE_NAMESPACE", hide_env_values = true)]
    pub namespace: Option<String>,
    /// Settings file (TOML; `haltline --dump-config` writes one)
    #[arg(long, global = true, value_name = "FILE", env = "HALTLINE_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// What is logged to standard error, as `info` or `haltline_worker=debug,warn`
    #[arg(long, global = true, value_name = "FILTER", env = "HALTLINE_LOG", hide_env_values = true)]
    pub log: Option<String>,
    /// How log lines look [default: text on a terminal, JSON elsewhere]
    #[arg(long, global = true, value_name = "FORMAT", env = "HALTLINE_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<LogFormatArg>,
    /// Print JSON for programs, errors too
    #[arg(long, global = true)]
    pub json: bool,
    /// Print the settings that result and exit
    #[arg(long, global = true)]
    pub dump_config: bool,
}

/// [`LogFormat`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormatArg {
    // No doc comments: they would become help of their own and blow the listing up.
    Auto,
    Pretty,
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(arg: LogFormatArg) -> Self {
        match arg {
            LogFormatArg::Auto => Self::Auto,
            LogFormatArg::Pretty => Self::Pretty,
            LogFormatArg::Json => Self::Json,
        }
    }
}
