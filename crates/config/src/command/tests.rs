use super::*;

fn parse(keys: &str) -> Result<CommandArchive, String> {
    let text = format!("archive \"a\" {{ id = 1\n{keys}\n}}");
    let parsed = CommandConfig::parse(&text, "f").map_err(|error| error.to_string())?;
    Ok(parsed.0.archives.into_iter().next().unwrap())
}

const PLAIN: &str = "archive = [\"put\", \"{id}\"]\nrestore = [\"get\", \"{id}\"]\nremove = [\"rm\", \"{id}\"]\n";

fn refused(keys: &str, message: &str) {
    let error = parse(keys).unwrap_err();
    assert!(error.contains(message), "{message:?} is not in {error:?}");
}

#[test]
fn words_are_split_at_their_holes() {
    let archive = parse(
        "root = \"/hpss\" staging = \"/s\"\narchive = [\"put\", \"{{{file}}}\", \"a{id}b{fan}{size}\", \"\", \"{root}/x\"]\n\
         restore = [\"get\", \"{file}\", \"{id}\"]\nkeep_removed = true",
    );
    let archive = archive.unwrap();
    let text = |text: &str| Part::Text(text.to_owned());
    let words = [
        vec![text("put")],
        vec![text("{"), Part::Hole(Placeholder::File), text("}")],
        vec![
            text("a"),
            Part::Hole(Placeholder::Id),
            text("b"),
            Part::Hole(Placeholder::Fan),
            Part::Hole(Placeholder::Size),
        ],
        vec![text("")],
        vec![text("/hpss/x")],
    ];
    assert_eq!(archive.archive.words, words);
    assert_eq!((archive.archive.program(), archive.remove, archive.check_stored), ("put", None, Check::No));
}

#[test]
fn every_default() {
    let archive = parse(PLAIN).unwrap();
    assert_eq!((archive.max_commands.get(), archive.max_in_flight), (1, None));
    assert_eq!((archive.timeout, archive.output_timeout), (Duration::from_secs(86_400), None));
    assert_eq!((archive.id_from, archive.failures), (IdFrom::Uuid, Failures::default()));
    let wait = Duration::from_secs(5);
    assert_eq!(archive.batch, Batch { max_files: 100, max_bytes: 64 << 30, max_wait: wait, results: Results::Exit });
    assert!(archive.environment.is_empty() && archive.staging.is_none() && archive.directory.is_none());
}

#[test]
fn profiles_are_whole_and_give_way_to_what_is_said() {
    for (keys, batch) in [
        ("profile = \"hsi\" root = \"/hpss/a\" staging = \"/s\"", false),
        ("profile = \"htar\" root = \"/hpss/a\" staging = \"/s\"", true),
        ("profile = \"ltfs\" root = \"/ltfs/a\" mount_point = \"/ltfs\" staging = \"/s\"", true),
        ("profile = \"rclone\" root = \"remote:bucket\"", false),
    ] {
        let archive = parse(keys).unwrap();
        assert_eq!((archive.archive.is_batch(), archive.stat.is_some()), (batch, true), "{keys}");
        assert_eq!(archive.check_stored, Check::Stat, "{keys}");
    }
    let archive = parse(
        "profile = \"rclone\" root = \"r:\" stat = [\"true\"] max_commands = 4 check_stored = \"content\"\n\
         failures { missing = [9] permanent_text = [\"AccessDenied\"] } environment { RCLONE_CONFIG = \"/etc/r\" }",
    );
    let archive = archive.unwrap();
    assert_eq!(archive.stat.as_ref().unwrap().words.len(), 1);
    assert_eq!((archive.failures.missing, archive.failures.permanent_text), (vec![9], vec!["AccessDenied".to_owned()]));
    assert_eq!(archive.environment.get("RCLONE_CONFIG").map(String::as_str), Some("/etc/r"));
    assert_eq!((archive.max_commands.get(), archive.check_stored), (4, Check::Content));
}

#[test]
fn what_a_command_cannot_have_is_refused_with_its_line() {
    let with = |archive: &str| {
        format!("staging = \"/s\"\nrestore = [\"g\", \"{{id}}\"]\nkeep_removed = true\narchive = {archive}")
    };
    for (archive, message) in [
        ("[\"put\", \"{fiel}\"]", "f:5:19: `archive`: there is no placeholder {fiel}"),
        ("[\"put\", \"{file\"]", "has no partner"),
        ("[\"put\", \"a}b\"]", "has no partner"),
        ("[\"put\", \"{root}/x\"]", "{root} is used, and there is no `root`"),
        ("[\"{file}\", \"x\"]", "is no program's name"),
        ("[]", "`archive` is an empty list"),
        ("[\"put\", \"{path}\"]", "a word that begins with {path} could be taken for an option"),
        ("[\"put\", \"to {path}\"]", "could be taken for commands"),
        ("[\"put\", \"x;{path}\"]", "could be taken for commands"),
        ("[\"put\", \"{list}\", \"{id}\"]", "`archive` of many files has nothing to put into {id}"),
        ("[\"put\", \"{batch}\"]", "`archive` has {batch}, and no {list}"),
        ("[\"put\", \"{dir}\"]", "`archive` has nothing to put into {dir}"),
        ("\"put\"", "`archive` must be a list of strings, found a string"),
    ] {
        refused(&with(archive), message);
    }
    assert!(parse(&with("[\"put\", \"./{path}\", \"/r/{path}\"]")).is_ok());
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (keys, message) in [
        ("", "`archive` is missing"),
        ("archive = [\"put\"]", "`restore` is missing"),
        ("archive = [\"put\"]\nrestore = [\"get\", \"{id}\"]", "`remove` is missing"),
        ("archive = [\"put\"]\nrestore = [\"get\"]\nkeep_removed = true", "`restore` does not name the object"),
        ("archive = [\"put\"]\nrestore = [\"get\", \"{id}\", \"{file}\"]\nkeep_removed = true", "`staging` is missing"),
        (
            "archive = [\"put\"]\nrestore = [\"get\", \"{id}\", \"{path}\"]\nkeep_removed = true",
            "nothing to put into {path}",
        ),
        ("archive = [\"put\"]\nrestore = [\"get\", \"{id}{batch}\"]\nkeep_removed = true", "ids do not name it"),
        ("profile = \"ltfs\" root = \"/l\" staging = \"/s\"", "`mount_point` is missing"),
        ("profile = \"hsi\" root = \"/l\" staging = \"/s;rm\"", "`staging` holds a character"),
        ("profile = \"hsi\" staging = \"/s\"", "there is no `root`"),
        ("profile = \"tape\"", "`profile` must be \"hsi\", \"htar\", \"ltfs\" or \"rclone\""),
    ] {
        refused(keys, message);
    }
    for (more, message) in [
        ("id_from = \"stdout\"", "it is not known before"),
        ("check_stored = \"stat\"", "there is no `stat`"),
        ("max_commands = 0", "`max_commands` must be between 1 and 256"),
        ("timeout_s = 0", "`timeout_s` must be between"),
        ("failures { permanent = [0] }", "between 1 and 255"),
        ("failures { missing_text = [\"\"] }", "none of them empty"),
        ("environment { A = 1 }", "`A` in `environment` must be a string"),
        ("environment { A = \"1\" A = \"2\" }", "`A` is given twice"),
        ("environment { \"A=B\" = \"1\" }", "is no environment variable"),
        ("batch { max_file = 1 }", "did you mean `max_files`?"),
        ("max_comands = 1", "did you mean `max_commands`?"),
    ] {
        refused(&format!("{PLAIN}{more}"), message);
    }
    let twice = format!("archive \"a\" {{ id = 1\n{PLAIN} }}\narchive \"b\" {{ id = 1\n{PLAIN} }}");
    let error = CommandConfig::parse(&twice, "f").unwrap_err().to_string();
    assert!(error.contains("id 1 is already that of archive \"a\""), "{error}");
}
