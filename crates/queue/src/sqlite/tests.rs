//! That the statements run as they were meant to: by index, from where they left off.

use super::*;

fn plan(queue: &SqliteQueue, sql: &str) -> String {
    let db = queue.writer.lock();
    let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let parameters = vec![1; statement.parameter_count()];
    let rows = statement.query_map(rusqlite::params_from_iter(parameters), |row| row.get::<_, String>(3));
    rows.unwrap().collect::<Result<Vec<_>, _>>().unwrap().join("; ")
}

#[test]
fn dispatch_seeks_and_does_not_sort() {
    let directory = tempfile::tempdir().unwrap();
    let queue = SqliteQueue::open(directory.path().join("queue.db")).unwrap();
    let plans = [SAME_START, LATER_START, OF_FILE].map(|rest| plan(&queue, &live_where(rest)));
    let expected = [
        "SEARCH live USING INDEX live_ready (class=? AND owner=? AND not_before_ms=? AND rowid>?)",
        "SEARCH live USING INDEX live_ready (class=? AND owner=? AND not_before_ms>? AND not_before_ms<?)",
        "SEARCH live USING INDEX live_file (file=?)",
    ];
    assert_eq!(plans, expected);
    let owners = plan(&queue, &format!("{OWNERS_OF_CLASS} SELECT owner FROM o"));
    assert!(!owners.contains("SCAN live"), "{owners}");
}

#[test]
fn objects_are_found_by_index() {
    let directory = tempfile::tempdir().unwrap();
    let queue = SqliteQueue::open(directory.path().join("queue.db")).unwrap();
    let retired = [sharing::OF_OBJECT, sharing::OF_RETIRED_FILE, sharing::IN_PATHS];
    let plans = retired.map(|rest| plan(&queue, &sharing::retired_where(rest)));
    let expected = [
        "SEARCH retired USING INDEX retired_object (archive_id=? AND uuid=?)",
        "SEARCH retired USING INDEX retired_file (file=?)",
        "SEARCH retired USING INDEX retired_path (path>? AND path<?)",
    ];
    for (plan, expected) in plans.iter().zip(expected) {
        assert!(plan.starts_with(expected) && !plan.contains("SORT") && !plan.contains("B-TREE"), "{plan}");
    }
    let standing = plan(&queue, sharing::SELECT_STANDING);
    assert!(
        standing.contains("SEARCH retired USING COVERING INDEX retired_object (archive_id=? AND uuid=?)"),
        "{standing}"
    );
    assert!(standing.contains("SEARCH shared USING PRIMARY KEY (archive_id=? AND uuid=?)"), "{standing}");
    assert!(!standing.contains("SCAN retired") && !standing.contains("SCAN live"), "{standing}");
    let referrers = plan(&queue, sharing::SELECT_REFERRERS);
    assert_eq!(referrers, "SEARCH referrer USING PRIMARY KEY (archive_id=? AND uuid=? AND file>?)");
}

/// Removals go on while results are written; and what was written counts from the moment its call returned.
#[test]
fn objects_are_asked_for_beside_a_transaction_that_writes() {
    let directory = tempfile::tempdir().unwrap();
    let queue = SqliteQueue::open(directory.path().join("queue.db")).unwrap();
    let share = |uuid: &str| {
        let object = ObjectRef { archive_id: 1, uuid: uuid.into(), url: String::new() };
        queue.apply(&[Change::Share { object, complete: true, files: Vec::new() }]).unwrap();
    };
    let shared = || {
        let removals = ["a", "b", "c"].map(|uuid| Removal { id: ActionId(1), archive_id: 1, uuid });
        queue.standing(&removals, 0).unwrap().iter().map(|found| found.shared).collect::<Vec<_>>()
    };
    assert_eq!(shared(), [None; 3]);
    share("a");
    assert_eq!(shared(), [Some(true), None, None]);
    let mut writer = queue.writer.lock();
    let tx = writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    tx.execute("INSERT INTO shared (archive_id, uuid, generation) VALUES (1, 'b', 1)", []).unwrap();
    assert_eq!(shared(), [Some(true), None, None]);
    tx.commit().unwrap();
    assert_eq!(shared(), [Some(true), Some(true), None]);
    drop(writer);
    share("c");
    assert_eq!(shared(), [Some(true); 3]);
}
