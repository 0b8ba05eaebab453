//! Every kernel beside the peak of the machine that runs it.
//!
//! ```text
//! cargo bench -p kiln-kernels                              all kernels, in less than a minute (or: make bench-kernels)
//! cargo bench -p kiln-kernels -- edge_codes rotation       only those with one of these words in their name
//! cargo bench -p kiln-kernels -- --json FILE               the same numbers for a script
//! KILN_ISA=avx2 cargo bench -p kiln-kernels                what a machine without AVX-512 would do
//! ```
//!
//! A line a kernel: median time of a call with its quartiles, GB/s, G operations/s, and the share of the roofline: the
//! time that the busier of memory and arithmetic would need at this machine's measured peak (`peaks.rs`), over the time
//! taken; `bound` names that peak. Everything runs on one thread. Operations are those of the textbook (3 a
//! coordinate for a squared difference, 2 for a product), bytes those that must be read at least once a call (both
//! operands of a row kernel whose rows lie in L1). A kernel of additions alone reaches half of a peak of multiply-adds.
//!
//! To add a kernel, add a case to one of the lists in `cases/`: name, shape, bytes, operations, where the bytes lie and a
//! closure. Without `--bench`, which `cargo bench` passes, each case runs once: `cargo test` keeps them alive.
//!
//! Why neither criterion nor divan: each prints one throughput a benchmark, and neither a share of a peak that the same
//! run measured. What is left, a median of samples, is `timing.rs`.

mod cases;
mod peaks;
mod report;
mod timing;

use std::process::ExitCode;

use kiln_kernels::distance::Isa;
use peaks::{Peaks, Store, Unit};
use timing::Budget;

/// Seconds that each case is measured.
const SECONDS: f64 = 0.25;

/// The work of one call, and what it must read and compute.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Read, or read and written where the kernel works in place.
    pub bytes: f64,
    /// Where they lie.
    pub store: Store,
    /// Additions and multiplications.
    pub operations: f64,
    /// What they are done with.
    pub unit: Unit,
}

/// A kernel at one shape.
pub struct Case {
    /// `kernel/type/shape`.
    pub name: String,
    /// Of one call.
    pub cost: Cost,
    /// Makes the data, then the call to time.
    pub setup: Box<dyn FnOnce() -> Box<dyn FnMut()> + Send>,
}

#[derive(Default)]
struct Args {
    bench: bool,
    list: bool,
    ignored: bool,
    exact: bool,
    json: Option<String>,
    words: Vec<String>,
}

/// Takes what cargo, libtest's users and nextest pass; the flags of libtest that mean nothing here are ignored.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut parsed = Args::default();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => parsed.bench = true,
            "--test" => parsed.bench = false,
            "--list" => parsed.list = true,
            "--ignored" => parsed.ignored = true,
            "--exact" => parsed.exact = true,
            "--json" => parsed.json = Some(args.next().ok_or("--json wants the name of a file")?),
            "--format" | "--test-threads" | "--skip" | "--color" => drop(args.next()),
            flag if flag.starts_with('-') && parsed.bench => return Err(format!("unknown option {flag}")),
            flag if flag.starts_with('-') => {}
            word => parsed.words.push(word.to_owned()),
        }
    }
    Ok(parsed)
}

impl Args {
    fn wants(&self, name: &str) -> bool {
        let fits = |word: &String| if self.exact { name == word } else { name.contains(word.as_str()) };
        self.words.is_empty() || self.words.iter().any(fits)
    }
}

fn main() -> ExitCode {
    // Cargo puts `--bench` last.
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    args.sort_by_key(|arg| arg != "--bench");
    match parse(args.into_iter()).and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    // The names of cases do not depend on how large they are.
    let cases: Vec<Case> = cases::all(!args.bench).into_iter().filter(|case| args.wants(&case.name)).collect();
    if args.list {
        cases.iter().filter(|_| !args.ignored).for_each(|case| println!("{}: test", case.name));
        return Ok(());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|e| e.to_string())?;
    if !args.bench {
        return pool.install(|| {
            drop(Peaks::measure(Isa::best(), true));
            for case in cases {
                (case.setup)()();
                println!("test {} ... ok", case.name);
            }
            Ok(())
        });
    }
    if cases.is_empty() {
        return Err(format!("no kernel has {} in its name; --list names them", args.words.join(" or ")));
    }
    let isa = Isa::best();
    let before = pool.install(|| Peaks::measure(isa, false));
    let mut timed = Vec::new();
    for Case { name, cost, setup } in cases {
        eprint!("\r{name:60}");
        let timing = pool.install(|| {
            let mut call = setup();
            timing::time(Budget::Seconds(SECONDS), &mut *call)
        });
        timed.push((name, cost, timing));
    }
    eprint!("\r{:60}\r", "");
    let peaks = pool.install(|| Peaks::measure(isa, false)).best(&before);
    report::report(isa, &peaks, &timed, args.json.as_deref()).map_err(|e| e.to_string())
}
