//! Source or destination of a job: a directory, or a bucket by its URL.
//!
//! How to get into a bucket is what the object mover's configuration says of an archive in it, where there is one; else the usual tools' environment. Options
//! come before both.

use crate::archives;
use crate::commands::import_objects::{BucketUrl, is_same_bucket};
use crate::exit::{CliError, Exit};
use config::object::{AzureCredentials, Bucket, GcsCredentials, Layout, Limits, S3Credentials, Service, Thaw};
use jobs::buckets::Place;
use model::Scheme;
use std::path::Path;

/// Variables that name Azure's storage account.
const ACCOUNT: [&str; 2] = ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"];

/// How to get into a bucket.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct ReachArgs {
    /// Where the service of a bucket is, such as <http://host:port> [default: that of an archive in the bucket, else the environment's, else the service's own]
    #[arg(long, value_name = "URL", help_heading = "Buckets")]
    endpoint: Option<String>,
    /// Of an s3:// bucket [default: likewise]
    #[arg(long, value_name = "REGION", help_heading = "Buckets")]
    region: Option<String>,
    /// The profile of the shared files of credentials, for s3:// [default: likewise]
    #[arg(long, value_name = "NAME", help_heading = "Buckets")]
    profile: Option<String>,
    /// The storage account of an az:// container [default: likewise]
    #[arg(long, value_name = "NAME", help_heading = "Buckets")]
    account: Option<String>,
}

/// See the module.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct BucketArgs {
    #[command(flatten)]
    reach: ReachArgs,
    /// Put objects into this storage class [default: the bucket's]
    #[arg(long, value_name = "CLASS", help_heading = "Buckets")]
    storage_class: Option<String>,
}

/// One of them.
pub(crate) enum End {
    Directory,
    Bucket(Place),
}

impl BucketArgs {
    /// What a source is.
    pub(crate) fn source(&self, config_file: &Path, text: &Path) -> Result<End, CliError> {
        self.reach.source(config_file, text)
    }

    /// What a destination is. An archive's own objects are kept out of it.
    pub(crate) fn destination(&self, config_file: &Path, text: &Path) -> Result<End, CliError> {
        let Some(url) = BucketUrl::parse(text) else { return Ok(End::Directory) };
        let (place, archives) = self.reach.resolve(config_file, text, &url)?;
        let place = Bucket { storage_class: self.storage_class.clone(), ..place };
        for (id, archive) in archives.iter().filter(|(_, archive)| is_same_bucket(archive, &place)) {
            let slash = if archive.prefix.is_empty() { "" } else { "/" };
            let below = format!("{}{slash}", archive.prefix);
            if below.starts_with(&url.prefix) || url.prefix.starts_with(&below) {
                let why = format!("{}: archive {id} is there: name a prefix that is apart from it", text.display());
                return Err(CliError::new(Exit::Usage, why));
            }
        }
        open(text, &url, &place)
    }
}

impl ReachArgs {
    /// What is only read.
    pub(crate) fn source(&self, config_file: &Path, text: &Path) -> Result<End, CliError> {
        let Some(url) = BucketUrl::parse(text) else { return Ok(End::Directory) };
        let (place, _) = self.resolve(config_file, text, &url)?;
        open(text, &url, &place)
    }

    /// Whether anything was said.
    pub(crate) fn is_given(&self) -> bool {
        let Self { endpoint, region, profile, account } = self;
        [endpoint, region, profile, account].into_iter().any(Option::is_some)
    }

    /// Where the bucket is, and which archives there are.
    fn resolve(
        &self,
        config_file: &Path,
        text: &Path,
        url: &BucketUrl,
    ) -> Result<(Bucket, Vec<(u32, Bucket)>), CliError> {
        let archives = archives::in_buckets(config_file)?;
        let trimmed = |endpoint: &str| endpoint.trim_end_matches('/').to_ascii_lowercase();
        let asked = self.endpoint.as_deref().map(trimmed);
        let here: Vec<&Bucket> = archives
            .iter()
            .map(|(_, archive)| archive)
            .filter(|archive| url.is_of(archive))
            .filter(|archive| asked.is_none() || archive.endpoint.as_deref().map(trimmed) == asked)
            .collect();
        let place = match here.as_slice() {
            [first, rest @ ..] => {
                if rest.iter().any(|other| !is_same_bucket(first, other)) {
                    let why = format!(
                        "{}: archives are in several buckets of this name: say with --endpoint which is meant",
                        text.display()
                    );
                    return Err(CliError::new(Exit::Usage, why));
                }
                (*first).clone()
            }
            [] => self.unconfigured(text, url)?,
        };
        Ok((self.with_options(Bucket { bucket: url.bucket.clone(), ..place }), archives))
    }

    fn unconfigured(&self, text: &Path, url: &BucketUrl) -> Result<Bucket, CliError> {
        let service = match url.scheme {
            Scheme::S3 => Service::S3 {
                region: None,
                virtual_host_style: None,
                upload_checksums: true,
                credentials: S3Credentials::Chain { profile: None },
                encryption: None,
            },
            Scheme::Azure => {
                let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
                let account = self.account.clone().or_else(|| ACCOUNT.iter().find_map(set)).ok_or_else(|| {
                    let why = format!("{}: say with --account in which storage account it is", text.display());
                    CliError::new(Exit::Usage, why)
                })?;
                Service::Azure { account, credentials: AzureCredentials::Chain }
            }
            Scheme::Google => Service::Gcs { credentials: GcsCredentials::Chain },
        };
        Ok(Bucket {
            service,
            bucket: url.bucket.clone(),
            prefix: String::new(),
            endpoint: None,
            ca_file: None,
            storage_class: None,
            layout: Layout::Uuid,
            thaw: Thaw::default(),
            limits: Limits::default(),
        })
    }

    /// What is no archive's: without its prefix, layout and storage class.
    fn with_options(&self, place: Bucket) -> Bucket {
        let mut service = place.service.clone();
        match &mut service {
            Service::S3 { region, credentials, .. } => {
                *region = self.region.clone().or(region.take());
                if let Some(profile) = &self.profile {
                    *credentials = S3Credentials::Chain { profile: Some(profile.clone()) };
                }
            }
            Service::Azure { account, .. } => {
                if let Some(asked) = &self.account {
                    account.clone_from(asked);
                }
            }
            Service::Gcs { .. } => {}
        }
        Bucket {
            service,
            prefix: String::new(),
            endpoint: self.endpoint.clone().or_else(|| place.endpoint.clone()),
            layout: Layout::Uuid,
            storage_class: None,
            ..place
        }
    }
}

fn open(text: &Path, url: &BucketUrl, place: &Bucket) -> Result<End, CliError> {
    let wrong = |why: &str| CliError::new(Exit::Usage, format!("{}: {why}", text.display()));
    let prefix = url.prefix.trim_end_matches('/');
    if !prefix.is_empty()
        && prefix.split('/').any(|part| matches!(part, "" | "." | "..") || part.chars().any(char::is_control))
    {
        return Err(wrong("a prefix is names with single slashes between them, none of them . or .."));
    }
    if prefix.trim_start() != prefix {
        return Err(wrong("a prefix that begins with a blank is lost on the way"));
    }
    let bucket = movers::object::bucket(place);
    let bucket = bucket.map_err(|error| CliError::new(Exit::Config, format!("{}: {error}", text.display())))?;
    Ok(End::Bucket(Place { bucket, prefix: url.prefix.clone() }))
}
