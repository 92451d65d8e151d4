use super::*;
use crate::archive::{ArchiveSettings, Checksums, Codec, Compression, Format};

fn refusal(text: &str) -> String {
    PosixConfig::parse(text, "f").unwrap_err().to_string()
}

/// The one archive whose block holds `keys` besides id and root.
fn archive(keys: &str) -> ArchiveSettings {
    let text = format!("archive \"a\" {{ id = 1 root = \"/a\" {keys} }}");
    PosixConfig::parse(&text, "f").unwrap().0.archives.remove(0).settings
}

#[test]
fn compression_by_format() {
    for (written, sifaka, lemur) in [
        ("off", Compression::Off, Some(Compression::Off)),
        ("on", Compression::On(Codec::Zstd), Some(Compression::On(Codec::Gzip))),
        ("auto", Compression::Auto(Codec::Zstd), Some(Compression::Auto(Codec::Gzip))),
        ("gzip", Compression::On(Codec::Gzip), Some(Compression::On(Codec::Gzip))),
        ("zstd", Compression::On(Codec::Zstd), None),
    ] {
        assert_eq!(archive(&format!("compression = \"{written}\"")).compression, sifaka);
        assert_eq!(archive(&format!("compression = \"{written}\" format = \"sifaka\"")).compression, sifaka);
        if let Some(lemur) = lemur {
            let archive = archive(&format!("format = \"lemur\" compression = \"{written}\""));
            assert_eq!((archive.format, archive.compression), (Format::Lemur, lemur));
        }
    }
}

#[test]
fn an_archive_overrides_only_the_checksum_keys_it_names() {
    let text = r#"checksums { disabled = true disable_compare_on_restore = true }
        archive "a" { id = 1 root = "/a" }
        archive "b" { id = 2 root = "/b" checksums { disabled = false } }"#;
    let config = PosixConfig::parse(text, "f").unwrap().0;
    assert_eq!(config.archives[0].settings.checksums, Checksums { disabled: true, disable_compare_on_restore: true });
    assert_eq!(config.archives[1].settings.checksums, Checksums { disabled: false, disable_compare_on_restore: true });
}

#[test]
fn limits_of_an_archive() {
    let none = archive("");
    assert_eq!((none.max_in_flight, none.bandwidth_limit), (None, None));
    let some = archive("max_in_flight = 65536 bandwidth_limit = \"200MB/s\"");
    assert_eq!(some.max_in_flight.map(u32::from), Some(65_536));
    assert_eq!(some.bandwidth_limit.map(u64::from), Some(200_000_000));
    assert_eq!(archive("bandwidth_limit = 1048576").bandwidth_limit.map(u64::from), Some(1 << 20));
    assert_eq!(archive("bandwidth_limit = \"0\"").bandwidth_limit, None);
    assert_eq!(none.pack_threshold_bytes, 64 << 10);
    for (settings, bytes) in [
        ("pack { threshold = 0 }", 0),
        ("pack { threshold = \"8KiB\" }", 8 << 10),
        ("pack { threshold = \"1MiB\" }", 1 << 20),
        ("pack { threshold = \"8KiB\" } checksums { disabled = true }", 0),
        ("format = \"lemur\"", 0),
        ("format = \"lemur\" pack { threshold = 0 }", 0),
    ] {
        assert_eq!(archive(settings).pack_threshold_bytes, bytes, "{settings}");
    }
    for (key, message) in [
        ("pack { threshold = \"2MiB\" }", "`threshold` must be between 0 and 1MiB bytes, found \"2MiB\""),
        (
            "format = \"lemur\" pack { threshold = 1 }",
            "packs are not part of format \"lemur\" (use format = \"sifaka\", or leave it out)",
        ),
        ("max_in_flight = 0", "`max_in_flight` must be between 1 and 65536, found 0"),
        ("bandwidth_limit = -1", "`bandwidth_limit` must be between 0 and 1024TiB bytes, found -1"),
        (
            "bandwidth_limit = \"2000TiB/s\"",
            "`bandwidth_limit` must be between 0 and 1024TiB bytes, found \"2000TiB/s\"",
        ),
        (
            "bandwidth_limit = \"fast\"",
            "`bandwidth_limit` must be bytes a second, as a number or a string such as \"200MB/s\" or \"1GiB/s\", found \"fast\"",
        ),
        (
            "bandwidth_limit = true",
            "`bandwidth_limit` must be bytes a second, as a number or a string such as \"200MB/s\" or \"1GiB/s\", found a boolean",
        ),
        (
            "bandwidth_limit = 1000",
            "`bandwidth_limit` of 1000 bytes a second is too little (the least is \"64KiB/s\"; 0 is no limit)",
        ),
    ] {
        let error = refusal(&format!("archive \"a\" {{ id = 1 root = \"/a\" {key} }}"));
        assert!(error.ends_with(message), "{error}");
    }
}

#[test]
fn refusals() {
    let none = "f:1:1: no `archive` is defined (write archive \"name\" { id = 1, root = \"/path\" })";
    for (text, message) in [
        ("", none),
        ("{}", none),
        (
            "archive \"a\" { }",
            "f:1:13: `id` is missing in `archive \"a\"` (the archive id of requests, 1 or more)\n\
             f:1:13: `root` is missing in `archive \"a\"` (the absolute path of the directory that holds the archive, or a list of several)",
        ),
        ("archive \"a\" { id = 0 root = \"/a\" }", "f:1:20: `id` must be between 1 and 4294967295, found 0"),
        (
            "archive \"a\" { id = 4294967296 root = \"/a\" }",
            "f:1:20: `id` must be between 1 and 4294967295, found 4294967296",
        ),
        ("archive \"a\" { id = 1 root = \"a\" }", "f:1:29: `root` must be an absolute path, found \"a\""),
        (
            "archive \"a\" { id = 1 root = \"/a\" }\narchive \"b\" { id = 1 root = \"/b\" }",
            "f:2:20: id 1 is already that of archive \"a\"",
        ),
        (
            "archive \"a\" { id = 1 root = \"/a\" }\narchive \"b\" { id = 2 root = \"/a/./\" }",
            "f:2:29: root \"/a\" is already that of archive \"a\"",
        ),
        (
            "archive \"a\" { id = 1 root = \"/a\" }\narchive \"a\" { id = 2 root = \"/b\" }",
            "f:2:1: `archive \"a\"` is given twice; the first is on line 1",
        ),
        ("archive \"\" { id = 1 root = \"/a\" }", "f:1:1: an archive's name is empty"),
        ("archive { id = 1 }", "f:1:9: this `archive` has no name (write archive \"name\" { … })"),
        (
            "archive \"a\" { id = 1 root = \"/a\" compression = \"yes\" }",
            "f:1:48: `compression` must be \"off\", \"on\", \"auto\", \"zstd\" or \"gzip\", found \"yes\"",
        ),
        (
            "archive \"a\" { id = 1 root = \"/a\" compression = true }",
            "f:1:48: `compression` must be a string, found a boolean",
        ),
        (
            "archive \"a\" { id = 1 root = \"/a\" format = \"lemur\" compression = \"zstd\" }",
            "f:1:65: compression \"zstd\" is not part of format \"lemur\" (use \"on\" or \"gzip\", or format = \"sifaka\")",
        ),
        (
            "archive \"a\" { id = 1 root = \"/a\" checksums { disable = true } }",
            "f:1:46: unknown key `disable` in `archive.checksums` (did you mean `disabled`?)",
        ),
        (
            "num_threads = 0\narchive \"a\" { id = 1 root = \"/a\" }",
            "f:1:15: `num_threads` must be between 1 and 1024, found 0",
        ),
        (
            "num_thread = 1\narchive \"a\" { id = 1 root = \"/a\" }",
            "f:1:1: unknown key `num_thread` (did you mean `num_threads`?)",
        ),
        ("{\n \"archive\": 3\n}", "f:2:13: `archive` must be blocks with a name each, found an integer"),
    ] {
        assert_eq!(refusal(text), message, "{text}");
    }
}

#[test]
fn an_archive_has_one_root_or_several() {
    let roots = |root: &str| {
        let text = format!("archive \"a\" {{ id = 1 root = {root} }}");
        PosixConfig::parse(&text, "f").map(|(config, _)| config.archives[0].place.0.clone()).map_err(|e| e.to_string())
    };
    assert_eq!(roots("\"/a/\"").unwrap(), [PathBuf::from("/a")]);
    assert_eq!(roots("[\"/a\", \"/b//c\"]").unwrap(), [PathBuf::from("/a"), PathBuf::from("/b/c")]);
    for (root, why) in [
        (
            "[]",
            "f:1:29: `root` is empty (the absolute path of the directory that holds the archive, or a list of several)",
        ),
        ("[\"/a\", \"/a/\"]", "f:1:36: `root` names \"/a\" twice"),
        ("[\"/a\", \"b\"]", "f:1:36: `root` must be an absolute path, found \"b\""),
        ("[\"/a\", 1]", "f:1:36: `root` must be an absolute path, or a list of such, found an integer"),
        ("true", "f:1:29: `root` must be an absolute path, or a list of such, found a boolean"),
    ] {
        assert_eq!(roots(root).unwrap_err().lines().last().unwrap_or_default().trim(), why, "{root}");
    }
    let two = "archive \"a\" { id = 1 root = [\"/a\", \"/b\"] }\narchive \"b\" { id = 2 root = [\"/c\", \"/b\"] }";
    assert!(refusal(two).contains("f:2:36: root \"/b\" is already that of archive \"a\""), "{}", refusal(two));
}
