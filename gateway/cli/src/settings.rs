//! Settings from file, environment and flags, in that order, checked before anything is opened.

use haltline_common::{
    config::Settings,
    types::{Names, error::ApiError},
};

use crate::{
    args::{Cli, Global},
    commands::Command,
};

/// The settings that result; clap has merged environment and flags already.
///
/// # Errors
/// `Invalid` when the file cannot be read.
pub fn load(cli: &Cli) -> Result<Settings, ApiError> {
    let mut settings = match &cli.global.config {
        Some(path) => Settings::read(path).map_err(|e| ApiError::invalid("config", e.trim_end().to_owned()))?,
        None => Settings::default(),
    };
    let global = &cli.global;
    set(&mut settings.nats.url, &global.nats);
    set(&mut settings.nats.namespace, &global.namespace);
    set(&mut settings.log.filter, &global.log);
    if let Some(format) = global.log_format {
        settings.log.format = format.into();
    }
    if let Some(command) = &cli.command {
        command.apply(&mut settings);
    }
    Ok(settings)
}

/// Overrides a setting if there is something to override it with.
pub fn set<T: Clone>(setting: &mut T, with: &Option<T>) {
    if let Some(value) = with {
        *setting = value.clone();
    }
}

/// The names that checked settings give.
///
/// # Errors
/// `Invalid` with the offending field.
pub fn check(settings: &Settings) -> Result<Names, ApiError> {
    settings.check().map_err(|message| {
        let (field, rest) = message.split_once(": ").unwrap_or(("settings", &message));
        ApiError::invalid(field, rest)
    })
}

/// What to log: services tell what they do, other commands only what goes wrong.
pub fn log_filter(settings: &Settings, global: &Global, command: &Command) -> String {
    let chosen = global.log.is_some() || settings.log.filter != Settings::default().log.filter;
    match (chosen, command.is_service()) {
        (true, _) => settings.log.filter.clone(),
        // The connection's events are told by us, in our words.
        (false, true) => format!("{},async_nats=warn", settings.log.filter),
        // These end and restart servers on purpose.
        (false, false) if matches!(command, Command::Demo(_) | Command::Bench(_)) => "error".into(),
        // Its connections are cut on purpose.
        (false, false) if matches!(command, Command::Torture(_)) => "warn,async_nats=off,haltline_common=error".into(),
        (false, false) => "warn,async_nats=error".into(),
    }
}
