//! The committed code is what the .proto gives: a build needs no protoc, and nobody edits the output by hand.

#![allow(clippy::unwrap_used, reason = "the lints do not see that functions beside tests belong to them")]

use std::fs;
use std::path::Path;

fn is_up_to_date(proto: &str, generated: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile([here.join("proto").join(proto)], [here.join("proto")]).unwrap();
    let configure = tonic_prost_build::configure().out_dir(out.path());
    // Of the two, the later one uses what the earlier one has.
    let configure = if proto == "pdm.proto" { configure } else { configure.extern_path(".pdm", "crate::pdm") };
    configure.compile_fds(descriptors).unwrap();
    let fresh = fs::read_to_string(out.path().join(generated)).unwrap();
    let committed = here.join("src/generated").join(generated);
    if std::env::var_os("SIFAKA_REGENERATE").is_some() {
        fs::write(&committed, &fresh).unwrap();
    }
    assert!(
        fresh == fs::read_to_string(&committed).unwrap_or_default(),
        "run `SIFAKA_REGENERATE=1 cargo nextest run -p sifaka-proto` and commit the result"
    );
}

#[test]
fn generated_code_is_up_to_date() {
    is_up_to_date("pdm.proto", "pdm.rs");
}

#[test]
fn generated_code_of_the_cluster_is_up_to_date() {
    is_up_to_date("cluster.proto", "sifaka.cluster.v1.rs");
}
