//! The profiles for HPSS, with stand-ins that check the command lines.

use super::*;

/// Checks each command line, and does with files what HPSS would.
const HSI: &str = r#"echo "hsi|$#|$1|$2" >>SCRATCH/lines
[ $# = 2 ] && [ "$1" = -q ] || exit 64
name='0e2f/0e2f9a7c-5ad1-4b6e-9b7a-[0-9a-f]{12}'
if [[ $2 =~ ^"mkdir -p /hpss/a/0e2f; put "(/proc/[0-9]+/fd/[0-9]+)" : /hpss/a/"($name)$ ]]; then
    mkdir -p SCRATCH/root/0e2f && cp "${BASH_REMATCH[1]}" "SCRATCH/root/${BASH_REMATCH[2]}" || exit 74
elif [[ $2 =~ ^"get "(SCRATCH/staging/[-./a-z0-9]+)" : /hpss/a/"($name)$ ]]; then
    [ -e "SCRATCH/root/${BASH_REMATCH[2]}" ] || { echo "*** hsi: HPSS_ENOENT" >&2; exit 64; }
    cp "SCRATCH/root/${BASH_REMATCH[2]}" "${BASH_REMATCH[1]}"
elif [[ $2 =~ ^(rm|ls)" /hpss/a/"($name)$ ]]; then
    [ -e "SCRATCH/root/${BASH_REMATCH[2]}" ] || { echo "*** hsi: HPSS_ENOENT" >&2; exit 64; }
    [ "${BASH_REMATCH[1]}" = ls ] || rm "SCRATCH/root/${BASH_REMATCH[2]}"
else
    echo "not a command: $2" >&2
    exit 77
fi"#;

#[test]
fn the_command_lines_of_the_hsi_profile_are_exact() {
    let settings = "profile = \"hsi\"\nroot = \"/hpss/a\"\nenvironment {\n PATH = \"SCRATCH/bin:/usr/bin:/bin\"\n }";
    let mut bench = Bench::start_with(settings, |scratch| {
        script(&scratch.join("bin/hsi"), &HSI.replace("SCRATCH", scratch.path().to_str().unwrap()));
    });
    whole_cycle(&mut bench);
    let lines = bench.text("lines");
    let name = format!("/hpss/a/0e2f/{}", id(0));
    for expected in [format!("hsi|2|-q|ls {name}"), format!("hsi|2|-q|rm {name}"), format!(" : {name}")] {
        assert!(lines.lines().any(|line| line.ends_with(&expected)), "{expected} in {lines}");
    }
}

#[test]
fn the_command_lines_of_the_htar_profile_are_exact() {
    let settings = "profile = \"htar\"\nroot = \"/hpss/a\"\nbatch { max_wait_s = 1 }\n\
                    environment {\n PATH = \"SCRATCH/bin:/usr/bin:/bin\"\n }";
    let htar = r#"echo "$*" >>SCRATCH/lines
tar=$(echo "$*" | sed -nE 's|.* -f /hpss/a/([0-9a-f]{4}/[-0-9a-f]{36}\.tar) .*|\1|p')
[ -n "$tar" ] || exit 64
case "$*" in
    "-c -P -h -f /hpss/a/$tar -L SCRATCH/staging/"*/list)
        mkdir -p SCRATCH/root/${tar%/*} && tar -chf "SCRATCH/root/$tar" -T "${!#}" ;;
    "-x -f /hpss/a/$tar "[-0-9a-f]*)
        [ -e "SCRATCH/root/$tar" ] || { echo HPSS_ENOENT >&2; exit 64; }
        tar -xf "SCRATCH/root/$tar" "$4" ;;
    *) exit 64 ;;
esac"#;
    let hsi = r#"[[ $2 =~ ^"ls /hpss/a/"([0-9a-f]{4}/[-0-9a-f]{36}.tar)$ ]] || exit 77
[ -e "SCRATCH/root/${BASH_REMATCH[1]}" ] || { echo HPSS_ENOENT >&2; exit 64; }"#;
    let mut bench = Bench::start_with(settings, |scratch| {
        for (name, body) in [("htar", htar), ("hsi", hsi)] {
            let body = body.replace("SCRATCH", scratch.path().to_str().unwrap());
            script(&scratch.join("bin").join(name), &body);
        }
    });
    let mut sent = HashMap::new();
    for number in 0..12 {
        bench.file(&format!("f{number}"), &content(number * 5000));
        sent.insert(bench.send(Op::Archive, archive(&format!("f{number}"), number)), number);
    }
    let archived = bench.ends(12);
    archived.values().for_each(assert_done);
    let tars = bench.found("root").len();
    assert!(tars < 12, "{tars} tar files for 12 files");
    for (action, status) in &archived {
        let number = sent[action];
        assert!(status.uuid.ends_with(&format!(".{}", id(number))), "{}", status.uuid);
        let target = bench.file("r", b"");
        assert_done(&bench.run(Op::Restore, restore(status, number * 5000, "r")));
        assert!(fs::read(target).unwrap() == content(number * 5000));
        let item = ActionItem { uuid: status.uuid.clone(), ..ActionItem::default() };
        assert_done(&bench.run(Op::Remove, item));
    }
    assert_eq!(bench.found("root").len(), tars, "members are not removed");
    let gone = &archived[&1];
    fs::remove_dir_all(bench.scratch.join("root")).unwrap();
    assert_failed(&bench.run(Op::Restore, restore(gone, 0, "r")), ENOENT, ErrorKind::Permanent, &["HPSS_ENOENT"]);
}
