//! `thaw { … }`: how objects in cold storage classes are had thawed.

use super::{Scheme, misplaced};
use crate::reader::{At, Section};

/// How objects are thawed that lie in a class which cannot be read at once. `None` leaves it to the mover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Thaw {
    /// `days` (1 to 365): for how long S3 keeps the thawed copy.
    pub days: Option<u64>,
    /// `tier` ("standard"): how fast, and how dear.
    pub tier: ThawTier,
    /// `check_interval_s` (1 to 86400): how long after each look the next one is due.
    pub check_interval_s: Option<u64>,
    /// `azure_tier` ("hot"): where Azure puts thawed objects.
    pub azure_tier: AzureTier,
}

/// How fast a thaw is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ThawTier {
    /// `"standard"`.
    #[default]
    Standard,
    /// `"bulk"`: S3's slowest.
    Bulk,
    /// `"expedited"`.
    Expedited,
}

/// A tier of Azure that can be read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AzureTier {
    /// `"hot"`.
    #[default]
    Hot,
    /// `"cool"`.
    Cool,
    /// `"cold"`.
    Cold,
}

pub(super) fn read(mut section: Section<'_>, scheme: Option<Scheme>) -> Thaw {
    let days = section.optional_u64("days", 1..=365);
    let tiers = [("standard", ThawTier::Standard), ("bulk", ThawTier::Bulk), ("expedited", ThawTier::Expedited)];
    let tier = section.optional_choice("tier", &tiers);
    let interval = section.optional_u64("check_interval_s", 1..=86400);
    let places = [("hot", AzureTier::Hot), ("cool", AzureTier::Cool), ("cold", AzureTier::Cold)];
    let place = section.optional_choice("azure_tier", &places);
    if section.is_present() && scheme == Some(Scheme::Gcs) {
        let what = "`thaw` is not for gs:// archives: Google reads objects of every class at once";
        section.reader().problem(section.pos(), what, None);
    } else {
        let slowest = tier.as_ref().filter(|at| at.value == ThawTier::Bulk).map(|at| at.pos);
        let of_s3 = [("days", days.as_ref().map(|at| at.pos)), ("tier = \"bulk\"", slowest)];
        for (key, pos) in of_s3.into_iter().filter_map(|(key, pos)| Some((key, pos?))) {
            misplaced(&section, scheme, Scheme::S3, key, pos);
        }
        if let Some(At { pos, .. }) = &place {
            misplaced(&section, scheme, Scheme::Azure, "azure_tier", *pos);
        }
    }
    section.finish();
    Thaw {
        days: days.map(|at| at.value),
        tier: tier.map_or(ThawTier::default(), |at| at.value),
        check_interval_s: interval.map(|at| at.value),
        azure_tier: place.map_or(AzureTier::default(), |at| at.value),
    }
}
