//! Databases for comparing: on disk, so that memory does not grow with what is compared; gone when closed.
//!
//! SQLite makes them in `$SQLITE_TMPDIR`, `$TMPDIR`, `/var/tmp` or `/tmp`, unlinked at once: a crash leaves nothing. Nothing in them is worth a
//! sync. Some hundred bytes for each file or object.

use rusqlite::Connection;

/// Memory for pages, in KiB.
const CACHE_KIB: i64 = 64 << 10;

/// Opens an empty one with these tables.
pub(crate) fn open(tables: &str) -> Result<Connection, rusqlite::Error> {
    // The empty name is what asks for a temporary file.
    let db = Connection::open("")?;
    db.execute_batch(&format!(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; \
         PRAGMA temp_store = FILE; PRAGMA cache_size = -{CACHE_KIB};"
    ))?;
    db.execute_batch(tables)?;
    Ok(db)
}
