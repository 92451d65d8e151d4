//! The library's one descriptor of a filesystem's root.
//!
//! Since 2.16 it keeps the root of the filesystem that was asked for last open, and a call for another one closes it while calls for the first may be
//! about to use its number: a request would go to a stranger's files. So calls for one filesystem run together, and those for
//! another one wait until they have returned.

use std::ffi::{CStr, CString};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct Users {
    mount: Option<CString>,
    count: usize,
}

static USERS: Mutex<Users> = Mutex::new(Users { mount: None, count: 0 });
static FREE: Condvar = Condvar::new();

/// A call that uses the root of a filesystem, while it runs.
#[derive(Debug)]
pub(super) struct OneRoot(());

impl OneRoot {
    /// Waits until nobody uses another one. A filesystem that goes by two paths counts as two.
    pub(super) fn enter(mount: &CStr) -> Self {
        let mut users = users();
        while users.count > 0 && users.mount.as_deref() != Some(mount) {
            users = FREE.wait(users).unwrap_or_else(PoisonError::into_inner);
        }
        if users.count == 0 {
            users.mount = Some(mount.to_owned());
        }
        users.count += 1;
        Self(())
    }
}

impl Drop for OneRoot {
    fn drop(&mut self) {
        let mut users = users();
        users.count -= 1;
        if users.count == 0 {
            FREE.notify_all();
        }
    }
}

fn users() -> MutexGuard<'static, Users> {
    USERS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn calls_for_one_filesystem_run_together_and_never_with_those_for_another() {
        let [inside_a, inside_b] = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let first = OneRoot::enter(c"/a");
        drop(OneRoot::enter(c"/a"));
        std::thread::scope(|scope| {
            for (mount, mine, other) in [(c"/a", &inside_a, &inside_b), (c"/b", &inside_b, &inside_a)] {
                for _ in 0..4 {
                    scope.spawn(move || {
                        for _ in 0..1000 {
                            let _here = OneRoot::enter(mount);
                            mine.fetch_add(1, Ordering::SeqCst);
                            assert_eq!(other.load(Ordering::SeqCst), 0);
                            mine.fetch_sub(1, Ordering::SeqCst);
                        }
                    });
                }
            }
            drop(first);
        });
    }
}
