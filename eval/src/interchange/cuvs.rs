//! The result files of cuvs-bench: out, and in.
//!
//! In: a run. Out, below a root, as its own programs write them:
//!
//! | file | what |
//! |---|---|
//! | `DATASET/result/search/ALGO,GROUP,kK,bsBATCH.json` | a benchmark a setting, in the shape of Google Benchmark |
//! | the same name with `,raw.csv`, `,throughput.csv`, `,latency.csv` | its settings, and those on each frontier |
//! | `DATASET/result/build/ALGO,GROUP.json` and `.csv` | a benchmark an index; its `index_size` is a number of rows |
//!
//! A benchmark states `Recall` (by ids), `items_per_second`, `Latency` (seconds of a batch), `k`, `n_queries` (of a batch),
//! `threads`, and every search parameter under its own name. And back: either file becomes settings that were measured
//! elsewhere. A batch of one query on one thread is Kiln's mode latency-1, on more threads throughput-T, a larger batch
//! batch-T; of Kiln's throughput-1, which would be told from nothing, nothing is written.

mod export;
mod read;

pub use export::export;
pub use read::read;

/// The group of parameters; cuvs-bench leaves this one out of an algorithm's name.
const GROUP: &str = "base";
