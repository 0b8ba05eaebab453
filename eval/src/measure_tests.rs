use std::convert::Infallible;

use super::*;

/// A search that sleeps for as many microseconds as the query's number says.
fn sleepy(query: usize) -> Result<Hits, Infallible> {
    std::thread::sleep(Duration::from_micros(query as u64));
    Ok(Hits::default())
}

#[test]
fn every_query_of_a_pass_is_timed_once_by_any_number_of_threads() {
    for threads in [1, 2, 5] {
        let counts: Vec<AtomicUsize> = (0..200).map(|_| AtomicUsize::new(0)).collect();
        let search = |query: usize| {
            counts[query].fetch_add(1, Ordering::Relaxed);
            sleepy(query)
        };
        let runs = Driver::new(200).turn(threads, 0.05, &Work::single(search)).expect("no failure");
        assert!(!runs.is_empty());
        for run in &runs {
            assert_eq!(run.latency_us.len(), 200);
            assert!(run.latency_us.iter().enumerate().all(|(q, &us)| us >= q as f32 * 0.99), "{threads}");
            let longest = run.latency_us.iter().fold(0.0f32, |a, &b| a.max(b));
            assert!(run.seconds >= f64::from(longest) * 1e-6);
        }
        let entry = threads * ENTRY_QUERIES;
        let answered: usize = counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        assert_eq!(answered, runs.len() * 200 + entry);
        assert!(runs.iter().map(|run| run.seconds).sum::<f64>() <= 5.0);
    }
}

#[test]
fn a_failing_search_ends_the_turn_and_names_the_query() {
    for threads in [1, 3] {
        let work = Work::single(|query: usize| if query == 70 { Err("disk on fire") } else { Ok(Hits::default()) });
        let driver = Driver::new(100);
        let failed = driver.turn(threads, 0.01, &work).expect_err("query 70 fails");
        assert_eq!(failed.to_string(), "query 70: disk on fire");
        assert_eq!(driver.warm_up(threads, &Repeats::QUICK, &work).expect_err("query 70 fails").queries, 70..71);
    }
}

#[test]
fn a_panicking_search_is_a_failure_and_not_a_deadlock() {
    let search = |query: usize| {
        assert!(query != 3, "on purpose");
        Ok::<_, Infallible>(Hits::default())
    };
    let failed = Driver::new(10).turn(2, 0.01, &Work::single(search)).expect_err("query 3 panics");
    assert_eq!(failed.queries, 3..4);
    assert!(failed.problem.contains("panicked"));
}

#[test]
fn the_warm_up_ends_at_its_limit_or_when_windows_agree() {
    assert!(!agree(&[1.0, 1.0]));
    assert!(agree(&[50.0, 100.0, 99.0, 98.5]));
    assert!(!agree(&[100.0, 97.0, 100.0]));
    assert!(!agree(&[100.0, 100.0, 103.0]));
    let warmup = Driver::new(50).warm_up(1, &Repeats::QUICK, &Work::single(sleepy)).expect("no failure");
    assert!(warmup.seconds >= 2.0 * Repeats::QUICK.window_seconds, "{warmup:?}");
    assert!(warmup.settled || warmup.seconds >= Repeats::QUICK.warmup_seconds, "{warmup:?}");
}

#[test]
fn no_queries_are_no_work() {
    let driver = Driver::new(0);
    assert!(driver.warm_up(2, &Repeats::QUICK, &Work::single(sleepy)).expect("nothing fails").settled);
    assert!(
        driver.turn(2, 0.0, &Work::single(sleepy)).expect("nothing fails").iter().all(|run| run.latency_us.is_empty())
    );
}

#[test]
fn repeats_ask_for_runs_and_for_seconds() {
    let runs = |n: usize, seconds| vec![RunSample { seconds, turn: 0, latency_us: vec![], cached_bytes: None }; n];
    assert!(Repeats::FULL.satisfied(&runs(10, 0.31)));
    assert!(!Repeats::FULL.satisfied(&runs(10, 0.2)));
    assert!(!Repeats::FULL.satisfied(&runs(9, 10.0)));
}

#[test]
fn a_batch_pass_answers_every_query_once_and_has_no_latencies() {
    for threads in [1, 2, 3] {
        let counts: Vec<AtomicUsize> = (0..200).map(|_| AtomicUsize::new(0)).collect();
        let search = |queries: Range<usize>| {
            for query in queries.clone() {
                counts[query].fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(1));
            Ok::<_, Infallible>(vec![Hits::default(); queries.len()])
        };
        let work = Work::batch(search);
        let driver = Driver::new(200);
        let runs = driver.turn(threads, 0.02, &work).expect("no failure");
        assert!(runs.len() > 1 && runs.iter().all(|run| run.latency_us.is_empty() && run.seconds >= 1e-3));
        for (thread, query) in (0..threads).flat_map(|t| share(200, t, threads).map(move |query| (t, query))) {
            let entry = usize::from(query - share(200, thread, threads).start < ENTRY_QUERIES);
            assert_eq!(counts[query].load(Ordering::Relaxed), runs.len() + entry, "{threads} threads, query {query}");
        }
        assert!(driver.warm_up(threads, &Repeats::QUICK, &work).expect("no failure").seconds > 0.0);
    }
    // More threads than queries leave some without a share.
    let idle = Work::batch(|queries: Range<usize>| Ok::<_, Infallible>(vec![Hits::default(); queries.len()]));
    assert!(Driver::new(2).turn(5, 0.0, &idle).is_ok());
}

#[test]
fn a_failing_batch_names_its_queries() {
    let work = Work::batch(|_: Range<usize>| Err("disk on fire"));
    let failed = Driver::new(100).turn(1, 0.01, &work).expect_err("it fails");
    assert_eq!(failed.to_string(), "queries 0 to 63, in one batch: disk on fire");
}

#[test]
fn each_pass_is_prepared_once_and_while_nobody_searches() {
    for threads in [1, 3] {
        let (searching, prepared, disturbed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let prepare = || {
            // Not an assertion: a panic here would leave the other threads waiting.
            disturbed.fetch_or(searching.load(Ordering::SeqCst) != 0, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
            disturbed.fetch_or(searching.load(Ordering::SeqCst) != 0, Ordering::SeqCst);
            Some(prepared.fetch_add(1, Ordering::SeqCst) as u64)
        };
        let search = |query: usize| {
            searching.fetch_add(1, Ordering::SeqCst);
            let hits = sleepy(query);
            searching.fetch_sub(1, Ordering::SeqCst);
            hits
        };
        let driver = Driver::with_preparation(100, &prepare);
        let runs = driver.turn(threads, 0.03, &Work::single(search)).expect("no failure");
        let told: Vec<_> = runs.iter().map(|run| run.cached_bytes).collect();
        assert_eq!(told, (0..runs.len() as u64).map(Some).collect::<Vec<_>>(), "{threads} threads");
        assert!(!disturbed.into_inner(), "{threads} threads: a search ran during the preparation");
    }
}
