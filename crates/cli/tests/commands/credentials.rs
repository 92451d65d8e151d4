//! How programs find who they are to a service, and where that is: what the environment, shared files and an instance's role say. Asked of
//! `sifaka scrub`, which opens a bucket as the mover does.

use crate::agent_double::{sifaka, stderr};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};
use testkit::services::{Azurite, Rgw};

/// Beginnings of what may be set where tests run.
const OTHERS_VARIABLES: [&str; 4] = ["AWS_", "AZURE_", "GOOGLE_", "HTTP"];

fn private(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    path.to_owned()
}

/// Looks through archive 1, which these keys describe, in this environment and no other. Gives back what went wrong.
fn scrub(keys: &str, environment: &[(&str, &str)]) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    private(&directory.path().join("lhsm-plugin-object"), &format!("archive \"a\" {{ id = 1\n{keys}\n}}\n"));
    let mut command = sifaka("sifaka");
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let upper = name.to_ascii_uppercase();
        if OTHERS_VARIABLES.iter().any(|start| upper.starts_with(start)) || upper.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    // Nothing is looked for in anybody's home, nor asked of a machine that may be an instance.
    command.env("HOME", directory.path()).env("AWS_EC2_METADATA_DISABLED", "true");
    command.envs(environment.iter().copied());
    let state = directory.path().join("state");
    command.args(["scrub", "-i", "1", "--state"]).arg(state).arg("--config").arg(directory.path().join("agent"));
    let output = command.output().unwrap();
    if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
}

fn rgw() -> Rgw {
    let server = Rgw::start();
    server.create_bucket("archive");
    server
}

/// The server has its buckets in the path, as most have: so it is asked there, though nothing says so.
#[test]
fn s3_is_found_by_the_environment() {
    let server = rgw();
    let environment = server.env();
    let mut environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    scrub("url = \"s3://archive/p\"", &environment).unwrap();
    environment.push(("AWS_SECRET_ACCESS_KEY", "wrong"));
    let error = scrub("url = \"s3://archive/p\"", &environment).unwrap_err();
    assert!(error.contains("s3://archive/p") && !error.contains("wrong"), "{error}");
}

#[test]
fn a_profile_of_the_shared_files_is_taken_by_its_name() {
    let server = rgw();
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n\
         [archive]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        Rgw::ACCESS_KEY,
        Rgw::SECRET_KEY
    );
    let file = private(&directory.path().join("credentials"), &text);
    let shared = ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    let (endpoint, region) = (server.endpoint(), server.region());
    let keys = |more: &str| {
        format!("url = \"s3://archive\" endpoint = \"{endpoint}\" region = \"{region}\" credentials {{ {more} }}")
    };
    scrub(&keys("profile = \"archive\""), &[shared]).unwrap();
    scrub(&keys(""), &[shared, ("AWS_PROFILE", "archive")]).unwrap();
    scrub(&keys(""), &[shared]).unwrap_err();
}

/// The metadata service and the bucket are proxies with nobody behind them, which answer by themselves and note who asks.
#[test]
fn the_role_of_an_instance_is_asked_for_and_used() {
    let answer = |text: &str| Fault::Answer(Reply::status(200).body(text));
    let metadata = FaultProxy::start("127.0.0.1:1");
    metadata.add(When::method("PUT").path("/latest/api/token"), answer("a-token"));
    let given = r#"{ "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAROLE", "SecretAccessKey": "secret",
        "Token": "session", "LastUpdated": "2020-01-01T00:00:00Z", "Expiration": "2999-01-01T00:00:00Z" }"#;
    metadata.add(When::method("GET").path("/security-credentials/the-role"), answer(given));
    metadata.add(When::method("GET").path("/security-credentials/"), answer("the-role"));
    let bucket = FaultProxy::start("127.0.0.1:1");
    bucket.add(When::any(), answer("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"));
    let keys = format!("url = \"s3://archive\" endpoint = \"{}\" region = \"r\"", bucket.url());
    let environment = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.url())];
    scrub(&keys, &environment).unwrap();
    let asked = metadata.requests();
    let is_known = |request: &&testkit::fault_proxy::Request| {
        request.headers.get("x-aws-ec2-metadata-token").is_some_and(|token| token == "a-token")
    };
    assert!(asked.iter().filter(|request| request.method == "GET").all(|request| is_known(&request)), "{asked:?}");
    let requests = bucket.requests();
    assert!(!requests.is_empty());
    for request in requests {
        let text = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert!(text("authorization").contains("Credential=ASIAROLE/"), "{request:?}");
        assert_eq!(text("x-amz-security-token"), "session");
    }
}

/// Names of buckets below the server's own are found by a proxy of HTTP, since no test changes how names are looked up.
#[test]
fn a_bucket_in_the_name_of_the_host_is_asked_there() {
    let server = rgw();
    let proxy = FaultProxy::start(&server.server().authority());
    let keys = |addressing: &str| {
        format!(
            "url = \"s3://archive/p\" endpoint = \"http://{}\" region = \"{}\" addressing = \"{addressing}\"\n\
             credentials {{ access_key_id = \"{}\" secret_access_key = \"{}\" }}",
            Rgw::DNS_NAME,
            server.region(),
            Rgw::ACCESS_KEY,
            Rgw::SECRET_KEY
        )
    };
    let environment = [("HTTP_PROXY", proxy.url())];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (addressing, host, path) in
        [("virtual-host", format!("archive.{}", Rgw::DNS_NAME), "/"), ("path", Rgw::DNS_NAME.to_owned(), "/archive")]
    {
        let before = proxy.requests().len();
        scrub(&keys(addressing), &environment).unwrap();
        let requests = proxy.requests();
        let asked = requests.get(before..).unwrap();
        assert!(!asked.is_empty());
        for request in asked {
            assert_eq!(request.headers["host"], host.as_str());
            assert!(request.path.starts_with(path), "{request:?}");
        }
    }
}

#[test]
fn a_signature_of_azure_is_enough_and_is_not_shown() {
    let server = Azurite::start();
    server.create_container("archive");
    let keys = |sas: &str| {
        format!(
            "url = \"az://archive/p\" endpoint = \"{}\" account = \"{}\" credentials {{ sas_token = \"{}\" }}",
            server.endpoint(),
            Azurite::ACCOUNT,
            sas
        )
    };
    scrub(&keys(Azurite::SAS), &[]).unwrap();
    let error = scrub(&keys("sv=2020-10-02&sp=r&sig=hunter2"), &[]).unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
}

/// The key of a service account is used for tokens that Google gives: that is as far as can be shown here.
#[test]
fn a_service_account_that_makes_no_sense_is_an_error_that_shows_nothing_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = private(&directory.path().join("account.json"), "{ \"private_key\": \"hunter2\" ");
    let server = FaultProxy::start("127.0.0.1:1");
    let keys = format!(
        "url = \"gs://archive\" endpoint = \"{}\" limits {{ attempts = 1 }} credentials {{ file = \"{}\" }}",
        server.url(),
        file.display()
    );
    let error = scrub(&keys, &[]).unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
}

/// As an administrator would make a certificate of a site's own authority known.
#[test]
fn an_authority_of_ones_own_is_trusted_where_the_configuration_names_it() {
    let server = rgw();
    let keys = |more: &str| {
        format!(
            "url = \"s3://archive\" endpoint = \"{}\" region = \"{}\" limits {{ attempts = 1 }} {more}\n\
             credentials {{ access_key_id = \"{}\" secret_access_key = \"{}\" }}",
            server.tls_endpoint(),
            server.region(),
            Rgw::ACCESS_KEY,
            Rgw::SECRET_KEY
        )
    };
    scrub(&keys(&format!("ca_file = \"{}\"", server.authority_file().display())), &[]).unwrap();
    assert!(scrub(&keys(""), &[]).unwrap_err().contains("certificate"));
}
