//! Single flight, life, failures and bounds under paused time; nothing here opens a socket.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::time::{advance, sleep};

use super::*;

const LIFE: Duration = Duration::from_secs(300);
const LOOKUP: Duration = Duration::from_secs(2);

struct Table {
    cache: LookupCache<String, usize>,
    lookups: Arc<AtomicUsize>,
}

impl Table {
    fn new(capacity: usize) -> Self {
        Self {
            cache: LookupCache::new(LIFE, capacity),
            lookups: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Asks; the answer is how many lookups there have been by then.
    async fn ask(&self, key: &str) -> Answer<usize> {
        self.ask_one_that_succeeds_from(key, 0).await
    }

    /// Asks; the first lookups fail.
    async fn ask_one_that_succeeds_from(&self, key: &str, number: usize) -> Answer<usize> {
        let lookups = self.lookups.clone();
        let lookup = move || async move {
            sleep(LOOKUP).await;
            let before = lookups.fetch_add(1, Ordering::SeqCst);
            if before < number {
                return Err(DiscoveryError::TooManyPages { pages: before });
            }
            Ok(before + 1)
        };
        self.cache.get(&key.to_owned(), lookup).await
    }

    fn forget(&self, key: &str, least_age: Duration) -> Option<usize> {
        self.cache.forget(&key.to_owned(), least_age)
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }

    fn kept(&self) -> usize {
        lock(&self.cache.entries).by_key.len()
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_askers_cause_one_lookup() {
    let table = Table::new(10);
    let answers = join_all((0..100).map(|_| table.ask("a"))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == 1));
    assert_eq!(table.lookups(), 1);
    assert_eq!(table.ask("b").await.unwrap(), 2, "another key is another lookup");
}

#[tokio::test(start_paused = true)]
async fn an_answer_lives_from_when_it_was_asked_for() {
    let table = Table::new(10);
    assert_eq!(table.ask("a").await.unwrap(), 1);
    advance(LIFE - LOOKUP - Duration::from_millis(10)).await;
    assert_eq!(table.ask("a").await.unwrap(), 1);
    advance(Duration::from_millis(10)).await;
    assert_eq!(table.ask("a").await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_all_who_asked_and_kept_for_nobody() {
    let table = Table::new(10);
    let answers = join_all((0..100).map(|_| table.ask_one_that_succeeds_from("a", 1))).await;
    assert!(answers.iter().all(Result::is_err));
    assert_eq!((table.lookups(), table.kept()), (1, 0));
    assert_eq!(table.ask_one_that_succeeds_from("a", 1).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_outlives_its_askers_and_its_failure_does_not() {
    let table = Table::new(10);
    for succeeds_from in [0, 9] {
        let asking = table.ask_one_that_succeeds_from("a", succeeds_from);
        let left = tokio::time::timeout(LOOKUP / 2, asking).await;
        assert!(left.is_err(), "the asker has left");
        sleep(LOOKUP).await;
        assert_eq!(table.kept(), usize::from(succeeds_from == 0));
        if succeeds_from == 0 {
            assert_eq!(table.ask("a").await.unwrap(), 1);
            assert_eq!(table.forget("a", Duration::ZERO), Some(1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_told_is_forgotten_and_what_is_under_way_is_not() {
    let table = Table::new(10);
    assert_eq!(table.forget("a", Duration::ZERO), None);
    let (first, ()) = tokio::join!(table.ask("a"), async {
        sleep(LOOKUP / 2).await;
        assert_eq!(table.forget("a", Duration::ZERO), None);
    });
    assert_eq!(first.unwrap(), 1);
    assert_eq!(table.ask("a").await.unwrap(), 1);

    assert_eq!(
        table.forget("a", LOOKUP + Duration::from_secs(1)),
        Some(1),
        "too young to go"
    );
    assert_eq!(table.ask("a").await.unwrap(), 1);
    assert_eq!(table.forget("a", LOOKUP), Some(1));
    assert_eq!(table.ask("a").await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_askers_only() {
    let table = Table::new(10);
    let broken = || async { panic!("a defect") };
    let answer = table.cache.get(&"a".to_owned(), broken).await;
    assert!(matches!(answer.unwrap_err().as_ref(), DiscoveryError::GivenUp));
    assert_eq!(table.ask("a").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_makes_room_unless_some_are_past_their_life() {
    let table = Table::new(3);
    for key in ["a", "b", "c"] {
        table.ask(key).await.unwrap();
    }
    table.ask("d").await.unwrap();
    assert_eq!((table.kept(), table.lookups()), (3, 4));
    table.ask("b").await.unwrap();
    assert_eq!(table.lookups(), 4, "b was not the oldest");
    table.ask("a").await.unwrap();
    assert_eq!(table.lookups(), 5, "a was");

    advance(LIFE).await;
    table.ask("e").await.unwrap();
    assert_eq!(table.kept(), 1);
}
