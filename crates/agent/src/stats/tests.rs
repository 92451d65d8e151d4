use super::*;
use crate::source::MemorySource;
use crate::{ActionIds, Slots};
use model::{Failure, Identity};

async fn finished(archive_id: u32, outcome: Outcome, started: Instant) -> Finished {
    let slot = Slots::new(1).acquire(1).await.unwrap();
    Action::new(ActionIds::default().next(), MemorySource::noop(1, archive_id), started, slot).complete(outcome)
}

#[tokio::test]
async fn every_end_is_counted_once_under_its_archive() {
    let stats = ActionStats::default();
    let start = Instant::now();
    stats.start_actions(1, 3);
    stats.start_actions(2, 3);
    let batch = vec![
        finished(1, Outcome::Archived(Identity::default()), start).await,
        finished(1, Outcome::Failed(Failure::temporary(5, "x")), start).await,
        finished(2, Outcome::Failed(Failure::cancelled()), start).await,
        finished(1, Outcome::Removed, start).await,
        finished(2, Outcome::Failed(Failure::thawing("x", 300)), start).await,
    ];
    stats.complete_actions(&batch, start + Duration::from_millis(10));
    assert_eq!(stats.archives(), [1, 2]);
    let [one, two] = <[ArchiveStatus; 2]>::try_from(stats.status()).unwrap();
    assert_eq!((one.started, one.queue_length, one.succeeded, one.failed, one.cancelled), (3, 0, 2, 1, 0));
    assert_eq!((two.started, two.queue_length, two.succeeded, two.failed, two.cancelled), (2, 1, 0, 0, 1));
    assert!((9_900..=10_100).contains(&one.latency.p50_us), "{:?}", one.latency);
}

#[tokio::test]
async fn rates_follow_what_happens_each_at_its_pace() {
    let stats = ActionStats::default();
    let now = Instant::now();
    for _ in 0..100 {
        stats.complete_action(&finished(1, Outcome::Removed, now).await, now);
    }
    stats.tick(Duration::from_secs(10));
    assert!(stats.get_index(1).status().rates_per_s.iter().all(|r| (r - 10.0).abs() < 0.01));
    for _ in 0..12 {
        stats.tick(Duration::from_secs(5));
    }
    let [one, five, fifteen] = stats.get_index(1).status().rates_per_s;
    assert!((one - 10.0 / std::f64::consts::E).abs() < 0.01 && one < five && five < fifteen, "{one} {five} {fifteen}");
}
