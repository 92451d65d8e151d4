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

functions!(
    /// What a reader of changelogs needs.
    Changelog, "reading a changelog", {
        start: abi::ChangelogStart = "llapi_changelog_start",
        recv: abi::ChangelogRecv = "llapi_changelog_recv",
        free: abi::ChangelogFree = "llapi_changelog_free",
        fini: abi::ChangelogFini = "llapi_changelog_fini",
        get_fd: abi::ChangelogOnHandle = "llapi_changelog_get_fd",
        clear: abi::ChangelogClear = "llapi_changelog_clear",
        set_xflags: abi::ChangelogSetXflags = "llapi_changelog_set_xflags",
    }
);

functions!(
    /// What 2.12.0 has not: the reader does without.
    ChangelogBuffer, "looking into a changelog's buffer", {
        in_buf: abi::ChangelogOnHandle = "llapi_changelog_in_buf",
    }
);

functions!(
    /// What changes a file's layout under a lease.
    Leases, "changing a file's layout", {
        acquire: abi::LeaseAcquire = "llapi_lease_acquire",
        check: abi::OnFd = "llapi_lease_check",
        release: abi::OnFd = "llapi_lease_release",
        set: abi::LeaseSet = "llapi_lease_set",
        create_volatile: abi::CreateVolatile = "llapi_create_volatile_idx",
        file_flush: abi::OnFd = "llapi_file_flush",
        swap: abi::SwapLayouts = "llapi_fswap_layouts",
        swap_grouplock: abi::SwapLayoutsGrouplock = "llapi_fswap_layouts_grouplock",
        group_lock: abi::GroupLock = "llapi_group_lock",
        group_unlock: abi::GroupLock = "llapi_group_unlock",
    }
);

functions!(
    /// What makes layouts and files that have them.
    Layouts, "making layouts", {
        alloc: abi::LayoutAlloc = "llapi_layout_alloc",
        get_by_fd: abi::LayoutGetByFd = "llapi_layout_get_by_fd",
        free: abi::LayoutFree = "llapi_layout_free",
        stripe_count_set: abi::LayoutSet = "llapi_layout_stripe_count_set",
        stripe_size_set: abi::LayoutSet = "llapi_layout_stripe_size_set",
        pool_name_set: abi::LayoutPoolSet = "llapi_layout_pool_name_set",
        ost_index_set: abi::LayoutOstSet = "llapi_layout_ost_index_set",
        comp_extent_set: abi::LayoutSetExtent = "llapi_layout_comp_extent_set",
        file_open: abi::LayoutFileOpen = "llapi_layout_file_open",
    }
);

functions!(
    /// What tells a layout's components.
    LayoutReading, "reading layouts", {
        comp_use: abi::LayoutUse = "llapi_layout_comp_use",
        comp_id_get: abi::LayoutGet32 = "llapi_layout_comp_id_get",
        comp_flags_get: abi::LayoutGet32 = "llapi_layout_comp_flags_get",
        comp_extent_get: abi::LayoutGetExtent = "llapi_layout_comp_extent_get",
        mirror_id_get: abi::LayoutGet32 = "llapi_layout_mirror_id_get",
        stripe_count_get: abi::LayoutGet64 = "llapi_layout_stripe_count_get",
        stripe_size_get: abi::LayoutGet64 = "llapi_layout_stripe_size_get",
        ost_index_get: abi::LayoutGetOst = "llapi_layout_ost_index_get",
        pool_name_get: abi::LayoutGetPool = "llapi_layout_pool_name_get",
    }
);

functions!(
    /// What reads and writes single mirrors.
    Mirrors, "file-level replication", {
        set: abi::MirrorSet = "llapi_mirror_set",
        clear: abi::OnFd = "llapi_mirror_clear",
        read: abi::MirrorRead = "llapi_mirror_read",
        write: abi::MirrorWrite = "llapi_mirror_write",
        find_stale: abi::MirrorFindStale = "llapi_mirror_find_stale",
    }
);

functions!(
    /// What 2.12 has not: mirrors are read without knowing of their holes.
    MirrorHoles, "finding holes in mirrors", {
        data_seek: abi::MirrorDataSeek = "llapi_mirror_data_seek",
    }
);

functions!(
    /// What tells how full OSTs are.
    Targets, "fill levels of OSTs", {
        statfs: abi::OstStatfs = "llapi_obd_statfs",
        get_pool_members: abi::GetPoolMembers = "llapi_get_poolmembers",
    }
);

/// The library; cheap to clone. It is never unloaded: its functions may be called until the process ends.
///
/// Its functions may be called from several threads at once: they keep what they know in the handles they are given,
/// and no handle here is used by two threads in a way the library writes to. With one exception:
/// [`fid2path`](super::fid2path) and [`request`](super::request) share a descriptor of the root of the filesystem that was
/// asked for last; so while one runs, those for another filesystem wait. It stays open: a mount
/// point they were called for is busy until the process ends, and has to be detached (`MNT_DETACH`).
#[derive(Clone)]
pub struct Library {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    loaded: Loaded,
    hsm: Hsm,
    // Looked up when they are first used: an agent that only archives does without.
    changelog: Group<Changelog>,
    changelog_buffer: Group<ChangelogBuffer>,
    leases: Group<Leases>,
    layouts: Group<Layouts>,
    layout_reading: Group<LayoutReading>,
    mirrors: Group<Mirrors>,
    mirror_holes: Group<MirrorHoles>,
    targets: Group<Targets>,
}

type Group<T> = OnceLock<Result<T, LoadError>>;

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
        let loaded = unsafe { Loaded::open(Some(path), RTLD_NOW | RTLD_LOCAL | libc::RTLD_NODELETE) };
        let loaded =
            loaded.map_err(|error| LoadError::Absent { path: path.to_owned(), reason: linker_s_words(&error) })?;
        let hsm = Hsm::look_up(&loaded, path)?;
        // SAFETY: the type is the function's prototype in all versions that have it.
        if let Ok(set_level) = unsafe { loaded.get::<abi::MsgSetLevel>(b"llapi_msg_set_level\0") } {
            // SAFETY: takes a number and sets a variable of the library.
            unsafe { set_level(SILENT) };
        }
        let inner = Inner {
            path: path.to_owned(),
            loaded,
            hsm,
            changelog: OnceLock::new(),
            changelog_buffer: OnceLock::new(),
            leases: OnceLock::new(),
            layouts: OnceLock::new(),
            layout_reading: OnceLock::new(),
            mirrors: OnceLock::new(),
            mirror_holes: OnceLock::new(),
            targets: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// From where it was loaded.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    pub(super) fn hsm(&self) -> &Hsm {
        &self.inner.hsm
    }

    pub(super) fn changelog(&self) -> Result<&Changelog, LoadError> {
        self.group(&self.inner.changelog, Changelog::look_up)
    }

    /// `None` in a library that is too old for it.
    pub(super) fn changelog_buffer(&self) -> Option<&ChangelogBuffer> {
        self.group(&self.inner.changelog_buffer, ChangelogBuffer::look_up).ok()
    }

    pub(super) fn leases(&self) -> Result<&Leases, LoadError> {
        self.group(&self.inner.leases, Leases::look_up)
    }

    pub(super) fn layouts(&self) -> Result<&Layouts, LoadError> {
        self.group(&self.inner.layouts, Layouts::look_up)
    }

    pub(super) fn layout_reading(&self) -> Result<&LayoutReading, LoadError> {
        self.group(&self.inner.layout_reading, LayoutReading::look_up)
    }

    pub(super) fn mirrors(&self) -> Result<&Mirrors, LoadError> {
        self.group(&self.inner.mirrors, Mirrors::look_up)
    }

    /// `None` in a library that is too old for it.
    pub(super) fn mirror_holes(&self) -> Option<&MirrorHoles> {
        self.group(&self.inner.mirror_holes, MirrorHoles::look_up).ok()
    }

    pub(super) fn targets(&self) -> Result<&Targets, LoadError> {
        self.group(&self.inner.targets, Targets::look_up)
    }

    fn group<'a, T>(
        &'a self,
        group: &'a Group<T>,
        look_up: fn(&Loaded, &Path) -> Result<T, LoadError>,
    ) -> Result<&'a T, LoadError> {
        group.get_or_init(|| look_up(&self.inner.loaded, &self.inner.path)).as_ref().map_err(Clone::clone)
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
            LoadError::TooOld { symbol, .. } => assert_eq!(symbol, "llapi_hsm_copytool_register"),
            LoadError::Absent { .. } => panic!("{error}"),
        }
    }
}
