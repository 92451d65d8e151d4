//! Whether the MD5 that a service tells of an object says nothing of its content.
//!
//! The entity tag that S3 gives an object that was stored in one piece is the MD5 of its content, but for those encrypted with keys of KMS or of the
//! customer. Azure's append and page blobs are changed in place, and keep the MD5 that they once had. Only headers say that, and OpenDAL does not hand
//! them on.

use http::{HeaderMap, Request, Response};
use opendal::{Buffer, HttpBody, HttpTransport, HttpTransporter, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What was seen in the answers that came by.
#[derive(Debug, Clone, Default)]
pub(super) struct Sealed(Arc<AtomicBool>);

impl Sealed {
    pub(super) fn was_seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// A transport that looks at what comes by way of this one.
    pub(super) fn over(self, transport: HttpTransporter) -> HttpTransporter {
        HttpTransporter::new(Looking { sealed: self, transport })
    }
}

struct Looking {
    sealed: Sealed,
    transport: HttpTransporter,
}

impl HttpTransport for Looking {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        let response = self.transport.fetch(request).await?;
        if is_sealed(response.headers()) {
            self.sealed.0.store(true, Ordering::Relaxed);
        }
        Ok(response)
    }
}

fn is_sealed(headers: &HeaderMap) -> bool {
    let by_service = headers.get("x-amz-server-side-encryption");
    let kind = headers.get("x-ms-blob-type");
    by_service.is_some_and(|kind| kind != "AES256")
        || headers.contains_key("x-amz-server-side-encryption-customer-algorithm")
        || kind.is_some_and(|kind| kind != "BlockBlob")
}

/// The MD5 that an entity tag is, if it looks like one.
pub(super) fn md5_of(tag: &str) -> Option<[u8; 16]> {
    let digits = tag.trim_matches('"');
    let is_hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(digits, 16).ok().filter(|_| is_hex).map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_thirty_two_digits_are_an_md5() {
        let md5 = md5_of("\"d41d8cd98f00b204e9800998ecf8427e\"").unwrap();
        assert_eq!((md5[0], md5[15]), (0xd4, 0x7e));
        for other in [
            "",
            "\"d41d8cd98f00b204e9800998ecf8427e-3\"",
            "+41d8cd98f00b204e9800998ecf8427e",
            "0x8DC00000",
            "W/\"d41d\"",
        ] {
            assert_eq!(md5_of(other), None, "{other}");
        }
    }

    #[test]
    fn keys_of_kms_and_of_customers_seal_and_so_does_what_is_changed_in_place() {
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            is_sealed(&headers)
        };
        assert!(
            with("x-amz-server-side-encryption", "aws:kms") && with("x-amz-server-side-encryption", "aws:kms:dsse")
        );
        assert!(with("x-amz-server-side-encryption-customer-algorithm", "AES256"));
        assert!(with("x-ms-blob-type", "AppendBlob") && with("x-ms-blob-type", "PageBlob"));
        assert!(!with("x-ms-blob-type", "BlockBlob"));
        assert!(!with("x-amz-server-side-encryption", "AES256") && !is_sealed(&HeaderMap::new()));
    }
}
