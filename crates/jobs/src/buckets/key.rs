//! From paths to keys and back, without ever bending one.

use model::Scheme;
use objects::foreign::can_be_asked_for;

/// S3's and Google's limit; Azure's is one of characters.
const MAX_KEY_BYTES: usize = 1024;
/// Of one name, on every filesystem of Linux.
const MAX_NAME_BYTES: usize = 255;

/// The key of what is at a path below the source; of a directory with a slash at its end. The error says why there is none.
pub(super) fn key_of(
    prefix: &str,
    path: &[u8],
    is_directory: bool,
    scheme: Option<Scheme>,
) -> Result<String, &'static str> {
    let Ok(path) = str::from_utf8(path) else { return Err("its path is not UTF-8, as keys have to be") };
    if path.chars().any(char::is_control) {
        return Err("its path has control characters, which services do not list as they are");
    }
    if scheme == Some(Scheme::Azure) && (path.contains('\\') || path.split('/').any(|name| name.ends_with('.'))) {
        return Err("its path has a backslash, or a name with a dot at its end, which Azure would change");
    }
    let key = format!("{prefix}{path}");
    if !can_be_asked_for(&key) {
        return Err("its key would begin or end with a blank, which is lost on the way");
    }
    let slash = if is_directory { "/" } else { "" };
    if key.len() + slash.len() > MAX_KEY_BYTES {
        return Err("its key would have more than 1024 bytes");
    }
    Ok(key + slash)
}

/// The path below the target that a key stands for, and whether it is a directory's. The error says why there is none.
pub(super) fn path_of<'k>(key: &'k str, prefix: &str) -> Result<(&'k str, bool), &'static str> {
    let path = key.strip_prefix(prefix).ok_or("its key does not begin as the listing was asked for")?;
    let (path, is_directory) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
    if !can_be_asked_for(key.strip_suffix('/').unwrap_or(key)) {
        return Err(objects::foreign::UNASKABLE);
    }
    if path.contains('\0') {
        return Err("its name has a NUL in it, which no file's has");
    }
    if path.split('/').any(|name| name.len() > MAX_NAME_BYTES) {
        return Err("part of its name has more than 255 bytes");
    }
    Ok((path, is_directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn what_no_service_keeps_as_it_is_has_no_key() {
        let s3 = |path: &[u8]| key_of("p/", path, false, Some(Scheme::S3));
        assert_eq!(s3("a/b ü\\.".as_bytes()).as_deref(), Ok("p/a/b ü\\."));
        assert_eq!(key_of("p/", b"a/b", true, None).as_deref(), Ok("p/a/b/"));
        for path in [&b"a\xff"[..], b"a\nb", b"a\x7f", b"a/b ", "a\u{85}".as_bytes(), &[b'x'; 1023]] {
            assert!(s3(path).is_err(), "{path:?}");
        }
        assert!(key_of("", b" a", false, None).is_err() && s3(b" a").is_ok());
        for path in [&b"a\\b"[..], b"a./b", b"a."] {
            assert!(key_of("", path, false, Some(Scheme::Azure)).is_err(), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn a_path_stays_below_and_is_that_of_its_key(key in "[a./ \\x00]{0,12}|\\PC{0,40}") {
            if let Ok((path, is_directory)) = path_of(&key, "") {
                let names = Path::new(path).components();
                prop_assert!(names.clone().all(|name| matches!(name, Component::Normal(_))));
                prop_assert_eq!(names.count(), path.split('/').count());
                if let Ok(again) = key_of("", path.as_bytes(), is_directory, None) {
                    prop_assert_eq!(again, key);
                }
            }
        }
    }
}
