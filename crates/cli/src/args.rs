//! The command line: its tree, and the options all commands share. Each command's own options stand with the command.

use crate::commands::{
    actions, agent, archive, cancel, clone, completions, config_check, doctor, fsck, guard, hosts, import, man,
    migrate, mirror, mover, mover_host, rebalance, rebuild, release, reload, remove, replicate, restore, restripe,
    scrub, set, status, undelete, verify, versions, walk,
};
use crate::{demo, exit};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Parallel data mover and HSM for Linux filesystems.
#[derive(Parser, Debug)]
#[command(name = "sifaka", version, after_help = exit::HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the agent is.
#[derive(Args, Debug, Clone)]
pub(crate) struct Global {
    /// The agent's admin socket
    #[arg(
        long,
        global = true,
        env = "SIFAKA_SOCKET",
        value_name = "PATH",
        default_value = "/var/run/lhsmd/admin.sock"
    )]
    pub(crate) socket: PathBuf,
    /// The agent's configuration [default: /etc/lhsmd/agent, else /etc/sifaka/agent]
    #[arg(long, global = true, env = "SIFAKA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Global {
    /// The configuration file that is meant: named, or the first of the usual ones that is there.
    pub(crate) fn config_file(&self) -> PathBuf {
        const USUAL: [&str; 2] = ["/etc/lhsmd/agent", "/etc/sifaka/agent"];
        let usual = || USUAL.map(PathBuf::from).into_iter().find(|path| path.exists());
        self.config.clone().or_else(usual).unwrap_or_else(|| USUAL[0].into())
    }
}

/// The commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Copy files into the archive
    Archive(archive::ArchiveArgs),
    /// Free the blocks of archived files; they come back when anything touches them
    Release(release::ReleaseArgs),
    /// Bring released files back
    Restore(restore::RestoreArgs),
    /// Remove the archive copies of files; the files stay
    Remove(remove::RemoveArgs),
    /// Cancel what is queued or running
    Cancel(cancel::CancelArgs),
    /// Show the HSM state of files; without paths, how the agent is
    Status(status::StatusArgs),
    /// Set or clear flags of files, or their archive id
    Set(set::SetArgs),
    /// Make released files that name the archived objects of others
    Clone(clone::CloneArgs),
    /// Give files on Lustre other stripes, or put them into another pool
    Restripe(restripe::RestripeArgs),
    /// Show what there is of a file: its archived version, snapshots, older versions
    Versions(versions::VersionsArgs),
    /// Bring deleted files and older versions back, as released files
    Undelete(undelete::UndeleteArgs),
    /// Show the queue, or what has left it
    Actions(actions::ActionsArgs),
    /// Make released files for what an archive holds already
    Import(Box<import::ImportArgs>),
    /// Have the agent and its movers read their configuration again
    Reload(reload::ReloadArgs),
    /// Make a lost filesystem's files again, released, from the archive alone
    Rebuild(rebuild::RebuildArgs),
    /// Compare filesystem, queue and archive, and put right what does not fit
    Fsck(fsck::FsckArgs),
    /// Read an archive through and verify every chunk of it
    Scrub(scrub::ScrubArgs),
    /// Count what is in trees: kinds, sizes, ages, owners
    Walk(walk::WalkArgs),
    /// Copy a tree into another filesystem, or bring an earlier copy up to date
    Migrate(Box<migrate::MigrateArgs>),
    /// Keep a copy of a tree in another place up to date
    Replicate(Box<replicate::ReplicateArgs>),
    /// Compare two trees, by what is known of each file or by content
    Verify(Box<verify::VerifyArgs>),
    /// Keep mirrors of files on Lustre: add, bring up to date, compare, remove
    #[command(subcommand)]
    Mirror(mirror::MirrorCommand),
    /// Move files on Lustre from fuller OSTs to emptier ones; or with --archive, objects between an archive's roots
    Rebalance(rebalance::RebalanceArgs),
    /// Run the agent
    Agent(agent::AgentArgs),
    /// Run movers on this host for an agent on another
    MoverHost(mover_host::MoverHostArgs),
    /// Kill a host of movers that hangs (started by it)
    #[command(hide = true)]
    MoverHostWatchdog {
        /// The process to be watched
        parent: i32,
    },
    /// Show the hosts of movers, or drain one
    Hosts(hosts::HostsArgs),
    /// End the guard that keeps readers of released files waiting
    Guard(guard::GuardArgs),
    /// Run a mover (started by the agent)
    Mover(mover::MoverArgs),
    /// Look at configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Find out what this system can do, and what follows from it
    Doctor(doctor::DoctorArgs),
    /// Show archive, release and restore on a filesystem made for it
    Demo(demo::DemoArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Print or write the manual pages
    Man(man::ManArgs),
}

/// `sifaka config …`.
#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Check the agent's configuration and those of its movers
    Check(config_check::CheckArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::collections::BTreeSet;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    /// `docs/cli.md` has a heading ``## `sifaka NAME …` `` for every command that is shown, and for no other.
    #[test]
    fn the_documentation_names_every_command() {
        let text = include_str!("../../../docs/cli.md");
        let documented: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("## `sifaka ")?.split([' ', '`']).next()).collect();
        let command = Cli::command();
        let shown: BTreeSet<&str> =
            command.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name).collect();
        assert_eq!(documented, shown);
        for line in exit::HELP.lines().skip(1) {
            let (code, meaning) = line.trim().split_once(' ').unwrap();
            assert!(text.contains(&format!("| {code} | {} |", meaning.trim())), "exit code {code} is not documented");
        }
    }

    /// Every option of every command is in the documentation's section on that command.
    #[test]
    fn the_documentation_names_every_option() {
        let text = include_str!("../../../docs/cli.md");
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let heading = format!("## `sifaka {}", command.get_name());
            let section = text.split_once(&heading).unwrap().1;
            let section = section.split("\n## ").next().unwrap();
            for option in command.get_arguments().filter(|a| !a.is_hide_set()).filter_map(clap::Arg::get_long) {
                assert!(section.contains(&format!("--{option}")), "{heading}` lacks --{option}");
            }
        }
    }
}
