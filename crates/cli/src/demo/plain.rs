//! The steps where nothing can be released: the archive alone, in a directory, without an agent.

use super::pace::{Pace, each};
use super::report::Report;
use super::site::Site;
use super::tree::{Source, Tree};
use super::{cannot_at, content, wrong};
use crate::exit::CliError;
use indicatif::ProgressBar;
use model::{Digest, ObjectId};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use transfer::{
    Compression, DigestKind, Digester, Expected, OpenFile, PosixStore, PutOptions, Store, TransferError, Unwatched,
};

/// Files that a thread has staged before it waits for them: the store makes many durable at once.
const GROUP: usize = 32;

/// A file in the archive.
struct Archived<'t> {
    source: &'t Source,
    id: ObjectId,
    digest: Digest,
}

/// All steps.
pub(super) fn show(site: &Site, tree: &Tree, pace: &mut Pace<'_>, report: &mut Report) -> Result<(), CliError> {
    let stop = pace.stop;
    let all = (tree.count(), tree.bytes());
    let store = site.open_archive()?;
    let groups: Vec<&[Source]> = tree.files.chunks(GROUP).collect();
    let archived = Mutex::new(Vec::new());
    pace.step("archive", all, |bar| {
        each(&groups, stop, |group| {
            let done = archive(&store, group, bar)?;
            archived.lock().unwrap_or_else(PoisonError::into_inner).extend(done);
            Ok(())
        })
    })?;
    let archived = archived.into_inner().unwrap_or_else(PoisonError::into_inner);
    pace.step("verify", all, |bar| {
        each(&archived, stop, |Archived { source, id, digest }| {
            let expected = Expected { size: None, digest: Some(*digest) };
            store.verify(id, expected, &Unwatched).map_err(failed)?;
            let original = OpenFile::for_reading(&source.path).map_err(failed)?;
            let (_, found) = transfer::copy::hash_file(&original, DigestKind::Blake3, &Unwatched).map_err(failed)?;
            bar.inc(1);
            if found == *digest {
                Ok(())
            } else {
                Err(wrong(format!("{id} is not what {} holds", crate::output::escaped_path(&source.path))))
            }
        })
    })?;
    let restored = site.dir("restored");
    pace.step("restore", all, |bar| {
        each(&archived, stop, |file| {
            restore(&store, file, &restored.join(&file.source.relative))?;
            bar.inc(1);
            Ok(())
        })
    })?;
    pace.step("read back", all, |bar| {
        each(&tree.files, stop, |source| {
            content::compare(&source.path, &restored.join(&source.relative))?;
            bar.inc(1);
            Ok(())
        })
    })?;
    let groups: Vec<&[Archived<'_>]> = archived.chunks(GROUP).collect();
    pace.step("remove", all, |bar| each(&groups, stop, |group| remove(&store, group, bar)))?;
    let left = super::objects(&store)?;
    report.objects_left = Some(left);
    if left == 0 {
        Ok(())
    } else {
        Err(wrong(format!("{left} objects are left in the archive after all were removed")))
    }
}

fn archive<'t>(store: &PosixStore, group: &'t [Source], bar: &ProgressBar) -> Result<Vec<Archived<'t>>, CliError> {
    let options = PutOptions {
        digest: Some(DigestKind::Blake3),
        compression: Compression::Off,
        origin: None,
        pack_up_to_bytes: 0,
        repeated: false,
    };
    let (done, results) = channel();
    for (index, source) in group.iter().enumerate() {
        let original = OpenFile::for_reading(&source.path).map_err(failed)?;
        let staged = store.stage(&object_id(&source.relative)?, &original, options, &Unwatched).map_err(failed)?;
        let done = done.clone();
        // Nobody listens when another file of the group has failed.
        store.commit(staged, Box::new(move |result| drop(done.send((index, result)))));
    }
    drop(done);
    let stored = results.into_iter().map(|(index, result)| {
        let stored = result.map_err(failed)?;
        let (Some(source), Some(digest)) = (group.get(index), stored.digest) else {
            return Err(wrong(format!("{} was archived without a hash", stored.id)));
        };
        bar.inc(1);
        Ok(Archived { source, id: stored.id, digest })
    });
    stored.collect()
}

fn restore(store: &PosixStore, file: &Archived<'_>, target: &Path) -> Result<(), CliError> {
    let directory = target.parent().unwrap_or(target);
    fs::create_dir_all(directory).map_err(cannot_at("make", directory))?;
    let new = File::options().read(true).write(true).create_new(true).open(target);
    let new = OpenFile::new(new.map_err(cannot_at("make", target))?, target);
    let expected = Expected { size: None, digest: Some(file.digest) };
    store.get(&file.id, &new, expected, &Unwatched).map(drop).map_err(failed)
}

fn remove(store: &PosixStore, group: &[Archived<'_>], bar: &ProgressBar) -> Result<(), CliError> {
    let (done, results) = channel();
    for file in group {
        let done = done.clone();
        store.remove(&file.id, Box::new(move |result| drop(done.send(result))));
    }
    drop(done);
    for result in results {
        result.map_err(failed)?;
        bar.inc(1);
    }
    Ok(())
}

/// The agent would propose a random one. Here the path's hash does: no two files have the same.
fn object_id(relative: &Path) -> Result<ObjectId, CliError> {
    let mut digester = Digester::new(DigestKind::Blake3);
    digester.update(relative.as_os_str().as_bytes());
    ObjectId::parse(&digester.finish().to_string()).map_err(|why| wrong(why.to_string()))
}

fn failed(error: TransferError) -> CliError {
    wrong(error.to_string())
}
