//! Sizes and rates as people write them: `64KiB`, `200MB/s`, or a plain number of bytes.

/// Units, the binary ones as powers of 1024 and the decimal ones as powers of 1000. Letters count in either case; a lone
/// letter is the binary unit, as in `dd` and `truncate`.
const UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// Reads a number of bytes with an optional unit and, between them, optional spaces. Fractions are taken where a unit follows:
/// `1.5GiB`. What is not a whole number of bytes is rounded down.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, scale) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || (scale == 1 && number.contains('.')) {
        return None;
    }
    let parts = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let bytes = u128::from(whole.parse::<u64>().ok()?) * u128::from(scale);
    let rest = u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale) / parts;
    u64::try_from(bytes + rest).ok()
}

/// Reads bytes a second as people write them: `200MB/s`, `64KiB`, or a plain number; the `/s` may be left out.
#[must_use]
pub fn parse_rate(text: &str) -> Option<u64> {
    let text = text.trim();
    parse_size(text.strip_suffix("/s").unwrap_or(text))
}

/// The shortest way to write a number of bytes exactly, with a binary unit where one divides it.
pub(crate) fn show(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.into_iter().find(|(_, scale)| bytes >= *scale && bytes.is_multiple_of(*scale));
    unit.map_or_else(|| bytes.to_string(), |(name, scale)| format!("{}{name}", bytes / scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 64 << 10),
            ("64 kib", 64 << 10),
            ("64k", 64 << 10),
            ("200MB", 200_000_000),
            ("1.5GiB", 3 << 29),
            ("0.1kB", 100),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in
            ["", "KiB", "-1", "1.5", "1e3", "1 2", "1KiB/s", "1..5k", ".5k", "1.k", "99999999999TiB", "1XB", "1k\0"]
        {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
        assert_eq!(
            [parse_rate("200MB/s"), parse_rate("1GiB"), parse_rate("1/s"), parse_rate("1 MB/min")],
            [Some(200_000_000), Some(1 << 30), Some(1), None]
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes: u64, text in ".{0,20}") {
            prop_assert_eq!(parse_size(&show(bytes)), Some(bytes));
            prop_assert_eq!(parse_size(&show(bytes & !0xf_ffff)), Some(bytes & !0xf_ffff));
            let _ = parse_rate(&text);
        }
    }
}
