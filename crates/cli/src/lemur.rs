//! Lemur's names: started as `lhsmd`, `lhsm` or `lhsm-plugin-…`, the program takes what those take.
//!
//! Pure: words in, words of our own command line out. Lemur's programs read flags as Go's `flag` package does: one dash or two,
//! the value behind `=` or in the next word, and no flag behind the first word that is none.

use crate::exit::{CliError, Exit};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The command line of `sifaka` that is meant by `given`, whose first word is the program's name.
pub(crate) fn translate(given: Vec<OsString>) -> Result<Vec<OsString>, CliError> {
    let program = given.first().map(Path::new).and_then(Path::file_name).unwrap_or_default().to_owned();
    let rest = given.get(1..).unwrap_or_default();
    match program.to_str() {
        Some("lhsmd") => agent(rest),
        Some("lhsm") => client(rest),
        Some("lhsm-plugin-posix") => Ok(ours(&["mover", "posix"])),
        Some("lhsm-plugin-object") => Ok(ours(&["mover", "object"])),
        Some("lhsm-plugin-az") => Ok(ours(&["mover", "az"])),
        Some("lhsm-plugin-s3") => Ok(ours(&["mover", "s3"])),
        Some("lhsm-plugin-command") => Ok(ours(&["mover", "command"])),
        Some("lhsm-plugin-noop") => Ok(ours(&["mover", "noop"])),
        _ => Ok(given),
    }
}

fn ours(words: &[&str]) -> Vec<OsString> {
    std::iter::once("sifaka").chain(words.iter().copied()).map(OsString::from).collect()
}

/// `lhsmd [-config FILE] [-debug]`.
fn agent(given: &[OsString]) -> Result<Vec<OsString>, CliError> {
    let mut out = ours(&["agent"]);
    let mut words = given.iter();
    while let Some(word) = words.next() {
        match flag(word) {
            Some(("config", Some(file))) => out.extend(["--config".into(), file]),
            Some(("config", None)) => {
                let file = words.next().ok_or_else(|| usage("lhsmd: -config needs a file"))?;
                out.extend(["--config".into(), file.clone()]);
            }
            Some(("debug", None)) => out.push("--debug".into()),
            Some(("debug", Some(value))) if value == "true" || value == "false" => {
                if value == "true" {
                    out.push("--debug".into());
                }
            }
            Some(("h" | "help", None)) => out.push("--help".into()),
            _ => {
                return Err(usage(format!(
                    "lhsmd: unknown argument {}; it takes -config FILE and -debug",
                    word.display()
                )));
            }
        }
    }
    Ok(out)
}

/// `lhsm [-debug] [-logfile FILE] COMMAND [flags] PATH…`.
fn client(given: &[OsString]) -> Result<Vec<OsString>, CliError> {
    let mut words = given.iter();
    let command = loop {
        let Some(word) = words.next() else { return Ok(ours(&["--help"])) };
        match flag(word) {
            // Lemur's client logged its own steps; ours has none worth a file.
            Some(("debug", _) | ("logfile" | "l", Some(_))) => {}
            Some(("logfile" | "l", None)) => {
                words.next();
            }
            Some(("h" | "help", _)) => return Ok(ours(&["--help"])),
            Some(("v" | "version", _)) => return Ok(ours(&["--version"])),
            Some(_) => return Err(usage(format!("lhsm: unknown flag {}", word.display()))),
            None => break word,
        }
    };
    let Some(command) = command.to_str().filter(|name| KNOWN.contains(name)) else {
        let known = KNOWN.join(", ");
        return Err(usage(format!("lhsm: no such command: {}; there are {known}", command.display())));
    };
    let mut out = ours(&[command]);
    if QUIET.contains(&command) {
        // Lemur's says nothing when all went well.
        out.push("--quiet".into());
    }
    while let Some(word) = words.as_slice().first() {
        let Some((name, value)) = flag(word) else { break };
        words.next();
        out.push(if name.len() == 1 { format!("-{name}") } else { format!("--{name}") }.into());
        if TAKE_VALUE.contains(&name)
            && let Some(value) = value.or_else(|| words.next().cloned())
        {
            out.push(if name == "mode" { octal(value) } else { value });
        }
    }
    out.push("--".into());
    // Go's end of flags is ours, written above.
    let ends_flags = words.as_slice().first().is_some_and(|word| word == "--");
    out.extend(words.skip(usize::from(ends_flags)).cloned());
    Ok(out)
}

const KNOWN: [&str; 10] =
    ["archive", "release", "restore", "remove", "cancel", "set", "import", "clone", "restripe", "status"];
const QUIET: [&str; 9] = ["archive", "release", "restore", "remove", "cancel", "set", "import", "clone", "restripe"];
const TAKE_VALUE: [&str; 18] = [
    "id",
    "i",
    "flag",
    "f",
    "clear",
    "F",
    "uuid",
    "hash",
    "uid",
    "gid",
    "size",
    "mode",
    "timefmt",
    "mtime",
    "atime",
    "stripe_count",
    "stripe_size",
    "pool",
];

/// Go reads a number without a leading zero as decimal; we read permission bits as octal always.
fn octal(value: OsString) -> OsString {
    let number = value.to_str().filter(|text| !text.starts_with('0')).and_then(|text| text.parse::<u32>().ok());
    number.map_or(value, |number| format!("{number:o}").into())
}

/// A flag's name, and its value if that is in the same word. `-` and `--` are none.
fn flag(word: &OsStr) -> Option<(&str, Option<OsString>)> {
    let bytes = word.as_bytes().strip_prefix(b"-")?;
    let bytes = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (bytes.get(..at)?, bytes.get(at + 1..).map(|value| OsString::from_vec(value.to_vec()))),
        None => (bytes, None),
    };
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    Some((name, value))
}

fn usage(message: impl Into<String>) -> CliError {
    CliError::new(Exit::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    fn translated(line: &str) -> Result<String, String> {
        let words = line.split(' ').map(OsString::from).collect();
        let out = translate(words).map_err(|error| error.message().to_owned())?;
        if !out.iter().any(|word| word == "--help" || word == "--version") {
            Cli::try_parse_from(&out).map_err(|error| error.to_string())?;
        }
        Ok(out.join(OsStr::new(" ")).into_string().unwrap())
    }

    #[test]
    fn lemur_s_command_lines_are_understood() {
        let cases = [
            ("/usr/sbin/lhsmd -config /etc/x -debug", "sifaka agent --config /etc/x --debug"),
            ("lhsmd --config=/etc/x -debug=false", "sifaka agent --config /etc/x"),
            ("lhsm archive -i 2 /fs/a /fs/b", "sifaka archive --quiet -i 2 -- /fs/a /fs/b"),
            ("lhsm -debug archive -id=2 /fs/a", "sifaka archive --quiet --id 2 -- /fs/a"),
            ("lhsm -l /tmp/log release -null", "sifaka release --quiet --null --"),
            ("lhsm restore -0", "sifaka restore --quiet -0 --"),
            ("lhsm restore -- -0 --", "sifaka restore --quiet -- -0 --"),
            ("lhsm status -a -hide-path -l /fs/a -p", "sifaka status -a --hide-path -l -- /fs/a -p"),
            (
                "lhsm set -flag norelease --clear dirty -i 3 /fs/a",
                "sifaka set --quiet --flag norelease --clear dirty -i 3 -- /fs/a",
            ),
            ("lhsm set -f norelease -F lost /fs/a", "sifaka set --quiet -f norelease -F lost -- /fs/a"),
            (
                "lhsm import -i 1 --uuid abcde -size=5 --mode 420 --uid 7 /fs/a",
                "sifaka import --quiet -i 1 --uuid abcde --size 5 --mode 644 --uid 7 -- /fs/a",
            ),
            (
                "lhsm import -uuid abcde -size 5 -mode 0600 -stripe_count 2 /fs/a",
                "sifaka import --quiet --uuid abcde --size 5 --mode 0600 --stripe_count 2 -- /fs/a",
            ),
            ("lhsm clone /fs/a /fs/b", "sifaka clone --quiet -- /fs/a /fs/b"),
            (
                "lhsm restripe -stripe_count 2 -pool p /fs/a",
                "sifaka restripe --quiet --stripe_count 2 --pool p -- /fs/a",
            ),
            ("lhsm", "sifaka --help"),
            ("./lhsm-plugin-posix", "sifaka mover posix"),
            ("lhsm-plugin-command", "sifaka mover command"),
            ("lhsm-plugin-s3", "sifaka mover s3"),
            ("lhsm-plugin-az", "sifaka mover az"),
            ("lhsm-plugin-noop", "sifaka mover noop"),
            ("sifaka status -l x", "sifaka status -l x"),
        ];
        for (given, expected) in cases {
            assert_eq!(translated(given).as_deref(), Ok(expected), "{given}");
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        for (given, part) in [
            ("lhsm frobnicate", "no such command"),
            ("lhsmd -config", "needs a file"),
            ("lhsmd extra", "unknown argument"),
        ] {
            let said = translated(given).unwrap_err();
            assert!(said.contains(part), "{given}: {said}");
        }
    }
}
