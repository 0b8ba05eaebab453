//! Names of builds and series.
//!
//! In: the records. Out: names that are unique in the run and no longer than they must be.

use std::collections::BTreeSet;

use kiln_eval::record::{BuildRecord, RunData};

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
    let residencies: BTreeSet<&str> = data.settings.iter().map(|s| s.residency.as_str()).collect();
    let mut series: Vec<Series> = Vec::new();
    for (build_index, build) in data.builds.iter().enumerate() {
        let mut searched: Vec<&str> = Vec::new();
        for setting in data.settings.iter().filter(|s| s.build_key == build.key) {
            if !searched.contains(&setting.residency.as_str()) {
                searched.push(&setting.residency);
            }
        }
        if searched.is_empty() {
            searched.push("");
        }
        for residency in searched {
            let mut name = names[build_index].clone();
            if residencies.len() > 1 && !residency.is_empty() {
                name = format!("{name} ({residency})");
            }
            series.push(Series { build_index, build, residency, name });
        }
    }
    series
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
