//! `sifaka import s3://bucket/prefix DIR`: released files for objects that somebody else put into a bucket.

use super::import::ImportArgs;
use crate::archives;
use crate::exit::{CliError, Exit, Outcome};
use crate::render;
use crate::watch::Told;
use config::object::{Bucket, Layout, Service};
use maintenance::MaintenanceError;
use maintenance::foreign::{Options, import};
use model::Scheme;
use std::num::NonZeroUsize;
use std::path::Path;

/// What only this kind of import has.
#[derive(clap::Args, Debug)]
pub(crate) struct ObjectsArgs {
    /// Of a bucket: ask for each object's mode and mtime, as Sifaka, rclone and Lemur store them; a request for each object
    #[arg(long)]
    attributes: bool,
    /// With --attributes: owner and group, too. Whoever may write to the bucket says then whose the files are
    #[arg(long, requires = "attributes")]
    owners: bool,
    /// Of a bucket: permission bits of directories that are made, in octal
    #[arg(long, value_name = "OCTAL", default_value = "755", value_parser = super::import::mode)]
    dir_mode: u32,
    /// Of a bucket: tell now and then on standard error how far it is, also where that is no terminal
    #[arg(long)]
    progress: bool,
}

/// A bucket's URL, or that of a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketUrl {
    pub(crate) scheme: Scheme,
    pub(crate) bucket: String,
    /// Empty, or ending in a slash.
    pub(crate) prefix: String,
}

impl BucketUrl {
    /// `None` for what is no URL of a bucket. What is behind the bucket is taken as it stands: nothing in it means anything.
    pub(crate) fn parse(text: &Path) -> Option<Self> {
        let text = text.to_str()?;
        Scheme::ALL.into_iter().find_map(|scheme| {
            let rest = text.strip_prefix(scheme.name())?.strip_prefix("://")?;
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix = prefix.trim_end_matches('/');
            let slash = if prefix.is_empty() { "" } else { "/" };
            Some(Self { scheme, bucket: bucket.to_owned(), prefix: format!("{prefix}{slash}") })
        })
    }

    pub(crate) fn is_of(&self, archive: &Bucket) -> bool {
        let scheme = match archive.service {
            Service::S3 { .. } => Scheme::S3,
            Service::Azure { .. } => Scheme::Azure,
            Service::Gcs { .. } => Scheme::Google,
        };
        (self.scheme, self.bucket.as_str()) == (scheme, archive.bucket.as_str())
    }
}

/// Where an archive keeps what it has, below its prefix. Where objects go by paths they are anywhere: only each one's texts tell.
fn own(layout: Layout) -> &'static [&'static str] {
    match layout {
        Layout::Uuid => &["objects/", "small/", "manifests/", "packs/"],
        Layout::Path => &[".sifaka/"],
        Layout::LemurS3 => &["o/"],
        Layout::LemurAz => &[],
    }
}

/// Whether two archives are in one bucket, and not in two of one name with different services.
pub(crate) fn is_same_bucket(one: &Bucket, other: &Bucket) -> bool {
    fn place(archive: &Bucket) -> (&str, Option<&str>, Option<String>, &str) {
        let (scheme, account) = match &archive.service {
            Service::S3 { .. } => ("s3", None),
            Service::Azure { account, .. } => ("az", Some(account.as_str())),
            Service::Gcs { .. } => ("gs", None),
        };
        let endpoint = archive.endpoint.as_deref().map(|url| url.trim_end_matches('/').to_ascii_lowercase());
        // Whoever names the service's own means no other.
        let own = [".amazonaws.com", ".amazonaws.com.cn", ".core.windows.net", ".googleapis.com"];
        let endpoint = endpoint.filter(|url| !own.iter().any(|own| url.ends_with(own)));
        (scheme, account, endpoint, &archive.bucket)
    }
    place(one) == place(other)
}

/// What keys begin with that are Sifaka's own. Who imports a part of an archive's prefix, or has an archive at the top of the bucket, means what else is
/// there.
fn ours<'a>(prefix: &str, archives: impl Iterator<Item = &'a Bucket>) -> Vec<String> {
    let of_archive = |archive: &Bucket| {
        let slash = if archive.prefix.is_empty() { "" } else { "/" };
        let below = format!("{}{slash}", archive.prefix);
        if prefix.starts_with(&below) {
            own(archive.layout).iter().map(|directory| format!("{below}{directory}")).collect()
        } else {
            vec![below]
        }
    };
    archives.flat_map(of_archive).collect()
}

/// The archive whose mover is to restore the files.
fn choose<'a>(
    url: &BucketUrl,
    shown: &Path,
    asked: Option<u32>,
    all: &'a [(u32, Bucket)],
) -> Result<&'a (u32, Bucket), CliError> {
    let here: Vec<_> = all.iter().filter(|(_, archive)| url.is_of(archive)).collect();
    let wrong = |why: String| CliError::new(Exit::Config, format!("{}: {why}", shown.display()));
    if let Some(asked) = asked {
        let found = here.into_iter().find(|(id, _)| *id == asked);
        return found.ok_or_else(|| wrong(format!("archive {asked} is not in this bucket")));
    }
    match here.as_slice() {
        [one] => Ok(one),
        [] => {
            let why = "no archive is in this bucket, whose mover could restore the files: configure one, with a prefix of its own";
            Err(wrong(why.to_owned()))
        }
        several => {
            let ids: Vec<_> = several.iter().map(|(id, _)| id.to_string()).collect();
            let ids = ids.join(", ");
            Err(wrong(format!(
                "archives {ids} are in this bucket: say with --archive which one's mover restores the files"
            )))
        }
    }
}

pub(crate) fn run(config_file: &Path, args: &ImportArgs, shown: &Path, url: &BucketUrl, into: &Path) -> Outcome {
    let all = archives::in_buckets(config_file)?;
    let (id, archive) = choose(url, shown, args.archive.id, &all)?;
    let store = movers::object::open(archive);
    let store = store.map_err(|error| CliError::new(Exit::NotHere, format!("archive {id}: {error}")))?;
    let ObjectsArgs { attributes, owners, dir_mode, progress } = args.objects;
    let options = Options {
        into: into.to_owned(),
        archive_id: *id,
        prefix: url.prefix.clone(),
        ours: ours(&url.prefix, all.iter().map(|(_, other)| other).filter(|other| is_same_bucket(other, archive))),
        uid: args.uid,
        gid: args.gid,
        mode: args.mode,
        dir_mode,
        attributes,
        owners,
        dry_run: args.dry_run,
        threads: args.options.threads.map_or(if attributes { 32 } else { 4 }, NonZeroUsize::get),
    };
    let told = if progress { Told::with_lines(args.json, args.quiet) } else { Told::new(args.json, args.quiet) };
    let counts = import(&store, &options, &told)
        .map_err(|error: MaintenanceError| CliError::new(Exit::SomeFailed, error.to_string()))?;
    told.finish(&counts, &render::imported::human(&counts, args.dry_run))?;
    if !args.dry_run && counts.files + counts.replaced > 0 {
        super::warn_if_unguarded(into);
    }
    if counts.objects == 0 {
        let why = format!(
            "there is no object below {} (that names a directory: a single object is imported by the one that it is in)",
            shown.display()
        );
        return Err(CliError::new(Exit::Problems, why));
    }
    Ok(if counts.is_whole() { Exit::Ok } else { Exit::Problems })
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::ObjectConfig;

    fn url(text: &str) -> BucketUrl {
        BucketUrl::parse(Path::new(text)).unwrap()
    }

    fn configured() -> Vec<(u32, Bucket)> {
        let text = "archive \"a\" { id = 1 url = \"s3://one/site\" }\narchive \"b\" { id = 2 url = \"s3://two\" }\n\
            archive \"c\" { id = 3 url = \"s3://two/c\" }\narchive \"d\" { id = 4 url = \"gs://one\" }";
        let archives = ObjectConfig::parse(text, "f").unwrap().0.archives;
        archives.into_iter().map(|archive| (archive.settings.id, archive.place)).collect()
    }

    #[test]
    fn a_url_is_a_bucket_and_perhaps_a_directory_in_it() {
        let (scheme, bucket) = (Scheme::S3, "b".to_owned());
        let with = |prefix: &str| BucketUrl { scheme, bucket: bucket.clone(), prefix: prefix.to_owned() };
        assert_eq!([url("s3://b"), url("s3://b/"), url("s3://b/x y/%20/")], [with(""), with(""), with("x y/%20/")]);
        assert_eq!(BucketUrl::parse(Path::new("/s3://b")), None);
        assert_eq!(BucketUrl::parse(Path::new("dir")), None);
    }

    #[test]
    fn the_archive_is_the_one_in_the_bucket() {
        let all = configured();
        let choose = |text: &str, asked| {
            choose(&url(text), Path::new(text), asked, &all).map(|(id, _)| *id).map_err(|e| format!("{e:?}"))
        };
        assert_eq!(choose("s3://one/x", None), Ok(1));
        assert_eq!(choose("gs://one", None), Ok(4));
        assert!(choose("s3://two", None).unwrap_err().contains("archives 2, 3 are in this bucket"));
        assert_eq!(choose("s3://two", Some(3)), Ok(3));
        assert!(choose("s3://two", Some(1)).unwrap_err().contains("archive 1 is not in this bucket"));
        assert!(choose("az://two", None).unwrap_err().contains("no archive is in this bucket"));
    }

    #[test]
    fn buckets_of_one_name_may_be_two() {
        let text = "archive \"a\" { id = 1 url = \"s3://b/x\" endpoint = \"http://one/\" }\n\
            archive \"b\" { id = 2 url = \"s3://b/y\" endpoint = \"http://ONE\" }\narchive \"c\" { id = 3 url = \"s3://b\" }\n\
            archive \"f\" { id = 6 url = \"s3://b/f\" endpoint = \"https://s3.eu-west-1.amazonaws.com/\" }\n\
            archive \"d\" { id = 4 url = \"az://b/x\" account = \"e\" }\narchive \"e\" { id = 5 url = \"az://b/y\" account = \"f\" }";
        let all: Vec<Bucket> =
            ObjectConfig::parse(text, "f").unwrap().0.archives.into_iter().map(|archive| archive.place).collect();
        let like =
            |at: usize| (0..all.len()).filter(|other| is_same_bucket(&all[at], &all[*other])).collect::<Vec<_>>();
        let expected = [vec![0, 1], vec![0, 1], vec![2, 3], vec![2, 3], vec![4], vec![5]];
        assert_eq!([0, 1, 2, 3, 4, 5].map(like), expected);
    }

    #[test]
    fn what_is_below_an_archive_is_not_imported() {
        let all = configured();
        let own = |below: &str| own(Layout::Uuid).iter().map(|dir| format!("{below}{dir}")).collect::<Vec<_>>();
        let of = |ids: &[u32], prefix: &str| {
            ours(prefix, all.iter().filter(|(id, _)| ids.contains(id)).map(|(_, archive)| archive))
        };
        assert_eq!(of(&[1], ""), ["site/"]);
        assert_eq!(of(&[1], "other/"), ["site/"]);
        assert_eq!(of(&[1], "site/"), own("site/"));
        assert_eq!(of(&[2, 3], "x/"), [own(""), vec!["c/".to_owned()]].concat());
    }
}
