//! How to measure one setting again.
//!
//! In: a setting of a run. Out: a command line of `kiln bench` that measures it by the same rules and in the same place, or,
//! for what Kiln does not search itself, its parameters.

use kiln_eval::record::{BuildRecord, Mode, RunData, SettingRecord};

use crate::format;

/// The folder that commands write into: where the run itself is continued, nothing would be measured again.
const OUT: &str = "kiln-runs/again";

/// Where records say the demo's data set came from: what is measured where no data set is named.
const DEMO: &str = "embedded in the program";

/// The command, or the parameters of a setting of another library, or of one that was measured elsewhere.
pub fn copy_of(data: &RunData, build: &BuildRecord, setting: &SettingRecord) -> String {
    command(data, build, setting).unwrap_or_else(|| {
        let built = format::params(&build.params);
        let searched = format::params(&setting.params);
        [build.index.as_str(), &built, &searched]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    })
}

/// The command that measures a setting of Kiln's own indexes again; `None` of others. It measures `latency-1` along with any
/// other mode, since every run does.
pub fn command(data: &RunData, build: &BuildRecord, setting: &SettingRecord) -> Option<String> {
    // `kiln bench` hands out batches on one thread.
    let unasked = matches!(setting.mode, Mode::Batch { threads } if threads > 1);
    if !build.is_kilns() || unasked || setting.is_foreign() {
        return None;
    }
    let header = &data.header;
    let mut words: Vec<String> = vec!["kiln".into(), "bench".into()];
    let mut flag = |name: &str, value: &str| words.extend([format!("--{name}"), quoted(value)]);
    let embedded = header.dataset.path == DEMO;
    if !embedded {
        flag("dataset", &header.dataset.path);
    }
    flag("open", &build.path);
    for (name, value) in &setting.params {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        flag(&name.replace('_', "-"), &value);
    }
    flag("k", &setting.k.to_string());
    flag("metric", &header.dataset.metric);
    flag("queries", &header.dataset.queries.to_string());
    match setting.mode {
        Mode::Latency1 => flag("threads", "1"),
        Mode::Throughput { threads } | Mode::Batch { threads } => flag("threads", &threads.to_string()),
        Mode::BatchDevice { .. } => {
            flag("threads", "1");
            // It is named `cuda (...)` or `wgpu (...)`.
            if let Some((kind, _)) = setting.device.as_deref().and_then(|device| device.split_once(' ')) {
                flag("device", kind);
            }
        }
    }
    if setting.residency == "ssd" {
        flag("residency", "ssd");
        if let Some(state) = setting.io_state {
            flag("io-state", &state.name());
        }
        if let Some(bytes) = setting.memory_budget {
            flag("memory", &bytes.to_string());
        }
    }
    flag("out", OUT);
    match setting.mode {
        Mode::Batch { .. } => words.push("--batch".into()),
        Mode::BatchDevice { .. } => words.push("--batch-device".into()),
        Mode::Latency1 | Mode::Throughput { .. } => {}
    }
    if header.quick && !embedded {
        words.push("--quick".into());
    }
    Some(words.join(" "))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn of(data: &RunData, setting: &SettingRecord) -> String {
        let build = data.builds.iter().find(|build| build.key == setting.build_key).expect("built");
        copy_of(data, build, setting)
    }

    #[test]
    fn a_setting_of_our_own_is_a_command() {
        let mut data = fixture::run();
        let wanted = "kiln bench --dataset data/photosift-128-euclidean.hdf5 --open kiln-runs/indexes/0.kiln \
                      --search-list 10 --k 10 --metric l2 --queries 500 --threads 1 --out kiln-runs/again";
        assert_eq!(of(&data, &data.settings[0]), wanted);
        assert!(of(&data, &data.settings[2]).contains(" --threads 2 "), "throughput-2");
        data.header.quick = true;
        data.builds[0].path = "Größe's/0.kiln".into();
        let text = of(&data, &data.settings[0]);
        assert!(text.contains(r"--open 'Größe'\''s/0.kiln'") && text.ends_with(" --quick"), "{text}");
        data.header.dataset.path = DEMO.into();
        let text = of(&data, &data.settings[0]);
        assert!(!text.contains("--dataset") && !text.contains("--quick"), "the demo is quick by itself: {text}");
    }

    #[test]
    fn a_device_is_asked_by_its_kind() {
        let data = fixture::on_device();
        let setting = data.settings.iter().find(|s| s.mode.is_on_device()).expect("measured");
        let text = of(&data, setting);
        assert!(text.contains(" --threads 1 --device cuda --out ") && text.ends_with(" --batch-device"), "{text}");
    }

    #[test]
    fn the_place_on_the_drive_is_named() {
        let data = fixture::on_drive();
        let of_state = |name: &str| {
            let found = data.settings.iter().find(|s| s.io_state.is_some_and(|state| state.name() == name));
            of(&data, found.expect("measured"))
        };
        assert!(of_state("direct").contains("--residency ssd --io-state direct --memory 8388608 "));
        assert!(of_state("cold").contains("--residency ssd --io-state cold --out"));
    }

    #[test]
    fn of_others_the_parameters_are_told() {
        let imported = fixture::imported();
        let foreign = imported.settings.iter().find(|setting| setting.is_foreign()).expect("imported");
        assert!(of(&imported, foreign).starts_with("ivf-pq bits=4 m=64 nlist="), "{}", of(&imported, foreign));
        let mut data = fixture::run();
        data.builds[0].device = "vamana 1.2".into();
        assert_eq!(of(&data, &data.settings[0]), "vamana alpha=1.2 max_degree=32 method=partition search_list=10");
    }
}
