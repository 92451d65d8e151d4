//! Times as people and Lemur's tools write them.
//!
//! Pure. The forms: seconds since 1970 (`1700000000`, `@1700000000.25`), RFC 3339 (`2023-11-14T22:13:20Z`), and the default of Lemur's
//! `--timefmt` (`2023-11-14 22:13:20.5 +0100`), which GNU `stat` and `date` write too. A zone is always needed.

/// Whole seconds since 1970 (may be negative) and nanoseconds (0 to 999,999,999).
pub type Moment = (i64, u32);

/// From text; the error says what is expected.
pub fn parse(text: &str) -> Result<Moment, String> {
    let seconds = text.strip_prefix('@').unwrap_or(text);
    parse_seconds(seconds).or_else(|| parse_date(text)).ok_or_else(|| {
        "expected seconds since 1970, or a date such as 2023-11-14T22:13:20Z or \"2023-11-14 22:13:20.5 +0100\""
            .to_owned()
    })
}

fn parse_seconds(text: &str) -> Option<Moment> {
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
    let seconds: i64 = whole.parse().ok()?;
    let nanos = fraction.map_or(Some(0), parse_nanos)?;
    // -1.5 is half a second before -1.
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

fn parse_nanos(digits: &str) -> Option<u32> {
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits || digits.is_empty() || digits.len() > 9 {
        return None;
    }
    format!("{digits:0<9}").parse().ok()
}

fn parse_date(text: &str) -> Option<Moment> {
    let (date, rest) = text.split_once(['T', ' '])?;
    let zone_at = rest.find(['Z', '+', '-', ' '])?;
    let (time, zone) = rest.split_at_checked(zone_at)?;
    let mut date = date.split('-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, nanos) = time.split_once('.').map_or((time, Some(0)), |(time, nanos)| (time, parse_nanos(nanos)));
    let mut time = time.split(':').map(digits);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if date.next().is_some() || time.next().is_some() || !in_range {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some((seconds - parse_zone(zone.trim_start())?, nanos?))
}

fn digits(text: &str) -> Option<i64> {
    let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits && (1..=4).contains(&text.len()) { text.parse().ok() } else { None }
}

/// Seconds east of Greenwich: `Z`, `+0100` or `+01:00`.
fn parse_zone(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, text) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let text = text.replace(':', "");
    let (hours, minutes) = text.split_at_checked(2)?;
    if minutes.len() != 2 {
        return None;
    }
    Some(sign * (digits(hours)? * 3600 + digits(minutes)? * 60))
}

/// Of the Gregorian calendar, by counting years from March: leap days are then at the end.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_means_the_same_moment() {
        for text in [
            "1700000000.5",
            "@1700000000.5",
            "2023-11-14T22:13:20.5Z",
            "2023-11-14T23:13:20.500000000+01:00",
            "2023-11-14 22:13:20.5 +0000",
            "2023-11-14 17:13:20.5 -0500",
        ] {
            assert_eq!(parse(text), Ok((1_700_000_000, 500_000_000)), "{text}");
        }
        assert_eq!(parse("1969-12-31T23:59:59.75Z"), Ok((-1, 750_000_000)));
        assert_eq!(parse("-0.25"), Ok((-1, 750_000_000)));
        assert_eq!(parse("2000-02-29T00:00:00Z"), Ok((951_782_400, 0)));
        assert_eq!(parse("1600-01-01T00:00:00Z"), Ok((-11_676_096_000, 0)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2023-11-14",
            "2023-11-14 22:13:20",
            "2023-13-14T22:13:20Z",
            "2023-11-14T22:13:20.Z",
            "1.1234567890",
            "2023-11-14T22:13:20+1",
            "2023-11-14T22:13:20+ä",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
