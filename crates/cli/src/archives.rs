//! Archives, opened by the command itself: for what is done to an archive as a whole, with or without an agent.

use crate::exit::{CliError, Exit};
use config::archive::{MoverConfig, Place};
use config::lemur::{Az, S3};
use config::object::Bucket;
use config::posix::Roots;
use config::{AgentConfig, ConfigError};
use maintenance::Holdings;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use transfer::{Durability, KernelDurability, TierStore};

/// The files of the movers that are built in, beside the agent's.
const POSIX_CONFIG: &str = "lhsm-plugin-posix";
const OBJECT_CONFIG: &str = "lhsm-plugin-object";
const S3_CONFIG: &str = "lhsm-plugin-s3";
const AZ_CONFIG: &str = "lhsm-plugin-az";

/// Which archive a command is for.
#[derive(clap::Args, Debug)]
pub(crate) struct ArchiveArgs {
    /// Number of the archive [default: the configuration's default_archive]
    #[arg(short, long = "id", visible_alias = "archive", value_name = "ID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) id: Option<u32>,
    /// The archive's root, where there is no configuration that names it; for directories only
    #[arg(long, value_name = "DIR", requires = "id")]
    pub(crate) root: Option<PathBuf>,
}

/// An open archive.
pub(crate) struct Opened {
    pub(crate) id: u32,
    pub(crate) holdings: Box<dyn Holdings>,
    in_bucket: bool,
}

impl Opened {
    /// How many threads are to work on it: so many as were asked for, else the first number for a directory and the second for a bucket, where
    /// each question is a request that takes its time.
    pub(crate) fn threads(&self, asked: Option<NonZeroUsize>, (directory, bucket): (usize, usize)) -> usize {
        asked.map_or(if self.in_bucket { bucket } else { directory }, NonZeroUsize::get)
    }
}

/// The number of the archive that is meant: the one asked for, or the configuration's default.
pub(crate) fn number(archive: &ArchiveArgs, config_file: &Path) -> Result<u32, CliError> {
    match archive.id {
        Some(number) => Ok(number),
        None => Ok(agent_config(config_file)?.default_archive),
    }
}

/// The agent's configuration.
pub(crate) fn agent_config(config_file: &Path) -> Result<AgentConfig, CliError> {
    let (config, _) = AgentConfig::load(config_file).map_err(misconfigured)?;
    Ok(config)
}

/// Opens an archive of the posix mover, or else of one for buckets.
pub(crate) fn open(archive: &ArchiveArgs, config_file: &Path) -> Result<Opened, CliError> {
    let id = number(archive, config_file)?;
    if let Some(root) = &archive.root {
        return directories(id, std::slice::from_ref(root));
    }
    let beside = |name: &str| config_file.with_file_name(name);
    let [posix, object, s3, az] = [POSIX_CONFIG, OBJECT_CONFIG, S3_CONFIG, AZ_CONFIG].map(beside);
    let root = find::<Roots>(id, &posix)?;
    let in_object = find::<Bucket>(id, &object)?;
    let in_s3 = find::<S3>(id, &s3)?.map(|S3(place)| place);
    let in_az = find::<Az>(id, &az)?.map(|Az(place)| place);
    let named =
        [(&posix, root.is_some()), (&object, in_object.is_some()), (&s3, in_s3.is_some()), (&az, in_az.is_some())];
    if let [first, second, ..] = named.iter().filter(|(_, is_there)| *is_there).collect::<Vec<_>>().as_slice() {
        let (first, second) = (first.0.display(), second.0.display());
        let why = format!("archive {id} is in {first} and in {second}: one of them has to have another number");
        return Err(CliError::new(Exit::Config, why));
    }
    if let Some(Roots(roots)) = root {
        return directories(id, &roots);
    }
    if let Some(place) = in_object.or(in_s3).or(in_az) {
        let store = movers::object::open(&place);
        let store = store.map_err(|error| CliError::new(Exit::NotHere, format!("archive {id}: {error}")))?;
        return Ok(Opened { id, holdings: Box::new(store), in_bucket: true });
    }
    let [posix, object, s3, az] = [&posix, &object, &s3, &az].map(|file| file.display());
    let why =
        format!("no archive of number {id} is in {posix}, {object}, {s3} or {az}; give a directory's root with --root");
    Err(CliError::new(Exit::Config, why))
}

fn directories(id: u32, roots: &[PathBuf]) -> Result<Opened, CliError> {
    Ok(Opened { id, holdings: Box::new(open_roots(roots)?), in_bucket: false })
}

/// Opens an archive that is in directories.
pub(crate) fn open_tier(id: u32, config_file: &Path) -> Result<TierStore, CliError> {
    let file = config_file.with_file_name(POSIX_CONFIG);
    match find::<Roots>(id, &file)? {
        Some(Roots(roots)) => open_roots(&roots),
        None => {
            let why =
                format!("no archive of number {id} is in {}: only archives in directories have roots", file.display());
            Err(CliError::new(Exit::Config, why))
        }
    }
}

fn open_roots(roots: &[PathBuf]) -> Result<TierStore, CliError> {
    let durability: Arc<dyn Durability> = Arc::new(KernelDurability);
    TierStore::open(roots, &durability).map_err(|error| CliError::new(Exit::NotHere, error.to_string()))
}

/// Where the archive of this number is, by a mover's file; `None` when it is not in it, or there is no such file.
fn find<P: Place>(id: u32, file: &Path) -> Result<Option<P>, CliError> {
    Ok(all::<P>(file)?.into_iter().find(|(number, _)| *number == id).map(|(_, place)| place))
}

/// All archives in a mover's file, by number; none when there is no such file.
fn all<P: Place>(file: &Path) -> Result<Vec<(u32, P)>, CliError> {
    if !is_there(file)? {
        return Ok(Vec::new());
    }
    let (config, _) = MoverConfig::<P>::load(file).map_err(misconfigured)?;
    Ok(config.archives.into_iter().map(|archive| (archive.settings.id, archive.place)).collect())
}

/// All archives in buckets, by number.
pub(crate) fn in_buckets(config_file: &Path) -> Result<Vec<(u32, Bucket)>, CliError> {
    let beside = |name: &str| config_file.with_file_name(name);
    let mut found = all::<Bucket>(&beside(OBJECT_CONFIG))?;
    found.extend(all::<S3>(&beside(S3_CONFIG))?.into_iter().map(|(id, S3(place))| (id, place)));
    found.extend(all::<Az>(&beside(AZ_CONFIG))?.into_iter().map(|(id, Az(place))| (id, place)));
    Ok(found)
}

/// A file that is there and cannot be looked at is no file that is not there.
fn is_there(file: &Path) -> Result<bool, CliError> {
    file.try_exists()
        .map_err(|error| CliError::new(Exit::Config, format!("cannot look for {}: {error}", file.display())))
}

fn misconfigured(error: ConfigError) -> CliError {
    CliError::new(Exit::Config, error.to_string())
}
