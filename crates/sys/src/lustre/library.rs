//! liblustreapi, loaded at run time: one binary runs with and without Lustre.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use libloading::os::unix::{Library as Loaded, RTLD_LOCAL, RTLD_NOW};

use super::abi;

/// The library's name: the same from Lustre 2.12 to 2.17.
const SONAME: &str = "liblustreapi.so.1";

/// `LLAPI_MSG_OFF`.
const SILENT: libc::c_int = 0;

/// Why there is no library to call, or no such function in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// There is no such library, or one that it needs is missing.
    #[error(
        "Lustre's client library {} cannot be loaded ({reason}): install the Lustre client's programs (package \
         lustre-client, or lustre-client-utils) of the version of the client's kernel modules",
        path.display()
    )]
    Absent {
        /// What was looked for.
        path: PathBuf,
        /// The dynamic linker's words.
        reason: String,
    },
    /// A function is missing that Lustre 2.12 and later have, or that this use needs.
    #[error(
        "Lustre's client library {} has no function {symbol}, which {purpose} needs: install a newer Lustre client \
         (2.12 or later)",
        path.display()
    )]
    TooOld {
        /// The library.
        path: PathBuf,
        /// The function.
        symbol: &'static str,
        /// For what it is needed.
        purpose: &'static str,
    },
}

impl From<LoadError> for io::Error {
    /// Of kind `Unsupported`: there is no error number to decide by.
    fn from(error: LoadError) -> Self {
        Self::new(io::ErrorKind::Unsupported, error)
    }
}

/// A table of functions that are looked up together.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident, $purpose:literal, { $($field:ident: $signature:ty = $symbol:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $table {
            $(pub(super) $field: $signature,)+
        }

        impl $table {
            fn look_up(library: &Loaded, path: &Path) -> Result<Self, LoadError> {
                Ok(Self {
                    $($field: {
                        // SAFETY: the type is the function's prototype in all versions from 2.12 on; a library that has
                        // Lustre's functions under other types is no liblustreapi.
                        let symbol = unsafe { library.get::<$signature>(concat!($symbol, "\0").as_bytes()) };
                        *symbol.map_err(|_| LoadError::TooOld {
                            path: path.to_owned(),
                            symbol: $symbol,
                            purpose: $purpose,
                        })?
                    },)+
                })
            }

            /// The functions' names, to compare with what a library exports.
            #[cfg(test)]
            const SYMBOLS: &[&str] = &[$($symbol),+];
        }
    };
}

functions!(
    /// What every use of HSM needs.
    Hsm, "HSM", {
        copytool_register: abi::CopytoolRegister = "llapi_hsm_copytool_register",
        copytool_unregister: abi::CopytoolUnregister = "llapi_hsm_copytool_unregister",
        copytool_get_fd: abi::CopytoolGetFd = "llapi_hsm_copytool_get_fd",
        copytool_recv: abi::CopytoolRecv = "llapi_hsm_copytool_recv",
        action_begin: abi::ActionBegin = "llapi_hsm_action_begin",
        action_get_dfid: abi::ActionGetDfid = "llapi_hsm_action_get_dfid",
        action_get_fd: abi::ActionGetFd = "llapi_hsm_action_get_fd",
        action_progress: abi::ActionProgress = "llapi_hsm_action_progress",
        action_end: abi::ActionEnd = "llapi_hsm_action_end",
        state_get: abi::StateGet = "llapi_hsm_state_get",
        state_set: abi::StateSet = "llapi_hsm_state_set",
        import: abi::Import = "llapi_hsm_import",
        request: abi::Request = "llapi_hsm_request",
        current_action: abi::CurrentAction = "llapi_hsm_current_action",
        fid2path: abi::Fid2Path = "llapi_fid2path",
        path2fid: abi::Path2Fid = "llapi_path2fid",
        get_mdt_index_by_fid: abi::GetMdtIndexByFid = "llapi_get_mdt_index_by_fid",
        get_data_version: abi::GetDataVersion = "llapi_get_data_version",
    }
);

/// The library; cheap to clone. It is never unloaded: its functions may be called until the process ends.
///
/// Its functions may be called from several threads at once: they keep what they know in the handles they are given,
/// and no handle here is used by two threads in a way the library writes to.
#[derive(Clone)]
pub struct Library {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    hsm: Hsm,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Library {
    /// The system's library, loaded once a process. A failure is not kept: the next call looks again.
    ///
    /// Turns off what the library prints on standard error: its errors come as return values.
    pub fn load() -> Result<Self, LoadError> {
        static LOADED: OnceLock<Library> = OnceLock::new();
        if let Some(library) = LOADED.get() {
            return Ok(library.clone());
        }
        let library = Self::load_from(Path::new(SONAME))?;
        Ok(LOADED.get_or_init(|| library).clone())
    }

    /// The library at `path`; a name without a slash is looked for where the dynamic linker looks.
    pub fn load_from(path: &Path) -> Result<Self, LoadError> {
        // SAFETY: liblustreapi's initialisers only set its own variables. Whoever names another file here names code
        // to run, as with any program.
        let loaded = unsafe { Loaded::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let loaded =
            loaded.map_err(|error| LoadError::Absent { path: path.to_owned(), reason: linker_s_words(&error) })?;
        let hsm = Hsm::look_up(&loaded, path)?;
        // SAFETY: the type is the function's prototype in all versions that have it.
        if let Ok(set_level) = unsafe { loaded.get::<abi::MsgSetLevel>(b"llapi_msg_set_level\0") } {
            // SAFETY: takes a number and sets a variable of the library.
            unsafe { set_level(SILENT) };
        }
        // Stays loaded: no function pointer ever dangles.
        std::mem::forget(loaded);
        Ok(Self { inner: Arc::new(Inner { path: path.to_owned(), hsm }) })
    }

    /// From where it was loaded.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    pub(super) fn hsm(&self) -> &Hsm {
        &self.inner.hsm
    }
}

/// What dlerror(3) said.
fn linker_s_words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_library_says_what_to_install() {
        let error = Library::load_from(Path::new("/nonexistent/liblustreapi.so.1")).unwrap_err();
        assert!(matches!(error, LoadError::Absent { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("/nonexistent/liblustreapi.so.1") && text.contains("lustre-client"), "{text}");
        assert!(text.contains("No such file"), "the linker's own words are missing: {text}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn a_library_without_lustre_s_functions_is_named_with_the_first_that_is_missing() {
        let error = Library::load_from(Path::new("libc.so.6")).unwrap_err();
        match error {
            LoadError::TooOld { symbol, .. } => assert_eq!(symbol, Hsm::SYMBOLS[0]),
            LoadError::Absent { .. } => panic!("{error}"),
        }
    }
}
