//! `sifaka verify` where one side or both are buckets of real servers.

use crate::agent_double::stderr;
use crate::migrate_buckets::{Bed, azurite, build, ended, fake_gcs, rgw};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};
use testkit::services::Azurite;

/// How each thing that is not the same compares, by path: the word, and what differs.
fn verify(bed: &Bed, args: &[&str], a: &Path, b: &Path) -> (Option<i32>, BTreeMap<String, String>, Value) {
    let report = bed.scratch.join("verify-report");
    let mut command = crate::agent_double::sifaka("sifaka");
    command.arg("--config").arg(bed.scratch.join("agent")).arg("verify").args(args).arg("--json");
    let output = command.arg("--report").arg(&report).arg(a).arg(b).output().unwrap();
    let (code, totals, said) = ended(&output);
    let mut found = BTreeMap::new();
    for line in fs::read_to_string(&report).unwrap_or_default().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let word = line["found"].as_str().unwrap();
        let what = line["differs"].as_array().into_iter().flatten().map(|what| what["what"].as_str().unwrap());
        let texts: Vec<&str> = [word].into_iter().chain(what).collect();
        if word != "same" {
            let before = found.insert(line["path"].as_str().unwrap().to_owned(), texts.join(" "));
            assert_eq!(before, None, "told twice: {line}");
        }
    }
    println!("{said}");
    (code, found, totals)
}

fn expected(told: &[(&str, &str)]) -> BTreeMap<String, String> {
    told.iter().map(|(path, what)| ((*path).to_owned(), (*what).to_owned())).collect()
}

/// What was just copied is the same; each change is found, whichever side comes first.
fn compared(bed: &Bed, put: &dyn Fn(&str, &[u8])) {
    let (source, url) = (bed.source(), Path::new(&bed.url));
    build(&source);
    if !bed.slashes {
        // Nothing in the bucket stands for an empty directory.
        fs::remove_dir(source.join("empty")).unwrap();
    }
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    rustix::fs::mknodat(rustix::fs::CWD, source.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // The root's own time is not the bucket's.
    for (args, a, b) in [(&[][..], &*source, url), (&["--content"], url, &*source)] {
        let (code, found, totals) = verify(bed, args, a, b);
        assert_eq!((code, found), (Some(0), expected(&[("pipe", "skipped")])));
        assert_eq!(totals["bytes"].as_u64() > Some(12_000_000), args.contains(&"--content"));
    }

    let large = source.join("large");
    let modified = fs::metadata(&large).unwrap().modified().unwrap();
    let mut content = fs::read(&large).unwrap();
    content[9_000_000] ^= 1;
    fs::write(&large, content).unwrap();
    fs::File::options().write(true).open(&large).unwrap().set_modified(modified).unwrap();
    fs::set_permissions(source.join("d/small"), fs::Permissions::from_mode(0o600)).unwrap();
    sys::xattr::set(fs::File::open(source.join("d/small")).unwrap(), "user.note", b"other").unwrap();
    let none = source.join("d/e/none");
    let modified = fs::metadata(&none).unwrap().modified().unwrap();
    fs::write(&none, "some").unwrap();
    fs::File::options().write(true).open(&none).unwrap().set_modified(modified).unwrap();
    rustix::fs::chown(&none, Some(rustix::fs::Uid::from_raw(7)), None).unwrap();
    fs::remove_file(source.join("link")).unwrap();
    symlink("d/smalx", source.join("link")).unwrap();
    fs::remove_file(source.join("naïve name ~+%&#?")).unwrap();
    fs::create_dir_all(source.join("new/deep")).unwrap();
    fs::write(source.join("new/deep/file"), "x").unwrap();
    put("a prefix/extra/object", b"x");
    let told = [
        ("d/e/none", "differs size owner"),
        ("d/small", "differs mode attribute"),
        ("extra/object", "extra"),
        ("link", "differs mtime target"),
        ("naïve name ~+%&#?", "extra"),
        ("new", "missing"),
        ("pipe", "skipped"),
    ];
    let (code, found, _) = verify(bed, &[], &source, url);
    assert_eq!((code, found), (Some(6), expected(&told)));
    let turned = told.map(|(path, what)| match what {
        "extra" => (path, "missing"),
        "missing" => (path, "extra"),
        other => (path, other),
    });
    let (code, found, _) = verify(bed, &["--content"], url, &source);
    let mut turned = expected(&turned);
    turned.insert("large".to_owned(), "differs content".to_owned());
    assert_eq!((code, found), (Some(6), turned));
    let args = [
        "--ignore",
        "owner,mode,xattrs,times",
        "--exclude",
        "extra/",
        "--exclude",
        "new",
        "--exclude",
        "na*",
        "--max-size",
        "3B",
    ];
    let (code, mut found, _) = verify(bed, &args, &source, url);
    found.retain(|_, what| what != "filtered");
    assert_eq!((code, found), (Some(6), expected(&[("link", "differs target"), ("pipe", "skipped")])));
}

#[test]
fn a_tree_is_compared_with_a_bucket_of_s3() {
    let (server, bed) = rgw();
    compared(&bed, &|key, content| {
        server.request("PUT", &format!("/bucket/{}", key.replace(' ', "%20")), Some(content), &[]).ok();
    });
}

#[test]
fn a_tree_is_compared_with_a_container_of_azure() {
    let (server, bed) = azurite();
    compared(&bed, &|key, content| {
        let path = format!("/bucket/{}", key.replace(' ', "%20"));
        server.request("PUT", &path, Some(content), &["x-ms-blob-type: BlockBlob"]).ok();
    });
}

#[test]
fn a_tree_is_compared_with_a_bucket_of_google() {
    let (server, bed) = fake_gcs();
    compared(&bed, &|key, content| {
        let path = format!("/upload/storage/v1/b/bucket/o?uploadType=media&name={}", key.replace(' ', "%20"));
        server.request("POST", &path, Some(content), &[]).ok();
    });
}

#[test]
fn two_buckets_of_two_services_are_compared() {
    let (server, bed) = rgw();
    let azure = Azurite::start();
    azure.create_container("bucket");
    let file = bed.scratch.join("lhsm-plugin-object");
    let more = format!(
        "archive \"b\" {{ id = 2 url = \"az://bucket/archive\" endpoint = \"{}\" account = \"{}\"\ncredentials {{ account_key = \"{}\" }} }}\n",
        azure.endpoint(),
        Azurite::ACCOUNT,
        Azurite::KEY
    );
    fs::write(&file, fs::read_to_string(&file).unwrap() + &more).unwrap();
    build(&bed.source());
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    let (here, far) = (Path::new(&bed.url), Path::new("az://bucket/far"));
    let output = bed.command(&["-q"], here, far).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let (code, found, _) = verify(&bed, &["--content"], here, far);
    assert_eq!((code, found), (Some(0), BTreeMap::new()));
    server.request("PUT", "/bucket/a%20prefix/extra//odd", Some(b"x"), &[]).ok();
    server.request("DELETE", "/bucket/a%20prefix/link", None, &[]).ok();
    let texts = ["x-ms-blob-type: BlockBlob", "x-ms-meta-mode: 100644"];
    azure.request("PUT", "/bucket/far/d/small", Some(b"smalx"), &texts).ok();
    azure.request("PUT", "/bucket/far/new", Some(b"x"), &texts).ok();
    let (code, found, _) = verify(&bed, &["--content", "--exclude", "extra/"], here, far);
    let told = [("d/small", "differs mode attribute content"), ("link", "extra"), ("new", "extra")];
    let (others, told_of_filtered): (BTreeMap<_, _>, BTreeMap<_, _>) =
        found.into_iter().partition(|(path, _)| !path.starts_with("extra"));
    assert_eq!((code, others), (Some(6), expected(&told)));
    assert!(told_of_filtered.values().all(|what| what == "filtered"), "{told_of_filtered:?}");
}

/// What is not known is no difference, and no success either.
#[test]
fn what_cannot_be_compared_is_told() {
    let (server, bed) = rgw();
    build(&bed.source());
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    let proxy = FaultProxy::start(&server.server().authority());
    let far = Bed { url: bed.url.clone(), ..Bed::of_s3(&proxy.url(), server.region()) };
    proxy.add(When::method("HEAD").path("large"), Fault::Answer(Reply::status(403)));
    let (code, found, _) = verify(&far, &[], &bed.source(), Path::new(&bed.url));
    assert_eq!((code, found), (Some(1), expected(&[("large", "failed")])));
    let none = Path::new("s3://no-such-bucket/x");
    let (code, _, _) =
        verify(&far, &["--endpoint", &server.endpoint(), "--region", server.region()], &bed.source(), none);
    assert_ne!(code, Some(0));
    let (code, _, _) = verify(&far, &["--archive", "1", "--endpoint", "http://x"], &bed.source(), Path::new(""));
    assert_eq!(code, Some(2));
}
