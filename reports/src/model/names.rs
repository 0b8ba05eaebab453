//! Names of builds and series.
//!
//! In: the records. Out: names that are unique in the run and no longer than they must be.

use kiln_eval::record::{BuildRecord, IoState, RunData, SettingRecord};

use super::Series;
use crate::format;

/// A name for each build, no two alike: the kind, and what tells it from others of that kind.
pub(super) fn name_builds(builds: &[BuildRecord]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for build in builds {
        let kin = || builds.iter().filter(|b| b.index == build.index);
        let differing = (build.params.iter()).filter(|(name, value)| kin().any(|b| b.params.get(*name) != Some(value)));
        let params = format::params(differing);
        let mut name = build.index.clone();
        if !params.is_empty() {
            name = format!("{name} {params}");
        }
        if kin().any(|b| b.device != build.device) {
            name = format!("{name} on {}", build.device);
        }
        name = shorten(&name, 60);
        let mut copies = 1;
        let mut unique = name.clone();
        while names.contains(&unique) {
            copies += 1;
            unique = format!("{name} #{copies}");
        }
        names.push(unique);
    }
    names
}

/// A series for each index and each place it resided in; the place is named where the run has several.
pub(super) fn name_series<'a>(data: &'a RunData, names: &[String]) -> Vec<Series<'a>> {
    let several = places(data.settings.iter()).len() > 1;
    let mut series: Vec<Series> = Vec::new();
    for (build_index, build) in data.builds.iter().enumerate() {
        let mut searched = places(data.settings.iter().filter(|s| s.build_key == build.key));
        if searched.is_empty() {
            searched.push(("", None, None));
        }
        for place @ (residency, io_state, memory_budget) in searched {
            let mut name = names[build_index].clone();
            if several && !residency.is_empty() {
                name = format!("{name} ({})", place_words(place));
            }
            let mut of_build = data.settings.iter().filter(|s| s.build_key == build.key);
            let foreign = of_build.any(SettingRecord::is_foreign);
            if foreign {
                name = format!("{name} [other hardware]");
            }
            series.push(Series { build_index, build, residency, io_state, memory_budget, name, foreign });
        }
    }
    series
}

/// Residency, what reads passed through, and the memory allowed.
type Place<'a> = (&'a str, Option<IoState>, Option<u64>);

/// The places of some settings, each once, in order of first appearance.
fn places<'a>(settings: impl Iterator<Item = &'a SettingRecord>) -> Vec<Place<'a>> {
    let mut places: Vec<Place> = Vec::new();
    for setting in settings {
        let place = (setting.residency.as_str(), setting.io_state, setting.memory_budget);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// `memory`, `ssd direct`, `ssd cold, 64 MiB`.
fn place_words((residency, io_state, memory_budget): Place) -> String {
    let state = io_state.map_or_else(String::new, |state| format!(" {}", state_words(state)));
    let memory = memory_budget.map_or_else(String::new, |bytes| format!(", {}", format::bytes_tick(bytes as f64)));
    format!("{residency}{state}{memory}")
}

/// `direct`, `cold`, `warm`, `capped at 256 MiB`.
pub fn state_words(state: IoState) -> String {
    match state {
        IoState::Capped { bytes } => format!("capped at {}", format::bytes_tick(bytes as f64)),
        state => state.name(),
    }
}

/// At most `limit` characters, the last an ellipsis where some were cut.
pub fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_string();
    }
    let mut short: String = text.chars().take(limit - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use crate::fixture;

    #[test]
    fn places_are_named_by_state_and_memory() {
        let data = fixture::on_drive();
        let model = crate::model::Model::new(&data);
        let names: Vec<String> = model.series.iter().map(|s| s.name.replace('\u{a0}', " ")).collect();
        for name in ["vamana (memory)", "vamana (ssd direct, 64 MiB)", "vamana (ssd cold)", "vamana (ssd warm)"] {
            assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
        }
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn builds_of_a_kind_are_named_by_what_differs() {
        let mut data = fixture::run();
        let mut twin = data.builds[0].clone();
        twin.key = "twin".into();
        twin.params.insert("max_degree".into(), serde_json::json!(64));
        data.builds.push(twin.clone());
        twin.key = "clone".into();
        data.builds.push(twin);
        let model = crate::model::Model::new(&data);
        let names: Vec<&str> = model.series.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["vamana max_degree=32", "ivf-pq", "vamana max_degree=64", "vamana max_degree=64 #2"]);
    }
}
