//! From the configuration's words to those of `objects`.

use config::object::{
    AzureCredentials, AzureTier, Bucket, Encryption, GcsCredentials, Layout, Limits, S3Credentials, Service, Thaw,
    ThawTier,
};
use objects::{Secret, Settings, SseKey};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A key for encryption that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("cannot read the key in {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the key in {path} can be read by others: its mode is {mode:o}, and must be 600 or less", path = path.display())]
    Shared { path: PathBuf, mode: u32 },
    #[error("the key in {path} has to have 32 bytes, no more and no less", path = path.display())]
    Length { path: PathBuf },
}

/// Everything that is to be known of a bucket. Reads the key's file, if one is named.
pub(super) fn of(place: &Bucket) -> Result<Settings, KeyError> {
    let Bucket { service, bucket, prefix, endpoint, ca_file, storage_class, layout, thaw, limits } = place.clone();
    let service = match service {
        Service::S3 { region, virtual_host_style, upload_checksums, credentials, encryption } => {
            objects::Service::S3(objects::S3 {
                region,
                virtual_host_style,
                credentials: s3(credentials),
                encryption: encryption.map(encrypted).transpose()?,
                checksums: upload_checksums,
            })
        }
        Service::Azure { account, credentials } => {
            let credentials = match credentials {
                AzureCredentials::Chain => objects::AzureCredentials::Chain,
                AzureCredentials::Key(key) => objects::AzureCredentials::Key(secret(&key)),
                AzureCredentials::Sas(sas) => objects::AzureCredentials::Sas(secret(&sas)),
            };
            objects::Service::Azure(objects::Azure { account, credentials })
        }
        Service::Gcs { credentials } => {
            let credentials = match credentials {
                GcsCredentials::Chain => objects::GcsCredentials::Chain,
                GcsCredentials::File(file) => objects::GcsCredentials::File(file),
                GcsCredentials::Anonymous => objects::GcsCredentials::Anonymous,
            };
            objects::Service::Gcs(objects::Gcs { credentials })
        }
    };
    let layout = match layout {
        Layout::Uuid => objects::Layout::Uuid,
        Layout::Path => objects::Layout::Path,
        Layout::LemurS3 => objects::Layout::LemurS3,
        Layout::LemurAz => objects::Layout::LemurAz,
    };
    let (thaw, limits) = (thawed(thaw), limited(limits));
    Ok(Settings { service, bucket, prefix, endpoint, ca_file, storage_class, layout, thaw, limits })
}

fn thawed(thaw: Thaw) -> objects::Thaw {
    let usual = objects::Thaw::default();
    let (tier, interval) = match thaw.tier {
        ThawTier::Standard => (objects::ThawTier::Standard, usual.check_interval),
        ThawTier::Bulk => (objects::ThawTier::Bulk, usual.check_interval),
        // It takes minutes, and is paid for.
        ThawTier::Expedited => (objects::ThawTier::Expedited, Duration::from_secs(60)),
    };
    let azure_tier = match thaw.azure_tier {
        AzureTier::Hot => objects::AzureTier::Hot,
        AzureTier::Cool => objects::AzureTier::Cool,
        AzureTier::Cold => objects::AzureTier::Cold,
    };
    objects::Thaw {
        days: thaw.days.and_then(|days| u32::try_from(days).ok()).unwrap_or(usual.days),
        tier,
        check_interval: thaw.check_interval_s.map_or(interval, Duration::from_secs),
        azure_tier,
    }
}

fn secret(secret: &config::Secret) -> Secret {
    Secret::new(secret.expose())
}

fn s3(credentials: S3Credentials) -> objects::S3Credentials {
    match credentials {
        S3Credentials::Chain { profile } => objects::S3Credentials::Chain { profile },
        S3Credentials::Keys { id, secret: key, token } => {
            objects::S3Credentials::Keys { id, secret: secret(&key), token: token.as_ref().map(secret) }
        }
        S3Credentials::Anonymous => objects::S3Credentials::Anonymous,
    }
}

fn encrypted(encryption: Encryption) -> Result<objects::Encryption, KeyError> {
    Ok(match encryption {
        Encryption::Service => objects::Encryption::Service,
        Encryption::Kms { key_id } => objects::Encryption::Kms { key: key_id },
        Encryption::Customer { key_file } => objects::Encryption::Customer(SseKey(read_key(&key_file)?)),
    })
}

fn read_key(path: &Path) -> Result<[u8; 32], KeyError> {
    let failed = |source| KeyError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Shared { path: path.to_owned(), mode });
    }
    let mut key = Vec::with_capacity(33);
    Read::by_ref(&mut file).take(33).read_to_end(&mut key).map_err(failed)?;
    <[u8; 32]>::try_from(key).map_err(|_| KeyError::Length { path: path.to_owned() })
}

fn limited(limits: Limits) -> objects::Limits {
    let usual = objects::Limits::default();
    let seconds = |given: Option<u64>, usual| given.map_or(usual, Duration::from_secs);
    let part_bytes = limits.part_bytes.unwrap_or(usual.part_bytes);
    objects::Limits {
        connect_timeout: seconds(limits.connect_timeout_s, usual.connect_timeout),
        idle_timeout: seconds(limits.idle_timeout_s, usual.idle_timeout),
        attempts: limits.attempts.and_then(|n| u32::try_from(n).ok()).unwrap_or(usual.attempts),
        requests: limits.requests.and_then(|n| usize::try_from(n).ok()).unwrap_or(usual.requests),
        // Larger parts need more of it, where nothing else was said.
        upload_memory_bytes: limits
            .upload_memory_bytes
            .unwrap_or(usual.upload_memory_bytes.max(part_bytes.saturating_mul(4))),
        part_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::ObjectConfig;
    use std::os::unix::fs::PermissionsExt;

    fn place(keys: &str) -> Bucket {
        let text = format!("archive \"a\" {{ id = 1 {keys} }}");
        ObjectConfig::parse(&text, "f").unwrap().0.archives.remove(0).place
    }

    #[test]
    fn every_service_can_be_opened() {
        for keys in [
            "url = \"s3://b/p\" endpoint = \"http://127.0.0.1:1\" credentials { access_key_id = \"i\" secret_access_key = \"s\" }",
            "url = \"s3://b\" region = \"r\" encryption { type = \"kms\" } credentials { anonymous = true }",
            "url = \"az://c\" account = \"a\" credentials { account_key = \"a2V5\" }",
            "url = \"az://c/p\" account = \"a\" credentials { sas_token = \"sv=1&sig=2\" }",
            "url = \"gs://b\" credentials { anonymous = true } limits { part_size = \"1GiB\" }",
        ] {
            let settings = of(&place(keys)).unwrap();
            objects::Bucket::open(&settings).unwrap_or_else(|error| panic!("{keys}: {error}"));
        }
    }

    #[test]
    fn a_customer_s_key_is_32_private_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let bucket =
            place(&format!("url = \"s3://b\" encryption {{ type = \"customer\" key_file = \"{}\" }}", path.display()));
        assert!(of(&bucket).unwrap_err().to_string().contains("cannot read the key"));
        for (bytes, mode, message) in [(32, 0o644, "its mode is 644"), (31, 0o600, "32 bytes"), (33, 0o600, "32 bytes")]
        {
            std::fs::write(&path, vec![7; bytes]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = of(&bucket).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        std::fs::write(&path, [7; 32]).unwrap();
        let settings = of(&bucket).unwrap();
        let objects::Service::S3(s3) = settings.service else { panic!() };
        assert_eq!(s3.encryption, Some(objects::Encryption::Customer(SseKey([7; 32]))));
    }
}
