//! Which files a job is for.

use crate::exit::{CliError, Exit};
use jobs::filter::Filter;
use std::time::Duration;

/// See the module.
#[derive(clap::Args, Debug, Clone, Default, PartialEq)]
pub(crate) struct FilterArgs {
    /// Leave out what matches; with a slash in it the whole path below the source is matched, else the name. Directories that match
    /// are not entered; a slash at the end: only directories. May be repeated
    #[arg(long, value_name = "PATTERN", help_heading = "Filters")]
    exclude: Vec<String>,
    /// Do not leave out what matches this, too. May be repeated
    #[arg(long, value_name = "PATTERN", help_heading = "Filters")]
    include: Vec<String>,
    /// Only files of so many bytes or more, such as 1MiB
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Filters")]
    min_size: Option<u64>,
    /// Only files of so many bytes or fewer
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Filters")]
    max_size: Option<u64>,
    /// Only files that were changed within this time, such as 36h or 7d
    #[arg(long, value_name = "AGE", value_parser = age, help_heading = "Filters")]
    newer_than: Option<Duration>,
    /// Only files that were not changed within this time
    #[arg(long, value_name = "AGE", value_parser = age, help_heading = "Filters")]
    older_than: Option<Duration>,
    /// Only files of these owners, by name or number
    #[arg(long, value_name = "USER,…", value_delimiter = ',', value_parser = owner, help_heading = "Filters")]
    owner: Vec<u32>,
}

impl FilterArgs {
    /// Whether nothing is left out.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn filter(&self) -> Result<Filter, CliError> {
        let bad = |error: jobs::filter::BadPattern| {
            CliError::new(Exit::Usage, format!("a pattern cannot be understood: {error}"))
        };
        let mut filter = Filter::by_names(&self.exclude, &self.include).map_err(bad)?;
        (filter.min_size, filter.max_size) = (self.min_size, self.max_size);
        (filter.newer_than, filter.older_than) = (self.newer_than, self.older_than);
        filter.owners.clone_from(&self.owner);
        Ok(filter)
    }
}

fn size(text: &str) -> Result<u64, String> {
    config::parse_size(text).ok_or_else(|| "expected a size, such as 4096 or 1MiB".to_owned())
}

/// A span of time, such as `30s`, `10m`, `36h`, `7d` or `2w`.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a time with its unit, such as 30s, 10m, 36h, 7d or 2w".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit.trim_start() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

fn owner(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    match nix::unistd::User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("there is no user {text}")),
        Err(error) => Err(format!("cannot look up the user {text}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let cases = [("30s", 30), ("10m", 600), ("36h", 129_600), ("7d", 604_800), ("2 w", 1_209_600)];
        for (text, seconds) in cases {
            assert_eq!(age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "7", "d", "-1d", "1y", "99999999999999999999d", "18446744073709551615d"] {
            assert!(age(text).is_err(), "{text:?}");
        }
        assert_eq!(owner("root"), Ok(0));
        assert_eq!(owner("4711"), Ok(4711));
        assert!(owner("nobody-has-this-name").is_err());
    }
}
