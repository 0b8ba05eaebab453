//! What a build used: wall time by stage, CPU time, memory.

use std::time::Instant;

use kiln_kernels::Progress;

/// Times the stages of a build, and announces each to a progress observer.
pub(crate) struct Stopwatch<'a> {
    progress: &'a dyn Progress,
    started: Instant,
    cpu_at_start: f64,
    stages: Vec<(String, f64)>,
    current: Option<(String, Instant)>,
}

impl<'a> Stopwatch<'a> {
    pub(crate) fn start(progress: &'a dyn Progress) -> Self {
        reset_peak_rss();
        Self { progress, started: Instant::now(), cpu_at_start: cpu_seconds(), stages: Vec::new(), current: None }
    }

    /// Ends the current stage and begins another of `total` units.
    pub(crate) fn stage(&mut self, name: &str, total: u64) {
        self.close();
        self.progress.stage(name, total);
        self.current = Some((name.to_string(), Instant::now()));
    }

    /// Ends the last stage: (stages, wall seconds, CPU seconds, peak resident bytes).
    pub(crate) fn finish(mut self) -> (Vec<(String, f64)>, f64, f64, u64) {
        self.close();
        self.progress.finish();
        let (wall, cpu) = (self.started.elapsed().as_secs_f64(), cpu_seconds() - self.cpu_at_start);
        (self.stages, wall, cpu, peak_rss_bytes())
    }

    fn close(&mut self) {
        if let Some((name, since)) = self.current.take() {
            self.stages.push((name, since.elapsed().as_secs_f64()));
        }
    }
}

/// User and system CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the struct it is given and has no other effect.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Lets the kernel forget the highest resident set so far, where it allows that.
fn reset_peak_rss() {
    // Without permission the peak is that of the whole process: still an upper bound.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Highest resident set since [`reset_peak_rss`], in bytes; 0 where /proc is missing.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Gives memory that was freed back to the system, where the allocator would keep it: what one stage of a build is done
/// with must not count against the next.
pub(crate) fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim only releases pages that the allocator holds free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Asks the system for `wanted` open files at a time; how many it allows.
#[cfg(feature = "serve")]
pub(crate) fn allow_open_files(wanted: usize) -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit fills the struct it is given and has no other effect.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return wanted;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max.min(wanted as libc::rlim_t), ..limit };
    // SAFETY: setrlimit only reads the struct it is given.
    if raised.rlim_cur > limit.rlim_cur && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
        limit = raised;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}
