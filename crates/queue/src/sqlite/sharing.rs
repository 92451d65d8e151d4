//! Rows of what is kept of objects: referrers, what files were, what waits for its removal.

use super::batch::Batch;
use super::fault::Fault;
use super::rows::Decoder;
use crate::tally::clamp;
use crate::{About, NewAction, ObjectRef, Removal, Retired, RetiredObject, Sharing, Standing};
use model::{ActionId, Digest, FileHandle, Timestamp};
use rusqlite::{Connection, Row, params};

pub(super) const SELECT_ABOUT: &str =
    "SELECT path, size, mode, uid, gid, mtime_s, mtime_ns, hash FROM about WHERE file = ?1";

pub(super) const SELECT_COPIES: &str =
    "SELECT archive_id, uuid, url FROM copy WHERE file = ?1 ORDER BY archive_id, uuid, url";

pub(super) const SELECT_SHARING: &str = "SELECT database, sequence, doubted FROM sharing WHERE one = 1";

pub(super) const SELECT_STANDING: &str = "SELECT \
    EXISTS (SELECT 1 FROM retired JOIN live ON live.id = retired.id WHERE retired.archive_id = ?1 AND retired.uuid = ?2 \
        AND retired.id <> ?3 AND live.not_before_ms > ?4), \
    (SELECT generation = (SELECT generation FROM sharing WHERE one = 1) FROM shared WHERE archive_id = ?1 AND uuid = ?2)";

pub(super) const SELECT_REFERRERS: &str =
    "SELECT file FROM referrer WHERE archive_id = ?1 AND uuid = ?2 AND file > ?3 ORDER BY file LIMIT ?4";

pub(super) const OF_OBJECT: &str = "retired.archive_id = ?1 AND retired.uuid = ?2 ORDER BY retired.id LIMIT ?3";
pub(super) const OF_RETIRED_FILE: &str = "retired.file = ?1 ORDER BY retired.id LIMIT ?2";
pub(super) const IN_PATHS: &str = "retired.path >= ?1 AND retired.path < ?2 AND (retired.path > ?1 OR retired.id > ?3) \
    ORDER BY retired.path, retired.id LIMIT ?4";

/// Rows of `retired` with their action's start.
pub(super) fn retired_where(rest: &str) -> String {
    format!(
        "SELECT retired.path, retired.size, retired.mode, retired.uid, retired.gid, retired.mtime_s, retired.mtime_ns, \
         retired.hash, retired.id, retired.archive_id, retired.uuid, retired.url, retired.replaced, retired.file, \
         retired.retired_ms, live.not_before_ms FROM retired JOIN live ON live.id = retired.id WHERE {rest}"
    )
}

impl Batch<'_> {
    pub(super) fn describe(&self, file: &FileHandle, about: &About) -> Result<(), Fault> {
        self.run(
            "INSERT OR REPLACE INTO about (file, path, size, mode, uid, gid, mtime_s, mtime_ns, hash) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                file.to_bytes(),
                about.path,
                about.size.cast_signed(),
                about.mode,
                about.uid,
                about.gid,
                about.mtime.seconds,
                about.mtime.nanos,
                about.hash.as_ref().map(Digest::as_bytes),
            ],
        )
    }

    pub(super) fn set_copies(&self, file: &FileHandle, copies: &[ObjectRef]) -> Result<(), Fault> {
        self.run("DELETE FROM copy WHERE file = ?1", params![file.to_bytes()])?;
        for object in copies {
            self.run(
                "INSERT OR REPLACE INTO copy (file, archive_id, uuid, url) VALUES (?1, ?2, ?3, ?4)",
                params![file.to_bytes(), object.archive_id, object.uuid, object.url],
            )?;
        }
        Ok(())
    }

    pub(super) fn retire(&self, id: ActionId, removal: &NewAction, retired: &Retired) -> Result<(), Fault> {
        let about = &retired.about;
        self.run(
            "INSERT INTO retired (id, archive_id, uuid, url, replaced, file, retired_ms, path, size, mode, uid, gid, \
             mtime_s, mtime_ns, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            params![
                id.0.cast_signed(),
                removal.archive_id,
                removal.identity.uuid,
                removal.identity.url,
                retired.replaced,
                retired.file.to_bytes(),
                clamp(retired.retired_ms).cast_signed(),
                about.path,
                about.size.cast_signed(),
                about.mode,
                about.uid,
                about.gid,
                about.mtime.seconds,
                about.mtime.nanos,
                about.hash.as_ref().map(Digest::as_bytes),
            ],
        )
    }

    pub(super) fn share(&self, object: &ObjectRef, complete: bool, files: &[FileHandle]) -> Result<(), Fault> {
        self.run(
            "INSERT INTO shared (archive_id, uuid, generation) VALUES \
             (?1, ?2, CASE WHEN ?3 THEN (SELECT generation FROM sharing WHERE one = 1) ELSE 0 END) \
             ON CONFLICT DO NOTHING",
            params![object.archive_id, object.uuid, complete],
        )?;
        for file in files {
            self.run(
                "INSERT INTO referrer (archive_id, uuid, file) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                params![object.archive_id, object.uuid, file.to_bytes()],
            )?;
        }
        self.run("UPDATE sharing SET sequence = sequence + 1 WHERE one = 1", [])
    }

    pub(super) fn forget_referrer(&self, archive_id: u32, uuid: &str, file: &FileHandle) -> Result<(), Fault> {
        self.run(
            "DELETE FROM referrer WHERE archive_id = ?1 AND uuid = ?2 AND file = ?3",
            params![archive_id, uuid, file.to_bytes()],
        )
    }

    pub(super) fn forget_shared(&self, archive_id: u32, uuid: &str) -> Result<(), Fault> {
        self.run("DELETE FROM referrer WHERE archive_id = ?1 AND uuid = ?2", params![archive_id, uuid])?;
        self.run("DELETE FROM shared WHERE archive_id = ?1 AND uuid = ?2", params![archive_id, uuid])
    }

    pub(super) fn doubt(&self, last_id: u64) -> Result<(), Fault> {
        self.run(
            "UPDATE sharing SET database = randomblob(16), generation = generation + 1, doubted = ?1 WHERE one = 1",
            [clamp(last_id).cast_signed()],
        )?;
        self.run("UPDATE stamp SET archive_id = NULL, uuid = NULL, url = NULL", [])?;
        self.run("DELETE FROM copy", [])?;
        self.run("DELETE FROM orphan", [])
    }
}

/// In one transaction, that all is of one moment and the log is looked into once.
pub(super) fn standing(db: &mut Connection, removals: &[Removal<'_>], now_ms: u64) -> Result<Vec<Standing>, Fault> {
    let now_ms = clamp(now_ms).cast_signed();
    let tx = db.transaction()?;
    let mut select = tx.prepare_cached(SELECT_STANDING)?;
    let mut look = |r: &Removal<'_>| {
        let params = params![r.archive_id, r.uuid, clamp(r.id.0).cast_signed(), now_ms];
        Ok(select.query_row(params, |row| Ok(Standing { waits: row.get(0)?, shared: row.get(1)? }))?)
    };
    removals.iter().map(&mut look).collect()
}

pub(super) fn about(row: &Row<'_>, file: &FileHandle) -> Result<About, Fault> {
    decode_about(&Decoder::new(row, &format_args!("description of {file}")))
}

/// Columns 0 to 7: path, size, mode, uid, gid, mtime_s, mtime_ns, hash.
fn decode_about(d: &Decoder<'_, '_>) -> Result<About, Fault> {
    Ok(About {
        path: d.get(0)?,
        size: d.bits(1)?,
        mode: d.number(2)?,
        uid: d.number(3)?,
        gid: d.number(4)?,
        mtime: Timestamp { seconds: d.get(5)?, nanos: d.nanos(6)? },
        hash: d.digest(7)?,
    })
}

pub(super) fn copy(row: &Row<'_>) -> Result<ObjectRef, Fault> {
    let d = Decoder::new(row, &"further copy");
    Ok(ObjectRef { archive_id: d.number(0)?, uuid: d.get(1)?, url: d.get(2)? })
}

pub(super) fn sharing(row: &Row<'_>) -> Result<Sharing, Fault> {
    let d = Decoder::new(row, &"sharing");
    let database: Vec<u8> = d.get(0)?;
    let database = database.try_into().map_err(|_| d.damage("its database has no id of 16 bytes"))?;
    Ok(Sharing { database, sequence: d.number(1)?, doubted: ActionId(d.number(2)?) })
}

pub(super) fn referrer(row: &Row<'_>) -> Result<FileHandle, Fault> {
    let d = Decoder::new(row, &"referrer");
    d.handle(0)?.ok_or_else(|| d.damage("it names no file"))
}

pub(super) fn retired(row: &Row<'_>) -> Result<RetiredObject, Fault> {
    let id: i64 = row.get(8)?;
    let name = format_args!("retired object of action {id}");
    let d = Decoder::new(row, &name);
    let file = d.handle(13)?.ok_or_else(|| d.damage("it names no file"))?;
    Ok(RetiredObject {
        id: ActionId(d.number(8)?),
        object: ObjectRef { archive_id: d.number(9)?, uuid: d.get(10)?, url: d.get(11)? },
        retired: Retired { replaced: d.get(12)?, file, about: decode_about(&d)?, retired_ms: d.number(14)? },
        until_ms: d.number(15)?,
    })
}
