//! What the harness itself costs, on an engine that does nothing: `cargo bench -p kiln-eval --bench overhead`.
//!
//! Throughput: queries a second on every number of threads. Latency: what a sample says of a search that takes no time,
//! and how much longer a pass is than its samples. Marks: more than 5 million queries a second, and less than 100 ns added
//! to a sample. Timings are printed, and nothing fails.

use std::convert::Infallible;

use kiln_builder::Hits;
use kiln_eval::measure::{Driver, Repeats, Work};
use kiln_eval::stats;

const QUERIES: usize = 100_000;

fn main() {
    let driver = Driver::new(QUERIES);
    let work = Work::single(|_| Ok::<_, Infallible>(Hits::default()));
    let repeats = Repeats { min_runs: 20, min_seconds: 1.0, warmup_seconds: 1.0, window_seconds: 0.05 };
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let median = |values: Vec<f64>| stats::median(&values).unwrap_or(f64::NAN);
    for threads in 1..=all {
        let passes = driver.warm_up(threads, &repeats, &work).and_then(|_| driver.turn(threads, 1.0, &work));
        let passes = passes.unwrap_or_else(|failed| panic!("{failed}"));
        let seconds = median(passes.iter().map(|pass| pass.seconds).collect());
        let sample = median(passes.iter().flat_map(|pass| &pass.latency_us).map(|&us| f64::from(us) * 1e3).collect());
        let samples: f64 = passes.iter().map(|pass| pass.latency_us.iter().map(|&us| f64::from(us)).sum::<f64>()).sum();
        let walls: f64 = passes.iter().map(|pass| pass.seconds).sum::<f64>() * threads as f64;
        println!(
            "{threads} threads: {:.2} M queries/s; a sample of nothing {sample:.0} ns; beside its sample a query takes {:.0} ns",
            QUERIES as f64 / seconds / 1e6,
            (walls - samples * 1e-6) / (passes.len() * QUERIES) as f64 * 1e9,
        );
    }
    let batch = Work::batch(|share| Ok::<_, Infallible>(share.map(|_| Hits::default()).collect()));
    let passes = driver.turn(1, 1.0, &batch).unwrap_or_else(|failed| panic!("{failed}"));
    let seconds = median(passes.iter().map(|pass| pass.seconds).collect());
    println!("batch: {:.2} M queries/s", QUERIES as f64 / seconds / 1e6);
}
