//! The object mover's configuration: `lhsm-plugin-object` beside the agent's file. Archives in buckets of S3, Azure Blob Storage and
//! Google Cloud Storage.
//!
//! Whether a bucket is there and lets us in is not looked at here, and files that are named are not read.

mod thaw;

pub use thaw::{AzureTier, Thaw, ThawTier};

use crate::archive::{Archive, Format, MoverConfig, Place, Taken};
use crate::reader::{At, Section};
use crate::secret::Secret;
use crate::tree::Pos;
use std::path::PathBuf;

/// How the object mover runs, and the archives it serves.
pub type ObjectConfig = MoverConfig<Bucket>;
/// One `archive "name" { … }`.
pub type ObjectArchive = Archive<Bucket>;

const EXAMPLE: &str = "write archive \"name\" { id = 1, url = \"s3://bucket/prefix\" }";
const MIB: u64 = 1 << 20;

/// Where an archive is, and how to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// `url` (required), its scheme with what only this service has: `s3://`, `az://` or `gs://`.
    pub service: Service,
    /// The bucket, or Azure's container, from `url`.
    pub bucket: String,
    /// What every key begins with, from `url`: without slashes at either end; may be empty.
    pub prefix: String,
    /// `endpoint` (the service's own): `http://…` or `https://…`.
    pub endpoint: Option<String>,
    /// `ca_file` (none): an absolute path; certificates (PEM) that are trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// `storage_class` (the bucket's): of new objects, by the service's name for it.
    pub storage_class: Option<String>,
    /// `layout` (`"uuid"`): which object has which key. What an archive was begun with, it has to be read with.
    pub layout: Layout,
    /// `thaw { … }`: of objects in cold classes.
    pub thaw: Thaw,
    /// `limits { … }`.
    pub limits: Limits,
}

/// Which object has which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `"uuid"`: by ids alone.
    Uuid,
    /// `"path"`: by the paths of files, for people and other tools to read.
    Path,
    /// Lemur's in S3: by ids.
    LemurS3,
    /// Lemur's in Azure: by the files' paths.
    LemurAz,
}

/// A service, and what only that has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// `s3://`: Amazon S3, and whatever speaks its protocol.
    S3 {
        /// `region` (the environment's, else the service's default).
        region: Option<String>,
        /// `addressing`: `"virtual-host"`, the bucket stands in the host's name, or `"path"`. `None` leaves it to the mover: `"path"` where there is an
        /// endpoint, here or in the environment.
        virtual_host_style: Option<bool>,
        /// `upload_checksums` (true): a CRC32C goes with all content, for the service to compare.
        upload_checksums: bool,
        /// `credentials { … }`.
        credentials: S3Credentials,
        /// `encryption { … }` (the bucket's).
        encryption: Option<Encryption>,
    },
    /// `az://`: block blobs of Azure.
    Azure {
        /// `account` (required): the storage account.
        account: String,
        /// `credentials { … }`.
        credentials: AzureCredentials,
    },
    /// `gs://`: Google Cloud Storage.
    Gcs {
        /// `credentials { … }`.
        credentials: GcsCredentials,
    },
}

/// Who we are to S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Credentials {
    /// What the usual chain finds; `profile` names one of the shared files.
    Chain {
        /// `profile` (none).
        profile: Option<String>,
    },
    /// `access_key_id` and `secret_access_key`, both or none.
    Keys {
        /// `access_key_id`.
        id: String,
        /// `secret_access_key`.
        secret: Secret,
        /// `session_token` (none).
        token: Option<Secret>,
    },
    /// `anonymous = true`: requests are not signed.
    Anonymous,
}

/// Who we are to Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AzureCredentials {
    /// What the usual chain finds.
    Chain,
    /// `account_key`.
    Key(Secret),
    /// `sas_token`.
    Sas(Secret),
}

/// Who we are to Google.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GcsCredentials {
    /// What the usual chain finds.
    Chain,
    /// `file`: the absolute path of a service account's.
    File(PathBuf),
    /// `anonymous = true`: requests are not signed.
    Anonymous,
}

/// `encryption { type }`: how S3 is to encrypt what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// `"service"`: with keys of its own.
    Service,
    /// `"kms"`: with `key_id` of its key management, or the account's default key.
    Kms {
        /// `key_id` (none).
        key_id: Option<String>,
    },
    /// `"customer"`: with the 32 bytes in this file (`key_file`, an absolute path), which go with each request.
    Customer {
        /// `key_file`.
        key_file: PathBuf,
    },
}

/// `limits { … }`: what may be used up. `None` leaves it to the mover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// `connect_timeout_s` (1 to 600).
    pub connect_timeout_s: Option<u64>,
    /// `idle_timeout_s` (1 to 3600): for how long nothing may move.
    pub idle_timeout_s: Option<u64>,
    /// `attempts` (1 to 100): how often a request that failed for now is sent in all.
    pub attempts: Option<u64>,
    /// `requests` (1 to 4096): under way at the same time.
    pub requests: Option<u64>,
    /// `upload_memory` (20 MiB to 64 GiB): content on its way into the bucket.
    pub upload_memory_bytes: Option<u64>,
    /// `part_size` (5 MiB to 1 GiB): of large uploads; grows where a file has too many parts for the service.
    pub part_bytes: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    S3,
    Azure,
    Gcs,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "az",
            Self::Gcs => "gs",
        }
    }
}

impl Place for Bucket {
    type Common = ();
    const FILE: &'static str = "object mover's configuration";
    const EXAMPLE: &'static str = EXAMPLE;
    const THREADS: u32 = 32;
    const FORMATS: &'static [(&'static str, Format)] = &[("sifaka", Format::Sifaka)];

    fn read_common(_: &mut Section<'_>) {}

    fn read(section: &mut Section<'_>, (): &(), name: &str, taken: &mut Taken) -> Option<Self> {
        let url = section.required_string("url", "where the archive is, such as \"s3://bucket/prefix\"");
        let parsed = url.and_then(|url| parse_url(section, &url, name, taken));
        let scheme = parsed.as_ref().map(|(scheme, ..)| *scheme);
        let endpoint = endpoint(section);
        let ca_file = section.optional_path("ca_file").map(|at| at.value);
        let storage_class = words(section, "storage_class");
        if let (Some(Scheme::Azure), Some(At { pos, .. })) = (scheme, &storage_class) {
            let what =
                "`storage_class` is not for az:// archives: Azure has access tiers, which are set for the account";
            section.reader().problem(*pos, what, None);
        }
        let layout = section.optional_choice("layout", &[("uuid", Layout::Uuid), ("path", Layout::Path)]);
        let mut keys = Keys { section, scheme };
        let region = keys.of(Scheme::S3, "region", words);
        let addressing = [("path", false), ("virtual-host", true)];
        let virtual_host = keys.of(Scheme::S3, "addressing", |s, key| s.optional_choice(key, &addressing));
        let upload_checksums = keys.of(Scheme::S3, "upload_checksums", Section::optional_bool);
        let account = keys.of(Scheme::Azure, "account", words);
        let encryption = encryption(section, scheme);
        let credentials = Credentials::read(section.section("credentials"), scheme);
        let thaw = thaw::read(section.section("thaw"), scheme);
        let limits = limits(section.section("limits"));

        let (scheme, bucket, prefix) = parsed?;
        let service = match scheme {
            Scheme::S3 => Service::S3 {
                region: region.map(|at| at.value),
                virtual_host_style: virtual_host.map(|at| at.value),
                upload_checksums: upload_checksums.is_none_or(|at| at.value),
                credentials: credentials.s3()?,
                encryption,
            },
            Scheme::Azure => {
                let Some(At { value: account, .. }) = account else {
                    let what = "`account` is missing (the storage account of an az:// archive)";
                    section.reader().problem(section.pos(), what, None);
                    return None;
                };
                Service::Azure { account, credentials: credentials.azure() }
            }
            Scheme::Gcs => Service::Gcs { credentials: credentials.gcs() },
        };
        let storage_class = storage_class.map(|at| at.value);
        let (endpoint, layout) = (endpoint.map(|at| at.value), layout.map_or(Layout::Uuid, |at| at.value));
        Some(Self { service, bucket, prefix, endpoint, ca_file, storage_class, layout, thaw, limits })
    }
}

/// Asks for keys that only one service has.
struct Keys<'s, 'r> {
    section: &'s mut Section<'r>,
    scheme: Option<Scheme>,
}

impl<'r> Keys<'_, 'r> {
    fn of<T>(
        &mut self,
        scheme: Scheme,
        key: &'static str,
        ask: impl FnOnce(&mut Section<'r>, &'static str) -> Option<At<T>>,
    ) -> Option<At<T>> {
        let found = ask(self.section, key)?;
        misplaced(self.section, self.scheme, scheme, key, found.pos);
        Some(found)
    }
}

/// Says that a key is another service's, if it is.
fn misplaced(section: &Section<'_>, scheme: Option<Scheme>, wanted: Scheme, key: &str, pos: Pos) {
    if let Some(scheme) = scheme.filter(|scheme| *scheme != wanted) {
        let what = format!("`{key}` is for {}:// archives, and this one is {}://", wanted.name(), scheme.name());
        section.reader().problem(pos, what, None);
    }
}

/// Text without spaces and control characters: names that go into requests.
fn words(section: &mut Section<'_>, key: &'static str) -> Option<At<String>> {
    let found = section.optional_string(key)?;
    if found.value.is_empty() || found.value.chars().any(|c| c.is_control() || c.is_whitespace()) {
        section.reader().problem(found.pos, format!("`{key}` must be a name without spaces"), None);
        return None;
    }
    Some(found)
}

fn secret(section: &mut Section<'_>, key: &'static str) -> Option<At<Secret>> {
    let At { pos, value } = section.optional_string(key)?;
    if value.is_empty() || value.chars().any(char::is_control) {
        section.reader().problem(pos, format!("`{key}` must be text in one line"), None);
        return None;
    }
    Some(At { pos, value: Secret::new(value) })
}

fn parse_url(
    section: &Section<'_>,
    url: &At<String>,
    name: &str,
    taken: &mut Taken,
) -> Option<(Scheme, String, String)> {
    let wrong = |what: &str| {
        section.reader().problem(url.pos, format!("`url` {what}"), Some("such as \"s3://bucket/prefix\""));
        None
    };
    let Some((scheme, rest)) = url.value.split_once("://") else { return wrong("has no s3://, az:// or gs://") };
    let scheme = match scheme {
        "s3" => Scheme::S3,
        "az" => Scheme::Azure,
        "gs" => Scheme::Gcs,
        "webdav" | "webdavs" | "dav" | "davs" | "http" | "https" | "sftp" | "swift" | "hdfs" | "webhdfs" => {
            let what = format!("`url`: {scheme}:// is left out on purpose, since it cannot keep what Sifaka promises");
            let hint =
                "see \"Other services\" in docs/configuration.md; for WebDAV and SFTP there is the command mover";
            section.reader().problem(url.pos, what, Some(hint));
            return None;
        }
        _ => return wrong("must begin with s3://, az:// or gs://"),
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if !is_bucket(bucket) {
        return wrong("names no bucket: letters, digits, '-', '_' and '.'");
    }
    if !prefix.is_empty() && !prefix.split('/').all(is_key_part) {
        return wrong("has a prefix with empty parts, \".\", \"..\" or control characters");
    }
    // The same bucket at two endpoints is two places; who has that names them apart by their prefixes.
    let place = At { pos: url.pos, value: format!("{}://{bucket}/{prefix}", scheme.name()) };
    taken.place(section, place, "url", name);
    Some((scheme, bucket.to_owned(), prefix.to_owned()))
}

fn endpoint(section: &mut Section<'_>) -> Option<At<String>> {
    let found = section.optional_string("endpoint")?;
    if !is_endpoint(&found.value) {
        // Not repeated: there may be a password in it.
        let what = "`endpoint` must be http:// or https:// with host, port and path, and nothing else";
        section.reader().problem(found.pos, what, None);
        return None;
    }
    Some(found)
}

/// Whether a bucket may be called so.
pub(crate) fn is_bucket(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '$'))
}

/// Whether it may stand between two slashes of a prefix.
pub(crate) fn is_key_part(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control)
}

/// Whether it is one of HTTP with host, port and path, and nothing else.
pub(crate) fn is_endpoint(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && !rest.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '@' | '?' | '#'))
    })
}

fn encryption(archive: &mut Section<'_>, scheme: Option<Scheme>) -> Option<Encryption> {
    let mut section = archive.section("encryption");
    let kinds = [("service", 0u8), ("kms", 1), ("customer", 2)];
    let kind = section.optional_choice("type", &kinds);
    let key_id = words(&mut section, "key_id");
    let key_file = section.optional_path("key_file");
    let reader = section.reader();
    if section.is_present() {
        misplaced(&section, scheme, Scheme::S3, "encryption", section.pos());
        let only = |found: Option<Pos>, key: &str, fits: bool, of: &str| {
            if let Some(pos) = found.filter(|_| !fits) {
                reader.problem(pos, format!("`{key}` is for type = \"{of}\""), None);
            }
        };
        let is = |wanted: u8| kind.as_ref().is_some_and(|kind| kind.value == wanted);
        only(key_id.as_ref().map(|at| at.pos), "key_id", is(1), "kms");
        only(key_file.as_ref().map(|at| at.pos), "key_file", is(2), "customer");
        if kind.is_none() {
            reader.problem(
                section.pos(),
                "`type` is missing in `encryption` (\"service\", \"kms\" or \"customer\")",
                None,
            );
        } else if is(2) && key_file.is_none() {
            reader.problem(section.pos(), "`key_file` is missing (the file with the customer's key, 32 bytes)", None);
        }
    }
    section.finish();
    match kind?.value {
        0 => Some(Encryption::Service),
        1 => Some(Encryption::Kms { key_id: key_id.map(|at| at.value) }),
        _ => Some(Encryption::Customer { key_file: key_file?.value }),
    }
}

/// `credentials { … }`, whatever of it is the service's.
struct Credentials {
    profile: Option<String>,
    id: Option<String>,
    secret: Option<Secret>,
    token: Option<Secret>,
    account_key: Option<Secret>,
    sas_token: Option<Secret>,
    file: Option<PathBuf>,
    anonymous: bool,
}

impl Credentials {
    fn read(mut section: Section<'_>, scheme: Option<Scheme>) -> Self {
        let anonymous = section.optional_bool("anonymous");
        let mut keys = Keys { section: &mut section, scheme };
        let profile = keys.of(Scheme::S3, "profile", words);
        let id = keys.of(Scheme::S3, "access_key_id", words);
        let secret_key = keys.of(Scheme::S3, "secret_access_key", secret);
        let token = keys.of(Scheme::S3, "session_token", secret);
        let account_key = keys.of(Scheme::Azure, "account_key", secret);
        let sas_token = keys.of(Scheme::Azure, "sas_token", secret);
        let file = keys.of(Scheme::Gcs, "file", Section::optional_path);
        let reader = section.reader();
        if id.is_some() != secret_key.is_some() || token.is_some() && id.is_none() {
            let what = "`access_key_id` and `secret_access_key` go together, and `session_token` with both";
            reader.problem(section.pos(), what, None);
        }
        let is_anonymous = anonymous.as_ref().is_some_and(|at| at.value);
        if let (Some(At { pos, .. }), Some(Scheme::Azure)) = (&anonymous, scheme) {
            reader.problem(*pos, "`anonymous` is for s3:// and gs:// archives, and this one is az://", None);
        }
        let ways =
            [is_anonymous, profile.is_some(), id.is_some(), account_key.is_some(), sas_token.is_some(), file.is_some()];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            reader.problem(section.pos(), "`credentials` says more than one way to get in: leave one", None);
        }
        section.finish();
        Self {
            profile: profile.map(|at| at.value),
            id: id.map(|at| at.value),
            secret: secret_key.map(|at| at.value),
            token: token.map(|at| at.value),
            account_key: account_key.map(|at| at.value),
            sas_token: sas_token.map(|at| at.value),
            file: file.map(|at| at.value),
            anonymous: is_anonymous,
        }
    }

    /// `None`: half of it is missing, which has been said.
    fn s3(self) -> Option<S3Credentials> {
        if self.anonymous {
            return Some(S3Credentials::Anonymous);
        }
        match (self.id, self.secret) {
            (Some(id), Some(secret)) => Some(S3Credentials::Keys { id, secret, token: self.token }),
            (None, None) => Some(S3Credentials::Chain { profile: self.profile }),
            _ => None,
        }
    }

    fn azure(self) -> AzureCredentials {
        match (self.account_key, self.sas_token) {
            (Some(key), _) => AzureCredentials::Key(key),
            (None, Some(sas)) => AzureCredentials::Sas(sas),
            (None, None) => AzureCredentials::Chain,
        }
    }

    fn gcs(self) -> GcsCredentials {
        match self.file {
            Some(file) => GcsCredentials::File(file),
            None if self.anonymous => GcsCredentials::Anonymous,
            None => GcsCredentials::Chain,
        }
    }
}

fn limits(mut section: Section<'_>) -> Limits {
    let connect = section.optional_u64("connect_timeout_s", 1..=600);
    let idle = section.optional_u64("idle_timeout_s", 1..=3600);
    let attempts = section.optional_u64("attempts", 1..=100);
    let requests = section.optional_u64("requests", 1..=4096);
    let memory = section.optional_bytes("upload_memory", 20 * MIB..=64 << 30);
    let part = section.optional_bytes("part_size", 5 * MIB..=1 << 30);
    if let (Some(memory), Some(part)) = (&memory, &part)
        && memory.value < part.value.saturating_mul(4)
    {
        section.reader().problem(memory.pos, "`upload_memory` must hold four parts of `part_size`", None);
    }
    section.finish();
    let value = |found: Option<At<u64>>| found.map(|at| at.value);
    Limits {
        connect_timeout_s: value(connect),
        idle_timeout_s: value(idle),
        attempts: value(attempts),
        requests: value(requests),
        upload_memory_bytes: value(memory),
        part_bytes: value(part),
    }
}

#[cfg(test)]
mod tests;
