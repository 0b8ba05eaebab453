//! Where a run was measured: the machine, its limits, the drive and the binary.
//!
//! In: the run folder, /proc and /sys. Out: a [`Machine`], a file's SHA-256, the time. What a system does not tell
//! is `None` or `unknown`, never an error: a benchmark runs there too.

mod ceiling;
pub(crate) mod cgroup;
mod drive;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_kernels::distance::Isa;
use sha2::{Digest, Sha256};

use crate::record::Machine;
use crate::sys;

pub use ceiling::drive_ceiling;
pub(crate) use ceiling::open_direct;

/// Prefixes of the CPU flags that matter to vector kernels, on x86-64 and on Arm.
const SIMD_FLAGS: [&str; 9] = ["sse", "ssse", "avx", "fma", "f16c", "amx", "asimd", "sve", "neon"];

/// The machine and the binary at hand; `folder`, which must exist, says which drive is meant.
pub fn machine(folder: &Path) -> Machine {
    machine_under(Path::new("/"), folder)
}

/// [`machine`] of the system whose files lie under `root`.
fn machine_under(root: &Path, folder: &Path) -> Machine {
    let cpuinfo = read(root, "proc/cpuinfo").unwrap_or_default();
    let limits = cgroup::limits(root);
    let volume = drive::of_folder(root, folder);
    Machine {
        cpu: cpu_model(&cpuinfo),
        cpus: usable_cpus(),
        isa: Isa::best().name().to_string(),
        features: simd_features(&cpuinfo),
        governor: read(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory_bytes: read(root, "proc/meminfo").and_then(|text| total_memory(&text)).unwrap_or(0),
        memory_limit_bytes: limits.memory_bytes,
        cpu_limit: limits.cpus,
        kernel: read(root, "proc/sys/kernel/osrelease").unwrap_or_else(|| std::env::consts::OS.to_string()),
        filesystem: volume.filesystem,
        drive: volume.drive,
        gpu: nvidia_gpus(root),
        rustc: env!("KILN_RUSTC").to_string(),
        build_flags: env!("KILN_BUILD_FLAGS").to_string(),
        kiln_version: env!("CARGO_PKG_VERSION").to_string(),
        commit: option_env!("KILN_COMMIT").map(str::to_string),
        dirty: option_env!("KILN_DIRTY").map(|dirty| dirty == "true"),
    }
}

/// A small file's text, trimmed; `None` where it is missing or empty.
fn read(root: &Path, path: &str) -> Option<String> {
    let text = std::fs::read_to_string(root.join(path)).ok()?;
    Some(text.trim().to_string()).filter(|text| !text.is_empty())
}

/// The value of the first `name: value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then_some(value.trim())
    })
}

fn cpu_model(cpuinfo: &str) -> String {
    // Arm names no model; implementer and part identify it.
    let arm = || {
        let (implementer, part) = (field(cpuinfo, "CPU implementer")?, field(cpuinfo, "CPU part")?);
        Some(format!("{} implementer {implementer} part {part}", std::env::consts::ARCH))
    };
    let model = field(cpuinfo, "model name").map(str::to_string);
    model.or_else(arm).unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH))
}

fn simd_features(cpuinfo: &str) -> Vec<String> {
    let flags = field(cpuinfo, "flags").or_else(|| field(cpuinfo, "Features")).unwrap_or_default();
    let simd = flags.split_whitespace().filter(|flag| SIMD_FLAGS.iter().any(|prefix| flag.starts_with(prefix)));
    simd.map(str::to_string).collect()
}

fn usable_cpus() -> usize {
    match sys::allowed_cpus().len() {
        0 => std::thread::available_parallelism().map_or(1, |cpus| cpus.get()),
        cpus => cpus,
    }
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let kibibytes = field(meminfo, "MemTotal")?.trim_end_matches("kB").trim();
    kibibytes.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// `NVIDIA H200`, `4 x NVIDIA A100 (driver 550.54)`, ...
fn nvidia_gpus(root: &Path) -> Option<String> {
    let folder = root.join("proc/driver/nvidia/gpus");
    let mut models: Vec<String> = (std::fs::read_dir(folder).ok()?.flatten())
        .filter_map(|gpu| std::fs::read_to_string(gpu.path().join("information")).ok())
        .filter_map(|text| field(&text, "Model").map(str::to_string))
        .collect();
    models.sort_unstable();
    let counted = models.chunk_by(|a, b| a == b).map(|same| match same.len() {
        1 => same[0].clone(),
        count => format!("{count} x {}", same[0]),
    });
    let names = counted.collect::<Vec<_>>().join(", ");
    let version = read(root, "proc/driver/nvidia/version");
    let driver = version.as_deref().and_then(|text| text.split_whitespace().find(|word| is_version(word)));
    match (names.is_empty(), driver) {
        (true, _) => None,
        (false, Some(driver)) => Some(format!("{names} (driver {driver})")),
        (false, None) => Some(names),
    }
}

/// `550.54.15`
fn is_version(word: &str) -> bool {
    word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// The SHA-256 of a file in hexadecimal, read in blocks; `None` where it is larger than `limit_bytes`.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256(path: &Path, limit_bytes: u64) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() > limit_bytes {
        return Ok(None);
    }
    let mut digest = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => break,
            bytes => digest.update(&block[..bytes]),
        }
    }
    Ok(Some(format!("{:x}", digest.finalize())))
}

/// Now, in UTC: `2026-11-20T17:40:00Z`.
pub fn utc_now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Days to a date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms" (civil_from_days), for days
/// since 1970.
fn utc(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March, so that the leap day is the last.
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("created");
        std::fs::write(path, text).expect("written");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
        assert!(utc_now().as_str() > "2026-01-01");
    }

    #[test]
    fn a_described_machine_is_recorded() {
        let root = tempfile::tempdir().expect("temporary folder");
        let root = root.path();
        let cpuinfo = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu sse2 avx2 avx512f fma nx\n";
        write(root, "proc/cpuinfo", cpuinfo);
        write(root, "proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");
        write(root, "proc/sys/kernel/osrelease", "6.1.0\n");
        write(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
        for gpu in ["0000:01", "0000:02"] {
            write(root, &format!("proc/driver/nvidia/gpus/{gpu}/information"), "Model: \t\t NVIDIA H200\nIRQ: 1\n");
        }
        let version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5\nGCC version: 12\n";
        write(root, "proc/driver/nvidia/version", version);
        let machine = machine_under(root, root);
        assert_eq!(machine.cpu, "Intel(R) Xeon(R)");
        assert_eq!(machine.features, ["sse2", "avx2", "avx512f", "fma"]);
        assert_eq!((machine.memory_bytes, machine.kernel.as_str()), (16 << 20, "6.1.0"));
        assert_eq!(machine.governor.as_deref(), Some("performance"));
        assert_eq!(machine.gpu.as_deref(), Some("2 x NVIDIA H200 (driver 550.54.15)"));
        assert!(machine.rustc.starts_with("rustc "), "{}", machine.rustc);
        assert!(machine.build_flags.contains("opt-level"), "{}", machine.build_flags);
        assert_eq!(machine.dirty.is_some(), machine.commit.is_some());
    }

    #[test]
    fn a_silent_machine_is_recorded_too() {
        let root = tempfile::tempdir().expect("temporary folder");
        let machine = machine_under(root.path(), root.path());
        assert!(machine.cpu.starts_with("unknown"));
        assert!(machine.cpus >= 1 && machine.features.is_empty());
        let told = (machine.gpu, machine.governor, machine.drive, machine.filesystem, machine.cpu_limit);
        assert_eq!(told, (None, None, None, None, None));
    }

    #[test]
    fn this_machine_is_recorded() {
        let machine = machine(&std::env::temp_dir());
        assert!(machine.memory_bytes > 0 || !cfg!(target_os = "linux"));
        assert!(!machine.kernel.is_empty() && !machine.isa.is_empty());
    }

    #[test]
    fn a_file_is_hashed_up_to_the_limit() {
        let folder = tempfile::tempdir().expect("temporary folder");
        write(folder.path(), "abc", "abc");
        let path = folder.path().join("abc");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path, 3).expect("read").as_deref(), Some(expected));
        assert_eq!(sha256(&path, 2).expect("read"), None);
        assert!(sha256(&folder.path().join("none"), 3).is_err());
    }
}
