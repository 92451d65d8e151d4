//! Times in names and for people: `20231114T221320Z`, to the second, in UTC.

const DAY: u64 = 86_400;

/// Of seconds since 1970.
pub(crate) fn format(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / DAY);
    let of_day = seconds % DAY;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// Back from [`format`]; `None` for anything else.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let field = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (field(0, 4)?, field(4, 6)?, field(6, 8)?);
    let of_day = field(9, 11)? * 3600 + field(11, 13)? * 60 + field(13, 15)?;
    // Days from one year's first of March to the next's, counted from the year 0.
    let year_of_march = if month > 2 { year } else { year.checked_sub(1)? };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day;
    let days = year_of_march * 365 + year_of_march / 4 - year_of_march / 100 + year_of_march / 400 + day_of_year;
    let seconds = days.checked_sub(719_469)?.checked_mul(DAY)? + of_day;
    (format(seconds) == text).then_some(seconds)
}

/// Year, month and day of a day since 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    // In eras of 400 years that begin in March, so that leap days come last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (1_700_000_000, "20231114T221320Z"),
            (951_782_400, "20000229T000000Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(format(seconds), text);
            assert_eq!(parse(text), Some(seconds));
        }
        for day in 0..200_000 {
            assert_eq!(parse(&format(day * DAY + day)), Some(day * DAY + day));
        }
        for garbage in [
            "",
            "removed",
            "20231314T221320Z",
            "20230229T000000Z",
            "2023-11-14T22:13",
            "00000101T000000Z",
            "20231114T221360Z",
            "é0231114T221320Z",
        ] {
            assert_eq!(parse(garbage), None, "{garbage}");
        }
    }
}
