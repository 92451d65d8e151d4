use super::*;

fn place(keys: &str) -> Bucket {
    let text = format!("archive \"a\" {{ id = 1 {keys} }}");
    ObjectConfig::parse(&text, "f").unwrap().0.archives.remove(0).place
}

fn refusal(keys: &str) -> String {
    ObjectConfig::parse(&format!("archive \"a\" {{ id = 1 {keys} }}"), "f").unwrap_err().to_string()
}

#[test]
fn each_service_with_nothing_said() {
    let bucket = place("url = \"s3://my-bucket/a/b/\"");
    assert_eq!((bucket.bucket.as_str(), bucket.prefix.as_str()), ("my-bucket", "a/b"));
    let chain = S3Credentials::Chain { profile: None };
    let service = Service::S3 {
        region: None,
        virtual_host_style: None,
        upload_checksums: true,
        credentials: chain,
        encryption: None,
    };
    assert_eq!(bucket.service, service);
    assert_eq!((bucket.endpoint, bucket.limits, bucket.layout), (None, Limits::default(), Layout::Uuid));
    assert_eq!(place("url = \"s3://b\" layout = \"path\"").layout, Layout::Path);

    let bucket = place("url = \"az://c\" account = \"acc\"");
    assert_eq!(bucket.service, Service::Azure { account: "acc".into(), credentials: AzureCredentials::Chain });
    assert_eq!(bucket.prefix, "");
    assert_eq!(place("url = \"gs://b/\"").service, Service::Gcs { credentials: GcsCredentials::Chain });
    assert_eq!(ObjectConfig::parse("archive \"a\" { id = 1 url = \"gs://b\" }", "f").unwrap().0.num_threads, 32);
}

#[test]
fn everything_said() {
    let bucket = place(
        r#"url = "s3://b" endpoint = "https://h:1" ca_file = "/ca" storage_class = "GLACIER_IR" region = "r"
           addressing = "virtual-host" upload_checksums = false encryption { type = "kms" key_id = "k" }
           credentials { access_key_id = "i" secret_access_key = "s" session_token = "t" }
           thaw { days = 9 tier = "expedited" check_interval_s = 7 }
           limits { connect_timeout_s = 1 idle_timeout_s = 2 attempts = 3 requests = 4 upload_memory = "64MiB" part_size = "16MiB" }"#,
    );
    let keys = S3Credentials::Keys { id: "i".into(), secret: Secret::new("s"), token: Some(Secret::new("t")) };
    let service = Service::S3 {
        region: Some("r".into()),
        virtual_host_style: Some(true),
        upload_checksums: false,
        credentials: keys,
        encryption: Some(Encryption::Kms { key_id: Some("k".into()) }),
    };
    assert_eq!(bucket.service, service);
    assert_eq!(
        (bucket.endpoint.as_deref(), bucket.storage_class.as_deref()),
        (Some("https://h:1"), Some("GLACIER_IR"))
    );
    let limits = Limits {
        connect_timeout_s: Some(1),
        idle_timeout_s: Some(2),
        attempts: Some(3),
        requests: Some(4),
        upload_memory_bytes: Some(64 << 20),
        part_bytes: Some(16 << 20),
    };
    assert_eq!(bucket.limits, limits);
    let thaw = Thaw { days: Some(9), tier: ThawTier::Expedited, check_interval_s: Some(7), azure_tier: AzureTier::Hot };
    assert_eq!(bucket.thaw, thaw);
    for (keys, credentials) in [
        ("account_key = \"k\"", AzureCredentials::Key(Secret::new("k"))),
        ("sas_token = \"sv=1&sig=2\"", AzureCredentials::Sas(Secret::new("sv=1&sig=2"))),
    ] {
        let bucket = place(&format!("url = \"az://c\" account = \"acc\" credentials {{ {keys} }}"));
        assert_eq!(bucket.service, Service::Azure { account: "acc".into(), credentials });
    }
    for (keys, credentials) in
        [("file = \"/f\"", GcsCredentials::File("/f".into())), ("anonymous = true", GcsCredentials::Anonymous)]
    {
        let bucket = place(&format!("url = \"gs://b\" credentials {{ {keys} }}"));
        assert_eq!(bucket.service, Service::Gcs { credentials });
    }
    let endpoint =
        place("url = \"s3://b\" endpoint = \"http://h\" encryption { type = \"customer\" key_file = \"/k\" }");
    let Service::S3 { virtual_host_style: None, encryption, .. } = endpoint.service else { panic!("{endpoint:?}") };
    assert_eq!(encryption, Some(Encryption::Customer { key_file: "/k".into() }));
}

#[test]
fn refusals() {
    for (keys, message) in [
        ("", "`url` is missing in `archive \"a\"` (where the archive is, such as \"s3://bucket/prefix\")"),
        ("url = \"b\"", "`url` has no s3://, az:// or gs:// (such as \"s3://bucket/prefix\")"),
        (
            "url = \"webdav://h/p\"",
            "`url`: webdav:// is left out on purpose, since it cannot keep what Sifaka promises (see \"Other services\" in docs/configuration.md; for \
             WebDAV and SFTP there is the command mover)",
        ),
        ("url = \"ftp://b\"", "`url` must begin with s3://, az:// or gs:// (such as \"s3://bucket/prefix\")"),
        (
            "url = \"s3:///p\"",
            "`url` names no bucket: letters, digits, '-', '_' and '.' (such as \"s3://bucket/prefix\")",
        ),
        (
            "url = \"s3://b/../c\"",
            "`url` has a prefix with empty parts, \".\", \"..\" or control characters (such as \"s3://bucket/prefix\")",
        ),
        ("url = \"az://c\"", "`account` is missing (the storage account of an az:// archive)"),
        ("url = \"gs://b\" region = \"r\"", "`region` is for s3:// archives, and this one is gs://"),
        (
            "url = \"gs://b\" encryption { type = \"service\" }",
            "`encryption` is for s3:// archives, and this one is gs://",
        ),
        (
            "url = \"s3://b\" credentials { account_key = \"k\" }",
            "`account_key` is for az:// archives, and this one is s3://",
        ),
        (
            "url = \"s3://b\" credentials { access_key_id = \"k\" }",
            "`access_key_id` and `secret_access_key` go together, and `session_token` with both",
        ),
        (
            "url = \"s3://b\" credentials { profile = \"p\" anonymous = true }",
            "`credentials` says more than one way to get in: leave one",
        ),
        (
            "url = \"az://c\" account = \"a\" credentials { anonymous = true }",
            "`anonymous` is for s3:// and gs:// archives, and this one is az://",
        ),
        (
            "url = \"az://c\" account = \"a\" storage_class = \"Cool\"",
            "`storage_class` is not for az:// archives: Azure has access tiers, which are set for the account",
        ),
        ("url = \"s3://b\" layout = \"lemur\"", "`layout` must be \"uuid\" or \"path\", found \"lemur\""),
        ("url = \"s3://b\" region = \"a b\"", "`region` must be a name without spaces"),
        (
            "url = \"s3://b\" encryption { key_id = \"k\" }",
            "`type` is missing in `encryption` (\"service\", \"kms\" or \"customer\")",
        ),
        ("url = \"s3://b\" encryption { type = \"service\" key_id = \"k\" }", "`key_id` is for type = \"kms\""),
        (
            "url = \"s3://b\" encryption { type = \"customer\" }",
            "`key_file` is missing (the file with the customer's key, 32 bytes)",
        ),
        (
            "url = \"s3://b\" limits { upload_memory = \"20MiB\" part_size = \"6MiB\" }",
            "`upload_memory` must hold four parts of `part_size`",
        ),
        ("url = \"s3://b\" limits { part_size = 1 }", "`part_size` must be between 5MiB and 1GiB bytes, found 1"),
        (
            "url = \"s3://b\" thaw { tier = \"slow\" }",
            "`tier` must be \"standard\", \"bulk\" or \"expedited\", found \"slow\"",
        ),
        ("url = \"s3://b\" thaw { days = 0 }", "`days` must be between 1 and 365, found 0"),
        ("url = \"s3://b\" thaw { azure_tier = \"hot\" }", "`azure_tier` is for az:// archives, and this one is s3://"),
        (
            "url = \"az://c\" account = \"a\" thaw { tier = \"bulk\" }",
            "`tier = \"bulk\"` is for s3:// archives, and this one is az://",
        ),
        ("url = \"az://c\" account = \"a\" thaw { days = 3 }", "`days` is for s3:// archives, and this one is az://"),
        (
            "url = \"gs://b\" thaw { days = 3 }",
            "`thaw` is not for gs:// archives: Google reads objects of every class at once",
        ),
        ("url = \"s3://b\" format = \"lemur\"", "`format` must be \"sifaka\", found \"lemur\""),
        ("url = \"s3://b\" regoin = \"r\"", "unknown key `regoin` in `archive \"a\"` (did you mean `region`?)"),
    ] {
        let error = refusal(keys);
        assert!(error.contains(message), "{keys}: {error}");
    }
    let twice = "archive \"a\" { id = 1 url = \"s3://b/p\" }\narchive \"b\" { id = 2 url = \"s3://b/p/\" }";
    let error = ObjectConfig::parse(twice, "f").unwrap_err().to_string();
    assert_eq!(error, "f:2:28: url \"s3://b/p\" is already that of archive \"a\"");
}

#[test]
fn secrets_are_shown_nowhere() {
    let config = place(
        "url = \"s3://b\" credentials { access_key_id = \"i\" secret_access_key = \"hunter2\" session_token = \"hunter2\" }",
    );
    assert!(!format!("{config:?}").contains("hunter2"));
    for keys in [
        "url = \"s3://b\" credentials { secret_access_key = \"hunter2\" }",
        "url = \"s3://b\" credentials { access_key_id = \"i\" secret_access_key = \"hunter2\\n\" }",
        "url = \"s3://b\" endpoint = \"https://me:hunter2@host\"",
        "url = \"gs://b\" credentials { account_key = \"hunter2\" }",
    ] {
        assert!(!refusal(keys).contains("hunter2"), "{keys}");
    }
}
