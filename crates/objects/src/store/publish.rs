//! What becomes visible in the bucket, and in which order: the object, then its manifest, and after both the acknowledgement. Where an object is found by
//! its manifest alone, that comes first.

use super::paths::{self, Visible};
use super::place::{self, Place, There};
use super::stage::{StagedContent, StagedObject, Table};
use super::sweep::abort_of;
use super::upload::Cut;
use crate::fault::Fault;
use crate::{Bucket, Layout};
use bytes::Bytes;
use model::ObjectId;
use opendal::{Buffer, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use transfer::manifest::ReadAt as _;
use transfer::{GivenUp, OpenFile, Stored, StoredAt, TransferError};

/// How soon it is noticed that nobody wants it any more (P4).
const LOOK: Duration = Duration::from_millis(200);

/// Ends with a word in any case, also when the work panics or is dropped.
pub(super) struct Ending<T>(Option<Told<T>>);

/// Who is told.
type Told<T> = Box<dyn FnOnce(Result<T, TransferError>) + Send>;

impl<T> Ending<T> {
    pub(super) fn new(done: Told<T>) -> Self {
        Self(Some(done))
    }

    pub(super) fn tell(mut self, result: Result<T, TransferError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(Fault::strange("the work on it ended without a result").into_error("finish", "a request".into())));
        }
    }
}

/// Ends the work where it stands when it is given up.
pub(super) async fn unless<T>(
    given_up: GivenUp,
    work: impl Future<Output = Result<T, TransferError>>,
) -> Result<T, TransferError> {
    tokio::pin!(work);
    loop {
        match tokio::time::timeout(LOOK, &mut work).await {
            Ok(done) => return done,
            Err(_) if given_up() => return Err(TransferError::Cancelled),
            Err(_) => {}
        }
    }
}

/// Makes staged content an object. After an error nothing of it is left, unless it replaced something, or it took so long that it was given up.
pub(super) async fn publish(bucket: &Arc<Bucket>, staged: StagedObject) -> Result<Stored, TransferError> {
    let StagedObject { id, copied, content, mut manifest, visible, repeated } = staged;
    let layout = bucket.layout();
    let path = bucket.path(&layout.object(&id));
    let failed = |fault: Fault| fault.of_bucket().into_error("store", path.clone());
    let (place, begun) = match &content {
        StagedContent::Whole(place, ..) => (place.clone(), SystemTime::now()),
        StagedContent::Parts(sent) => (sent.place.clone(), sent.begun),
    };
    let mut described = place.beside(layout.manifest(&id));
    paths::describe(&mut described, visible.as_ref());
    if repeated && layout == Layout::Path {
        let left = paths::leave_old_path(bucket, &id, visible.as_ref(), &described.mark).await;
        tolerated(bucket, &id, left).map_err(failed)?;
    }
    let is_first = layout == Layout::Path && visible.is_some();
    let mark = place.mark.clone();
    if is_first && let Some(table) = manifest.take() {
        put_manifest(bucket, &described, table).await?;
    }
    let (key, replaced, is_answered) = match put_content(bucket, &id, content, visible.as_ref(), repeated).await {
        Ok(put) => put,
        Err(fault) => {
            // It may be there all the same. With a manifest it is found by whoever looks for remains.
            if is_first
                && !repeated
                && let Err(fault) = paths::remove(bucket, &id).await
            {
                let path = bucket.path(&described.key);
                tracing::warn!(manifest = %path.display(), error = fault.why(), "cannot remove what an attempt left");
            }
            return Err(failed(fault));
        }
    };
    let at = (layout == Layout::LemurAz).then(|| StoredAt { key: key.clone(), mark });
    let mut own = vec![key];
    if is_first {
        own.push(described.key.clone());
    } else if let Some(table) = manifest {
        own.push(described.key.clone());
        if let Err(error) = put_manifest(bucket, &described, table).await {
            if !replaced {
                take_back(bucket, [&place, &described]).await;
            }
            return Err(error);
        }
    }
    if repeated || replaced {
        remove_older_forms(bucket, &id, (&own, &described.mark)).await.map_err(failed)?;
    }
    if (repeated || replaced) && is_answered {
        abort_older_uploads(bucket, &id, begun).await;
    }
    Ok(Stored { id, bytes: copied.bytes, digest: copied.digest, at })
}

/// Where it was put, whether it may have replaced something, and whether the service said that it is done.
async fn put_content(
    bucket: &Bucket,
    id: &ObjectId,
    content: StagedContent,
    visible: Option<&Visible>,
    repeated: bool,
) -> Result<(String, bool, bool), Fault> {
    let has_ids = bucket.layout() == Layout::Path;
    let (mut place, bytes, _memory) = match content {
        StagedContent::Whole(place, bytes, memory) => (place, bytes, memory),
        StagedContent::Parts(sent) => {
            let key = sent.place.key.clone();
            if let Some(visible) = visible.filter(|visible| has_ids && repeated && visible.beside == key)
                && paths::was_brought(bucket, id, visible).await?
            {
                return Err(Fault::contended("what an earlier attempt stored is at its path now"));
            }
            return Ok((key, repeated, sent.complete().await?));
        }
    };
    let Some(visible) = visible else {
        let replaced = place.put(bucket, bytes.into()).await?;
        return Ok((place.key, replaced, true));
    };
    if has_ids {
        // Looked at, whatever the service thinks of conditions.
        paths::choose(bucket, &mut place, visible).await?;
    }
    let mut put = place.put(bucket, bytes.clone().into()).await;
    if place.key == visible.path && matches!(&put, Err(fault) if fault.told == ErrorKind::Conflict) {
        // Somebody else was faster.
        place.key.clone_from(&visible.beside);
        put = place.put(bucket, bytes.clone().into()).await;
    }
    if let Err(fault) = &put
        && has_ids
        && paths::is_no_place(fault)
    {
        let path = bucket.path(&place.key);
        tracing::warn!(object = %path.display(), error = fault.why(), "the service takes no object there; it is kept by its id");
        place.key = bucket.layout().object(id);
        put = place.put(bucket, bytes.into()).await;
    }
    Ok((place.key, put?, true))
}

async fn put_manifest(bucket: &Arc<Bucket>, place: &Place, table: Table) -> Result<(), TransferError> {
    match table {
        Table::Memory(whole) => put_bytes(bucket, place, whole.into_bytes()).await,
        Table::Disk(file) => put_file(bucket, place, file).await,
    }
}

/// A manifest, or a record, over whatever is there.
pub(super) async fn put_bytes(bucket: &Bucket, place: &Place, bytes: Bytes) -> Result<(), TransferError> {
    let put = place.put_over(bucket, Buffer::from(bytes)).await;
    put.map_err(|fault| fault.of_bucket().into_error("store the manifest", bucket.path(&place.key)))
}

/// A manifest that is too large for memory.
async fn put_file(bucket: &Arc<Bucket>, place: &Place, file: OpenFile) -> Result<(), TransferError> {
    let path = bucket.path(&place.key);
    let failed = |fault: Fault| fault.of_bucket().into_error("store the manifest", path.clone());
    let bytes = file.stamp()?.size;
    let cut = Cut::of(bytes, bucket, &path)?;
    // Over whatever is there, as a small one.
    let mut writer = place.begin(bucket, &There::Earlier(None), 1).map_err(|e| failed(Fault::new(&e)))?;
    let file = Arc::new(file);
    let sent = async {
        let mut offset = 0;
        while offset < bytes {
            let count = usize::try_from(cut.part_bytes.min(bytes - offset)).unwrap_or(0);
            let part = read_part(&file, offset, count).await?;
            offset += part.len() as u64;
            place::write_part(bucket, &mut writer, part).await.map_err(failed)?;
        }
        place::complete(bucket, (place, None), &mut writer, (bytes, 1)).await.map(drop).map_err(failed)
    };
    let sent = sent.await;
    if sent.is_err() {
        place::abort(bucket, &place.key, writer).await;
    }
    sent
}

async fn read_part(file: &Arc<OpenFile>, offset: u64, count: usize) -> Result<Buffer, TransferError> {
    let (file, path) = (file.clone(), file.path().to_owned());
    let read = tokio::task::spawn_blocking(move || {
        let mut part = vec![0; count];
        let read = file.read_full_at(&mut part, offset)?;
        if read == count { Ok(part) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    });
    let part = read.await.unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into()));
    part.map(Buffer::from).map_err(TransferError::io("read", path))
}

/// The object stays without its manifest: it is not one.
async fn take_back(bucket: &Bucket, places: [&Place; 2]) {
    for place in places {
        if let Err(fault) = place.take_back(bucket).await {
            let path = bucket.path(&place.key);
            tracing::warn!(object = %path.display(), error = fault.why(), "cannot remove an object whose manifest could not be stored");
        }
    }
}

/// An earlier attempt of the same archive may have chosen another encoding, or had a manifest.
async fn remove_older_forms(bucket: &Bucket, id: &ObjectId, (own, mark): (&[String], &str)) -> Result<(), Fault> {
    let layout = bucket.layout();
    let removed = if layout == Layout::Path {
        paths::remove_older(bucket, id, (own, mark)).await
    } else {
        let all = layout.other_forms(id).chain([id.clone()]).flat_map(|id| layout.all(&id));
        let old: Vec<String> = all.filter(|key| !own.contains(key)).collect();
        bucket.remove(&old).await
    };
    tolerated(bucket, id, removed)
}

/// What cannot be removed for now fails the attempt, and the next one does it. Where nothing may be removed at all, something may stay (`sifaka fsck` tells):
/// an archive for which that is so is of use all the same.
fn tolerated(bucket: &Bucket, id: &ObjectId, removed: Result<(), Fault>) -> Result<(), Fault> {
    match removed {
        Err(fault) if fault.is_refused() => {
            let path = bucket.path(&bucket.layout().object(id));
            tracing::warn!(object = %path.display(), error = fault.why(), "cannot remove what earlier attempts left of an object");
            Ok(())
        }
        removed => removed,
    }
}

/// Not those of this attempt: there may be one that has become the object.
async fn abort_older_uploads(bucket: &Bucket, id: &ObjectId, begun: SystemTime) {
    if let Some(uploads) = bucket.uploads()
        && let Err(fault) = abort_of((bucket, &uploads), id, begun).await
    {
        let path = bucket.path(&bucket.layout().object(id));
        tracing::debug!(object = %path.display(), error = fault.why(), "cannot look for unfinished uploads; the next sweep will");
    }
}
