//! Other stripes for a file: a copy with the layout wanted becomes the file's content. Nobody is kept waiting, and until then nothing of the
//! file is changed.

use crate::guarded::{Access, copy, mirrors, open};
use crate::outcome::{Outcome, Trouble};
use crate::shape::Mirror;
use crate::work::Work;
use std::path::Path;
use sys::lustre::Layout;

/// As many stripes as there are OSTs.
pub const ALL_OSTS: u32 = u32::MAX;

/// The layout wanted. What is not said stays as it is, in a file with a plain layout.
#[derive(Debug, Clone, Default)]
pub struct Striping {
    /// Over how many OSTs; [`ALL_OSTS`] for all.
    pub count: Option<u32>,
    /// Bytes a stripe.
    pub size: Option<u64>,
    /// The pool of OSTs.
    pub pool: Option<String>,
}

/// Restripes a file that is not released. One that is archived has to be archived again then, before Lustre releases it.
pub fn restripe(work: &Work, path: &Path, striping: &Striping) -> Result<Outcome, Trouble> {
    work.try_until_free(path, || {
        let present = mirrors(work, open(path, Access::Read)?, path)?;
        let [mirror] = present.as_slice() else {
            return Ok(Outcome::Unsuited("has mirrors, which are not restriped"));
        };
        let layout = layout(work, mirror, striping).map_err(Trouble::io("make a layout for", path))?;
        copy(work, path, &layout)?.take_its_place(work, path)
    })
}

fn layout(work: &Work, present: &Mirror, striping: &Striping) -> std::io::Result<Layout> {
    let plain = match present.components.as_slice() {
        [one] => Some(one),
        _ => None,
    };
    let mut wanted = Layout::new(work.library())?;
    let stripes = plain.and_then(|plain| u32::try_from(plain.osts.len()).ok()).filter(|count| *count > 0);
    match striping.count.or(stripes) {
        Some(ALL_OSTS) => wanted.set_stripe_on_all()?,
        Some(count) => wanted.set_stripe_count(count)?,
        None => {}
    }
    if let Some(size) = striping.size.or(plain.map(|plain| plain.stripe_size)) {
        wanted.set_stripe_size(size)?;
    }
    let pool = striping.pool.as_deref().or(plain.map(|plain| plain.pool.as_str()));
    if let Some(pool) = pool.filter(|pool| !pool.is_empty()) {
        wanted.set_pool(pool)?;
    }
    Ok(wanted)
}
