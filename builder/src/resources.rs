//! What a build used: wall time by stage, CPU time, memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kiln_kernels::Progress;

use crate::allocated;

/// Memory of the program itself, of its threads, and of blocks on their way from and to files.
pub(crate) const PROGRAM_BYTES: u64 = 48 << 20;

/// Times the stages of a build, and announces each to a progress observer.
pub(crate) struct Stopwatch<'a> {
    progress: &'a dyn Progress,
    started: Instant,
    cpu_at_start: f64,
    stages: Vec<(String, f64)>,
    current: Option<(String, Instant)>,
    anonymous: AnonymousPeak,
}

/// What a build used.
pub(crate) struct Used {
    /// Wall seconds of each stage; of one that was gone back to, those of all times.
    pub stage_seconds: Vec<(String, f64)>,
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
    pub peak_rss_bytes: u64,
    pub peak_anonymous_bytes: u64,
    pub peak_allocated_bytes: u64,
}

impl<'a> Stopwatch<'a> {
    pub(crate) fn start(progress: &'a dyn Progress) -> Self {
        reset_peak_rss();
        allocated::start();
        let (stages, current, anonymous) = (Vec::new(), None, AnonymousPeak::start());
        Self { progress, started: Instant::now(), cpu_at_start: cpu_seconds(), stages, current, anonymous }
    }

    /// Ends the current stage and begins another of `total` units.
    pub(crate) fn stage(&mut self, name: &str, total: u64) {
        self.close();
        self.progress.stage(name, total);
        self.current = Some((name.to_string(), Instant::now()));
    }

    /// Ends the last stage.
    pub(crate) fn finish(mut self) -> Used {
        self.close();
        self.progress.finish();
        Used {
            wall_seconds: self.started.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds() - self.cpu_at_start,
            peak_rss_bytes: peak_rss_bytes(),
            peak_anonymous_bytes: self.anonymous.finish(),
            peak_allocated_bytes: allocated::most(),
            stage_seconds: self.stages,
        }
    }

    fn close(&mut self) {
        if let Some((name, since)) = self.current.take() {
            let seconds = since.elapsed().as_secs_f64();
            match self.stages.iter_mut().find(|(stage, _)| *stage == name) {
                Some((_, all)) => *all += seconds,
                None => self.stages.push((name, seconds)),
            }
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
    status_bytes(&status, "VmHWM:")
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

/// Bytes free for this user where a folder lies, where the system says.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: statvfs reads a string that ends in zero, and fills the struct it is given.
    let (done, found) = unsafe { (libc::statvfs(path.as_ptr(), found.as_mut_ptr()), found.assume_init()) };
    #[allow(clippy::unnecessary_cast, reason = "some systems count blocks in 32 bits")]
    (done == 0).then(|| found.f_bavail as u64 * found.f_frsize as u64)
}

/// Bytes of the drive that the files in a folder take; 0 where there is no folder.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| 512 * file.blocks()).sum()
}

/// Samples the anonymous memory of this process from a thread of its own: what is neither file nor shared.
pub(crate) struct AnonymousPeak {
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

/// Time between samples.
const SAMPLE_EVERY: Duration = Duration::from_millis(10);

impl AnonymousPeak {
    /// Begins to sample.
    pub(crate) fn start() -> Self {
        let (peak, stop) = (Arc::new(AtomicU64::new(anonymous_bytes())), Arc::new(AtomicBool::new(false)));
        let (to, until) = (Arc::clone(&peak), Arc::clone(&stop));
        let sampler = std::thread::Builder::new().name("memory".into()).spawn(move || {
            while !until.load(Ordering::Relaxed) {
                to.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                std::thread::sleep(SAMPLE_EVERY);
            }
        });
        // Without a thread there are the samples of beginning and end.
        Self { peak, stop, sampler: sampler.ok() }
    }

    /// Ends sampling: the most that was seen, in bytes; 0 where /proc is missing.
    pub(crate) fn finish(mut self) -> u64 {
        self.end();
        self.peak.load(Ordering::Relaxed).max(anonymous_bytes())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            // It does nothing that panics.
            let _ = sampler.join();
        }
    }
}

impl Drop for AnonymousPeak {
    fn drop(&mut self) {
        self.end();
    }
}

/// Anonymous resident bytes now; 0 where /proc is missing.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status_bytes(&status, "RssAnon:")
}

/// A figure of `/proc/self/status`, in bytes.
fn status_bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_of_anonymous_memory_is_seen() {
        let peak = AnonymousPeak::start();
        let before = anonymous_bytes();
        let held = vec![1u8; 64 << 20];
        std::thread::sleep(5 * SAMPLE_EVERY);
        assert!(held.iter().all(|&x| x == 1));
        drop(held);
        let seen = peak.finish();
        assert!(seen >= before + (60 << 20), "{seen} bytes, {before} before");
    }
}
