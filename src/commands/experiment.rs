//! An experiment's file as plans: what `kiln bench --config` measures.
//!
//! In: the file. Out: a [`Run`] for each of its data sets, or everything that is wrong with it, before anything runs: what
//! the file alone tells, and what its data sets and indexes do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kiln_builder::{Index, IndexKind, IndexParams, Residency, Searcher};
use kiln_datasets::Dataset;
use kiln_eval::experiment::{At, BuildPoint, EngineSpec, Experiment, Located, Problems, SearchPlaces, read};
use kiln_eval::{Engine, IndexSpec, Plan, SearchGrid, check};
use kiln_kernels::Metric;
use serde_json::Value;

use super::build::{ParamArgs, describe};
use super::{UsageError, cache_dir, summary};

/// A data set with the plan for it.
pub struct Run {
    pub dataset: Dataset,
    pub plan: Plan,
    /// Threads that build and judge; `None`: all.
    pub threads: Option<usize>,
}

/// The runs of the experiment at `config`. `out` replaces the folder that it names.
///
/// # Errors
/// Everything that is wrong with it: a [`UsageError`].
pub fn runs_of(config: &Path, quick: bool, out: Option<&Path>, command: &str) -> Result<Vec<Run>, UsageError> {
    let wrong = |wrong: kiln_eval::experiment::BadExperiment| UsageError(wrong.to_string());
    let experiment = read(config, quick).map_err(wrong)?;
    let mut runs: Vec<Run> = Vec::with_capacity(experiment.datasets.len());
    for spec in &experiment.datasets {
        let Some(dataset) = opened(spec, &experiment.problems) else { continue };
        if runs.iter().any(|run| run.dataset.name == dataset.name) {
            let twice = format!("{} is named twice: its records would be mixed", dataset.name);
            experiment.problems.add(&spec.at, twice);
            continue;
        }
        tracing::info!("{}", summary(&dataset));
        let out = out_of(&experiment, out, &dataset.name);
        if let Some(plan) = plan_of(&experiment, spec, &dataset, out, command) {
            // Those that build and judge. The threads that search are the modes' own.
            let all = std::thread::available_parallelism().map_or(1, usize::from);
            runs.push(Run { dataset, plan, threads: Some(experiment.threads.unwrap_or(all)) });
        }
    }
    experiment.problems.outcome().map_err(wrong)?;
    Ok(runs)
}

fn opened(spec: &Located<String>, problems: &Problems) -> Option<Dataset> {
    Dataset::open(&spec.value, &cache_dir()).map_err(|error| problems.add(&spec.at, error.to_string())).ok()
}

fn out_of(experiment: &Experiment, given: Option<&Path>, name: &str) -> PathBuf {
    let folder = given.map(Path::to_path_buf).or_else(|| experiment.out.clone());
    match folder {
        None => PathBuf::from("kiln-runs").join(name),
        Some(folder) if experiment.datasets.len() > 1 => folder.join(name),
        Some(folder) => folder,
    }
}

/// The plan for one data set; `None` where something was wrong, which is then among the problems.
fn plan_of(
    experiment: &Experiment,
    spec: &Located<String>,
    dataset: &Dataset,
    out: PathBuf,
    command: &str,
) -> Option<Plan> {
    let problems = &experiment.problems;
    let Some(metric) = experiment.metric.as_ref().map(|metric| metric.value).or(dataset.metric) else {
        let why = "it does not say how its rows are compared: add metric = \"l2\", \"ip\" or \"cosine\"";
        problems.add(&spec.at, format!("{}: {why}", dataset.path.display()));
        return None;
    };
    let k = experiment.k.value;
    if let Some(truth) = dataset.truth.as_ref().filter(|truth| k > truth.depth()) {
        let depth = truth.depth();
        problems.add(
            &experiment.k.at,
            format!("{k} is beyond the ground truth of {}, which lists {depth}: use {depth} or less", dataset.name),
        );
        return None;
    }
    let before = problems.count();
    let mut engines = Vec::new();
    for engine in &experiment.engines {
        match engine {
            EngineSpec::Build { kind, points, search, places } => {
                for point in points {
                    let Some(params) = params_of(*kind, point, places, dataset, problems) else { continue };
                    if let IndexParams::IvfPq(params) = &params {
                        refuse_more_probes(search, places, params.nlist, &dataset.name, problems);
                    }
                    tracing::info!("{}", describe(&params));
                    engines.push(Engine::Kiln { index: IndexSpec::Build(params), search: search.clone() });
                }
            }
            EngineSpec::Open { path, search, places } => {
                let Some(searcher) = opened_index(path, dataset, metric, problems) else { continue };
                for (at, why) in places.foreign_to(searcher.kind()) {
                    problems.add(at, why);
                }
                if let Some(nlist) = searcher.nlist() {
                    refuse_more_probes(search, places, nlist, &dataset.name, problems);
                }
                engines.push(Engine::Kiln { index: IndexSpec::Open(path.value.clone()), search: search.clone() });
            }
            EngineSpec::Peers(peers) => engines.extend(peers.iter().cloned().map(Engine::Peer)),
        }
    }
    if problems.count() > before {
        return None;
    }
    let with_peers = engines.iter().any(|engine| matches!(engine, Engine::Peer(_)));
    let plan = Plan {
        out,
        command: command.to_string(),
        k,
        metric: Some(metric),
        engines,
        modes: experiment.modes.clone(),
        placements: experiment.placements.clone(),
        queries: experiment.queries,
        repeats: experiment.repeats,
        quick: experiment.quick,
        held_out: experiment.held_out,
        budget: experiment.budget,
        prune: experiment.prune,
        open_loop: experiment.open_loop.clone(),
        noop: if with_peers { noop() } else { None },
        seed: experiment.seed,
    };
    // What is left is of the data set as a whole: no queries, too much truth to compute, a folder of another run.
    match check(&plan, dataset) {
        Ok(()) => Some(plan),
        Err(error) => {
            problems.add(&spec.at, error.to_string());
            None
        }
    }
}

/// This program as the engine that does nothing.
fn noop() -> Option<Vec<String>> {
    let program = std::env::current_exe().ok()?;
    Some(vec![program.to_str()?.to_string(), "peer".to_string(), "--noop".to_string()])
}

/// Build parameters of a point of a grid, the others derived from the data.
fn params_of(
    kind: IndexKind,
    point: &BuildPoint,
    places: &SearchPlaces,
    dataset: &Dataset,
    problems: &Problems,
) -> Option<IndexParams> {
    let values: BTreeMap<String, Value> =
        point.iter().map(|(name, located)| (name.clone(), located.value.clone())).collect();
    let resolved = ParamArgs::of_names(&values).and_then(|args| args.resolve(kind, dataset.base.as_ref()));
    let wrong = |error: UsageError| {
        let message = as_keys(&error.0);
        // The message names the parameter that it is about first.
        let named = point.iter().filter_map(|(name, located)| Some((message.find(name.as_str())?, &located.at)));
        let at: &At = named.min_by_key(|(place, _)| *place).map_or(&places.engine, |(_, at)| at);
        problems.add(at, message);
    };
    resolved.map_err(wrong).ok()
}

/// A message about flags as one about keys: `--max-degree 1` as `max_degree 1`.
fn as_keys(message: &str) -> String {
    let mut keys = String::with_capacity(message.len());
    for (number, part) in message.split("--").enumerate() {
        let end = match number {
            0 => 0,
            _ => part.find(|c: char| !(c.is_ascii_lowercase() || c == '-')).unwrap_or(part.len()),
        };
        keys.push_str(&part[..end].replace('-', "_"));
        keys.push_str(&part[end..]);
    }
    keys
}

fn refuse_more_probes(search: &SearchGrid, places: &SearchPlaces, nlist: usize, name: &str, problems: &Problems) {
    let asked = search.nprobes.iter().find(|&&nprobe| nprobe > nlist);
    if let (Some(nprobe), Some(at)) = (asked, &places.nprobe) {
        problems.add(at, format!("{nprobe} is more than the {nlist} lists of an index of {name}: use {nlist} or less"));
    }
}

/// An index file that was built from this data set, opened from the drive to see what it is.
fn opened_index(path: &Located<PathBuf>, dataset: &Dataset, metric: Metric, problems: &Problems) -> Option<Searcher> {
    let searcher = match Index::open(&path.value, Residency::Ssd) {
        Ok(searcher) => searcher,
        Err(error) => {
            problems.add(&path.at, error.to_string());
            return None;
        }
    };
    let meta = searcher.meta();
    if meta.dataset_fingerprint != dataset.fingerprint || meta.metric != metric {
        let (found, asked) = (format!("{} ({})", meta.dataset, meta.metric), format!("{} ({metric})", dataset.name));
        problems.add(&path.at, format!("{}: it was built from {found}, not from {asked}", path.value.display()));
        return None;
    }
    Some(searcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_speak_of_keys() {
        assert_eq!(as_keys("--max-degree 1 is out of range"), "max_degree 1 is out of range");
        assert_eq!(
            as_keys("--m, --bits and --opq are of codes that --layout inline does not have"),
            "m, bits and opq are of codes that layout inline does not have"
        );
        assert_eq!(as_keys("nothing"), "nothing");
    }

    #[test]
    fn parameters_are_read_as_flags_are() {
        let of = |json: Value| {
            let values: BTreeMap<String, Value> = serde_json::from_value(json).expect("an object");
            ParamArgs::of_names(&values).map_err(|error| error.0)
        };
        let flags = |json| of(json).expect("flags");
        assert_eq!(flags(serde_json::json!({ "opq": false, "soar": false })), ParamArgs::default());
        assert_ne!(flags(serde_json::json!({ "opq": true })), ParamArgs::default());
        let graph =
            flags(serde_json::json!({ "max_degree": 32, "alpha": 1.5, "method": "insert", "layout": "inline" }));
        assert!(graph.any_of(IndexKind::Vamana) && !graph.any_of(IndexKind::IvfPq));
        let wrong = of(serde_json::json!({ "method": "by hand" })).expect_err("unknown");
        assert!(wrong.contains("by hand") && !wrong.starts_with("error"), "{wrong}");
    }
}
