//! The configurations of Lemur's movers for buckets, as they are: `lhsm-plugin-s3` and `lhsm-plugin-az`.
//!
//! What they say comes out as a [`Bucket`] with Lemur's layout, as if it had been said in the object mover's words. Not for: archives that are
//! begun anew, which the object mover serves better.

use crate::archive::{Format, MoverConfig, Place, Taken};
use crate::object::{AzureCredentials, Bucket, Layout, Limits, S3Credentials, Service, is_bucket, is_key_part};
use crate::reader::{At, Section};
use crate::secret::Secret;

/// How the mover for S3 runs, and the archives it serves.
pub type S3Config = MoverConfig<S3>;
/// How the mover for Azure runs, and the archives it serves.
pub type AzConfig = MoverConfig<Az>;

/// Lemur's region where nothing is said.
const REGION: &str = "us-east-1";
const MIB: u64 = 1 << 20;
/// Lemur takes larger parts; more than this in memory for each is of no use.
const MAX_PART_MIB: u64 = 1024;

/// An archive in S3: `bucket` (required), `prefix` (none), and what [`S3Keys`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3(pub Bucket);

/// An archive in Azure: `container` (required), `prefix` (none), and what [`AzKeys`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Az(pub Bucket);

/// What may stand in an archive's block, and for all archives outside of them: `region` (us-east-1), `endpoint` (Amazon's), `aws_access_key_id` and
/// `aws_secret_access_key` (what the usual chain finds), `upload_part_size` (5, in MiB), `upload_checksums` (true; not Lemur's).
#[derive(Debug, Clone, Default)]
pub struct S3Keys {
    region: Option<String>,
    endpoint: Option<String>,
    id: Option<String>,
    secret: Option<Secret>,
    part_mib: Option<u64>,
    checksums: Option<bool>,
}

/// Likewise: `az_storage_account` (required), `az_storage_key` (what the usual chain finds), `endpoint` (Azure's), `upload_part_size` (8, in MiB), and
/// `region`, which has no effect.
#[derive(Debug, Clone, Default)]
pub struct AzKeys {
    account: Option<String>,
    key: Option<Secret>,
    endpoint: Option<String>,
    part_mib: Option<u64>,
}

impl S3Keys {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            region: name(section, "region"),
            endpoint: endpoint(section),
            id: name(section, "aws_access_key_id"),
            secret: secret(section, "aws_secret_access_key"),
            part_mib: part_size(section),
            checksums: section.optional_bool("upload_checksums").map(|at| at.value),
        }
    }
}

impl AzKeys {
    fn read(section: &mut Section<'_>) -> Self {
        if let Some(At { pos, .. }) = section.optional_string("region") {
            section.reader().warning(pos, "`region` has no effect", Some("the account says where its containers are"));
        }
        Self {
            account: name(section, "az_storage_account"),
            key: secret(section, "az_storage_key"),
            endpoint: endpoint(section),
            part_mib: part_size(section),
        }
    }
}

impl Place for S3 {
    type Common = S3Keys;
    const FILE: &'static str = "s3 mover's configuration";
    const EXAMPLE: &'static str = "write archive \"name\" { id = 1, bucket = \"bucket\" }";
    const THREADS: u32 = 32;
    const FORMATS: &'static [(&'static str, Format)] = &[("lemur", Format::LemurBucket)];

    fn read_common(root: &mut Section<'_>) -> Self::Common {
        S3Keys::read(root)
    }

    fn read(section: &mut Section<'_>, common: &S3Keys, name: &str, taken: &mut Taken) -> Option<Self> {
        let place = place(section, ("bucket", "s3"), name, taken);
        let (own, common) = (S3Keys::read(section), common.clone());
        let credentials = match (own.id.or(common.id), own.secret.or(common.secret)) {
            (Some(id), Some(secret)) => S3Credentials::Keys { id, secret, token: None },
            (None, None) => S3Credentials::Chain { profile: None },
            _ => {
                let what = "`aws_access_key_id` and `aws_secret_access_key` go together";
                section.reader().problem(section.pos(), what, None);
                return None;
            }
        };
        let endpoint = own.endpoint.or(common.endpoint);
        let service = Service::S3 {
            region: Some(own.region.or(common.region).unwrap_or_else(|| REGION.to_owned())),
            virtual_host_style: None,
            upload_checksums: own.checksums.or(common.checksums).unwrap_or(true),
            credentials,
            encryption: None,
        };
        let part_mib = own.part_mib.or(common.part_mib).unwrap_or(5);
        Some(Self(bucket(service, place?, endpoint, Layout::LemurS3, part_mib)))
    }
}

impl Place for Az {
    type Common = AzKeys;
    const FILE: &'static str = "az mover's configuration";
    const EXAMPLE: &'static str = "write archive \"name\" { id = 1, container = \"container\" }";
    const THREADS: u32 = 32;
    const FORMATS: &'static [(&'static str, Format)] = &[("lemur", Format::LemurBucket)];

    fn read_common(root: &mut Section<'_>) -> Self::Common {
        AzKeys::read(root)
    }

    fn read(section: &mut Section<'_>, common: &AzKeys, name: &str, taken: &mut Taken) -> Option<Self> {
        let place = place(section, ("container", "az"), name, taken);
        let (own, common) = (AzKeys::read(section), common.clone());
        let Some(account) = own.account.or(common.account) else {
            let what = "`az_storage_account` is missing, here and for all archives";
            section.reader().problem(section.pos(), what, None);
            return None;
        };
        let credentials = own.key.or(common.key).map_or(AzureCredentials::Chain, AzureCredentials::Key);
        let part_mib = own.part_mib.or(common.part_mib).unwrap_or(8);
        let service = Service::Azure { account, credentials };
        Some(Self(bucket(service, place?, own.endpoint.or(common.endpoint), Layout::LemurAz, part_mib)))
    }
}

fn bucket(
    service: Service,
    (bucket, prefix): (String, String),
    endpoint: Option<String>,
    layout: Layout,
    part_mib: u64,
) -> Bucket {
    let limits = Limits { part_bytes: Some(part_mib.min(MAX_PART_MIB) * MIB), ..Limits::default() };
    Bucket {
        service,
        bucket,
        prefix,
        endpoint,
        ca_file: None,
        storage_class: None,
        layout,
        thaw: crate::object::Thaw::default(),
        limits,
    }
}

/// The bucket, or container, and the prefix. Lemur joins prefixes as paths are joined, so slashes that say nothing are left out.
fn place(
    section: &mut Section<'_>,
    (key, scheme): (&'static str, &str),
    name: &str,
    taken: &mut Taken,
) -> Option<(String, String)> {
    let bucket = section.required_string(key, "where the archive is");
    let prefix = section.optional_string("prefix");
    let bucket = bucket?;
    if !is_bucket(&bucket.value) {
        let what = format!("`{key}` has no name that can be: letters, digits, '-', '_' and '.'");
        section.reader().problem(bucket.pos, what, None);
        return None;
    }
    let prefix = match prefix {
        None => String::new(),
        Some(At { pos, value }) if value.starts_with('/') => {
            let what = "`prefix` begins with a slash: keys with an empty first part are not supported";
            section.reader().problem(pos, what, None);
            return None;
        }
        Some(At { pos, value }) => {
            let parts: Vec<&str> = value.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
            if !parts.iter().all(|part| is_key_part(part)) {
                section.reader().problem(pos, "`prefix` has \"..\" or control characters in it", None);
                return None;
            }
            parts.join("/")
        }
    };
    let at = At { pos: bucket.pos, value: format!("{scheme}://{}/{prefix}", bucket.value) };
    taken.place(section, at, "the place", name);
    Some((bucket.value, prefix))
}

/// To Lemur a text of nothing is none.
fn name(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let At { pos, value } = section.optional_string(key)?;
    if value.chars().any(|c| c.is_control() || c.is_whitespace()) {
        section.reader().problem(pos, format!("`{key}` must be a name without spaces"), None);
        return None;
    }
    Some(value).filter(|value| !value.is_empty())
}

fn secret(section: &mut Section<'_>, key: &'static str) -> Option<Secret> {
    let At { pos, value } = section.optional_string(key)?;
    if value.chars().any(|c| c.is_control() || c.is_whitespace()) {
        // Not repeated.
        section.reader().problem(pos, format!("`{key}` must be text without spaces"), None);
        return None;
    }
    Some(value).filter(|value| !value.is_empty()).map(Secret::new)
}

/// Lemur takes a host alone, too.
fn endpoint(section: &mut Section<'_>) -> Option<String> {
    let At { pos, value } = section.optional_string("endpoint")?;
    if value.is_empty() {
        return None;
    }
    let full = if value.contains("://") { value } else { format!("https://{value}") };
    if crate::object::is_endpoint(&full) {
        return Some(full);
    }
    // Not repeated: there may be a password in it.
    let what = "`endpoint` must be http:// or https:// with host, port and path, and nothing else";
    section.reader().problem(pos, what, None);
    None
}

fn part_size(section: &mut Section<'_>) -> Option<u64> {
    let At { pos, value } = section.optional_u64("upload_part_size", 5..=5120)?;
    if value > MAX_PART_MIB {
        let what = format!("`upload_part_size` of more than {MAX_PART_MIB} (MiB) has the effect of {MAX_PART_MIB}");
        section.reader().warning(pos, what, None);
    }
    Some(value)
}

#[cfg(test)]
mod tests;
