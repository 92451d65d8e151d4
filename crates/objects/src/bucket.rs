//! An open bucket: its requests, with limits, retries and errors of ours.

use crate::engine::Engine;
use crate::fault::Fault;
use crate::retry::Retry;
use crate::settings::{
    Azure, AzureCredentials, Encryption, Gcs, GcsCredentials, Layout, Limits, S3, S3Credentials, Service, Settings,
    SettingsError, check_endpoint, check_secrecy,
};
use crate::signed::{Signed, encoded};
use crate::thaw::Thaws;
use crate::transport::{Progress, Transport};
use crate::uploads::Uploads;
use futures_util::StreamExt as _;
use model::Scheme;
use opendal::raw::{OpStat, Service as _, Servicer};
use opendal::{Builder, HttpTransporter, Metadata, OperationContext, Operator, options, services};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use transfer::TransferError;

/// For so long a bucket that was there counts as being there.
const SEEN_FOR: Duration = Duration::from_secs(10);
/// After so long without any success, work is given up: the agent kills, as hung, a mover that reports nothing for not much longer.
const LONGEST_VAIN: Duration = Duration::from_secs(240);
/// The same, in idle timeouts, where that is shorter.
const LONGEST_VAIN_TIMEOUTS: u32 = 10;

/// Amazon's limit; others have lower ones, and say so when they are asked to complete the upload.
const MAX_S3_OBJECT_BYTES: u64 = 50_000_000_000_000;
const MAX_GCS_OBJECT_BYTES: u64 = 5 << 40;

/// A bucket, or a prefix in one. Everything that goes over the wire goes through here.
pub struct Bucket {
    operator: Operator,
    /// For what is put into the service's usual storage class, whatever the content's is.
    usual: Operator,
    /// Without what OpenDAL makes of keys that end in a slash: for those, a question of its own would be answered by what lies behind them.
    bare: Operator,
    engine: Arc<Engine>,
    limits: Limits,
    layout: Layout,
    name: String,
    /// Which it is, for URLs of objects in it. Memory has none.
    place: Option<(Scheme, String)>,
    /// For what is somebody else's in it, if that is not the same: see [`Settings::for_others`].
    whole: Option<Arc<Bucket>>,
    traits: Traits,
    uploads: Option<Arc<Uploads>>,
    thaws: Option<Arc<Thaws>>,
    /// Whether the service heeds what a put depends on, once somebody wanted to know.
    keeps_conditions: OnceCell<bool>,
    /// When it was there last.
    seen: Mutex<Option<Instant>>,
    /// When it last did what it was asked for.
    served: Progress,
}

/// What the service is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Objects can be made of parts.
    pub(crate) parts: bool,
    /// The most parts that an object may have.
    pub(crate) max_parts: u64,
    /// The largest part.
    pub(crate) max_part_bytes: u64,
    /// The largest object.
    pub(crate) max_object_bytes: u64,
    /// Several are removed by one request. Google can too, but counts each as a request all the same.
    pub(crate) removes_many: bool,
    /// An object is replaced only if it is still that version.
    pub(crate) replaces_versions: bool,
    /// Objects carry texts of ours.
    pub(crate) metadata: bool,
    /// New objects go where nobody can read them before they are thawed.
    pub(crate) is_cold: bool,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Bucket {
    /// Opens a bucket. Asks the service nothing: see [`Bucket::check`].
    pub fn open(settings: &Settings) -> Result<Arc<Self>, SettingsError> {
        settings.check()?;
        let (mut requests, served) = (None, Progress::start());
        let transport = if settings.service == Service::Memory {
            None
        } else {
            let transport = Transport::new(&settings.limits, settings.ca_file.as_deref(), served.clone())?;
            let transport = HttpTransporter::new(transport);
            requests = signed(settings, transport.clone()).map(Arc::new);
            Some(transport)
        };
        let uploads = requests.as_ref().filter(|requests| !requests.is_azure());
        let uploads = uploads.map(|requests| Arc::new(Uploads::new(requests.clone(), &settings.prefix)));
        let thaws = requests.map(|requests| Arc::new(Thaws::new(requests, settings.thaw)));
        let engine = Arc::new(Engine::start().map_err(|e| SettingsError::Threads(e.to_string()))?);
        let open = |settings: &Settings, uploads, whole| {
            Self::assemble(settings, transport.as_ref(), (&engine, &served), (uploads, thaws.clone()), whole)
        };
        let outer = settings.for_others();
        let whole = if outer == *settings { None } else { Some(open(&outer, None, None)?) };
        open(settings, uploads, whole)
    }

    fn assemble(
        settings: &Settings,
        transport: Option<&HttpTransporter>,
        (engine, served): (&Arc<Engine>, &Progress),
        (uploads, thaws): (Option<Arc<Uploads>>, Option<Arc<Thaws>>),
        whole: Option<Arc<Self>>,
    ) -> Result<Arc<Self>, SettingsError> {
        let (operator, bare) = (operator(settings, false)?, operator(settings, true)?);
        let (operator, usual, bare) = match transport {
            None => (operator.clone(), operator, bare),
            Some(transport) => {
                let over = |operator: Operator| {
                    let context = operator.context().with_http_transport(transport.clone());
                    operator.with_context(context)
                };
                let usual = self::operator(&Settings { storage_class: None, ..settings.clone() }, false)?;
                (over(operator), over(usual), over(bare))
            }
        };
        let can = operator.info().capability();
        let traits = Traits {
            parts: can.write_can_multi,
            max_parts: if matches!(settings.service, Service::Azure(_)) { 50_000 } else { 10_000 },
            max_part_bytes: can.write_multi_max_size.map_or(4000 << 20, |most| most as u64),
            max_object_bytes: match settings.service {
                Service::S3(_) => MAX_S3_OBJECT_BYTES,
                Service::Gcs(_) => MAX_GCS_OBJECT_BYTES,
                Service::Azure(_) | Service::Memory => u64::MAX,
            },
            removes_many: can.delete_max_size.is_some_and(|most| most > 1)
                && !matches!(settings.service, Service::Gcs(_)),
            replaces_versions: can.write_with_if_version_match,
            metadata: can.write_with_user_metadata,
            is_cold: settings.has_cold_class(),
        };
        Ok(Arc::new(Self {
            operator,
            usual,
            bare,
            engine: engine.clone(),
            limits: settings.limits,
            layout: settings.layout,
            name: settings.name(),
            place: settings.place(),
            whole,
            traits,
            uploads,
            thaws,
            keeps_conditions: OnceCell::new(),
            seen: Mutex::new(None),
            served: served.clone(),
        }))
    }

    /// The service and the bucket, as URLs of its objects name them; `None` for one that has no URLs.
    #[must_use]
    pub fn place(&self) -> Option<(Scheme, &str)> {
        self.place.as_ref().map(|(scheme, bucket)| (*scheme, bucket.as_str()))
    }

    /// The bucket with everything in it, whatever the prefix of this one is, for reading what is somebody else's.
    pub(crate) fn whole(self: &Arc<Self>) -> Arc<Self> {
        self.whole.as_ref().unwrap_or(self).clone()
    }

    /// A key of this one, as [`Bucket::whole`] has it.
    pub(crate) fn key_in_whole(&self, key: &str) -> String {
        let prefix = self.name.splitn(4, '/').nth(3);
        prefix.map_or_else(|| key.to_owned(), |prefix| format!("{prefix}/{key}"))
    }

    /// Its name, such as `s3://bucket/prefix`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks the service whether the bucket is there and may be read.
    ///
    /// # Errors
    /// [`TransferError::Unavailable`] when it is not there.
    pub fn check(self: &Arc<Self>) -> Result<(), TransferError> {
        let bucket = self.clone();
        let asked = self.engine.wait(async move { bucket.look().await });
        asked.map_err(|fault| fault.into_error("list", PathBuf::from(&self.name)))
    }

    async fn look(&self) -> Result<(), Fault> {
        let list = || async {
            let options = options::ListOptions { limit: Some(1), ..Default::default() };
            self.operator.lister_options("/", options).await?.next().await.transpose()
        };
        self.request(list).await.map_err(Fault::of_bucket)?;
        *self.seen.lock() = Some(Instant::now());
        Ok(())
    }

    /// Before it is believed that something is not there: not every service says whether that is the object, or the bucket with everything.
    pub(crate) async fn is_there(&self) -> Result<(), Fault> {
        let seen = *self.seen.lock();
        if seen.is_some_and(|seen| seen.elapsed() < SEEN_FOR) { Ok(()) } else { self.look().await }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn traits(&self) -> Traits {
        self.traits
    }

    /// What asks for uploads that were never completed, where there may be such.
    pub(crate) fn uploads(&self) -> Option<Arc<Uploads>> {
        self.uploads.clone()
    }

    pub(crate) fn thaws(&self) -> Option<Arc<Thaws>> {
        self.thaws.clone()
    }

    pub(crate) fn keeps_conditions(&self) -> &OnceCell<bool> {
        &self.keeps_conditions
    }

    pub(crate) fn operator(&self) -> &Operator {
        &self.operator
    }

    /// What writes into the service's usual storage class: what is to be read without a thaw, whatever the content's class is.
    pub(crate) fn usual(&self) -> &Operator {
        &self.usual
    }

    /// The key behind a name that people read, with the prefix of everything; `None` for what is in no bucket of this name.
    pub(crate) fn whole_key<'p>(&self, path: &'p str) -> Option<&'p str> {
        let name_end = self.name.find("://")? + 3;
        let bucket_end = self.name.get(name_end..)?.find('/').map_or(self.name.len(), |at| name_end + at);
        path.strip_prefix(self.name.get(..bucket_end)?)?.strip_prefix('/')
    }

    /// What a key is called where people read it.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        PathBuf::from(format!("{}/{key}", self.name))
    }

    /// Where a key is, as URLs are written.
    pub(crate) fn url(&self, key: &str) -> String {
        let (scheme, rest) = self.name.split_once("://").unwrap_or(("", &self.name));
        format!("{scheme}://{}", encoded(&format!("{rest}/{key}"), true))
    }

    /// Sends a request, again and again if it fails for now.
    pub(crate) async fn request<T, F: Future<Output = opendal::Result<T>>>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> Result<T, Fault> {
        let mut retry = Retry::new(self.limits.attempts);
        loop {
            match request().await {
                Ok(done) => return Ok(done),
                Err(error) => retry.after(&error).await?,
            }
        }
    }

    /// Gives work up when the service has done nothing for anybody for too long, retries or not. It is dropped where it stands then, and what became of
    /// its last request is not known. On a slow line, where something still gets done now and then, it may take long.
    pub(crate) async fn in_time<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
        failed: impl FnOnce(Fault) -> E,
    ) -> Result<T, E> {
        let vain = LONGEST_VAIN.min(self.limits.idle_timeout * LONGEST_VAIN_TIMEOUTS);
        let begun = Instant::now();
        let until = || begun.max(self.served.last()) + vain;
        tokio::pin!(work);
        loop {
            match timeout_at(until(), &mut work).await {
                Ok(done) => return done,
                Err(_) if until() > Instant::now() => {}
                Err(_) => {
                    let why = format!("the service did nothing that it was asked for in {} s", vain.as_secs_f64());
                    return Err(failed(Fault::strange(why)));
                }
            }
        }
    }

    /// What there is under a key; `None` for nothing.
    pub(crate) async fn stat(&self, key: &str) -> Result<Option<Metadata>, Fault> {
        match self.request(|| self.operator.stat(key)).await {
            Ok(metadata) => Ok(Some(metadata)),
            Err(fault) if fault.is_missing() => self.is_there().await.map(|()| None),
            Err(fault) => Err(fault),
        }
    }

    /// As [`stat`](Self::stat), of exactly this key, which may end in a slash.
    pub(crate) async fn stat_exactly(&self, key: &str) -> Result<Option<Metadata>, Fault> {
        let stat = || async {
            let found = self.bare.service().stat(self.bare.context(), key, OpStat::default()).await?;
            Ok(found.into_metadata())
        };
        match self.request(stat).await {
            Ok(metadata) => Ok(Some(metadata)),
            Err(fault) if fault.is_missing() => self.is_there().await.map(|()| None),
            Err(fault) => Err(fault),
        }
    }

    /// Removes keys, whether there is anything or not.
    pub(crate) async fn remove(&self, keys: &[String]) -> Result<(), Fault> {
        if self.traits.removes_many && keys.len() > 1 {
            match self.request(|| self.operator.delete_iter(keys.to_vec())).await {
                // OpenDAL keeps the reasons to itself when none was removed; and some services cannot remove several at all.
                Err(fault) if fault.is_unexplained() => {}
                Err(fault) => return Err(Fault::of_bucket(fault)),
                Ok(()) => return self.is_there().await,
            }
        }
        let each = keys.iter().map(|key| self.request(|| self.operator.delete(key)));
        futures_util::future::try_join_all(each).await.map_err(Fault::of_bucket)?;
        self.is_there().await
    }
}

/// `bare`: with nothing around the service.
fn operator(settings: &Settings, bare: bool) -> Result<Operator, SettingsError> {
    let root = format!("/{}", settings.prefix);
    let refused = |e: opendal::Error| SettingsError::Refused(crate::fault::shown(e.message()));
    match &settings.service {
        Service::S3(s3) => {
            let endpoint = s3_endpoint(settings, s3);
            check_endpoint(&endpoint)?;
            let key = matches!(s3.encryption, Some(Encryption::Customer(_))).then_some("the customer's key");
            check_secrecy(&endpoint, key)?;
            opened(s3_service(settings, s3, &root), bare).map_err(refused)
        }
        Service::Azure(azure) => {
            let secret = match &azure.credentials {
                AzureCredentials::Chain => Some("the access token"),
                AzureCredentials::Sas(_) => Some("the shared access signature"),
                // It signs, and stays here.
                AzureCredentials::Key(_) => None,
            };
            settings.endpoint.as_deref().map_or(Ok(()), |endpoint| check_secrecy(endpoint, secret))?;
            opened(azure_service(settings, azure, &root), bare).map_err(refused)
        }
        Service::Gcs(gcs) => {
            let secret = (gcs.credentials != GcsCredentials::Anonymous).then_some("the access token");
            settings.endpoint.as_deref().map_or(Ok(()), |endpoint| check_secrecy(endpoint, secret))?;
            opened(gcs_service(settings, gcs, &root)?, bare).map_err(refused)
        }
        Service::Memory => opened(services::Memory::default().root(&root), bare).map_err(refused),
    }
}

fn opened<B: Builder>(builder: B, bare: bool) -> opendal::Result<Operator> {
    if bare {
        let service: Servicer = Arc::new(builder.build()?);
        return Ok(Operator::from_parts(OperationContext::default(), service));
    }
    Operator::new(builder)
}

fn s3_region(s3: &S3) -> String {
    let from_environment = || std::env::var("AWS_REGION").or_else(|_| std::env::var("AWS_DEFAULT_REGION")).ok();
    s3.region.clone().or_else(from_environment).unwrap_or_else(|| "us-east-1".to_owned())
}

/// As the usual tools find it.
fn s3_endpoint(settings: &Settings, s3: &S3) -> String {
    let region = s3_region(s3);
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    s3_given_endpoint(settings).unwrap_or_else(|| format!("https://s3.{region}.{suffix}"))
}

fn s3_given_endpoint(settings: &Settings) -> Option<String> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    settings.endpoint.clone().or_else(|| variable("AWS_ENDPOINT_URL_S3")).or_else(|| variable("AWS_ENDPOINT_URL"))
}

/// Few servers other than Amazon's have a name for each bucket.
fn s3_virtual_host(settings: &Settings, s3: &S3) -> bool {
    s3.virtual_host_style.unwrap_or_else(|| s3_given_endpoint(settings).is_none())
}

/// What asks for what OpenDAL cannot. Not for S3's directory buckets, which are signed for otherwise.
fn signed(settings: &Settings, transport: HttpTransporter) -> Option<Signed> {
    let (bucket, attempts) = (settings.bucket.as_str(), settings.limits.attempts);
    match &settings.service {
        Service::S3(_) if bucket.ends_with("--x-s3") => None,
        Service::S3(s3) => {
            let endpoint = s3_endpoint(settings, s3);
            Some(Signed::s3(
                (s3, &s3_region(s3), s3_virtual_host(settings, s3)),
                (&endpoint, bucket),
                transport,
                attempts,
            ))
        }
        Service::Azure(azure) => {
            Some(Signed::azure(azure, (&azure_endpoint(settings, azure), bucket), transport, attempts))
        }
        Service::Gcs(_) | Service::Memory => None,
    }
}

fn azure_endpoint(settings: &Settings, azure: &Azure) -> String {
    let default = || format!("https://{}.blob.core.windows.net", azure.account);
    settings.endpoint.clone().unwrap_or_else(default)
}

fn s3_service(settings: &Settings, s3: &S3, root: &str) -> services::S3 {
    let mut service = services::S3::default().root(root).bucket(&settings.bucket).region(&s3_region(s3));
    service = service.endpoint(&s3_endpoint(settings, s3));
    if let Some(class) = &settings.storage_class {
        service = service.default_storage_class(class);
    }
    if s3_virtual_host(settings, s3) {
        service = service.enable_virtual_host_style();
    }
    if s3.checksums {
        service = service.checksum_algorithm("crc32c");
    }
    service = match &s3.credentials {
        S3Credentials::Chain { profile } => service.profile(profile.as_deref().unwrap_or_default()),
        S3Credentials::Keys { id, secret, token } => service
            .access_key_id(id)
            .secret_access_key(secret.expose())
            .session_token(token.as_ref().map_or("", |token| token.expose())),
        S3Credentials::Anonymous => service.skip_signature(),
    };
    match &s3.encryption {
        None => service,
        Some(Encryption::Service) => service.server_side_encryption_with_s3_key(),
        Some(Encryption::Kms { key: None }) => service.server_side_encryption_with_aws_managed_kms_key(),
        Some(Encryption::Kms { key: Some(key) }) => service.server_side_encryption_with_customer_managed_kms_key(key),
        Some(Encryption::Customer(key)) => service.server_side_encryption_with_customer_key("AES256", &key.0),
    }
}

fn azure_service(settings: &Settings, azure: &Azure, root: &str) -> services::Azblob {
    let endpoint = azure_endpoint(settings, azure);
    let service = services::Azblob::default().root(root).container(&settings.bucket).endpoint(&endpoint);
    let service = service.account_name(&azure.account);
    match &azure.credentials {
        AzureCredentials::Chain => service,
        AzureCredentials::Key(key) => service.account_key(key.expose()),
        AzureCredentials::Sas(token) => service.sas_token(token.expose().trim_start_matches('?')),
    }
}

fn gcs_service(settings: &Settings, gcs: &Gcs, root: &str) -> Result<services::Gcs, SettingsError> {
    let mut service = services::Gcs::default().root(root).bucket(&settings.bucket);
    if let Some(endpoint) = &settings.endpoint {
        service = service.endpoint(endpoint);
    }
    if let Some(class) = &settings.storage_class {
        service = service.default_storage_class(class);
    }
    Ok(match &gcs.credentials {
        GcsCredentials::Chain => service,
        GcsCredentials::File(path) => {
            let path =
                path.to_str().ok_or_else(|| SettingsError::Refused("the credentials' path is no text".to_owned()))?;
            service.credential_path(path)
        }
        GcsCredentials::Anonymous => service.skip_signature(),
    })
}
