//! The audit around execs: two halves apart, outages, rows of other tries, upkeep.

use std::collections::BTreeSet;

use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::audit::{AuditStoreError, Chore, DueRow, Half};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn neither_half_holds_up_the_other() {
    paused(async {
        let rig = Rig::new(world());
        rig.run("true").await;
        *rig.store.hangs_for.lock().unwrap() = Some(Half::Finish);
        let ended: Vec<_> = (0..10).map(|_| rig.start("true", 0)).collect();
        tokio::time::sleep(SECOND).await;
        let asked = Instant::now();
        let mut running = rig.start("hang", 60);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        assert!(asked.elapsed() < SECOND, "finishes hold up no begin");
        *rig.store.hangs_for.lock().unwrap() = Some(Half::Begin);
        for exec in ended {
            assert!(finish(exec).await.audit.committed);
        }
        let waiting = rig.start("true", 0);
        tokio::time::sleep(SECOND).await;
        let asked = Instant::now();
        running.cancel(EndedBy::Delete);
        assert!(finish(running).await.audit.committed);
        assert!(asked.elapsed() < SECOND, "nor a begin the finishes");
        assert_eq!(code(&finish(waiting).await), Some(ErrorCode::AuditUnavailable));
    });
}

/// Whatever the store sees in an outage is bounded by the execs in flight, and that by the first batch that failed: later
/// execs leave nothing behind.
#[test]
fn a_long_outage_is_bounded_and_over_when_the_store_is_back() {
    paused(async {
        let rig = Rig::new(world());
        // Two tunnels of ten channels, of which each has one for its warden.
        let mut running: Vec<_> = (0..18).map(|_| rig.start("hang", 30)).collect();
        for exec in &mut running {
            assert_eq!(exec.next().await, Some(ExecEvent::Started));
        }
        rig.store.is_away.store(true, Relaxed);
        let mut refused = Vec::new();
        for second in 0..180 {
            let execs = join_all((0..25).map(|_| rig.run("true"))).await;
            assert!(
                execs
                    .iter()
                    .all(|exec| (exec.ran, code(exec)) == (Ran::No, Some(ErrorCode::AuditUnavailable))),
                "in second {second}"
            );
            refused.extend(execs);
            let unwritten = rig.engine.audit.flush(Duration::ZERO).await.len();
            assert!(
                unwritten <= 18 + 25,
                "{unwritten} final rows wait in second {second}"
            );
            assert!(rig.in_flight() <= 18 + 25, "in second {second}");
            tokio::time::sleep(SECOND).await;
        }
        let told = join_all(running.into_iter().map(finish)).await;
        assert!(told.iter().all(|exec| !exec.audit.committed), "told after 10 s");
        assert!(rig.engine.audit_failing_for().unwrap() > Duration::from_secs(180));
        rig.store.is_away.store(false, Relaxed);
        assert!(rig.recovers().await <= SECOND);
        rig.engine.live.none_left().await;
        assert!(told.iter().all(|exec| rig.row(exec).status == RowStatus::Timeout));
        let rows = rig.store.rows.lock().unwrap().clone();
        assert!(rows.values().all(|row| row.status != RowStatus::Running));
        let settled = refused.iter().filter_map(|exec| rows.get(&exec.exec_id));
        assert!(settled.into_iter().all(|row| row.status == RowStatus::Error));
        assert_eq!(rig.requests(), 18, "nothing of what was refused ran");
        assert_eq!(code(&rig.run("true").await), None);
    });
}

#[test]
fn a_refusal_comes_at_once_while_the_store_is_known_to_be_away() {
    for hangs in [false, true] {
        paused(async {
            let rig = Rig::new(world());
            rig.run("true").await;
            let away = if hangs {
                &rig.store.hangs
            } else {
                &rig.store.is_away
            };
            away.store(true, Relaxed);
            rig.run("true").await;
            tokio::time::sleep(SECOND).await;
            let asked = Instant::now();
            let exec = rig.run("true").await;
            assert_eq!(code(&exec), Some(ErrorCode::AuditUnavailable));
            assert_eq!(asked.elapsed(), Duration::ZERO);
            away.store(false, Relaxed);
            // A transaction that hangs has five seconds.
            assert!(rig.recovers().await <= 6 * SECOND, "nobody asks for anything");
            assert_eq!(code(&rig.run("true").await), None);
        });
    }
}

#[test]
fn an_answer_that_was_lost_makes_no_second_row_and_no_second_run() {
    paused(async {
        let rig = Rig::new(world());
        rig.run("true").await;
        for idempotent in [false, true] {
            let before = rig.requests();
            rig.store.lost_answers.store(2, Relaxed);
            let exec = if idempotent {
                finish(rig.start_idempotent(Uuid::from_u128(1), "true")).await
            } else {
                rig.run("true").await
            };
            assert_eq!((exec.exit_code, exec.audit.committed), (Some(0), true));
            assert_eq!(rig.requests(), before + 1);
            assert_eq!(rig.row(&exec).status, RowStatus::Ok);
        }
        assert_eq!(rig.store.rows.lock().unwrap().len(), 3);
    });
}

/// Tries of one Idempotency-Key in two processes on one store.
#[test]
fn one_try_of_many_owns_the_id() {
    paused(async {
        let first = Rig::new(world());
        let second = Rig::on(world(), first.store.clone(), EngineSettings::default());
        let exec_id = Uuid::from_u128(1);
        let mut tries: Vec<_> = (0..10)
            .flat_map(|_| [&first, &second])
            .map(|rig| rig.start_idempotent(exec_id, "true"))
            .collect();
        let owns = join_all(tries.iter_mut().map(RunningExec::owns_id)).await;
        assert_eq!(owns.iter().filter(|owns| **owns).count(), 1);
        let owner = owns.iter().position(|owns| *owns).unwrap();
        let exec = finish(tries.remove(owner)).await;
        assert_eq!((exec.exit_code, exec.audit.committed), (Some(0), true));
        for mut other in tries {
            assert_eq!(other.next().await, None);
        }
        assert_eq!(first.in_flight() + second.in_flight(), 0);
        assert_eq!(first.requests() + second.requests(), 1);
        let pushes = first.world.pushes.load(Relaxed) + second.world.pushes.load(Relaxed);
        assert_eq!(pushes, 1, "the others asked for no channel");
        assert_eq!(first.store.rows.lock().unwrap().len(), 1);
        assert_eq!(first.row(&exec).status, RowStatus::Ok);
        let mut late = second.start_idempotent(exec_id, "true");
        assert!(!late.owns_id().await, "nor is an ended one run again");
        assert!(!late.owns_id().await);
    });
}

/// Its begin was not acknowledged, so it may be the row; then another try has it.
#[test]
fn an_uncertain_begin_settles_its_own_row_only() {
    for is_anothers in [false, true] {
        paused(async {
            let rig = Rig::new(world());
            let exec_id = Uuid::from_u128(1);
            rig.first_probes().await;
            rig.store.is_away.store(true, Relaxed);
            let mut running = rig.start_idempotent(exec_id, "true");
            assert!(running.owns_id().await, "for all that is known");
            let exec = finish(running).await;
            assert_eq!(
                (exec.ran, code(&exec)),
                (Ran::No, Some(ErrorCode::AuditUnavailable))
            );
            let other = Rig::on(world(), rig.store.clone(), EngineSettings::default());
            if is_anothers {
                // Its store is the same and its way there is not.
                rig.store.is_away.store(false, Relaxed);
                rig.store.hangs_for.lock().unwrap().replace(Half::Finish);
                let mut theirs = other.start_idempotent(exec_id, "hang");
                assert!(theirs.owns_id().await);
                rig.store.hangs_for.lock().unwrap().take();
                rig.engine.live.none_left().await;
                assert_eq!(rig.row(&exec).status, RowStatus::Running, "it was not touched");
            } else {
                rig.store.is_away.store(false, Relaxed);
                rig.engine.live.none_left().await;
                let row = rig.row(&exec);
                assert_eq!(row.response_body.unwrap()["ran"], "no");
                let mut again = other.start_idempotent(exec_id, "true");
                assert!(
                    !again.owns_id().await,
                    "the retry is another attempt, with another id"
                );
            }
        });
    }
}

#[test]
fn the_end_of_a_row_that_became_anothers_is_told_as_not_committed() {
    paused(async {
        let rig = Rig::new(world());
        let mut running = rig.start("hang", 60);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        let exec_id = running.exec_id();
        let nonce = Uuid::from_u128(9);
        rig.store
            .rows
            .lock()
            .unwrap()
            .get_mut(&exec_id)
            .unwrap()
            .attempt_nonce = nonce;
        running.cancel(EndedBy::Delete);
        let exec = finish(running).await;
        assert!(!exec.audit.committed);
        assert_eq!(rig.row(&exec).attempt_nonce, nonce);
        rig.engine.live.none_left().await;
    });
}

#[test]
fn a_sweep_that_fails_is_tried_in_the_next_round() {
    paused(async {
        let settings = EngineSettings {
            sweep_interval: 10 * SECOND,
            ..EngineSettings::default()
        };
        let rig = Rig::with(world(), settings);
        tokio::time::sleep(SECOND).await;
        assert_eq!(rig.store.sweeps.load(Relaxed), 1, "at the start");
        rig.store.panics.store(true, Relaxed);
        tokio::time::sleep(10 * SECOND).await;
        rig.store.is_away.store(true, Relaxed);
        tokio::time::sleep(10 * SECOND).await;
        rig.store.is_away.store(false, Relaxed);
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(rig.store.sweeps.load(Relaxed), 4);
    });
}

/// So many rows, the oldest first, each of another workspace.
fn rows(count: u32) -> BTreeSet<DueRow> {
    let row = |number: u32| DueRow {
        created_at: OffsetDateTime::UNIX_EPOCH + SECOND * number,
        id: Uuid::from_u128(number.into()),
        workspace_id: Uuid::from_u128(number.into()),
    };
    (0..count).map(row).collect()
}

const RETAIN: Duration = Duration::from_secs(86_400);

/// A rig that looks for old rows every minute.
fn upkeep_rig() -> Rig {
    let settings = EngineSettings {
        retain: Some(RETAIN),
        sweep_interval: 60 * SECOND,
        ..EngineSettings::default()
    };
    Rig::with(world(), settings)
}

#[test]
fn old_rows_are_deleted_in_small_batches_with_pauses() {
    paused(async {
        let rig = upkeep_rig();
        let left = || rig.store.old_rows.lock().unwrap().len();
        let deletions = || -> Vec<usize> {
            let chores = rig.store.chores.lock().unwrap();
            assert!(chores.iter().all(|(chore, _)| *chore == Chore::Delete(RETAIN)));
            chores.iter().map(|(_, rows)| *rows).collect()
        };
        *rig.store.old_rows.lock().unwrap() = rows(2_500);
        tokio::time::sleep(Duration::from_millis(1_400)).await;
        assert_eq!(
            deletions(),
            [1_000],
            "each takes half a second, so does the pause"
        );
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(
            deletions(),
            [1_000, 1_000, 500],
            "until less than a batch is left"
        );
        // An outage ends the round, and the next goes on.
        *rig.store.old_rows.lock().unwrap() = rows(1_500);
        rig.store.is_away.store(true, Relaxed);
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(left(), 1_500);
        rig.store.is_away.store(false, Relaxed);
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(left(), 0);
        // Deleting would work, and writing does not.
        *rig.store.old_rows.lock().unwrap() = rows(1);
        *rig.store.hangs_for.lock().unwrap() = Some(Half::Begin);
        rig.run("true").await;
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(left(), 1, "it waits until rows can be written");
    });
}

#[test]
fn a_backlog_of_orphans_is_settled_in_batches() {
    paused(async {
        let rig = Rig::new(world());
        *rig.store.orphans.lock().unwrap() = rows(2_500);
        tokio::time::sleep(30 * SECOND).await;
        let settle = Chore::Settle(EngineSettings::default().settle_after);
        assert_eq!(
            *rig.store.chores.lock().unwrap(),
            [(settle, 1_000), (settle, 1_000), (settle, 500)]
        );
        assert!(rig.store.orphans.lock().unwrap().is_empty());
    });
}

#[test]
fn rows_that_fail_keep_no_others_waiting() {
    paused(async {
        for refusal in [
            AuditStoreError::Rejected as fn(_) -> _,
            AuditStoreError::Failed,
            AuditStoreError::Unavailable,
        ] {
            let rig = upkeep_rig();
            let all: Vec<_> = rows(2_500).into_iter().collect();
            let refused: BTreeSet<_> = [0, 7, 999, 1_000, 2_499].map(|number| all[number]).into();
            rig.store
                .refused
                .lock()
                .unwrap()
                .extend(refused.iter().map(|row| (row.id, refusal)));
            for due in [&rig.store.orphans, &rig.store.old_rows] {
                *due.lock().unwrap() = all.iter().copied().collect();
            }
            tokio::time::sleep(300 * SECOND).await;
            for due in [&rig.store.orphans, &rig.store.old_rows] {
                assert_eq!(*due.lock().unwrap(), refused);
            }
            // They are tried again, and not for ever.
            rig.store.refused.lock().unwrap().clear();
            tokio::time::sleep(300 * SECOND).await;
            for due in [&rig.store.orphans, &rig.store.old_rows] {
                assert!(due.lock().unwrap().is_empty());
            }
        }
    });
}

/// As by a legal hold on one tenant.
#[test]
fn a_workspace_that_may_not_be_touched_costs_the_others_nothing() {
    paused(async {
        let rig = upkeep_rig();
        let of = |workspace: u128| {
            let with = move |row: DueRow| DueRow {
                workspace_id: Uuid::from_u128(workspace),
                ..row
            };
            rows(4_000)
                .into_iter()
                .filter(move |row| row.id.as_u128() % 2 == workspace)
                .map(with)
        };
        let refused: BTreeSet<_> = of(0).collect();
        let refusal = AuditStoreError::Failed as fn(_) -> _;
        rig.store
            .refused
            .lock()
            .unwrap()
            .extend(refused.iter().map(|row| (row.id, refusal)));
        *rig.store.old_rows.lock().unwrap() = of(0).chain(of(1)).collect();
        tokio::time::sleep(200 * SECOND).await;
        assert_eq!(*rig.store.old_rows.lock().unwrap(), refused);
    });
}

#[test]
fn however_many_rows_fail_the_others_have_their_turn() {
    paused(async {
        let rig = upkeep_rig();
        let refused = rows(40);
        let refusal = AuditStoreError::Rejected as fn(_) -> _;
        rig.store
            .refused
            .lock()
            .unwrap()
            .extend(refused.iter().map(|row| (row.id, refusal)));
        *rig.store.old_rows.lock().unwrap() = rows(1_200);
        tokio::time::sleep(59 * SECOND).await;
        let first_round = rig.store.chores.lock().unwrap().len();
        assert!(first_round < 60, "{first_round} statements in a round");
        assert_eq!(rig.store.old_rows.lock().unwrap().len(), 1_200);
        tokio::time::sleep(180 * SECOND).await;
        assert_eq!(*rig.store.old_rows.lock().unwrap(), refused);
    });
}

#[test]
fn a_store_that_is_away_is_not_asked_for_each_row() {
    paused(async {
        let rig = upkeep_rig();
        *rig.store.old_rows.lock().unwrap() = rows(1_000);
        tokio::time::sleep(Duration::from_millis(100)).await;
        // While the first batch is under way.
        rig.store.is_away.store(true, Relaxed);
        tokio::time::sleep(59 * SECOND).await;
        assert_eq!(rig.store.chores.lock().unwrap().len(), 1);
    });
}

#[test]
fn nothing_is_deleted_unless_it_is_asked_for() {
    paused(async {
        let rig = Rig::new(world());
        *rig.store.old_rows.lock().unwrap() = rows(1);
        tokio::time::sleep(600 * SECOND).await;
        assert_eq!(rig.store.old_rows.lock().unwrap().len(), 1);
    });
}
