//! Reading the configuration again while the mover runs: what can change then, and what is told of the rest.
//!
//! A file that is wrong changes nothing. What an action that runs has begun with, it keeps (but for the rate).

use config::archive::{Archive, ArchiveSettings, MoverConfig, Place};
use model::limits::DEFAULT_CREDITS;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use transfer::Limiter;

/// An archive with the settings that it has now.
#[derive(Debug)]
pub(crate) struct ServedArchive {
    settings: RwLock<Arc<ArchiveSettings>>,
    limiter: Limiter,
}

impl ServedArchive {
    pub(crate) fn new(archive: ArchiveSettings) -> Self {
        let limiter = Limiter::new(archive.bandwidth_limit);
        Self { settings: RwLock::new(Arc::new(archive)), limiter }
    }

    /// As they are at this moment.
    pub(crate) fn settings(&self) -> Arc<ArchiveSettings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What all workers of the archive share.
    pub(crate) fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    fn set(&self, settings: ArchiveSettings) {
        self.limiter.set_rate(settings.bandwidth_limit);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}

/// How many actions of an archive the agent is asked to give at once: what the file says, or what is usual.
pub(crate) fn credits(archive: &ArchiveSettings) -> u32 {
    archive.max_in_flight.map_or(DEFAULT_CREDITS, u32::from)
}

/// Does it, as often as it is asked to.
#[derive(Debug)]
pub(crate) struct Reload<P> {
    file: PathBuf,
    /// As the mover was started with.
    started: MoverConfig<P>,
    served: Vec<Arc<ServedArchive>>,
}

impl<P: Place> Reload<P> {
    pub(crate) fn new(file: PathBuf, started: MoverConfig<P>, served: Vec<Arc<ServedArchive>>) -> Self {
        Self { file, started, served }
    }

    /// Reads the file and takes over what can change: the archives, each with how many actions it wants at once now.
    pub(crate) fn run(&self) -> Vec<(u32, u32)> {
        match MoverConfig::load(&self.file) {
            Ok((config, warnings)) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                for what in self.needs_restart(&config) {
                    tracing::warn!(file = %self.file.display(), "{what} has changed: restart the mover for that");
                }
                tracing::info!(file = %self.file.display(), "read again");
                self.apply(&config)
            }
            Err(error) => {
                tracing::error!(%error, "the configuration is wrong, and nothing of it is taken over");
                Vec::new()
            }
        }
    }

    fn apply(&self, config: &MoverConfig<P>) -> Vec<(u32, u32)> {
        let mut wanted = Vec::new();
        for served in &self.served {
            let now = served.settings();
            let Some(new) = config.archives.iter().find(|archive| archive.settings.id == now.id) else { continue };
            let settings = changeable(&now, &new.settings);
            wanted.push((settings.id, credits(&settings)));
            served.set(settings);
        }
        wanted
    }

    fn needs_restart(&self, config: &MoverConfig<P>) -> Vec<String> {
        let mut changed = Vec::new();
        if config.num_threads != self.started.num_threads {
            changed.push("`num_threads`".to_owned());
        }
        let number = |archive: &Archive<P>| archive.settings.id;
        let name = |archive: &Archive<P>| archive.settings.name.escape_debug().to_string();
        for archive in &config.archives {
            match self.started.archives.iter().find(|started| number(started) == number(archive)) {
                None => changed.push(format!("`archive \"{}\"` is new: this", name(archive))),
                Some(started)
                    if started.place != archive.place
                        || changeable(&started.settings, &archive.settings) != archive.settings =>
                {
                    changed.push(format!(
                        "more of `archive \"{}\"` than max_in_flight, bandwidth_limit, compression, checksums and pack",
                        name(archive)
                    ));
                }
                Some(_) => {}
            }
        }
        let is_gone = |old: &&Archive<P>| config.archives.iter().all(|new| number(new) != number(old));
        let gone = self.started.archives.iter().filter(is_gone);
        changed.extend(gone.map(|old| format!("`archive \"{}\"` is gone: this", name(old))));
        changed
    }
}

/// `now` with those settings of `new` that can change while the mover runs.
fn changeable(now: &ArchiveSettings, new: &ArchiveSettings) -> ArchiveSettings {
    ArchiveSettings {
        max_in_flight: new.max_in_flight,
        bandwidth_limit: new.bandwidth_limit,
        // Another codec is another format's, and formats do not change.
        compression: if now.format == new.format { new.compression } else { now.compression },
        checksums: new.checksums,
        pack_threshold_bytes: if now.format == new.format {
            new.pack_threshold_bytes
        } else {
            now.pack_threshold_bytes
        },
        ..now.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::PosixConfig;
    use config::archive::{Codec, Compression};
    use config::posix::Roots;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    fn write(path: &Path, text: &str) {
        use std::io::Write;
        let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn reload(path: &Path) -> Reload<Roots> {
        let (config, _) = PosixConfig::load(path).unwrap();
        let served =
            config.archives.iter().map(|archive| Arc::new(ServedArchive::new(archive.settings.clone()))).collect();
        Reload::new(path.to_owned(), config, served)
    }

    #[test]
    fn what_can_change_does_and_the_rest_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mover");
        write(
            &path,
            "archive \"a\" { id = 1 root = \"/a\" }\narchive \"b\" { id = 2 root = \"/b\" max_in_flight = 3 }",
        );
        let reload = reload(&path);
        let text = "num_threads = 9\nchecksums { disabled = true }\n\
            archive \"a\" { id = 1 root = \"/elsewhere\" max_in_flight = 7 bandwidth_limit = \"1MB/s\" compression = \"zstd\" }\n\
            archive \"c\" { id = 3 root = \"/c\" }";
        write(&path, text);
        assert_eq!(reload.run(), [(1, 7)]);
        let a = reload.served[0].settings();
        assert_eq!(a.compression, Compression::On(Codec::Zstd));
        assert!(a.checksums.disabled && a.bandwidth_limit.is_some());
        let told = reload.needs_restart(&PosixConfig::load(&path).unwrap().0).join("\n");
        for what in ["num_threads", "more of `archive \"a\"`", "`archive \"b\"` is gone", "`archive \"c\"` is new"] {
            assert!(told.contains(what), "{what} in {told}");
        }
    }

    #[test]
    fn a_wrong_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mover");
        write(&path, "archive \"a\" { id = 1 root = \"/a\" max_in_flight = 3 }");
        let reload = reload(&path);
        let before = reload.served[0].settings();
        write(&path, "archive \"a\" { id = 1 root = \"/a\" max_in_flight = 4 compresion = \"zstd\" }");
        assert!(reload.run().is_empty());
        assert_eq!(reload.served[0].settings(), before);
        // And a setting that is taken out is back to what is usual.
        write(&path, "archive \"a\" { id = 1 root = \"/a\" }");
        assert_eq!(reload.run(), [(1, DEFAULT_CREDITS)]);
    }
}
