//! How failures end a command: one clear line, and the exit code that scripts match on.

use std::process::ExitCode;

use clap::{CommandFactory, error::ErrorKind};
use haltline_common::{
    link::ConnectError,
    topology::EnsureError,
    types::error::{ApiError, Code},
};
use haltline_server::{LocateError, StartError};
use serde_json::{Value, json};

use crate::{args::Cli, output};

/// Prints what clap found wrong, or the help or version that was asked for.
pub fn usage(e: &clap::Error) -> ExitCode {
    let asked = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // Nothing was parsed, so whether JSON was wanted has to be looked up.
    if !asked && std::env::args_os().any(|a| a == "--json") {
        let text = e.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        print_json(&ApiError::new(Code::Invalid, message));
    } else {
        // A closed pipe is the reader's wish.
        let _ = e.print();
    }
    ExitCode::from(if asked { 0 } else { Code::Invalid.exit_code() })
}

/// Says that a subcommand is missing. Happens only if flags but no subcommand were given.
pub fn no_command() -> u8 {
    let help = Cli::command().render_usage();
    eprintln!("error: no command given\n{help}\nSee `haltline --help`.");
    Code::Invalid.exit_code()
}

/// Prints an error and gives the exit code that stands for it.
pub fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let api = as_api_error(error);
    if json {
        print_json(&api);
    } else {
        eprintln!("error: {}", api.message);
        for problem in further_problems(&api) {
            eprintln!("       {problem}");
        }
    }
    ExitCode::from(api.code.exit_code())
}

fn print_json(e: &ApiError) {
    output::json(&json!({ "error": e }));
}

/// All problems of a definition but the first, which the message is about.
fn further_problems(e: &ApiError) -> Vec<String> {
    let text = |p: &Value, key: &str| p.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let all = e.detail.get("problems").and_then(Value::as_array);
    all.into_iter().flatten().skip(1).map(|p| format!("{}: {}", text(p, "field"), text(p, "message"))).collect()
}

/// An error with a code: its own, or the one that its cause calls for.
fn as_api_error(error: &anyhow::Error) -> ApiError {
    if let Some(api) = error.chain().find_map(|e| e.downcast_ref::<ApiError>()) {
        return api.clone();
    }
    let is = |found: fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(found);
    let code = if is(|e| e.is::<ConnectError>() || e.is::<EnsureError>() || e.is::<LocateError>() || e.is::<StartError>()) {
        Code::Unavailable
    } else {
        Code::Internal
    };
    ApiError::new(code, chain(error))
}

/// Error and causes in one line, without what a cause repeats.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
