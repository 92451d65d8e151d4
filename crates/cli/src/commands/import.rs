//! `sifaka import`: released files for what an archive holds already.

use super::import_objects::{self, BucketUrl, ObjectsArgs};
use super::rebuild::{self, TreeArgs, Wanted};
use crate::archives::{self, ArchiveArgs};
use crate::exit::{CliError, Exit, Outcome};
use crate::lustre;
use crate::output::{Output, complain, escaped_path};
use maintenance::MaintenanceError;
use maintenance::import::{Attributes, check, one};
use maintenance::released::Released;
use model::{Digest, Identity, ObjectUrl, Timestamp, moment};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use sys::file::Moment;

#[derive(clap::Args, Debug)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(super) archive: ArchiveArgs,
    /// The file to make, which must not exist; with --tree the directory to make files in. Or a bucket, as s3://BUCKET/PREFIX, az:// or gs://, and the
    /// directory to make files in for all objects there
    #[arg(value_name = "PATH", required = true, num_args = 1..=2)]
    paths: Vec<PathBuf>,
    /// The object's id
    #[arg(long, requires = "size", conflicts_with = "tree")]
    uuid: Option<String>,
    /// Import everything that was archived from below this path of the original filesystem (/ for all)
    #[arg(long, value_name = "PREFIX")]
    tree: Option<PathBuf>,
    #[command(flatten)]
    pub(super) options: TreeArgs,
    #[command(flatten)]
    pub(super) objects: ObjectsArgs,
    /// Hash of the content in hexadecimal: BLAKE3, or SHA-1 of what Lemur archived
    #[arg(long, value_name = "HEX", value_parser = hash)]
    hash: Option<Digest>,
    /// Owner, by name or number
    #[arg(long, default_value = "0", value_parser = user)]
    pub(super) uid: u32,
    /// Group, by name or number
    #[arg(long, default_value = "0", value_parser = group)]
    pub(super) gid: u32,
    /// Size of the content in bytes
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
    /// Permission bits, in octal
    #[arg(long, value_name = "OCTAL", default_value = "644", value_parser = mode)]
    pub(super) mode: u32,
    /// Last change: seconds since 1970, or a date such as 2023-11-14T22:13:20Z [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = moment::parse)]
    mtime: Option<Moment>,
    /// Last read [default: as --mtime]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = moment::parse)]
    atime: Option<Moment>,
    /// Look at nothing in the archive: for archives of movers that are not built in
    #[arg(long)]
    no_check: bool,
    /// Look whether it could be done, and do nothing
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Print nothing on success
    #[arg(short, long, conflicts_with = "json")]
    pub(super) quiet: bool,
    /// Taken for Lemur's sake: its usual form is understood without
    #[arg(long, hide = true)]
    timefmt: Option<String>,
    /// On Lustre, over how many OSTs the file is to be; -1 for all [default: as its directory says]
    #[arg(long = "stripe_count", value_name = "COUNT", allow_hyphen_values = true,
        value_parser = clap::value_parser!(i32).range(-1..))]
    stripe_count: Option<i32>,
    /// On Lustre, bytes a stripe [default: as its directory says]
    #[arg(long = "stripe_size", value_name = "BYTES")]
    stripe_size: Option<u64>,
    /// On Lustre, the pool of OSTs [default: as its directory says]
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
}

#[derive(Serialize)]
struct Imported<'a> {
    path: String,
    archive_id: u32,
    uuid: &'a str,
    size: u64,
    dry_run: bool,
}

pub(crate) fn run(config_file: &Path, args: &ImportArgs) -> Outcome {
    let usage = |why: String| Err(CliError::new(Exit::Usage, why));
    let path = match args.paths.as_slice() {
        [path] if BucketUrl::parse(path).is_none() => path,
        [url, into] => {
            let Some(found) = BucketUrl::parse(url) else {
                return usage(format!(
                    "{}: two paths are a bucket (s3://, az:// or gs://) and a directory",
                    url.display()
                ));
            };
            if args.uuid.is_some()
                || args.tree.is_some()
                || args.mtime.is_some()
                || args.atime.is_some()
                || args.no_check
            {
                return usage("--uuid, --tree, --mtime, --atime and --no-check are not for a whole bucket".to_owned());
            }
            lustre::refuse("import", into)?;
            return import_objects::run(config_file, args, url, &found, into);
        }
        _ => return usage("say which directory the files are to be made in".to_owned()),
    };
    match (&args.tree, &args.uuid) {
        (Some(prefix), _) => {
            lustre::refuse("import --tree", path)?;
            let prefix = rebuild::relative(prefix)?;
            let ImportArgs { dry_run, json, quiet, .. } = *args;
            let wanted = Wanted { prefix, shared: true, into: path, dry_run, json, quiet };
            rebuild::tree(config_file, &args.archive, &args.options, &wanted)
        }
        (None, Some(uuid)) if ObjectUrl::is_meant(uuid) => usage(format!(
            "{uuid}: objects that are named by URLs are imported with `sifaka import {} DIR`: everything below that",
            parent(uuid)
        )),
        (None, Some(uuid)) => object(config_file, args, path, uuid),
        (None, None) => usage("give --uuid for one object, --tree, or a bucket and a directory".to_owned()),
    }
}

/// The directory that an object's URL is in.
fn parent(url: &str) -> &str {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let last = url.get(begin..).and_then(|rest| rest.rfind('/'));
    last.and_then(|at| url.get(..begin + at)).unwrap_or(url)
}

fn object(config_file: &Path, args: &ImportArgs, path: &Path, uuid: &str) -> Outcome {
    let size = args.size.unwrap_or(0);
    if let Some(layout) = args.timefmt.as_deref().filter(|layout| !KNOWN_LAYOUTS.contains(layout)) {
        let known = KNOWN_LAYOUTS.join("\" or \"");
        let why = format!("--timefmt {layout:?} is not understood; \"{known}\" is, and needs no --timefmt");
        return Err(CliError::new(Exit::Usage, why));
    }
    let archive_id = archives::number(&args.archive, config_file)?;
    let identity = Identity { uuid: uuid.to_owned(), hash: args.hash, url: String::new() };
    let released = Released { size, archive_id, identity, shared: true };
    let filesystem = on_lustre(path)?;
    if filesystem.is_some() && !args.no_check && !config_file.exists() && args.archive.root.is_none() {
        if !args.quiet {
            complain(
                "there is no configuration that tells where the archive is: whether it has the object was not checked",
            );
        }
    } else if !args.no_check {
        check(&*archives::open(&args.archive, config_file)?.holdings, &released).map_err(failed)?;
    }
    let mtime = args.mtime.unwrap_or_else(now);
    let attributes = Attributes { uid: args.uid, gid: args.gid, mode: args.mode, mtime, atime: args.atime };
    if args.dry_run {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(failed(MaintenanceError::Exists { path: path.to_owned() }));
        }
    } else if let Some(filesystem) = filesystem {
        make_on_lustre(&filesystem, path, args, &released, &attributes)?;
    } else {
        one(path, &released, &attributes).map_err(failed)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        super::warn_if_unguarded(dir.unwrap_or(Path::new(".")));
    }
    let mut output = Output::new();
    if args.json {
        let path = path.to_string_lossy().into_owned();
        output.json(&Imported { path, archive_id, uuid, size, dry_run: args.dry_run })?;
    } else if !args.quiet {
        let what = if args.dry_run { "would import" } else { "imported" };
        output.put(format!("{what} {} (archive {archive_id}, object {uuid})\n", escaped_path(path)))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

fn on_lustre(path: &Path) -> Result<Option<Arc<lustre::Filesystem>>, CliError> {
    let why = |why| CliError::new(Exit::NotHere, format!("{}: {why}", escaped_path(path)));
    lustre::Filesystem::of_parent(path).map_err(why)
}

fn make_on_lustre(
    filesystem: &lustre::Filesystem,
    path: &Path,
    args: &ImportArgs,
    released: &Released,
    attributes: &Attributes,
) -> Result<(), CliError> {
    let time = |(seconds, nanos)| Timestamp { seconds, nanos };
    let file = sys::lustre::Import {
        archive_id: released.archive_id,
        size: released.size,
        uid: attributes.uid,
        gid: attributes.gid,
        permissions: attributes.mode,
        atime: time(attributes.atime.unwrap_or(attributes.mtime)),
        mtime: time(attributes.mtime),
        pool: args.pool.as_deref(),
        stripe_count: args.stripe_count.unwrap_or(0),
        stripe_size: args.stripe_size.unwrap_or(0),
    };
    let made = lustre::import(filesystem, path, &lustre::Import { file, identity: &released.identity });
    made.map_err(|why| match why.kind() {
        io::ErrorKind::AlreadyExists => failed(MaintenanceError::Exists { path: path.to_owned() }),
        _ => CliError::new(Exit::SomeFailed, format!("cannot import {}: {why}", escaped_path(path))),
    })
}

/// Layouts of Go's `time` package that [`moment::parse`] reads.
const KNOWN_LAYOUTS: [&str; 4] = [
    "2006-01-02 15:04:05.999999999 -0700",
    "2006-01-02 15:04:05 -0700",
    "2006-01-02T15:04:05Z07:00",
    "2006-01-02T15:04:05.999999999Z07:00",
];

fn failed(error: MaintenanceError) -> CliError {
    CliError::new(Exit::SomeFailed, error.to_string())
}

fn now() -> Moment {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs().cast_signed(), now.subsec_nanos())
}

fn hash(text: &str) -> Result<Digest, String> {
    Digest::from_hex(text).map_err(|error| error.to_string())
}

pub(super) fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| "expected permission bits in octal, such as 640".to_owned())
}

fn user(text: &str) -> Result<u32, String> {
    let found = || nix::unistd::User::from_name(text).map_err(|error| error.to_string());
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => found()?.map(|user| user.uid.as_raw()).ok_or_else(|| "there is no such user".to_owned()),
    }
}

fn group(text: &str) -> Result<u32, String> {
    let found = || nix::unistd::Group::from_name(text).map_err(|error| error.to_string());
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => found()?.map(|group| group.gid.as_raw()).ok_or_else(|| "there is no such group".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_in_a_directory_of_its_bucket() {
        for (url, expected) in
            [("s3://b/d/k", "s3://b/d"), ("s3://b/k", "s3://b"), ("az://c/a/b/", "az://c/a/b"), ("s3://b", "s3://b")]
        {
            assert_eq!(parent(url), expected);
        }
    }
}
