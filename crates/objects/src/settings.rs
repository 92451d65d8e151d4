//! Where a bucket is, how to get in, and what may be used up on the way: values, checked before anything is opened.

use crate::{Secret, Thaw};
use model::Scheme;
use reqwest::Url;
use std::path::PathBuf;
use std::time::Duration;

/// Storage classes of S3 whose objects have to be thawed.
const COLD_CLASSES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];
/// The longest prefix. S3's keys have at most 1024 bytes, and ids take some.
const MAX_PREFIX_BYTES: usize = 512;

/// Everything that is to be known of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which service, and what only that has.
    pub service: Service,
    /// The bucket, or Azure's container. Not looked at for [`Service::Memory`].
    pub bucket: String,
    /// Every key begins with this and a slash. May be empty.
    pub prefix: String,
    /// `http://host:port` or `https://…`, where the service's own default is not meant.
    pub endpoint: Option<String>,
    /// A file of PEM certificates that are trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// The storage class of new objects, by the service's name for it. Their manifests, and what else is small and of ours, get the service's usual one.
    pub storage_class: Option<String>,
    /// Which object has which key.
    pub layout: Layout,
    /// How objects of cold classes are thawed.
    pub thaw: Thaw,
    /// Limits.
    pub limits: Limits,
}

/// Which object has which key. What an archive was begun with, it has to be read with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// By ids alone.
    #[default]
    Uuid,
    /// By the paths of files, for people and other tools to read.
    Path,
    /// Lemur's in S3: by ids, as they are, and without manifests.
    LemurS3,
    /// Lemur's in Azure: by the paths of files, as they are, and without manifests.
    LemurAz,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// Amazon S3, and everything that speaks its protocol.
    S3(S3),
    /// Azure Blob Storage: block blobs.
    Azure(Azure),
    /// Google Cloud Storage.
    Gcs(Gcs),
    /// The memory of this process: for tests.
    Memory,
}

/// What S3 has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3 {
    /// The region; when none is given, the environment's (`AWS_REGION`, `AWS_DEFAULT_REGION`), else `us-east-1`.
    pub region: Option<String>,
    /// Whether the bucket stands in the host's name, and not in the path; when nothing is said, only where the endpoint is Amazon's own.
    pub virtual_host_style: Option<bool>,
    /// Who we are.
    pub credentials: S3Credentials,
    /// How the service is to encrypt objects.
    pub encryption: Option<Encryption>,
    /// Each request that carries content carries its CRC32C too, for the service to compare. Old services of other makes ignore it, some refuse it.
    pub checksums: bool,
}

/// Who we are to S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Credentials {
    /// The usual chain: environment, shared files (of this profile, or `AWS_PROFILE`), web identity, container and instance roles.
    Chain {
        /// A profile in the shared files.
        profile: Option<String>,
    },
    /// These keys.
    Keys {
        /// Access key id.
        id: String,
        /// Secret access key.
        secret: Secret,
        /// Session token, of temporary ones.
        token: Option<Secret>,
    },
    /// Nobody: requests are not signed.
    Anonymous,
}

impl Default for S3Credentials {
    fn default() -> Self {
        Self::Chain { profile: None }
    }
}

/// Encryption by the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// With keys of the service (SSE-S3).
    Service,
    /// With a key of its key management (SSE-KMS), or the account's default one.
    Kms {
        /// The key's id.
        key: Option<String>,
    },
    /// With this key, which each request carries (SSE-C): 32 bytes.
    Customer(SseKey),
}

/// A key for SSE-C. It does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct SseKey(pub [u8; 32]);

impl std::fmt::Debug for SseKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// What Azure has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Azure {
    /// The storage account.
    pub account: String,
    /// Who we are.
    pub credentials: AzureCredentials,
}

/// Who we are to Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AzureCredentials {
    /// The usual chain: environment, workload and managed identity, the Azure CLI.
    Chain,
    /// The account's key, in base64.
    Key(Secret),
    /// A shared access signature: the query that it is.
    Sas(Secret),
}

/// What Google has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gcs {
    /// Who we are.
    pub credentials: GcsCredentials,
}

/// Who we are to Google.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GcsCredentials {
    /// The usual chain: `GOOGLE_APPLICATION_CREDENTIALS`, the well-known file, the metadata server.
    #[default]
    Chain,
    /// A service account's file.
    File(PathBuf),
    /// Nobody: requests are not signed.
    Anonymous,
}

/// What may be used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For making a connection.
    pub connect_timeout: Duration,
    /// For how long nothing may move in either direction before a request counts as failed.
    pub idle_timeout: Duration,
    /// How often a request that failed for now is sent in all.
    pub attempts: u32,
    /// Requests under way at the same time.
    pub requests: usize,
    /// Content on its way into the bucket, in bytes of memory.
    pub upload_memory_bytes: u64,
    /// The size of a part, when the file is not so large that the service's number of parts asks for more; at least 5 MiB.
    pub part_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            attempts: 5,
            requests: 64,
            upload_memory_bytes: 384 << 20,
            part_bytes: 8 << 20,
        }
    }
}

/// The smallest part that every service takes.
pub(crate) const MIN_PART_BYTES: u64 = 5 << 20;
/// More than this in one part, and less than one upload with two of them, is no sensible setting.
pub(crate) const MAX_PART_BYTES: u64 = 1 << 30;

/// Settings that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A bucket's name.
    #[error("{0:?} is no bucket's name: letters, digits, '-', '_' and '.', at most 255")]
    Bucket(String),
    /// A prefix.
    #[error(
        "{0:?} is no prefix: names with single slashes between them, without control characters, \".\" or \"..\", at most 512 bytes"
    )]
    Prefix(String),
    /// An endpoint. The text is not repeated: there may be a password in it.
    #[error("the endpoint {0}")]
    Endpoint(&'static str),
    /// Something that this service does not have.
    #[error("{service} knows no {what}")]
    Unknown {
        /// Which.
        service: &'static str,
        /// What was set.
        what: &'static str,
    },
    /// A limit.
    #[error("{0}")]
    Limit(&'static str),
    /// The file with certificates.
    #[error("certificates in {path}: {why}", path = path.display())]
    Certificates {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Whatever else the service's driver refuses.
    #[error("{0}")]
    Refused(String),
    /// No threads.
    #[error("cannot start the threads for requests: {0}")]
    Threads(String),
}

impl Settings {
    /// A bucket in this process's memory.
    #[must_use]
    pub fn memory() -> Self {
        Self {
            service: Service::Memory,
            bucket: "memory".to_owned(),
            prefix: String::new(),
            endpoint: None,
            ca_file: None,
            storage_class: None,
            layout: Layout::Uuid,
            thaw: Thaw::default(),
            limits: Limits::default(),
        }
    }

    /// That nothing of it is nonsense.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '$');
        if self.bucket.is_empty() || self.bucket.len() > 255 || !self.bucket.chars().all(allowed) {
            return Err(SettingsError::Bucket(self.bucket.clone()));
        }
        let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.chars().any(char::is_control);
        let too_long = self.prefix.len() > MAX_PREFIX_BYTES;
        if !self.prefix.is_empty() && (too_long || !self.prefix.split('/').all(is_name)) {
            return Err(SettingsError::Prefix(self.prefix.clone()));
        }
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint)?;
        }
        if self.storage_class.is_some() && matches!(self.service, Service::Azure(_)) {
            return Err(SettingsError::Unknown { service: "Azure Blob", what: "storage class of single objects here" });
        }
        if self.layout == Layout::Path && self.service == Service::Memory {
            return Err(SettingsError::Refused("layout path: objects in memory cannot say whose they are".to_owned()));
        }
        if self.layout == Layout::LemurAz && !matches!(self.service, Service::Azure(_)) {
            return Err(SettingsError::Refused("Lemur's layout in Azure is for Azure alone".to_owned()));
        }
        let limits = &self.limits;
        if !(MIN_PART_BYTES..=MAX_PART_BYTES).contains(&limits.part_bytes) {
            return Err(SettingsError::Limit("a part has 5 MiB to 1 GiB"));
        }
        if limits.upload_memory_bytes < 4 * limits.part_bytes {
            return Err(SettingsError::Limit("the memory for uploads has to hold four parts"));
        }
        if limits.requests == 0 || limits.attempts == 0 {
            return Err(SettingsError::Limit("there has to be at least one request, and one attempt of it"));
        }
        if limits.connect_timeout.is_zero() || limits.idle_timeout.is_zero() {
            return Err(SettingsError::Limit("a timeout of 0 is none"));
        }
        Ok(())
    }

    /// Whether new objects cannot be read before they are thawed.
    pub(crate) fn has_cold_class(&self) -> bool {
        let is_cold = |class: &String| COLD_CLASSES.iter().any(|cold| class.eq_ignore_ascii_case(cold));
        matches!(self.service, Service::S3(_)) && self.storage_class.as_ref().is_some_and(is_cold)
    }

    /// For reading what is somebody else's: the whole bucket, and without the customer's key, which is for what Sifaka stores. The service refuses to give with a key
    /// what was stored without one.
    pub(crate) fn for_others(&self) -> Self {
        let mut others = Self { prefix: String::new(), ..self.clone() };
        if let Service::S3(s3) = &mut others.service {
            s3.encryption = s3.encryption.take().filter(|kind| !matches!(kind, Encryption::Customer(_)));
        }
        others
    }

    /// What URLs of its objects begin with; nothing for memory.
    pub(crate) fn place(&self) -> Option<(Scheme, String)> {
        let scheme = match &self.service {
            Service::S3(_) => Scheme::S3,
            Service::Azure(_) => Scheme::Azure,
            Service::Gcs(_) => Scheme::Google,
            Service::Memory => return None,
        };
        Some((scheme, self.bucket.clone()))
    }

    /// What the bucket is called where people read it.
    pub(crate) fn name(&self) -> String {
        let scheme = self.place().map_or("memory", |(scheme, _)| scheme.name());
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("{scheme}://{}{slash}{}", self.bucket, self.prefix)
    }
}

/// A secret that requests carry as it is goes to this host by TLS, or not at all. `what` is the secret.
pub(crate) fn check_secrecy(endpoint: &str, what: Option<&str>) -> Result<(), SettingsError> {
    let Some(what) = what else { return Ok(()) };
    let url = Url::parse(endpoint).map_err(|_| SettingsError::Endpoint("is no URL: http://… or https://…"))?;
    let is_here = match url.host_str().map(|host| host.trim_matches(['[', ']'])) {
        Some("localhost") => true,
        Some(host) => host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    };
    if url.scheme() == "https" || is_here {
        return Ok(());
    }
    Err(SettingsError::Refused(format!(
        "{what} would go over the network for everybody to read: the endpoint has to be https://…"
    )))
}

/// Also for one that comes from the environment.
pub(crate) fn check_endpoint(endpoint: &str) -> Result<(), SettingsError> {
    let url = Url::parse(endpoint).map_err(|_| SettingsError::Endpoint("is no URL: http://… or https://…"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(SettingsError::Endpoint("is not one of HTTP: http://… or https://…"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(SettingsError::Endpoint(
            "holds more than scheme, host, port and path; credentials have settings of their own",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(bucket: &str, prefix: &str) -> Settings {
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Settings { service: Service::S3(S3::default()), bucket, prefix, ..Settings::memory() }
    }

    #[test]
    fn garbage_is_refused() {
        for (bucket, prefix) in
            [("", ""), ("a/b", ""), ("a b", ""), ("b", "/a"), ("b", "a/"), ("b", "a//b"), ("b", "../a"), ("b", "a\nb")]
        {
            assert!(s3(bucket, prefix).check().is_err(), "{bucket:?} {prefix:?}");
        }
        for endpoint in ["", "host:1", "ftp://host", "http://user:word@host", "http://host/?a=b", "http://"] {
            let settings = Settings { endpoint: Some(endpoint.to_owned()), ..s3("b", "") };
            let error = settings.check().expect_err(endpoint);
            assert!(!error.to_string().contains("word"), "{error}");
        }
        assert_eq!(s3("my-bucket", "a/b c").check(), Ok(()));
        assert_eq!(s3("my-bucket", "a/b").name(), "s3://my-bucket/a/b");
    }

    #[test]
    fn a_layout_that_a_service_cannot_have_is_refused() {
        assert!(Settings { layout: Layout::Path, ..Settings::memory() }.check().is_err());
        assert!(Settings { layout: Layout::LemurAz, ..s3("b", "") }.check().is_err());
        assert!(Settings { layout: Layout::Path, ..s3("b", "") }.check().is_ok());
    }

    #[test]
    fn no_secret_goes_over_plain_http() {
        let check = |endpoint| check_secrecy(endpoint, Some("the key"));
        for plain in
            ["http://storage.example", "http://10.0.0.1:9000", "http://localhost.example", "http://[2001:db8::1]"]
        {
            assert!(check(plain).is_err(), "{plain}");
            assert!(check_secrecy(plain, None).is_ok(), "{plain}");
        }
        for fine in ["https://storage.example", "http://127.0.0.1:9000", "http://localhost", "http://[::1]:1"] {
            assert!(check(fine).is_ok(), "{fine}");
        }
        let sas = AzureCredentials::Sas(Secret::new("sv=1&sig=hunter2"));
        let service = Service::Azure(Azure { account: "a".to_owned(), credentials: sas });
        let endpoint = Some("http://storage.example".to_owned());
        let encrypted = S3 { encryption: Some(Encryption::Customer(SseKey([104; 32]))), ..S3::default() };
        for service in [service, Service::S3(encrypted), Service::Gcs(Gcs::default())] {
            let error =
                crate::Bucket::open(&Settings { service, endpoint: endpoint.clone(), ..s3("b", "") }).unwrap_err();
            assert!(error.to_string().contains("everybody") && !error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let keys = S3Credentials::Keys {
            id: "public".to_owned(),
            secret: Secret::new("hunter2"),
            token: Some(Secret::new("hunter2")),
        };
        let encryption = Some(Encryption::Customer(SseKey([104; 32])));
        let settings =
            Settings { service: Service::S3(S3 { credentials: keys, encryption, ..S3::default() }), ..s3("b", "") };
        let shown = format!("{settings:?}");
        assert!(shown.contains("public") && !shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}
