//! Bytes and times for people.

/// Binary units, one decimal below ten: `0 B`, `1.0 KiB`, `82 MiB` (the way Lemur prints them).
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// A span in at most two units: `350ms`, `12s`, `3m12s`, `2h05m`, `4d03h`.
pub(crate) fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_unit_they_deserve() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10_200, "10 KiB"), (82 << 20, "82 MiB")];
        for (count, expected) in cases {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(bytes(u64::MAX), "16 EiB");
    }

    #[test]
    fn spans_have_two_units() {
        let cases = [(350, "350ms"), (12_000, "12s"), (192_000, "3m12s"), (7_500_000, "2h05m"), (356_400_000, "4d03h")];
        for (ms, expected) in cases {
            assert_eq!(span(ms), expected);
        }
    }
}
