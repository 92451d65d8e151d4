//! What the agent tells a mover through its environment (Lemur's variables).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const CONNECTION: &str = "LHSMD_AGENT_CONNECTION";
const MOUNTPOINT: &str = "LHSMD_CLIENT_MOUNTPOINT";
const CONFIG_DIR: &str = "LHSMD_CONFIG_DIR";

/// Where the agent listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AgentAddress {
    /// A socket in the filesystem.
    Path(PathBuf),
    /// A name in Linux' abstract namespace, without the `@` it is written with.
    Abstract(OsString),
}

impl AgentAddress {
    /// Reads `/path`, `@name`, or either behind `unix:`. `None` when nothing is left to connect to.
    #[must_use]
    pub fn parse(text: &OsStr) -> Option<Self> {
        let bytes = text.as_bytes();
        let bytes = bytes.strip_prefix(b"unix:").unwrap_or(bytes);
        match bytes.strip_prefix(b"@") {
            _ if bytes.contains(&0) => None,
            Some(b"") => None,
            Some(name) => Some(Self::Abstract(OsString::from_vec(name.to_vec()))),
            None if bytes.is_empty() => None,
            None => Some(Self::Path(OsStr::from_bytes(bytes).into())),
        }
    }

    /// The form that `connect` takes: a path, or a NUL and the abstract name.
    pub(crate) fn socket_path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Abstract(name) => {
                let bytes = [b"\0", name.as_bytes()].concat();
                OsString::from_vec(bytes).into()
            }
        }
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{}", name.display()),
        }
    }
}

/// What the agent gave this mover.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Environment {
    /// `LHSMD_AGENT_CONNECTION`.
    pub agent: AgentAddress,
    /// `LHSMD_CLIENT_MOUNTPOINT`: the mover's own view of the filesystem.
    pub client_mountpoint: PathBuf,
    /// `LHSMD_CONFIG_DIR`: where the agent's configuration and the movers' lie.
    pub config_dir: PathBuf,
}

/// Why there is no environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// Not set, or empty.
    #[error(
        "the environment variable {0} is not set: a mover is started by the agent, which sets it; to run one by hand, \
         set LHSMD_AGENT_CONNECTION, LHSMD_CLIENT_MOUNTPOINT and LHSMD_CONFIG_DIR as the agent does"
    )]
    Missing(&'static str),
    /// Set to something that is no address.
    #[error(
        "LHSMD_AGENT_CONNECTION is {0:?}, which is no address: the agent sets it to a socket's path, or to @ and an \
         abstract socket's name"
    )]
    Address(OsString),
}

impl Environment {
    /// From the process's environment.
    ///
    /// # Errors
    /// A variable is not set, or the address is none.
    pub fn from_env() -> Result<Self, EnvironmentError> {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, EnvironmentError> {
        let get = |name| lookup(name).filter(|v| !v.is_empty()).ok_or(EnvironmentError::Missing(name));
        let connection = get(CONNECTION)?;
        Ok(Self {
            agent: AgentAddress::parse(&connection).ok_or(EnvironmentError::Address(connection))?,
            client_mountpoint: get(MOUNTPOINT)?.into(),
            config_dir: get(CONFIG_DIR)?.into(),
        })
    }

    /// The configuration file of the mover that was started as `program` (its `argv[0]`): of that name, without
    /// directories, in the configuration directory.
    #[must_use]
    pub fn config_path(&self, program: impl AsRef<Path>) -> PathBuf {
        let program = program.as_ref();
        self.config_dir.join(program.file_name().unwrap_or(program.as_os_str()))
    }

    /// The file that an action's path names: relative paths are relative to the client mountpoint.
    #[must_use]
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.client_mountpoint.join(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        Environment::from_lookup(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
    }

    #[test]
    fn addresses_are_paths_or_abstract_names() {
        let parse = |text: &str| AgentAddress::parse(text.as_ref());
        assert_eq!(parse("/run/a.sock"), Some(AgentAddress::Path("/run/a.sock".into())));
        assert_eq!(parse("unix:/run/a.sock"), Some(AgentAddress::Path("/run/a.sock".into())));
        assert_eq!(parse("@lhsmd-7"), Some(AgentAddress::Abstract("lhsmd-7".into())));
        assert_eq!(parse("unix:@lhsmd-7"), Some(AgentAddress::Abstract("lhsmd-7".into())));
        for none in ["", "@", "unix:", "unix:@", "a\0b"] {
            assert_eq!(parse(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_missing_variable_is_named() {
        let all = [(CONNECTION, "@a"), (MOUNTPOINT, "/mnt/m"), (CONFIG_DIR, "/etc/lhsmd")];
        for (missing, _) in all {
            let some: Vec<_> = all.into_iter().filter(|(name, _)| *name != missing).collect();
            let error = environment(&some).unwrap_err();
            assert_eq!(error, EnvironmentError::Missing(missing));
            assert!(error.to_string().contains("started by the agent"), "{error}");
        }
        assert_eq!(
            environment(&[(CONNECTION, "@"), (MOUNTPOINT, "/m"), (CONFIG_DIR, "/c")]),
            Err(EnvironmentError::Address("@".into()))
        );
    }

    #[test]
    fn paths_are_under_what_the_agent_gave() {
        let env = environment(&[(CONNECTION, "@a"), (MOUNTPOINT, "/mnt/m"), (CONFIG_DIR, "/etc/lhsmd")]).unwrap();
        assert_eq!(env.config_path("/usr/bin/lhsm-plugin-posix"), Path::new("/etc/lhsmd/lhsm-plugin-posix"));
        assert_eq!(env.resolve(".lustre/fid/x"), Path::new("/mnt/m/.lustre/fid/x"));
        assert_eq!(env.resolve("/proc/7/fd/3"), Path::new("/proc/7/fd/3"));
    }
}
