//! The tables of the page that stand on their own: figures at recall levels, failures, provenance.
//!
//! In: a [`Model`]. Out: serialisable rows for the template.

use kiln_eval::record::{Difficulty, RunHeader, Skip};
use serde::Serialize;

use crate::format;
use crate::model::{Curve, LEVELS, ModeView, Model, shorten};
use crate::table::{Cell, Table};

/// "QPS at recall ..." of one mode.
#[derive(Debug, Serialize)]
pub struct LevelTable {
    /// Name of the mode.
    pub mode: String,
    /// The mode in words.
    pub words: String,
    /// `.90`, `.95`, `.99`.
    pub levels: Vec<String>,
    /// The level of p99 and pages; empty where nobody reached one.
    pub focus: String,
    /// Whether single queries were timed.
    pub latency: bool,
    /// Whether any series reads pages.
    pub pages: bool,
    /// Best first; what was measured elsewhere last.
    pub rows: Vec<LevelRow>,
}

/// One series of a [`LevelTable`].
#[derive(Debug, Serialize)]
pub struct LevelRow {
    /// Position among the series: its colour.
    pub series: usize,
    /// Its name.
    pub name: String,
    /// QPS at each level, with the interval beneath.
    pub qps: Vec<Cell>,
    /// p99 at the focus level.
    pub p99: String,
    /// Build wall time.
    pub build: String,
    /// Peak memory of the build.
    pub peak: String,
    /// Bytes of the file for each vector.
    pub each: String,
    /// Pages a query at the focus level.
    pub pages: String,
    /// Measured elsewhere: shown last, and not ranked.
    pub foreign: bool,
    /// `recall:qps` of the frontier, for the threshold.
    pub frontier: String,
}

/// The level tables of all modes in which recall is known.
pub fn level_tables(model: &Model) -> Vec<LevelTable> {
    model.modes.iter().map(|mode| level_table(model, mode)).filter(|t| !t.rows.is_empty()).collect()
}

fn level_table(model: &Model, mode: &ModeView) -> LevelTable {
    let own: Vec<&Curve> = mode.curves.iter().filter(|c| !model.series[c.series].foreign).collect();
    let focus = ModeView::focus_of(&own).or_else(|| mode.focus());
    let rank_at = focus.unwrap_or(0.0);
    let mut curves: Vec<&Curve> = mode.curves.iter().filter(|c| !c.frontier.is_empty()).collect();
    let speed = |c: &Curve| c.qps_at(rank_at).map_or(0.0, |qps| qps.median);
    let foreign = |c: &Curve| model.series[c.series].foreign;
    curves
        .sort_by(|a, b| foreign(a).cmp(&foreign(b)).then(speed(b).total_cmp(&speed(a))).then(a.series.cmp(&b.series)));
    let rows = curves.into_iter().map(|curve| {
        let owner = &model.series[curve.series];
        let qps = LEVELS.iter().map(|&level| {
            let text = curve.at(level, |p| Some(p.qps.median)).map(|f| format::at_recall(f, "≥", format::number));
            let ends = curve.qps_at(level).map(format::ends);
            Cell { text: text.unwrap_or_else(|| "–".into()), sub: ends.unwrap_or_default() }
        });
        let at_focus = |figure: fn(&crate::model::Point) -> Option<f64>, show: fn(f64) -> String| {
            let read = focus.and_then(|level| curve.at(level, figure));
            read.map_or_else(|| "–".into(), |f| format::at_recall(f, "≤", show))
        };
        let points: Vec<String> = (curve.frontier.iter())
            .filter_map(|&i| Some(format!("{}:{}", curve.points[i].recall?, curve.points[i].qps.median)))
            .collect();
        LevelRow {
            series: curve.series,
            name: owner.name.clone(),
            qps: qps.collect(),
            p99: at_focus(|p| Some(p.latency?.p99), format::micros),
            build: format::known(owner.build.total_seconds, format::seconds),
            peak: format::known(owner.build.peak_rss_bytes as f64, format::bytes),
            each: format::known(model.bytes_per_vector(owner.build), |bytes| format!("{} B", format::number(bytes))),
            pages: at_focus(|p| p.pages, format::number),
            foreign: owner.foreign,
            frontier: points.join(" "),
        }
    });
    LevelTable {
        mode: mode.mode.name(),
        words: mode.words(),
        levels: LEVELS.iter().map(|l| format::level(*l)).collect(),
        focus: focus.map(format::level).unwrap_or_default(),
        latency: mode.has_latency(),
        pages: mode.curves.iter().flat_map(|c| &c.points).any(|p| p.pages.is_some()),
        rows: rows.collect(),
    }
}

/// What was measured, on what and when: under the title of a picture.
pub fn one_line(header: &RunHeader) -> String {
    let line = format!(
        "{}, k = {} · {} · {}",
        header.dataset.name,
        header.k,
        header.machine.cpu,
        header.created.get(..10).unwrap_or(&header.created)
    );
    shorten(&line, 120)
}

/// Settings without figures: what failed first, then what was left out on purpose.
pub fn failures(model: &Model) -> Table {
    let mut table = Table::new(&["Index", "Parameters", "Mode", "Fate", "Why"]);
    for fate in [None, Some(Skip::Pruned), Some(Skip::TimeBudget)] {
        let words = match fate {
            None => "failed",
            Some(Skip::Pruned) => "pruned after a probe",
            Some(Skip::TimeBudget) => "out of time",
        };
        for skipped in model.skipped.iter().filter(|skipped| skipped.setting.skip == fate) {
            table.row([
                skipped.name.clone(),
                format::params(&skipped.setting.params),
                skipped.setting.mode.name(),
                words.to_string(),
                skipped.reason.clone(),
            ]);
        }
    }
    table
}

/// Settings chosen by some of the queries, and what they are worth on those that were held out.
pub fn held_out(model: &Model) -> Table {
    let mut table = Table::new(&[
        "Index",
        "Mode",
        "Chosen for",
        "Parameters",
        "Recall where chosen",
        "Recall held out",
        "QPS",
        "p50 held out",
        "p99 held out",
    ]);
    for choice in kiln_eval::held_out::choices(model.data) {
        let Some(setting) = model.data.settings.iter().find(|setting| setting.key == choice.setting) else { continue };
        let owner = model.series.iter().find(|s| s.build.key == choice.build_key && s.holds(setting));
        let short = if choice.recall_held_out < choice.level { "⚠ below the level" } else { "" };
        table.row::<Cell>([
            owner.map_or(choice.build_key.clone(), |owner| owner.name.clone()).into(),
            choice.mode.into(),
            format::level(choice.level).into(),
            format::params(&setting.params).into(),
            format::recall(choice.recall_tuned).into(),
            (format::recall(choice.recall_held_out), short.to_string()).into(),
            format::number(choice.qps).into(),
            format::maybe(choice.latency_us_held_out.map(|(p50, _)| p50), format::micros).into(),
            format::maybe(choice.latency_us_held_out.map(|(_, p99)| p99), format::micros).into(),
        ]);
    }
    table
}

/// One setting measured against itself, and what that says; without rows where nobody did.
pub fn noise(header: &RunHeader) -> Table {
    let mut table = Table::new(&["Setting", "Mode", "Passes", "Ratio of halves", "95% interval", "Spread", "Verdict"]);
    if let Some(check) = &header.noise
        && let Some(noise) = check.noise()
    {
        table.row([
            format!("{} {}", check.index, format::params(&check.params)).trim_end().to_string(),
            check.mode.clone(),
            format!("{} and {}", check.first.len(), check.second.len()),
            format!("{:.3}", noise.ratio),
            format!("{:.3} to {:.3}", noise.lo, noise.hi),
            format!("{:.1}%", 100.0 * noise.spread),
            if noise.noisy { "noisy: read small differences with care" } else { "quiet" }.to_string(),
        ]);
    }
    table
}

/// The indexes with all their parameters.
pub fn indexes(model: &Model) -> Table {
    let mut table = Table::new(&["Index", "Parameters", "Stored as", "Device", "Threads", "File"]);
    for (build, name) in model.data.builds.iter().zip(&model.build_names) {
        table.row([
            name.clone(),
            format::params(&build.params),
            if build.dtype.is_empty() { "–".into() } else { build.dtype.clone() },
            build.device.clone(),
            build.threads.to_string(),
            build.path.clone(),
        ]);
    }
    table
}

/// Machine, binary and data: name and value, unknown values left out.
pub fn provenance(header: &RunHeader) -> Table {
    let machine = &header.machine;
    let data = &header.dataset;
    let size = |bytes: u64| format::bytes(bytes as f64);
    let source = machine.commit.as_ref().map(|commit| match machine.dirty {
        Some(true) => format!("{commit}, with local changes"),
        _ => commit.clone(),
    });
    let ceiling = header.drive_ceiling.as_ref().map(|ceiling| {
        let reads = format::number(ceiling.reads_per_second);
        format!(
            "{reads} random reads of 4 KiB a second at depth {} ({}, {})",
            ceiling.depth, ceiling.tool, ceiling.file
        )
    });
    let noise = header.noise.as_ref().and_then(|check| Some((check, check.noise()?)));
    let noise = noise.map(|(check, noise)| {
        let params = format::params(&check.params);
        format!("{} {params} ({}), {noise}", check.index, check.mode)
    });
    let held_out =
        header.held_out.map(|held| format!("{:.0}% of the queries choose no setting", 100.0 * held.fraction));
    let overhead = header.peer_overhead.as_ref().map(|overhead| {
        let (us, rate) = (overhead.latency_us, format::number(overhead.batch_qps));
        format!("an engine that does nothing takes {us:.3} us a query, and answers {rate} queries/s in one call")
    });
    let lines: [(&str, Option<String>); 25] = [
        ("Measured", Some(header.created.clone())),
        ("Data set", Some(format!("{} from {}", data.name, data.path))),
        (
            "Shape",
            Some(format!(
                "{} x {} {}, {}, {}, truth of depth {}",
                format::number(data.rows as f64),
                data.dim,
                data.dtype,
                data.metric,
                format::count(data.queries, "query", "queries"),
                data.truth_depth
            )),
        ),
        ("Fingerprint", Some(data.fingerprint.clone())),
        ("SHA-256", data.sha256.clone()),
        ("Difficulty", data.difficulty.as_ref().and_then(difficulty)),
        ("CPU", Some(machine.cpu.clone())),
        // A run of imported settings alone was measured on no machine that is known.
        ("Logical CPUs", Some(machine.cpus).filter(|&n| n > 0).map(|n| n.to_string())),
        ("CPU limit", machine.cpu_limit.map(|l| format!("{} CPUs (cgroup)", format::number(l)))),
        ("Kernels use", Some(machine.isa.clone()).filter(|isa| !isa.is_empty())),
        ("CPU features", Some(machine.features.join(" ")).filter(|f| !f.is_empty())),
        ("Governor", machine.governor.clone()),
        ("Memory", Some(machine.memory_bytes).filter(|&bytes| bytes > 0).map(size)),
        ("Memory limit", machine.memory_limit_bytes.map(|l| format!("{} (cgroup)", size(l)))),
        ("GPU", machine.gpu.clone()),
        ("System", Some(format!("kernel {}", machine.kernel)).filter(|_| !machine.kernel.is_empty())),
        ("Filesystem", machine.filesystem.clone()),
        ("Drive", machine.drive.clone()),
        ("Drive's ceiling", ceiling),
        ("Noise check", noise),
        ("Held out", held_out),
        ("Protocol of peers", overhead),
        ("Kiln", Some(machine.kiln_version.clone())),
        ("Commit", source),
        ("Compiler", Some(format!("{}; {}", machine.rustc, machine.build_flags)).filter(|_| !machine.rustc.is_empty())),
    ];
    let mut table = Table::new(&["What", "Value"]);
    for (name, value) in lines {
        if let Some(value) = value {
            table.row([name.to_string(), value]);
        }
    }
    table
}

/// `local intrinsic dimension 21.3 around queries, 20.8 around rows; relative contrast 2.41; ...`; `None` where nothing is
/// known.
fn difficulty(data: &Difficulty) -> Option<String> {
    let lid = match (data.lid_queries, data.lid_rows) {
        (Some(queries), Some(rows)) => {
            Some(format!("local intrinsic dimension {queries:.1} around queries, {rows:.1} around rows"))
        }
        _ => None,
    };
    let contrast = data.relative_contrast.map(|contrast| format!("relative contrast {contrast:.2}"));
    let shift = data.shift.map(|shift| {
        let words = if shift.is_detected() { "queries lie elsewhere than rows" } else { "no shift of queries found" };
        format!("{words} (Kolmogorov-Smirnov {:.3}, p {:.3})", shift.statistic, shift.p_value)
    });
    let known: Vec<String> = [lid, contrast, shift].into_iter().flatten().collect();
    let sample = format!("from {} queries and {} rows", data.queries, data.rows);
    (!known.is_empty()).then(|| format!("{}; {sample}", known.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn level_tables_rank_by_the_focus_level_and_show_pages_where_any_were_read() {
        let data = fixture::eventful();
        let tables = level_tables(&Model::new(&data));
        let modes: Vec<(&str, bool)> = tables.iter().map(|t| (t.mode.as_str(), t.pages)).collect();
        assert_eq!(modes, [("latency-1", true), ("throughput-1", false), ("throughput-2", true)]);
        let names: Vec<&str> = tables[0].rows.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "vamana max_degree=48 (memory)",
                "vamana max_degree=32 (memory)",
                "ivf-pq (memory)",
                "vamana max_degree=32 (ssd)"
            ]
        );
        assert_eq!(tables[0].focus, ".95");
        assert_eq!(tables[0].rows[0].pages, "–");
        assert_ne!(tables[0].rows[3].pages, "–");
    }

    #[test]
    fn provenance_leaves_unknown_values_out() {
        let table = provenance(&fixture::run().header);
        let names: Vec<&str> = table.rows.iter().map(|row| row[0].text.as_str()).collect();
        assert!(names.contains(&"CPU") && !names.contains(&"GPU") && !names.contains(&"Governor"));
    }
}
