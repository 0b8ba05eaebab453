//! Time and memory of this process.

use rustix::time::{ClockId, clock_gettime};

/// A moment in time, and in processor time of all threads.
pub struct Instant {
    wall: std::time::Instant,
    cpu: f64,
}

impl Instant {
    pub fn now() -> Self {
        Self { wall: std::time::Instant::now(), cpu: processor_seconds() }
    }

    /// Seconds since then: on the wall, of processors.
    pub fn elapsed(&self) -> (f64, f64) {
        (self.wall.elapsed().as_secs_f64(), processor_seconds() - self.cpu)
    }
}

fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

/// None where there is no /proc; so are the peak's.
pub fn resident_bytes() -> Option<u64> {
    status("VmRSS:")
}

pub fn peak_bytes() -> Option<u64> {
    status("VmHWM:")
}

pub fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").ok(); // else the peak is that of the whole life of the process
}

fn status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(1024 * line.split_whitespace().next()?.parse::<u64>().ok()?)
}
