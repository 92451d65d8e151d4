//! What `sifaka reload` says.

use crate::output::escaped;
use agent::admin::api::{Reloaded, Setting};
use std::fmt::Write;

/// A line for each setting, mover and warning.
pub(crate) fn reloaded(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    for (settings, what) in [(&reloaded.applied, "applied"), (&reloaded.needs_restart, "needs a restart of the agent")]
    {
        for Setting { key, from, to } in settings {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{what}: {} = {} (was {})", escaped(key), shown(to), shown(from));
        }
    }
    if reloaded.applied.is_empty() && reloaded.needs_restart.is_empty() {
        text.push_str("the agent's configuration is what it was\n");
    }
    for mover in &reloaded.movers {
        let name = escaped(&mover.name);
        let _ = match (mover.told, mover.pid) {
            (true, Some(pid)) => writeln!(text, "mover {name} (pid {pid}): reads its configuration again"),
            (_, Some(pid)) => writeln!(text, "mover {name} (pid {pid}): cannot read its configuration while it runs"),
            (_, None) => writeln!(text, "mover {name}: does not run; reads its configuration when it is started"),
        };
    }
    for warning in &reloaded.warnings {
        let _ = writeln!(text, "warning: {}", escaped(warning));
    }
    text
}

fn shown(value: &str) -> std::borrow::Cow<'_, str> {
    if value.is_empty() { "not set".into() } else { escaped(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::ReloadedMover;

    #[test]
    fn every_part_has_its_line() {
        let setting = |key: &str, from: &str, to: &str| Setting { key: key.into(), from: from.into(), to: to.into() };
        let mover = |name: &str, pid, told| ReloadedMover { name: name.into(), pid, told };
        let all = Reloaded {
            applied: vec![setting("restore.timeout_s", "3600", "60"), setting("handler_count", "", "4")],
            needs_restart: vec![setting("mount_root", "\"/mnt/a\"", "\"/mnt/b\"")],
            movers: vec![
                mover("posix", Some(7), true),
                mover("lhsm-plugin-s3", Some(8), false),
                mover("x", None, false),
            ],
            warnings: vec!["/etc/lhsmd/agent:3:1: `transport.port` has no effect".into()],
        };
        insta::assert_snapshot!(reloaded(&all), @r#"
        applied: restore.timeout_s = 60 (was 3600)
        applied: handler_count = 4 (was not set)
        needs a restart of the agent: mount_root = "/mnt/b" (was "/mnt/a")
        mover posix (pid 7): reads its configuration again
        mover lhsm-plugin-s3 (pid 8): cannot read its configuration while it runs
        mover x: does not run; reads its configuration when it is started
        warning: /etc/lhsmd/agent:3:1: `transport.port` has no effect
        "#);
        assert_eq!(reloaded(&Reloaded::default()), "the agent's configuration is what it was\n");
    }
}
