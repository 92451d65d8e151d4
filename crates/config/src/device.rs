//! What the agent manages: the text of `client_device`, taken apart.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// Lustre's own limit on the length of a filesystem's name (`LUSTRE_MAXFSNAME`).
const FSNAME_LENGTH_LIMIT: usize = 8;

/// The filesystem an agent serves. Parsed from and displayed as the text of `client_device`; two texts that mean
/// the same device compare equal (`@tcp0` is `@tcp`, a host without a network is on `tcp`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientDevice {
    /// `nid[,nid][:nid[,nid]]:/fsname`.
    Lustre {
        /// One element for each MGS node that may serve, in the order to try them: the NIDs of that node.
        mgs_nids: Vec<Vec<String>>,
        /// The filesystem's name, without its slash.
        fsname: String,
    },
    /// A directory of a local filesystem, absolute.
    Local(PathBuf),
}

/// Why a text is not a client device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The text is empty.
    #[error("the device is empty")]
    Empty,
    /// Neither `nid:/fsname` nor an absolute path.
    #[error("\"{0}\" is neither an absolute path nor of the form mgsnid[,nid][:mgsnid]:/fsname")]
    Form(String),
    /// The part after `:/` cannot be a filesystem's name.
    #[error("\"{0}\" is not the name of a Lustre filesystem: 1 to 8 letters, digits, `_` or `-`")]
    FsName(String),
    /// One of the parts before `:/` cannot be a NID.
    #[error("\"{0}\" is not a NID such as 10.0.2.15@tcp")]
    Nid(String),
    /// A local path that leaves its own directory or holds a NUL.
    #[error("the path \"{0}\" holds `..` or a NUL")]
    Path(String),
}

impl FromStr for ClientDevice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        if text.is_empty() {
            return Err(DeviceError::Empty);
        }
        if text.starts_with('/') {
            let path = Path::new(text);
            if text.contains('\0') || path.components().any(|part| part == Component::ParentDir) {
                return Err(DeviceError::Path(escaped(text)));
            }
            return Ok(Self::Local(path.components().collect()));
        }
        let (nodes, fsname) = text.split_once(":/").ok_or_else(|| DeviceError::Form(escaped(text)))?;
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if fsname.is_empty() || fsname.len() > FSNAME_LENGTH_LIMIT || !fsname.chars().all(named) {
            return Err(DeviceError::FsName(escaped(fsname)));
        }
        let node = |node: &str| node.split(',').map(nid).collect::<Result<Vec<_>, _>>();
        let mgs_nids = nodes.split(':').map(node).collect::<Result<_, _>>()?;
        Ok(Self::Lustre { mgs_nids, fsname: fsname.to_owned() })
    }
}

fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}

/// A NID in its canonical form: with its network, and network number 0 left out, as LNet prints it.
fn nid(text: &str) -> Result<String, DeviceError> {
    let bad = || DeviceError::Nid(escaped(text));
    let (host, network) = text.split_once('@').unwrap_or((text, "tcp"));
    let hostname = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !host.chars().all(hostname) {
        return Err(bad());
    }
    if !network.starts_with(|c: char| c.is_ascii_lowercase()) || !network.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(bad());
    }
    // `tcp0` and `o2ib0` end in a number that is zero; `tcp10` in one that is not.
    let network = match network.strip_suffix('0') {
        Some(kind) if !kind.ends_with(|c: char| c.is_ascii_digit()) => kind,
        _ => network,
    };
    Ok(format!("{host}@{network}"))
}

impl fmt::Display for ClientDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Lustre { mgs_nids, fsname } => {
                for (index, nids) in mgs_nids.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ":" };
                    write!(f, "{separator}{}", nids.join(","))?;
                }
                write!(f, ":/{fsname}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ClientDevice;

    fn lustre(nodes: &[&[&str]], fsname: &str) -> ClientDevice {
        let mgs_nids = nodes.iter().map(|nids| nids.iter().map(|nid| (*nid).to_owned()).collect()).collect();
        ClientDevice::Lustre { mgs_nids, fsname: fsname.into() }
    }

    #[test]
    fn lustre_devices() {
        assert_eq!("10.0.2.15@tcp:/lustre".parse(), Ok(lustre(&[&["10.0.2.15@tcp"]], "lustre")));
        assert_eq!("10.0.2.15@tcp0:/lustre".parse(), Ok(lustre(&[&["10.0.2.15@tcp"]], "lustre")));
        assert_eq!(
            "a@tcp,b@o2ib0:c@tcp10:/scratch".parse(),
            Ok(lustre(&[&["a@tcp", "b@o2ib"], &["c@tcp10"]], "scratch"))
        );
        assert_eq!("mgs:/x".parse(), Ok(lustre(&[&["mgs@tcp"]], "x")));
    }

    #[test]
    fn local_devices() {
        assert_eq!("/srv//data/".parse(), Ok(ClientDevice::Local("/srv/data".into())));
        assert_eq!("/".parse(), Ok(ClientDevice::Local("/".into())));
    }

    #[test]
    fn displays_canonically() {
        for (text, shown) in
            [("a@tcp0,b@o2ib:c@tcp:/fs", "a@tcp,b@o2ib:c@tcp:/fs"), ("/srv/", "/srv"), ("mgs:/fs", "mgs@tcp:/fs")]
        {
            let device: ClientDevice = text.parse().unwrap();
            assert_eq!(device.to_string(), shown);
            assert_eq!(shown.parse(), Ok(device));
        }
    }

    #[test]
    fn refusals_say_which_part_is_wrong() {
        for (text, message) in [
            ("", "the device is empty"),
            ("lustre", r#""lustre" is neither an absolute path nor of the form mgsnid[,nid][:mgsnid]:/fsname"#),
            ("./x", r#""./x" is neither an absolute path nor of the form mgsnid[,nid][:mgsnid]:/fsname"#),
            ("a@tcp:/", r#""" is not the name of a Lustre filesystem: 1 to 8 letters, digits, `_` or `-`"#),
            ("a@tcp:/a/b", r#""a/b" is not the name of a Lustre filesystem: 1 to 8 letters, digits, `_` or `-`"#),
            (
                "a@tcp:/toolongname",
                r#""toolongname" is not the name of a Lustre filesystem: 1 to 8 letters, digits, `_` or `-`"#,
            ),
            (":/fs", r#""" is not a NID such as 10.0.2.15@tcp"#),
            ("a@:/fs", r#""a@" is not a NID such as 10.0.2.15@tcp"#),
            ("a@tcp,:/fs", r#""" is not a NID such as 10.0.2.15@tcp"#),
            ("a b@tcp:/fs", r#""a b@tcp" is not a NID such as 10.0.2.15@tcp"#),
            ("/srv/../etc", r#"the path "/srv/../etc" holds `..` or a NUL"#),
        ] {
            assert_eq!(text.parse::<ClientDevice>().unwrap_err().to_string(), message, "{text:?}");
        }
    }
}
