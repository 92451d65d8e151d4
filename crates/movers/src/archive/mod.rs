//! What every mover does whose archives are stores of `transfer`: starting, actions, limits, and reading the configuration again.
//!
//! Not here: which store, and what has to be done to it now and then. That is each mover's own.

mod attempts;
mod mover;
mod reload;

use config::archive::{Archive, MoverConfig, Place};
use config::{ConfigError, Warning};
use mover::ArchiveMover;
use plugin::{Environment, Plugin, PluginError, Workers};
use reload::{Reload, ServedArchive};
use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use transfer::Store;

/// Why an archive cannot be opened.
pub type Unusable = Box<dyn Error + Send + Sync>;

/// Why a mover with archives ended.
#[derive(Debug, thiserror::Error)]
pub enum MoverError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An archive cannot be served. None is served then: an archive that silently is not there is worse.
    #[error("archive \"{name}\" cannot be served: {source}")]
    Archive {
        /// As in the configuration.
        name: String,
        /// What is wrong with it.
        source: Unusable,
    },
    /// The service ended.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The thread for what is done now and then could not be started.
    #[error("cannot start the thread that removes what crashes left: {0}")]
    Sweeper(std::io::Error),
}

/// A kind of mover: how it opens its archives, and what it does to them while they are served.
pub(crate) struct Kind<P, S> {
    /// Its name where people read it, and its threads'.
    pub(crate) name: &'static str,
    pub(crate) open: fn(&Archive<P>) -> Result<S, Unusable>,
    /// Runs on a thread of its own, until the channel is closed.
    pub(crate) sweep: fn(&[Arc<S>], &Receiver<()>),
}

impl<P: Place, S: Store + 'static> Kind<P, S> {
    /// Serves until the process is asked to end (SIGTERM).
    pub(crate) fn run(&self, environment: Environment, file: &Path) -> Result<(), MoverError> {
        let (config, warnings) = MoverConfig::<P>::load(file)?;
        warnings.iter().for_each(|warning: &Warning| tracing::warn!("{warning}"));
        sys::process::raise_nofile_limit();
        let threads = usize::try_from(config.num_threads).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);

        let mut archives = Vec::with_capacity(config.archives.len());
        let mut stores = Vec::with_capacity(config.archives.len());
        let mut served = Vec::with_capacity(config.archives.len());
        for archive in &config.archives {
            let settings = archive.settings.clone();
            let opened = (self.open)(archive);
            let store = Arc::new(opened.map_err(|source| MoverError::Archive { name: settings.name.clone(), source })?);
            let (id, credits) = (settings.id, reload::credits(&settings));
            let capabilities = mover::capabilities(&settings);
            let settings = Arc::new(ServedArchive::new(settings));
            let mover = ArchiveMover::new(Arc::clone(&settings), store.clone(), environment.clone());
            let workers = Workers::start(&format!("{}-{id}", self.name), threads, mover)?;
            served.push(settings);
            stores.push(store);
            archives.push(plugin::Archive { id, capabilities, credits, handler: Arc::new(workers) });
        }
        // Dropping the sender ends the sweeper.
        let (_serving, ended) = channel::<()>();
        let sweep = self.sweep;
        std::thread::Builder::new()
            .name(format!("{}-sweep", self.name))
            .spawn(move || sweep(&stores, &ended))
            .map_err(MoverError::Sweeper)?;
        let name = format!("sifaka {} {}", self.name, env!("CARGO_PKG_VERSION"));
        let reload = Reload::new(file.to_owned(), config, served);
        Ok(Plugin::new(environment, &name).on_reload(move || reload.run()).run(archives)?)
    }
}
