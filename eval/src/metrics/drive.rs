//! What a setting asked of the drive.
//!
//! In: a [`SettingRecord`]. Out: pages, bytes and waiting a query, and how many passes did not begin as they should;
//! `None` for an index in memory, and in older records where a figure was not kept.

use super::{mean_of, stated};
use crate::conditions::began_warm;
use crate::record::{IoState, SettingRecord};

/// 4 KiB pages read a query; `None` for an index in memory.
pub fn pages_per_query(setting: &SettingRecord) -> Option<f64> {
    stated(setting, |s| s.pages).or_else(|| from_drive(setting).then(|| mean_of(&setting.answers.pages))?)
}

/// Bytes read a query; `None` for an index in memory.
pub fn bytes_per_query(setting: &SettingRecord) -> Option<f64> {
    let bytes = &setting.answers.bytes;
    let total = bytes.iter().map(|&b| b as f64).sum::<f64>();
    let counted = || (from_drive(setting) && !bytes.is_empty()).then(|| total / bytes.len() as f64);
    stated(setting, |s| s.bytes).or_else(counted)
}

/// Pages found in the index's own cache a query; `None` for an index in memory, and where they were not counted.
pub fn cache_hits_per_query(setting: &SettingRecord) -> Option<f64> {
    stated(setting, |s| s.cache_hits).or_else(|| mean_of(&setting.answers.cache_hits))
}

/// Microseconds a query waited for the drive; `None` for an index in memory, and where they were not measured.
pub fn io_wait_per_query(setting: &SettingRecord) -> Option<f64> {
    let waits = &setting.answers.io_wait_us;
    let total = waits.iter().map(|&us| f64::from(us)).sum::<f64>();
    stated(setting, |s| s.io_wait).or_else(|| (!waits.is_empty()).then(|| total / waits.len() as f64))
}

/// Bytes a query by the kernel's own count; `None` for an index in memory, and where the kernel does not tell.
pub fn kernel_bytes_per_query(setting: &SettingRecord) -> Option<f64> {
    let queries = setting.answers.distances.len();
    let counted = || setting.answers.kernel_bytes.filter(|_| queries > 0).map(|bytes| bytes as f64 / queries as f64);
    stated(setting, |s| s.kernel_bytes).or_else(counted)
}

/// Passes of a setting in state `cold` that did not begin cold: the system kept part of the file of `index_bytes` bytes
/// in its cache.
pub fn passes_begun_warm(setting: &SettingRecord, index_bytes: u64) -> usize {
    if setting.io_state != Some(IoState::Cold) {
        return 0;
    }
    setting.runs.iter().filter(|run| began_warm(run.cached_bytes, index_bytes)).count()
}

fn from_drive(setting: &SettingRecord) -> bool {
    setting.residency != "memory"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Answers, Mode, RunSample, Warmup};

    #[test]
    fn a_cold_pass_that_was_not_is_counted() {
        let run = |cached_bytes| RunSample { seconds: 1.0, turn: 0, latency_us: vec![], cached_bytes };
        let mut setting = SettingRecord {
            key: "s".into(),
            build_key: "b".into(),
            params: Default::default(),
            mode: Mode::Latency1,
            residency: "ssd".into(),
            io_state: Some(IoState::Cold),
            memory_budget: None,
            device: None,
            serving_bytes: None,
            k: 10,
            warmup: Warmup::default(),
            runs: vec![run(Some(4096)), run(Some(0)), run(None)],
            answers: Answers::default(),
            failure: None,
            skip: None,
            foreign: None,
        };
        assert_eq!(passes_begun_warm(&setting, 1 << 20), 1);
        assert_eq!(passes_begun_warm(&setting, 1 << 30), 0, "a trace");
        setting.io_state = Some(IoState::Warm);
        assert_eq!(passes_begun_warm(&setting, 1 << 20), 0, "nothing was to be dropped");
    }
}
