//! S3's multipart uploads that were neither completed nor aborted: they are in no listing of objects, and are paid for.
//!
//! OpenDAL cannot list them: ListMultipartUploads and AbortMultipartUpload are made here. Of the other services Azure forgets uncommitted blocks after a week, Google unfinished uploads likewise; nobody can list either.

use crate::fault::{Fault, shown};
use crate::signed::{Ask, Signed, encoded};
use http::Method;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Asks for uploads in one bucket.
pub(crate) struct Uploads {
    requests: Arc<Signed>,
    /// Of the keys; with a slash at the end, or empty.
    root: String,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Unfinished {
    /// Whole, with the prefix of everything.
    pub(crate) key: String,
    upload_id: String,
    /// When it was begun, as a date of ISO 8601.
    #[serde(default)]
    initiated: String,
}

/// Where the next page of a listing begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Marker {
    key: String,
    upload_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Page {
    is_truncated: bool,
    next_key_marker: String,
    next_upload_id_marker: String,
    #[serde(rename = "Upload")]
    uploads: Vec<Unfinished>,
}

impl Uploads {
    pub(crate) fn new(requests: Arc<Signed>, prefix: &str) -> Self {
        Self { requests, root: if prefix.is_empty() { String::new() } else { format!("{prefix}/") } }
    }

    /// The prefix of everything, with a slash at its end.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// Visits uploads whose keys begin with `prefix`, below the prefix of everything, page by page.
    pub(crate) async fn each<F: Future<Output = Result<(), Fault>>>(
        &self,
        prefix: &str,
        mut visit: impl FnMut(Vec<Unfinished>) -> F,
    ) -> Result<(), Fault> {
        let mut marker = Marker::default();
        loop {
            let page = self.page(prefix, &marker).await?;
            let next = Marker { key: page.next_key_marker, upload_id: page.next_upload_id_marker };
            visit(page.uploads).await?;
            if !page.is_truncated {
                return Ok(());
            }
            if next == marker || next.key.is_empty() {
                return Err(Fault::strange("the list of unfinished uploads goes round in circles"));
            }
            marker = next;
        }
    }

    async fn page(&self, prefix: &str, marker: &Marker) -> Result<Page, Fault> {
        let mut query = String::from("uploads=&max-uploads=1000");
        let prefix = format!("{}{prefix}", self.root);
        let parameters =
            [("prefix", prefix.as_str()), ("key-marker", &marker.key), ("upload-id-marker", &marker.upload_id)];
        for (name, value) in parameters.into_iter().filter(|(_, value)| !value.is_empty()) {
            query.push_str(&format!("&{name}={}", encoded(value, false)));
        }
        let answer = self.requests.send(&Ask { query, ..Ask::default() }).await?;
        quick_xml::de::from_reader(answer.into_body().to_bytes().as_ref())
            .map_err(|e| Fault::strange(shown(&format!("a list of unfinished uploads makes no sense: {e}"))))
    }

    /// Aborts one. One that is not there any more counts as aborted.
    pub(crate) async fn abort(&self, upload: &Unfinished) -> Result<(), Fault> {
        let path = format!("/{}", encoded(&upload.key, true));
        let query = format!("uploadId={}", encoded(&upload.upload_id, false));
        match self.requests.send(&Ask { method: Method::DELETE, path, query, ..Ask::default() }).await {
            Err(fault) if !fault.is_missing() => Err(fault),
            _ => Ok(()),
        }
    }
}

impl Unfinished {
    /// Whether it was begun before that. One that does not say is taken for a new one.
    pub(crate) fn is_of_before(&self, time: SystemTime) -> bool {
        let begun = self.initiated.parse::<opendal::raw::Timestamp>().ok().map(SystemTime::from);
        begun.is_some_and(|begun| begun < time)
    }

    /// Whether it was begun so long ago. One that does not say is taken for a new one.
    pub(crate) fn is_older_than(&self, age: Duration) -> bool {
        let begun = self.initiated.parse::<opendal::raw::Timestamp>().ok().map(SystemTime::from);
        // One that was begun in the future is new, whatever the age: clocks differ.
        begun.is_some_and(|begun| SystemTime::now().duration_since(begun).unwrap_or_default() >= age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_garbage_is_an_error() {
        let text = "<?xml version=\"1.0\"?><ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Bucket>b</Bucket><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>\
            <NextUploadIdMarker>2~x</NextUploadIdMarker><Upload><Key>a b/c</Key><UploadId>2~y</UploadId>\
            <Initiated>2020-01-02T03:04:05.678Z</Initiated></Upload><Upload><Key>d</Key><UploadId>2~z</UploadId></Upload>\
            </ListMultipartUploadsResult>";
        let page: Page = quick_xml::de::from_str(text).unwrap();
        assert!(page.is_truncated && page.next_key_marker == "k" && page.next_upload_id_marker == "2~x");
        let [old, undated] = page.uploads.as_slice() else { panic!("{page:?}") };
        assert_eq!((old.key.as_str(), old.upload_id.as_str()), ("a b/c", "2~y"));
        assert!(old.is_older_than(Duration::from_secs(3600)) && !undated.is_older_than(Duration::ZERO));
        for garbage in ["", "<", "no xml", "<a><Upload/></a>", "<a><IsTruncated>perhaps</IsTruncated></a>"] {
            assert!(quick_xml::de::from_str::<Page>(garbage).is_err(), "{garbage}");
        }
        let none: Page = quick_xml::de::from_str("<a><IsTruncated>false</IsTruncated></a>").unwrap();
        assert!(none.uploads.is_empty());
    }
}
