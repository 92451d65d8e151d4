//! Which agent leads: a key that its holder writes again and again, and others take when it was not written for too long by their own clocks.

use super::bucket::{Bucket, Kept};
use super::{NatsError, now, sleep_until};
use crate::Time;
use proto::cluster::Leader;
use std::time::Duration;
use tokio::sync::watch;

/// The lead, or the wish for it.
pub(crate) struct Lead {
    bucket: Bucket,
    instance: u128,
    host: String,
    ttl: Duration,
    /// Epochs up to this one are known to have been.
    floor: u64,
    /// The value of another, and since when it is not changed.
    seen: Option<(u64, Time)>,
}

/// The lead, taken.
#[derive(Clone, Debug)]
pub(crate) struct Led {
    pub(crate) epoch: u64,
    /// Of the key.
    pub(crate) revision: u64,
    /// Until when it is valid unless it is written again.
    pub(crate) until: Time,
}

impl Lead {
    pub(crate) fn new(bucket: Bucket, instance: u128, host: String, ttl: Duration) -> Self {
        Self { bucket, instance, host, ttl, floor: 0, seen: None }
    }

    /// Epochs up to this one have been.
    pub(crate) fn above(&mut self, epoch: u64) {
        self.floor = self.floor.max(epoch);
    }

    /// How long a lead is valid for its holder: so much less than for those who would take it, that clocks and the way to the servers do not matter.
    fn valid(&self) -> Duration {
        self.ttl * 2 / 3
    }

    /// How often the key is written, or looked at.
    fn pause(&self) -> Duration {
        self.ttl / 6
    }

    fn value(&self, epoch: u64, ttl: Duration) -> Vec<u8> {
        let ttl_ms = u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
        Leader { epoch, instance: self.instance, host: self.host.clone(), ttl_ms }.encode()
    }

    /// Waits until it has the lead. Tells `standby` who has it meanwhile.
    pub(crate) async fn take(&mut self, standby: impl Fn(Option<String>)) -> Led {
        let mut told = false;
        loop {
            match self.try_take(&standby).await {
                Ok(Some(led)) => return led,
                Ok(None) => told = false,
                Err(error) if told => tracing::debug!(%error, "cannot find out who leads"),
                Err(error) => {
                    tracing::warn!(%error, "cannot find out who leads: trying again");
                    standby(None);
                    told = true;
                }
            }
            tokio::time::sleep(self.pause().min(Duration::from_secs(2))).await;
        }
    }

    async fn try_take(&mut self, standby: &impl Fn(Option<String>)) -> Result<Option<Led>, NatsError> {
        let kept = self.bucket.leader().await?;
        let leader = kept.as_ref().and_then(|kept| Leader::decode(&kept.value).ok());
        let revision = kept.as_ref().map_or(0, |kept| kept.revision);
        if let Some(leader) = &leader {
            self.above(leader.epoch);
            let ttl = Duration::from_millis(leader.ttl_ms.into()).max(if leader.ttl_ms == 0 {
                Duration::ZERO
            } else {
                self.ttl
            });
            let since = match self.seen {
                Some((seen, since)) if seen == revision => since,
                _ => now(),
            };
            self.seen = Some((revision, since));
            if now().since(since) < ttl {
                standby(Some(leader.host.clone()));
                return Ok(None);
            }
            tracing::info!(host = leader.host, epoch = leader.epoch, "the agent that led is gone: taking the lead");
        }
        // At least the revision: if the bucket was made anew, its counter has, too, and hosts tell what they know.
        let epoch = (self.floor + 1).max(revision + 1);
        let asked = now();
        let Some(revision) = self.bucket.lead(revision, self.value(epoch, self.ttl)).await? else { return Ok(None) };
        self.above(epoch);
        self.seen = None;
        tracing::info!(epoch, "this agent leads");
        Ok(Some(Led { epoch, revision, until: asked + self.valid() }))
    }

    /// Keeps the lead: writes until when it is valid to `until`, and ends when it is lost, or was not written in time.
    pub(crate) async fn keep(&self, mut led: Led, until: &watch::Sender<Time>) {
        loop {
            let pause = self.pause();
            let _ = tokio::time::timeout(pause, sleep_until(led.until)).await;
            if now() >= led.until {
                return tracing::warn!(
                    epoch = led.epoch,
                    "the lead could not be kept in time: this agent does not lead any more"
                );
            }
            let asked = now();
            match self.bucket.lead(led.revision, self.value(led.epoch, self.ttl)).await {
                Ok(Some(revision)) => led.revision = revision,
                Ok(None) => match self.ours(led.epoch).await {
                    // An earlier attempt, whose answer was lost: how old it is is not known.
                    Ok(Some(revision)) => {
                        led.revision = revision;
                        continue;
                    }
                    Ok(None) => {
                        return tracing::warn!(epoch = led.epoch, "another agent has taken the lead");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "keeping the lead");
                        continue;
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "keeping the lead");
                    continue;
                }
            }
            led.until = led.until.max(asked + self.valid());
            let _ = until.send(led.until);
        }
    }

    /// The key's revision, if it is this agent's.
    async fn ours(&self, epoch: u64) -> Result<Option<u64>, NatsError> {
        let Some(Kept { revision, value }) = self.bucket.leader().await? else { return Ok(None) };
        let ours = |leader: Leader| leader.epoch == epoch && leader.instance == self.instance;
        Ok(Leader::decode(&value).is_ok_and(ours).then_some(revision))
    }

    /// Gives the lead away, if it is this agent's: the next one need not wait.
    pub(crate) async fn resign(&self, epoch: u64) {
        let given = async {
            match self.ours(epoch).await? {
                Some(revision) => self.bucket.lead(revision, self.value(epoch, Duration::ZERO)).await.map(drop),
                None => Ok(()),
            }
        };
        if let Err(error) = given.await {
            tracing::debug!(%error, "giving the lead away");
        }
    }
}
