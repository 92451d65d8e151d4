//! `sifaka mover`: started by the agent, with what it needs in the environment.

use crate::exit::{CliError, Exit, Outcome};
use clap::ValueEnum;
use plugin::Environment;
use std::fmt::Display;

#[derive(clap::Args, Debug)]
pub(crate) struct MoverArgs {
    /// Which one; its configuration is lhsm-plugin-KIND beside the agent's
    kind: MoverKind,
}

/// The movers this build holds.
#[derive(Clone, Copy, ValueEnum, Debug)]
enum MoverKind {
    /// Archives in a directory tree
    Posix,
    /// Archives in buckets of S3, Azure Blob Storage or Google Cloud Storage
    Object,
    /// Archives of Lemur's in S3, out of Lemur's own configuration
    S3,
    /// Archives of Lemur's in Azure Blob Storage, likewise
    Az,
    /// Archives behind programs: HPSS, tape, rclone
    Command,
    /// Moves nothing: for measurements
    Noop,
}

pub(crate) fn run(args: &MoverArgs) -> Outcome {
    let environment = Environment::from_env().map_err(|why| {
        CliError::new(Exit::Usage, format!("{why} (movers are started by the agent: name this one in enabled_plugins)"))
    })?;
    let _level_stays = super::agent::log_to_standard_error(config::agent::LogLevel::Info);
    match args.kind {
        MoverKind::Posix => {
            let file = environment.config_path("lhsm-plugin-posix");
            movers::posix::run(environment, &file).map_err(ended)?;
        }
        MoverKind::Object => {
            let file = environment.config_path("lhsm-plugin-object");
            movers::object::run(environment, &file).map_err(ended)?;
        }
        MoverKind::S3 => {
            let file = environment.config_path("lhsm-plugin-s3");
            movers::object::run_s3(environment, &file).map_err(ended)?;
        }
        MoverKind::Az => {
            let file = environment.config_path("lhsm-plugin-az");
            movers::object::run_az(environment, &file).map_err(ended)?;
        }
        MoverKind::Command => {
            let file = environment.config_path("lhsm-plugin-command");
            movers::command::run(environment, &file).map_err(ended)?;
        }
        MoverKind::Noop => {
            let file = environment.config_path("lhsm-plugin-noop");
            movers::noop::run(environment, &file).map_err(ended)?;
        }
    }
    Ok(Exit::Ok)
}

fn ended(why: impl Display) -> CliError {
    CliError::new(Exit::SomeFailed, why.to_string())
}
