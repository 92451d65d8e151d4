//! What becomes visible in the bucket, and in which order: the object, then its manifest, and after both the acknowledgement.

use super::place::{self, Place, There};
use super::stage::{StagedContent, StagedObject, Table};
use super::sweep::abort_of;
use super::upload::Cut;
use crate::Bucket;
use crate::fault::Fault;
use bytes::Bytes;
use model::ObjectId;
use opendal::Buffer;
use std::sync::Arc;
use std::time::SystemTime;
use transfer::manifest::ReadAt as _;
use transfer::{OpenFile, Stored, TransferError};

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

/// Makes staged content an object. After an error nothing of it is left, unless it replaced something, or it took so long that it was given up.
pub(super) async fn publish(bucket: &Arc<Bucket>, staged: StagedObject) -> Result<Stored, TransferError> {
    let StagedObject { id, copied, content, manifest, repeated } = staged;
    let path = bucket.path(&bucket.layout().object(&id));
    let failed = |fault: Fault| fault.of_bucket().into_error("store", path.clone());
    let (place, begun) = match &content {
        StagedContent::Whole(place, ..) => (place.clone(), SystemTime::now()),
        StagedContent::Parts(sent) => (sent.place.clone(), sent.begun),
    };
    let (replaced, is_answered) = match content {
        StagedContent::Whole(place, bytes, memory) => {
            let put = place.put(bucket, bytes.into()).await;
            drop(memory);
            (put.map_err(failed)?, true)
        }
        StagedContent::Parts(sent) => (repeated, sent.complete().await.map_err(failed)?),
    };
    let mut own = vec![place.key.clone()];
    if let Some(table) = manifest {
        let described = place.beside(bucket.layout().manifest(&id));
        own.push(described.key.clone());
        if let Err(error) = put_manifest(bucket, &described, table).await {
            if !replaced {
                take_back(bucket, [&place, &described]).await;
            }
            return Err(error);
        }
    }
    if repeated || replaced {
        remove_older_forms(bucket, &id, &own).await;
    }
    if (repeated || replaced) && is_answered {
        abort_older_uploads(bucket, &id, begun).await;
    }
    Ok(Stored { id, bytes: copied.bytes, digest: copied.digest })
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
async fn remove_older_forms(bucket: &Bucket, id: &ObjectId, own: &[String]) {
    let layout = bucket.layout();
    let all = layout.other_forms(id).chain([id.clone()]).flat_map(|id| layout.all(&id));
    let old: Vec<String> = all.filter(|key| !own.contains(key)).collect();
    let path = bucket.path(&bucket.layout().object(id));
    if let Err(fault) = bucket.remove(&old).await {
        tracing::warn!(object = %path.display(), error = fault.why(), "cannot remove older forms of an object");
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
