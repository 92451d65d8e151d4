//! The steps on a filesystem that files can be released on, with an agent; then the filesystem is destroyed, and rebuilt.

use super::ask::Admin;
use super::loop_fs::{self, FsKind};
use super::pace::{Pace, each};
use super::report::{Df, Report};
use super::site::Site;
use super::tree::{Source, Tree};
use super::{cannot_at, content, wrong};
use crate::exit::CliError;
use crate::output::escaped_path;
use agent::admin::api::RequestCommand;
use model::{Digest, ObjectId};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use sys::OFlags;
use transfer::{DigestKind, Expected, OpenFile, PosixStore, Store, Unwatched};

/// All of them.
pub(super) fn show(
    site: &mut Site,
    kind: FsKind,
    tree: &Tree,
    pace: &mut Pace<'_>,
    report: &mut Report,
) -> Result<(), CliError> {
    let stop = pace.stop;
    let all = (tree.count(), tree.bytes());
    let mount = site.mount_point();
    let top = mount.join("tree");
    pace.step("copy in", all, |bar| {
        let directories: BTreeSet<&Path> = tree.files.iter().filter_map(|source| source.relative.parent()).collect();
        for directory in directories {
            let path = top.join(directory);
            fs::create_dir_all(&path).map_err(cannot_at("make", &path))?;
        }
        each(&tree.files, stop, |source| {
            let copy = top.join(&source.relative);
            fs::copy(&source.path, &copy).map_err(cannot_at("write", &copy))?;
            bar.inc(1);
            Ok(())
        })?;
        sync(&mount)
    })?;
    site.start_agent(stop)?;
    let admin = Admin { socket: site.admin_socket(), tree: top.clone(), files: tree.count(), stop };
    pace.step("archive", all, |bar| admin.submit(RequestCommand::Archive, bar))?;
    let store = site.open_archive()?;
    // What is read is what is on the disk, not what was left in memory by writing it.
    forget_pages(&site.archive())?;
    pace.step("verify", all, |bar| {
        each(&tree.files, stop, |source| {
            verify(source, &top.join(&source.relative), &store)?;
            bar.inc(1);
            Ok(())
        })
    })?;
    sync(&mount)?;
    report.df_before = Some(df(&mount)?);
    pace.step("release", all, |bar| admin.release(bar))?;
    sync(&mount)?;
    report.df_after = Some(df(&mount)?);
    let read_all = |bar: &indicatif::ProgressBar| {
        each(&tree.files, stop, |source| {
            content::compare(&source.path, &top.join(&source.relative))?;
            bar.inc(1);
            Ok(())
        })
    };
    pace.step("read back", all, read_all)?;
    site.destroy_filesystem()?;
    let missing = loop_fs::make(site, kind, tree)?;
    if !missing.is_empty() {
        return Err(wrong(format!("the filesystem cannot be made a second time: {}", missing.join("; "))));
    }
    pace.step("rebuild", all, |_| site.rebuild())?;
    site.start_agent(stop)?;
    pace.step("read rebuilt", all, read_all)?;
    pace.step("remove", all, |bar| admin.submit(RequestCommand::Remove, bar))?;
    let left = super::objects(&store)?;
    report.objects_left = Some(left);
    if left == 0 {
        Ok(())
    } else {
        Err(wrong(format!("{left} objects are left in the archive after all were removed")))
    }
}

/// Reads the object that `copy` names in the archive: it has to be what the file's attribute says, and what the original is.
fn verify(source: &Source, copy: &Path, store: &PosixStore) -> Result<(), CliError> {
    let failed = |why: String| wrong(format!("{}: {why}", escaped_path(copy)));
    // Attributes can be read without opening the file for anything else.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(copy, flags, sys::Mode::empty()).map_err(|why| cannot_at("open", copy)(why.into()))?;
    let attribute = |name: &str| {
        let value = sys::xattr::get(&fd, name).map_err(cannot_at("read attributes of", copy))?;
        let value = value.ok_or_else(|| failed(format!("has no attribute {name}, though it was archived")))?;
        String::from_utf8(value).map_err(|why| failed(format!("{name}: {why}")))
    };
    let id = ObjectId::parse(&attribute(model::xattr::UUID)?).map_err(|why| failed(why.to_string()))?;
    let promised = Digest::from_hex(&attribute(model::xattr::HASH)?).map_err(|why| failed(why.to_string()))?;
    let expected = Expected { size: Some(source.bytes), digest: Some(promised) };
    store.verify(&id, expected, &Unwatched).map_err(|why| failed(why.to_string()))?;
    let original = OpenFile::for_reading(&source.path).map_err(|why| wrong(why.to_string()))?;
    if hash(&original)? != promised {
        return Err(failed("what was archived is not what the original holds".to_owned()));
    }
    Ok(())
}

/// Has the kernel drop what it holds of the files below.
fn forget_pages(directory: &Path) -> Result<(), CliError> {
    for entry in fs::read_dir(directory).map_err(cannot_at("list", directory))? {
        let path = entry.map_err(cannot_at("list", directory))?.path();
        let kind = fs::symlink_metadata(&path).map_err(cannot_at("look at", &path))?.file_type();
        if kind.is_dir() {
            forget_pages(&path)?;
        } else if kind.is_file() {
            let advised = File::open(&path).and_then(|file| sys::file::advise_dontneed(&file, 0, 0));
            advised.map_err(cannot_at("advise on", &path))?;
        }
    }
    Ok(())
}

/// BLAKE3 of a file's content.
fn hash(file: &OpenFile) -> Result<Digest, CliError> {
    let hashed = transfer::copy::hash_file(file, DigestKind::Blake3, &Unwatched);
    hashed.map(|(_, digest)| digest).map_err(|why| wrong(why.to_string()))
}

/// Also makes the filesystem count what was freed.
fn sync(mount: &Path) -> Result<(), CliError> {
    File::open(mount).and_then(|root| sys::file::sync_fs(&root)).map_err(cannot_at("sync", mount))
}

fn df(mount: &Path) -> Result<Df, CliError> {
    Df::of(mount).map_err(cannot_at("look at", mount))
}
