//! From keys to paths.

use super::replace::OWN_NAMES;
use objects::foreign::{UNASKABLE, can_be_asked_for};

/// Of one name, on every filesystem of Linux.
const MAX_NAME_BYTES: usize = 255;

/// The path below the target that a key stands for; the error says why there is none.
pub(super) fn path_of<'k>(key: &'k str, prefix: &str) -> Result<&'k str, &'static str> {
    let path = key.strip_prefix(prefix).ok_or("its key does not begin as the listing was asked for")?;
    if !can_be_asked_for(key) {
        return Err(UNASKABLE);
    }
    if path.contains('\0') {
        return Err("its name has a NUL in it, which no file's has");
    }
    if path.split('/').any(|name| name.starts_with(OWN_NAMES)) {
        return Err("part of its name is one that imports use for themselves");
    }
    if path.split('/').any(|name| name.len() > MAX_NAME_BYTES) {
        return Err("part of its name has more than 255 bytes");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn a_key_is_a_path_below_the_prefix() {
        assert_eq!(path_of("a/b/c d", "a/"), Ok("b/c d"));
        assert_eq!(path_of("x\ny", ""), Ok("x\ny"));
        let long = format!("p/{}", "x".repeat(255));
        assert_eq!(path_of(&long, "p/"), Ok(long.split_at(2).1));
    }

    #[test]
    fn what_leaves_the_target_or_is_no_name_is_none() {
        let long = format!("p/{}", "x".repeat(256));
        for bad in [
            "p/",
            "p//",
            "p//a",
            "p/a//b",
            "p/.",
            "p/..",
            "p/../x",
            "p/a/..",
            "p/./a",
            "p/a/.",
            "p/a/",
            "p/a\0b",
            "p/a ",
            "p/.sifaka-import-0/a",
            "q/a",
            &long,
        ] {
            assert!(path_of(bad, "p/").is_err(), "{bad:?}");
        }
        for bad in ["/", "/etc/passwd", " a", "../a"] {
            assert!(path_of(bad, "").is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_below(key in "[a./ \\x00]{0,12}|\\PC{0,40}") {
            if let Ok(path) = path_of(&key, "") {
                prop_assert!(!path.is_empty());
                let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
                prop_assert!(Path::new(path).components().all(plain));
                prop_assert_eq!(Path::new(path).components().count(), path.split('/').count());
            }
        }
    }
}
