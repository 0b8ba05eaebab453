//! The most that a drive gives: 4 KiB random reads of one file, past the page cache, 64 in flight.
//!
//! In: a file on the drive. Out: a [`DriveCeiling`]. fio measures where it is installed; else threads of `pread`, one a
//! read in flight, which on a fast drive cost more processor than fio does and so tell less than the drive can.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::record::DriveCeiling;

const PAGE: usize = 4096;
/// Reads in flight: as deep as a common SSD's queue has to be before it gives all it can.
const DEPTH: usize = 64;
/// Seconds until counting begins, and of counting: behind a virtual drive the host reads the file in meanwhile.
const RAMP_SECONDS: f64 = 1.0;
const MEASURED_SECONDS: f64 = 1.5;
/// What fio may read by, best first.
const FIO_ENGINES: [&str; 2] = ["io_uring", "libaio"];

/// Measures the drive below the file at `path`; a couple of seconds.
///
/// # Errors
/// In words, when it cannot be read past the page cache.
pub fn drive_ceiling(path: &Path) -> Result<DriveCeiling, String> {
    for engine in FIO_ENGINES {
        match by_fio(path, engine) {
            Ok(ceiling) => return Ok(ceiling),
            Err(why) => tracing::debug!("fio, {engine}: {why}"),
        }
    }
    by_threads(path, RAMP_SECONDS, MEASURED_SECONDS)
}

fn by_fio(path: &Path, engine: &str) -> Result<DriveCeiling, String> {
    // A colon would begin the next file's name.
    let file = path.display().to_string().replace(':', "\\:");
    let output = Command::new("fio")
        .args(["--name=ceiling", "--readonly", "--rw=randread", "--bs=4k", "--direct=1", "--norandommap"])
        .args(["--time_based", "--output-format=json"])
        .args([format!("--filename={file}"), format!("--ioengine={engine}"), format!("--iodepth={DEPTH}")])
        .args([format!("--ramp_time={RAMP_SECONDS}s"), format!("--runtime={}ms", MEASURED_SECONDS * 1e3)])
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_string());
    }
    let (version, reads_per_second) = fio_rate(&String::from_utf8_lossy(&output.stdout))?;
    Ok(DriveCeiling {
        reads_per_second,
        depth: DEPTH,
        tool: format!("{version}, {engine}"),
        file: path.display().to_string(),
    })
}

/// fio's version and reads a second in its JSON, which lines of plain text may precede.
fn fio_rate(output: &str) -> Result<(String, f64), String> {
    let json = output.find('{').map(|start| &output[start..]).ok_or("it printed no JSON")?;
    let told: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let job = &told["jobs"][0];
    if job["error"] != 0 {
        return Err(format!("its job ended with error {}", job["error"]));
    }
    let rate = job["read"]["iops"].as_f64().filter(|&rate| rate > 0.0).ok_or("it counted no reads")?;
    Ok((told["fio version"].as_str().unwrap_or("fio").to_string(), rate))
}

/// As fio measures it, by a thread of `pread` for each read in flight.
fn by_threads(path: &Path, ramp_seconds: f64, seconds: f64) -> Result<DriveCeiling, String> {
    let file = open_direct(path).map_err(|error| format!("it cannot be opened past the page cache: {error}"))?;
    let pages = file.metadata().map_err(|error| error.to_string())?.len() / PAGE as u64;
    if pages == 0 {
        return Err("it is shorter than a page".into());
    }
    let (file, start) = (&file, &Barrier::new(DEPTH));
    let counted: Vec<Result<u64, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..DEPTH)
            .map(|thread| {
                scope.spawn(move || {
                    let mut rng = ChaCha8Rng::seed_from_u64(thread as u64);
                    let mut buffer = vec![0u8; 2 * PAGE];
                    let aligned = buffer.as_ptr().align_offset(PAGE);
                    let page = &mut buffer[aligned..aligned + PAGE];
                    start.wait();
                    let from = Instant::now() + Duration::from_secs_f64(ramp_seconds);
                    let until = from + Duration::from_secs_f64(seconds);
                    let mut reads = 0;
                    loop {
                        let offset = rng.random_range(0..pages) * PAGE as u64;
                        file.read_exact_at(page, offset).map_err(|error| error.to_string())?;
                        match Instant::now() {
                            now if now >= until => return Ok(reads),
                            now if now >= from => reads += 1,
                            _ => {}
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    let reads: u64 = counted.into_iter().sum::<Result<u64, String>>()?;
    Ok(DriveCeiling {
        reads_per_second: reads as f64 / seconds,
        depth: DEPTH,
        tool: format!("kiln, {DEPTH} threads of pread"),
        file: path.display().to_string(),
    })
}

/// A file whose reads pass the page cache by.
#[cfg(target_os = "linux")]
pub(crate) fn open_direct(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// A file whose reads pass the page cache by: elsewhere than on Linux there is none.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open_direct(_path: &Path) -> std::io::Result<File> {
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fios_rate_is_found_behind_its_chatter() {
        let told = r#"fio: this platform does not support process shared mutexes
            {"fio version": "fio-3.33", "jobs": [{"error": 0, "read": {"iops": 81234.5}}]}"#;
        assert_eq!(fio_rate(told), Ok(("fio-3.33".to_string(), 81234.5)));
        for wrong in ["", "{}", r#"{"jobs": [{"error": 38, "read": {"iops": 0.0}}]}"#] {
            assert!(fio_rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn threads_count_what_they_read() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 64 * PAGE]).expect("written");
        if let Err(error) = open_direct(&path) {
            eprintln!("SKIPPED: {}: no O_DIRECT here: {error}", path.display());
            return;
        }
        let ceiling = by_threads(&path, 0.02, 0.1).expect("measured");
        assert!(ceiling.reads_per_second > 100.0 && ceiling.depth == 64, "{ceiling:?}");
        assert!(ceiling.tool.contains("pread") && ceiling.file.ends_with("file"));

        std::fs::write(&path, "short").expect("written");
        assert!(by_threads(&path, 0.0, 0.01).is_err_and(|why| why.contains("shorter")));
        assert!(by_threads(&folder.path().join("none"), 0.0, 0.01).is_err());
    }
}
