//! The committed code is what the .proto gives: a build needs no protoc, and nobody edits the output by hand.

use std::fs;
use std::path::Path;

#[test]
fn generated_code_is_up_to_date() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile([here.join("proto/pdm.proto")], [here.join("proto")]).unwrap();
    tonic_prost_build::configure().out_dir(out.path()).compile_fds(descriptors).unwrap();
    let fresh = fs::read_to_string(out.path().join("pdm.rs")).unwrap();
    let committed = here.join("src/generated/pdm.rs");
    if std::env::var_os("SIFAKA_REGENERATE").is_some() {
        fs::write(&committed, &fresh).unwrap();
    }
    assert!(
        fresh == fs::read_to_string(&committed).unwrap_or_default(),
        "run `SIFAKA_REGENERATE=1 cargo nextest run -p sifaka-proto` and commit the result"
    );
}
