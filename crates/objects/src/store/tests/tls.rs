//! TLS with an authority of one's own, encryption by the service, storage classes: on Ceph's gateway, which has all of it.

use super::ServerBed;
use super::rgw::{BUCKET, settings};
use super::suite::{Calls as _, described, expected, id};
use crate::{Bucket, Encryption, ObjectStore, S3, Service, Settings, SettingsError, SseKey};
use testkit::Scratch;
use testkit::services::Rgw;
use transfer::{Encoding, Store as _, TransferError, Unwatched};

const LARGE: usize = 20 << 20;

fn server() -> Rgw {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    server
}

fn over_tls(server: &Rgw, encryption: Option<Encryption>) -> Settings {
    let usual = settings(server.tls_endpoint());
    let Service::S3(s3) = usual.service else { panic!("settings of S3") };
    let ca_file = Some(server.authority_file().to_owned());
    Settings { service: Service::S3(S3 { encryption, ..s3 }), ca_file, ..usual }
}

/// Goes in and comes back, small and large, and stays there.
fn round_trip(bed: &ServerBed<Rgw>) {
    for (name, size) in [("small", 5000), ("large", LARGE)] {
        let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let source = bed.file("source", &content);
        let stored = bed.put(&id(name), &source, described(Encoding::Raw)).unwrap();
        let (_, found) = bed.get_over(&stored.id, b"", expected(&stored)).unwrap();
        assert!(found == content, "{name}");
    }
}

#[test]
fn only_a_server_whose_authority_is_known_is_talked_to() {
    let server = server();
    let known = over_tls(&server, None);
    let unknown = Settings { ca_file: None, limits: crate::Limits { attempts: 1, ..known.limits }, ..known.clone() };
    let error = Bucket::open(&unknown).unwrap().check().unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let scratch = Scratch::new("certificates");
    for (name, text) in [("garbage", "no certificate"), ("empty", "")] {
        std::fs::write(scratch.join(name), text).unwrap();
        let garbage = Settings { ca_file: Some(scratch.join(name)), ..known.clone() };
        assert!(matches!(Bucket::open(&garbage), Err(SettingsError::Certificates { .. })), "{name}");
    }
    round_trip(&ServerBed::with(server, &known));
}

#[test]
fn with_a_key_of_our_own_nobody_reads_without_it() {
    let server = server();
    let keyed = over_tls(&server, Some(Encryption::Customer(SseKey([42; 32]))));
    let without = over_tls(&server, None);
    let bed = ServerBed::with(server, &keyed);
    round_trip(&bed);
    let other = ObjectStore::new(Bucket::open(&without).unwrap());
    for name in ["small", "large"] {
        let read = other.verify(&id(name), transfer::Expected::default(), &Unwatched);
        assert!(matches!(read, Err(TransferError::Service { .. })), "{read:?}");
    }
}

#[test]
fn a_named_key_of_the_service_encrypts() {
    let server = server();
    let kms = Encryption::Kms { key: Some(Rgw::KMS_KEY.to_owned()) };
    let settings = over_tls(&server, Some(kms));
    let bed = ServerBed::with(server, &settings);
    round_trip(&bed);
    for name in ["small/small", "objects/large"] {
        let head = bed.server.request("HEAD", &format!("/{BUCKET}/site/a%20prefix/{name}"), None, &[]).ok();
        assert_eq!(head.header("x-amz-server-side-encryption"), Some("aws:kms"), "{name}");
    }
}

#[test]
fn objects_get_the_storage_class_that_is_asked_for() {
    let server = server();
    server.add_storage_class("COLD");
    let settings = Settings { storage_class: Some("COLD".to_owned()), ..settings(server.endpoint()) };
    let bed = ServerBed::with(server, &settings);
    round_trip(&bed);
    for name in ["small/small", "objects/large"] {
        let head = bed.server.request("HEAD", &format!("/{BUCKET}/site/a%20prefix/{name}"), None, &[]).ok();
        assert_eq!(head.header("x-amz-storage-class"), Some("COLD"), "{name}");
    }
}
