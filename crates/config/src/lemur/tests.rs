use super::*;
use crate::archive::{Compression, Format};

fn s3(text: &str) -> Bucket {
    S3Config::parse(text, "f").unwrap().0.archives.remove(0).place.0
}

fn az(text: &str) -> Bucket {
    AzConfig::parse(text, "f").unwrap().0.archives.remove(0).place.0
}

#[test]
fn lemur_s_defaults() {
    let (config, warnings) = S3Config::parse("archive \"a\" { id = 1 bucket = \"b\" }", "f").unwrap();
    assert!(warnings.is_empty());
    let archive = &config.archives[0];
    assert_eq!((archive.settings.format, archive.settings.compression), (Format::LemurBucket, Compression::Off));
    assert_eq!(archive.settings.pack_threshold_bytes, 0);
    let bucket = &archive.place.0;
    assert_eq!((bucket.bucket.as_str(), bucket.prefix.as_str(), bucket.layout), ("b", "", Layout::LemurS3));
    assert_eq!((bucket.endpoint.as_deref(), bucket.limits.part_bytes), (None, Some(5 << 20)));
    let credentials = S3Credentials::Chain { profile: None };
    let service = Service::S3 {
        region: Some("us-east-1".into()),
        virtual_host_style: None,
        upload_checksums: true,
        credentials,
        encryption: None,
    };
    assert_eq!(bucket.service, service);

    let bucket = az("az_storage_account = \"acc\" archive \"a\" { id = 1 container = \"c\" }");
    assert_eq!((bucket.bucket.as_str(), bucket.layout), ("c", Layout::LemurAz));
    assert_eq!(bucket.limits.part_bytes, Some(8 << 20));
    assert_eq!(bucket.service, Service::Azure { account: "acc".into(), credentials: AzureCredentials::Chain });
}

#[test]
fn an_archive_s_own_word_counts_before_that_for_all() {
    let text = r#"
        num_threads = 4
        region = "us-west-1" endpoint = "http://h:8080" upload_part_size = 16
        aws_access_key_id = "i" aws_secret_access_key = "s"
        archive "one" { id = 1 bucket = "b" prefix = "hsm/" }
        archive "two" {
            id = 2 bucket = "b" prefix = "a//./b" region = "r" endpoint = "storage.example" upload_part_size = 5
            aws_access_key_id = "j" aws_secret_access_key = "t" upload_checksums = false
        }"#;
    let (config, _) = S3Config::parse(text, "f").unwrap();
    let places = config.archives.iter().map(|archive| archive.place.0.clone());
    let [one, two] = places.collect::<Vec<_>>().try_into().unwrap();
    let keys = |id: &str, secret| S3Credentials::Keys { id: id.into(), secret: Secret::new(secret), token: None };
    let service = |region: &str, upload_checksums, credentials| Service::S3 {
        region: Some(region.into()),
        virtual_host_style: None,
        upload_checksums,
        credentials,
        encryption: None,
    };
    assert_eq!((one.prefix.as_str(), one.endpoint.as_deref()), ("hsm", Some("http://h:8080")));
    assert_eq!((one.service, one.limits.part_bytes), (service("us-west-1", true, keys("i", "s")), Some(16 << 20)));
    assert_eq!((two.prefix.as_str(), two.endpoint.as_deref()), ("a/b", Some("https://storage.example")));
    assert_eq!((two.service, two.limits.part_bytes), (service("r", false, keys("j", "t")), Some(5 << 20)));
    assert_eq!(config.num_threads, 4);

    let bucket = az(r#"az_storage_account = "all" az_storage_key = "a2V5" endpoint = ""
        archive "a" { id = 1 container = "c" prefix = "p" az_storage_account = "own" upload_part_size = 100 }"#);
    let key = AzureCredentials::Key(Secret::new("a2V5"));
    assert_eq!(bucket.service, Service::Azure { account: "own".into(), credentials: key });
    assert_eq!((bucket.endpoint, bucket.limits.part_bytes), (None, Some(100 << 20)));
}

#[test]
fn what_is_wrong_or_without_effect_is_told_with_its_place() {
    for (text, message) in [
        ("archive \"a\" { id = 1 }", "f:1:13: `bucket` is missing in `archive \"a\"` (where the archive is)"),
        (
            "archive \"a\" { id = 1 bucket = \"a b\" }",
            "f:1:31: `bucket` has no name that can be: letters, digits, '-', '_' and '.'",
        ),
        ("archive \"a\" { id = 1 bucket = \"b\" prefix = \"/p\" }", "f:1:44: `prefix` begins with a slash"),
        ("archive \"a\" { id = 1 bucket = \"b\" prefix = \"p/../q\" }", "f:1:44: `prefix` has \"..\""),
        (
            "upload_part_size = 4\narchive \"a\" { id = 1 bucket = \"b\" }",
            "f:1:20: `upload_part_size` must be between 5",
        ),
        ("aws_access_key_id = \"i\"\narchive \"a\" { id = 1 bucket = \"b\" }", "f:2:13: `aws_access_key_id` and"),
        (
            "archive \"a\" { id = 1 bucket = \"b\" compression = \"on\" }",
            "unknown key `compression` in `archive \"a\"`",
        ),
        (
            "archive \"a\" { id = 1 bucket = \"b\" }\narchive \"c\" { id = 2 bucket = \"b\" }",
            "f:2:31: the place \"s3://b/\" is already that of archive \"a\"",
        ),
    ] {
        let error = S3Config::parse(text, "f").unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    let error = AzConfig::parse("archive \"a\" { id = 1 container = \"c\" }", "f").unwrap_err().to_string();
    assert!(error.contains("f:1:13: `az_storage_account` is missing"), "{error}");
    let text =
        "region = \"r\" az_storage_account = \"x\" archive \"a\" { id = 1 container = \"c\" upload_part_size = 2000 }";
    let (_, warnings) = AzConfig::parse(text, "f").unwrap();
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert!(warnings[0].starts_with("f:1:10: `region` has no effect"), "{warnings:?}");
    assert!(warnings[1].contains("has the effect of 1024"), "{warnings:?}");
}

#[test]
fn secrets_are_shown_nowhere() {
    let given = "aws_access_key_id = \"i\" aws_secret_access_key = \"hunter2\" archive \"a\" { id = 1 bucket = \"b\" }";
    assert!(!format!("{:?}", s3(given)).contains("hunter2"));
    for text in [
        "aws_secret_access_key = \"hunter2\" archive \"a\" { id = 1 bucket = \"b\" }",
        "aws_access_key_id = \"i\" aws_secret_access_key = \"hunter2\\n\" archive \"a\" { id = 1 bucket = \"b\" }",
        "endpoint = \"https://me:hunter2@host\" archive \"a\" { id = 1 bucket = \"b\" }",
    ] {
        assert!(!S3Config::parse(text, "f").unwrap_err().to_string().contains("hunter2"), "{text}");
    }
}
